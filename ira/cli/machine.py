"""Verbs for this machine: see it work, see what it lacks."""

from __future__ import annotations

from pathlib import Path
from typing import Annotated

import typer

from ira.cli.options import DeviceOption, ModelOption, app, open_pipeline
from ira.console import print_table


@app.command()
def demo(
    out: Annotated[Path, typer.Option(help="folder for the results")] = Path("out/demo"),
    model: ModelOption = None,
    device: DeviceOption = "auto",
) -> None:
    """The main job: speak a sentence, let the language model listen, speak its answer.

    \b
    Examples:
      ira demo
      ira demo --out out/demo --model runs/tiny/model
    """
    from ira.inference.demo import run_demo

    made = run_demo(open_pipeline(model, device), out, lambda step: typer.echo(f"{step} ...", err=True))
    print_table([("it heard", made.heard), ("it answered", made.answer)])
    typer.echo("")
    print_table([(str(path), what) for path, what in made.files.items()])
    typer.echo("")
    print_table([(step, f"{seconds:.1f} s") for step, seconds in made.took.items()])


@app.command()
def doctor() -> None:
    """What this machine has and lacks; exit code 1 where something is missing.

    \b
    Examples:
      ira doctor
    """
    from ira.inference.doctor import examine

    findings = examine()
    print_table([(f.name, f"{f.found}; {f.remedy}" if f.remedy else f.found) for f in findings])
    raise typer.Exit(1 if any(finding.remedy for finding in findings) else 0)
