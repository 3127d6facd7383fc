"""Manifests: what is read, and what is refused by name."""

from __future__ import annotations

import json
import os

import pytest
import torch

from ira.audio.waveform import save_audio
from ira.data.manifest import read_manifest, validate
from ira.errors import InputError


@pytest.fixture
def split(tmp_path):
    """A split folder train/ with one second of noise in audio_files/a.wav."""
    save_audio(tmp_path / "train" / "audio_files" / "a.wav", 0.1 * torch.randn(24_000))
    return tmp_path / "train"


def write(split, rows, name="train.json"):
    (split / name).write_text(rows if isinstance(rows, str) else json.dumps(rows), encoding="utf-8")
    return split / name


def good(**columns):
    return {"audio_file": "audio_files/a.wav", "text": "hello", "speaker_id": 3, **columns}


def kinds(problems):
    return [(problem.row, problem.kind) for problem in problems]


def test_the_three_columns_are_enough_and_unknown_columns_are_kept(split):
    write(split, [good(mood={"a": [1]}, f0_median_hz=120.5)])
    (row,), problems = read_manifest(split)
    assert not problems
    assert row.audio == split / "audio_files" / "a.wav" and row.text == "hello"
    assert (row.speaker, row.speaker_id, row.language, row.split, row.number) == ("3", 3, "en", "train", 0)
    assert (row.description, row.instruction, row.response, row.emotion, row.duration) == ("", "", "", "", None)
    assert row.extra == {"mood": {"a": [1]}, "f0_median_hz": 120.5}


def test_every_optional_column_is_read_and_null_is_absent(split):
    words = {"speaker": "ann", "description": "low", "instruction": "q", "response": "r", "emotion": "sad"}
    write(split, [good(**words, language="DE", duration=2, split="dev"), good(emotion=None, duration=None)])
    (first, second), _ = read_manifest(split)
    assert {name: getattr(first, name) for name in words} == words
    assert (first.language, first.duration, first.split) == ("de", 2, "dev")
    assert second.emotion == "" and second.duration is None


def test_json_lines_a_file_path_and_a_data_root_are_read_too(split):
    lines = json.dumps(good()) + "\n\n" + json.dumps(good(text="two\u2028lines")) + "\n"
    path = write(split, lines, "test.jsonl")
    assert [row.number for row in read_manifest(path)[0]] == [0, 1]
    path.rename(split / "train.jsonl")
    assert len(read_manifest(split)[0]) == 2
    assert read_manifest(split)[0][0].split == "train"


def test_where_the_manifest_is_not_clear_the_choices_are_named(split, tmp_path):
    with pytest.raises(InputError, match=r"holds no train\.json"):
        read_manifest(split)
    write(split, [], "dev.json")
    with pytest.raises(InputError, match=r"give one of dev\.json"):
        read_manifest(split)
    write(split, [])
    write(split, "", "train.jsonl")
    with pytest.raises(InputError, match=r"both train\.json and train\.jsonl"):
        read_manifest(split)
    with pytest.raises(InputError, match="no such file or folder"):
        read_manifest(tmp_path / "absent")


@pytest.mark.parametrize(
    ("columns", "kind", "word"),
    [
        ({"audio_file": "audio_files/b.wav"}, "missing_file", "b.wav"),
        ({"audio_file": "../secret.wav"}, "outside_path", "../secret.wav"),
        ({"audio_file": "/etc/passwd"}, "outside_path", "/etc/passwd"),
        ({"audio_file": 5}, "wrong_type", "audio_file is '5' (int)"),
        ({"audio_file": "a\0b"}, "wrong_type", "audio_file"),
        ({"text": ["a"]}, "wrong_type", "text is"),
        ({"text": "\ud800"}, "wrong_type", "text is"),
        ({"speaker_id": "p225"}, "wrong_type", "speaker_id is 'p225' (str)"),
        ({"speaker_id": True}, "wrong_type", "speaker_id is 'True' (bool)"),
        ({"duration": "2s"}, "wrong_type", "duration is '2s'"),
        ({"duration": -1}, "wrong_type", "duration is '-1'"),
        ({"emotion": {}}, "wrong_type", "emotion is '{}' (object)"),
        ({"audio_file": "", "text": ""}, "empty_row", "neither"),
    ],
)
def test_a_bad_row_is_named_and_the_others_stay(split, columns, kind, word):
    write(split, [good(), good(**columns), good()])
    rows, (problem,) = read_manifest(split)
    assert [row.number for row in rows] == [0, 2]
    assert (problem.row, problem.kind, problem.is_note) == (1, kind, False)
    assert word in problem.message and problem.remedy and problem.source == str(split / "train.json")


def test_a_path_that_comes_back_inside_is_fine(split):
    write(split, [good(audio_file="../train/audio_files/a.wav"), good(audio_file=str(split / "audio_files/a.wav"))])
    rows, problems = read_manifest(split)
    assert len(rows) == 2 and not problems


def test_rows_are_found_from_another_working_folder(split, monkeypatch):
    write(split, [good()])
    monkeypatch.chdir(split.parent)
    assert len(read_manifest("train")[0]) == 1
    monkeypatch.chdir(split)
    assert len(read_manifest(os.curdir)[0]) == 1


def test_broken_json_lines_are_refused_one_by_one(split):
    twice = '{"audio_file": "audio_files/a.wav", "text": "a", "text": "b"}'
    write(split, "\n".join([json.dumps(good()), "{oops", "[1]", twice, "[" * 100_000, json.dumps(good())]), "t.jsonl")
    rows, problems = read_manifest(split / "t.jsonl")
    assert [row.number for row in rows] == [0, 5]
    assert kinds(problems) == [(1, "bad_json"), (2, "wrong_type"), (3, "duplicate_key"), (4, "bad_json")]
    assert "'text'" in problems[2].message


@pytest.mark.parametrize(("content", "kind"), [("{", "bad_json"), ('{"a": 1}', "wrong_type"), ("", "bad_json")])
def test_a_manifest_that_is_no_list_is_one_problem(split, content, kind):
    assert kinds(read_manifest(write(split, content))[1]) == [(None, kind)]


def test_a_manifest_that_is_not_utf8_is_one_problem_and_a_byte_order_mark_is_none(split):
    (split / "a.json").write_bytes(b'[{"text": "\xff"}]')
    assert kinds(read_manifest(split / "a.json")[1]) == [(None, "bad_json")]
    (split / "b.json").write_bytes(b"\xef\xbb\xbf" + json.dumps([good()]).encode())
    assert len(read_manifest(split / "b.json")[0]) == 1


def test_measurements_that_are_not_finite_count_as_absent(split):
    row = json.dumps(good()).replace("}", ', "f0_median_hz": NaN, "duration": Infinity, "x": 1e999}')
    (row,), problems = read_manifest(write(split, f"[{row}]"))
    assert not problems and row.duration is None and row.extra == {"f0_median_hz": None, "x": None}


def test_empty_text_and_absent_audio_are_notes(split):
    write(split, [good(text=" "), {"text": "words only"}, {"instruction": "say something"}])
    rows, problems = read_manifest(split)
    assert len(rows) == 3 and rows[1].audio is None
    assert kinds(problems) == [(0, "empty_text"), (1, "no_audio"), (2, "no_audio")]
    assert all(problem.is_note for problem in problems)


def test_validate_counts_what_can_be_used_and_names_the_rest(split):
    (split / "audio_files" / "bad.wav").write_bytes(b"RIFF nonsense")
    write(
        split,
        [
            good(speaker="ann"),
            good(speaker="bob", language="de"),
            good(text=""),
            good(text="☃"),
            good(audio_file="audio_files/bad.wav"),
            good(text=1),
        ],
    )
    report = validate([split])
    assert (report.rows, report.speakers, report.languages) == (3, 3, {"en": 2, "de": 1})
    assert report.hours == pytest.approx(3 / 3600)
    assert kinds(report.problems) == [
        (2, "empty_text"), (5, "wrong_type"), (3, "unspeakable_text"), (4, "bad_audio"),
    ]  # fmt: skip
    assert report.unusable == 3 and "SNOWMAN" in report.problems[2].message
    assert json.loads(json.dumps(report.as_dict()))["unusable"] == 3


def test_without_decoding_the_hours_are_those_claimed(split):
    write(split, [good(duration=1800), good()])
    assert validate([split], check_audio=False).hours == pytest.approx(0.5)
