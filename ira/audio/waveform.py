"""Audio files in, mono waveforms [1, N] out, and back; waveforms [B, 1, N] in, causal log-mel [B, M, T] out.

A waveform is float32 in [-1, 1] at 24 kHz unless a rate says otherwise. Files are read and written by libsndfile
(wav, flac, ogg/opus, mp3) and resampled by soxr.
"""

from __future__ import annotations

import os
from collections.abc import Iterator
from pathlib import Path

import numpy as np
import soundfile
import soxr
import torch
from torch import Tensor, nn

from ira.errors import InputError

SAMPLE_RATE = 24_000
WRITE_FORMATS = {
    ".wav": ("WAV", "PCM_16"),
    ".flac": ("FLAC", "PCM_16"),
    ".ogg": ("OGG", "OPUS"),
    ".opus": ("OGG", "OPUS"),
    ".mp3": ("MP3", "MPEG_LAYER_III"),
}
# libsndfile's lossy encoders put a whole block on the stack; long files are written in pieces of this many samples.
_WRITE_BLOCK = 65_536
_READ_BLOCK = 1 << 20  # values of all channels that are decoded at once
FILE_RATES = (1_000, 1_000_000)  # Hz; beyond them a header is broken or hostile
MOST_CHANNELS = 64
_UNKNOWN_FRAMES = 1 << 60  # libsndfile's word for "not stated" is larger


def load_audio(path: str | Path, rate: int = SAMPLE_RATE, *, max_seconds: float = 3600.0) -> Tensor:
    """Read a file as float32 mono [1, N] at `rate` Hz (channels are averaged).

    Raises:
        InputError: missing, empty, corrupt or longer than `max_seconds`, or a sample is NaN or infinite.
    """
    path = Path(path)
    if not os.path.isfile(path):  # pipes and devices are none: they need not end
        found = "is a folder" if os.path.isdir(path) else "no such file"
        raise InputError(f"{path}: {found}; give a wav, flac, ogg or mp3 file")
    try:
        with _Forward(path) as file:
            _check_header(path, file, max_seconds)
            samples = np.concatenate([*_read_blocks(path, file, rate, max_seconds), np.empty(0, np.float32)])
    except InputError:
        raise
    except (soundfile.SoundFileError, OSError, ValueError, TypeError, MemoryError) as error:
        message = f"{path}: cannot be read as audio ({_reason(error)}); give a wav, flac, ogg or mp3 file"
        raise InputError(message) from None
    if not len(samples):
        raise InputError(f"{path}: holds no sound, audio is wanted; record or export it again")
    return torch.from_numpy(samples)[None]


def save_audio(path: str | Path, waveform: Tensor, rate: int = SAMPLE_RATE) -> None:
    """Write a mono waveform [N], [1, N] or [1, 1, N], clipped to [-1, 1], in the format of the suffix.

    The file is written aside and renamed, so a reader never sees half of one. Missing folders are made.

    Raises:
        InputError: unknown suffix, more than one channel, no samples, NaN or infinity, or an unwritable place.
    """
    path = Path(path)
    if path.suffix.lower() not in WRITE_FORMATS:
        raise InputError(f"{path}: cannot write format {path.suffix!r}; use one of {' '.join(WRITE_FORMATS)}")
    samples = waveform.detach().float().cpu()
    if samples.numel() == 0 or samples.numel() != samples.shape[-1]:
        raise InputError(f"{path}: waveform of shape {tuple(waveform.shape)}; one channel [1, N] with N > 0 is wanted")
    if not torch.isfinite(samples).all():
        raise InputError(f"{path}: the waveform holds NaN or infinity; nothing was written")
    _write_aside(path, samples.reshape(-1).clamp(-1, 1).numpy(), rate)


def resample(waveform: Tensor, from_rate: int, to_rate: int) -> Tensor:
    """Waveform [..., N] at `from_rate` Hz to [..., N'] at `to_rate` Hz (soxr HQ, on the CPU, float32)."""
    if from_rate == to_rate:
        return waveform
    flat = waveform.detach().float().cpu().reshape(-1, waveform.shape[-1])
    moved = np.asarray(soxr.resample(flat.numpy().T, from_rate, to_rate, quality="HQ"))
    resampled = torch.from_numpy(np.ascontiguousarray(moved.T, dtype=np.float32))
    return resampled.reshape(*waveform.shape[:-1], -1).to(waveform.device)


class LogMel(nn.Module):
    """Waveform [B, 1, N] -> log-mel [B, M, T] with T = ceil(N / hop), causal and always in fp32.

    Frame t sees the `n_fft` samples that end at sample (t + 1) * hop and none after; zeros stand before the start and
    fill up the last hop. Hann window, magnitude (not power) spectrum, triangles of height 1 evenly spaced on the
    Slaney mel scale from 0 to rate / 2, natural logarithm with a floor of 1e-5. No parameters.
    """

    window: Tensor
    filters: Tensor

    def __init__(self, bins: int = 128, rate: int = SAMPLE_RATE, n_fft: int = 1280, hop: int = 320) -> None:
        super().__init__()
        if not 0 < hop <= n_fft:
            raise InputError(f"hop {hop} and window {n_fft}: a hop between 1 and the window is wanted")
        self.n_fft, self.hop = n_fft, hop
        self.register_buffer("window", torch.hann_window(n_fft), persistent=False)
        self.register_buffer("filters", mel_filters(bins, rate, n_fft), persistent=False)

    def forward(self, waveform: Tensor) -> Tensor:
        B, _, N = waveform.shape
        frames = -(-N // self.hop)
        with torch.autocast(waveform.device.type, enabled=False):
            samples = waveform.reshape(B, N).float()
            padded = nn.functional.pad(samples, (self.n_fft - self.hop, frames * self.hop - N))
            window = self.window.float()
            spectrum = torch.stft(padded, self.n_fft, self.hop, window=window, center=False, return_complex=True)
            # The root of a clamped power has a finite gradient at zero and costs a third of a complex abs.
            magnitude = torch.view_as_real(spectrum).square().sum(-1).clamp(min=1e-14).sqrt()
            return torch.log((self.filters.float() @ magnitude).clamp(min=1e-5))


def mel_filters(bins: int, rate: int, n_fft: int) -> Tensor:
    """Triangular filters [M, n_fft // 2 + 1] of height 1, evenly spaced on the Slaney mel scale over 0 .. rate / 2.

    Raises:
        InputError: so many bins that one of them holds no Fourier frequency.
    """
    edges = _mel_to_hz(np.linspace(0.0, _hz_to_mel(rate / 2), bins + 2))
    fourier = np.linspace(0.0, rate / 2, n_fft // 2 + 1)
    rising = (fourier - edges[:-2, None]) / (edges[1:-1] - edges[:-2])[:, None]
    falling = (edges[2:, None] - fourier) / (edges[2:] - edges[1:-1])[:, None]
    filters = np.maximum(0.0, np.minimum(rising, falling))
    if (filters.max(axis=1) == 0).any():
        raise InputError(f"{bins} mel bins over a window of {n_fft}: some are empty; use fewer bins or a longer window")
    return torch.from_numpy(filters.astype(np.float32))


# The Slaney scale (Auditory Toolbox, 1998): linear below 1 kHz, 200/3 Hz a mel; above, 27 mels for a factor of 6.4.
_LINEAR_HZ, _KNEE_HZ, _LOG_STEP = 200.0 / 3, 1000.0, np.log(6.4) / 27
_KNEE_MEL = _KNEE_HZ / _LINEAR_HZ


def _hz_to_mel(hz: float) -> float:
    return hz / _LINEAR_HZ if hz < _KNEE_HZ else _KNEE_MEL + float(np.log(hz / _KNEE_HZ)) / _LOG_STEP


def _mel_to_hz(mel: np.ndarray) -> np.ndarray:
    above = _KNEE_HZ * np.exp(_LOG_STEP * np.maximum(mel - _KNEE_MEL, 0.0))
    return np.where(mel < _KNEE_MEL, mel * _LINEAR_HZ, above)


class _Forward(soundfile.SoundFile):
    """Read from start to end: soundfile seeks after each block, and an mp3 decoder that was moved starts anew."""

    def seekable(self) -> bool:
        return False


def _check_header(path: Path, file: soundfile.SoundFile, max_seconds: float) -> None:
    """Refuse what the header says is no recording, or too long. What it does not say is bounded while it is read."""
    rate, channels, (slowest, fastest) = file.samplerate, file.channels, FILE_RATES
    if not slowest <= rate <= fastest or channels > MOST_CHANNELS:
        wanted = f"{slowest} to {fastest} Hz and at most {MOST_CHANNELS} channels are wanted"
        raise InputError(f"{path}: {rate} Hz, {channels} channels; {wanted}; export it again")
    stated = file.format != "MP3" and file.frames < _UNKNOWN_FRAMES  # an mp3 says only about how long it is
    if stated and file.frames > max_seconds * rate:
        raise _too_long(path, max_seconds)


def _read_blocks(path: Path, file: soundfile.SoundFile, rate: int, max_seconds: float) -> Iterator[np.ndarray]:
    """Samples [n] float32 at `rate`, the mean of all channels, block by block: no more than is kept is in memory."""
    stream = soxr.ResampleStream(file.samplerate, rate, 1, dtype="float32", quality="HQ")
    left = int(max_seconds * file.samplerate)
    while len(block := file.read(_READ_BLOCK // file.channels, dtype="float32", always_2d=True)):
        left -= len(block)
        if left < 0:
            raise _too_long(path, max_seconds)
        mono = block.mean(axis=1, dtype=np.float32)
        if not np.isfinite(mono).all():
            raise InputError(f"{path}: holds NaN or infinite samples, finite audio is wanted; export it again")
        yield mono if rate == file.samplerate else stream.resample_chunk(mono)
    if rate != file.samplerate:
        yield stream.resample_chunk(np.empty(0, np.float32), last=True)


def _too_long(path: Path, max_seconds: float) -> InputError:
    return InputError(f"{path}: longer than {max_seconds:g} s; cut it into shorter files")


def _write_aside(path: Path, samples: np.ndarray, rate: int) -> None:
    container, subtype = WRITE_FORMATS[path.suffix.lower()]
    aside = path.with_name(f".{path.name}.{os.getpid()}.tmp")
    try:
        path.parent.mkdir(parents=True, exist_ok=True)
        with soundfile.SoundFile(aside, "w", rate, 1, subtype=subtype, format=container) as file:
            for start in range(0, len(samples), _WRITE_BLOCK):
                file.write(samples[start : start + _WRITE_BLOCK])
        os.replace(aside, path)
    except (soundfile.SoundFileError, OSError, ValueError) as error:
        message = f"{path}: cannot be written at {rate} Hz ({_reason(error)}); choose another place or format"
        raise InputError(message) from None
    finally:
        aside.unlink(missing_ok=True)


def _reason(error: Exception) -> str:
    """libsndfile's own words without the path; its mp3 reader calls a broken file a missing one."""
    words = " ".join((getattr(error, "error_string", None) or str(error) or type(error).__name__).split())
    return "format not recognised" if "does not exist" in words else words.removeprefix("Error : ").rstrip(".")[:160]
