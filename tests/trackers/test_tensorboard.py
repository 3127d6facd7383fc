"""What TensorBoard reads back is what was logged."""

from __future__ import annotations

from pathlib import Path

import pytest
import torch

from ira.trackers.base import Histogram, Picture, Sound
from ira.trackers.tensorboard import TensorboardTracker

reader = pytest.importorskip("tensorboard.backend.event_processing.event_accumulator")


def read(run: Path):
    return reader.EventAccumulator(str(run / "tensorboard")).Reload()


def test_tensorboard_gets_every_scalar(tmp_path: Path):
    tracker = TensorboardTracker(tmp_path)
    tracker.log(4, "align", {"loss": 0.25})
    tracker.close()
    (scalar,) = read(tmp_path).Scalars("align/loss")
    assert (scalar.step, scalar.value) == (4, 0.25)


def test_tensorboard_gets_sounds_pictures_and_histograms(tmp_path: Path):
    tracker = TensorboardTracker(tmp_path)
    values = torch.cat([torch.arange(10.0), torch.tensor([float("nan"), float("inf")])])
    sound, picture = Sound(torch.sin(torch.arange(8000) / 10), 8000), Picture(torch.zeros(20, 30, 3, dtype=torch.uint8))
    tracker.show(7, "codec", {"copy": sound, "mel": picture, "gradient": Histogram(values)})
    tracker.show(8, "codec", {"gradient": Histogram(torch.tensor([float("nan")])), "copy": Sound(torch.zeros(0), 8000)})
    tracker.close()
    events = read(tmp_path)
    first = events.Audio("codec/copy")[0]
    assert (first.step, first.sample_rate) == (7, 8000) and first.encoded_audio_string.startswith(b"RIFF")
    (shown,) = events.Images("codec/mel")
    assert (shown.step, shown.width, shown.height) == (7, 30, 20)
    (spread,) = events.Histograms("codec/gradient")
    assert spread.step == 7 and spread.histogram_value.num == 10 and spread.histogram_value.max == 9
