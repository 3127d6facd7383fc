"""Verbs for models: train one, measure one."""

from __future__ import annotations

from pathlib import Path
from typing import Annotated, get_args

import typer

from ira.cli.options import DeviceOption, ModelOption, app, open_pipeline
from ira.console import progress
from ira.errors import InputError


@app.command()
def train(
    config: Annotated[Path, typer.Option(help="YAML, such as configs/tiny.yaml")],
    stage: Annotated[str | None, typer.Option(help="run this stage alone")] = None,
    overrides: Annotated[list[str] | None, typer.Argument(metavar="KEY=VALUE")] = None,
) -> None:
    """Train all stages in order, or one; a run that was stopped goes on. Prints the model folder.

    \b
    Examples:
      ira train --config configs/tiny.yaml
      ira train --config configs/tiny.yaml --stage speech
      ira train --config configs/tiny.yaml run_dir=runs/mine train.max_minutes=1
    """
    from ira.config import STAGES, StageName, load_config

    chosen: StageName | None = next((name for name in get_args(StageName) if name == stage), None)
    if stage and not chosen:
        raise InputError(f"stage {stage!r} is unknown; give one of {', '.join(STAGES)}")
    settings = load_config(config, overrides)
    from ira.training.journey import train as run_stages

    typer.echo(run_stages(settings, chosen))


@app.command("eval")
def evaluate(
    suite: Annotated[str, typer.Argument(metavar="SUITE", help="codec, voice, speak, listen or all")],
    manifests: Annotated[
        list[str] | None, typer.Argument(metavar="[MANIFEST]...", help="held-out rows; default: data/test or data/val")
    ] = None,
    json_file: Annotated[Path | None, typer.Option("--json", help="write the figures here as JSON")] = None,
    clips: Annotated[int, typer.Option(min=1, help="at most as many, evenly spread over the rows")] = 60,
    model: ModelOption = None,
    device: DeviceOption = "auto",
) -> None:
    """How good a model is on held-out recordings; needs the extra: pip install -e '.[eval]'.

    \b
    Examples:
      ira eval codec data/test
      ira eval all data/test --json figures.json
      ira eval speak data/test --model runs/tiny/model --clips 20
    """
    from ira.evaluation.clips import default_manifests
    from ira.evaluation.report import show, write_report
    from ira.evaluation.suites import SUITES
    from ira.evaluation.suites import evaluate as measure
    from ira.runtime import pick_device

    if suite not in (*SUITES, "all"):
        raise InputError(f"suite {suite!r} is unknown; give one of {', '.join(SUITES)} or all")
    with progress(f"{suite}: clips") as advance:
        found = measure(suite, lambda: open_pipeline(model, device), manifests or default_manifests(), clips, advance)
    show(found)
    if json_file:
        write_report(json_file, suite, str(model or "embedded"), str(pick_device(device)), found)
