"""This machine in; what it is, and how fast it reads memory, out."""

from __future__ import annotations

import os
import platform
from importlib import metadata
from pathlib import Path
from typing import Any

import torch

from ira.bench.timing import Work, seconds_of

READ_BYTES, TRIES = 512_000_000, 5


def describe(device: torch.device, threads: int | None) -> dict[str, Any]:
    """Names, versions and the load now; `threads` where they were asked for."""
    return {
        "name": torch.cuda.get_device_name(device) if device.type == "cuda" else _processor(),
        "host": platform.node(),
        "system": platform.system(),
        "cores": os.cpu_count(),
        "threads": threads,
        "load": load(),
        "python": platform.python_version(),
        "torch": torch.__version__,
        "transformers": metadata.version("transformers"),
    }


def load() -> float | None:
    """How many processes wanted a core in the last minute, this one among them; None where the system does not tell."""
    return round(os.getloadavg()[0], 2) if hasattr(os, "getloadavg") else None


def read_rate(device: torch.device, size: int = READ_BYTES) -> float:
    """Bytes a second at which numbers are read that fill no cache: the best of some sums over `size` bytes."""
    numbers = torch.ones(max(size // 4, 1), device=device)
    return size / min(seconds_of(Work(numbers.sum), device) for _ in range(TRIES))


def _processor() -> str:
    """The name on the box, where the system tells it."""
    try:
        lines = Path("/proc/cpuinfo").read_text().splitlines()
    except OSError:
        lines = []
    named = next((line.partition(":")[2].strip() for line in lines if line.startswith("model name")), None)
    return named or platform.processor() or platform.machine()
