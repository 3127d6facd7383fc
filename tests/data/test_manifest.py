"""Manifests: what is read, and what is refused by name."""

from __future__ import annotations

import json
import os

import pytest
import torch

from ira.audio.waveform import save_audio
from ira.data.manifest import read_manifest
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
        ({"audio_file": "audio_files/../audio_files/a.wav"}, "outside_path", "below the manifest's folder"),
        ({"audio_file": "a\0b"}, "bad_character", "audio_file"),
        ({"audio_file": "\u202e.wav"}, "bad_character", "u202e"),
        ({"audio_file": "a" * 300}, "missing_file", "aaa"),
        ({"audio_file": "audio_files"}, "missing_file", "audio_files"),
        ({"text": ["a"]}, "wrong_type", "text is"),
        ({"text": "\ud800"}, "bad_character", "ud800"),
        ({"text": "\x1b[2J"}, "bad_character", "x1b"),
        ({"text": "a" * 20_001}, "too_long", "20001 characters"),
        ({"speaker_id": "p225"}, "wrong_type", "speaker_id is 'p225' (str)"),
        ({"speaker_id": True}, "wrong_type", "speaker_id is 'True' (bool)"),
        ({"duration": "2s"}, "wrong_type", "duration is '2s'"),
        ({"duration": -1}, "wrong_type", "duration is '-1'"),
        ({"emotion": {}}, "wrong_type", "emotion is '{}' (object)"),
        ({"mood": [[[[[[[[[[[[[[[[[[[[[[[[[[[[[[[[[]]]]]]]]]]]]]]]]]]]]]]]]]]]]]]]]]}, "too_deep", "32"),
        ({"audio_file": "", "text": ""}, "empty_row", "neither"),
    ],
)
def test_a_bad_row_is_named_and_the_others_stay(split, columns, kind, word):
    write(split, [good(), good(**columns), good()])
    rows, (problem,) = read_manifest(split)
    assert [row.number for row in rows] == [0, 2]
    assert (problem.row, problem.kind, problem.is_note) == (1, kind, False)
    assert word in problem.message and problem.remedy and problem.source == str(split / "train.json")


def test_a_link_may_lead_anywhere_below_the_manifest_and_nowhere_else(split, tmp_path):
    save_audio(tmp_path / "secret.wav", 0.1 * torch.randn(24_000))
    (split / "inner.wav").symlink_to("audio_files/a.wav")
    (split / "outer.wav").symlink_to(tmp_path / "secret.wav")
    (split / "folder").symlink_to(tmp_path)
    (split / "loop.wav").symlink_to("loop.wav")
    names = ("inner.wav", "outer.wav", "folder/secret.wav", "folder/train/audio_files/a.wav", "loop.wav")
    write(split, [good(audio_file=name) for name in names])
    rows, problems = read_manifest(split)
    assert [row.number for row in rows] == [0, 3]
    assert kinds(problems) == [(1, "outside_path"), (2, "outside_path"), (4, "missing_file")]


def test_a_split_folder_may_itself_be_a_link(split, tmp_path):
    write(split, [good()])
    (tmp_path / "elsewhere").symlink_to(split)
    assert len(read_manifest(tmp_path / "elsewhere" / "train.json")[0]) == 1


@pytest.mark.parametrize("name", ["a.flac", "A.WAV", "A.wav"])
def test_a_missing_file_with_a_near_name_is_pointed_at(split, name):
    write(split, [good(audio_file=f"audio_files/{name}")])
    (problem,) = read_manifest(split)[1]
    assert problem.kind == "missing_file" and "'a.wav'" in problem.remedy


def test_a_name_in_another_unicode_form_is_pointed_at(split):
    (split / "audio_files" / "a.wav").rename(split / "audio_files" / "u\u0308.wav")
    write(split, [good(audio_file="audio_files/\u00fc.wav")])
    (problem,) = read_manifest(split)[1]
    assert problem.kind == "missing_file" and "u\\u0308" in problem.remedy


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
    assert kinds(problems) == [(1, "bad_json"), (2, "wrong_type"), (3, "duplicate_key"), (4, "too_deep")]
    assert "'text'" in problems[2].message


def test_a_manifest_that_breaks_off_gives_no_rows_and_one_problem(split):
    rows, problems = read_manifest(write(split, json.dumps([good()] * 3)[:-5]))
    assert rows == [] and kinds(problems) == [(None, "bad_json")]


def test_measurements_that_are_not_finite_count_as_absent(split):
    row = json.dumps(good()).replace("}", ', "f0_median_hz": NaN, "duration": Infinity, "x": [1e999]}')
    (row,), problems = read_manifest(write(split, f"[{row}]"))
    assert not problems and row.duration is None and row.extra == {"f0_median_hz": None, "x": [None]}


@pytest.mark.parametrize("digits", ["1e999", "1" + "0" * 5000, "-1e999", "1e300"])
@pytest.mark.parametrize("column", ["speaker_id", "duration"])
def test_a_giant_number_is_refused_where_it_matters_and_absent_elsewhere(split, column, digits):
    row = json.dumps(good()).replace('"speaker_id": 3', f'"{column}": {digits}')
    assert [kind for _, kind in kinds(read_manifest(write(split, f"[{row}]"))[1])] == ["wrong_type"]
    row = json.dumps(good()).replace("}", f', "x": {{"y": [{digits}]}}}}')
    (row,), _ = read_manifest(write(split, f"[{row}]"))
    json.dumps(row.extra, allow_nan=False)


def test_a_whole_number_written_with_a_point_is_a_speaker(split):
    write(split, [good(speaker_id=7.0)])
    ((row,), _) = read_manifest(split)
    assert row.speaker == "7" and type(row.speaker_id) is int


def test_an_id_is_kept(split):
    write(split, [good(id="LJ001-0001")])
    assert read_manifest(split)[0][0].extra == {"id": "LJ001-0001"}


def test_empty_text_and_absent_audio_are_notes(split):
    write(split, [good(text=" "), {"text": "words only"}, {"instruction": "say something"}])
    rows, problems = read_manifest(split)
    assert len(rows) == 3 and rows[1].audio is None
    assert kinds(problems) == [(0, "empty_text"), (1, "no_audio"), (2, "no_audio")]
    assert all(problem.is_note for problem in problems)
