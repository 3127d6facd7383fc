"""Stretched, shifted and noisy sound: what was asked for is what comes out, and nothing else changes."""

from __future__ import annotations

import math

import pytest
import torch
from torch import Tensor

from ira.audio.augment import Change, add_noise, apply_change, draw_change, pitch_shift, time_stretch
from ira.config import AugmentConfig
from ira.errors import InputError

RATE = 24_000


def sine(hz: float, seconds: float = 2.0) -> Tensor:
    return (
        0.5 * torch.sin(2 * math.pi * hz * torch.arange(int(seconds * RATE), dtype=torch.float64) / RATE).float()[None]
    )


def frequency(waveform: Tensor) -> float:
    """Of the strongest part of the middle of [1, N], to a fraction of a hertz."""
    middle = waveform[0, waveform.shape[-1] // 4 : -waveform.shape[-1] // 4]
    spectrum = torch.fft.rfft(middle * torch.hann_window(len(middle)), 8 * RATE).abs()
    return int(spectrum.argmax()) / 8


def voice(seconds: float = 2.0) -> Tensor:
    """Pulses at 120 Hz that swell and fade four times a second: periods and syllables."""
    times = torch.arange(int(seconds * RATE)) / RATE
    buzz = sum(torch.sin(2 * math.pi * 120 * k * times) / k for k in range(1, 20))
    return (0.2 * buzz * torch.sin(math.pi * 4 * times).square())[None]


@pytest.mark.parametrize("speed", [0.5, 0.8, 0.93, 1.1, 1.25, 2.0])
@pytest.mark.parametrize("hz", [90.0, 220.0, 1000.0])
def test_a_stretch_changes_the_duration_and_not_the_pitch(speed: float, hz: float):
    stretched = time_stretch(sine(hz), speed)
    assert stretched.shape == (1, round(2 * RATE / speed))
    assert frequency(stretched) == pytest.approx(hz, rel=0.02)


@pytest.mark.parametrize("semitones", [-12.0, -2.0, -0.5, 1.3, 4.0, 12.0])
@pytest.mark.parametrize("hz", [110.0, 440.0])
def test_a_shift_changes_the_pitch_and_not_the_duration(semitones: float, hz: float):
    shifted = pitch_shift(sine(hz), semitones)
    assert shifted.shape == (1, 2 * RATE)
    assert frequency(shifted) == pytest.approx(hz * 2 ** (semitones / 12), rel=0.02)


@pytest.mark.parametrize(("speed", "semitones"), [(0.9, 0.0), (1.1, 0.0), (1.0, 2.0), (1.1, -2.0)])
def test_loudness_and_syllables_stay_where_they_belong(speed: float, semitones: float):
    """The envelope of the result is that of the original, read at another speed; nothing clicks or drops out."""
    before, after = voice(), apply_change(voice(), Change(speed, semitones))
    envelopes = [w.abs().unfold(1, 960, 240).mean(-1)[:, None] for w in (before, after)]
    wanted = torch.nn.functional.interpolate(envelopes[0], envelopes[1].shape[-1], mode="linear")
    assert (wanted - envelopes[1]).abs().mean() < 0.12 * wanted.mean()
    assert after.diff().abs().max() < 1.3 * before.diff().abs().max()


@pytest.mark.parametrize("snr_db", [-5.0, 0.0, 15.0, 40.0])
def test_noise_has_the_power_asked_for(snr_db: float):
    clean = voice()
    noise = add_noise(clean, snr_db, torch.Generator().manual_seed(0)) - clean
    assert 10 * math.log10(float(clean.square().mean() / noise.square().mean())) == pytest.approx(snr_db, abs=0.2)
    assert noise.mean().abs() < 0.05 * noise.std()


def test_silence_and_the_shortest_sound_go_through():
    for waveform in (torch.zeros(1, 5000), torch.full((1, 1), 0.5), torch.full((1, 700), 0.5)):
        changed = apply_change(waveform, Change(0.9, 2.0, 10.0, 1))
        assert changed.shape == (1, round(waveform.shape[-1] / 0.9)) and torch.isfinite(changed).all()
    assert not apply_change(torch.zeros(1, 5000), Change(1.2, -3.0, 10.0)).any()


def test_what_would_leave_the_range_is_turned_down_as_a_whole():
    loud = 1.9 * sine(200.0)
    noisy = apply_change(loud, Change(snr_db=3.0, noise_seed=4))
    assert noisy.abs().max() == pytest.approx(1.0)
    whole = add_noise(loud, 3.0, torch.Generator().manual_seed(4))
    assert torch.allclose(noisy, whole / whole.abs().max())


def test_no_change_changes_nothing():
    assert torch.equal(apply_change(voice(), Change()), voice())


def test_a_stretch_that_nobody_could_hear_as_speech_is_refused():
    with pytest.raises(InputError, match="speed 5; 0.25 to 4 is wanted"):
        time_stretch(voice(), 5.0)


def test_a_change_follows_from_seed_recording_voice_and_copy():
    settings = AugmentConfig(copies=2)
    first = draw_change(settings, "train.json 3", "anna", 1)
    assert first == draw_change(settings, "train.json 3", "anna", 1)
    assert 0.9 <= first.speed <= 1.1 and -2 <= first.semitones <= 2 and first.snr_db and 15 <= first.snr_db <= 40
    assert first != draw_change(settings, "train.json 3", "anna", 2)
    assert first != draw_change(AugmentConfig(copies=2, seed=1), "train.json 3", "anna", 1)
    other = draw_change(settings, "train.json 4", "anna", 1)
    assert other.semitones == first.semitones and other.speed != first.speed and other.noise_seed != first.noise_seed
    assert draw_change(settings, "train.json 3", "ben", 1).semitones != first.semitones


def test_what_is_left_out_stays_as_it_was():
    settings = AugmentConfig(copies=1, stretch=None, semitones=None, snr_db=None)
    change = draw_change(settings, "train.json 3", "anna", 1)
    assert torch.equal(apply_change(voice(), change), voice())
    kept = AugmentConfig(copies=1, semitones=None)
    with_pitch = draw_change(AugmentConfig(copies=1), "train.json 3", "anna", 1)
    assert draw_change(kept, "train.json 3", "anna", 1).speed == with_pitch.speed


def test_the_draws_fill_their_range():
    changes = [draw_change(AugmentConfig(copies=1), f"train.json {i}", f"voice {i}", 1) for i in range(200)]
    speeds, shifts = [change.speed for change in changes], [change.semitones for change in changes]
    assert min(speeds) < 0.91 and max(speeds) > 1.09 and abs(sum(speeds) / 200 - 1) < 0.02
    assert min(shifts) < -1.8 and max(shifts) > 1.8
