"""A waveform of speech in; its pitch, pace, noise and reverberation out, measured blind from the signal alone.

Each is a plain estimate that needs no training. They are meant to sort recordings into a few kinds, not to be read to
the last digit; what each was found to be worth on sounds of known values is in the tests.
"""

from __future__ import annotations

import torch
from torch import Tensor
from torch.nn import functional as F

PITCHES = (60.0, 500.0)  # Hz that a voice is looked for in
VOICED = 0.5  # periodicity from which a frame counts as voiced
HOP = 0.01  # seconds between looks
_SHORTEST = 0.3  # seconds; less says nothing
_SPEECH = 25.0  # dB below the loudest frames where speech ends


def measure(waveform: Tensor, rate: int) -> dict[str, float]:
    """All that can be told of a waveform [N] in [-1, 1]; what cannot be told (too short, unvoiced) is left out.

    Returns:
        `f0_median_hz`, `syllables_per_second` of speech without its pauses, `snr_db`, `reverberation_seconds` (how
        long the sound takes to fall by 60 dB) and `active_seconds`.
    """
    waveform = waveform.detach().float().reshape(-1)
    if len(waveform) < _SHORTEST * rate or float(waveform.abs().max()) < 1e-4:
        return {}
    level = levels(waveform, rate)
    active = float((level > _loud(level) - _SPEECH).sum()) * HOP
    found = {
        "f0_median_hz": median_pitch(waveform, rate),
        "syllables_per_second": syllables(level) / active,
        "snr_db": noise(level),
        "reverberation_seconds": reverberation(level),
        "active_seconds": active,
    }
    return {name: round(value, 3) for name, value in found.items() if value is not None}


def levels(waveform: Tensor, rate: int) -> Tensor:
    """Level in dB of every `HOP` seconds [T] of a waveform [N], through Hann windows of twice that."""
    hop = int(rate * HOP)
    window = torch.hann_window(2 * hop, device=waveform.device)
    frames = waveform.unfold(0, 2 * hop, hop) * window
    return 10 * (frames.square().sum(-1) / window.square().sum()).clamp(min=1e-10).log10()


def median_pitch(waveform: Tensor, rate: int) -> float | None:
    """Median fundamental frequency in Hz over the voiced frames; None where fewer than five are voiced.

    The peak of the autocorrelation divided by that of its window (Boersma 1993), at a quarter of the rate or so.
    """
    fold = max(rate // 6000, 1)
    low = F.avg_pool1d(waveform[None, None], 2 * fold - 1, fold)[0, 0]
    low_rate, size = rate / fold, int(3 * rate / fold / PITCHES[0])
    if len(low) < size:
        return None
    frames = low.unfold(0, size, int(low_rate * HOP))
    frames = (frames - frames.mean(-1, keepdim=True)) * torch.hann_window(size, device=low.device)
    alike = _autocorrelation(frames) / _autocorrelation(torch.hann_window(size, device=low.device))
    first, last = int(low_rate / PITCHES[1]), int(low_rate / PITCHES[0]) + 1
    lags = torch.arange(first, last, device=low.device)
    # A period's multiples fit as well as itself: a longer one has to be better by some (Boersma's octave cost).
    scores = alike[:, first:last] - 0.02 * (lags / first).log2()
    best = scores[:, 1:-1].argmax(-1) + 1 + first
    left, peak, right = (alike.gather(1, (best + step)[:, None])[:, 0] for step in (-1, 0, 1))
    shift = 0.5 * (left - right) / (left - 2 * peak + right).clamp(max=-1e-6)
    power = frames.square().sum(-1)
    voiced = (peak > VOICED) & (power > power.quantile(0.95) * 10 ** (-_SPEECH / 10)) & (shift.abs() <= 1)
    return float((low_rate / (best + shift))[voiced].median()) if int(voiced.sum()) >= 5 else None


def syllables(level: Tensor) -> int:
    """Peaks of the smoothed level [T] that stand 2 dB out of the dips on both sides (de Jong and Wempe 2009)."""
    smooth = F.avg_pool1d(level[None, None], 5, 1, 2, count_include_pad=False)[0, 0].tolist()
    floor, count = _loud(level) - _SPEECH, 0
    dip = peak = smooth[0]
    rising = True
    for value in smooth[1:]:
        if rising:
            peak = max(peak, value)
            if value < peak - 2:
                count += peak > floor and peak > dip + 2
                dip, rising = value, False
        else:
            dip = min(dip, value)
            if value > dip + 2:
                peak, rising = value, True
    return count + (rising and peak > floor and peak > dip + 2)


def noise(level: Tensor) -> float:
    """Signal-to-noise ratio in dB: the loud frames against the quietest, after NIST's STNR.

    Speech pauses, if only for a closed stop, so that the lowest twentieth of the levels is the noise. The power of the
    noise is taken out of the loud frames.
    """
    power = (10 ** (level / 10)).double()
    floor = float(power.quantile(0.05))
    speech = power[level > _loud(level) - _SPEECH].mean()
    return float(10 * torch.log10((speech / floor - 1).clamp(min=0.1)))


def reverberation(level: Tensor) -> float | None:
    """Seconds that a sound takes to fall by 60 dB; None where the level [T] never falls freely.

    No sound dies faster than its room lets it, so that the steepest falls of the level are the room's (the idea of
    Ratnam et al. 2003 and Wen et al. 2008). A fall is a line through 80 ms in which the level goes down steadily, above
    the noise; the steepest fifth is averaged. What dies by itself sets a limit: below 0.1 s nothing can be told.
    """
    span = int(0.08 / HOP)
    if len(level) <= span:
        return None
    pieces = level.unfold(0, span, 1)
    time = (torch.arange(span, device=level.device) - (span - 1) / 2) * HOP
    slopes = (pieces * time).sum(-1) / time.square().sum()
    steady = (pieces.diff(dim=-1) < 0).all(-1) & (pieces[:, -1] > level.quantile(0.05) + 6)
    falls = slopes[steady]
    if len(falls) < 3:
        return None
    steepest = falls.sort().values[: max(len(falls) // 5, 3)]
    return float(60 / -steepest.mean())


def _loud(level: Tensor) -> float:
    return float(level.quantile(0.95))


def _autocorrelation(frames: Tensor) -> Tensor:
    """[..., S] -> [..., S], 1 at lag 0."""
    size = frames.shape[-1]
    power = torch.fft.rfft(frames, 2 * size).abs().square()
    found = torch.fft.irfft(power)[..., :size]
    return found / found[..., :1].clamp(min=1e-12)
