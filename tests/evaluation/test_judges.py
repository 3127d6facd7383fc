from __future__ import annotations

import pytest
import torch

from ira.evaluation import judges
from ira.evaluation.judges import (
    error_rate,
    median_pitch,
    nearest_voices,
    open_recogniser,
    own_voice_share,
    recognise,
    voice_statistics,
)


def voiced(hertz: float, seconds: float = 1.0, bright: float = 0.0, seed: int = 0) -> torch.Tensor:
    """A buzz [1, N] with a little noise."""
    time = torch.arange(int(seconds * 24_000)) / 24_000
    noise = torch.randn(len(time), generator=torch.Generator().manual_seed(seed))
    return (0.3 * torch.sin(6.2832 * hertz * time).sign() + (0.01 + bright) * noise)[None]


@pytest.mark.parametrize("hertz", [90.0, 150.0, 220.0, 350.0])
def test_the_pitch_of_a_buzz_is_measured(hertz: float):
    assert median_pitch(voiced(hertz)) == pytest.approx(hertz, rel=0.02)


def test_noise_silence_and_a_moment_have_no_pitch():
    noise = torch.randn(1, 24_000, generator=torch.Generator().manual_seed(0))
    assert median_pitch(noise) is None
    assert median_pitch(torch.zeros(1, 24_000)) is None
    assert median_pitch(torch.zeros(1, 100)) is None


def person(hertz: float, formant: float, seed: int = 0) -> torch.Tensor:
    """A buzz through a resonance that wanders a little, as syllables make it: [1, N]."""
    buzz = voiced(hertz, bright=0.02, seed=seed)[0]
    time = torch.arange(240) / 24_000
    sweep = [formant * (1 + 0.2 * k) for k in torch.rand(5, generator=torch.Generator().manual_seed(seed)).tolist()]
    rings = [torch.exp(-400 * time) * torch.sin(6.2832 * f * time) for f in sweep]
    pairs = zip(buzz.chunk(5), rings, strict=True)
    parts = [torch.nn.functional.conv1d(part[None, None], ring.flip(0)[None, None])[0] for part, ring in pairs]
    sound = torch.cat(parts, dim=1)
    return 0.5 * sound / sound.abs().max()


PEOPLE = {"a": (100.0, 600.0), "b": (130.0, 1200.0), "c": (210.0, 2400.0)}
SPEAKERS = [name for name in PEOPLE for _ in range(3)]


@pytest.fixture(scope="module")
def clips() -> list[torch.Tensor]:
    return [person(*PEOPLE[name], seed=seed) for seed, name in enumerate(SPEAKERS)]


def test_loudness_and_silence_around_it_are_no_part_of_a_voice():
    clip = person(120.0, 900.0)
    padded = torch.cat([torch.zeros(1, 12_000), clip, torch.zeros(1, 12_000)], dim=1)
    one, quiet, later = voice_statistics(clip), voice_statistics(clip / 4), voice_statistics(padded)
    assert torch.allclose(one.mean, quiet.mean, atol=0.05) and torch.allclose(one.mean, later.mean, atol=0.3)
    assert one.pitch == quiet.pitch == pytest.approx(torch.tensor(120.0).log().item(), abs=0.02)
    assert torch.isfinite(voice_statistics(torch.zeros(1, 24_000)).mean).all()


def test_a_clip_is_nearest_to_the_other_recordings_of_its_own_speaker(clips: list[torch.Tensor]):
    voices = [voice_statistics(clip) for clip in clips]
    assert nearest_voices(voices, voices, SPEAKERS) == SPEAKERS
    assert nearest_voices(voices[::-1], voices, SPEAKERS) == SPEAKERS[::-1]


def test_what_is_done_to_every_clip_is_no_voice(clips: list[torch.Tensor]):
    voices = [voice_statistics(clip) for clip in clips]
    dull = [voice_statistics(torch.nn.functional.avg_pool1d(clip[None], 3, 1, 1)[0]) for clip in clips]
    assert nearest_voices(dull, voices, SPEAKERS) == SPEAKERS


def test_a_clip_without_sound_is_near_to_nobody(clips: list[torch.Tensor]):
    voices = [voice_statistics(clip) for clip in clips]
    told = nearest_voices([voice_statistics(torch.zeros(1, 0)), *voices[1:]], voices, SPEAKERS)
    assert told == ["", *SPEAKERS[1:]]


def test_voices_without_another_recording_or_without_a_name_are_not_judged(clips: list[torch.Tensor]):
    voices = [voice_statistics(clip) for clip in (clips[0], clips[1], clips[3], clips[6])]
    assert nearest_voices(voices, voices, ["a", "a", "b", ""])[2:] == [None, None]
    assert nearest_voices(voices, voices, ["a"] * 4) == [None] * 4
    further = [("b", voice_statistics(clips[4]))]
    assert nearest_voices(voices, voices, ["a", "a", "b", ""], further) == ["a", "a", "b", None]


def test_own_voice_share_judges_voices_with_one_recording_too(clips: list[torch.Tensor]):
    spoken, said = [clips[1], clips[4], clips[7]], [clips[0], clips[3], clips[6]]
    assert own_voice_share(spoken, said, ["a", "b", "c"]) == 1.0
    assert own_voice_share(spoken[1:] + spoken[:1], said, ["a", "b", "c"]) == 0.0
    assert own_voice_share(spoken, said, ["a"] * 3) is None


def test_error_rate_is_that_of_what_is_heard_and_none_without_a_recogniser(monkeypatch: pytest.MonkeyPatch):
    monkeypatch.setattr(judges, "recognise", lambda *_: "four")
    assert error_rate(["four", "five"], [torch.zeros(1, 10)] * 2) == 3 / 8
    monkeypatch.setattr(judges.importlib.util, "find_spec", lambda name: None if name == "pocketsphinx" else 1)
    assert error_rate(["four"], [torch.zeros(1, 10)]) is None


def test_what_is_heard_does_not_depend_on_what_came_before():
    recogniser = open_recogniser()
    clip = voiced(120.0, seconds=0.3, bright=0.1)
    first = recognise(recogniser, clip)
    recognise(recogniser, 0.01 * voiced(300.0, seconds=0.2))
    assert recognise(recogniser, clip) == recognise(open_recogniser(), clip) == first
    assert isinstance(recognise(recogniser, torch.zeros(1, 2400)), str)
    assert recognise(recogniser, torch.zeros(1, 0)) == ""
