"""A codec for tests that must reach worker processes: the loudness of each frame, coarse and fine, as two codes."""

from __future__ import annotations

import time

import torch
from torch import Tensor

from ira.audio.codec import DecoderStream, Tokens


class LoudnessCodec:
    sample_rate, frame_rate, hop, codebooks, codebook_size = 24_000, 75.0, 320, 2, 1024

    def __init__(self, name: str = "loudness-1", dies_after: int | None = None, seconds_a_call: float = 0.0) -> None:
        self.name, self.dies_after, self.rows, self.seconds_a_call = name, dies_after, 0, seconds_a_call

    def encode(self, waveform: Tensor, samples: Tensor | None = None, codebooks: int | None = None) -> Tokens:
        """Dies, as a killed run would, once `dies_after` rows have been encoded."""
        assert samples is not None
        time.sleep(self.seconds_a_call)
        self.rows += len(waveform)
        if self.dies_after is not None and self.rows > self.dies_after:
            raise KeyboardInterrupt
        frames = (samples + self.hop - 1) // self.hop
        padded = torch.nn.functional.pad(waveform[:, 0], (0, -waveform.shape[-1] % self.hop))
        level = (padded.unflatten(1, (-1, self.hop)).abs().mean(-1) * 1024 * 1024).long().clamp(0, 1024 * 1024 - 1)
        return Tokens(torch.stack([level // 1024, level % 1024], dim=1), frames)

    def decode(self, codes: Tensor, frames: Tensor | None = None) -> Tensor:
        raise NotImplementedError("nothing here listens")

    def stream(self) -> DecoderStream:
        raise NotImplementedError("nothing here listens")

    def code_vectors(self) -> list[torch.Tensor]:
        return [torch.eye(self.codebook_size) for _ in range(self.codebooks)]

    def fingerprint(self) -> str:
        return self.name
