"""Manifest rows in, a folder of codec-token shards out, with a report of every row refused and why.

The shards are those that `ira.data.shards` reads. Each is written aside and renamed, its `shard-*.json` last, so a
killed run takes up where it was and ends with the same bytes.
"""

from __future__ import annotations

import dataclasses
import hashlib
import json
import multiprocessing
import os
import pickle
from collections.abc import Iterator, Sequence
from concurrent.futures import ProcessPoolExecutor, as_completed
from concurrent.futures.process import BrokenProcessPool
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
import torch
from rich.console import Console
from rich.progress import track
from torch import Tensor

from ira.audio.codec import Codec
from ira.audio.waveform import load_audio
from ira.data.manifest import Problem, Row, read_manifest, row_problem
from ira.data.shards import FORMAT, INDEX_COLUMNS, Fingerprint, mismatch, read_meta, shard_file
from ira.data.text import CharTokenizer, normalize
from ira.errors import InputError

ROWS_PER_SHARD = 256
# Rows decoded at a time, and padded seconds in one call of the codec: they bound the memory of a worker.
_ROWS_AT_ONCE = 64
_BATCH_SECONDS = 60.0


@dataclass(frozen=True)
class PrepareReport:
    """What became of every row: `rows` are in the shards, each of `refused` says why it is not."""

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
    progress: bool = True,
) -> PrepareReport:
    """Make token shards of the manifests in the folder `out`; shards that are already there and still true are kept.

    The bytes written depend on the rows and the codec alone, not on `workers` or on how often the run was killed.
    A worker is a process with one thread and its own copy of the codec. `extra` gains `duration` (seconds, measured)
    and `written` (the text before it was normalised).

    Raises:
        InputError: `out` holds tokens of another codec, tokenizer or manifest, or cannot be written; or no row could be
            used.
    """
    folder = Path(out)
    rows, problems = _read_all(manifests)
    groups = [rows[start : start + ROWS_PER_SHARD] for start in range(0, len(rows), ROWS_PER_SHARD)]
    meta = _meta(codec, tokenizer, [str(path) for path in manifests], len(groups))
    _claim(folder, meta)
    tasks = [_Task(folder, i, group, max_seconds, _key(meta, group, max_seconds)) for i, group in enumerate(groups)]
    _forget_stale(folder, tasks, codec.codebooks)
    todo = [task for task in tasks if not shard_file(folder, "shard", task.number).exists()]
    _run(todo, codec, tokenizer, workers, progress)
    return _finish(folder, tasks, problems, codec.frame_rate)


@dataclass(frozen=True)
class _Task:
    """One shard to make; `key` stands for all that its bytes depend on."""

    folder: Path
    number: int
    rows: list[Row]
    max_seconds: float
    key: str


# The codec and tokenizer of this process, set once: sending them with each shard would cost more than the shard.
_models: dict[str, Any] = {}


def _run(tasks: list[_Task], codec: Codec, tokenizer: CharTokenizer, workers: int, progress: bool) -> None:
    workers = min(workers, len(tasks))
    done = _pool(tasks, codec, tokenizer, workers) if workers > 1 else _in_turn(tasks, codec, tokenizer)
    hidden = not progress or not tasks
    for _ in track(done, "codec tokens", len(tasks), console=Console(stderr=True), disable=hidden):
        pass


def _in_turn(tasks: list[_Task], codec: Codec, tokenizer: CharTokenizer) -> Iterator[int]:
    """Here, on one thread like every worker: more threads would change the last bits of a sum, and so a code."""
    threads = torch.get_num_threads()
    try:
        _set_models(codec, tokenizer)
        yield from map(_make_shard, tasks)
    finally:
        _models.clear()
        torch.set_num_threads(threads)


def _pool(tasks: list[_Task], codec: Codec, tokenizer: CharTokenizer, workers: int) -> Iterator[int]:
    """In fresh processes (a fork of a process with torch threads can hang); plain pickle keeps out of /dev/shm."""
    pool = ProcessPoolExecutor(
        workers,
        mp_context=multiprocessing.get_context("spawn"),
        initializer=_start_worker,
        initargs=(pickle.dumps((codec, tokenizer)),),
    )
    try:
        for future in as_completed([pool.submit(_make_shard, task) for task in tasks]):
            yield future.result()
    except BrokenProcessPool:
        raise InputError("a worker process died (out of memory?); run again with fewer workers, it resumes") from None
    finally:
        pool.shutdown(cancel_futures=True)


def _start_worker(pickled: bytes) -> None:
    _set_models(*pickle.loads(pickled))


def _set_models(codec: Codec, tokenizer: CharTokenizer) -> None:
    torch.set_num_threads(1)
    _models.update(codec=codec, tokenizer=tokenizer)


def _make_shard(task: _Task) -> int:
    """Write one shard, `shard-*.json` last; return its number."""
    codes: list[np.ndarray] = []
    lines: list[str] = []
    refused: list[Problem] = []
    offset = 0
    for start in range(0, len(task.rows), _ROWS_AT_ONCE):
        spoken, problems = _load(task.rows[start : start + _ROWS_AT_ONCE], task.max_seconds)
        refused += problems
        encoded = _encode(_models["codec"], [waveform for _, _, waveform in spoken])
        for (row, text, waveform), row_codes in zip(spoken, encoded, strict=True):
            seconds = waveform.shape[-1] / _models["codec"].sample_rate
            lines.append(_index_line(row, text, seconds, offset, len(row_codes)))
            codes.append(row_codes)
            offset += len(row_codes)
    _write(shard_file(task.folder, "codes", task.number), b"".join(row_codes.tobytes() for row_codes in codes))
    _write(shard_file(task.folder, "index", task.number), "".join(lines).encode())
    refusals = [dataclasses.asdict(problem) for problem in refused]
    done = {"key": task.key, "rows": len(lines), "frames": offset, "refused": refusals}
    _write(shard_file(task.folder, "shard", task.number), json.dumps(done, indent=1).encode())
    return task.number


def _load(rows: list[Row], max_seconds: float) -> tuple[list[tuple[Row, str, Tensor]], list[Problem]]:
    """(row, normalised text, waveform [1, N]) of every row that can be used, and the problems of the others."""
    spoken: list[tuple[Row, str, Tensor]] = []
    problems: list[Problem] = []
    for row in rows:
        kind = "unspeakable_text"
        try:
            text = normalize(row.text, row.language)
            _models["tokenizer"].encode(text)
            kind = "bad_audio"
            waveform = load_audio(row.audio or "", _models["codec"].sample_rate, max_seconds=max_seconds)
            spoken.append((row, text, waveform))
        except InputError as error:
            problems.append(row_problem(row, kind, error))
    return spoken, problems


@torch.inference_mode()
def _encode(codec: Codec, waveforms: list[Tensor]) -> list[np.ndarray]:
    """Codes [T, K] uint16 of every waveform [1, N], encoded beside others of like length."""
    first = next(codec.parameters(), None) if isinstance(codec, torch.nn.Module) else None
    device = first.device if first is not None else torch.device("cpu")
    encoded: dict[int, np.ndarray] = {}
    for batch in _like_lengths([waveform.shape[-1] for waveform in waveforms], int(_BATCH_SECONDS * codec.sample_rate)):
        samples = torch.tensor([waveforms[i].shape[-1] for i in batch])
        padded = torch.nn.utils.rnn.pad_sequence([waveforms[i][0] for i in batch], batch_first=True)
        tokens = codec.encode(padded[:, None].to(device), samples.to(device))
        for i, codes, frames in zip(batch, tokens.codes.cpu(), tokens.frames.tolist(), strict=True):
            encoded[i] = codes[:, :frames].T.numpy().astype("<u2")
    return [encoded[i] for i in range(len(waveforms))]


def _like_lengths(lengths: list[int], most: int) -> Iterator[list[int]]:
    """Indices in batches, shortest first; a batch is `most` samples padded, or a single longer one."""
    batch: list[int] = []
    for i in sorted(range(len(lengths)), key=lambda i: (lengths[i], i)):
        if batch and lengths[i] * (len(batch) + 1) > most:
            yield batch
            batch = []
        batch.append(i)
    if batch:
        yield batch


def _index_line(row: Row, text: str, seconds: float, offset: int, frames: int) -> str:
    extra = {**row.extra, "duration": round(seconds, 3), **({"written": row.text} if row.text else {})}
    words = {column: getattr(row, column) for column in INDEX_COLUMNS}
    place = {"source": str(row.source), "row": row.number}
    return json.dumps({"offset": offset, "frames": frames, "text": text, **words, "extra": extra, **place}) + "\n"


def _read_all(manifests: Sequence[str | Path]) -> tuple[list[Row], list[Problem]]:
    rows: list[Row] = []
    problems: list[Problem] = []
    for path in manifests:
        found_rows, found_problems = read_manifest(path)
        rows += [row for row in found_rows if row.audio]
        problems += found_problems
    return rows, problems


def _finish(folder: Path, tasks: list[_Task], problems: list[Problem], frame_rate: float) -> PrepareReport:
    """Add up the shards and write `report.json`. A row without audio is only a note to others; here it is refused."""
    shards = [json.loads(shard_file(folder, "shard", task.number).read_bytes()) for task in tasks]
    refused = [problem for problem in problems if not problem.is_note or problem.kind == "no_audio"]
    refused += [Problem(**problem) for shard in shards for problem in shard["refused"]]
    notes = [problem for problem in problems if problem.is_note and problem.kind != "no_audio"]
    hours = sum(shard["frames"] for shard in shards) / frame_rate / 3600
    report = PrepareReport(sum(shard["rows"] for shard in shards), hours, refused, notes)
    _write(folder / "report.json", json.dumps(report.as_dict(), indent=1).encode())
    if not report.rows:
        raise InputError(f"{folder}: none of {len(refused)} rows could be used; see {folder / 'report.json'}")
    return report


def _meta(codec: Codec, tokenizer: CharTokenizer, manifests: list[str], shards: int) -> dict[str, Any]:
    return {
        "format": FORMAT,
        "fingerprint": {"codec": codec.fingerprint(), "tokenizer": tokenizer.fingerprint()},
        "codebooks": codec.codebooks,
        "codebook_size": codec.codebook_size,
        "frame_rate": codec.frame_rate,
        "rows_per_shard": ROWS_PER_SHARD,
        "shards": shards,
        "manifests": manifests,
    }


def _claim(folder: Path, meta: dict[str, Any]) -> None:
    """Make the folder and its `meta.json`, unless it holds other tokens: those are never overwritten."""
    if (folder / "meta.json").exists():
        old = read_meta(folder)
        there, wanted = Fingerprint(**old["fingerprint"]), Fingerprint(**meta["fingerprint"])
        if there != wanted:
            raise InputError(mismatch(folder, there, wanted))
        if other := [path for path in old["manifests"] if path not in meta["manifests"]]:
            raise InputError(f"{folder}: holds tokens of {other[0]}; give that manifest as well, or another folder")
    try:
        folder.mkdir(parents=True, exist_ok=True)
    except OSError as error:
        raise InputError(f"{folder}: cannot be made ({error.strerror}); give another folder for the shards") from None
    _write(folder / "meta.json", json.dumps(meta, indent=1).encode())


def _forget_stale(folder: Path, tasks: list[_Task], codebooks: int) -> None:
    """Remove shards that are damaged or no longer true, and what a killed run left half written."""
    keys = {task.number: task.key for task in tasks}
    for path in folder.glob("shard-*.json"):
        number = int(path.stem.partition("-")[2])
        if not _is_true(folder, number, keys.get(number), codebooks):
            for name in ("shard", "index", "codes"):
                shard_file(folder, name, number).unlink(missing_ok=True)
    for path in folder.glob(".*.tmp"):
        path.unlink(missing_ok=True)


def _is_true(folder: Path, number: int, key: str | None, codebooks: int) -> bool:
    """Whether the shard is whole and was made of what `key` stands for."""
    try:
        done = json.loads(shard_file(folder, "shard", number).read_bytes())
        size = shard_file(folder, "codes", number).stat().st_size
        lines = shard_file(folder, "index", number).read_bytes().count(b"\n")
        return done["key"] == key and size == done["frames"] * codebooks * 2 and lines == done["rows"]
    except (OSError, ValueError, KeyError, TypeError):
        return False


def _key(meta: dict[str, Any], rows: list[Row], max_seconds: float) -> str:
    """Hash of what the shard's bytes depend on; a recording counts by its size and time of change."""
    digest = hashlib.sha256(json.dumps([FORMAT, meta["fingerprint"], max_seconds]).encode())
    for row in rows:
        state = row.audio.stat() if row.audio and row.audio.exists() else None
        stamp = (state.st_size, state.st_mtime_ns) if state else None
        digest.update(json.dumps([vars(row), stamp], default=str).encode())
    return digest.hexdigest()


def _write(path: Path, content: bytes) -> None:
    """Aside, to the disk, then renamed: the name never stands for half a file."""
    aside = path.with_name(f".{path.name}.{os.getpid()}.tmp")
    try:
        with aside.open("wb") as file:
            file.write(content)
            file.flush()
            os.fsync(file.fileno())
        aside.replace(path)
    except OSError as error:
        raise InputError(f"{path}: cannot be written ({error.strerror}); free space or give another folder") from None
