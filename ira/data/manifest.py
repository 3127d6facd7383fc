"""A manifest (JSON list or JSON lines, beside its audio) in; checked rows and a named problem for every other row out.

A row is an object with `audio_file` (relative to the manifest's folder), `text` and `speaker_id`; optional columns
are `speaker`, `description`, `language`, `instruction`, `response`, `emotion`, `duration` and `split`. Other columns
are kept in `extra`.
"""

from __future__ import annotations

import dataclasses
import json
import math
import os
from collections import Counter
from collections.abc import Iterator, Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

from ira.audio.waveform import SAMPLE_RATE, load_audio
from ira.data.text import normalize
from ira.errors import InputError

_TEXT_COLUMNS = ("audio_file", "text", "speaker", "description", "language")
_TEXT_COLUMNS += ("instruction", "response", "emotion", "split")
_COLUMNS = {*_TEXT_COLUMNS, "speaker_id", "duration"}
# A row with such a problem is used all the same.
NOTES = ("empty_text", "no_audio")


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

    Kinds: bad_json, wrong_type, duplicate_key, outside_path, missing_file, empty_row, bad_audio, unspeakable_text; and
    the notes empty_text, no_audio.
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


@dataclass(frozen=True)
class Report:
    """What `validate` found: `rows` can be used, each problem that is no note stands for one that cannot."""

    rows: int
    hours: float
    speakers: int
    languages: dict[str, int]
    problems: list[Problem]

    @property
    def unusable(self) -> int:
        return sum(not problem.is_note for problem in self.problems)

    def as_dict(self) -> dict[str, Any]:
        """The report as plain JSON values."""
        return {**dataclasses.asdict(self), "unusable": self.unusable}


class _Object(dict[str, Any]):
    """A JSON object that remembers the keys given twice; plain JSON keeps the last one without a word."""

    repeated: tuple[str, ...] = ()


def read_manifest(path: str | Path) -> tuple[list[Row], list[Problem]]:
    """Rows of a split folder (train/ with train.json or train.jsonl), a .json or a .jsonl file, and their problems.

    A row with a problem that is no note is left out; nothing else is.

    Raises:
        InputError: there is no manifest at `path`.
    """
    manifest = find_manifest(Path(path))
    rows: list[Row] = []
    problems: list[Problem] = []
    for number, entry in _entries(manifest):
        if isinstance(entry, Problem):
            problems.append(entry)
            continue
        row, found = _check_row(entry, manifest, number)
        problems += found
        rows += [row] if row else []
    return rows, problems


def validate(paths: Sequence[str | Path], *, check_audio: bool = True) -> Report:
    """Read the manifests as `prepare` would: every text is normalised and, if `check_audio`, every recording decoded.

    Without `check_audio` the hours are those that the `duration` columns claim.
    """
    rows: list[Row] = []
    problems: list[Problem] = []
    seconds = 0.0
    for path in paths:
        found_rows, found_problems = read_manifest(path)
        problems += found_problems
        for row in found_rows:
            problem, duration = _try_row(row, check_audio)
            problems += [problem] if problem else []
            rows += [] if problem else [row]
            seconds += duration
    speakers = {row.speaker for row in rows if row.speaker}
    languages = dict(Counter(row.language for row in rows))
    return Report(len(rows), seconds / 3600, len(speakers), languages, problems)


def find_manifest(path: Path) -> Path:
    """The manifest file that `path` means: itself, or NAME.json / NAME.jsonl in the folder NAME."""
    if path.is_file():
        return path
    if not path.is_dir():
        raise InputError(f"{path}: no such file or folder; give a .json or .jsonl manifest, or a split folder")
    name = path.resolve().name
    found = [path / f"{name}{suffix}" for suffix in (".json", ".jsonl") if (path / f"{name}{suffix}").is_file()]
    if len(found) == 1:
        return found[0]
    if found:
        raise InputError(f"{path}: holds both {found[0].name} and {found[1].name}; name the one that is meant")
    others = sorted(p.name for p in path.iterdir() if p.suffix in (".json", ".jsonl"))
    hint = f"give one of {', '.join(others[:5])} by name" if others else "put a manifest there"
    raise InputError(f"{path}: holds no {name}.json or {name}.jsonl; {hint}")


def row_problem(row: Row, kind: str, error: InputError) -> Problem:
    """An InputError met while working on `row`; the part after its last semicolon is the remedy."""
    message, _, remedy = str(error).rpartition("; ")
    return Problem(str(row.source), row.number, kind, message, remedy)


def _try_row(row: Row, check_audio: bool) -> tuple[Problem | None, float]:
    """The problem that would keep `row` from being used, and its seconds."""
    kind, duration = "unspeakable_text", row.duration or 0.0
    try:
        normalize(row.text, row.language)
        kind = "bad_audio"
        if check_audio and row.audio:
            duration = load_audio(row.audio).shape[-1] / SAMPLE_RATE
    except InputError as error:
        return row_problem(row, kind, error), 0.0
    return None, duration


def _entries(manifest: Path) -> Iterator[tuple[int, Any]]:
    """Number and JSON value of every row, or a Problem in place of one that is not JSON."""
    try:
        text = manifest.read_text(encoding="utf-8-sig")
    except (OSError, UnicodeDecodeError) as error:
        yield 0, Problem(str(manifest), None, "bad_json", f"cannot be read ({error})", "save it as UTF-8 text")
        return
    if manifest.suffix == ".jsonl":
        lines = [line for line in text.split("\n") if line.strip()]
        yield from ((number, _parse(line, manifest, number)) for number, line in enumerate(lines))
        return
    parsed = _parse(text, manifest, None)
    if isinstance(parsed, list):
        yield from enumerate(parsed)
    elif isinstance(parsed, Problem):
        yield 0, parsed
    else:
        message = f"holds a JSON {type(parsed).__name__.strip('_').lower()}, not a list"
        yield 0, Problem(str(manifest), None, "wrong_type", message, "write a list of row objects, or use .jsonl")


def _parse(text: str, manifest: Path, number: int | None) -> Any:
    """The JSON value, with NaN and infinity (which are not JSON, but common in measured columns) as None."""
    try:
        return json.loads(
            text,
            object_pairs_hook=_object,
            parse_constant=lambda _: None,
            parse_float=lambda digits: value if math.isfinite(value := float(digits)) else None,
        )
    except (ValueError, RecursionError) as error:
        return Problem(str(manifest), number, "bad_json", f"not valid JSON ({error})", "correct the JSON")


def _object(pairs: list[tuple[str, Any]]) -> _Object:
    made = _Object(pairs)
    if len(made) < len(pairs):
        made.repeated = tuple(key for key, times in Counter(key for key, _ in pairs).items() if times > 1)
    return made


def _check_row(entry: Any, manifest: Path, number: int) -> tuple[Row | None, list[Problem]]:
    def problem(kind: str, message: str, remedy: str) -> Problem:
        return Problem(str(manifest), number, kind, message, remedy)

    if not isinstance(entry, _Object):
        kind = type(entry).__name__
        return None, [problem("wrong_type", f"the row is a {kind}, not an object", "write {...} for each row")]
    found = [problem("duplicate_key", f"{key!r} is given twice", "keep one") for key in entry.repeated]
    found += [problem("wrong_type", *words) for words in _wrong_types(entry)]
    if found:
        return None, found
    row = _build_row(entry, manifest, number)
    if row.audio is None and not (row.text or row.instruction):
        return None, [problem("empty_row", "neither audio_file nor text nor instruction", "fill one or drop the row")]
    if row.audio is None:
        return row, [problem("no_audio", "no audio_file; the row is text only", "add one to make tokens of it")]
    if not _inside(manifest.parent, row.audio):
        message = f"audio_file {entry['audio_file']!r} lies outside {manifest.parent}"
        return None, [problem("outside_path", message, "move the recording beside the manifest")]
    if not row.audio.is_file():
        return None, [problem("missing_file", f"{row.audio} is not there", "add the file or drop the row")]
    if not row.text.strip():
        return row, [problem("empty_text", "no text; it cannot teach speaking", "add the transcript if it is known")]
    return row, []


def _wrong_types(entry: dict[str, Any]) -> Iterator[tuple[str, str]]:
    """(message, remedy) for every known column that is not of its type; null stands for absent."""
    for column in _TEXT_COLUMNS:
        value = entry.get(column)
        if value is not None and not (isinstance(value, str) and _is_unicode(value)):
            yield f"{column} is {_shown(value)}, text is wanted", "quote it or leave it out"
    speaker = entry.get("speaker_id")
    if speaker is not None and (not isinstance(speaker, int) or isinstance(speaker, bool)):
        yield f"speaker_id is {_shown(speaker)}, an integer is wanted", "use the column speaker for names"
    duration = entry.get("duration")
    if duration is not None and (not isinstance(duration, (int, float)) or isinstance(duration, bool) or duration < 0):
        yield f"duration is {_shown(duration)}, seconds are wanted", "give a number or leave it out"


def _build_row(entry: dict[str, Any], manifest: Path, number: int) -> Row:
    words = {column: entry.get(column) or "" for column in _TEXT_COLUMNS}
    audio, speaker_id = words.pop("audio_file"), entry.get("speaker_id")
    words["language"] = words["language"].lower() or "en"
    words["split"] = words["split"] or manifest.stem
    words["speaker"] = words["speaker"] or ("" if speaker_id is None else str(speaker_id))
    return Row(
        audio=manifest.parent / audio if audio else None,
        speaker_id=speaker_id,
        duration=entry.get("duration"),
        number=number,
        source=manifest,
        extra={key: value for key, value in entry.items() if key not in _COLUMNS},
        **words,
    )


def _inside(folder: Path, path: Path) -> bool:
    """By name alone: a link inside the folder may lead anywhere, since whoever made the folder put it there."""
    root = os.path.abspath(folder)
    return os.path.commonpath([root, os.path.abspath(path)]) == root


def _is_unicode(value: str) -> bool:
    """False for half of a surrogate pair or a zero character, which no file name or terminal can take."""
    return "\0" not in value and not any("\ud800" <= character <= "\udfff" for character in value)


def _shown(value: Any) -> str:
    return f"{str(value)!r} ({type(value).__name__.strip('_').lower()})"[:80]
