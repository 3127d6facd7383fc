"""Speech in, what judges that share nothing with the model make of it out: its words, its pitch, and whose voice it is.

The voice judge was never trained. A voice is a Gaussian over the cepstra of its recordings with a full covariance
(second-order measures: Bimbot, Magrin-Chagnolleau and Mathan 1995) and their median pitch. Its figure for the
recordings themselves is what it can reach at best.
"""

from __future__ import annotations

import importlib.util
import math
from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any

import numpy as np
import torch
from torch import Tensor

from ira.audio.waveform import SAMPLE_RATE, mel_filters, resample
from ira.evaluation.metrics import error_share, package

RECOGNISER_RATE = 16_000
PAD_SECONDS, PEAK = 0.3, 0.6  # what the recogniser is given at both ends, and how loud
LONGEST_HEARD = 40.0  # seconds; what was said is over long before
MOST_ACTIVE = 5000  # hypotheses a frame: half the time over what is no speech, the same words in speech
FRAME, HOP = 1280, 320
PITCH_HZ = (60.0, 400.0)
PERIODIC = 0.5  # normalised autocorrelation from which a frame counts as voiced
NEARLY = 0.85  # of the highest peak
WINDOW, STEP, BINS, TOP_BIN = 600, 240, 40, 33  # 25 ms every 10; the bins end at 7.4 kHz: all recordings have those
CEPSTRA = 15  # without the first, which is the level
LOUD = 3.5  # nepers below the loudest frame that still count as speech
SHRUNK = 50  # frames of all voices together that each voice's covariance begins with
PITCH_WEIGHT, PITCH_CAP = 0.1, 4.0  # of its squared distance, in deviations within a voice


def open_recogniser() -> Any:
    """A pocketsphinx decoder for US English; the level of each utterance is taken from that utterance alone."""
    decoder = package("pocketsphinx").Decoder
    return decoder(samprate=RECOGNISER_RATE, cmn="batch", loglevel="FATAL", maxhmmpf=MOST_ACTIVE)


def recognise(recogniser: Any, waveform: Tensor) -> str:
    """The words that are heard in the first 40 s of a waveform [1, N] at 24 kHz, "" where none are."""
    sound = waveform.reshape(-1)[: int(LONGEST_HEARD * SAMPLE_RATE)]
    if not len(sound):
        return ""
    samples = resample(sound, SAMPLE_RATE, RECOGNISER_RATE).cpu().numpy()
    silence = np.zeros(int(PAD_SECONDS * RECOGNISER_RATE), dtype=np.float32)
    samples = np.concatenate([silence, PEAK * samples / max(float(np.abs(samples).max()), 1e-4), silence])
    recogniser.start_utt()
    recogniser.process_raw((samples * 32767).astype(np.int16).tobytes(), full_utt=True)
    recogniser.end_utt()
    found = recogniser.hyp()
    return found.hypstr if found else ""


def error_rate(texts: Sequence[str], waveforms: Sequence[Tensor]) -> float | None:
    """Share of the characters of English texts that is heard wrong in waveforms [1, N] at 24 kHz.

    None where pocketsphinx or jiwer is not installed, or no text has a letter. It takes about half a second a clip.
    """
    if not all(importlib.util.find_spec(name) for name in ("pocketsphinx", "jiwer")):
        return None
    recogniser = open_recogniser()
    return error_share(texts, [recognise(recogniser, waveform) for waveform in waveforms])


@dataclass(frozen=True)
class VoiceStatistics:
    """Of one clip: its number of loud frames, the mean [C] and covariance [C, C] of their cepstra, log pitch in Hz."""

    frames: int
    mean: Tensor
    covariance: Tensor
    pitch: float | None


def voice_statistics(waveform: Tensor) -> VoiceStatistics:
    """What the voice judge knows of a waveform [1, N] at 24 kHz; of nothing, 0 frames."""
    sound, pitch = waveform.reshape(-1).float().cpu(), median_pitch(waveform)
    if not len(sound):
        return VoiceStatistics(0, torch.zeros(CEPSTRA), torch.zeros(CEPSTRA, CEPSTRA), None)
    window = torch.hann_window(WINDOW)
    padded = torch.nn.functional.pad(sound, (WINDOW // 2, WINDOW // 2))
    spectrum = torch.stft(padded, WINDOW, STEP, window=window, center=False, return_complex=True).abs()
    bands = (mel_filters(BINS, SAMPLE_RATE, WINDOW) @ spectrum).clamp(min=1e-5).log()[:TOP_BIN]
    level = bands.mean(0)
    cepstra = _cosines() @ bands[:, level >= level.max() - LOUD]
    covariance = torch.cov(cepstra, correction=0)
    return VoiceStatistics(cepstra.shape[1], cepstra.mean(1), covariance, math.log(pitch) if pitch else None)


def _cosines() -> Tensor:
    """The cosines [C, TOP_BIN - 1] that make cepstra of log bands; the lowest band, of hum, has none of them."""
    place = torch.arange(TOP_BIN - 1) + 0.5
    waves = torch.cos(math.pi / (TOP_BIN - 1) * torch.arange(1, CEPSTRA + 1)[:, None] * place)
    return torch.nn.functional.pad(waves * math.sqrt(2 / (TOP_BIN - 1)), (1, 0))


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


def nearest_voices(
    judged: Sequence[VoiceStatistics],
    references: Sequence[VoiceStatistics],
    speakers: Sequence[str],
    others: Sequence[tuple[str, VoiceStatistics]] = (),
    apart: bool = True,
) -> list[str | None]:
    """For each clip the speaker to whose recordings it is nearest, of all speakers that are known.

    Args:
        judged: the clips; references: recordings of the same sentences in the same order.
        speakers: whose they are, "" where it is not known.
        others: further recordings with their speakers.
        apart: a clip is not compared with its own reference, which says the same.

    Returns:
        None for a clip whose speaker is not known, or has no (other) recording, or is the only one; "", which is
        nobody, for a clip without sound.
    """
    # Each set is centred on itself: what a codec or a microphone does to every clip is no voice.
    given, known = _centred(judged, judged), _centred(references, references)
    voices = [*zip(speakers, known, strict=True)]
    voices += zip([name for name, _ in others], _centred([clip for _, clip in others], references), strict=True)
    voices = [(name, clip) for name, clip in voices if name and clip.frames]
    names = sorted({name for name, _ in voices})
    if len(names) < 2:
        return [None] * len(judged)
    everyone = _pooled([clip for _, clip in voices])
    spread = _pitch_spread(voices)
    pooled = {name: _shrunk([clip for who, clip in voices if who == name], everyone) for name in names}
    told: list[str | None] = []
    for clip, own, speaker in zip(given, known, speakers, strict=True):
        table = pooled
        if apart and speaker in pooled:
            rest = [one for who, one in voices if who == speaker and one is not own]
            table = pooled | {speaker: _shrunk(rest, everyone)} if rest else {}
        told.append(_nearest(clip, table, spread) if speaker in table else None)
    return told


def own_voice_share(spoken: Sequence[Tensor], recordings: Sequence[Tensor], speakers: Sequence[str]) -> float | None:
    """How often speech [1, N] is nearer to its speaker's recordings than to those of every other speaker here.

    `recordings` say the same sentences in the same order, so that even a voice with one recording is judged. None where
    there are fewer than two voices.
    """
    clips, references = [voice_statistics(x) for x in spoken], [voice_statistics(x) for x in recordings]
    told = nearest_voices(clips, references, speakers, apart=False)
    right = [float(name == speaker) for name, speaker in zip(told, speakers, strict=True) if name is not None]
    return sum(right) / len(right) if right else None


def _centred(clips: Sequence[VoiceStatistics], on: Sequence[VoiceStatistics]) -> list[VoiceStatistics]:
    """The clips less the mean of the means of the clips `on`."""
    heard = [clip.mean for clip in on if clip.frames] or [torch.zeros(CEPSTRA)]
    centre = torch.stack(heard).mean(0)
    return [VoiceStatistics(clip.frames, clip.mean - centre, clip.covariance, clip.pitch) for clip in clips]


def _pooled(clips: Sequence[VoiceStatistics]) -> VoiceStatistics:
    """All frames of the clips together, and the mean of their pitches."""
    frames = sum(clip.frames for clip in clips)
    mean = torch.stack([clip.frames / frames * clip.mean for clip in clips]).sum(0)
    squares = [clip.frames / frames * (clip.covariance + torch.outer(clip.mean, clip.mean)) for clip in clips]
    pitches = [clip.pitch for clip in clips if clip.pitch is not None]
    covariance = torch.stack(squares).sum(0) - torch.outer(mean, mean)
    return VoiceStatistics(frames, mean, covariance, sum(pitches) / len(pitches) if pitches else None)


def _shrunk(clips: Sequence[VoiceStatistics], everyone: VoiceStatistics) -> VoiceStatistics:
    """The clips pooled; the covariance drawn towards everyone's, which a few seconds do not tell well."""
    one = _pooled(clips)
    mixed = (one.frames * one.covariance + SHRUNK * everyone.covariance) / (one.frames + SHRUNK)
    return VoiceStatistics(one.frames, one.mean, mixed + 1e-4 * torch.eye(CEPSTRA), one.pitch)


def _pitch_spread(voices: Sequence[tuple[str, VoiceStatistics]]) -> float:
    """Deviation of log pitch among the recordings of one voice, at least that of a tone."""
    middles = {name: _pooled([clip for who, clip in voices if who == name]).pitch for name, _ in voices}
    gaps = [clip.pitch - middle for name, clip in voices if clip.pitch and (middle := middles[name])]
    return max(math.sqrt(sum(gap * gap for gap in gaps) / len(gaps)), 0.1) if gaps else 0.1


def _nearest(clip: VoiceStatistics, table: dict[str, VoiceStatistics], spread: float) -> str:
    return min(table, key=lambda name: _distance(clip, table[name], spread)) if clip.frames else ""


def _distance(clip: VoiceStatistics, voice: VoiceStatistics, spread: float) -> float:
    """-2 log-likelihood a frame of the clip as that voice, but for a constant, and the distance in pitch."""
    gap = clip.mean - voice.mean
    inside = torch.linalg.solve(voice.covariance, clip.covariance + torch.outer(gap, gap)).trace()
    apart = (clip.pitch - voice.pitch) / spread if clip.pitch and voice.pitch else PITCH_CAP
    return float(torch.logdet(voice.covariance) + inside) + PITCH_WEIGHT * min(abs(apart), PITCH_CAP) ** 2
