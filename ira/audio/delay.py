"""Codec tokens [B, K, T] to language-model steps [B, K, S] and back: the only place in IRA that shifts.

The delay pattern (Copet et al. 2023, MusicGen): book k runs k steps behind book 0. Book k's sequence is

    BOS x (k + 1), code 0, ..., code T-1, EOS, PAD, ...

and the model reads positions 0 .. S-1 with S = T + K. The output at step k + t predicts code t of book k, and at
t = T the end. Ids: 0 .. V-1 codes, V EOS, V+1 BOS, V+2 PAD; a model predicts V + 1 classes, codes and EOS.
"""

from __future__ import annotations

import torch
from torch import Tensor


def special_ids(codebook_size: int) -> tuple[int, int, int]:
    """(EOS, BOS, PAD) for a codebook of this size."""
    return codebook_size, codebook_size + 1, codebook_size + 2


def delay(codes: Tensor, frames: Tensor, codebook_size: int) -> Tensor:
    """Input steps of the language model.

    Args:
        codes: [B, K, T] codec tokens; what stands past a row's frames is ignored.
        frames: [B] valid frames of each row.
        codebook_size: V.

    Returns:
        [B, K, S] with S = T + K.
    """
    batch, books, size = codes.shape
    eos, bos, pad = special_ids(codebook_size)
    steps = torch.arange(size + books, device=codes.device)
    index = steps[None, :] - 1 - torch.arange(books, device=codes.device)[:, None]  # [K, S]: which frame stands here
    gathered = codes.gather(2, index.clamp(0, max(size - 1, 0)).expand(batch, -1, -1)) if size else None
    ends = frames[:, None, None]
    out = torch.where(index < ends, gathered if gathered is not None else bos, pad)
    out = torch.where(index == ends, eos, out)
    return torch.where(index < 0, bos, out)


def undelay(steps: Tensor, frames: int) -> Tensor:
    """Realign what stands or is predicted at the steps: the inverse of `delay`, also for logits.

    Args:
        steps: [B, K, S, ...]; entry k + t of book k belongs to frame t.
        frames: how many frames to return; frames + K - 1 <= S.

    Returns:
        [B, K, frames, ...].
    """
    books, size = steps.shape[1:3]
    if frames + books - 1 > size:
        raise ValueError(f"{frames} frames of {books} books need {frames + books - 1} steps, {size} given")
    return torch.stack([steps[:, k, k : k + frames] for k in range(books)], dim=1)
