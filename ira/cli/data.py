"""Verbs for recordings: look at them, turn them into tokens."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Annotated

import typer

from ira.cli.options import DeviceOption, ModelOption, app
from ira.console import print_table, warn
from ira.errors import InputError


@app.command()
def validate(
    manifests: Annotated[list[str], typer.Argument(metavar="MANIFEST", help="split folder, .json or .jsonl")],
    json_file: Annotated[Path | None, typer.Option("--json", help="write the report here as JSON")] = None,
    audio: Annotated[bool, typer.Option(help="decode every recording")] = True,
) -> None:
    """Rows, hours, speakers and problems of manifests; exit code 1 where a row cannot be used.

    \b
    Examples:
      ira validate data/train
      ira validate data/train data/val --json report.json
    """
    from ira.checkpoint import write_aside
    from ira.data.manifest import validate as check

    report = check(manifests, check_audio=audio)
    if json_file:
        record = {"suite": "validate", "model": None, "device": None, "commit": None, "metrics": report.as_dict()}
        with write_aside(json_file) as aside:
            aside.write_text(json.dumps(record, indent=1) + "\n", encoding="utf-8")
    languages = ", ".join(f"{name} {count}" for name, count in report.languages.items())
    figures = {"rows": report.rows, "hours": f"{report.hours:.2f}", "speakers": report.speakers}
    print_table([*figures.items(), ("languages", languages), ("unusable", report.unusable)])
    for problem in report.problems:
        place = problem.source if problem.row is None else f"{problem.source} row {problem.row}"
        typer.echo(f"{place}: {problem.kind}: {problem.message}; {problem.remedy}")
    raise typer.Exit(1 if report.unusable else 0)


@app.command()
def prepare(
    manifests: Annotated[list[str], typer.Argument(metavar="MANIFEST", help="split folder, .json or .jsonl")],
    out: Annotated[Path, typer.Option(help="folder of the token shards")],
    config: Annotated[Path | None, typer.Option(help="take the codec of this training configuration")] = None,
    model: ModelOption = None,
    workers: Annotated[int | None, typer.Option(min=1, help="processes; default: data.workers of --config")] = None,
    device: DeviceOption = "auto",
) -> None:
    """Codec tokens of every recording in shards; resumes, and names every row that was refused.

    \b
    Examples:
      ira prepare data/train --out data/shards/train
      ira prepare data/train --out data/shards/train --config configs/tiny.yaml --workers 4
    """
    from torch.nn import Module

    from ira.audio.codec import load_codec
    from ira.config import DataConfig, load_config
    from ira.data.prepare import prepare as make_shards
    from ira.data.text import CharTokenizer
    from ira.models.bundle import EMBEDDED, bundled_codec
    from ira.runtime import pick_device

    if config and model:
        raise InputError(f"both --config {config} and --model {model}; give one: it names the codec")
    data = DataConfig()
    if config:
        settings = load_config(config)
        codec, data = load_codec(settings.codec, Path(settings.run_dir) / "model"), settings.data
        codec = codec.to(pick_device(device)) if isinstance(codec, Module) else codec
    else:
        codec = bundled_codec(model or EMBEDDED, pick_device(device))
    workers = workers or data.workers
    report = make_shards(manifests, out, codec, CharTokenizer(), workers=workers, max_seconds=data.max_seconds)
    for problem in report.refused:
        warn(f"{problem.source} row {problem.row}: {problem.message}; {problem.remedy}")
    print_table(
        [("rows", report.rows), ("hours", f"{report.hours:.2f}"), ("refused", len(report.refused)), ("shards", out)]
    )
