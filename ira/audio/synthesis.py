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


class FourierHead(nn.Linear):
    """Magnitude and phase of a spectrum a frame, brought back by the inverse Fourier transform (Siuzdak 2023)."""

    window: Tensor

    def __init__(self, width: int) -> None:
        super().__init__(width, WINDOW + 2)
        self.register_buffer("window", torch.hann_window(WINDOW), persistent=False)

    def forward(self, hidden: Tensor) -> Tensor:
        magnitude, phase = super().forward(hidden).float().chunk(2, dim=-1)
        spectrum = torch.polar(magnitude.clamp(max=6.0).exp(), phase)
        return self.overlap_add(torch.fft.irfft(spectrum, WINDOW, dim=-1) * self.window)

    def overlap_add(self, windows: Tensor) -> Tensor:
        """windows [B, T, 1280] -> [B, 1, (T - 3) * 320]: the samples that all four windows have reached."""
        batch, frames, _ = windows.shape
        parts = windows.unflatten(-1, (OVERLAP + 1, HOP))
        whole = sum(parts[:, i : frames - OVERLAP + i, OVERLAP - i] for i in range(OVERLAP + 1))
        envelope = self.window.square().unflatten(0, (OVERLAP + 1, HOP)).sum(0)
        return (whole / envelope).reshape(batch, 1, -1)


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
        size, value = super().forward(hidden[:, OVERLAP - 1 :]).float().chunk(2, dim=-1)
        with torch.autocast(hidden.device.type, enabled=False):
            return overlap_halves(((size - 3).clamp(max=4.0).exp() * value) @ self.basis.float())


def overlap_halves(windows: Tensor) -> Tensor:
    """windows [B, T, 640] -> [B, 1, (T - 1) * 320]: the samples that both windows have reached."""
    return (windows[:, :-1, HOP:] + windows[:, 1:, :HOP]).reshape(len(windows), 1, -1)


def cosine_basis(hop: int) -> Tensor:
    """Rows of the modified discrete cosine transform under a sine window, [hop, 2 * hop].

    Windows of a signal, by its transpose, by it again, overlap-added, are that signal.
    """
    time, row = torch.arange(2 * hop, dtype=torch.float64), torch.arange(hop, dtype=torch.float64)[:, None]
    waves = torch.cos(math.pi / hop * (time + 0.5 + hop / 2) * (row + 0.5)) * math.sqrt(2 / hop)
    return (waves * torch.sin(math.pi * (time + 0.5) / (2 * hop))).float()
