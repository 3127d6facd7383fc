"""This machine in; what it is, how fast it reads memory, and what several processes gain on it, out."""

from __future__ import annotations

import multiprocessing
import os
import platform
import time
from importlib import metadata
from multiprocessing.synchronize import Barrier
from pathlib import Path
from typing import Any

import torch

from ira.bench.timing import Work, seconds_of

READ_BYTES, TRIES = 512_000_000, 5
GATHERING = 120.0  # seconds for processes to start; one that died must not be waited for


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


def speedup_of(processes: int, seconds: float = 3.0) -> float:
    """How many times as many matrix products are made by so many processes of one thread at once as by one alone.

    Cores that share their arithmetic, their memory or a host with others give less than as many times. No start counts.
    """
    return sum(products(processes, seconds)) / sum(products(1, seconds))


def products(processes: int, seconds: float) -> list[float]:
    """How many each of them makes, beginning together."""
    context = multiprocessing.get_context("spawn")
    gate, made = context.Barrier(processes), context.Array("d", processes)
    started = [context.Process(target=_multiply, args=(gate, made, place, seconds)) for place in range(processes)]
    for process in started:
        process.start()
    for process in started:
        process.join()
    return made[:]


def _multiply(gate: Barrier, made: Any, place: int, seconds: float) -> None:
    torch.set_num_threads(1)
    factor = torch.randn(512, 512)
    gate.wait(timeout=GATHERING)
    end = time.perf_counter() + seconds
    while time.perf_counter() < end:
        torch.mm(factor, factor)
        made[place] += 1


def _processor() -> str:
    """The name on the box, where the system tells it."""
    try:
        lines = Path("/proc/cpuinfo").read_text().splitlines()
    except OSError:
        lines = []
    named = next((line.partition(":")[2].strip() for line in lines if line.startswith("model name")), None)
    return named or platform.processor() or platform.machine()
