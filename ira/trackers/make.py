"""The names in `log.trackers` in, trackers out."""

from __future__ import annotations

from collections.abc import Iterable
from pathlib import Path

from ira.errors import InputError
from ira.trackers.base import Tracker
from ira.trackers.console import ConsoleTracker
from ira.trackers.jsonl import JsonlTracker
from ira.trackers.tensorboard import TensorboardTracker
from ira.trackers.weights_and_biases import WandbTracker


def make_trackers(names: Iterable[str], run_dir: Path, project: str) -> list[Tracker]:
    """RUN/metrics.jsonl, always, and one tracker for each of `console`, `tensorboard`, `wandb` that is named.

    Raises:
        InputError: a name is unknown, its package is not installed, or the run folder cannot be written.
    """
    makers = {
        "console": ConsoleTracker,
        "tensorboard": lambda: TensorboardTracker(run_dir),
        "wandb": lambda: WandbTracker(run_dir, project),
    }
    trackers: list[Tracker] = [JsonlTracker(run_dir)]
    for name in dict.fromkeys(names):
        if name not in makers:
            raise InputError(f"tracker {name!r} is unknown; give some of {', '.join(makers)}")
        trackers.append(makers[name]())
    return trackers
