from __future__ import annotations

from dataclasses import replace
from pathlib import Path

import pytest
import torch

from ira.data.manifest import Row
from ira.evaluation.judges import VoiceStatistics
from ira.evaluation.speak import Judged, _found

BLANK = Row(None, "", "", None, "", "en", "", "", "", None, "test", 0, Path("test.json"))


def said(number: int, speaker: str = "a", language: str = "en", heard: str = "abcde", **other: object) -> Judged:
    """A sentence of ten letters in a voice of its own; the codec's copy and the recording are heard rightly."""
    row = replace(BLANK, text="abcde fghi", speaker=speaker, language=language, number=number)
    voice = VoiceStatistics(100, torch.full((15,), float(ord(speaker))), torch.eye(15), None)
    right = {"recording": "abcde fghi", "codec": "abcde fghi", "spoken": heard}
    seconds = {"recording": 1.0, "codec": 1.0, "spoken": 2.0}
    one = Judged(row, row.text, right, dict.fromkeys(right, voice), seconds, True, [], 1, 2.0, 2.0)
    return replace(one, **other)


def test_only_english_is_read_by_the_recogniser_and_all_counts_for_the_rest():
    figures = _found([said(0), said(1, language="de", ended=False)], []).figures
    assert figures["cer_clips"] == 1 and figures["runaway"] == 0.5
    assert figures["cer_codec"] == 0 and figures["cer_spoken"] == 0.5
    assert figures["cer_added_points"] == pytest.approx(50) == figures["cer_added_low"]


def test_without_english_there_is_no_error_rate():
    figures = _found([said(0, language="nl")], []).figures
    assert figures["cer_clips"] == 0
    assert figures["cer_spoken"] is figures["cer_added_points"] is figures["cer_added_high"] is None


def test_too_little_sound_is_empty_and_has_no_rate():
    short = {"recording": 1.0, "codec": 1.0, "spoken": 0.18}
    figures = _found([said(0, seconds=short), said(1), said(2, faults=["loop"]), said(3)], []).figures
    assert figures["empty"] == 0.25 and figures["faulty"] == 0.25
    assert figures["characters_per_second_spoken"] == 5.0 and figures["characters_per_second_recording"] == 10.0


def test_the_own_voice_is_nearer_than_every_other():
    clips = [said(0, "a"), said(1, "a"), said(2, "b"), said(3, "b")]
    assert _found(clips, []).figures["similarity_spoken"] == 1.0
    wrong = replace(clips[0], voices={**clips[0].voices, "spoken": clips[2].voices["spoken"]})
    found = _found([wrong, *clips[1:]], [])
    assert found.figures["similarity_spoken"] == 0.75 and found.figures["similarity_recording"] == 1.0
    assert [one["nearest_spoken"] for one in found.sentences] == ["b", "a", "b", "b"]


def test_languages_and_voices_with_five_clips_stand_apart():
    clips = [said(i, "a") for i in range(5)] + [said(i, "b", "de") for i in range(5)] + [said(9, "c", "nl")]
    groups = {group["group"]: group for group in _found(clips, []).groups}
    assert list(groups) == ["language de", "language en", "voice a", "voice b"]
    assert groups["voice a"]["cer_spoken"] == 0.5 and groups["voice b"]["cer_spoken"] is None
    assert groups["voice a"]["clips"] == 5
