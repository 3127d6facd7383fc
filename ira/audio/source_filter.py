"""Pitch and two spectral envelopes of each frame in, speech out: pulses and noise, filtered.

A harmonic plus noise model whose filters a network sets (Engel et al. 2020; Wang, Takaki and Yamagishi 2019). Its
phases follow from the pitch, so that nothing that a frame has to say is a phase. A window of 640 samples stands on the
middle of each frame; two of them reach a sample, and their pitch is known from their neighbours: a window is a function
of three frames and of where in a cycle it begins, however long the speech is.
"""

from __future__ import annotations

import math

import torch
from torch import Tensor
from torch.nn import functional as F

from ira.audio.synthesis import HOP, overlap_halves
from ira.audio.waveform import SAMPLE_RATE

SIZE = 2 * HOP  # samples of a window
BINS = SIZE // 2 + 1
HIGHEST_HARMONIC = 11_500.0  # Hz
NOISE_FRAMES = 256  # after 3.4 s the noise begins anew, which nobody hears


def cycles(hertz: Tensor, start: Tensor) -> Tensor:
    """Where in its cycle each frame's middle is: hertz [B, T], start [B] at the first -> [B, T] fp64 in [0, 1)."""
    steps = (hertz[:, :-1] + hertz[:, 1:]).double() * (HOP / 2 / SAMPLE_RATE)
    return (start[:, None] + F.pad(steps.cumsum(1), (1, 0))) % 1.0


def pulses(hertz: Tensor, cycle: Tensor) -> Tensor:
    """Harmonics of equal size, of unit power together, around each frame's middle: [B, T, 640].

    Args:
        hertz: [B, T + 2], of the frames and one neighbour at both ends; between two middles it goes in a straight line.
        cycle: [B, T] from `cycles`.
    """
    at = torch.arange(-HOP, HOP, device=hertz.device)
    before, middle, after = hertz[:, :-2, None], hertz[:, 1:-1, None], hertz[:, 2:, None]
    slope = torch.where(at < 0, middle - before, after - middle)
    turned = cycle.float()[..., None] + (middle * at + slope * at.square() / SIZE) / SAMPLE_RATE
    angle = math.pi * (turned - turned.round())
    room = HIGHEST_HARMONIC / (middle + slope * at / HOP)
    count = room.floor()
    sine = angle.sin()
    whole = torch.where(sine.abs() < 1e-4, 1e-4, sine)
    total = torch.where(sine.abs() < 1e-4, 2 * count + 1, ((2 * count + 1) * angle).sin() / whole) - 1
    # The next harmonic comes in by degrees, not with a click.
    return (total + 2 * (room - count) * (2 * (count + 1) * angle).cos()) / (2 * room).sqrt()


def noise(first: int, frames: int, device: torch.device) -> Tensor:
    """White noise [T, 640] around the middles of `frames` frames from `first` on; neighbours share their halves."""
    source = torch.randn(NOISE_FRAMES, HOP, generator=torch.Generator().manual_seed(0)).to(device)
    at = torch.arange(first - 1, first + frames, device=device) % NOISE_FRAMES
    # Middles lie half a hop off the grid, and it does not matter to noise.
    return torch.cat([source[at[:-1]], source[at[1:]]], dim=-1)


def filtered(gains: Tensor, pulsed: Tensor, noisy: Tensor) -> Tensor:
    """Windows [B, T, 640] of pulses and noise through gains [B, T, 2 * 321] (harmonic, then noise), log amplitudes."""
    shape = torch.sin(math.pi * (torch.arange(SIZE, device=gains.device) + 0.5) / SIZE)
    harmonic, rough = (gains - 1).clamp(max=5.0).exp().chunk(2, dim=-1)
    spectrum = torch.fft.rfft(pulsed * shape) * harmonic + torch.fft.rfft(noisy * shape) * rough
    return torch.fft.irfft(spectrum, SIZE) * shape


def overlapped(windows: Tensor) -> Tensor:
    """Windows [B, T + 2, 640] around the middles of frames and of one more at both ends -> [B, 1, T * 320]."""
    return overlap_halves(windows)[..., HOP // 2 : -HOP // 2]
