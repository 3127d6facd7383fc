"""Supervised losses: tensors in, a scalar out. Each is a mean over what its mask lets through, never negative."""

from __future__ import annotations

import torch
from torch import Tensor, nn
from torch.nn import functional as F

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


def forward_sum(scores: Tensor, frames: Tensor, text_lengths: Tensor) -> Tensor:
    """Minus log-probability, a frame, that attention walks through the text from first to last without skipping.

    The attention's alignment search of RAD-TTS (Shih et al. 2021; Badlani et al. 2022): connectionist temporal
    classification over attention scores, the text positions being the labels.

    Args:
        scores: [B, T, L] attention logits in fp32, -inf at text padding.
        frames: [B] frames of each row.
        text_lengths: [B]; rows with more text than frames, or none, do not count.
    """
    batch, size, length = scores.shape
    scores = scores.clamp(min=-1e4)  # at -inf the gradient of ctc_loss is not a number, and spoils the whole row
    blank = scores.new_full((batch, size, 1), -1.0)
    log_probs = torch.log_softmax(torch.cat([blank, scores], dim=-1), dim=-1).transpose(0, 1)
    labels = torch.arange(1, length + 1, device=scores.device).expand(batch, -1)
    loss = F.ctc_loss(log_probs, labels, frames, text_lengths, reduction="none", zero_infinity=True)
    counts = (text_lengths > 0) & (text_lengths <= frames)
    return masked_mean(loss / frames.clamp(min=1), counts)


def guided_attention(scores: Tensor, frames: Tensor, text_lengths: Tensor, width: float = 0.2) -> Tensor:
    """Share of the attention that lies off the diagonal of time against text (Tachibana et al. 2018), in 0..1.

    The forward-sum loss alone is content to run through the text in the first frames and to stay at its end.

    Args:
        scores: [B, T, L] attention logits in fp32, -inf at text padding.
        frames: [B]; text_lengths: [B], rows of length 0 do not count.
    """
    size, length = scores.shape[1:]
    off = 1 - diagonal_prior(frames, text_lengths, size, length, width).exp()
    inside = (torch.arange(size, device=frames.device) < frames[:, None]) & (text_lengths > 0)[:, None]
    return masked_mean((scores.softmax(-1) * off).sum(-1), inside)


def diagonal_prior(frames: Tensor, text_lengths: Tensor, size: int, length: int, width: float = 0.1) -> Tensor:
    """Log-weights [B, size, length] that favour the diagonal of time against text, at most 0.

    A Gaussian of relative width `width` (after Tachibana et al. 2018); added to attention scores it is the static
    prior that keeps early attention from wandering.
    """
    time = torch.arange(size, device=frames.device) / frames.clamp(min=1)[:, None]
    place = torch.arange(length, device=frames.device) / text_lengths.clamp(min=1)[:, None]
    return -((time[:, :, None] - place[:, None, :]) ** 2) / (2 * width**2)


def distillation(student: Tensor, teacher: Tensor, mask: Tensor, temperature: float) -> Tensor:
    """KL(teacher || student) at a temperature, scaled by its square (Hinton et al. 2015), mean over masked positions.

    Args:
        student, teacher: [B, R, Vocab] logits at the same response positions.
        mask: [B, R].
    """
    log_student = torch.log_softmax(student.float() / temperature, -1)
    log_teacher = torch.log_softmax(teacher.float() / temperature, -1)
    kl = F.kl_div(log_student, log_teacher, log_target=True, reduction="none").sum(-1).clamp(min=0)
    return masked_mean(kl, mask) * temperature**2


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
        if list(losses) != self.names:
            raise ValueError(f"losses {list(losses)} are not the weighted ones {self.names}")
        values = torch.stack([losses[name].float() for name in self.names])
        if bool((values < 0).any()):
            raise ValueError(f"negative loss in {dict(zip(self.names, values.tolist(), strict=True))}")
        s = self._bounded()
        return ((-s).exp() * values + s / 2).sum()

    def weights(self) -> dict[str, float]:
        """What each loss is multiplied by now."""
        return dict(zip(self.names, (-self._bounded()).exp().tolist(), strict=True))

    def _bounded(self) -> Tensor:
        return 4 * torch.tanh(self.s.float() / 4)
