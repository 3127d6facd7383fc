"""Texts in, what the adapter has to spell and to name in their order out; and how far it is from that.

Connectionist temporal classification (Graves et al. 2006): the loss sums over every way to place the symbols of a text
on the positions of its sound, blanks between them. Symbol 0 is the blank.
"""

from __future__ import annotations

import re
from collections.abc import Sequence
from typing import Any

import torch
from torch import Tensor
from torch.nn import functional as F
from torch.nn.utils.rnn import pad_sequence

from ira.data.text import CharTokenizer

HIDDEN_SPANS, HIDDEN_SHARE = 2, 0.08  # of a recording, each: what is hidden from the ears while they learn


def words_of(text: str) -> str:
    """A text without what is not heard: words and apostrophes, single spaces."""
    return " ".join(re.sub(r"[^\w' ]|_", " ", text.replace("’", "'")).split())


def spelled(text: str, tokenizer: CharTokenizer) -> list[int]:
    """Character ids of a normalised text's words, without the end."""
    return tokenizer.encode(words_of(text))[:-1]


def named(text: str, tokenizer: Any) -> list[int]:
    """Ids of the LLM's tokens for a text's words, each word as it stands within a sentence."""
    words = words_of(text)
    return tokenizer(f" {words}", add_special_tokens=False).input_ids if words else []


def ctc(logits: Tensor, lengths: Tensor, targets: Sequence[Sequence[int]]) -> Tensor:
    """Nats a symbol, mean over the rows that have symbols and room for them; 0 where none has.

    Args:
        logits: [B, T, 1 + n]; lengths: [B], positions of each row.
        targets: symbols 1..n of each row.
    """
    sizes = torch.tensor([len(row) for row in targets])
    padded = pad_sequence([torch.tensor([*row, 0]) for row in targets], batch_first=True)[:, :-1]
    chances = logits.float().log_softmax(-1).transpose(0, 1)
    each = F.ctc_loss(
        chances, padded.to(logits.device), lengths.cpu(), sizes, reduction="none", zero_infinity=True
    ) / sizes.clamp(min=1).to(logits.device)
    counts = ((sizes > 0) & (sizes <= lengths.cpu())).to(logits.device)
    return (each * counts).sum() / counts.sum().clamp(min=1)


def likeliest(logits: Tensor, lengths: Tensor) -> list[list[int]]:
    """Symbols of each row of logits [B, T, 1 + n]: the likeliest at each position, without repeats and blanks."""
    found = []
    for row, size in zip(logits.argmax(-1), lengths.tolist(), strict=True):
        kept = torch.unique_consecutive(row[:size])
        found.append(kept[kept != 0].tolist())
    return found


def hidden_spans(sizes: Tensor, longest: int) -> Tensor:
    """[B, longest] True in a few short spans of each row of `sizes` [B] positions, at random (SpecAugment in time)."""
    rows, place = len(sizes), torch.arange(longest)
    lengths = torch.rand(rows, HIDDEN_SPANS) * HIDDEN_SHARE * sizes.cpu()[:, None]
    starts = torch.rand(rows, HIDDEN_SPANS) * (sizes.cpu()[:, None] - lengths)
    within = (place >= starts[..., None]) & (place < (starts + lengths)[..., None])
    return within.any(1).to(sizes.device)
