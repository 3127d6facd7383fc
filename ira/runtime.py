"""Names from the configuration in; a device, threads, seeds, a run folder and metric trackers out."""

from __future__ import annotations

import json
import math
import os
import random
import time
from collections.abc import Iterable
from contextlib import AbstractContextManager, nullcontext
from pathlib import Path
from typing import Protocol

import numpy as np
import torch
from rich.console import Console
from rich.progress import BarColumn, Progress, TaskProgressColumn, TextColumn

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


class Tracker(Protocol):
    """Where metrics go. `share_done`, where given, is the part of the stage that is done, 0 to 1."""

    def log(self, step: int, stage: str, metrics: dict[str, float]) -> None: ...

    def close(self) -> None: ...


class JsonlTracker:
    """One line a call: {"time": seconds, "stage", "step", NAME: value...}. NaN and infinity become null.

    A run that resumes appends; where a step stands twice, the later line counts.
    """

    def __init__(self, path: Path) -> None:
        _drop_half_line(path)
        self.file = open(path, "a", encoding="utf-8")

    def log(self, step: int, stage: str, metrics: dict[str, float]) -> None:
        values = {name: value if math.isfinite(value) else None for name, value in metrics.items()}
        line = {"time": round(time.time(), 3), "stage": stage, "step": step, **values}
        self.file.write(json.dumps(line, allow_nan=False) + "\n")
        self.file.flush()

    def close(self) -> None:
        self.file.close()


class ConsoleTracker:
    """A live line with bar and time left on a terminal, one plain line a call elsewhere; on stderr.

    Calls without `share_done` (validation) leave a line that stays.
    """

    def __init__(self, console: Console | None = None) -> None:
        self.console = console or Console(stderr=True, highlight=False, soft_wrap=True)
        columns = (
            TextColumn("{task.description}"),
            BarColumn(24),
            TaskProgressColumn(),
            TextColumn("{task.fields[tail]}"),
        )
        self.bar = Progress(*columns, console=self.console)
        self.stage, self.started = "", (0.0, 0.0)
        if self.console.is_terminal:
            self.bar.start()

    def log(self, step: int, stage: str, metrics: dict[str, float]) -> None:
        shown = "  ".join(f"{name} {value:.4g}" for name, value in metrics.items() if name != "share_done")
        progress = metrics.get("share_done")
        if progress is None:
            self.console.print(f"{stage} step {step}  {shown}", markup=False)
            return
        left = self._time_left(stage, progress)
        if self.console.is_terminal:
            tail = f"step {step}  left {left}  {shown}"
            self.bar.update(self.bar.task_ids[-1], completed=progress, tail=tail)
        else:
            self.console.print(f"{stage} step {step}  {progress:.0%}  left {left}  {shown}", markup=False)

    def close(self) -> None:
        if self.console.is_terminal:
            self.bar.stop()

    def _time_left(self, stage: str, progress: float) -> str:
        """From the pace since the stage's first call, so that a resumed stage is not taken for a fast one."""
        now = time.monotonic()
        if stage != self.stage:
            self.stage, self.started = stage, (now, progress)
            self.bar.add_task(stage, total=1.0, tail="")
        begun, first = self.started
        if progress <= first:
            return "?"
        return format_seconds((now - begun) * (1 - progress) / (progress - first))


class TensorboardTracker:
    """Scalars named STAGE/METRIC in RUN/tensorboard; needs the extra `tb`."""

    def __init__(self, run_dir: Path) -> None:
        try:
            from torch.utils.tensorboard import SummaryWriter
        except ImportError:
            raise _missing("tensorboard", "tb") from None
        self.writer = SummaryWriter(run_dir / "tensorboard")

    def log(self, step: int, stage: str, metrics: dict[str, float]) -> None:
        for name, value in metrics.items():
            self.writer.add_scalar(f"{stage}/{name}", value, step)

    def close(self) -> None:
        self.writer.close()


class WandbTracker:
    """Metrics named STAGE/METRIC over STAGE/step in a Weights & Biases project; needs the extra `wandb`."""

    def __init__(self, run_dir: Path, project: str) -> None:
        try:
            import wandb  # pyright: ignore[reportMissingImports]  (an extra)
        except ImportError:
            raise _missing("wandb", "wandb") from None
        self.run = wandb.init(project=project, name=run_dir.name, dir=str(run_dir))
        self.stages: set[str] = set()

    def log(self, step: int, stage: str, metrics: dict[str, float]) -> None:
        if stage not in self.stages:  # every stage counts from 0, the service's own step may only grow
            self.run.define_metric(f"{stage}/*", step_metric=f"{stage}/step")
            self.stages.add(stage)
        self.run.log({f"{stage}/step": step, **{f"{stage}/{name}": value for name, value in metrics.items()}})

    def close(self) -> None:
        self.run.finish()


def make_trackers(names: Iterable[str], run_dir: Path, project: str) -> list[Tracker]:
    """RUN/metrics.jsonl, always, and one tracker for each of `console`, `tensorboard`, `wandb` that is named.

    Raises:
        InputError: a name is unknown, or its package is not installed.
    """
    makers = {
        "console": ConsoleTracker,
        "tensorboard": lambda: TensorboardTracker(run_dir),
        "wandb": lambda: WandbTracker(run_dir, project),
    }
    trackers: list[Tracker] = [JsonlTracker(run_dir / "metrics.jsonl")]
    for name in dict.fromkeys(names):
        if name not in makers:
            raise InputError(f"tracker {name!r} is unknown; give some of {', '.join(makers)}")
        trackers.append(makers[name]())
    return trackers


def format_seconds(seconds: float) -> str:
    """Whole seconds as h:mm:ss."""
    minutes, rest = divmod(round(seconds), 60)
    return f"{minutes // 60}:{minutes % 60:02d}:{rest:02d}"


def _drop_half_line(path: Path) -> None:
    """A killed run may leave an unfinished last line; the next one would be glued to it."""
    if path.exists():
        os.truncate(path, path.read_bytes().rfind(b"\n") + 1)


def _missing(package: str, extra: str) -> InputError:
    return InputError(
        f"{package} is not installed; run pip install -e '.[{extra}]' in the clone, or drop it from log.trackers"
    )
