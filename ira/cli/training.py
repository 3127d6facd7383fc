"""Verbs for models: train one, look at its training, measure one."""

from __future__ import annotations

from pathlib import Path
from typing import Annotated, get_args

import typer

from ira.cli.options import DeviceOption, ModelOption, app, open_pipeline
from ira.console import progress, say
from ira.errors import InputError


@app.command()
def train(
    config: Annotated[Path, typer.Option(help="YAML, such as configs/tiny.yaml")],
    stage: Annotated[str | None, typer.Option(help="run this stage alone")] = None,
    overrides: Annotated[list[str] | None, typer.Argument(metavar="KEY=VALUE")] = None,
    dry_run: Annotated[bool, typer.Option("--dry-run", help="say what it would take; write nothing")] = False,
    processes: Annotated[int, typer.Option(min=1, help="with --dry-run: how many will train together")] = 1,
    json_file: Annotated[Path | None, typer.Option("--json", help="with --dry-run: the figures as JSON")] = None,
) -> None:
    """Train all stages in order, or one; a run that was stopped goes on. Prints the model folder.

    \b
    Examples:
      ira train --config configs/tiny.yaml
      ira train --config configs/tiny.yaml --dry-run
      ira train --config configs/train_config.yaml --dry-run --processes 8 --json plan.json
      ira train --config configs/tiny.yaml --stage speech
      ira train --config configs/tiny.yaml run_dir=runs/mine train.max_minutes=1
    """
    from ira.config import STAGES, StageName
    from ira.config_file import load_config

    chosen: StageName | None = next((name for name in get_args(StageName) if name == stage), None)
    if stage and not chosen:
        raise InputError(f"stage {stage!r} is unknown; give one of {', '.join(STAGES)}")
    settings = load_config(config, overrides)
    if not dry_run:
        if json_file or processes > 1:
            raise InputError("--json and --processes go with --dry-run; torchrun starts the processes of a training")
        from ira.training.journey import train as run_stages

        say(run_stages(settings, chosen))
        return
    from ira.cli.plan import show
    from ira.runtime import pick_device, pick_threads
    from ira.training.dry_run import forecast

    pick_threads(settings.train.threads)
    names: list[StageName] = [chosen] if chosen else settings.train.stages
    show(forecast(settings, names, pick_device(settings.device), processes), json_file)


@app.command()
def plot(
    runs: Annotated[list[Path], typer.Argument(metavar="RUN...", help="run folders, each the run_dir of a training")],
    out: Annotated[Path, typer.Option(help="the page, one HTML file that needs nothing else")] = Path("plot.html"),
) -> None:
    """Compare training runs, also running ones, in a page of charts, tables and samples. Prints the page's path.

    \b
    Examples:
      ira plot runs/tiny
      ira plot runs/tiny runs/mine --out compare.html
    """
    from ira.training.plot import plot as draw

    typer.echo(draw(runs, out))


@app.command("eval")
def evaluate(
    suite: Annotated[str, typer.Argument(metavar="SUITE", help="codec, voice, speak, control, listen or all")],
    manifests: Annotated[
        list[str] | None, typer.Argument(metavar="[MANIFEST]...", help="held-out rows; default: data/test or data/val")
    ] = None,
    json_file: Annotated[Path | None, typer.Option("--json", help="write the figures here as JSON")] = None,
    sentences: Annotated[
        Path | None,
        typer.Option(help="speak, control, listen: one line a sentence with all that was measured; .csv or .jsonl"),
    ] = None,
    keep: Annotated[Path | None, typer.Option(help="speak, control: leave what is spoken in this folder")] = None,
    clips: Annotated[
        int | None,
        typer.Option(min=1, help="at most as many, evenly over manifests and rows  [default: 60; control: 6]"),
    ] = None,
    speed: Annotated[bool, typer.Option("--speed", help="codec: time it beside transformers' EncodecModel")] = False,
    model: ModelOption = None,
    device: DeviceOption = "auto",
) -> None:
    """How good a model is on held-out recordings; needs the extra: pip install -e '.[eval]'.

    \b
    codec    PESQ, STOI and use of codes, beside EnCodec's published PESQ and STOI
    voice    captions found, men and women, speakers told apart
    speak    what an independent recogniser hears, faults, speaking rate, similarity to the reference voice
    control  whether "a man with a low voice" is obeyed, measured on the signal
    listen   questions about what is heard, beside the transcript, a recogniser, no sound and another's sound
    \b
    Examples:
      ira eval codec data/test --speed
      ira eval all data/test --json figures.json
      ira eval speak readers/test.json books/test.json --clips 120 --sentences heard.csv --keep spoken
      ira eval control data/test --model runs/tiny/model --clips 20
      ira eval listen data/test --sentences answers.jsonl
      torchrun --nproc-per-node 2 -m ira eval codec data/test    (clips shared out, the same figures)
    """
    from ira.evaluation.clips import default_manifests
    from ira.evaluation.report import check_sentence_file, show, write_report, write_sentences
    from ira.evaluation.suites import COUNTS
    from ira.evaluation.suites import evaluate as measure
    from ira.processes import joined, rank
    from ira.runtime import pick_device

    if suite not in (*COUNTS, "all"):
        raise InputError(f"suite {suite!r} is unknown; give one of {', '.join(COUNTS)} or all")
    check_sentence_file(sentences)
    asked, rows = pick_device(device), manifests or default_manifests()
    with joined(asked) as own:
        with progress(f"{suite}: clips") as advance:
            found = measure(suite, lambda: open_pipeline(model, str(own)), rows, clips, advance, keep, speed)
        if rank() == 0:
            show(found)
            if json_file:
                write_report(json_file, suite, str(model or "embedded"), str(asked), found)
            if sentences:
                write_sentences(sentences, found.sentences)
