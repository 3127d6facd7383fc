"""Run by torchrun, and imported to do the same alone: `python -m ira eval all`, two clips together.

The recogniser is a quick one: the real one takes seconds over what is no speech.
FOLDER/rank-N.json tells what process N did.
"""

from __future__ import annotations

import json
import os
import runpy
import sys
from collections.abc import Sequence
from pathlib import Path
from unittest.mock import patch

import torch
from torch import Tensor

from ira.errors import InputError
from ira.evaluation import listen, speak
from ira.evaluation.shares import shared
from ira.processes import joined


def measure(manifest: Path, model: Path, folder: Path) -> int:
    """The exit code of the command; its figures are in FOLDER/figures.json."""
    heard: list[int] = []

    def recognise(_: object, sound: Tensor) -> str:
        heard.append(sound.shape[-1])
        return ("one", "two", "three")[sound.shape[-1] % 3]

    file = folder / "figures.json"
    args = ["ira", "eval", "all", manifest, "--model", model, "--device", "cpu", "--json", file]
    with (
        patch.multiple(speak, open_recogniser=lambda: None, recognise=recognise, SPOKEN_TOGETHER=2),
        patch.multiple(listen, open_recogniser=lambda: None, recognise=lambda *_: "one", HEARD_TOGETHER=2),
        patch.object(sys, "argv", [str(arg) for arg in args]),
    ):
        try:
            runpy.run_module("ira", run_name="__main__")
        except SystemExit as end:
            done = {"recognised": len(heard), "refused": refused()}
            (folder / f"rank-{os.environ.get('RANK', '0')}.json").write_text(json.dumps(done))
            return int(end.code or 0)
    raise AssertionError("the command did not end")


def refused() -> str:
    """What every process says where a single one cannot do its share."""

    def work(few: Sequence[int]) -> list[int]:
        if few[0] == 1:
            raise InputError("1 is not wanted")
        return list(few)

    with joined(torch.device("cpu")):
        try:
            shared(range(4), 1, work)
        except InputError as error:
            return str(error)
    return ""


if __name__ == "__main__":
    sys.exit(measure(*(Path(arg) for arg in sys.argv[1:])))
