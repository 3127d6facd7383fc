"""Verbs for recordings: look at them, turn them into tokens."""

from __future__ import annotations

import json
from collections.abc import Iterator
from pathlib import Path
from typing import TYPE_CHECKING, Annotated

import typer

from ira.cli.options import DeviceOption, ModelOption, app
from ira.console import print_table, time_left, warn
from ira.errors import InputError

if TYPE_CHECKING:
    from ira.data.validate import Report


@app.command()
def validate(
    manifests: Annotated[list[str], typer.Argument(metavar="MANIFEST", help="split folder, .json or .jsonl")],
    json_file: Annotated[Path | None, typer.Option("--json", help="write the report here as JSON")] = None,
    audio: Annotated[bool, typer.Option(help="decode every recording")] = True,
) -> None:
    """What is in manifests, what is wrong with which row, and what to do; exit code 1 where a row cannot be used.

    \b
    Examples:
      ira validate data/train
      ira validate data/train data/val --json report.json
    """
    from ira.checkpoint import write_aside
    from ira.data.validate import validate as check

    with time_left("recordings" if audio else "rows") as tell:
        report = check(manifests, check_audio=audio, tell=tell)
    if json_file:
        record = {"suite": "validate", "model": None, "device": None, "commit": None, "metrics": report.as_dict()}
        with write_aside(json_file) as aside:
            aside.write_text(json.dumps(record, indent=1) + "\n", encoding="utf-8")
    unread = [problem for problem in report.problems if problem.row is None]
    if unread and not report.rows and len(unread) == len(report.problems):
        first = unread[0]
        raise InputError(f"{first.source}: {first.message}; {first.remedy}")
    print_table(_figures(report))
    for line in _findings(report):
        typer.echo(line)
    raise typer.Exit(2 if unread else 1 if report.unusable else 0)


def _figures(report: Report) -> list[tuple[str, object]]:
    """What is in the manifests, for people."""
    clipped = None if report.clipped is None else f"{report.clipped:.4%} of the samples at full scale"
    figures = {
        "rows": report.rows,
        "hours": f"{report.hours:.2f}",
        "speakers": report.speakers,
        "languages": _listed(report.languages),
        "splits": _listed(report.splits),
        "rates": _listed({f"{rate} Hz": count for rate, count in report.rates.items()}),
        "channels": _listed(report.channels),
        "seconds": _spread(report.seconds),
        "loudness": _spread(report.loudness, " dBFS"),
        "pace": _spread(report.pace, " characters a second"),
        "clipped": clipped,
    }
    known = [(name, value) for name, value in figures.items() if value not in (None, "")]
    return [*known, ("unusable", report.unusable), ("notes", sum(problem.is_note for problem in report.problems))]


def _listed(counts: dict[str, int], most: int = 8) -> str:
    words = [f"{name} ({count})" for name, count in list(counts.items())[:most]]
    return ", ".join([*words, f"{len(counts) - most} more"] if len(counts) > most else words)


def _spread(spread: dict[str, float] | None, unit: str = "") -> str | None:
    if spread is None:
        return None
    cut = {name: f"{value:.1f}" for name, value in spread.items()}
    return f"median {cut['median']}, mostly {cut['p5']} to {cut['p95']}, all {cut['least']} to {cut['most']}{unit}"


def _findings(report: Report, most: int = 5) -> Iterator[str]:
    """The findings of each kind, the first few in full; a remedy that is the same for all is said once."""
    for kind, count in report.kinds.items():
        found = [problem for problem in report.problems if problem.kind == kind]
        shared = found[0].remedy if len({problem.remedy for problem in found}) == 1 else ""
        meaning = "note, the rows are used" if found[0].is_note else "cannot be used"
        yield f"\n{kind}: {count} ({meaning})" + (f"; {shared}" if shared else "")
        for problem in found[:most]:
            place = problem.source if problem.row is None else f"{problem.source} row {problem.row}"
            yield f"  {place}: {problem.message}" + ("" if shared else f"; {problem.remedy}")
        if count > most:
            yield f"  and {count - most} more; --json FILE lists all"


@app.command()
def prepare(
    manifests: Annotated[
        list[str] | None, typer.Argument(metavar="[MANIFEST]...", help="split folder, .json or .jsonl")
    ] = None,
    out: Annotated[Path | None, typer.Option(help="folder of the token shards")] = None,
    config: Annotated[Path | None, typer.Option(help="take the codec of this training configuration")] = None,
    model: ModelOption = None,
    workers: Annotated[int | None, typer.Option(min=1, help="processes; default: data.workers of --config")] = None,
    shard: Annotated[str | None, typer.Option(metavar="I/N", help="make part I (from 0) of N, for N machines")] = None,
    ray: Annotated[str | None, typer.Option(metavar="ADDRESS", help="a Ray cluster; local starts one here")] = None,
    device: DeviceOption = "auto",
) -> None:
    """Codec tokens of every recording in shards; resumes, and names every row that was refused.

    With --config and no MANIFEST: data.train and data.val of the configuration, to where its training looks for them.

    \b
    Examples:
      ira prepare data/train --out data/shards/train
      ira prepare --config configs/tiny.yaml --workers 4
      ira prepare --config configs/tiny.yaml --shard 3/16
      ira prepare data/train --out data/shards/train --ray local --workers 8
    """
    from torch.nn import Module

    from ira.audio.codec import load_codec
    from ira.config import DataConfig
    from ira.config_file import load_config
    from ira.data.prepare import prepare as make_shards
    from ira.data.shards import split_folder
    from ira.data.text import CharTokenizer
    from ira.models.bundle import EMBEDDED, bundled_codec
    from ira.runtime import pick_device

    if config and model:
        raise InputError(f"both --config {config} and --model {model}; give one: it names the codec")
    if bool(manifests) != bool(out) or not (manifests or config):
        raise InputError("give MANIFEST... with --out FOLDER, or neither of them and --config; see ira prepare --help")
    data = DataConfig()
    device = "cpu" if ray and device == "auto" else device  # an actor asks Ray for a core
    if config:
        settings = load_config(config)
        codec, data = load_codec(settings.codec, Path(settings.run_dir) / "model"), settings.data
        codec = codec.to(pick_device(device)) if isinstance(codec, Module) else codec
    else:
        codec = bundled_codec(model or EMBEDDED, pick_device(device))
    splits = {"train": data.train, "val": data.val}
    jobs = [(split_folder(data.shards, codec.fingerprint(), name), paths) for name, paths in splits.items()]
    for folder, paths in [(out, manifests)] if out and manifests else jobs:
        report = make_shards(
            paths,
            folder,
            codec,
            CharTokenizer(),
            workers=workers or data.workers,
            max_seconds=data.max_seconds,
            augment=data.augment if _all_train(paths, data.train) else None,
            shard=_part(shard) if shard else None,
            ray=ray,
        )
        for problem in report.refused:
            warn(f"{problem.source} row {problem.row}: {problem.message}; {problem.remedy}")
        hours = f"{report.hours:.2f}"
        print_table([("rows", report.rows), ("hours", hours), ("refused", len(report.refused)), ("shards", folder)])


def _all_train(manifests: list[str], train: list[str]) -> bool:
    """Whether these are recordings to learn from: no others are ever changed."""
    return {Path(path).resolve() for path in manifests} <= {Path(path).resolve() for path in train}


def _part(shard: str) -> tuple[int, int]:
    part, slash, parts = shard.partition("/")
    if not (slash and part.isdecimal() and parts.isdecimal()):
        raise InputError(f"--shard {shard}; I/N is wanted; give 0/16 to 15/16 for sixteen machines")
    return int(part), int(parts)
