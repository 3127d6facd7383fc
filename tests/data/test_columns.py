"""Rows that are good and bad, for the reader's own checks and for the published schema alike."""

from __future__ import annotations

import json
import re
from pathlib import Path
from typing import Any

import pytest

from ira.data.columns import COLUMNS, LONGEST_PATH, LONGEST_TEXT, faults

SCHEMA = json.loads((Path(__file__).parents[2] / "docs" / "manifest.schema.json").read_text(encoding="utf-8"))
WORDS = ("text", "description", "instruction", "response")
NAMES = ("speaker", "language", "emotion", "split", "id")
GOOD = [
    {"audio_file": "a.wav"},
    {"text": "a"},
    {"instruction": " "},
    {"audio_file": None, "text": "a", "speaker_id": None, "duration": None, "id": None},
    {"audio_file": "audio_files/..a/b..c/...wav", "text": "", "speaker_id": -3, "duration": 0},
    {"audio_file": "ä ö/日本.wav", "text": "tab\tand\r\nline", "speaker_id": 3.0, "duration": 1.5},
    {"audio_file": "a.wav", "text": "سلام\u200f \U0001f600", "speaker": "ann\u200d", "id": 2**60},
    {"audio_file": "C:a.wav", "mood": {"x": ["\u0000", True]}, "gender": 3, "id": "x"},
    {"text": "a" * LONGEST_TEXT, "duration": 1e6},
]
BAD: list[dict[str, Any]] = [
    {},
    {"audio_file": "", "text": ""},
    {"audio_file": None, "speaker": "ann", "response": "b"},
    *({"audio_file": path} for path in ("/a.wav", "\\\\host\\a.wav", "C:\\a.wav", "d:/a.wav", "..", "../a.wav")),
    *({"audio_file": path} for path in ("a/../b.wav", "a\\..\\b.wav", "a/..", "a" * (LONGEST_PATH + 1), 5, ["a"])),
    *({"audio_file": f"a{odd}.wav"} for odd in ("\0", "\n", "\t", "\x1b[2J", "\x85", "\ud800", "\u202e", "\u2028")),
    *({"text": "a", column: odd} for column in WORDS for odd in ("\0", "a\x07", "\x9b", "\udfff", 5, True, ["a"], {})),
    *({"text": "a", column: odd} for column in NAMES for odd in ("\0", "a\n", "\u2066a", "a" * 1001, True, ["a"], {})),
    *({"text": "a", "speaker_id": odd} for odd in ("3", 3.5, True, 2**63, -(2**63), 1e300, float("inf"), [3])),
    *({"text": "a", "duration": odd} for odd in ("2s", -1, -0.001, True, 1e7, float("inf"), {})),
    {"text": "a", "id": 2.5},
    {"text": "a" * (LONGEST_TEXT + 1)},
]


def accepts(schema: dict[str, Any], value: Any) -> bool:
    """As much of JSON Schema 2020-12 as our schema uses; an unknown word is an error."""
    plain = {"$schema", "title", "description", "additionalProperties"}
    return all(_holds(word, given, value) for word, given in schema.items() if word not in plain)


def _holds(word: str, given: Any, value: Any) -> bool:
    words, number = type(value) is str, type(value) in (int, float)
    return {
        "type": lambda: {
            "null": value is None,
            "object": isinstance(value, dict),
            "string": words,
            "number": number,
            "integer": number and value == value // 1 and abs(value) != float("inf"),
        }[given],
        "anyOf": lambda: any(accepts(inner, value) for inner in given),
        "not": lambda: not accepts(given, value),
        "properties": lambda: all(accepts(inner, value[key]) for key, inner in given.items() if key in value),
        "required": lambda: set(given) <= set(value),
        "pattern": lambda: not words or bool(re.search(given, value)),
        "minLength": lambda: not words or len(value) >= given,
        "maxLength": lambda: not words or len(value) <= given,
        "minimum": lambda: not number or value >= given,
        "maximum": lambda: not number or value <= given,
    }[word]()


@pytest.mark.parametrize("row", GOOD, ids=lambda row: ascii(row)[:60])
def test_the_checks_and_the_schema_take_a_good_row(row: dict[str, Any]):
    assert list(faults(row)) == []
    assert accepts(SCHEMA, row)


@pytest.mark.parametrize("row", BAD, ids=lambda row: ascii(row)[:60])
def test_the_checks_and_the_schema_refuse_a_bad_row(row: dict[str, Any]):
    for kind, message, remedy in (found := list(faults(row))):
        assert kind in {"wrong_type", "too_long", "bad_character", "outside_path", "empty_row"}
        assert remedy and len(message) < 400 and (message + remedy).isprintable(), message
    assert found
    assert not accepts(SCHEMA, row)


def test_every_known_column_is_in_the_schema_with_its_meaning():
    assert list(SCHEMA["properties"]) == list(COLUMNS)
    assert all(column["description"] for column in SCHEMA["properties"].values())


def test_the_patterns_mean_the_same_outside_of_python():
    """No class or flag that ECMA-262 reads otherwise: only ranges of code points, anchors and groups."""
    patterns = re.findall(r'"pattern": "(.*)"', json.dumps(SCHEMA, indent=1))
    assert len(patterns) >= len(COLUMNS) - 2
    for pattern in patterns:
        assert not re.search(r"\\[swdbAZ]|\(\?", json.loads(f'"{pattern}"')), pattern
