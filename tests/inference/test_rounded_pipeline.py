"""`--bits` and `--compile`: the whole way from a model folder to sound, and where they are refused."""

from __future__ import annotations

from pathlib import Path

import pytest
import torch
from typer.testing import CliRunner

from ira.cli.app import app
from ira.cli.options import open_speaker
from ira.errors import InputError
from ira.inference.parts import Parts
from ira.inference.pipeline import Pipeline
from ira.models import rounded
from ira.models.rounded import KINDS, Int8Linear, bits_here


@pytest.mark.parametrize("bits", bits_here())
def test_the_model_that_ships_speaks_with_rounded_weights(tmp_path, bits):
    out = tmp_path / "short.wav"
    done = CliRunner().invoke(app, ["speak", "Hello.", "--bits", str(bits), "--device", "cpu", "--out", str(out)])
    assert done.exit_code == 0 and out.stat().st_size > 10_000


@pytest.mark.parametrize("bits", bits_here())
def test_the_model_that_ships_answers_with_rounded_weights(bits):
    question = "What is the capital of France?"
    done = CliRunner().invoke(app, ["listen", "--prompt", question, "--bits", str(bits), "--device", "cpu"])
    assert done.exit_code == 0 and "Paris" in done.output


@pytest.mark.parametrize(("given", "bits"), [(None, 16), (32, None), (8, 8)])
def test_speech_has_16_bits_unless_told(monkeypatch, given, bits):
    monkeypatch.setattr(rounded, "bits_here", lambda: [16, 8, 4])
    assert open_speaker(None, "cpu", given, False).parts.bits == bits


def test_where_16_bits_are_not_weights_stay_as_they_are(monkeypatch):
    monkeypatch.setattr(rounded, "bits_here", lambda: [8, 4])
    assert open_speaker(None, "cpu", None, False).parts.bits is None


@pytest.mark.parametrize("verb", [["speak", "Hello."], ["listen", "--prompt", "Hello."]])
def test_other_bits_are_refused_in_a_line(verb):
    done = CliRunner().invoke(app, [*verb, "--bits", "5", "--device", "cpu"])
    assert done.exit_code == 2 and "weights of 5 bits; this CPU computes with" in done.output


@pytest.mark.parametrize("bits", [*bits_here(), None])
def test_only_where_they_were_asked_for(bits):
    parts = Pipeline.from_folder(device="cpu", bits=bits).parts
    for model, kinds in ((parts.speech_lm, KINDS), (parts.audio_llm.language, {**KINDS, 4: Int8Linear})):
        assert {type(child) for child in model.modules()} & set(KINDS.values()) == ({kinds[bits]} if bits else set())


def test_a_program_is_told_of_other_bits_before_anything_is_loaded():
    with pytest.raises(InputError, match="weights of 5 bits; this CPU computes with .*8, 4"):
        Pipeline.from_folder(device="cpu", bits=5)


def test_on_another_device_they_are_refused(tiny_model_folder: Path):
    folder = tiny_model_folder
    with pytest.raises(InputError, match="weights of 4 bits on cuda; they are for a CPU"):
        Parts(folder, folder, folder, folder, None, torch.device("cuda"), bits=4)
