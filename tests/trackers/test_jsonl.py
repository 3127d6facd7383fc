"""Every figure is a line, and every sound and picture a file that other tools open."""

from __future__ import annotations

import json
from pathlib import Path

import numpy as np
import pytest
import soundfile
import torch
from matplotlib.image import imread

from ira.errors import InputError
from ira.trackers.base import Histogram, Picture, Sound
from ira.trackers.jsonl import JsonlTracker


def read_lines(path: Path) -> list[dict]:
    return [json.loads(line) for line in path.read_text().splitlines()]


def test_every_metric_is_a_line_of_valid_json(tmp_path: Path):
    tracker = JsonlTracker(tmp_path)
    tracker.log(3, "voice", {"loss": 0.5, "norm": float("nan")})
    (line,) = read_lines(tmp_path / "metrics.jsonl")  # readable before it is closed
    tracker.close()
    assert line.pop("time") > 0
    assert line == {"stage": "voice", "step": 3, "loss": 0.5, "norm": None}


def test_a_resumed_run_appends_and_drops_the_half_line_of_a_killed_one(tmp_path: Path):
    path = tmp_path / "metrics.jsonl"
    path.write_text('{"step": 1}\n{"step": 2, "lo')
    tracker = JsonlTracker(tmp_path)
    tracker.log(2, "codec", {})
    tracker.close()
    assert [line["step"] for line in read_lines(path)] == [1, 2]


def test_sounds_and_pictures_become_files_and_histograms_do_not(tmp_path: Path):
    tracker = JsonlTracker(tmp_path)
    waveform = torch.tensor([0.0, 0.5, -0.5, 3.0, float("nan")], requires_grad=True)
    pixels = torch.zeros(4, 6, 3, dtype=torch.uint8)
    pixels[0, 5] = torch.tensor([255, 128, 0])
    tracker.show(123, "codec", {"a sound/x": Sound(waveform, 16_000), "p": Picture(pixels), "h": Histogram(waveform)})
    tracker.close()
    folder = tmp_path / "samples" / "codec" / "step-000123"
    assert sorted(path.name for path in folder.iterdir()) == ["a-sound-x.wav", "p.png"]
    samples, rate = soundfile.read(folder / "a-sound-x.wav")
    assert rate == 16_000 and np.allclose(samples, [0, 0.5, -0.5, 1, 0], atol=1e-4)
    seen = np.round(imread(folder / "p.png")[..., :3] * 255)
    assert seen.shape == (4, 6, 3) and seen[0, 5].tolist() == [255, 128, 0] and seen.sum() == 383


def test_a_name_cannot_leave_the_folder(tmp_path: Path):
    tracker = JsonlTracker(tmp_path / ".")
    tracker.show(1, "codec", {"../../evil": Sound(torch.zeros(8), 8000), "..": Sound(torch.zeros(8), 8000)})
    tracker.close()
    folder = tmp_path / "samples" / "codec" / "step-000001"
    assert sorted(path.name for path in folder.iterdir()) == ["evil.wav", "sample.wav"]


def test_a_disk_that_takes_nothing_is_one_clear_error(tmp_path: Path):
    with pytest.raises(InputError, match="missing/metrics.jsonl: cannot be written"):
        JsonlTracker(tmp_path / "missing")
    tracker = JsonlTracker(tmp_path)
    (tmp_path / "samples").write_text("a file in the way")
    with pytest.raises(InputError, match="a.wav: cannot be written .*; make room"):
        tracker.show(1, "codec", {"a": Sound(torch.zeros(8), 8000)})
    full = Path("/dev/full")
    if full.exists():
        tracker.file = open(full, "a")
        with pytest.raises(InputError, match=r"metrics.jsonl: cannot be written \(.*No space"):
            tracker.log(1, "codec", {"loss": 1.0})
