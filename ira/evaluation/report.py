"""Figures of a suite in; a table on stdout and a JSON file out."""

from __future__ import annotations

import json
import subprocess
from pathlib import Path

from ira.checkpoint import write_aside
from ira.console import print_table

Metrics = dict[str, float | int | None]


def show(metrics: Metrics) -> None:
    """One line a figure; a dash where there was nothing to measure."""
    print_table([(name, _shown(value)) for name, value in metrics.items()])


def write_report(path: Path, suite: str, model: str, device: str, metrics: Metrics) -> None:
    """The figures with what they belong to; a file that is there already is replaced at once or not at all."""
    record = {"suite": suite, "model": model, "device": device, "commit": commit(), "metrics": metrics}
    with write_aside(path) as aside:
        aside.write_text(json.dumps(record, indent=1) + "\n", encoding="utf-8")


def commit() -> str | None:
    """The commit of this code, None where it is not in a git checkout."""
    try:
        found = subprocess.run(
            ["git", "rev-parse", "--short", "HEAD"], cwd=Path(__file__).parent, capture_output=True, text=True
        )
    except OSError:
        return None
    return found.stdout.strip() or None


def _shown(value: float | int | None) -> str:
    if value is None:
        return "-"
    return str(value) if isinstance(value, int) else f"{value:.4f}"
