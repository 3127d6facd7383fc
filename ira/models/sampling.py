"""Logits of one step in, drawn tokens out; every row draws from its own random generator."""

from __future__ import annotations

import torch
from pydantic import Field
from torch import Tensor

from ira.config import Section


class Sampling(Section):
    """How tokens are drawn. `guidance` above 1 is classifier-free guidance (Ho, Salimans 2022).

    `repetition_window` and `repetition_share` are the repetition-aware sampling of VALL-E 2 (Chen et al. 2024): where
    the drawn token fills that share of the last window of its book, it is drawn again without top-k. Temperature 0
    takes the likeliest token, always.
    """

    temperature: float = Field(default=0.7, ge=0)
    top_k: int = Field(default=80, gt=0)
    guidance: float = Field(default=3.0, ge=0)
    repetition_window: int = Field(default=10, gt=0)
    repetition_share: float = Field(default=0.5, gt=0)


def draw(logits: Tensor, past: Tensor, generators: list[torch.Generator], sampling: Sampling, eos: int) -> Tensor:
    """One token for each row and book [B, K] from logits [B, K, V + 1]; only book 0 may end."""
    logits = logits.clone()
    logits[:, 1:, eos] = -torch.inf
    if sampling.temperature == 0:
        return logits.argmax(-1)
    logits = logits / sampling.temperature
    # Two draws a step, wanted or not: how much randomness a row has used must not depend on what it drew.
    noise, fresh = torch.stack([gumbel(torch.Size((2, *logits.shape[1:])), g) for g in generators], dim=1)
    top = logits.topk(min(sampling.top_k, logits.shape[-1]), dim=-1).values[..., -1:]
    drawn = (logits.masked_fill(logits < top, -torch.inf) + noise).argmax(-1)
    window = past[:, :, -sampling.repetition_window :]
    share = (window == drawn[..., None]).float().sum(-1) / sampling.repetition_window
    return torch.where(share >= sampling.repetition_share, (logits + fresh).argmax(-1), drawn)


def gumbel(shape: torch.Size, generator: torch.Generator) -> Tensor:
    """Gumbel noise: the argmax of logits plus it is a sample of their softmax."""
    uniform = torch.rand(shape, generator=generator, device=generator.device)
    return -torch.log(-torch.log(uniform.clamp(1e-9, 1 - 1e-7)))


def entropy(logits: Tensor, temperature: float) -> Tensor:
    """Nats of the distribution behind logits [B, V + 1] at a temperature; 0 where the likeliest is always taken."""
    if temperature == 0:
        return logits.new_zeros(len(logits))
    chances = (logits / temperature).softmax(-1)
    return -(chances * chances.clamp(min=1e-20).log()).sum(-1)
