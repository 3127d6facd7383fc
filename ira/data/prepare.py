"""Manifest rows in, a folder of codec-token shards out, with a report of every row refused and why.

The shards are those that `ira.data.shards` reads. Each is written aside and renamed, its `shard-*.json` last, so a
killed run takes up where it was and ends with the same bytes. Many machines can share the work without a word to each
other: they make the same plan, and each takes every n-th shard of it into a folder of its own.
"""

from __future__ import annotations

import dataclasses
import hashlib
import json
import re
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from rich.console import Console
from rich.progress import track

from ira.audio.codec import Codec
from ira.checkpoint import sha256_of, write_aside
from ira.config import AugmentConfig
from ira.data.manifest import Problem, Row, read_manifest
from ira.data.shards import FORMAT, Fingerprint, count_parts, mismatch, part_folder, read_meta, shard_file
from ira.data.text import CharTokenizer
from ira.data.workers import Task, make_here, make_in_pool, make_on_ray
from ira.errors import InputError

ROWS_PER_SHARD = 256


@dataclass(frozen=True)
class PrepareReport:
    """What became of every row: `rows` (and copies) are in the shards, each of `refused` says why it is not."""

    rows: int
    hours: float
    refused: list[Problem]
    notes: list[Problem]

    def as_dict(self) -> dict[str, Any]:
        """The report as plain JSON values."""
        return dataclasses.asdict(self)


def prepare(
    manifests: Sequence[str | Path],
    out: str | Path,
    codec: Codec,
    tokenizer: CharTokenizer,
    *,
    workers: int = 1,
    max_seconds: float = 20.0,
    augment: AugmentConfig | None = None,
    shard: tuple[int, int] | None = None,
    ray: str | None = None,
    progress: bool = True,
) -> PrepareReport:
    """Make token shards of the manifests in the folder `out`; shards that are already there and still true are kept.

    The bytes written depend on the rows, the codec and `augment` alone, not on `workers`, on machines, or on how often
    the run was killed. `extra` gains `duration` (seconds, measured) and `written` (the text before it was normalised);
    a changed copy, which follows its row, says in `augmented` what was done to it.

    Args:
        workers: processes, or Ray actors, with one thread and a copy of the codec each.
        shard: (i, n) makes the i-th (from 0) of n parts, for the i-th of n machines. Without it all shards are made,
            in parts where `out` already holds parts.
        ray: address of a Ray cluster to work on; "local" starts one on this machine for the time.

    Raises:
        InputError: `out` holds tokens of another codec, tokenizer, manifest or division, or cannot be written; no row
            could be used; or Ray is not there.
    """
    folder = Path(out)
    mine, parts = _division(folder, shard)
    rows, problems = _read_all(manifests)
    groups = [rows[start : start + ROWS_PER_SHARD] for start in range(0, len(rows), ROWS_PER_SHARD)]
    settings = [max_seconds, augment.model_dump() if augment and augment.copies else None]
    meta = _meta(codec, tokenizer, [str(path) for path in manifests], groups, settings)
    tasks: dict[int, list[Task]] = {}
    for part in mine:
        home = part_folder(folder, part, parts)
        _claim(home, {**meta, "part": f"{part}/{parts}"} if parts > 1 else meta)
        tasks[part] = [
            Task(home, number, groups[number], max_seconds, augment, _key(meta, groups[number], max_seconds, augment))
            for number in range(part, len(groups), parts)
        ]
        _forget_stale(home, tasks[part], codec.codebooks)
    todo = [t for part in mine for t in tasks[part] if not shard_file(t.folder, "shard", t.number).exists()]
    _run(todo, codec, tokenizer, workers, ray, progress)
    reports = [
        # What is wrong with a manifest is everybody's; the first part says it for all.
        _finish(part_folder(folder, part, parts), tasks[part], [] if part else problems, codec.frame_rate)
        for part in mine
    ]
    return _total(folder, reports, rows_expected=shard is None or any(tasks.values()))


def _division(folder: Path, shard: tuple[int, int] | None) -> tuple[list[int], int]:
    """Which parts are to be made, of how many."""
    there = count_parts(folder)
    if shard is None:
        return list(range(there or 1)), there or 1
    part, parts = shard
    if not 0 <= part < parts:
        raise InputError(f"shard {part}/{parts}; 0/{parts} to {max(parts - 1, 0)}/{parts} are wanted; count from 0")
    if there not in (None, parts):
        raise InputError(
            f"{folder}: holds tokens in {there} part(s), not {parts}; keep to that, or give another folder"
        )
    return [part], parts


def _run(
    tasks: list[Task], codec: Codec, tokenizer: CharTokenizer, workers: int, ray: str | None, progress: bool
) -> None:
    if not tasks:
        return
    workers = min(workers, len(tasks))
    if ray:
        done = make_on_ray(tasks, codec, tokenizer, workers, ray)
    elif workers > 1:
        done = make_in_pool(tasks, codec, tokenizer, workers)
    else:
        done = make_here(tasks, codec, tokenizer)
    for _ in track(done, "codec tokens", len(tasks), console=Console(stderr=True), disable=not progress):
        pass


def _read_all(manifests: Sequence[str | Path]) -> tuple[list[Row], list[Problem]]:
    rows: list[Row] = []
    problems: list[Problem] = []
    for path in manifests:
        found_rows, found_problems = read_manifest(path)
        rows += [row for row in found_rows if row.audio]
        problems += found_problems
    return rows, problems


def _finish(folder: Path, tasks: list[Task], problems: list[Problem], frame_rate: float) -> PrepareReport:
    """Add up the shards and write `report.json`. A row without audio is only a note to others; here it is refused."""
    shards = [json.loads(shard_file(folder, "shard", task.number).read_bytes()) for task in tasks]
    refused = [problem for problem in problems if not problem.is_note or problem.kind == "no_audio"]
    refused += [Problem(**problem) for shard in shards for problem in shard["refused"]]
    notes = [problem for problem in problems if problem.is_note and problem.kind != "no_audio"]
    hours = sum(shard["frames"] for shard in shards) / frame_rate / 3600
    report = PrepareReport(sum(shard["rows"] for shard in shards), hours, refused, notes)
    _write_json(folder / "report.json", report.as_dict())
    return report


def _total(folder: Path, reports: list[PrepareReport], rows_expected: bool) -> PrepareReport:
    """All parts' reports as one; a machine that got no shard, because there are so few, has done its work as well."""
    total = PrepareReport(
        sum(report.rows for report in reports),
        sum(report.hours for report in reports),
        [problem for report in reports for problem in report.refused],
        [note for report in reports for note in report.notes],
    )
    if rows_expected and not total.rows:
        raise InputError(f"{folder}: none of {len(total.refused)} rows could be used; see report.json there")
    return total


def _meta(
    codec: Codec, tokenizer: CharTokenizer, manifests: list[str], groups: list[list[Row]], settings: list[Any]
) -> dict[str, Any]:
    """`plan` stands for rows and settings: parts with different ones are not of one whole."""
    plan = hashlib.sha256(json.dumps(settings).encode())
    for group in groups:
        plan.update(json.dumps([vars(row) for row in group], default=str).encode())
    return {
        "format": FORMAT,
        "fingerprint": {"codec": codec.fingerprint(), "tokenizer": tokenizer.fingerprint()},
        "codebooks": codec.codebooks,
        "codebook_size": codec.codebook_size,
        "frame_rate": codec.frame_rate,
        "rows_per_shard": ROWS_PER_SHARD,
        "shards": len(groups),
        "plan": plan.hexdigest()[:16],
        "manifests": manifests,
    }


def _claim(folder: Path, meta: dict[str, Any]) -> None:
    """Make the folder and its `meta.json`, unless it holds other tokens: those are never overwritten."""
    if (folder / "meta.json").exists():
        old = read_meta(folder)
        there, wanted = Fingerprint(**old["fingerprint"]), Fingerprint(**meta["fingerprint"])
        if there != wanted:
            raise InputError(mismatch(folder, there, wanted))
        if old.get("part") != meta.get("part"):
            raise InputError(f"{folder}: is part {old.get('part')} of a folder; give the folder that holds all parts")
        if other := [path for path in old["manifests"] if path not in meta["manifests"]]:
            raise InputError(f"{folder}: holds tokens of {other[0]}; give that manifest as well, or another folder")
    try:
        folder.mkdir(parents=True, exist_ok=True)
    except OSError as error:
        raise InputError(f"{folder}: cannot be made ({error.strerror}); give another folder for the shards") from None
    _write_json(folder / "meta.json", meta)


def _forget_stale(folder: Path, tasks: list[Task], codebooks: int) -> None:
    """Remove shards that are damaged or no longer true, and what a killed run left half written."""
    keys = {task.number: task.key for task in tasks}
    stale = [path for name in ("shard", "index", "codes", "meta", "report") for path in folder.glob(f".{name}-*")]
    numbered = (re.fullmatch(r"shard-(\d{5,})\.json", path.name) for path in folder.glob("shard-*.json"))
    for number in (int(name[1]) for name in numbered if name):
        if not _is_true(folder, number, keys.get(number), codebooks):
            stale += [shard_file(folder, name, number) for name in ("shard", "index", "codes")]
    try:
        for path in stale:
            path.unlink(missing_ok=True)
    except OSError as error:
        raise InputError(f"{folder}: old shards cannot be removed ({error.strerror}); give another folder") from None


def _is_true(folder: Path, number: int, key: str | None, codebooks: int) -> bool:
    """Whether the shard is whole and was made of what `key` stands for."""
    try:
        done = json.loads(shard_file(folder, "shard", number).read_bytes())
        if done["key"] != key or shard_file(folder, "codes", number).stat().st_size != done["frames"] * codebooks * 2:
            return False
        return all(sha256_of(shard_file(folder, name, number)) == done["sha256"][name] for name in ("codes", "index"))
    except (OSError, ValueError, KeyError, TypeError):
        return False


def _key(meta: dict[str, Any], rows: list[Row], max_seconds: float, augment: AugmentConfig | None) -> str:
    """Hash of what the shard's bytes depend on; a recording counts by its size and time of change."""
    settings = [FORMAT, meta["fingerprint"], max_seconds]
    settings += [augment.model_dump()] if augment and augment.copies else []
    digest = hashlib.sha256(json.dumps(settings).encode())
    for row in rows:
        digest.update(json.dumps([vars(row), _stamp(row.audio)], default=str).encode())
    return digest.hexdigest()


def _stamp(path: Path | None) -> tuple[int, int] | None:
    """None for a recording that went away since the manifest was read; its row will be refused."""
    try:
        state = path.stat() if path else None
    except OSError:
        return None
    return (state.st_size, state.st_mtime_ns) if state else None


def _write_json(path: Path, value: Any) -> None:
    """Only where it says something new, so that a finished folder may lie where nothing can be written."""
    content = json.dumps(value, indent=1).encode()
    if path.is_file() and path.read_bytes() == content:
        return
    with write_aside(path) as aside:
        aside.write_bytes(content)
