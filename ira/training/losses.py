"""Supervised losses: tensors in, a scalar out. Each is a mean over what its mask lets through, never negative."""

from __future__ import annotations

from collections.abc import Callable, Mapping
from typing import Any, cast

import torch
from torch import Tensor, nn
from torch.nn import functional as F
from torch.utils.checkpoint import checkpoint

from ira.audio.waveform import SAMPLE_RATE, LogMel

MEL_SCALES = ((2048, 80), (1024, 80), (512, 40), (256, 20), (128, 10))  # (window, bins); hop = window / 4


class MultiScaleMel(nn.Module):
    """L1 between log-mel spectra at five windows: what a codec's reconstruction is judged by (Kumar et al. 2023)."""

    def __init__(self) -> None:
        super().__init__()
        self.scales = nn.ModuleList(LogMel(bins, SAMPLE_RATE, window, window // 4) for window, bins in MEL_SCALES)

    def forward(self, made: Tensor, target: Tensor) -> Tensor:
        """Two waveforms [B, 1, N] -> scalar."""
        return torch.stack([F.l1_loss(mel(made), mel(target)) for mel in self.scales]).mean()


def masked_mean(values: Tensor, mask: Tensor) -> Tensor:
    """Mean of values where mask is True (or weighted by it); 0 where nothing is."""
    weights = mask.to(values.dtype).expand_as(values)
    return (values * weights).sum() / weights.sum().clamp(min=1e-8)


def codec_cross_entropy(logits: Tensor, codes: Tensor, frames: Tensor, weights: Tensor, eos_weight: float) -> Tensor:
    """Cross-entropy of aligned logits against the codes themselves, and of book 0's end against EOS.

    Args:
        logits: [B, K, T + 1, V + 1]; logits[:, :, t] predicts codes[:, :, t], and the end at t = frames.
        codes: [B, K, T].
        frames: [B].
        weights: [K], what each book counts.
        eos_weight: what the one end step counts against a frame of book 0.
    """
    batch, books, size = codes.shape
    steps = torch.arange(size + 1, device=codes.device)
    eos = logits.shape[-1] - 1
    ends = steps == frames[:, None, None]
    target = torch.where(ends, eos, F.pad(codes, (0, 1)))
    weight = (steps < frames[:, None, None]) * weights[:, None]
    weight = weight + ends * F.pad(weights.new_full((1, 1), eos_weight * float(weights[0])), (0, 0, 0, books - 1))
    loss = F.cross_entropy(logits.float().flatten(0, 2), target.flatten(), reduction="none")
    return masked_mean(loss.view_as(target), weight)


def advance_loss(logits: Tensor, walk: Tensor, frames: Tensor, end_weight: float) -> Tensor:
    """Binary cross-entropy of leaving the text token after each frame; leaving the last one, the end, weighs more.

    Args:
        logits: [B, T + 1] or [B, T]; logits[:, t] is about what follows frame t.
        walk: [B, T] text token of each frame; frames: [B], 0 for a row that does not count.
    """
    size = walk.shape[1]
    steps = torch.arange(size, device=walk.device)
    ends = steps == frames[:, None] - 1
    leaves = F.pad(walk[:, 1:] != walk[:, :-1], (0, 1)) | ends
    weight = (steps < frames[:, None]) * (1.0 + (end_weight - 1.0) * ends)
    loss = F.binary_cross_entropy_with_logits(logits[:, :size].float(), leaves.float(), reduction="none")
    return masked_mean(loss, weight)


def divergence(student: Tensor, teacher: Tensor, temperature: float) -> Tensor:
    """KL(teacher || student) [...] of logits [..., Vocab] at a temperature, scaled by its square (Hinton 2015)."""
    log_student = torch.log_softmax(student.float() / temperature, -1)
    log_teacher = torch.log_softmax(teacher.float() / temperature, -1)
    kl = F.kl_div(log_student, log_teacher, log_target=True, reduction="none").sum(-1)
    return kl.clamp(min=0) * temperature**2


def surprise(logits: Tensor, tokens: Tensor) -> Tensor:
    """Cross-entropy [...] of logits [..., Vocab] on tokens [...]."""
    return F.cross_entropy(logits.float().flatten(0, -2), tokens.flatten(), reduction="none").view_as(tokens)


def in_parts(of: Callable[[Tensor, Tensor], Tensor], left: Tensor, right: Tensor, size: int) -> Tensor:
    """of(left, right) [N] of `size` of the N rows at a time; what is made on the way is made again for the gradient.

    So that of logits, which a vocabulary makes a hundred times as wide as states, only those of one part exist.
    """
    pairs = zip(left.split(size), right.split(size), strict=True)
    return torch.cat([cast(Tensor, checkpoint(of, *pair, use_reentrant=False)) for pair in pairs])


def cosine_gap(student: Tensor, teacher: Tensor, mask: Tensor) -> Tensor:
    """1 - cosine of hidden states [B, R, E], mean over masked positions [B, R]."""
    gap = 1 - F.cosine_similarity(student.float(), teacher.float(), dim=-1)
    return masked_mean(gap.clamp(min=0), mask)  # rounding takes the cosine past 1


def soft_contrastive(left: Tensor, right: Tensor, targets: Tensor, temperature: Tensor) -> Tensor:
    """Symmetric contrastive loss with soft targets, less the targets' own entropy, so that 0 is perfect.

    CLIP's loss (Radford et al. 2021) where many clips share a description: a clip's match is a distribution.

    Args:
        left, right: [B, P] unit vectors.
        targets: [B, B] non-negative, rows of the left against columns of the right; no empty row or column.
        temperature: scalar > 0.
    """
    logits = (left @ right.T).float() / temperature
    losses = []
    for scores, wanted in ((logits, targets), (logits.T, targets.T)):
        wanted = wanted / wanted.sum(-1, keepdim=True)
        losses.append(F.kl_div(torch.log_softmax(scores, -1), wanted, reduction="none").sum(-1).mean())
    return torch.stack(losses).mean().clamp(min=0)


def fixed_weights(losses: dict[str, Tensor], weights: Mapping[Any, float]) -> Tensor:
    """The sum of losses, each times its weight, or 1 where none is given."""
    return torch.stack([loss.float() * weights.get(name, 1.0) for name, loss in losses.items()]).sum()


class UncertaintyWeights(nn.Module):
    """Learned weights over named supervised losses (Kendall, Gal, Cipolla 2018): sum of exp(-s) L + s / 2.

    s is kept in fp32 and bounded to (-4, 4) by 4 tanh(s / 4), which, unlike a clamp, can come back. At the optimum
    s = log(2 L), so each loss is weighed by its own size; a negative loss has no optimum and is refused (no
    reinforcement-learning term belongs here).
    """

    lr_scale = 10.0  # s has to follow losses that fall tenfold within one run

    def __init__(self, names: list[str]) -> None:
        super().__init__()
        self.names = names
        self.s = nn.Parameter(torch.zeros(len(names)))

    def forward(self, losses: dict[str, Tensor]) -> Tensor:
        """The weighted sum of those of the losses that a batch has."""
        if not losses or set(losses) - set(self.names):
            raise ValueError(f"losses {list(losses)} are not the weighted ones {self.names}")
        values = torch.stack([loss.float() for loss in losses.values()])
        if bool((values < 0).any()):
            raise ValueError(f"negative loss in {dict(zip(losses, values.tolist(), strict=True))}")
        s = self._bounded()[[self.names.index(name) for name in losses]]
        return ((-s).exp() * values + s / 2).sum()

    def weights(self) -> dict[str, float]:
        """What each loss is multiplied by now."""
        return dict(zip(self.names, (-self._bounded()).exp().tolist(), strict=True))

    def _bounded(self) -> Tensor:
        return 4 * torch.tanh(self.s.float() / 4)
