"""Pitch of each frame: right within a few percent on sounds of known pitch, causal, the same alone and in a batch."""

from __future__ import annotations

import math

import pytest
import torch

from ira.audio.pitch import UNKNOWN, Pitch, at_centres, track
from ira.audio.synthesis import HOP
from ira.audio.waveform import SAMPLE_RATE


def voice(hertz: torch.Tensor) -> torch.Tensor:
    """Twelve harmonics under a pitch [N] -> waveform [1, 1, N]."""
    cycle = (hertz.double() / SAMPLE_RATE).cumsum(0)
    return sum(0.1 / h * torch.sin(2 * math.pi * h * cycle) for h in range(1, 13)).float()[None, None]  # type: ignore


@pytest.mark.parametrize("hertz", [75.0, 110.0, 180.0, 330.0, 400.0])
def test_a_steady_voice_has_its_pitch_in_every_frame(hertz):
    found = track(voice(torch.full((30 * HOP,), hertz)))
    assert found.voiced[0, 4:].all()
    torch.testing.assert_close(found.hertz[0, 4:], torch.full((26,), hertz), rtol=0.02, atol=0)


def test_noise_and_silence_are_unvoiced():
    noise = 0.1 * torch.randn(1, 1, 100 * HOP, generator=torch.Generator().manual_seed(0))
    assert track(noise).voiced.float().mean() < 0.1
    silence = track(torch.zeros(1, 1, 20 * HOP))
    assert not silence.voiced.any() and silence.periodicity.eq(0).all() and silence.hertz.isfinite().all()


def test_a_frame_hears_nothing_after_its_end():
    whole = voice(torch.linspace(100, 300, 40 * HOP))
    cut = whole.clone()
    cut[..., 20 * HOP :] = 0
    for one, other in zip(track(whole), track(cut), strict=True):
        assert torch.equal(one[:, :20], other[:, :20])


def test_the_middle_of_a_frame_of_a_rising_voice_is_known_within_a_percent():
    hertz = torch.linspace(120, 180, 60 * HOP)
    found, voiced = at_centres(track(voice(hertz)))
    middles = hertz[HOP // 2 :: HOP]
    assert voiced[0, 4:57].all()
    torch.testing.assert_close(found.exp()[0, 4:57], middles[4:57], rtol=0.01, atol=0)


def test_where_nothing_is_voiced_the_last_pitch_is_held_and_the_first_before_it():
    hertz = torch.tensor([[999.0, 999, 999, 100, 100, 999, 999, 999, 200, 200, 999]])
    voiced = hertz < 900
    found, known = at_centres(Pitch(hertz, voiced, voiced.float()))
    assert found.exp()[0].round().tolist() == [100] * 6 + [200] * 5
    assert known[0].tolist() == [False, True, True, True, False, False, True, True, True, False, False]
    nothing, _ = at_centres(Pitch(hertz, torch.zeros_like(voiced), voiced.float()))
    assert nothing.eq(UNKNOWN).all()
