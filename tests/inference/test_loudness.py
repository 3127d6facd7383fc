from __future__ import annotations

import math

import pytest
import torch

from ira.inference.loudness import MOST_GAIN_DB, PEAK, active, even_gains, join, speech_level

RATE = 24_000


def speech(seconds: float, decibel: float = -20.0, seed: int = 0) -> torch.Tensor:
    """Noise of a level, for speech: [1, N]."""
    noise = torch.randn(int(seconds * RATE), generator=torch.Generator().manual_seed(seed))
    return (noise / noise.square().mean().sqrt() * 10 ** (decibel / 20))[None]


def quiet(seconds: float) -> torch.Tensor:
    return torch.zeros(1, int(seconds * RATE))


def test_the_level_is_that_of_the_speech_whatever_the_pauses_in_it():
    alone, paused = speech(1.0), torch.cat([quiet(1.0), speech(0.5), quiet(2.0), speech(0.5)], dim=-1)
    assert speech_level(alone, RATE) == pytest.approx(-20, abs=0.1)
    assert speech_level(paused, RATE) == pytest.approx(-20, abs=0.1)
    assert speech_level(speech(1.0, -50), RATE) == pytest.approx(-50, abs=0.1)


@pytest.mark.parametrize("sound", [quiet(1.0), quiet(0.0), torch.full((1, 4_800), math.nan), torch.full((1, 1), 1e-6)])
def test_silence_and_what_is_no_number_hold_no_speech(sound: torch.Tensor):
    assert not bool(active(sound, RATE).any())
    assert speech_level(sound, RATE) == -math.inf


def test_gains_lead_to_the_median_and_are_bounded():
    gains = [20 * math.log10(gain) for gain in even_gains([-20.0, -24.0, -18.0, -50.0, -math.inf])]
    assert gains == pytest.approx([0.0, 4.0, -2.0, MOST_GAIN_DB, 0.0])
    assert even_gains([-math.inf]) == [1.0] and even_gains([]) == []


def test_joined_pieces_have_one_level_and_no_peak_is_clipped():
    levels = [-12.0, -8.0, -3.0, -6.0, -5.0]  # noise of -3 dB has peaks of more than 2
    joined, starts = join([speech(1.0, level, seed) for seed, level in enumerate(levels)], [0.3] * 5, RATE)
    heard = [speech_level(joined[:, int(s * RATE) : int((s + 1) * RATE)], RATE) for s in starts]
    assert max(heard) - min(heard) < 0.2
    assert float(joined.abs().max()) == pytest.approx(PEAK, abs=1e-4)


def test_pauses_are_as_long_as_they_are_meant_to_be_however_quiet_the_edges_of_the_pieces():
    piece = torch.cat([quiet(0.5), speech(1.0), quiet(0.7)], dim=-1)
    joined, starts = join([piece, piece, piece], [0.2, 0.8, 9.0], RATE)
    speaking = active(joined, RATE).nonzero().flatten()
    gaps = [int(gap) * 0.02 for gap in speaking[1:] - speaking[:-1] if gap > 1]
    assert gaps == pytest.approx([0.2 + 0.08, 0.8 + 0.08], abs=0.05)
    assert joined.shape[-1] / RATE == pytest.approx(0.5 + 3 * 1.0 + 0.28 + 0.88 + 0.7, abs=0.05)
    for start in starts:  # where the whole piece, its own silence included, would begin
        assert bool(active(joined[:, int((start + 0.52) * RATE) : int((start + 1.48) * RATE)], RATE).all())


def test_one_piece_stays_as_it_is():
    piece = torch.cat([quiet(0.3), speech(0.5)], dim=-1)
    joined, starts = join([piece], [0.35], RATE)
    assert torch.equal(joined, piece) and starts == [0.0]


def test_pieces_without_sound_do_no_harm():
    joined, _ = join([quiet(0.0), speech(0.5), quiet(0.2), torch.full((1, 100), math.inf)], [0.1] * 4, RATE)
    assert joined.shape[-1] > 0.7 * RATE
