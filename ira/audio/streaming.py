"""Codes in, samples out, piece by piece: one way to decode, whether it is done at once or while codes still come."""

from __future__ import annotations

from typing import Protocol

import torch
from torch import Tensor

CHUNK_FRAMES = 1500  # 20 s: what one pass over long audio holds in memory


class Stream(Protocol):
    """A decoder that remembers what it was given; some samples wait for frames after their own."""

    def push(self, codes: Tensor, inside: Tensor, last: bool = False) -> Tensor:
        """Codes [B, K', n], and which of them are inside their rows [B, n] -> the samples [B, 1, m * hop] now final.

        last: nothing follows, so all that is left is given out.
        """
        ...


def decode_all(stream: Stream, codes: Tensor, frames: Tensor) -> Tensor:
    """codes [B, K', T] and frames [B] through a fresh stream, in chunks -> samples [B, 1, T * hop]."""
    total = codes.shape[-1]
    inside = torch.arange(total, device=codes.device) < frames[:, None]
    ends = [*range(CHUNK_FRAMES, total, CHUNK_FRAMES), total]
    starts = [0, *ends[:-1]]
    pieces = [
        stream.push(codes[..., start:end], inside[:, start:end], end == total)
        for start, end in zip(starts, ends, strict=True)
    ]
    return torch.cat(pieces, dim=-1)
