"""Pulses and noise through filters: beside a plain sum of sines over one running phase, and what gains do."""

from __future__ import annotations

import math

import numpy as np
import pytest
import torch
from torch.nn.functional import pad

from ira.audio.source_filter import BINS, SIZE, cycles, filtered, noise, overlapped, pulses
from ira.audio.synthesis import HOP
from ira.audio.waveform import SAMPLE_RATE

CPU = torch.device("cpu")


def neighboured(hertz: torch.Tensor) -> torch.Tensor:
    return torch.cat([hertz[:, :1], hertz, hertz[:, -1:]], 1)


def said(gains: torch.Tensor, hertz: torch.Tensor) -> torch.Tensor:
    sources = pulses(neighboured(hertz), cycles(hertz, torch.zeros(len(hertz)))), noise(0, hertz.shape[1], CPU)
    return overlapped(pad(filtered(gains, *sources), (0, 0, 1, 1)))


def flat(frames: int, harmonic: float, rough: float) -> torch.Tensor:
    """Gains [1, T, 642] of one loudness each; 1 is a factor of one."""
    return torch.cat([torch.full((1, frames, BINS), harmonic), torch.full((1, frames, BINS), rough)], -1)


@pytest.mark.parametrize(("start", "end"), [(110.0, 110.0), (90.0, 240.0), (400.0, 150.0)])
def test_pulses_are_the_sum_of_harmonics_of_one_running_phase(start, end):
    """The naive way: frequencies between the middles in a straight line, one cumulative sum over samples."""
    hertz = torch.linspace(start, end, 20)[None]
    along = torch.from_numpy(np.interp(range(20 * HOP), range(HOP // 2, 20 * HOP, HOP), hertz[0]))
    cycle = pad(((along[1:] + along[:-1]) / 2 / SAMPLE_RATE).cumsum(0), (1, 0))
    cycle = cycle - cycle[HOP // 2]
    found = pulses(neighboured(hertz), cycles(hertz, torch.zeros(1)))[0]
    for frame in range(1, 19):
        at = slice(frame * HOP - HOP // 2, frame * HOP + 3 * HOP // 2)
        room = 11_500 / along[at]
        shares = [(room - h + 1).clamp(0, 1) for h in range(1, int(room.max()) + 2)]
        naive = sum(2 * torch.cos(2 * math.pi * h * cycle[at]) * share for h, share in enumerate(shares, 1))
        naive = naive / (2 * room).sqrt()
        assert (found[frame].double() - naive).square().mean() < 0.02, frame  # of a power of one
    assert found[1:-1].square().mean() == pytest.approx(1, abs=0.15)


def test_where_a_cycle_stands_does_not_depend_on_where_one_begins_to_count():
    hertz = 100 + 200 * torch.rand(1, 500, generator=torch.Generator().manual_seed(0))
    whole = cycles(hertz, torch.tensor([0.25], dtype=torch.float64))
    later = cycles(hertz[:, 300:], whole[:, 300])
    torch.testing.assert_close(whole[:, 300:], later, atol=1e-9, rtol=0)


def test_gains_of_one_give_the_noise_itself():
    made = said(flat(20, -50.0, 1.0), torch.full((1, 20), 150.0))[0, 0]
    source = noise(0, 20, CPU)
    for frame in range(1, 19):  # the window of a frame begins half a frame before it
        at = slice(frame * HOP - HOP // 2, frame * HOP + 3 * HOP // 2)
        torch.testing.assert_close(made[at], source[frame], atol=1e-4, rtol=0)


def test_noise_goes_on_from_frame_to_frame_and_begins_anywhere():
    whole, later = noise(0, 600, CPU), noise(345, 20, CPU)
    assert torch.equal(whole[345:365], later)
    assert torch.equal(whole[:-1, HOP:], whole[1:, :HOP])
    assert whole[:255].mean().abs() < 0.02 and whole.std() == pytest.approx(1, abs=0.02)


def test_a_filter_that_stops_a_band_stops_it():
    gains = flat(40, 1.0, -50.0)
    gains[..., 100:BINS] = -20.0  # above 3.75 kHz
    power = torch.fft.rfft(said(gains, torch.full((1, 40), 137.0))[0, 0]).abs().square()
    edge = int(4500 / 12_000 * len(power))
    assert power[edge:].sum() < 1e-3 * power[:edge].sum()


def test_of_each_frame_there_are_320_samples():
    assert said(flat(7, 0.0, 0.0), torch.full((1, 7), 100.0)).shape == (1, 1, 7 * HOP)
    assert SIZE == 2 * HOP
