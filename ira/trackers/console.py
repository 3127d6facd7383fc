"""Figures in; a live line with a bar and the time left, or plain lines, on stderr out."""

from __future__ import annotations

import time

from rich.console import Console
from rich.progress import BarColumn, Progress, TaskProgressColumn, TextColumn

from ira.trackers.base import Samples

# What a person who glances at a run wants to know, in this order; everything else is in the files.
SHOWN = ("loss", "reward", "lr", "grad_norm", "tokens_per_second", "data_wait", "share_of_peak", "memory_gb")


class ConsoleTracker:
    """A live line with bar and time left on a terminal, one plain line a call elsewhere.

    Of training steps the figures in `SHOWN`, and `dropped_steps` while there are any. Calls without `share_done`
    (validation) leave a line with every figure that stays.
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
        progress = metrics.get("share_done")
        if progress is None:
            self.console.print(f"{stage} step {step}  {_figures(metrics, list(metrics))}", markup=False)
            return
        shown = _figures(metrics, [*SHOWN, *(["dropped_steps"] if metrics.get("dropped_steps") else [])])
        left = self._time_left(stage, progress)
        if self.console.is_terminal:
            tail = f"step {step}  left {left}  {shown}"
            self.bar.update(self.bar.task_ids[-1], completed=progress, tail=tail)
        else:
            self.console.print(f"{stage} step {step}  {progress:.0%}  left {left}  {shown}", markup=False)

    def show(self, step: int, stage: str, samples: Samples) -> None:
        """A terminal shows neither sounds nor pictures."""

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


def format_seconds(seconds: float) -> str:
    """Whole seconds as h:mm:ss."""
    minutes, rest = divmod(round(seconds), 60)
    return f"{minutes // 60}:{minutes % 60:02d}:{rest:02d}"


def _figures(metrics: dict[str, float], names: list[str]) -> str:
    return "  ".join(f"{name} {metrics[name]:.4g}" for name in names if name in metrics)
