from __future__ import annotations

from pathlib import Path

import matplotlib.image
import torch

from ira.inference.pictures import draw_sound


def test_the_picture_shows_the_sound(tmp_path: Path):
    time = torch.arange(24_000) / 24_000
    pictures = {}
    for name, wave in {"silence": torch.zeros(1, 24_000), "tone": torch.sin(6000 * time)[None]}.items():
        draw_sound(tmp_path / f"{name}.png", wave, name)
        pictures[name] = matplotlib.image.imread(tmp_path / f"{name}.png")
    height, width, _ = pictures["tone"].shape
    assert width > height > 300
    assert (pictures["tone"] != pictures["silence"]).mean() > 0.05
    assert [path.name for path in sorted(tmp_path.iterdir())] == ["silence.png", "tone.png"]


def test_sound_of_a_few_samples_is_drawn_too(tmp_path: Path):
    draw_sound(tmp_path / "short.png", torch.zeros(1, 3), "cost $1_ and $2_")
    assert (tmp_path / "short.png").stat().st_size > 1000
