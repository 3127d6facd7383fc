"""The command `ira`: every verb, in the order of `ira --help`.

Results go to stdout, progress and warnings to stderr. Input that cannot be used ends with exit code 2 and one line.
Models are imported inside the verbs, so that `ira --help` comes at once.
"""

from __future__ import annotations

from typing import Annotated

import typer

from ira import __version__
from ira.cli.options import app

# Each registers its verbs; `ira --help` lists them in this order.
# isort: off
from ira.cli import corpora, data, training, bench, speech, machine  # noqa: F401

# isort: on

__all__ = ["app"]


@app.callback(invoke_without_command=True)
def main(version: Annotated[bool, typer.Option("--version", help="print the version and end")] = False) -> None:
    if version:
        typer.echo(__version__)
        raise typer.Exit
