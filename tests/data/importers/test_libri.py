"""LibriTTS and LibriSpeech in their true layouts: PART/SPEAKER/CHAPTER/."""

from __future__ import annotations

import json

import pytest

from ira.errors import InputError

SPEAKERS = """; The list of speakers
;ID  |SEX| SUBSET           |MINUTES| NAME
19   | F | train-clean-100  | 25.19 | Kara Shallenberg
60   | M | train-clean-100  | 20.18 | |CBW|Simon
1272 | M | dev-clean        | 8.01  | A Reader
"""


@pytest.fixture
def libritts(tmp_path, sound):
    root = tmp_path / "LibriTTS"
    for part, name, normalized, original in (
        ("train-clean-100", "19_198_000000_000000", "Chapter one.", "CHAPTER 1."),
        ("train-clean-100", "60_121082_000003_000001", "Yes, Mister Brown.", "Yes, Mr. Brown."),
        ("dev-clean", "1272_128104_000001_000000", "Same.", "Same."),
        ("test-other", "367_130732_000001_000000", "Tested.", "Tested."),
    ):
        speaker, chapter = name.split("_")[:2]
        path = sound(root / part / speaker / chapter / f"{name}.wav")
        path.with_suffix(".normalized.txt").write_text(normalized, encoding="utf-8")
        path.with_suffix(".original.txt").write_text(original, encoding="utf-8")
        (path.parent / f"{speaker}_{chapter}.trans.tsv").write_text(f"{name}\t{original}\t{normalized}\n")
        (path.parent / f"{speaker}_{chapter}.book.tsv").write_text(f"{name}\t{original}\t0\n")
    (root / "SPEAKERS.txt").write_text(SPEAKERS, encoding="utf-8")
    (root / "speakers.tsv").write_text("READER\tGENDER\tSUBSET\tNAME\n367\tF\ttest-other\n", encoding="utf-8")
    return root


@pytest.fixture
def librispeech(tmp_path, sound):
    chapter = tmp_path / "LibriSpeech" / "train-clean-100" / "19" / "198"
    sound(chapter / "19-198-0000.flac")
    lines = "19-198-0000 NORTHANGER ABBEY\n19-198-0001 THIS LITTLE WORK\n"
    (chapter / "19-198.trans.txt").write_text(lines, encoding="utf-8")
    (tmp_path / "LibriSpeech" / "SPEAKERS.TXT").write_text(SPEAKERS, encoding="utf-8")
    return tmp_path / "LibriSpeech"


def test_train_dev_and_test_keep_their_places(libritts, bring_in):
    report, splits = bring_in("libritts", libritts)
    assert {split: [row.speaker for row in rows] for split, rows in splits.items()} == {
        "train": ["libri-19", "libri-60"],
        "val": ["libri-1272"],
        "test": ["libri-367"],
    }
    assert report.refused == [] and report.rule == "the corpus' own splits"


def test_text_gender_and_the_original_come_along(libritts, bring_in):
    _, splits = bring_in("libritts", libritts)
    first, second = splits["train"]
    assert (first.text, first.extra) == ("Chapter one.", {"gender": "female", "original": "CHAPTER 1."})
    assert second.extra["gender"] == "male"  # a name with | in it
    assert splits["val"][0].extra == {"gender": "male"}
    assert splits["test"][0].extra == {"gender": "female"}  # known to speakers.tsv alone


def test_a_part_can_be_asked_for_by_its_name(libritts, bring_in):
    (libritts / "dev-clean/1272/128104/1272_128104_000001_000000.wav").unlink()
    report, splits = bring_in("libritts", libritts, splits=["train-clean-100"])
    assert set(splits) == {"train"} and report.refused == []
    with pytest.raises(InputError, match="'train-clean-360': no such split; this corpus has .*train-clean-100"):
        bring_in("libritts", libritts, splits=["train-clean-360"])


def test_a_missing_recording_or_text_is_named(libritts, bring_in):
    (libritts / "train-clean-100/19/198/19_198_000000_000000.wav").unlink()
    (libritts / "train-clean-100/60/121082/60_121082_000003_000001.normalized.txt").unlink()
    report, splits = bring_in("libritts", libritts)
    assert set(splits) == {"val", "test"}
    assert report.refused == [
        ("19/198/19_198_000000_000000.wav", "the file is not there"),
        ("60/121082/60_121082_000003_000001.wav", "no text"),
    ]


def test_the_restored_corpus_is_called_by_its_name(libritts, bring_in, tmp_path):
    libritts.rename(tmp_path / "LibriTTS_R")
    bring_in("libritts", tmp_path / "LibriTTS_R")
    source = json.loads((tmp_path / "out/train/source.json").read_text(encoding="utf-8"))
    assert (source["corpus"], source["licence"]) == ("LibriTTS-R", "CC BY 4.0")
    assert source["url"] == "https://www.openslr.org/141/"


def test_librispeech_is_read_from_its_tables(librispeech, bring_in):
    report, splits = bring_in("librispeech", librispeech)
    (row,) = splits["train"]
    assert (row.text, row.speaker, row.extra) == ("NORTHANGER ABBEY", "libri-19", {"gender": "female"})
    assert report.corpus == "LibriSpeech"
    assert report.refused == [("19/198/19-198-0001.flac", "the file is not there")]
