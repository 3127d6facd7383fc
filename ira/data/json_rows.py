"""A .json file (one list) or .jsonl file (a value a line) in; its values one at a time out, each within bounds.

No more than a few rows are held at a time, however long the file or a line of it is. What cannot be read becomes a
`Broken` in its place: of one line, or of the whole file, which then ends.
"""

from __future__ import annotations

import codecs
import json
import re
from collections import Counter
from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path
from typing import Any, BinaryIO, TextIO

# Bounds of memory: of the reader, and of whoever keeps the rows. A million rows are some 2,000 hours.
MOST_BYTES = 512 * 2**20
MOST_ROWS = 1_000_000
LONGEST_ROW = 2**20
DEEPEST = 32
_PIECE = 4 * LONGEST_ROW
_MOST_DIGITS = 100
_SPACE = re.compile(r"[ \t\n\r]*")


@dataclass(frozen=True)
class Broken:
    """What stands where a row cannot be read; `whole` where that spoils the file."""

    kind: str
    message: str
    remedy: str
    whole: bool = False


class Object(dict[str, Any]):
    """A JSON object that remembers the keys given twice; plain JSON keeps the last one without a word."""

    repeated: tuple[str, ...] = ()


def read_values(path: Path) -> Iterator[Any]:
    """Every row of the file, or a `Broken` in its place. Objects come as `Object`, NaN and infinity as None.

    Numbers too large for a float come as infinity. Nothing is raised for a file that is there.
    """
    try:
        if fault := _unfit(path):
            yield fault
            return
        rows = _lines(path) if path.suffix == ".jsonl" else _listed(path)
        for number, row in enumerate(rows):
            if number == MOST_ROWS:
                yield _whole("too_large", f"holds more than {MOST_ROWS:,} rows", "split it into several manifests")
                return
            yield row
    except OSError as error:
        yield _whole("bad_json", f"cannot be read ({error.strerror})", "check the file and who may read it")


def _whole(kind: str, message: str, remedy: str) -> Broken:
    return Broken(kind, message, remedy, whole=True)


def _unfit(path: Path) -> Broken | None:
    """What can be told from the first bytes and the size."""
    if (size := path.stat().st_size) > MOST_BYTES:
        return _whole("too_large", f"has {size:,} bytes, at most {MOST_BYTES:,} are read", "split it into several")
    with path.open("rb") as file:
        head = file.read(4096)
    if head.startswith((codecs.BOM_UTF16_LE, codecs.BOM_UTF16_BE)):
        return _whole("bad_json", "is UTF-16 text, UTF-8 is wanted", "save it as UTF-8")
    if b"\0" in head:
        return _whole("bad_json", "is binary, JSON text is wanted", "give the .json or .jsonl manifest")
    return None


def _lines(path: Path) -> Iterator[Any]:
    """The value of every line that is not blank."""
    with path.open("rb") as file:
        if file.read(3) != codecs.BOM_UTF8:
            file.seek(0)
        while line := file.readline(LONGEST_ROW + 1):
            if len(line) > LONGEST_ROW:
                _skip_line(file, line)
                yield Broken("too_long", f"the line has more than {LONGEST_ROW:,} bytes", "write one row a line")
            elif line.strip():
                yield _line(line)


def _skip_line(file: BinaryIO, line: bytes) -> None:
    while line and not line.endswith(b"\n"):
        line = file.readline(LONGEST_ROW)


def _line(line: bytes) -> Any:
    try:
        return _bounded(_DECODER.decode(line.decode("utf-8")))
    except UnicodeDecodeError as error:
        return Broken("bad_json", f"the line is not UTF-8 text (byte {error.start})", "save the file as UTF-8")
    except json.JSONDecodeError as error:
        return Broken("bad_json", f"the line is not JSON ({error.msg}, character {error.pos})", "correct the line")
    except RecursionError:
        return _TOO_DEEP


def _listed(path: Path) -> Iterator[Any]:
    """The values of the one list in the file. A break in it spoils the whole: what follows cannot be told apart."""
    with path.open(encoding="utf-8-sig", newline="") as file:
        window = _Window(file)
        try:
            yield from window.items()
        except UnicodeDecodeError:
            yield _whole("bad_json", "is not UTF-8 text", "save it as UTF-8")
        except json.JSONDecodeError as error:
            place = f"line {window.line + error.doc.count(chr(10), 0, error.pos)}"
            yield _whole("bad_json", f"is not JSON ({error.msg}, {place})", "correct it there")
        except RecursionError:
            yield _whole("too_deep", f"is not read: brackets nest too deep, line {window.line} or after", "flatten it")


class _Window:
    """A text file, seen through a window that shows the next row as a whole unless it is too long."""

    def __init__(self, file: TextIO) -> None:
        self.file, self.text, self.at, self.line = file, "", 0, 1

    def items(self) -> Iterator[Any]:
        if self._next() != "[":
            kind = {"{": "an object"}.get(self._next(), "a single value")
            self._value()  # what is no JSON at all is called so
            yield _whole("wrong_type", f"holds {kind}, not a list", "write a list of row objects, or name it .jsonl")
            return
        self.at += 1
        closed = self._next() == "]"
        while not closed:
            yield self._row()
            closed = self._next() == "]"
            self._expect("]" if closed else ",")
        self.at += closed
        if self._next():
            raise json.JSONDecodeError("something follows the list", self.text, self.at)

    def _row(self) -> Any:
        self._next()
        start, row = self.at, self._value()
        if self.at - start > LONGEST_ROW:
            return Broken("too_long", f"the row has more than {LONGEST_ROW:,} characters", "shorten it")
        return _bounded(row)

    def _value(self) -> Any:
        value, self.at = _DECODER.raw_decode(self.text, self.at)
        return value

    def _expect(self, character: str) -> None:
        if self._next() != character:
            raise json.JSONDecodeError("a comma or ] is missing", self.text, self.at)
        self.at += character == ","

    def _next(self) -> str:
        """The next character that is no white space, with a whole row behind it in the window; "" at the end."""
        while True:
            self._fill()
            self.at += len(_SPACE.match(self.text, self.at)[0])  # type: ignore[index]  # it always matches
            if len(self.text) - self.at > LONGEST_ROW or not self._fill():
                return self.text[self.at : self.at + 1]

    def _fill(self) -> bool:
        """Move the window on where less than a row is left in it; whether there was more in the file."""
        if len(self.text) - self.at > LONGEST_ROW:
            return False
        piece = self.file.read(_PIECE)
        if piece:
            self.line += self.text.count("\n", 0, self.at)
            self.text, self.at = self.text[self.at :] + piece, 0
        return bool(piece)


def _bounded(row: Any) -> Any:
    """The row, or what is wrong inside it."""
    level, depth, twice = [row], 0, []
    while level:
        depth += 1
        if depth > DEEPEST:
            return _TOO_DEEP
        twice += [key for value in level if isinstance(value, Object) for key in value.repeated]
        level = [inner for value in level for inner in _inside(value)]
    if twice:
        return Broken("duplicate_key", f"{twice[0][:60]!r} is given twice", "keep one")
    return row


def _inside(value: Any) -> list[Any]:
    return list(value.values()) if isinstance(value, dict) else value if isinstance(value, list) else []


def _object(pairs: list[tuple[str, Any]]) -> Object:
    made = Object(pairs)
    if len(made) < len(pairs):
        made.repeated = tuple(key for key, times in Counter(key for key, _ in pairs).items() if times > 1)
    return made


def _integer(digits: str) -> int | float:
    """Reading an integer takes time by the square of its digits."""
    return int(digits) if len(digits) <= _MOST_DIGITS else float(digits)


_TOO_DEEP = Broken("too_deep", f"brackets nest more than {DEEPEST} deep", "flatten the row")
_DECODER = json.JSONDecoder(object_pairs_hook=_object, parse_int=_integer, parse_constant=lambda _: None)
