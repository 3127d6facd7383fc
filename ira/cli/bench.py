"""The verb that times: each hot path beside its peer and beside what this machine allows."""

from __future__ import annotations

import time
from collections.abc import Callable
from dataclasses import replace
from pathlib import Path
from typing import TYPE_CHECKING, Annotated

import typer

from ira.cli.options import DeviceOption, ModelOption, app, open_pipeline
from ira.console import print_table
from ira.errors import InputError

if TYPE_CHECKING:
    from ira.bench.suites import Case


@app.command()
def bench(
    what: Annotated[str, typer.Argument(metavar="WHAT", help="codec, prepare, decode, train, stream or all")],
    json_file: Annotated[Path | None, typer.Option("--json", help="write the figures here as JSON")] = None,
    quick: Annotated[
        bool, typer.Option("--quick", help="tiny, once: does all of it run? The times mean little")
    ] = False,
    compiled: Annotated[bool, typer.Option("--compile", help="decode and train: ours compiled")] = False,
    threads: Annotated[
        int | None, typer.Option(min=1, help="CPU threads  [default: prepare, decode, stream: 1; else torch's own]")
    ] = None,
    model: ModelOption = None,
    device: DeviceOption = "auto",
) -> None:
    """How fast this machine does it; peer and limit in the same run, median (lower to upper quartile).

    \b
    codec   sound encoded, decoded and streamed, beside transformers' EncodecModel
    prepare recordings made tokens of, beside a loop over EncodecModel; with more workers
    decode  a frame of speech, beside a loop over MusicgenForCausalLM and the rate of memory; cost as speech grows
    train   a training step of the SpeechLM, beside MusicgenForCausalLM's and the rate of matrix products
    stream  the first sound of speech and of a spoken reply, gaps, real-time factor
    `own` is the SpeechLM of the model folder, `full` the full-scale one with random weights.
    \b
    Examples:
      ira bench codec
      ira bench decode --json decode.json --threads 2
      ira bench decode --compile
      ira bench stream --model runs/tiny/model
      ira bench all --quick
      ira bench all --json figures.json && python docs/make_performance.py figures.json
    """
    from ira.bench.machine import describe, load
    from ira.bench.sizes import EARNEST, QUICK
    from ira.bench.suites import SUITES, cases, run, shown, write_record
    from ira.runtime import pick_device, seed_everything

    if what not in (*SUITES, "all"):
        raise InputError(f"benchmark {what!r} is unknown; give one of {', '.join(SUITES)} or all")
    sizes, own = replace(QUICK if quick else EARNEST, compiled=compiled), pick_device(device)
    machine = describe(own, threads)
    seed_everything(0)
    found = cases(what, open_pipeline(model, str(own)), sizes)
    figures = run(found, threads, _teller(len(found)), several=what == "all")
    print_table([("machine", machine["name"]), *((name, shown(value)) for name, value in figures.items())])
    machine["load_after"] = load()
    if json_file:
        write_record(json_file, what, str(model or "embedded"), own, sizes, machine, figures)


def _teller(total: int) -> Callable[[int, Case], None]:
    """Says on stderr what is measured now and how long the rest will take, if it takes as long as what was before."""
    started = time.monotonic()

    def tell(number: int, case: Case) -> None:
        left = (time.monotonic() - started) / number * (total - number) if number else None
        rest = f", about {left:.0f} s left" if left is not None else ""
        name = f"{case.suite} {case.name.rstrip('/')}".strip()
        typer.echo(f"{number + 1} of {total}: {name}{rest}", err=True)

    return tell
