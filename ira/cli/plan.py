"""What training would take in; tables on stdout, warnings on stderr, a file of figures where one is asked for, out."""

from __future__ import annotations

import json
from pathlib import Path

import typer

from ira.console import print_table, warn
from ira.training.dry_run import Forecast, StageForecast

GIGA = 1e9


def show(plan: Forecast, json_file: Path | None) -> None:
    """Parameters, memory, time and places, stage by stage."""
    print_table([("parameters", "")] + [(f"  {part}", _millions(size)) for part, size in plan.parameters.items()])
    for stage in plan.stages:
        typer.echo("")
        print_table(_stage(stage, plan))
    typer.echo("")
    print_table([("writes", "")] + [(f"  {f.what}", f"{f.path}  up to {_size(f.size)}") for f in plan.folders])
    total = sum(s.seconds for s in plan.stages)
    print_table([("all stages", f"{_duration(total)} on this machine")])
    for note in [*plan.notes, *_short_of_room(plan)]:
        warn(note)
    if json_file:
        _write(plan, json_file)


def _stage(stage: StageForecast, plan: Forecast) -> list[tuple[str, str]]:
    memory, batch = stage.memory, stage.batch
    how = "measured" if stage.measured else f"at least: operations by the matrix rate; {stage.note}"
    each = "" if plan.processes == 1 else f", on each of {plan.processes} processes"
    rows = [
        (stage.name, f"{_millions(stage.trained)} trained, {_millions(stage.total)} in all"),
        ("  memory", f"{_size(memory.peak)} on {plan.device}{each}"),
        ("    weights", _size(memory.weights)),
        ("    gradients", _size(memory.gradients)),
        ("    optimizer", _size(memory.optimizer)),
        ("    activations", f"{_size(memory.kept)} for {batch.rows} rows of {batch.frames} frames"),
        ("    loss, temporary", _size(memory.work)),
        ("  steps", str(stage.steps)),
        ("  time", f"{_duration(stage.seconds)} ({how})"),
    ]
    return rows


def _short_of_room(plan: Forecast) -> list[str]:
    """One line where all that is written to a disk is more than is free there."""
    wanted: dict[float, float] = {}
    for folder in plan.folders:
        wanted[folder.free] = wanted.get(folder.free, 0.0) + folder.size
    return [
        f"{_size(size)} are wanted where {_size(free)} are free; make room, or set run_dir or data.shards elsewhere"
        for free, size in wanted.items()
        if size > free
    ]


def _write(plan: Forecast, path: Path) -> None:
    from ira.checkpoint import write_aside

    record = {"suite": "plan", "model": None, "device": plan.device, "commit": None, "metrics": plan.plain()}
    with write_aside(path) as aside:
        aside.write_text(json.dumps(record, indent=1) + "\n", encoding="utf-8")


def _millions(count: int) -> str:
    return f"{count / 1e6:.1f} M"


def _size(size: float) -> str:
    return f"{size / GIGA:.1f} GB" if size >= GIGA else f"{size / 1e6:.0f} MB"


def _duration(seconds: float) -> str:
    for unit, length in (("days", 86_400), ("h", 3600), ("min", 60)):
        if seconds >= 2 * length:
            return f"{seconds / length:.1f} {unit}"
    return f"{seconds:.0f} s"
