from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import replace
from pathlib import Path
from types import SimpleNamespace

import pytest
import torch

from ira.data.manifest import Row
from ira.errors import InputError
from ira.evaluation.control import DESCRIPTIONS, measure_control
from ira.inference.pipeline import SpeakRow
from ira.inference.spoken import NoSound, Spoken

ROW = Row(None, "one two", "", None, "", "en", "", "", "", None, "test", 7, Path("test.json"))


def buzz(hertz: float, seconds: float) -> Spoken:
    time = torch.arange(int(seconds * 24_000)) / 24_000
    sound = 0.3 * torch.sin(6.2832 * hertz * time).sign()[None]
    return Spoken(torch.nn.functional.pad(sound, (12_000, 0)), torch.zeros(1, 1), True, 1, "one two")


def pipeline(voice: Callable[[str], Spoken | InputError]) -> SimpleNamespace:
    def speak_batch(rows: Sequence[SpeakRow]) -> list[Spoken | InputError]:
        return [voice(str(row.voice)) for row in rows]

    return SimpleNamespace(speak_batch=speak_batch)


def obedient(words: str) -> Spoken:
    hertz = (210 if "woman" in words else 120) * (0.8 if "low" in words and "slow" not in words else 1.0)
    return buzz(hertz, 1.0 if "slow" in words else 0.6)


def measure(voice: Callable[[str], Spoken | InputError], keep: Path | None = None):
    return measure_control(pipeline(voice), [ROW, replace(ROW, number=8)], lambda _: None, keep)  # type: ignore[arg-type]


def test_an_obedient_voice_is_right_in_everything(tmp_path: Path):
    measured, found = measure(obedient, tmp_path)
    assert measured == 2
    assert [found.figures[kind] for kind in ("gender", "pitch", "pace")] == [1.0, 1.0, 1.0]
    assert [found.figures[f"{kind}_clips"] for kind in ("gender", "pitch", "pace")] == [4, 4, 4]
    assert found.figures["gender_chance"] == 0.5
    assert len(found.sentences) == 20 and found.sentences[0]["description"] == "a man"
    assert found.sentences[0]["pitch_hz"] == pytest.approx(120, rel=0.03)
    assert len(list(tmp_path.glob("*.wav"))) == 20


def test_one_voice_for_all_words_is_right_by_half_at_best():
    figures = measure(lambda _: buzz(120, 0.6))[1].figures
    assert (figures["gender"], figures["gender_man"], figures["gender_woman"]) == (0.5, 1.0, 0.0)
    assert figures["pitch"] == figures["pace"] == 0.0


def test_silence_before_speech_is_not_slow_and_no_sound_is_not_obeyed():
    def late(words: str) -> Spoken:
        spoken = buzz(120, 0.6)
        return replace(spoken, waveform=torch.nn.functional.pad(spoken.waveform, (24_000 * ("slow" in words), 0)))

    assert measure(late)[1].figures["pace"] == 0.0
    mute = measure(lambda _: NoSound("nothing"))[1].figures
    assert mute["gender"] == mute["pitch"] == mute["pace"] == 0.0


def test_a_sentence_that_is_refused_is_not_counted():
    measured, found = measure(lambda _: InputError("no such voice"))
    assert measured == 0 and found.figures["gender"] is None and found.figures["gender_clips"] == 0


def test_there_are_ten_descriptions():
    assert len(set(DESCRIPTIONS.values())) == 10
    assert DESCRIPTIONS["woman", "slow"] == "a woman speaking slowly"
