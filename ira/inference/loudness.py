"""The sound of pieces in; where they speak and how loud, and all of them as one sound of one loudness, out.

Levels are RMS over the frames that hold speech, in dB of full scale, as an active speech level is (ITU-T P.56): pauses
do not make a piece quieter.
"""

from __future__ import annotations

import math
from collections.abc import Sequence

import torch
from torch import Tensor

FRAME_SECONDS = 0.02
QUIET_DB = 35.0  # a frame so far below the loud ones holds no speech
SILENCE = 1e-4  # RMS; nothing below it is speech, however quiet the rest
MOST_GAIN_DB = 6.0  # a piece that is further off was meant so, or is broken
KEPT_QUIET = 0.04  # seconds of a piece's own quiet that stay where another piece follows or precedes
FADE_SECONDS = 0.005
PEAK = 0.98


def frame_levels(waveform: Tensor, rate: int) -> Tensor:
    """[1, N] -> RMS of each frame of 20 ms [F]; the last one may be shorter."""
    size = max(1, int(FRAME_SECONDS * rate))
    squares = torch.nn.functional.pad(waveform[0].float().square(), (0, -waveform.shape[-1] % size))
    return squares.unflatten(0, (-1, size)).mean(-1).sqrt() if len(squares) else squares


def active(waveform: Tensor, rate: int) -> Tensor:
    """[1, N] -> booleans [F]: which frames of 20 ms hold speech. Silence and what is not finite hold none."""
    levels = frame_levels(waveform, rate)
    if not len(levels) or not torch.isfinite(levels).all():
        return torch.zeros(len(levels), dtype=torch.bool)
    loud = float(levels.sort().values[int(0.95 * (len(levels) - 1))])
    return levels > max(loud * 10 ** (-QUIET_DB / 20), SILENCE)


def speech_level(waveform: Tensor, rate: int) -> float:
    """The level of the speech in a waveform [1, N], in dB of full scale; -inf where there is none."""
    speaking = active(waveform, rate)
    if not bool(speaking.any()):
        return -math.inf
    return 10 * math.log10(float(frame_levels(waveform, rate)[speaking].square().mean()))


def even_gains(levels: Sequence[float]) -> list[float]:
    """Factors that bring pieces of these levels (dB) to the median one, each by at most 6 dB; silence keeps its own."""
    known = sorted(level for level in levels if math.isfinite(level))
    if not known:
        return [1.0] * len(levels)
    middle = known[len(known) // 2]
    wanted = [middle - level if math.isfinite(level) else 0.0 for level in levels]
    return [10 ** (max(-MOST_GAIN_DB, min(MOST_GAIN_DB, gain)) / 20) for gain in wanted]


def join(sounds: Sequence[Tensor], pauses: Sequence[float], rate: int) -> tuple[Tensor, list[float]]:
    """Pieces [1, N] one after another at one loudness, with `pauses` seconds of silence after each but the last.

    A piece's own quiet is taken off where it meets another, so that a pause is as long as it is meant to be; the first
    keeps its start and the last its end. Nothing is clipped: where a peak would be, the whole sound is made quieter.

    Returns:
        The sound [1, N], and the second at which each piece's own first sample stands or would stand in it.
    """
    gains = even_gains([speech_level(sound, rate) for sound in sounds])
    parts: list[Tensor] = []
    starts: list[float] = []
    at, last = 0, len(sounds) - 1
    for index, (sound, gain) in enumerate(zip(sounds, gains, strict=True)):
        first, end = _edges(sound, rate, index > 0, index < last)
        starts.append((at - first) / rate)
        silence = torch.zeros(1, int(pauses[index] * rate) if index < last else 0)
        parts += [_faded(sound[:, first:end] * gain, rate, first > 0, end < sound.shape[-1]), silence]
        at += end - first + silence.shape[-1]
    joined = torch.cat(parts, dim=-1)
    peak = float(joined.abs().max()) if joined.numel() else 0.0
    return joined * (PEAK / peak) if PEAK < peak < math.inf else joined, starts


def _edges(sound: Tensor, rate: int, trim_start: bool, trim_end: bool) -> tuple[int, int]:
    """First and last sample to keep."""
    speaking = active(sound, rate).nonzero().flatten()
    if not len(speaking):
        return 0, sound.shape[-1]
    size, kept = int(FRAME_SECONDS * rate), int(KEPT_QUIET * rate)
    first = max(0, int(speaking[0]) * size - kept) if trim_start else 0
    end = min(sound.shape[-1], (int(speaking[-1]) + 1) * size + kept) if trim_end else sound.shape[-1]
    return first, end


def _faded(sound: Tensor, rate: int, start: bool, end: bool) -> Tensor:
    """With its cut edges faded, so that none of them clicks."""
    size = min(int(FADE_SECONDS * rate), sound.shape[-1])
    ramp = torch.linspace(0, 1, size)
    sound = sound.clone()
    if start:
        sound[:, :size] *= ramp
    if end:
        sound[:, sound.shape[-1] - size :] *= ramp.flip(0)
    return sound
