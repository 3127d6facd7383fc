"""Pitch, pace, noise and reverberation of sounds of which they are known."""

from __future__ import annotations

import math

import pytest
import torch

from ira.audio.measure import levels, measure, median_pitch, noise, reverberation, syllables

RATE = 24_000
TIME = torch.arange(3 * RATE) / RATE


def hiss(seed: int = 0) -> torch.Tensor:
    return 0.1 * torch.randn(len(TIME), generator=torch.Generator().manual_seed(seed))


def tone(hertz: float) -> torch.Tensor:
    return 0.1 * torch.stack([torch.sin(2 * math.pi * hertz * k * TIME) / k for k in range(1, 8)]).sum(0)


@pytest.mark.parametrize("rate", [8_000, 16_000, 24_000, 48_000])
@pytest.mark.parametrize("hertz", [80, 120, 200, 330])
def test_pitch_is_found_at_any_rate_and_not_an_octave_off(hertz, rate):
    time = torch.arange(rate) / rate
    sound = torch.stack([torch.sin(2 * math.pi * hertz * k * time) / k for k in range(1, 8)]).sum(0)
    assert median_pitch(sound, rate) == pytest.approx(hertz, rel=0.01)


def test_a_missing_fundamental_is_heard_and_noise_has_no_pitch():
    assert median_pitch(tone(100) - 0.1 * torch.sin(2 * math.pi * 100 * TIME), RATE) == pytest.approx(100, rel=0.02)
    assert median_pitch(hiss(), RATE) is None


@pytest.mark.parametrize("snr", [40, 30, 20, 10])
def test_noise_is_told_within_four_decibels(snr):
    sounding = (torch.sin(2 * math.pi * 2 * TIME) > 0).float()
    assert noise(levels(hiss() * sounding + hiss(1) * 10 ** (-snr / 20), RATE)) == pytest.approx(snr, abs=4)


@pytest.mark.parametrize("seconds", [0.2, 0.4, 0.8])
def test_reverberation_is_told_within_a_fifth(seconds):
    since = TIME % 1.5
    assert reverberation(levels(hiss() * 10 ** (-3 * since / seconds), RATE)) == pytest.approx(seconds, rel=0.2)


@pytest.mark.parametrize("pace", [2, 4, 6])
def test_swells_are_counted_as_syllables(pace):
    swell = 0.02 + torch.sin(math.pi * pace * TIME) ** 2
    assert abs(syllables(levels(hiss() * swell, RATE)) - 3 * pace) <= 1


def test_what_cannot_be_told_is_left_out():
    assert measure(torch.zeros(RATE), RATE) == {}
    assert measure(torch.ones(100), RATE) == {}
    assert "f0_median_hz" not in measure(hiss(), RATE)
    found = measure(tone(150), RATE)
    assert found["f0_median_hz"] == pytest.approx(150, rel=0.01)
    assert all(math.isfinite(value) for value in found.values())


def test_loudness_changes_only_the_loudness():
    sound = tone(150) * (0.02 + torch.sin(math.pi * 3 * TIME) ** 2) + 0.01 * hiss()
    quiet = measure(0.1 * sound, RATE)
    for name, value in measure(sound, RATE).items():
        assert quiet[name] == pytest.approx(value, rel=0.02), name
