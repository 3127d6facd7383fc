"""What the verbs share: the application they register with, and options that mean the same everywhere."""

from __future__ import annotations

import os
from pathlib import Path
from typing import TYPE_CHECKING, Annotated

import typer

from ira.console import Verbs

if TYPE_CHECKING:
    from ira.inference.pipeline import Pipeline

# Before torch comes in: threads that spin while they wait make decoding on busy cores many times slower.
os.environ.setdefault("OMP_WAIT_POLICY", "PASSIVE")

app = typer.Typer(
    cls=Verbs,
    help="A voice and ears for a small open language model.",
    no_args_is_help=True,
    add_completion=False,
    rich_markup_mode=None,
    pretty_exceptions_enable=False,
    context_settings={"help_option_names": ["-h", "--help"]},
)

ModelOption = Annotated[
    Path | None,
    typer.Option("--model", help="model folder, as training writes to RUN/model; default: the weights that ship"),
]
DeviceOption = Annotated[str, typer.Option("--device", help="auto, cpu, cuda, cuda:N or mps")]


def open_pipeline(model: Path | None, device: str, bits: int | None = None, compiled: bool = False) -> Pipeline:
    from ira.inference.pipeline import Pipeline
    from ira.models.bundle import EMBEDDED

    return Pipeline.from_folder(model or EMBEDDED, device, bits=bits, compiled=compiled)


def open_speaker(model: Path | None, device: str, bits: int | None, compiled: bool) -> Pipeline:
    """For speech alone: unless told, in the fastest way that says the same, which the decoder is packed for in no time.

    An LLM takes a second to pack, which is more than a single answer gains.
    """
    from ira.models.rounded import bits_here
    from ira.runtime import pick_device

    if bits is None and 16 in bits_here() and pick_device(device).type == "cpu":
        bits = 16
    return open_pipeline(model, device, bits, compiled)
