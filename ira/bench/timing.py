"""Pieces of work in; how long each takes, taken in turns, and what memory it needs, out.

Turns (A B A B) let whatever else the machine does fall on all of them alike.
"""

from __future__ import annotations

import sys
import time
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import torch

from ira.training.meter import peak_memory

MEGA = 1e6
MILLI = 1e3


@dataclass(frozen=True)
class Spread:
    """Median of the repeats, and their lower and upper quartile."""

    median: float
    low: float
    high: float

    def of(self, change: Callable[[float], float]) -> Spread:
        """The same of changed values: of a rate where the seconds were measured, say."""
        low, high = sorted((change(self.low), change(self.high)))
        return Spread(change(self.median), low, high)


Figures = dict[str, Spread | float | int | None]


@dataclass(frozen=True)
class Work:
    """What is timed; `prepare` brings it to its beginning before each time and is not timed."""

    run: Callable[[], Any]
    prepare: Callable[[], Any] = lambda: None


@dataclass(frozen=True)
class Timed:
    """seconds: of one run; megabytes: what tensors took at most in the first run beyond what was there before it.

    None off CUDA: a process keeps freed memory, so that what it takes anew says little.
    """

    seconds: Spread
    megabytes: float | None


def spread(values: Sequence[float]) -> Spread:
    """Median and quartiles, interpolated between neighbours where they fall between two values."""
    low, median, high = torch.tensor(values, dtype=torch.float64).quantile(
        torch.tensor([0.25, 0.5, 0.75], dtype=torch.float64)
    )
    return Spread(float(median), float(low), float(high))


def in_turns(works: Mapping[str, Work], device: torch.device, repeats: int) -> dict[str, Timed]:
    """Every work once for warming up, then all of them `repeats` times, one after another."""
    memory = {name: _first(work, device) for name, work in works.items()}
    took: dict[str, list[float]] = {name: [] for name in works}
    for _ in range(repeats):
        for name, work in works.items():
            took[name].append(seconds_of(work, device))
    return {name: Timed(spread(took[name]), memory[name]) for name in works}


def seconds_of(work: Work, device: torch.device) -> float:
    """Wall clock of one run."""
    work.prepare()
    wait(device)
    started = time.perf_counter()
    work.run()
    wait(device)
    return time.perf_counter() - started


def wait(device: torch.device) -> None:
    """Until the device has done what it was given."""
    if device.type == "cuda":
        torch.cuda.synchronize(device)
    elif device.type == "mps":
        torch.mps.synchronize()


def memory_figures(timed: Mapping[str, Timed]) -> Figures:
    """NAME_mb of each work, where it is known."""
    return {f"{name}_mb": one.megabytes for name, one in timed.items() if one.megabytes is not None}


def _first(work: Work, device: torch.device) -> float | None:
    """The run that warms up, and `Timed.megabytes` of it."""
    work.prepare()
    if device.type != "cuda":
        work.run()
        wait(device)
        return None
    before = torch.cuda.memory_allocated(device)
    torch.cuda.reset_peak_memory_stats(device)
    work.run()
    wait(device)
    return max(torch.cuda.max_memory_allocated(device) - before, 0) / MEGA


def forget_peak() -> None:
    """Count the process's peak from now on, where the system can: on Linux."""
    try:
        Path("/proc/self/clear_refs").write_text("5")
    except OSError:
        pass  # the peak is then that of the process's whole life


def peak() -> float:
    """Bytes of the process's largest resident set since `forget_peak`."""
    if sys.platform != "linux":
        return peak_memory(torch.device("cpu"))
    lines = Path("/proc/self/status").read_text().splitlines()
    found = next((line for line in lines if line.startswith("VmHWM")), None)
    return 1024.0 * int(found.split()[1]) if found else peak_memory(torch.device("cpu"))
