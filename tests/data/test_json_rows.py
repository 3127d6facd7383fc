"""Reading JSON rows: every way to write a file is read alike, and no file takes more memory or time than its bounds."""

from __future__ import annotations

import json
import tracemalloc
from pathlib import Path
from typing import Any

import pytest
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st

from ira.data import json_rows
from ira.data.json_rows import LONGEST_ROW, MOST_BYTES, Broken, read_values

ROWS = [{"text": "a", "x": [1, {"y": None}]}, 2, "three", [], {}]


def read(path: Path, content: bytes | str) -> list[Any]:
    path.write_bytes(content.encode() if isinstance(content, str) else content)
    return list(read_values(path))


def kinds(values: list[Any]) -> list[Any]:
    return [value.kind if isinstance(value, Broken) else value for value in values]


@pytest.mark.parametrize("ends", ["\n", "\r\n", "\n\n \n"])
@pytest.mark.parametrize("mark", ["", "\ufeff"])
def test_line_ends_blank_lines_and_a_byte_order_mark_change_nothing(tmp_path: Path, ends: str, mark: str):
    lines = mark + ends.join(map(json.dumps, ROWS)) + ends
    assert read(tmp_path / "a.jsonl", lines) == ROWS
    assert read(tmp_path / "a.json", mark + ends + json.dumps(ROWS, indent=3).replace("\n", ends) + ends) == ROWS


def test_a_list_is_read_whole_wherever_the_window_ends(tmp_path: Path, monkeypatch: pytest.MonkeyPatch):
    rows = [{"text": "ä" * (i % 37), "n": [i] * (i % 5)} for i in range(400)]
    monkeypatch.setattr(json_rows, "LONGEST_ROW", 100)
    for piece in (101, 128, 997):
        monkeypatch.setattr(json_rows, "_PIECE", piece)
        assert read(tmp_path / "a.json", json.dumps(rows, ensure_ascii=False, indent=1)) == rows
        assert read(tmp_path / "a.json", "[" + " " * 1000 + "1" + " " * 1000 + "," + "\n" * 1000 + "2]") == [1, 2]


@pytest.mark.parametrize(
    ("content", "kind", "word"),
    [
        ("", "bad_json", "Expecting value"),
        ("{", "bad_json", "line 1"),
        ('{"a": 1}', "wrong_type", "an object, not a list"),
        ("3", "wrong_type", "not a list"),
        ('{"a": 1}\n{"a": 2}\n', "wrong_type", "an object"),
        ("[", "bad_json", "Expecting value"),
        ("[1,\n2\n 3]", "bad_json", "line 3"),
        ("[1,]", "bad_json", "Expecting value"),
        ("[1", "bad_json", "comma"),
        ("[1] x", "bad_json", "follows"),
        ("[" * 100_000, "too_deep", "line 1"),
        (b'["\xff"]', "bad_json", "UTF-8"),
        ("[1]".encode("utf-16"), "bad_json", "UTF-16"),
        ("[1]".encode("utf-16-le"), "bad_json", "binary"),
        ("[1]".encode("utf-32"), "bad_json", "UTF-16"),
        (b"\x89PNG\r\n\x1a\n\0\0", "bad_json", "binary"),
        (b"\x1f\x8b\x08\x00", "bad_json", "binary"),
    ],
)
def test_what_is_no_list_ends_with_one_broken_that_spoils_the_file(
    tmp_path: Path, content: bytes | str, kind: str, word: str
):
    *_, last = read(tmp_path / "a.json", content)
    assert (last.kind, last.whole) == (kind, True) and last.remedy
    assert word in last.message and last.message.isprintable()


def test_a_bad_line_spoils_itself_alone(tmp_path: Path):
    lines = [b"1", b"\xff", b"{", b"[" * 50_000, b'{"a": 1, "a": 2}', b'{"x": [{"a": 1, "a": 2}]}', b"1 2", b"9"]
    found = read(tmp_path / "a.jsonl", b"\n".join(lines))
    expected = [1, "bad_json", "bad_json", "too_deep", "duplicate_key", "duplicate_key", "bad_json", 9]
    assert kinds(found) == expected
    assert not any(value.whole for value in found if isinstance(value, Broken))


def test_depth_is_bounded_well_below_what_python_can_write_again(tmp_path: Path):
    nested = ["[" * depth + "]" * depth for depth in (31, 32, 33, 900)]
    assert [kind == "too_deep" for kind in kinds(read(tmp_path / "a.jsonl", "\n".join(nested)))] == [False] * 2 + [
        True
    ] * 2
    assert kinds(read(tmp_path / "a.json", f"[1, {nested[2]}, 2]")) == [1, "too_deep", 2]


def test_giant_numbers_take_no_time(tmp_path: Path):
    found = read(tmp_path / "a.jsonl", f"1e999\n{'9' * 1_000_000}\n{'9' * 100}\nNaN")
    assert found == [float("inf"), float("inf"), int("9" * 100), None]


@pytest.mark.parametrize("name", ["a.json", "a.jsonl"])
def test_a_row_that_is_too_long_is_named_and_never_held(tmp_path: Path, name: str):
    long = json.dumps("x" * 2 * LONGEST_ROW)
    content = f"1\n{long}\n3" if name == "a.jsonl" else f"[1, {long}, 3]"
    assert kinds(read(tmp_path / name, content)) == [1, "too_long", 3]


@pytest.mark.parametrize("name", ["a.json", "a.jsonl"])
def test_a_line_without_end_takes_no_more_memory_than_a_few_rows(tmp_path: Path, name: str):
    with (tmp_path / name).open("wb") as file:
        file.write(b'["')
        for _ in range(96):
            file.write(b"x" * 2**20)
    tracemalloc.start()
    try:
        (broken,) = read_values(tmp_path / name)
        assert tracemalloc.get_traced_memory()[1] < 40 * 2**20
    finally:
        tracemalloc.stop()
    assert broken.kind in {"bad_json", "too_long"}


def test_a_huge_file_is_refused_by_its_size(tmp_path: Path):
    with (tmp_path / "a.json").open("wb") as file:
        file.truncate(MOST_BYTES + 1)
    (broken,) = read_values(tmp_path / "a.json")
    assert broken.kind == "too_large" and broken.whole


def test_too_many_rows_spoil_the_file(tmp_path: Path, monkeypatch: pytest.MonkeyPatch):
    monkeypatch.setattr(json_rows, "MOST_ROWS", 3)
    assert kinds(read(tmp_path / "a.json", "[1, 2, 3]")) == [1, 2, 3]
    assert kinds(read(tmp_path / "a.jsonl", "1\n2\n3\n4\n5")) == [1, 2, 3, "too_large"]


@settings(max_examples=300, deadline=None, suppress_health_check=[HealthCheck.function_scoped_fixture])
@given(st.data())
def test_no_bytes_at_all_raise_anything(tmp_path: Path, data: st.DataObject):
    whole = json.dumps([{"text": "é", "n": 1.5}, {"a": [{}, None]}], ensure_ascii=data.draw(st.booleans())).encode()
    start, end = sorted(data.draw(st.tuples(*[st.integers(0, len(whole))] * 2)))
    content = whole[:start] + data.draw(st.binary(max_size=20)) + whole[end:]
    for name in ("a.json", "a.jsonl"):
        for value in read(tmp_path / name, content):
            assert not isinstance(value, Broken) or (value.message.isprintable() and value.remedy)
