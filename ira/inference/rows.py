"""ROWS.jsonl in; what to speak or to listen to, row by row, out. A bad row is an error in its own place.

Paths in a row are taken as given, from the folder the command runs in, or else from beside the rows file.
"""

from __future__ import annotations

from collections.abc import Callable
from pathlib import Path
from typing import Any, TypeVar

from ira.errors import InputError
from ira.inference.answering import ListenRow
from ira.inference.pipeline import SpeakRow
from ira.inference.voices import parse_mix
from ira.reading import parse_json, read_text

LONGEST_ID = 128  # characters; with a suffix it must fit a file name
Row = TypeVar("Row")


def read_speak_rows(path: Path) -> list[tuple[str, SpeakRow | InputError]]:
    """(id, row) of {"id", "text", "voice", "seed", "language"}; the last three may be absent.

    Raises:
        InputError: the file cannot be read.
    """
    return _read(path, _speak_row)


def read_listen_rows(path: Path) -> list[tuple[str, ListenRow | InputError]]:
    """(id, row) of {"id", "audio", "prompt"}; "audio" is a path, a list of paths, or null.

    Raises:
        InputError: the file cannot be read.
    """
    return _read(path, _listen_row)


def _read(path: Path, build: Callable[[dict[str, Any], Path], Row]) -> list[tuple[str, Row | InputError]]:
    """An id that cannot be read is shown as the line's number."""
    try:
        lines = read_text(path).split("\n")
    except (OSError, ValueError) as error:
        reason = getattr(error, "strerror", None) or error
        raise InputError(f"{path}: cannot be read ({reason}); give a .jsonl file, one object a line") from None
    rows: list[tuple[str, Row | InputError]] = []
    seen: set[str] = set()
    for number, line in enumerate(lines, 1):
        if not line.strip():
            continue
        name = f"line {number}"
        try:
            entry = _parse(line)
            name = _id(entry, seen)
            rows.append((name, build(entry, path.parent)))
        except InputError as error:
            rows.append((name, error))
    return rows


def _parse(line: str) -> dict[str, Any]:
    try:
        entry = parse_json(line)
    except ValueError as error:
        raise InputError(f"not JSON ({' '.join(str(error).split())[:80]}); write one object a line") from None
    if not isinstance(entry, dict):
        raise InputError(f"a JSON {type(entry).__name__}, an object is wanted; write one object a line")
    return entry


def _id(entry: dict[str, Any], seen: set[str]) -> str:
    """The id as text. It becomes a file name, so it may not lead anywhere else."""
    given = entry.get("id")
    if not isinstance(given, (str, int)) or isinstance(given, bool):
        raise InputError(f"id is {given!r:.40}; a name is wanted; give each row an id of its own")
    name = str(given)
    plain = name.isprintable() and not set(name) & set('/\\:*?"<>|') and name.strip(". ") == name
    if not name or not plain or len(name.encode()) > LONGEST_ID:
        raise InputError(f"id {name[:40]!a} cannot be a file name; use letters, digits, - and _")
    if name.lower() in seen:  # some file systems do not tell Case from case
        raise InputError(f"id {name!r} is given twice; give each row an id of its own")
    seen.add(name.lower())
    return name


def _speak_row(entry: dict[str, Any], home: Path) -> SpeakRow:
    text, voice, seed = _text(entry, "text"), _text(entry, "voice"), entry.get("seed")
    if text is None:
        raise InputError('no "text"; give what is to be said')
    if seed is not None and (not isinstance(seed, int) or isinstance(seed, bool)):
        raise InputError(f"seed is {seed!r:.40}, a whole number is wanted; correct it or leave it out")
    pace = entry.get("pace", 1.0)
    if not isinstance(pace, (int, float)) or isinstance(pace, bool):
        raise InputError(f"pace is {pace!r:.40}, a number is wanted; correct it or leave it out")
    language = _text(entry, "language") or "en"
    return SpeakRow(text, voice and _voice_beside(voice, home), seed or 0, language, float(pace))


def _listen_row(entry: dict[str, Any], home: Path) -> ListenRow:
    if "audio" not in entry:
        raise InputError('no "audio"; give a path, a list of paths, or null for text alone')
    audio = entry["audio"]
    if audio is None:
        return ListenRow(None, _text(entry, "prompt"))
    paths = audio if isinstance(audio, list) else [audio]
    if not paths or not all(isinstance(one, str) and one and "\0" not in one for one in paths):
        raise InputError(f"audio is {audio!r:.40}; give a path, a list of paths, or null for text alone")
    return ListenRow([_beside(one, home) for one in paths], _text(entry, "prompt"))


def _voice_beside(given: str, home: Path) -> str:
    """A voice, or each part of a mix, from beside the rows file where it is a file there."""
    mixed = parse_mix(given)
    return "+".join(f"{_beside(part, home)}:{weight:.12f}" for part, weight in mixed) if mixed else _beside(given, home)


def _beside(given: str, home: Path) -> str:
    """The path as given where it leads somewhere, else beside the rows file where that does."""
    try:
        return str(home / given) if not Path(given).exists() and (home / given).is_file() else given
    except (OSError, ValueError):  # words too long for a file name, say
        return given


def _text(entry: dict[str, Any], key: str) -> str | None:
    value = entry.get(key)
    if value is not None and not isinstance(value, str):
        raise InputError(f"{key} is {value!r:.40}, text is wanted; quote it")
    return value
