"""Shards to make in, their files out: in this process, in a pool of processes, or on Ray, by one and the same function.

Whatever does the work has one thread and its own copy of the codec, so the bytes are the same everywhere. A shard's
`shard-*.json` is written last; without it the shard does not count.
"""

from __future__ import annotations

import dataclasses
import hashlib
import json
import logging
import multiprocessing
import os
import pickle
import socket
import threading
from collections.abc import Iterator
from concurrent.futures import ProcessPoolExecutor, as_completed
from concurrent.futures.process import BrokenProcessPool
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
import torch
from torch import Tensor

from ira.audio.augment import apply_change, draw_change
from ira.audio.codec import Codec
from ira.audio.waveform import load_audio
from ira.checkpoint import write_aside
from ira.config import AugmentConfig
from ira.data.manifest import Problem, Row, row_problem
from ira.data.shards import INDEX_COLUMNS, shard_file
from ira.data.text import CharTokenizer, normalize
from ira.errors import InputError

# Rows and seconds decoded at a time, and padded seconds in one call of the codec: they bound the memory of a worker.
_ROWS_AT_ONCE, _SECONDS_AT_ONCE = 64, 1280.0
_BATCH_SECONDS = 60.0


@dataclass(frozen=True)
class Task:
    """One shard to make; `key` stands for all that its bytes depend on."""

    folder: Path
    number: int
    rows: list[Row]
    max_seconds: float
    augment: AugmentConfig | None
    key: str


@dataclass(frozen=True)
class Clip:
    """A row that can be used: its normalised text and its sound [1, N]."""

    row: Row
    text: str
    waveform: Tensor


# The codec and tokenizer of this process, set once: sending them with each shard would cost more than the shard.
_models: dict[str, Any] = {}


def make_here(tasks: list[Task], codec: Codec, tokenizer: CharTokenizer) -> Iterator[int]:
    """Here, on one thread like every worker: more threads would change the last bits of a sum, and so a code."""
    threads = torch.get_num_threads()
    try:
        _set_models(codec, tokenizer)
        yield from map(make_shard, tasks)
    finally:
        _models.clear()
        torch.set_num_threads(threads)


def make_in_pool(tasks: list[Task], codec: Codec, tokenizer: CharTokenizer, workers: int) -> Iterator[int]:
    """In fresh processes (a fork of a process with torch threads can hang); plain pickle keeps out of /dev/shm."""
    pool = ProcessPoolExecutor(
        workers,
        mp_context=multiprocessing.get_context("spawn"),
        initializer=_start_worker,
        initargs=(pickle.dumps((codec, tokenizer)),),
    )
    try:
        for future in as_completed([pool.submit(make_shard, task) for task in tasks]):
            yield future.result()
    except BrokenProcessPool:
        raise InputError("a worker process died (out of memory?); run again with fewer workers, it resumes") from None
    finally:
        pool.shutdown(cancel_futures=True)


def make_on_ray(tasks: list[Task], codec: Codec, tokenizer: CharTokenizer, workers: int, address: str) -> Iterator[int]:
    """On the Ray cluster at `address`, or on one started here for the time ("local"), by at most `workers` actors.

    Every machine of the cluster sees the recordings and the shards under the same paths and has this package.
    """
    os.environ.setdefault("RAY_USAGE_STATS_ENABLED", "0")
    try:
        import ray  # pyright: ignore[reportMissingImports]
        import ray.data  # pyright: ignore[reportMissingImports]
    except ImportError:
        raise InputError('Ray Data is not installed; pip install "ira[ray]", or do without --ray') from None
    quiet = {"logging_level": logging.ERROR, "log_to_driver": False}
    try:
        _reach(address)
        ray.init(address=address, **quiet, **({"include_dashboard": False} if address == "local" else {}))
        logging.getLogger("ray.data").setLevel(logging.ERROR)
        ray.data.DataContext.get_current().enable_progress_bars = False
        models = ray.put(pickle.dumps((codec, tokenizer)))  # held here, so that an actor can be started again
        made = ray.data.from_items(
            [{"task": pickle.dumps(task)} for task in tasks], override_num_blocks=len(tasks)
        ).map(
            RayWorker,
            fn_constructor_args=(models,),
            compute=ray.data.ActorPoolStrategy(min_size=1, max_size=workers),
            num_cpus=1,
        )
        for row in made.iter_rows():
            if row["error"]:
                raise InputError(row["error"])
            yield row["number"]
    except (ray.exceptions.RayError, OSError, ValueError) as error:
        lines = str(error).strip().splitlines() or [type(error).__name__]
        reason = " ... ".join(dict.fromkeys((lines[0][:160], lines[-1][:160])))  # a traceback's last line is its cause
        raise InputError(f"Ray at {address}: {reason}; mend that and run again, it resumes") from None
    finally:
        ray.shutdown()


def _reach(address: str) -> None:
    """Ray itself would wait for minutes for a machine that is not there."""
    host, colon, port = address.removeprefix("ray://").rpartition(":")
    if colon and port.isdecimal():
        socket.create_connection((host, int(port)), timeout=10).close()


class RayWorker:
    """What a Ray actor holds: the models of its process. An error comes back as words, not as Ray's own exception."""

    def __init__(self, models: Any) -> None:
        import ray  # pyright: ignore[reportMissingImports]

        _set_models(*pickle.loads(ray.get(models)))

    def __call__(self, row: dict[str, Any]) -> dict[str, Any]:
        task: Task = pickle.loads(row["task"])
        try:
            return {"number": make_shard(task), "error": ""}
        except InputError as error:
            return {"number": task.number, "error": str(error)}


def _start_worker(pickled: bytes) -> None:
    threading.Thread(target=_end_with_parent, daemon=True).start()
    _set_models(*pickle.loads(pickled))


def _end_with_parent() -> None:
    """A pool whose parent was killed would wait for work for ever, with a codec each in memory."""
    parent = multiprocessing.parent_process()
    if parent is not None:
        parent.join()
        os._exit(1)


def _set_models(codec: Codec, tokenizer: CharTokenizer) -> None:
    torch.set_num_threads(1)
    _models.update(codec=codec, tokenizer=tokenizer)


def make_shard(task: Task) -> int:
    """Write one shard with the models of this process, `shard-*.json` last; return its number.

    Raises:
        InputError: a file cannot be written.
    """
    codes: list[np.ndarray] = []
    lines: list[str] = []
    refused: list[Problem] = []
    offset, start = 0, 0
    while start < len(task.rows):
        clips, problems, start = _load(task, start)
        refused += problems
        for clip, clip_codes in zip(clips, _encode(_models["codec"], clips), strict=True):
            lines.append(_index_line(clip, offset, len(clip_codes)))
            codes.append(clip_codes)
            offset += len(clip_codes)
    content = {"codes": b"".join(clip_codes.tobytes() for clip_codes in codes), "index": "".join(lines).encode()}
    for name, written in content.items():
        _write(task, name, written)
    hashes = {name: hashlib.sha256(written).hexdigest() for name, written in content.items()}
    refusals = [dataclasses.asdict(problem) for problem in refused]
    done = {"key": task.key, "rows": len(lines), "frames": offset, "sha256": hashes, "refused": refusals}
    _write(task, "shard", json.dumps(done, indent=1).encode())
    return task.number


def _write(task: Task, name: str, content: bytes) -> None:
    with write_aside(shard_file(task.folder, name, task.number)) as aside:
        aside.write_bytes(content)


def _load(task: Task, start: int) -> tuple[list[Clip], list[Problem], int]:
    """Clips of the rows from `start` on, the problems of those that cannot be used, and where to go on.

    A row's changed copies follow it.
    """
    clips: list[Clip] = []
    problems: list[Problem] = []
    copies = task.augment.copies if task.augment else 0
    rate, seconds, end = _models["codec"].sample_rate, 0.0, start
    most = start + max(_ROWS_AT_ONCE // (1 + copies), 1)
    while end < min(most, len(task.rows)) and seconds < _SECONDS_AT_ONCE:
        found = _open(task.rows[end], task.max_seconds)
        end += 1
        if isinstance(found, Problem):
            problems.append(found)
            continue
        clips += [found, *(_changed(found, task, copy) for copy in range(1, copies + 1))]
        seconds += (1 + copies) * found.waveform.shape[-1] / rate
    return clips, problems, end


def _open(row: Row, max_seconds: float) -> Clip | Problem:
    kind = "unspeakable_text"
    try:
        text = normalize(row.text, row.language)
        _models["tokenizer"].encode(text)
        kind = "bad_audio"
        return Clip(row, text, load_audio(row.audio or "", _models["codec"].sample_rate, max_seconds=max_seconds))
    except InputError as error:
        return row_problem(row, kind, error)


def _changed(clip: Clip, task: Task, copy: int) -> Clip:
    """Copy number `copy`, of at most `max_seconds`. What was measured or said of the recording follows or is left out.

    A voice that moved in pitch is another speaker's.
    """
    assert task.augment is not None
    row, rate = clip.row, _models["codec"].sample_rate
    recording = f"{row.source.name} {row.number}"
    change = draw_change(task.augment, recording, row.speaker or recording, copy)
    slowest = clip.waveform.shape[-1] / rate / task.max_seconds
    change = dataclasses.replace(change, speed=max(change.speed, slowest))
    waveform = apply_change(clip.waveform, change, rate)[:, : int(task.max_seconds * rate)]
    done = {"copy": copy, "speed": change.speed, "semitones": change.semitones, "snr_db": change.snr_db}
    factors = {"f0_median_hz": 2 ** (change.semitones / 12), "words_per_second": change.speed}
    measured = {k: row.extra[k] * by for k, by in factors.items() if isinstance(row.extra.get(k), (int, float))}
    row = dataclasses.replace(row, description="", extra={**row.extra, **measured, "augmented": done})
    if change.semitones:
        speaker = f"{row.speaker} {change.semitones:+g} semitones" if row.speaker else ""
        row = dataclasses.replace(row, speaker=speaker, speaker_id=None)
    return Clip(row, clip.text, waveform)


@torch.inference_mode()
def _encode(codec: Codec, clips: list[Clip]) -> list[np.ndarray]:
    """Codes [T, K] uint16 of every clip, encoded beside others of like length."""
    first = next(codec.parameters(), None) if isinstance(codec, torch.nn.Module) else None
    device = first.device if first is not None else torch.device("cpu")
    waveforms = [clip.waveform for clip in clips]
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


def _index_line(clip: Clip, offset: int, frames: int) -> str:
    row, seconds = clip.row, clip.waveform.shape[-1] / _models["codec"].sample_rate
    extra = {**row.extra, "duration": round(seconds, 3), **({"written": row.text} if row.text else {})}
    words = {column: getattr(row, column) for column in INDEX_COLUMNS}
    place = {"source": str(row.source), "row": row.number}
    return json.dumps({"offset": offset, "frames": frames, "text": clip.text, **words, "extra": extra, **place}) + "\n"
