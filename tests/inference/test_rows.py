from __future__ import annotations

from pathlib import Path

import pytest

from ira.errors import InputError
from ira.inference.answering import ListenRow
from ira.inference.pipeline import SpeakRow
from ira.inference.rows import read_listen_rows, read_speak_rows
from ira.inference.voices import parse_mix


def write(tmp_path: Path, *lines: str) -> Path:
    path = tmp_path / "rows.jsonl"
    path.write_text("\n".join(lines) + "\n", encoding="utf-8")
    return path


def test_rows_come_in_order_with_their_ids_and_defaults(tmp_path: Path):
    path = write(tmp_path, '{"id": "a", "text": "hi"}', "", '{"id": 7, "text": "ho", "voice": "a man", "seed": 3}')
    assert read_speak_rows(path) == [("a", SpeakRow("hi")), ("7", SpeakRow("ho", "a man", 3))]


def test_the_parts_of_a_mixed_voice_are_looked_for_beside_the_rows_too(tmp_path: Path):
    (tmp_path / "a.voice").touch()
    path = write(
        tmp_path,
        '{"id": "a", "text": "hi", "voice": "a.voice:3+b.voice:1", "language": "de"}',
        '{"id": "b", "text": "hi", "voice": "a.voice:0.5"}',
    )
    (_, mixed), (_, lone) = read_speak_rows(path)
    assert isinstance(mixed, SpeakRow) and isinstance(mixed.voice, str) and mixed.language == "de"
    assert parse_mix(mixed.voice) == [(str(tmp_path / "a.voice"), 0.75), ("b.voice", 0.25)]
    assert isinstance(lone, InputError) and "A:0.7+B:0.3" in str(lone)


def test_audio_is_a_path_a_list_or_null(tmp_path: Path):
    path = write(
        tmp_path,
        '{"id": "a", "audio": "/x/one.wav"}',
        '{"id": "b", "audio": ["/x/one.wav", "/x/two.wav"], "prompt": "compare"}',
        '{"id": "c", "audio": null, "prompt": "hello"}',
    )
    assert read_listen_rows(path) == [
        ("a", ListenRow(["/x/one.wav"])),
        ("b", ListenRow(["/x/one.wav", "/x/two.wav"], "compare")),
        ("c", ListenRow(None, "hello")),
    ]


def test_a_path_is_taken_as_given_or_else_from_beside_the_rows(tmp_path: Path, monkeypatch: pytest.MonkeyPatch):
    (tmp_path / "here").mkdir()
    monkeypatch.chdir(tmp_path / "here")
    (tmp_path / "beside.wav").touch()
    path = write(
        tmp_path,
        '{"id": "a", "audio": "beside.wav", "text": "x", "voice": "beside.wav"}',
        '{"id": "b", "audio": "nowhere.wav", "text": "x", "voice": "a calm woman"}',
    )
    beside = str(tmp_path / "beside.wav")
    assert [row.audio for _, row in read_listen_rows(path)] == [[beside], ["nowhere.wav"]]  # type: ignore[union-attr]
    assert [row.voice for _, row in read_speak_rows(path)] == [beside, "a calm woman"]  # type: ignore[union-attr]
    (tmp_path / "here" / "beside.wav").touch()
    assert read_listen_rows(path)[0][1].audio == ["beside.wav"]  # type: ignore[union-attr]


@pytest.mark.parametrize(
    "name",
    ["../up", "/etc/x", "a/b", "..", ".", "", " ", "a\\\\b", "c:x", "x\\u0000", "x\\n", "x" * 200, ".hidden", "con.."],
)
def test_an_id_that_could_leave_the_folder_is_refused(tmp_path: Path, name: str):
    ((shown, row),) = read_speak_rows(write(tmp_path, f'{{"id": "{name}", "text": "hi"}}'))
    assert shown == "line 1" and isinstance(row, InputError) and "id" in str(row)


@pytest.mark.parametrize(
    "line",
    [
        "no json",
        "[1]",
        "[" * 50_000,
        '{"text": "no id"}',
        '{"id": null, "text": "x"}',
        '{"id": true, "text": "x"}',
        '{"id": "b"}',
        '{"id": "b", "text": 3}',
        '{"id": "b", "text": "x", "voice": 1}',
        '{"id": "b", "text": "x", "seed": "1"}',
        '{"id": "b", "text": "x", "seed": 1.5}',
        '{"id": "A", "text": "an id given twice, but for its case"}',
    ],
)
def test_a_bad_row_is_an_error_in_its_place_and_the_others_stand(tmp_path: Path, line: str):
    path = write(tmp_path, '{"id": "a", "text": "x"}', line, '{"id": "c", "text": "x"}')
    (_, first), (_, bad), (_, last) = read_speak_rows(path)
    assert isinstance(first, SpeakRow) and isinstance(last, SpeakRow)
    assert isinstance(bad, InputError) and "\n" not in str(bad)


@pytest.mark.parametrize("audio", ["3", "[]", "[1]", '""', '{"a": 1}', '["x", null]'])
def test_audio_of_another_kind_is_that_rows_error(tmp_path: Path, audio: str):
    ((name, row),) = read_listen_rows(write(tmp_path, f'{{"id": "a", "audio": {audio}}}'))
    assert name == "a" and isinstance(row, InputError)
    ((_, row),) = read_listen_rows(write(tmp_path, '{"id": "a", "prompt": "no audio"}'))
    assert isinstance(row, InputError)


def test_a_rows_file_that_cannot_be_read_is_one_line(tmp_path: Path):
    for path in (tmp_path / "absent.jsonl", tmp_path):
        with pytest.raises(InputError, match="cannot be read"):
            read_speak_rows(path)
    (tmp_path / "latin.jsonl").write_bytes(b"\xff\xfe{}")
    with pytest.raises(InputError, match="not UTF-8"):
        read_speak_rows(tmp_path / "latin.jsonl")
