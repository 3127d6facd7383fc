"""Voice encoder: log-mel [B, M, T] or a description in words [B, L] in, a unit vector [B, P] out, in one space.

Two towers trained against each other as in CLIP (Radford et al. 2021): a transformer over mel frames with attention
pooling, and a smaller one over the characters of a description.
"""

from __future__ import annotations

from typing import Any

import torch
from torch import Tensor, nn
from torch.nn import functional as F

from ira.config import VoiceConfig
from ira.models.blocks import EPS, Block, init_weights, length_mask, rope

STACK = 4  # mel frames read as one: 75 Hz becomes 18.75 Hz, finer than any voice changes


class Tower(nn.Module):
    """Vectors [B, T, W] and lengths [B] -> unit vectors [B, P]: bidirectional blocks, attention pooling, projection."""

    def __init__(self, width: int, layers: int, heads: int, dim: int) -> None:
        super().__init__()
        self.head_dim = width // heads
        self.blocks = nn.ModuleList(Block(width, heads) for _ in range(layers))
        self.norm = nn.RMSNorm(width, eps=EPS)
        self.attend = nn.Linear(width, 1)
        self.out = nn.Linear(width, dim)

    def forward(self, x: Tensor, lengths: Tensor) -> Tensor:
        mask = length_mask(lengths, x.shape[1])
        angles = rope(torch.arange(x.shape[1], device=x.device), self.head_dim)
        for block in self.blocks:
            x = block.feed_forward(block.attend(x, angles, mask=mask[:, None, None, :]))  # type: ignore[operator]
        x = self.norm(x)
        weights = self.attend(x).masked_fill(~mask[..., None], -torch.inf).softmax(dim=1)
        return F.normalize(self.out((weights * x).sum(dim=1)).float(), dim=-1)


class VoiceEncoder(nn.Module):
    """Both towers. `text_vocab` is read from the tokenizer."""

    def __init__(self, config: VoiceConfig, *, text_vocab: int) -> None:
        super().__init__()
        self.config, self.text_vocab = config, text_vocab
        self.mel_in = nn.Linear(STACK * config.mel_bins, config.hidden)
        self.audio = Tower(config.hidden, config.layers, config.heads, config.dim)
        self.text_in = nn.Embedding(text_vocab, config.text_hidden)
        self.text = Tower(config.text_hidden, config.text_layers, 4, config.dim)
        init_weights(self, config.layers)

    def hparams(self) -> dict[str, Any]:
        return {"config": self.config.model_dump(), "text_vocab": self.text_vocab}

    @classmethod
    def from_hparams(cls, hparams: dict[str, Any]) -> VoiceEncoder:
        return cls(VoiceConfig(**hparams["config"]), text_vocab=hparams["text_vocab"])

    def embed_audio(self, mel: Tensor, frames: Tensor) -> Tensor:
        """Log-mel [B, M, T] with `frames` [B] valid ones -> [B, P]; a voice must not depend on the padding."""
        mel = mel.masked_fill(~length_mask(frames, mel.shape[-1])[:, None], 0.0)
        # Loudness is the microphone's, not the voice's: the mean level of each clip is taken out.
        level = mel.sum(dim=(1, 2)) / (frames * mel.shape[1]).clamp(min=1)
        mel = (mel - level[:, None, None]).masked_fill(~length_mask(frames, mel.shape[-1])[:, None], 0.0)
        stacked = F.pad(mel, (0, -mel.shape[-1] % STACK)).unflatten(-1, (-1, STACK))
        x = self.mel_in(stacked.permute(0, 2, 1, 3).flatten(2) / 3)
        return self.audio(x, (frames + STACK - 1) // STACK)

    def embed_text(self, text: Tensor, lengths: Tensor) -> Tensor:
        """Character ids [B, L] -> [B, P]."""
        return self.text(self.text_in(text), lengths)
