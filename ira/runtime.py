"""Names from the configuration in; a device, threads, seeds and a run folder out."""

from __future__ import annotations

import os
import random
from contextlib import AbstractContextManager, nullcontext
from pathlib import Path

import numpy as np
import torch

from ira.errors import InputError


def pick_device(name: str = "auto") -> torch.device:
    """`auto` is the first of cuda, mps, cpu that this machine has; any other name is that device or an error.

    Raises:
        InputError: torch does not know the name, or the machine does not have the device.
    """
    present = {"cuda": torch.cuda.is_available(), "mps": torch.backends.mps.is_available(), "cpu": True}
    if name == "auto":
        return torch.device(next(kind for kind, there in present.items() if there))
    try:
        device = torch.device(name)
    except RuntimeError:
        device = None
    if device is None or device.type not in present:
        raise InputError(f"device {name!r} is unknown; give auto, cpu, cuda, cuda:N or mps")
    if not present[device.type] or (device.type == "cuda" and (device.index or 0) >= torch.cuda.device_count()):
        raise InputError(f"device {name!r} is not on this machine; give auto or cpu, or install a torch built for it")
    return device


def pick_threads(n: int | None) -> int:
    """Let torch compute with `n` CPU threads (None: its own choice) and return how many it uses.

    One thread is the better choice for decoding one sentence on a busy machine: the threads wait for one another.
    """
    if n is not None and n < 1:
        raise InputError(f"{n} threads; give 1 or more, or leave it out")
    if n is not None:
        torch.set_num_threads(n)
    return torch.get_num_threads()


def cache_folder() -> Path:
    """Where IRA keeps what it can make again: IRA_CACHE, else ~/.cache/ira."""
    return Path(os.environ.get("IRA_CACHE") or Path.home() / ".cache" / "ira").expanduser()


def seed_everything(seed: int) -> None:
    """Seed the global generators of random, numpy and torch (every device)."""
    random.seed(seed)
    np.random.seed(seed % 2**32)  # numpy takes 32 bits
    torch.manual_seed(seed)


def autocast(device: torch.device, dtype_name: str) -> AbstractContextManager[object]:
    """`bf16`: matrix products in bfloat16, parameters stay as they are. `fp32`: nothing changes."""
    if dtype_name == "fp32":
        return nullcontext()
    if dtype_name == "bf16":
        return torch.autocast(device.type, dtype=torch.bfloat16)
    raise InputError(f"dtype {dtype_name!r} is unknown; give bf16 or fp32")


def run_folder(path: str | Path) -> Path:
    """Make the folder of a run, with its parents.

    Raises:
        InputError: it cannot be made.
    """
    path = Path(path)
    try:
        path.mkdir(parents=True, exist_ok=True)
    except OSError as error:
        raise InputError(f"{path}: the run folder cannot be made ({error.strerror}); set run_dir elsewhere") from error
    return path
