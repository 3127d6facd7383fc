"""Tensors and plain figures of a running stage in, a checkpoint folder out; and back, on any number of processes.

STAGE/step-00000120/ holds one safetensors file a process, written by torch.distributed.checkpoint (weights, Adam's
moments; no pickle), and last state.json: progress, what the stage was built on, and the sha256 of every file and of
itself. A folder is written aside and renamed, so that it is whole or not there. best-... holds weights alone, and is
kept as long as a checkpoint counts on it.
"""

from __future__ import annotations

import hashlib
import json
import os
import shutil
import warnings
from pathlib import Path
from typing import Any

from safetensors import SafetensorError
from torch import Tensor
from torch.distributed.checkpoint.api import CheckpointException
from torch.distributed.checkpoint.hf_storage import HuggingFaceStorageReader, HuggingFaceStorageWriter
from torch.distributed.checkpoint.state_dict_loader import load
from torch.distributed.checkpoint.state_dict_saver import save

from ira.checkpoint import sha256_of
from ira.console import warn
from ira.errors import InputError
from ira.processes import exchange, first_does, rank, world

FORMAT = 2
NOTE = "state.json"


def write_checkpoint(folder: Path, tensors: dict[str, Tensor], note: dict[str, Any]) -> None:
    """Write the folder aside, note its hashes, rename it. Every process calls it with its own part.

    Raises:
        InputError: it cannot be written (full disk, no permission); what was there before is as it was.
    """
    aside = folder.with_name(f".{folder.name}.partial")
    first_does(lambda: shutil.rmtree(aside, ignore_errors=True))
    failure, hashes = "", dict[str, str]()
    try:
        _save(aside, tensors)
        hashes = {path.name: sha256_of(path) for path in aside.glob(f"shard-{rank() + 1:05d}-*")}
    except (OSError, SafetensorError, CheckpointException) as error:
        failure = _reason(error)
        if isinstance(_cause(error), KeyboardInterrupt):  # the second one, which ends at once
            raise KeyboardInterrupt from None
    told = exchange((failure, hashes))
    failure = next((why for why, _ in told if why), "")
    files = {name: digest for _, each in told for name, digest in each.items()}
    if not failure:
        failure = exchange(_rename(aside, folder, {**note, "format": FORMAT, "files": files}) if rank() == 0 else "")[0]
    if failure:
        first_does(lambda: shutil.rmtree(aside, ignore_errors=True))
        raise InputError(
            f"{folder}: the checkpoint cannot be written ({failure}); the one before is good: make room or give "
            "another run_dir, and run the same command again"
        )


def _save(folder: Path, tensors: dict[str, Tensor]) -> None:
    writer = HuggingFaceStorageWriter(str(folder), save_distributed=True)
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")  # that a single process is a single process
        save(tensors, storage_writer=writer, no_dist=world() == 1)


def _rename(aside: Path, folder: Path, note: dict[str, Any]) -> str:
    """Finish the folder; what went wrong, in words, or nothing. A folder of that name is one that nobody counts on."""
    try:
        with open(aside / NOTE, "w", encoding="utf-8") as file:
            file.write(json.dumps({**note, "sha256": _hash(note)}, indent=1) + "\n")
            file.flush()
            os.fsync(file.fileno())
        if folder.exists():
            shutil.rmtree(folder)
        os.rename(aside, folder)
    except OSError as error:
        return _reason(error)
    return ""


def read_checkpoint(folder: Path, tensors: dict[str, Tensor]) -> None:
    """Fill the tensors in place from a folder that any number of processes wrote.

    Raises:
        InputError: the folder holds other tensors than these, or files that cannot be read.
    """
    reader = HuggingFaceStorageReader(str(folder))
    try:
        there = reader.read_metadata().state_dict_metadata
    except Exception as error:  # a file that only looks like one comes as any error, from KeyError to SafetensorError
        raise _unreadable(folder, error) from None
    wrong = sorted(there.keys() ^ tensors.keys()) or [name for name in tensors if not _fits(there[name], tensors[name])]
    if wrong:
        raise InputError(
            f"{folder}: is of another model ({wrong[0]} does not fit); use another run_dir, or the configuration of "
            "this one"
        )
    try:
        with warnings.catch_warnings():
            warnings.simplefilter("ignore")
            load(tensors, storage_reader=reader, no_dist=world() == 1)
    except CheckpointException as error:
        raise _unreadable(folder, error) from None


def _fits(there: Any, tensor: Tensor) -> bool:
    return tuple(there.size) == tuple(tensor.shape) and there.properties.dtype == tensor.dtype


def _unreadable(folder: Path, error: BaseException) -> InputError:
    return InputError(
        f"{folder}: cannot be read ({_reason(error)}); delete it, and the same command goes on from the one before"
    )


def newest_good(folder: Path) -> tuple[Path, dict[str, Any]] | None:
    """The latest checkpoint that is whole, as is the best one that it counts on if there is such a pair, with its note.

    Damaged ones are named and passed over: the steps since are done again, and end where they ended then.

    Raises:
        InputError: there are some, and none is whole.
    """
    told = exchange(_newest_good(folder) if rank() == 0 else None)[0]
    if isinstance(told, str):
        raise InputError(told)
    return told


def _newest_good(folder: Path) -> tuple[Path, dict[str, Any]] | str | None:
    """What the first process finds, or why nothing of it can be used."""
    found = sorted(folder.glob("step-*"), reverse=True)
    for path in found:
        note = _with_best(folder, read_note(path))
        if isinstance(note, dict):
            return path, note
        warn(f"{path}: {note}; passed over")
    for path in found:  # better without the best weights so far than not at all
        note = read_note(path)
        if isinstance(note, dict):
            warn(f"{path}: taken up without the best weights so far; validation looks for better ones from here on")
            return path, {**note, "progress": {**note["progress"], "best": None, "best_step": 0}}
    return f"{folder}: no checkpoint is whole; delete the folder to start this stage anew" if found else None


def _with_best(folder: Path, note: dict[str, Any] | str) -> dict[str, Any] | str:
    """The note where its best-... is whole, else what is wrong with that."""
    best = _best_of(folder, note) if isinstance(note, dict) else None
    why = read_note(best) if best else None
    return f"its {best.name} is damaged: {why}" if best and isinstance(why, str) else note


def _best_of(folder: Path, note: dict[str, Any]) -> Path | None:
    """The best-... that a checkpoint counts on; none before the first validation."""
    step = note["progress"]["best_step"]
    return best_folder(folder, step) if step > 0 else None


def read_best(folder: Path, step: int, tensors: dict[str, Tensor]) -> None:
    """Fill the tensors with the best weights of the run, those of `step`.

    Raises:
        InputError: they are damaged, or gone.
    """
    path = best_folder(folder, step)
    note = exchange(read_note(path) if rank() == 0 else None)[0]
    if isinstance(note, str):
        raise InputError(f"{path}: {note}; the same command goes on from a checkpoint that is whole")
    read_checkpoint(path, tensors)


def read_note(folder: Path) -> dict[str, Any] | str:
    """state.json, once it and every file that it names have the hash that it gives; else what is wrong."""
    try:
        note = _parse(folder)
        if sorted(note["files"]) != sorted(path.name for path in folder.glob("*.safetensors")):
            return f"its files are not those that {NOTE} names (half copied)"
        for name, digest in note["files"].items():
            if sha256_of(folder / name) != digest:
                return f"{name} does not match its hash (damaged or half copied)"
        return note
    except (OSError, ValueError, KeyError, TypeError, AttributeError, RecursionError) as error:
        return f"{NOTE} cannot be read ({_reason(error)})"


def _parse(folder: Path) -> dict[str, Any]:
    note = json.loads((folder / NOTE).read_text(encoding="utf-8"))
    if note["format"] != FORMAT:
        raise ValueError(f"format {note['format']!r}, this ira reads {FORMAT}")
    if note.pop("sha256") != _hash(note):
        raise ValueError("it does not match its own hash")
    if not isinstance(note["progress"]["best_step"], int):
        raise ValueError("best_step is no whole number")
    return note


def _hash(note: dict[str, Any]) -> str:
    return hashlib.sha256(json.dumps(note, sort_keys=True).encode()).hexdigest()


def keep_last(folder: Path, step: int, count: int) -> None:
    """Delete all but the last `count` checkpoints up to `step`, and every best-... that none of them counts on.

    Later ones are damaged, or the run would have gone on from there.
    """

    def delete() -> None:
        kept = [path for path in sorted(folder.glob("step-*")) if path <= step_folder(folder, step)][-count:]
        wanted = {*kept, *filter(None, map(_kept_best, kept))}
        for path in [*folder.glob("step-*"), *folder.glob("best-*"), *folder.glob(".*.partial")]:
            if path not in wanted:
                shutil.rmtree(path, ignore_errors=True)

    first_does(delete)


def _kept_best(path: Path) -> Path | None:
    try:
        return _best_of(path.parent, _parse(path))
    except (OSError, ValueError, KeyError, TypeError, RecursionError):
        return None  # a damaged checkpoint between good ones counts on nothing


def step_folder(folder: Path, step: int) -> Path:
    return folder / f"step-{step:08d}"


def best_folder(folder: Path, step: int) -> Path:
    return folder / f"best-{step:08d}"


def _reason(error: BaseException) -> str:
    """The innermost cause, in one line."""
    cause = _cause(error)
    return " ".join(str(cause).split())[:160] or type(cause).__name__


def _cause(error: BaseException) -> BaseException:
    failures = getattr(error, "failures", None)  # of torch.distributed.checkpoint: (exception, its stack) by rank
    return _cause(next(iter(failures.values()))[0]) if failures else error
