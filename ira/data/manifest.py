"""A manifest (JSON list or JSON lines, beside its audio) in; checked rows and a named problem for every other row out.

A row is an object with `audio_file` (relative to the manifest's folder), `text` and `speaker_id`; the optional columns
are those of `ira.data.columns`. Other columns are kept in `extra`.
"""

from __future__ import annotations

import math
import os
import unicodedata
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

from ira.data.columns import COLUMNS, faults, shown
from ira.data.json_rows import Broken, Object, read_values
from ira.errors import InputError

# A row with such a problem is used all the same. The last two lines are found by validation alone.
NOTES = ("empty_text", "no_audio")
NOTES += ("text_too_long", "text_too_short", "silent", "clipped", "duration_differs")
NOTES += ("duplicate_audio", "duplicate_text", "duplicate_id", "speaker_in_splits", "audio_in_splits")


@dataclass(frozen=True)
class Row:
    """One recording and what is known of it; absent words are "", `duration` is in seconds."""

    audio: Path | None
    text: str
    speaker: str
    speaker_id: int | None
    description: str
    language: str
    instruction: str
    response: str
    emotion: str
    duration: float | None
    split: str
    number: int
    source: Path
    extra: dict[str, Any] = field(default_factory=dict)


@dataclass(frozen=True)
class Problem:
    """What is wrong with a row (counted from 0; None is the whole file), and what to do about it.

    Kinds: bad_json, too_large, too_long, too_deep, duplicate_key, wrong_type, bad_character, outside_path, empty_row,
    missing_file, unspeakable_text, bad_audio, no_rows; and those of `NOTES`.
    """

    source: str
    row: int | None
    kind: str
    message: str
    remedy: str

    @property
    def is_note(self) -> bool:
        """True where the row is used all the same."""
        return self.kind in NOTES


def read_manifest(path: str | Path) -> tuple[list[Row], list[Problem]]:
    """Rows of a split folder (train/ with train.json or train.jsonl), a .json or a .jsonl file, and their problems.

    A row with a problem that is no note is left out; nothing else is. A file that cannot be trusted as a whole gives
    no rows and one problem, whose row is None.

    Raises:
        InputError: there is no manifest at `path`.
    """
    manifest = find_manifest(Path(path))
    root = os.path.realpath(manifest.parent)
    rows: list[Row] = []
    problems: list[Problem] = []
    for number, entry in enumerate(read_values(manifest)):
        if isinstance(entry, Broken):
            broken = Problem(str(manifest), None if entry.whole else number, entry.kind, entry.message, entry.remedy)
            if entry.whole:
                return [], [broken]
            problems.append(broken)
            continue
        row, found = _check_row(entry, manifest, number, root)
        problems += found
        rows += [row] if row else []
    return rows, problems


def find_manifest(path: Path) -> Path:
    """The manifest file that `path` means: itself, or NAME.json / NAME.jsonl in the folder NAME."""
    if os.path.isfile(path):
        return path
    if not os.path.isdir(path):
        raise InputError(f"{path}: no such file or folder; give a .json or .jsonl manifest, or a split folder")
    name = path.resolve().name
    found = [path / f"{name}{suffix}" for suffix in (".json", ".jsonl") if os.path.isfile(path / f"{name}{suffix}")]
    if len(found) == 1:
        return found[0]
    if found:
        raise InputError(f"{path}: holds both {found[0].name} and {found[1].name}; name the one that is meant")
    others = sorted(place.name for suffix in ("json", "jsonl") for place in path.glob(f"*.{suffix}"))
    hint = f"give one of {', '.join(others[:5])} by name" if others else "put a manifest there"
    raise InputError(f"{path}: holds no {name}.json or {name}.jsonl; {hint}")


def row_problem(row: Row, kind: str, error: InputError) -> Problem:
    """An InputError met while working on `row`; the part after its last semicolon is the remedy."""
    message, _, remedy = str(error).rpartition("; ")
    return Problem(str(row.source), row.number, kind, message, remedy)


def _check_row(entry: Any, manifest: Path, number: int, root: str) -> tuple[Row | None, list[Problem]]:
    """The row and its notes, or None and why; `root` is the manifest's folder without links."""

    def problem(kind: str, message: str, remedy: str) -> Problem:
        return Problem(str(manifest), number, kind, message, remedy)

    if not isinstance(entry, Object):
        return None, [problem("wrong_type", f"the row is {shown(entry)}, not an object", "write {...} for each row")]
    if found := [problem(*fault) for fault in faults(entry)]:
        return None, found
    row = _build_row(entry, manifest, number)
    if row.audio is None:
        return row, [problem("no_audio", "no audio_file; the row is text only", "add one to make tokens of it")]
    if not _below(root, row.audio):
        message = f"audio_file {entry['audio_file']!r} is a link that leads out of the manifest's folder"
        return None, [problem("outside_path", message, "link the whole split folder, or copy the recording")]
    if not os.path.isfile(row.audio):
        return None, [problem("missing_file", f"there is no file {row.audio}", _near(row.audio))]
    if not row.text.strip():
        return row, [problem("empty_text", "no text; it cannot teach speaking", "add the transcript if it is known")]
    return row, []


def _build_row(entry: dict[str, Any], manifest: Path, number: int) -> Row:
    words = {name: entry.get(name) or "" for name in _WORDS}
    audio, speaker_id = entry.get("audio_file"), entry.get("speaker_id")
    speaker_id = None if speaker_id is None else int(speaker_id)
    words["language"] = words["language"].lower() or "en"
    words["split"] = words["split"] or manifest.stem
    words["speaker"] = words["speaker"] or ("" if speaker_id is None else str(speaker_id))
    return Row(
        audio=manifest.parent / audio if audio else None,
        speaker_id=speaker_id,
        duration=entry.get("duration"),
        number=number,
        source=manifest,
        extra={key: _finite(value) for key, value in entry.items() if key not in _FIELDS},
        **words,
    )


_WORDS = ("text", "speaker", "description", "language", "instruction", "response", "emotion", "split")
_FIELDS = {*COLUMNS} - {"id"}


def _finite(value: Any) -> Any:
    """The value with None for infinity, which JSON cannot say again."""
    if isinstance(value, dict):
        return {key: _finite(inner) for key, inner in value.items()}
    if isinstance(value, list):
        return [_finite(inner) for inner in value]
    return None if isinstance(value, float) and math.isinf(value) else value


def _below(root: str, path: Path) -> bool:
    """Whether the file lies below the folder when every link is followed: a folder from elsewhere may hold any."""
    return os.path.commonpath([root, os.path.realpath(path)]) == root


def _near(path: Path) -> str:
    """What to do about a file that is not there: often it only has another suffix, or is written otherwise."""
    forms = [unicodedata.normalize(form, path.name) for form in ("NFC", "NFD")]
    names = [*forms, path.name.lower(), *(path.stem + suffix for suffix in (".wav", ".flac", ".ogg", ".opus", ".mp3"))]
    near = next((name for name in names if name != path.name and os.path.isfile(path.with_name(name))), None)
    return f"there is {near!a}: write that, or rename it" if near else "add the file or drop the row"
