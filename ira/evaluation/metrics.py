"""Pairs of sounds, of texts or of vectors in; plain figures out, None where there was nothing to measure.

What is measured with packages of the extra `eval` imports them when it is called.
"""

from __future__ import annotations

import importlib
import statistics
from collections.abc import Sequence
from typing import Any

import torch
from torch import Tensor

from ira.audio.waveform import SAMPLE_RATE, LogMel, resample
from ira.errors import InputError

SCORE_RATE = 16_000  # what wide-band PESQ is defined for
SILENT = 1e-4  # a peak below this is silence


def package(name: str) -> Any:
    """A package of the extra `eval`.

    Raises:
        InputError: it is not installed.
    """
    try:
        return importlib.import_module(name)
    except ImportError:
        raise InputError(
            f"{name} is not installed; this measure wants it; pip install -e '.[eval]' in the clone of ira"
        ) from None


def mean(values: Sequence[float]) -> float | None:
    return statistics.fmean(values) if values else None


def stoi(clean: Tensor, made: Tensor) -> float:
    """Short-time objective intelligibility (Taal et al. 2011) of `made` [1, N] against `clean` [1, N]; 1 is best."""
    return float(package("pystoi").stoi(*_at_score_rate(clean, made), SCORE_RATE))


def pesq(clean: Tensor, made: Tensor) -> float | None:
    """Wide-band PESQ (ITU-T P.862.2), about 1 (bad) to 4.6; None where it finds no speech in `clean` or `made`."""
    module = package("pesq")
    if min(float(clean.abs().max()), float(made.abs().max())) < SILENT:
        return None
    try:
        return float(module.pesq(SCORE_RATE, *_at_score_rate(clean, made), "wb"))
    except module.PesqError:
        return None


def mel_distance(clean: Tensor, made: Tensor) -> float:
    """Mean absolute difference of the 80-bin log-mel spectra of two waveforms [1, N]."""
    mel = LogMel(80)
    return float((mel(clean[None]) - mel(made[None])).abs().mean())


def letters(text: str) -> str:
    """Lower-case words of letters and apostrophes alone, one space between them."""
    return " ".join("".join(c if c.isalpha() or c == "'" else " " for c in text.lower().replace("’", "'")).split())


def cer(truths: Sequence[str], heard: Sequence[str]) -> float | None:
    """Character errors over all texts by the characters of all truths, letters alone; truths without any are left out.

    It may exceed 1, where more was heard than was there.
    """
    pairs = [(letters(t), letters(h)) for t, h in zip(truths, heard, strict=True) if letters(t)]
    return float(package("jiwer").cer([t for t, _ in pairs], [h for _, h in pairs])) if pairs else None


def capped_wer(truth: str, heard: str) -> float | None:
    """Word error rate, letters alone, at most 1: a long wrong answer is no worse than none. None without a truth."""
    return min(1.0, float(package("jiwer").wer(letters(truth), letters(heard)))) if letters(truth) else None


def recall_at_k(similarity: Tensor, right: Sequence[int], k: int) -> float | None:
    """Share of the rows of `similarity` [N, M] whose right column is among the k most similar; ties count against."""
    if not len(right):
        return None
    own = similarity.gather(1, torch.tensor(right, device=similarity.device)[:, None])
    above = (similarity >= own).sum(1) - 1
    return float((above < k).float().mean())


def ranking_area(same: Sequence[float], different: Sequence[float]) -> float | None:
    """Area under the ROC curve: how often a pair of the same kind scores above one of different kinds, ties half."""
    if not same or not different:
        return None
    a, b = torch.tensor(same)[:, None], torch.tensor(different)
    return float(((a > b).float() + 0.5 * (a == b).float()).mean())


def equal_error_rate(same: Sequence[float], different: Sequence[float]) -> float | None:
    """The error where as large a share of the same is refused as of the different is let in."""
    if not same or not different:
        return None
    a, b = torch.tensor(same), torch.tensor(different)
    cuts = torch.cat([a, b])[:, None]
    refused, let_in = (a < cuts).float().mean(1), (b >= cuts).float().mean(1)
    best = int((refused - let_in).abs().argmin())
    return float((refused[best] + let_in[best]) / 2)


def gap_closed(score: float | None, floor: float | None, ceiling: float | None) -> float | None:
    """How far from `floor` (0) to `ceiling` (1) a score is; None where the ceiling is not above the floor."""
    if score is None or floor is None or ceiling is None or ceiling <= floor:
        return None
    return (score - floor) / (ceiling - floor)


def _at_score_rate(*waveforms: Tensor) -> list[Any]:
    return [resample(x.reshape(-1), SAMPLE_RATE, SCORE_RATE).cpu().numpy() for x in waveforms]
