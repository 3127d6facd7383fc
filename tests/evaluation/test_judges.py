from __future__ import annotations

import pytest
import torch

from ira.evaluation.judges import median_pitch, nearest_own_voice, open_recogniser, recognise, voice_statistics


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


def test_loudness_and_silence_around_it_are_no_part_of_a_voice():
    clip = voiced(120.0)
    padded = torch.cat([torch.zeros(1, 12_000), clip, torch.zeros(1, 12_000)], dim=1)
    assert torch.allclose(voice_statistics(clip), voice_statistics(clip / 4), atol=0.05)
    assert float((voice_statistics(clip) - voice_statistics(padded)).abs().mean()) < 0.1
    assert torch.isfinite(voice_statistics(torch.zeros(1, 24_000))).all()


def test_a_clip_is_nearest_to_the_other_recordings_of_its_own_speaker():
    clips = [voiced(100.0, seed=0), voiced(103.0, seed=1), voiced(220.0, bright=0.2), voiced(226.0, bright=0.2, seed=3)]
    voices = [voice_statistics(clip) for clip in clips]
    speakers = ["a", "a", "b", "b"]
    assert nearest_own_voice(voices, voices, speakers) == [True] * 4
    assert nearest_own_voice(voices[::-1], voices, speakers) == [False] * 4


def test_voices_without_another_recording_or_without_a_name_are_not_judged():
    voices = [voice_statistics(voiced(100.0 + 20 * i)) for i in range(4)]
    assert len(nearest_own_voice(voices, voices, ["a", "a", "b", ""])) == 2
    assert nearest_own_voice(voices, voices, ["a"] * 4) == []


def test_what_is_heard_does_not_depend_on_what_came_before():
    recogniser = open_recogniser()
    clip = voiced(120.0, seconds=0.3, bright=0.1)
    first = recognise(recogniser, clip)
    recognise(recogniser, 0.01 * voiced(300.0, seconds=0.2))
    assert recognise(recogniser, clip) == recognise(open_recogniser(), clip) == first
    assert isinstance(recognise(recogniser, torch.zeros(1, 2400)), str)
