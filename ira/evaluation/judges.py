"""Speech in, what judges that share nothing with the model make of it out: its words, and which voice it is nearest to.

The voice judge is crude and was never trained: the mean and the spread of the log-mel spectrum, and the pitch. It tells
a man from a woman and one microphone from another; two alike voices it may well confuse. Its figure for the recordings
themselves is what it can reach at best.
"""

from __future__ import annotations

import math
from collections.abc import Sequence
from typing import Any

import numpy as np
import torch
from torch import Tensor

from ira.audio.waveform import SAMPLE_RATE, LogMel, resample
from ira.evaluation.metrics import package

RECOGNISER_RATE = 16_000
PAD_SECONDS, PEAK = 0.3, 0.6  # what the recogniser is given at both ends, and how loud
FRAME, HOP = 1280, 320
PITCH_HZ = (60.0, 400.0)
PERIODIC = 0.5  # normalised autocorrelation from which a frame counts as voiced
NEARLY = 0.85  # of the highest peak
LOUD = 2.0  # nepers below the loudest frame that still count as speech
BINS = 40


def open_recogniser() -> Any:
    """A pocketsphinx decoder for US English; the level of each utterance is taken from that utterance alone."""
    return package("pocketsphinx").Decoder(samprate=RECOGNISER_RATE, cmn="batch", loglevel="FATAL")


def recognise(recogniser: Any, waveform: Tensor) -> str:
    """The words that are heard in a waveform [1, N] at 24 kHz, "" where none are."""
    samples = resample(waveform.reshape(-1), SAMPLE_RATE, RECOGNISER_RATE).cpu().numpy()
    silence = np.zeros(int(PAD_SECONDS * RECOGNISER_RATE), dtype=np.float32)
    samples = np.concatenate([silence, PEAK * samples / max(float(np.abs(samples).max()), 1e-4), silence])
    recogniser.start_utt()
    recogniser.process_raw((samples * 32767).astype(np.int16).tobytes(), full_utt=True)
    recogniser.end_utt()
    found = recogniser.hyp()
    return found.hypstr if found else ""


def voice_statistics(waveform: Tensor) -> Tensor:
    """[1, N] at 24 kHz -> [81]: mean and spread of 40 log-mel bins over loud frames, and the median pitch in nepers.

    The clip's mean level is taken out first. Without a voiced frame the pitch is that of the middle of the range.
    """
    spectrum = LogMel(BINS, SAMPLE_RATE, FRAME, HOP)(waveform.reshape(1, 1, -1).cpu())[0]
    level = spectrum.mean(0)
    loud = spectrum[:, level >= level.max() - LOUD]
    loud = loud - loud.mean()
    pitch = median_pitch(waveform) or math.sqrt(PITCH_HZ[0] * PITCH_HZ[1])
    return torch.cat([loud.mean(1), loud.std(1, correction=0), torch.tensor([math.log(pitch)])])


def median_pitch(waveform: Tensor) -> float | None:
    """Median over voiced frames of the pitch in Hz, by autocorrelation; None where no frame is voiced."""
    samples = waveform.reshape(-1).float().cpu()
    if len(samples) < FRAME:
        return None
    frames = samples.unfold(0, FRAME, HOP)
    frames = frames - frames.mean(1, keepdim=True)
    energy = frames.square().sum(1)
    frames = frames[energy > max(0.01 * float(energy.max()), 1e-6)]
    if not len(frames):
        return None
    power = torch.fft.rfft(frames, 2 * FRAME).abs().square()
    like = torch.fft.irfft(power)[:, :FRAME]
    # A longer lag overlaps less of the frame; without this every pitch would be pulled up.
    like = like / like[:, :1].clamp(min=1e-9) * FRAME / (FRAME - torch.arange(FRAME))
    shortest, longest = int(SAMPLE_RATE / PITCH_HZ[1]), int(SAMPLE_RATE / PITCH_HZ[0])
    inner = like[:, shortest:longest]
    peaks = (inner > like[:, shortest - 1 : longest - 1]) & (inner >= like[:, shortest + 1 : longest + 1])
    # Twice the period fits as well as the period: the first peak that is nearly the highest is meant.
    peaks &= inner >= (NEARLY * inner.max(1, keepdim=True).values).clamp(min=PERIODIC)
    lags = peaks.int().argmax(1)[peaks.any(1)] + shortest
    return SAMPLE_RATE / float(lags.float().median()) if len(lags) else None


def nearest_own_voice(judged: Sequence[Tensor], recordings: Sequence[Tensor], speakers: Sequence[str]) -> list[bool]:
    """For each clip whose speaker has another one: is it nearest to its own speaker's other recordings?

    Args:
        judged: `voice_statistics` of what is to be told, one a clip; recordings: of the recordings, in the same order.
        speakers: whose they are, "" where it is not known; such clips are left out.

    Returns:
        Nothing where there are fewer than two speakers.
    """
    known = [i for i, name in enumerate(speakers) if name]
    names = sorted({speakers[i] for i in known})
    if len(names) < 2:
        return []
    table = torch.stack(list(recordings))
    centre, spread = table.mean(0), table.std(0, correction=0).clamp(min=1e-3)
    # The three kinds of figures weigh alike, whatever their number.
    spread = spread * torch.tensor([math.sqrt(BINS)] * (2 * BINS) + [1.0])
    # Each set is centred on itself: what a codec or a microphone does to every clip is no voice.
    given = torch.stack(list(judged))
    references, clips = (table - centre) / spread, (given - given.mean(0)) / spread
    told = []
    for i in known:
        others = {name: [j for j in known if speakers[j] == name and j != i] for name in names}
        if others[speakers[i]]:
            gaps = {name: float((references[rows].mean(0) - clips[i]).norm()) for name, rows in others.items() if rows}
            told.append(min(gaps, key=gaps.__getitem__) == speakers[i])
    return told
