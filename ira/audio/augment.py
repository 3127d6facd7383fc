"""A waveform [1, N] and the changes asked for in; the changed waveform [1, M] out.

Time stretch is waveform-similarity overlap-add (WSOLA, Verhelst and Roelands 1993): it moves whole periods of the
voice, where a phase vocoder would blur them. Pitch shift is a stretch that a resampling undoes.
"""

from __future__ import annotations

import hashlib
from dataclasses import dataclass

import torch
from torch import Tensor
from torch.nn import functional as F

from ira.audio.waveform import SAMPLE_RATE, resample
from ira.config import AugmentConfig
from ira.errors import InputError

# Of WSOLA: a piece holds two periods of a low voice, and the search on both sides finds at least one.
_PIECE_SECONDS, _SEARCH_SECONDS = 0.04, 0.012


@dataclass(frozen=True)
class Change:
    """What one copy is: `speed` 1.1 is shorter by a tenth, `semitones` are up, `snr_db` None is no noise."""

    speed: float = 1.0
    semitones: float = 0.0
    snr_db: float | None = None
    noise_seed: int = 0


def draw_change(settings: AugmentConfig, recording: str, voice: str, copy: int) -> Change:
    """The change of copy number `copy`: a function of the arguments alone.

    The shift in pitch belongs to the `voice`: all clips of one speaker move alike, and so make one new voice. Speed and
    noise belong to the `recording`.
    """
    pitch = _generator(settings.seed, "pitch", voice, copy)
    rest = _generator(settings.seed, "recording", recording, copy)
    semitones, speed = _uniform(settings.semitones, pitch), _uniform(settings.stretch, rest)
    snr_db, noise_seed = _uniform(settings.snr_db, rest), int(torch.randint(2**31, (1,), generator=rest))
    return Change(1.0 if speed is None else speed, semitones or 0.0, snr_db, noise_seed)


def apply_change(waveform: Tensor, change: Change, rate: int = SAMPLE_RATE) -> Tensor:
    """[1, N] -> [1, round(N / speed)]: stretched, shifted, then noisy; turned down where it would leave [-1, 1]."""
    changed = _stretch_and_shift(waveform, change.speed, change.semitones, rate)
    if change.snr_db is not None:
        changed = add_noise(changed, change.snr_db, torch.Generator().manual_seed(change.noise_seed))
    return changed / changed.abs().max().clamp(min=1.0)


def pitch_shift(waveform: Tensor, semitones: float, rate: int = SAMPLE_RATE) -> Tensor:
    """[1, N] -> [1, N], every frequency times 2 ** (semitones / 12)."""
    return _stretch_and_shift(waveform, 1.0, semitones, rate)


def add_noise(waveform: Tensor, snr_db: float, generator: torch.Generator) -> Tensor:
    """[..., N] with white noise whose power is `snr_db` below that of the whole; silence stays silent."""
    noise = torch.randn(waveform.shape, generator=generator)
    wanted = waveform.square().mean() / 10 ** (snr_db / 10)
    return waveform + noise * (wanted / noise.square().mean()).sqrt()


def time_stretch(waveform: Tensor, speed: float, rate: int = SAMPLE_RATE) -> Tensor:
    """[1, N] -> [1, round(N / speed)] of the same pitch.

    Pieces of 40 ms overlap by half; each is taken near the place that `speed` asks for, where it best continues the
    piece before it.

    Raises:
        InputError: `speed` is not between 0.25 and 4.
    """
    if not 0.25 <= speed <= 4:
        raise InputError(f"speed {speed:g}; 0.25 to 4 is wanted; stretch less")
    if speed == 1:
        return waveform
    hop, search = int(_PIECE_SECONDS * rate / 2), int(_SEARCH_SECONDS * rate)
    length = max(round(waveform.shape[-1] / speed), 1)
    count = -(-length // hop) + 1
    # Piece j is centred on output sample j * hop; `centres` are the places asked for in the padded input.
    centres = [round(j * hop * speed) + search + hop for j in range(count)]
    source = F.pad(waveform[0], (search + hop, max(centres[-1] + search + 2 * hop - waveform.shape[-1], 0)))
    pieces, start = [], centres[0] - hop
    for j in range(count):
        if j:
            first = centres[j] - hop - search
            start = first + _best_lag(source[first : first + 2 * (search + hop)], source[start + hop :][: 2 * hop])
        pieces.append(source[start : start + 2 * hop])
    joined = torch.stack(pieces, 1) * torch.hann_window(2 * hop)[:, None]
    size = (count + 1) * hop
    summed = F.fold(joined[None], (1, size), (1, 2 * hop), stride=(1, hop))[0, 0]
    return summed[:, hop : hop + length]


def _best_lag(region: Tensor, wanted: Tensor) -> int:
    """Where in `region` [R] the piece begins that is most like `wanted` [W], by normalised correlation.

    Of periods that are all alike the one nearest to the middle is taken: it is the least out of time.
    """
    size, lags = len(region) + len(wanted), len(region) - len(wanted) + 1
    correlation = torch.fft.irfft(torch.fft.rfft(region, size) * torch.fft.rfft(wanted, size).conj(), size)[:lags]
    summed = F.pad(region.double().square().cumsum(0), (1, 0))
    energy = (summed[len(wanted) :] - summed[:lags]).clamp(min=1e-9)
    nearness = 1 - 0.1 * torch.linspace(-1, 1, lags).abs()
    return int((correlation / energy.sqrt() * nearness).argmax())


def _stretch_and_shift(waveform: Tensor, speed: float, semitones: float, rate: int) -> Tensor:
    """Both with one overlap-add: what the resampling takes in time, the stretch gives in advance."""
    length = max(round(waveform.shape[-1] / speed), 1)
    raised = round(rate * 2 ** (semitones / 12))
    moved = resample(time_stretch(waveform, speed * rate / raised, rate), raised, rate)
    return F.pad(moved, (0, max(length - moved.shape[-1], 0)))[:, :length]


def _generator(*what: object) -> torch.Generator:
    """A stream of its own for each combination of things."""
    digest = hashlib.sha256(repr(what).encode()).digest()
    return torch.Generator().manual_seed(int.from_bytes(digest[:7], "big"))


def _uniform(bounds: list[float] | None, generator: torch.Generator) -> float | None:
    """Rounded, so that what is written down is what is done."""
    share = float(torch.rand((), generator=generator, dtype=torch.float64))
    return None if bounds is None else round(bounds[0] + share * (bounds[1] - bounds[0]), 3)
