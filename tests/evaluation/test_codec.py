from __future__ import annotations

from pathlib import Path

import pytest
import torch

from ira.evaluation.clips import choose
from ira.evaluation.codec import _usage
from ira.evaluation.speed import measure_speed
from ira.inference.pipeline import Pipeline


def test_codes_used_and_perplexity_by_hand():
    counts = [torch.tensor([[1, 1, 0, 0], [2, 0, 0, 0]]), torch.tensor([[1, 1, 0, 0], [0, 0, 1, 1]])]
    figures = _usage(counts)
    assert figures["frames"] == 4
    assert figures["codes_used@book1"] == 0.5 and figures["perplexity@book1"] == pytest.approx(2.0)
    assert figures["codes_used@book2"] == 0.75 and figures["perplexity@book2"] == pytest.approx(2.0**1.5)
    assert _usage([]) == {}


def test_both_codecs_are_timed(tiny_model_folder: Path, manifest: Path, monkeypatch: pytest.MonkeyPatch):
    monkeypatch.setattr("ira.evaluation.speed.SECONDS", 0.2)
    monkeypatch.setattr("ira.evaluation.speed.TRIES", 1)
    codec = Pipeline.from_folder(tiny_model_folder, "cpu").parts.codec
    rows = choose("codec", [str(manifest)], 4).rows
    with torch.no_grad():
        figures = measure_speed(codec, rows, 1.5, 2, torch.device("cpu"))
    names = [f"{what}{whose}_times_real_time" for what in ("encode", "decode") for whose in ("", "_encodec")]
    assert list(figures) == names and all(value and value > 0 for value in figures.values())
