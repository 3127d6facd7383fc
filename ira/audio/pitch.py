"""Waveform [B, 1, N] in, its pitch in each frame out: what the vocoder's encoder hears, and what its decoder is taught.

The first of the nearly highest peaks of the autocorrelation, divided by that of its window (Boersma 1993).
"""

from __future__ import annotations

import math
from typing import NamedTuple

import torch
from torch import Tensor
from torch.nn import functional as F

from ira.audio.synthesis import HOP, WINDOW
from ira.audio.waveform import SAMPLE_RATE

LOWEST, HIGHEST = 60, 420  # Hz
NEARLY = 0.87  # of the highest peak: a period's multiples fit as well as itself
VOICED = 0.55  # periodicity from which a frame counts as voiced
FAINT = 1e-7  # power below which nothing is heard
UNKNOWN = math.log(150.0)  # pitch of a recording without a voiced frame


class Pitch(NamedTuple):
    """Of every frame, all [B, T]: frequency in Hz, whether it is voiced, and its periodicity in [0, 1]."""

    hertz: Tensor
    voiced: Tensor
    periodicity: Tensor


@torch.no_grad()
def track(waveform: Tensor) -> Pitch:
    """Pitch of the 1280 samples that end with each frame of waveform [B, 1, N]; T = ceil(N / 320)."""
    padded = F.pad(waveform[:, 0].float(), (WINDOW - HOP, -waveform.shape[-1] % HOP))
    frames = padded.unfold(1, WINDOW, HOP)
    frames = frames - frames.mean(-1, keepdim=True)
    alike = _autocorrelation(frames)
    first, last = SAMPLE_RATE // HIGHEST, SAMPLE_RATE // LOWEST
    inner, left, right = (alike[..., first + step : last + step] for step in (0, -1, 1))
    peak = (inner > left) & (inner >= right)
    best = torch.where(peak, inner, -1.0).amax(-1, keepdim=True)
    lag = (peak & (inner >= NEARLY * best)).int().argmax(-1, keepdim=True)
    before, height, after = (alike.gather(-1, lag + first + step)[..., 0] for step in (-1, 0, 1))
    shift = ((before - after) / (2 * (before - 2 * height + after)).clamp(max=-1e-6)).clamp(-0.5, 0.5)
    audible = frames.square().mean(-1) > FAINT
    periodicity = torch.where(audible, height.clamp(0, 1), 0.0)
    return Pitch(SAMPLE_RATE / (lag[..., 0] + first + shift), audible & (height > VOICED), periodicity)


def _autocorrelation(frames: Tensor) -> Tensor:
    """[..., S] -> [..., S], 1 at lag 0, as if the frames had no window."""
    window = torch.hann_window(frames.shape[-1], device=frames.device)
    of_frames, of_window = (_raw_autocorrelation(each) for each in (frames * window, window))
    return of_frames / of_frames[..., :1].clamp(min=1e-9) / (of_window / of_window[:1]).clamp(min=1e-3)


def _raw_autocorrelation(frames: Tensor) -> Tensor:
    size = frames.shape[-1]
    return torch.fft.irfft(torch.fft.rfft(frames, 2 * size).abs().square())[..., :size]


def at_centres(pitch: Pitch) -> tuple[Tensor, Tensor]:
    """Natural logarithm of the Hz in the middle of each frame, and whether it is voiced there, [B, T] both.

    A window of `track` is centred one and a half frames before its own middle, so that the next two are averaged. Where
    nothing is voiced the last voiced pitch is held.
    """
    (hertz, voiced), (later, later_voiced) = (
        (F.pad(pitch.hertz[:, by:], (0, by), value=1.0), F.pad(pitch.voiced[:, by:], (0, by))) for by in (1, 2)
    )
    both = (hertz * later).sqrt()
    middle = torch.where(voiced & later_voiced, both, torch.where(voiced, hertz, later))
    return _held(middle.clamp(min=1.0).log(), voiced | later_voiced), voiced | later_voiced


def _held(values: Tensor, known: Tensor) -> Tensor:
    """[B, T] where known, else the last known value, or the first before there is one."""
    at = torch.arange(values.shape[1], device=values.device)
    last = torch.where(known, at, -1).cummax(1).values
    first = known.int().argmax(1, keepdim=True)
    held = values.gather(1, torch.where(last >= 0, last, first))
    return torch.where(known.any(1, keepdim=True), held, UNKNOWN)
