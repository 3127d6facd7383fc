"""The causal blocks of which the compact codec's networks are made, over a whole sequence or piece by piece."""

from __future__ import annotations

from typing import cast

import torch
from torch import Tensor, nn
from torch.nn import functional as F

KERNEL = 7


class ConvNeXtBlock(nn.Module):
    """Causal depthwise convolution, layer norm, inverted bottleneck (Liu et al. 2022); [B, T, C] -> [B, T, C]."""

    def __init__(self, width: int) -> None:
        super().__init__()
        self.depthwise = nn.Conv1d(width, width, KERNEL, groups=width)
        self.norm = nn.LayerNorm(width)
        self.up = nn.Linear(width, 3 * width)
        self.down = nn.Linear(3 * width, width)
        self.scale = nn.Parameter(torch.full((width,), 0.1))

    def forward(self, x: Tensor) -> Tensor:
        return self._mixed(x, F.pad(x.transpose(1, 2), (KERNEL - 1, 0)))

    def step(self, x: Tensor, past: Tensor) -> tuple[Tensor, Tensor]:
        """The frames [B, n, C] that follow `past` [B, 6, C], and the past of those after them."""
        joined = torch.cat([past, x], dim=1)
        return self._mixed(x, joined.transpose(1, 2)), joined[:, 1 - KERNEL :]

    def _mixed(self, x: Tensor, padded: Tensor) -> Tensor:
        y = self.depthwise(padded).transpose(1, 2)
        return x + self.scale * self.down(F.gelu(self.up(self.norm(y))))


class ConvNeXt(nn.Sequential):
    """`layers` blocks; a frame hears 6 frames before it in each."""

    def __init__(self, width: int, layers: int) -> None:
        super().__init__(*(ConvNeXtBlock(width) for _ in range(layers)))
        self.width = width

    def silence(self, rows: int) -> list[Tensor]:
        """What stands before the first frame of `rows` sequences, for each block."""
        weight = cast(ConvNeXtBlock, self[0]).norm.weight
        return [weight.new_zeros(rows, KERNEL - 1, self.width) for _ in self]

    def step(self, x: Tensor, past: list[Tensor]) -> Tensor:
        """The frames [B, n, C] that follow; `past` is brought up to date in place."""
        for number, block in enumerate(self):
            x, past[number] = cast(ConvNeXtBlock, block).step(x, past[number])
        return x
