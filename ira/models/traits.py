"""SpeechLM states of whole recordings in, what the voice tells beside the words out: a choice for each trait.

The mean and the deviation of every channel over the recording are what a voice keeps from word to word; two layers
read gender, age, emotion and language from them. Each choice stands for a word of the LLM, so that the LLM is given a
voice as it is given words: as the mean of its own embeddings under what was heard.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence

import torch
from torch import Tensor, nn
from torch.nn import functional as F

from ira.models.blocks import EPS, length_mask

HIDDEN = 64


class Traits(nn.Module):
    """Names each trait of a voice.

    Args:
        width: channels of all the states that are read.
        words: of each trait, the ids of the LLM's tokens that each choice is written with.
    """

    def __init__(self, width: int, words: Mapping[str, Sequence[Sequence[int]]]) -> None:
        super().__init__()
        self.words = {trait: [list(ids) for ids in choices] for trait, choices in words.items()}
        self.norm = nn.LayerNorm(2 * width)
        self.enter = nn.Linear(2 * width, HIDDEN)
        self.choose = nn.Linear(HIDDEN, sum(len(choices) for choices in self.words.values()))

    def forward(self, states: Tensor, frames: Tensor) -> dict[str, Tensor]:
        """states [B, n, T, D], normalised; frames [B] -> logits [B, choices] of each trait."""
        there = length_mask(frames, states.shape[2])[:, None, :, None]
        count = frames.clamp(min=1)[:, None, None]
        heard = states.float().masked_fill(~there, 0)
        mean = heard.sum(2) / count
        deviation = (heard.square().sum(2) / count - mean.square()).clamp(min=0).add(EPS).sqrt()
        pooled = self.norm(torch.cat([mean, deviation], dim=-1).flatten(1))
        logits = self.choose(F.silu(self.enter(pooled))).float()
        return dict(zip(self.words, logits.split([len(c) for c in self.words.values()], dim=-1), strict=True))

    def say(self, logits: Mapping[str, Tensor], table: Tensor) -> Tensor:
        """What the LLM is given: [B, traits, E], of its token embeddings [Vocab, E]."""
        said = []
        for trait, choices in self.words.items():
            words = torch.stack([table[ids].mean(0) for ids in choices])
            said.append(logits[trait].softmax(-1).to(words.dtype) @ words)
        return torch.stack(said, dim=1)
