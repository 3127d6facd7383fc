"""VCTK in its true layouts, 0.92 with two microphones and 0.80 before it."""

from __future__ import annotations

import pytest

INFO = """ID  AGE  GENDER  ACCENTS  REGION COMMENTS \n\
p225  23  F    English    Southern  England
p226  22  M    English    Surrey
p238  22  F    NorthernIrish  Belfast
p280  26  F    Unknown    France (mic2 files unavailable)
p315  18  M    American   New  England (All of the text files unavailable)
"""


@pytest.fixture
def corpus(tmp_path, sound):
    root = tmp_path / "VCTK-Corpus-0.92"
    for speaker in ("p225", "p226", "p238", "p280", "p315"):
        for number in ("001", "002"):
            for microphone in ("mic1", "mic2"):
                sound(root / "wav48_silence_trimmed" / speaker / f"{speaker}_{number}_{microphone}.flac")
            if speaker != "p315":
                text = root / "txt" / speaker / f"{speaker}_{number}.txt"
                text.parent.mkdir(parents=True, exist_ok=True)
                text.write_text("Please call Stella.\n" if number == "001" else "Ask her.\n", encoding="utf-8")
    (root / "wav48_silence_trimmed" / "log.txt").write_text("p225_001_mic1.flac\n")
    (root / "speaker-info.txt").write_text(INFO, encoding="utf-8")
    return root


def test_one_microphone_is_read_and_the_speaker_without_texts_is_named(corpus, bring_in):
    report, splits = bring_in("vctk", corpus)
    names = sorted(row.audio.name for rows in splits.values() for row in rows)
    assert len(names) == 8 and all(name.endswith("_mic1.flac") for name in names)
    assert report.refused == [("p315/p315_001_mic1.flac", "no text"), ("p315/p315_002_mic1.flac", "no text")]


def test_the_second_microphone_serves_where_there_is_no_first(corpus, bring_in):
    (corpus / "wav48_silence_trimmed/p225/p225_001_mic1.flac").unlink()
    _, splits = bring_in("vctk", corpus)
    names = {row.audio.name for rows in splits.values() for row in rows}
    assert "p225_001_mic2.flac" in names and "p225_002_mic1.flac" in names and len(names) == 8


def test_a_text_without_any_recording_is_named(corpus, bring_in):
    for microphone in ("mic1", "mic2"):
        (corpus / f"wav48_silence_trimmed/p225/p225_001_{microphone}.flac").unlink()
    report, _ = bring_in("vctk", corpus)
    assert ("p225/p225_001_mic1.flac", "the file is not there") in report.refused


def test_no_speaker_is_in_two_splits(corpus, bring_in):
    report, splits = bring_in("vctk", corpus)
    speakers = [{row.speaker for row in rows} for rows in splits.values()]
    assert set(splits) == {"train", "val", "test"} and sum(map(len, speakers)) == len(set.union(*speakers)) == 4
    assert "no speaker is in two splits" in report.rule


def test_age_gender_accent_and_region_are_those_of_the_table(corpus, bring_in):
    _, splits = bring_in("vctk", corpus)
    said = {row.speaker: row.extra for rows in splits.values() for row in rows}
    assert said["vctk-p225"] == {"gender": "female", "age": 23, "accent": "English", "region": "Southern England"}
    assert said["vctk-p238"]["accent"] == "Northern Irish"
    assert said["vctk-p280"] == {"gender": "female", "age": 26, "region": "France"}


def test_the_older_release_is_read_too(tmp_path, sound, bring_in):
    root = tmp_path / "VCTK-Corpus"
    sound(root / "wav48/p225/p225_001.wav")
    (root / "txt/p225").mkdir(parents=True)
    (root / "txt/p225/p225_001.txt").write_text("Please call Stella.", encoding="utf-8")
    info = "ID  AGE  GENDER  ACCENTS  REGION \n225  23  F    English    Southern  England\n"
    (root / "speaker-info.txt").write_text(info, encoding="utf-8")
    report, splits = bring_in("vctk", root)
    assert splits["train"][0].extra["gender"] == "female" and report.licence == "ODC-By 1.0"
