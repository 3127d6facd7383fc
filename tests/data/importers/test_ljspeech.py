"""LJSpeech in its true layout: metadata.csv without header or quotes, and wavs/."""

from __future__ import annotations

import pytest

from ira.data.importers.write import import_corpus
from ira.errors import InputError

LINES = [
    'LJ001-0001|Printing, in the only sense with which we are "at present" concerned,|Printing, in the only sense, '
    'said "he',
    "LJ001-0002|in 1813, the $20 case|in eighteen thirteen, the twenty dollar case",
    "LJ001-0003|the original alone|",
    "LJ002-0001|a text without a file|a text without a file",
    "LJ002-0002||",
    "../../outside|steps out|steps out",
]


@pytest.fixture
def corpus(tmp_path, sound):
    root = tmp_path / "LJSpeech-1.1"
    for name in ("LJ001-0001", "LJ001-0002", "LJ001-0003", "LJ002-0002"):
        sound(root / "wavs" / f"{name}.wav")
    sound(tmp_path / "outside.wav")
    (root / "README").write_text("The LJ Speech Dataset\n", encoding="utf-8")
    (root / "metadata.csv").write_text("\n".join(LINES) + "\n", encoding="utf-8")
    return root


def test_the_text_is_the_normalized_one_and_quotes_are_text(corpus, bring_in):
    _, splits = bring_in("ljspeech", corpus)
    rows = {row.audio.stem: row for found in splits.values() for row in found}
    assert rows["LJ001-0001"].text.endswith('said "he')
    assert rows["LJ001-0002"].text == "in eighteen thirteen, the twenty dollar case"
    assert rows["LJ001-0002"].extra["original"] == "in 1813, the $20 case"
    assert rows["LJ001-0003"].text == "the original alone" and "original" not in rows["LJ001-0003"].extra
    assert {(row.speaker, row.language) for row in rows.values()} == {("ljspeech", "en")}


def test_bad_lines_are_named_and_the_rest_comes_in(corpus, bring_in):
    report, splits = bring_in("ljspeech", corpus)
    assert sum(len(rows) for rows in splits.values()) == 3
    why = dict(report.refused)
    assert set(why) == {"LJ002-0001.wav", "LJ002-0002.wav", "../../outside.wav"}
    assert why["LJ002-0001.wav"] == "the file is not there" and why["LJ002-0002.wav"] == "no text"


def test_a_table_of_noise_is_one_harmless_line(corpus, tmp_path):
    (corpus / "metadata.csv").write_bytes(b"\x1b[31m\xff\x00red|x|x\n" + bytes(range(256)))
    with pytest.raises(InputError, match="no recording of it can be used") as caught:
        import_corpus("ljspeech", corpus, tmp_path / "out")
    assert str(caught.value).isprintable()


def test_one_speaker_is_split_by_sentence_and_that_is_said(corpus, bring_in):
    report, splits = bring_in("ljspeech", corpus)
    assert set(splits) == {"train", "val", "test"}
    assert "sentence" in report.rule and report.licence == "public domain"


def test_another_folder_is_answered_with_what_was_looked_for_and_found(tmp_path):
    (tmp_path / "photos").mkdir()
    (tmp_path / "photos" / "cat.jpg").touch()
    with pytest.raises(InputError, match=r"metadata\.csv.* is wanted, cat\.jpg was found"):
        import_corpus("ljspeech", tmp_path / "photos", tmp_path / "out")
    with pytest.raises(InputError, match="no such folder"):
        import_corpus("ljspeech", tmp_path / "absent", tmp_path / "out")
