"""`--int8`: the whole way from a model folder to sound, and where it is refused."""

from __future__ import annotations

from pathlib import Path

import pytest
import torch
from typer.testing import CliRunner

from ira.cli.app import app
from ira.errors import InputError
from ira.inference.parts import Parts
from ira.inference.pipeline import Pipeline
from ira.models.int8 import Int8Linear


def test_the_model_that_ships_speaks_with_int8_weights(tmp_path):
    out = tmp_path / "short.wav"
    done = CliRunner().invoke(app, ["speak", "Hello.", "--int8", "--device", "cpu", "--out", str(out)])
    assert done.exit_code == 0 and out.stat().st_size > 10_000


def test_only_where_it_was_asked_for():
    for int8 in (True, False):
        modules = Pipeline.from_folder(device="cpu", int8=int8).parts.speech_lm.modules()
        assert any(isinstance(child, Int8Linear) for child in modules) == int8


def test_on_another_device_it_is_refused(tiny_model_folder: Path):
    folder = tiny_model_folder
    with pytest.raises(InputError, match="int8 weights on cuda; they are made for a CPU"):
        Parts(folder, folder, folder, folder, None, torch.device("cuda"), int8=True)
