"""What every tracker takes: figures by name, and samples that a person looks at or listens to."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Protocol

import numpy as np
import torch
from torch import Tensor, nn


@dataclass(frozen=True)
class Sound:
    """A mono waveform [N] in [-1, 1] at `rate` Hz."""

    waveform: Tensor
    rate: int

    def samples(self) -> np.ndarray:
        """float32 [max(N, 2)] on the CPU, within [-1, 1]; what is not finite is silence."""
        plain = self.waveform.detach().float().cpu().flatten()
        plain = nn.functional.pad(plain, (0, max(2 - len(plain), 0)))  # TensorBoard fails at shorter ones
        return torch.nan_to_num(plain, 0.0, 0.0, 0.0).clamp(-1, 1).numpy()


@dataclass(frozen=True)
class Picture:
    """Pixels [H, W, 3], uint8, red, green and blue; the first row is the top."""

    pixels: Tensor

    def array(self) -> np.ndarray:
        return self.pixels.detach().cpu().numpy()


@dataclass(frozen=True)
class Histogram:
    """Values of any shape whose distribution is of interest."""

    values: Tensor

    def finite(self) -> np.ndarray:
        """The finite values, float32 [n]: no service draws a range without an end."""
        plain = self.values.detach().float().cpu().flatten()
        return plain[plain.isfinite()].numpy()


Samples = dict[str, Sound | Picture | Histogram]


class Tracker(Protocol):
    """Where figures and samples go. `share_done` among the figures is the part of the stage that is done, 0 to 1."""

    def log(self, step: int, stage: str, metrics: dict[str, float]) -> None: ...

    def show(self, step: int, stage: str, samples: Samples) -> None: ...

    def close(self) -> None: ...
