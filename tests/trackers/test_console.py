"""The console tells what matters, in a stable order, and how long it will take."""

from __future__ import annotations

import io

import pytest
from rich.console import Console

from ira.trackers import console as module
from ira.trackers.console import ConsoleTracker, format_seconds


def console(terminal: bool) -> Console:
    return Console(file=io.StringIO(), force_terminal=terminal, width=160, soft_wrap=True)


def text_of(target: Console) -> str:
    assert isinstance(target.file, io.StringIO)
    return target.file.getvalue()


def test_the_console_tells_the_time_left_from_the_pace(monkeypatch: pytest.MonkeyPatch):
    clock = [100.0]
    monkeypatch.setattr(module.time, "monotonic", lambda: clock[0])
    target = console(terminal=False)
    tracker = ConsoleTracker(target)
    tracker.log(50, "speech", {"share_done": 0.5, "loss": 2.0})  # resumed half-way
    clock[0] += 60
    tracker.log(60, "speech", {"share_done": 0.6, "loss": 1.5})
    tracker.log(60, "speech", {"val/score": 1.75, "val/runaway": 0.25})
    tracker.close()
    assert text_of(target).splitlines() == [
        "speech step 50  50%  left ?  loss 2",
        "speech step 60  60%  left 0:04:00  loss 1.5",
        "speech step 60  val/score 1.75  val/runaway 0.25",
    ]


def test_only_what_matters_is_shown_and_always_in_the_same_order():
    target = console(terminal=False)
    tracker = ConsoleTracker(target)
    figures = {"memory_gb": 1.5, "mel": 3.0, "tokens_per_second": 1234.5, "loss": 2.0, "dropped_steps": 0.0}
    tracker.log(1, "codec", {"share_done": 0.1, **figures})
    tracker.log(2, "codec", {"dropped_steps": 2.0, "loss": 2.0, "memory_gb": 1.5, "share_done": 0.1})
    first, second = text_of(target).splitlines()
    assert first.endswith("loss 2  tokens_per_second 1234  memory_gb 1.5") and "mel" not in first
    assert second.endswith("loss 2  memory_gb 1.5  dropped_steps 2")


def test_the_console_shows_a_bar_for_each_stage_on_a_terminal():
    target = console(terminal=True)
    tracker = ConsoleTracker(target)
    tracker.log(1, "codec", {"share_done": 0.5, "loss": 1.0})
    tracker.log(1, "voice", {"share_done": 0.25, "loss": 3.0})
    tracker.close()
    shown = text_of(target)
    assert "codec" in shown and "voice" in shown and " 25%" in shown and "loss 3" in shown


@pytest.mark.parametrize(
    ("seconds", "text"), [(0, "0:00:00"), (59.6, "0:01:00"), (3725, "1:02:05"), (90000, "25:00:00")]
)
def test_seconds_read_as_hours_minutes_seconds(seconds: float, text: str):
    assert format_seconds(seconds) == text
