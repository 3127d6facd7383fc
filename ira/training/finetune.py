"""A released EnCodec in; one that was trained on your own recordings, out: what the codec stage wants of a codec.

Encoder and decoder learn, the codebooks stay: tokens keep their meaning as far as the encoder does. Weight norm stays
as it was released, so that transformers can open what is saved.
"""

from __future__ import annotations

from pathlib import Path
from types import SimpleNamespace
from typing import Any, cast

import torch
from torch import Tensor, nn
from transformers import EncodecModel

from ira.audio.codec import Tokens
from ira.audio.encodec import EncodecCodec, load_encodec
from ira.audio.quantizer import Quantized


class TrainableEncodec(nn.Module):
    """EnCodec 24 kHz with a training pass; `codebooks` of its books are trained for, any prefix of them."""

    always_copied = True

    def __init__(self, model: Any, bandwidth_kbps: float) -> None:
        super().__init__()
        self.model, self.bandwidth_kbps = model.requires_grad_(True), bandwidth_kbps
        self.model.quantizer.requires_grad_(False)
        frozen = self.frozen()
        self.config, self.codebook_size = SimpleNamespace(codebooks=frozen.codebooks), frozen.codebook_size

    @classmethod
    def from_pretrained(cls, path: str, bandwidth_kbps: float) -> TrainableEncodec:
        """Load a hub id or a folder; raises `InputError` as `EncodecCodec.from_pretrained` does."""
        return cls(load_encodec(path), bandwidth_kbps)

    @property
    def last_layer(self) -> nn.Parameter:
        return list(self.model.decoder.parameters())[-1]

    def forward(self, waveform: Tensor, codebooks: Tensor | None = None) -> tuple[Tensor, Quantized]:
        """Waveform [B, 1, N], N a multiple of 320 -> (reconstruction [B, 1, N], quantizer output)."""
        latent = self.model.encoder(waveform).float()
        with torch.autocast(latent.device.type, enabled=False):
            quantized = self._quantize(latent, codebooks)
        return self.model.decoder(quantized.latent).float(), quantized

    def _quantize(self, latent: Tensor, codebooks: Tensor | None) -> Quantized:
        """latent [B, C, T]; gradients pass straight through the choice of codes, which do not move."""
        left, codes, losses = latent, [], []
        for k, layer in enumerate(list(self.model.quantizer.layers)[: self.config.codebooks]):
            used = 1.0 if codebooks is None else (codebooks > k).to(latent.dtype)[:, None, None]
            with torch.no_grad():
                codes.append(cast(Any, layer).encode(left))
                entry = cast(Any, layer).decode(codes[-1]) * used
            losses.append(((left - entry).square() * used).mean())
            left = left - entry
        total = latent - left.detach()  # of value the sum of entries, of slope the latent
        return Quantized(total, torch.stack(codes, 1), latent.new_zeros(()), torch.stack(losses).sum())

    def encode(self, waveform: Tensor, samples: Tensor | None = None, codebooks: int | None = None) -> Tokens:
        return self.frozen().encode(waveform, samples, codebooks)

    def decode(self, codes: Tensor, frames: Tensor | None = None) -> Tensor:
        return self.frozen().decode(codes, frames)

    def frozen(self) -> EncodecCodec:
        """A copy as it will be used; a new model, since folding a deep copy spoils the class of the original."""
        model = cast(Any, EncodecModel)(self.model.config)
        model.load_state_dict(self.model.state_dict())
        return EncodecCodec(model.to(next(self.model.parameters()).device), self.bandwidth_kbps)

    def save(self, folder: Path) -> None:
        """Write what `EncodecCodec.from_pretrained` and transformers read."""
        self.model.save_pretrained(folder)
