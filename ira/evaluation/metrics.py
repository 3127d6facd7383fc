"""Pairs of sounds, of texts or of vectors in; plain figures out, None where there was nothing to measure.

What is measured with packages of the extra `eval` imports them when it is called.
"""

from __future__ import annotations

import importlib
import statistics
from collections.abc import Sequence
from typing import Any

import numpy as np
import torch
from torch import Tensor

from ira.audio.waveform import SAMPLE_RATE, LogMel, resample
from ira.errors import InputError

SCORE_RATE = 16_000  # what wide-band PESQ is defined for
SILENT = 1e-4  # a peak below this is silence
BOOTSTRAPS = 2000
DRAWS = 1000  # of clips, for the interval of a mean
Interval = tuple[float, float, float]  # what was found, and the ends of its 95 % interval


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


def weighted_mean(values: Sequence[float], weights: Sequence[float]) -> float | None:
    total = sum(weights)
    return sum(value * weight for value, weight in zip(values, weights, strict=True)) / total if total else None


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


def character_errors(truth: str, heard: str) -> int:
    """Letters of `truth` to put in, to leave out or to change, for `heard`."""
    if not letters(truth):
        return len(letters(heard))
    found = package("jiwer").process_characters(letters(truth), letters(heard))
    return found.substitutions + found.deletions + found.insertions


def error_share(truths: Sequence[str], heard: Sequence[str]) -> float | None:
    """Character errors over all texts by the characters of all truths, letters alone; truths without any are left out.

    It may exceed 1, where more was heard than was there.
    """
    pairs = [(t, h) for t, h in zip(truths, heard, strict=True) if letters(t)]
    characters = sum(len(letters(t)) for t, _ in pairs)
    return sum(character_errors(t, h) for t, h in pairs) / characters if pairs else None


def difference_interval(
    errors: Sequence[int], baseline: Sequence[int], characters: Sequence[int]
) -> tuple[float, float] | None:
    """95 % interval of the difference of two error shares over the same texts: the bootstrap over texts, seed 0."""
    if not len(characters):
        return None
    drawn = np.random.default_rng(0).integers(len(characters), size=(BOOTSTRAPS, len(characters)))
    more = (np.asarray(errors) - np.asarray(baseline))[drawn].sum(1) / np.asarray(characters)[drawn].sum(1)
    low, high = np.quantile(more, [0.025, 0.975])
    return float(low), float(high)


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
    a, b = torch.tensor(same), torch.tensor(different).sort().values
    below, not_above = torch.searchsorted(b, a), torch.searchsorted(b, a, right=True)
    return float((below + not_above).double().mean() / (2 * len(b)))


def equal_error_rate(same: Sequence[float], different: Sequence[float]) -> float | None:
    """The error where as large a share of the same is refused as of the different is let in."""
    if not same or not different:
        return None
    a, b = torch.tensor(same).sort().values, torch.tensor(different).sort().values
    cuts = torch.cat([a, b])
    refused, let_in = torch.searchsorted(a, cuts) / len(a), 1 - torch.searchsorted(b, cuts) / len(b)
    best = int((refused - let_in).abs().argmin())
    return float((refused[best] + let_in[best]) / 2)


def gap_closed(score: float | None, floor: float | None, ceiling: float | None, least: float = 0.0) -> float | None:
    """How far from `floor` (0) to `ceiling` (1) a score is; None where the ceiling is not more than `least` above."""
    if score is None or floor is None or ceiling is None or ceiling - floor <= least:
        return None
    return (score - floor) / (ceiling - floor)


def mean_interval(scores: Sequence[float], clips: Sequence[int]) -> Interval | None:
    """The mean of scores and its 95 % interval: the bootstrap over the clips that they belong to, seed 0."""
    if not len(scores):
        return None
    return _interval(statistics.fmean(scores), _drawn_means(clips, scores)[0])


def gap_interval(
    scores: Sequence[float], floors: Sequence[float], ceilings: Sequence[float], clips: Sequence[int], least: float
) -> Interval | None:
    """`gap_closed` of the means, of one score, floor and ceiling for each task of each clip, and its 95 % interval.

    None where the ceiling's mean is not more than `least` above the floor's. A draw of clips in which it is not above
    the floor at all has no gap to be closed, and is left out.
    """
    closed = gap_closed(mean(scores), mean(floors), mean(ceilings), least)
    if closed is None:
        return None
    score, floor, ceiling = _drawn_means(clips, scores, floors, ceilings)
    apart = ceiling - floor > 0
    return _interval(closed, (score - floor)[apart] / (ceiling - floor)[apart])


def _drawn_means(clips: Sequence[int], *scores: Sequence[float]) -> list[np.ndarray]:
    """Means of each of the scores in `DRAWS` draws of as many clips as there are, with replacement."""
    names, clip = np.unique(np.asarray(clips), return_inverse=True)
    often = np.random.default_rng(0).multinomial(len(names), np.full(len(names), 1 / len(names)), size=DRAWS)
    weights = often[:, clip]
    return [weights @ np.asarray(each, dtype=float) / weights.sum(1) for each in scores]


def _interval(found: float, drawn: np.ndarray) -> Interval:
    low, high = np.quantile(drawn, [0.025, 0.975])
    return found, float(low), float(high)


def _at_score_rate(*waveforms: Tensor) -> list[Any]:
    return [resample(x.reshape(-1), SAMPLE_RATE, SCORE_RATE).cpu().numpy() for x in waveforms]
