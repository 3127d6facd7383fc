"""What a decoder says of each frame [B, T, C] in; the waveform [B, 1, (T - 3) * 320] of all but the last three, out.

Both ends of the compact codec overlap-add windows of which the last ends three frames after a sample's own: a sample is
final then, and not before.
"""

from __future__ import annotations

import math

import torch
from torch import Tensor, nn

HOP = 320
WINDOW = 1280
OVERLAP = WINDOW // HOP - 1  # frames after its own that still add to a sample


class CosineHead(nn.Linear):
    """320 real coefficients a frame, size times sign, brought back by the inverse modified discrete cosine transform.

    Nothing wraps, as phases do, and there is one number for each sample (Princen and Bradley 1986). Two windows of 640
    reach a sample; so the first two frames give none, and the decoder has heard two frames more than it speaks of.
    """

    basis: Tensor

    def __init__(self, width: int) -> None:
        super().__init__(width, 2 * HOP)
        self.register_buffer("basis", cosine_basis(HOP), persistent=False)

    def forward(self, hidden: Tensor) -> Tensor:
        return overlap_halves(self.windows(hidden[:, OVERLAP - 1 :]))

    def windows(self, hidden: Tensor) -> Tensor:
        """[B, T, C] -> [B, T, 640]."""
        size, value = super().forward(hidden).float().chunk(2, dim=-1)
        with torch.autocast(hidden.device.type, enabled=False):
            return ((size - 3).clamp(max=4.0).exp() * value) @ self.basis.float()


def overlap_halves(windows: Tensor) -> Tensor:
    """windows [B, T, 640] -> [B, 1, (T - 1) * 320]: the samples that both windows have reached."""
    return (windows[:, :-1, HOP:] + windows[:, 1:, :HOP]).flatten(1)[:, None]


def cosine_basis(hop: int) -> Tensor:
    """Rows of the modified discrete cosine transform under a sine window, [hop, 2 * hop].

    Windows of a signal, by its transpose, by it again, overlap-added, are that signal.
    """
    time, row = torch.arange(2 * hop, dtype=torch.float64), torch.arange(hop, dtype=torch.float64)[:, None]
    waves = torch.cos(math.pi / hop * (time + 0.5 + hop / 2) * (row + 0.5)) * math.sqrt(2 / hop)
    return (waves * torch.sin(math.pi * (time + 0.5) / (2 * hop))).float()
