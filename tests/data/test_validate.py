"""Validation: what is measured is true, and each finding names the right row and what to do."""

from __future__ import annotations

import json
import math
import shutil
from collections import Counter
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import soundfile

from ira.data.manifest import NOTES
from ira.data.validate import CHARACTERS_PER_SECOND, Report, validate


class Corpus:
    """A folder of tones and the manifests beside them."""

    def __init__(self, folder: Path) -> None:
        self.folder, self.made = folder, 0

    def sound(self, seconds: float = 1.0, rate: int = 24_000, level: float = 0.1, channels: int = 1) -> str:
        """A tone that no other recording holds; returns what to write in `audio_file`."""
        self.made += 1
        tone = level * np.sin(2 * np.pi * (200 + self.made) * np.arange(round(seconds * rate)) / rate)
        soundfile.write(self.folder / f"{self.made}.wav", np.repeat(tone[:, None], channels, 1), rate, subtype="FLOAT")
        return f"{self.made}.wav"

    def row(self, text: str = "ten letter", **columns: Any) -> dict[str, Any]:
        return {"audio_file": self.sound(), "text": text, **columns}

    def check(self, *rows: dict[str, Any], name: str = "train.json", **given: Any) -> Report:
        (self.folder / name).write_text(json.dumps(rows))
        return validate([self.folder / name], **given)


@pytest.fixture
def corpus(tmp_path: Path) -> Corpus:
    return Corpus(tmp_path)


def found(report: Report) -> list[tuple[int | None, str]]:
    return [(problem.row, problem.kind) for problem in report.problems]


def test_rows_hours_speakers_languages_and_splits_are_counted(corpus: Corpus):
    rows = [corpus.row("one two three", speaker=name, language="en") for name in ("ann", "ann", "bob")]
    rows = [{**row, "text": f"take {'abc'[i]} of it"} for i, row in enumerate(rows)]
    report = corpus.check(*rows, corpus.row("guten tag", language="de", split="dev"))
    assert (report.rows, report.speakers, report.unusable) == (4, 2, 0)
    assert report.hours == pytest.approx(4 / 3600)
    assert report.languages == {"en": 3, "de": 1} and report.splits == {"train": 3, "dev": 1}
    assert report.problems == []


def test_rates_channels_and_loudness_are_those_of_the_files(corpus: Corpus):
    files = [corpus.sound(rate=8_000), corpus.sound(rate=96_000, channels=2, level=0.01), corpus.sound(rate=8_000)]
    report = corpus.check(*({"audio_file": file, "text": "ten letter"} for file in files))
    assert report.rates == {"8000": 2, "96000": 1} and report.channels == {"1": 2, "2": 1}
    assert report.seconds == dict.fromkeys(("least", "p5", "median", "p95", "most"), 1.0)
    sine = 20 * math.log10(0.1 / math.sqrt(2))
    assert report.loudness and report.loudness["most"] == pytest.approx(sine, abs=0.02)
    assert report.loudness["least"] == pytest.approx(sine - 20, abs=0.02)
    assert report.pace and report.pace["median"] == 10.0


@pytest.mark.parametrize(
    ("seconds", "kind"), [(0.38, "text_too_long"), (0.42, None), (3.2, None), (3.5, "text_too_short")]
)
def test_text_that_does_not_fit_its_recording_is_noted(corpus: Corpus, seconds: float, kind: str | None):
    assert CHARACTERS_PER_SECOND == (3, 25)
    report = corpus.check({"audio_file": corpus.sound(seconds), "text": "ten letter"})
    assert found(report) == ([(0, kind)] if kind else []) and report.rows == 1


def test_numbers_count_as_long_as_they_are_read_out(corpus: Corpus):
    report = corpus.check({"audio_file": corpus.sound(3), "text": "1999"})
    assert report.pace and report.pace["median"] == round(len("nineteen ninety-nine") / 3, 2)


def test_silence_clipping_and_a_false_duration_are_noted(corpus: Corpus):
    files = [corpus.sound(level=0), corpus.sound(level=1e-3), corpus.sound(level=1.5), corpus.sound(level=0.99)]
    report = corpus.check(
        *({"audio_file": file, "text": f"ten {'abcd'[i]} letter"} for i, file in enumerate(files)),
        corpus.row("what lasts a second", duration=2.0),
        corpus.row("what nearly does", duration=1.1),
    )
    assert found(report) == [(0, "silent"), (1, "silent"), (2, "clipped"), (4, "duration_differs")]
    assert report.rows == 6 and report.clipped and 0.05 < report.clipped < 0.15
    assert report.loudness and report.loudness["least"] == -120


def test_the_same_recording_text_or_id_is_noted_at_the_later_row(corpus: Corpus):
    first = corpus.row("Hello there!", speaker="ann", id=1)
    shutil.copy(corpus.folder / "1.wav", corpus.folder / "copy.wav")
    report = corpus.check(
        first,
        {**first, "audio_file": "copy.wav", "text": "other words", "id": 2},
        corpus.row("hello  there!", speaker="ann", id=3),
        corpus.row("Hello there!", speaker="bob", id=1),
        corpus.row("Hello there!"),
        corpus.row("Hello there!"),
    )
    assert found(report) == [(1, "duplicate_audio"), (2, "duplicate_text"), (3, "duplicate_id")]
    assert all("row 0" in problem.message for problem in report.problems)
    assert report.rows == 6


def test_ids_need_only_be_unique_in_their_manifest(corpus: Corpus):
    for name in ("a.json", "b.json"):
        (corpus.folder / name).write_text(json.dumps([corpus.row(id=1)]))
    assert validate([corpus.folder / "a.json", corpus.folder / "b.json"]).problems == []


def test_a_speaker_and_a_recording_in_two_splits_are_named_with_both(corpus: Corpus):
    train = [corpus.row(f"row {'abc'[i]}", speaker=name) for i, name in enumerate(("ann", "ann", "bob"))]
    test = [corpus.row("row d", speaker="eve"), corpus.row("row e", speaker="ann"), {**train[2], "speaker": ""}]
    for name, rows in (("train.json", train), ("test.json", test)):
        (corpus.folder / name).write_text(json.dumps(rows))
    report = validate([corpus.folder / "train.json", corpus.folder / "test.json"])
    assert found(report) == [(2, "audio_in_splits"), (1, "speaker_in_splits")]
    sound, speaker = report.problems
    assert sound.source == speaker.source == str(corpus.folder / "test.json")
    assert "'train' as row 2 of" in sound.message and "'test'" in sound.message
    assert "'ann'" in speaker.message and "'train' (2 rows), 'test' (1 rows)" in speaker.message


def test_what_cannot_be_used_is_counted_by_rows_and_named(corpus: Corpus):
    (corpus.folder / "bad.wav").write_bytes(b"RIFF nonsense")
    report = corpus.check(
        corpus.row("one"),
        corpus.row(""),
        corpus.row("☃"),
        {"audio_file": "bad.wav", "text": "a"},
        {"audio_file": 5, "text": 1},
    )
    assert found(report) == [
        (1, "empty_text"), (4, "wrong_type"), (4, "wrong_type"), (2, "unspeakable_text"), (3, "bad_audio"),
    ]  # fmt: skip
    assert (report.rows, report.unusable) == (2, 3) and "SNOWMAN" in report.problems[3].message
    assert list(report.kinds.items())[0] == ("wrong_type", 2) and list(report.kinds)[-1] == "empty_text"


def test_an_empty_manifest_is_a_finding_of_its_own(corpus: Corpus):
    report = corpus.check()
    assert found(report) == [(None, "no_rows")] and report.unusable == 1 and report.pace is None


def test_every_finding_says_what_to_do_in_one_printable_line(corpus: Corpus):
    odd = [{"text": "\x1b[2J"}, {"audio_file": "\u202e/../x"}, {"speaker_id": "x" * 999}, "\udfff", {"text": "a\u0378"}]
    report = corpus.check(*odd, corpus.row("☃"), {"audio_file": "gone.wav"})  # type: ignore[arg-type]
    assert report.unusable == len(odd) + 2
    for problem in report.problems:
        line = f"{problem.message}; {problem.remedy}"
        assert problem.message and problem.remedy and line.isprintable() and len(line) < 500


def test_without_decoding_the_hours_are_those_claimed_and_no_recording_is_opened(corpus: Corpus):
    (corpus.folder / "bad.wav").write_bytes(b"")
    row = {"audio_file": "bad.wav", "text": "ten letter"}
    report = corpus.check({**row, "duration": 1800}, {**row, "text": "other text"}, check_audio=False)
    assert report.hours == pytest.approx(0.5) and found(report) == [(0, "text_too_short")]
    assert report.loudness is None and report.clipped is None and report.rates == {}


def test_each_row_is_told_and_no_sound_is_kept(corpus: Corpus):
    told: list[tuple[int, int]] = []
    corpus.check(*(corpus.row() for _ in range(3)), tell=lambda done, total: told.append((done, total)))
    assert told == [(1, 3), (2, 3), (3, 3)]


def test_the_report_has_the_columns_that_its_page_lists_and_its_kinds_are_documented(corpus: Corpus):
    page = (Path(__file__).parents[2] / "docs" / "data.md").read_text(encoding="utf-8")
    table = page.partition("## The report")[2].partition("\n## ")[0]
    listed = [line.split("`")[1] for line in table.splitlines() if line.startswith("| `")]
    record = json.loads(json.dumps(corpus.check(corpus.row(), corpus.row("")).as_dict(), allow_nan=False))
    assert sorted(listed) == sorted(record) and record["format"] == 1
    assert set(record["problems"][0]) == {"source", "row", "kind", "message", "remedy", "note"}
    kinds = [
        line.split("`")[1]
        for line in page.partition("| Kind | Meaning |")[2].partition("\n\n")[0].splitlines()
        if "`" in line
    ]
    assert Counter(kinds).most_common(1)[0][1] == 1 and set(NOTES) <= set(kinds)
