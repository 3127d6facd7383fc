"""One row of a manifest in; what is wrong with its columns, and the JSON schema of every row, out.

`COLUMNS` is the one place that says what a known column may hold: the reader checks against it, and the published
schema is made of it. What a schema cannot say (keys given twice, depth, files that are not there) the reader checks.
"""

from __future__ import annotations

import re
from collections.abc import Iterator
from dataclasses import dataclass, field
from typing import Any

# Control characters and halves of surrogate pairs, which no file name, terminal or tokenizer can take.
_UNPRINTABLE = r"\u0000-\u0008\u000b\u000c\u000e-\u001f\u007f-\u009f\ud800-\udfff"
# A name is printed in reports and compared by eye: line ends and what turns the reading direction would forge it.
_FORGING = r"\t\n\r\u2028\u2029\u202a-\u202e\u2066-\u2069"
# A path must lead to the same file below the manifest on every system.
_OUTSIDE = r"^[/\\]|^[A-Za-z]:[/\\]|(^|[/\\])\.\.([/\\]|$)"
# An hour of fast speech has 90,000 characters; a recording used for training lasts seconds.
LONGEST_TEXT, LONGEST_NAME, LONGEST_PATH = 20_000, 1_000, 4_000
_LONGEST_SECONDS = 1e6
_LONGEST_ID = 2**63 - 1


@dataclass(frozen=True)
class Rule:
    """What a value of one JSON type must keep to; patterns mean the same in Python and in ECMA-262."""

    wanted: str
    type: str
    longest: int = 0
    unfit: str = ""
    outside: str = ""
    least: float = 0
    most: float = 0

    def schema(self) -> dict[str, Any]:
        """The rule in JSON Schema."""
        if self.type != "string":
            return {"type": self.type, "minimum": self.least, "maximum": self.most}
        unwanted = [{"pattern": pattern} for pattern in (self.unfit, self.outside) if pattern]
        return {"type": "string", "maxLength": self.longest, "not": {"anyOf": unwanted}}

    def fault(self, value: Any) -> tuple[str, str, str] | None:
        """(kind, what it is, remedy) of a value that breaks the rule."""
        if not self._is_type(value):
            return "wrong_type", f"is {shown(value)}, {self.wanted} is wanted", "correct it or leave it out"
        if self.type != "string":
            good = self.least <= value <= self.most
            return None if good else ("wrong_type", f"is {shown(value)}, {self.wanted} is wanted", "correct it")
        if len(value) > self.longest:
            return "too_long", f"has {len(value)} characters, at most {self.longest} are wanted", "cut the row"
        if found := re.search(self.unfit, value):
            return "bad_character", f"holds {found[0]!a}, which cannot be printed", "remove the character"
        if self.outside and re.search(self.outside, value):
            return "outside_path", f"{value[:200]!r} is not below the manifest's folder", _BESIDE
        return None

    def _is_type(self, value: Any) -> bool:
        if isinstance(value, bool):
            return False
        if self.type == "integer":  # 3.0 is an integer to JSON, and what a table with gaps makes of 3
            return isinstance(value, int) or (isinstance(value, float) and value.is_integer())
        return isinstance(value, str if self.type == "string" else (int, float))


@dataclass(frozen=True)
class Column:
    """A known column: what it may hold besides null, which stands for absent, and what it means."""

    rules: tuple[Rule, ...]
    meaning: str
    schema: dict[str, Any] = field(init=False)

    def __post_init__(self) -> None:
        either = [{"type": "null"}, *(rule.schema() for rule in self.rules)]
        object.__setattr__(self, "schema", {"description": self.meaning, "anyOf": either})

    def fault(self, value: Any) -> tuple[str, str, str] | None:
        """(kind, what it is, remedy) of a value that no rule allows; the last rule's words."""
        faults = [None] if value is None else [rule.fault(value) for rule in self.rules]
        return None if None in faults else faults[-1]


_BESIDE = "put the recording under the manifest's folder and write its relative path"
_WORDS = Rule("text", "string", LONGEST_TEXT, f"[{_UNPRINTABLE}]")
_NAME = Rule("text", "string", LONGEST_NAME, f"[{_FORGING}{_UNPRINTABLE}]")
_PATH = Rule("a relative path", "string", LONGEST_PATH, f"[{_FORGING}{_UNPRINTABLE}]", _OUTSIDE)
_INTEGER = Rule("an integer of at most 19 digits", "integer", least=-_LONGEST_ID, most=_LONGEST_ID)
_SECONDS = Rule("a number of seconds from 0", "number", least=0, most=_LONGEST_SECONDS)

COLUMNS = {
    "audio_file": Column((_PATH,), "path of the recording, relative to the manifest's folder and below it"),
    "text": Column((_WORDS,), "the exact transcript, as written"),
    "speaker_id": Column((_INTEGER,), "names the speaker where `speaker` is absent"),
    "speaker": Column((_NAME,), "groups clips of one voice; unique over all manifests of a run"),
    "description": Column((_WORDS,), "the voice in words"),
    "language": Column((_NAME,), "code such as en, de, nl, de-AT; en where absent"),
    "instruction": Column((_WORDS,), "with `response`: a prompt about the recording"),
    "response": Column((_WORDS,), "the answer to learn for `instruction`"),
    "emotion": Column((_NAME,), "one word such as angry"),
    "duration": Column((_SECONDS,), "seconds"),
    "split": Column((_NAME,), "the manifest's file name without suffix where absent"),
    "id": Column((_INTEGER, _NAME), "names the row; unique in its manifest"),
}
# One of these must say something, or there is nothing to learn from.
NEEDED = ("audio_file", "text", "instruction")


def faults(row: dict[str, Any]) -> Iterator[tuple[str, str, str]]:
    """(kind, message, remedy) for everything wrong with the known columns of a row."""
    for name, column in COLUMNS.items():
        if fault := column.fault(row.get(name)):
            kind, message, remedy = fault
            yield kind, f"{name} {message}", remedy
    if not any(row.get(name) for name in NEEDED):
        yield "empty_row", "neither audio_file nor text nor instruction", "fill one or drop the row"


def row_schema() -> dict[str, Any]:
    """The JSON schema (draft 2020-12) of one row: `faults` finds something exactly where it does."""
    some = {"type": "string", "minLength": 1}
    return {
        "$schema": "https://json-schema.org/draft/2020-12/schema",
        "title": "IRA manifest row",
        "description": "One object of the list in a .json manifest, or one line of a .jsonl manifest.",
        "type": "object",
        "properties": {name: column.schema for name, column in COLUMNS.items()},
        "anyOf": [{"required": [name], "properties": {name: some}} for name in NEEDED],
        "additionalProperties": True,
    }


def shown(value: Any) -> str:
    """A value and its JSON type, short and printable."""
    name = "object" if isinstance(value, dict) else "array" if isinstance(value, list) else type(value).__name__
    return f"{str(value)[:60]!r} ({name})"
