"""A waveform in, a PNG out: the sound over time, and its log-mel spectrogram below."""

from __future__ import annotations

from pathlib import Path

from matplotlib.figure import Figure
from torch import Tensor

from ira.audio.waveform import SAMPLE_RATE, LogMel
from ira.checkpoint import write_aside

BINS = 80


def draw_sound(path: str | Path, waveform: Tensor, title: str) -> None:
    """Draw a waveform [1, N] at 24 kHz; `title` stands above it. The picture is written aside and renamed."""
    samples = waveform[0].float().cpu()
    mel = LogMel(BINS)(samples[None, None])[0]
    seconds = len(samples) / SAMPLE_RATE
    figure = Figure(figsize=(9, 4.5), dpi=110, layout="constrained")  # no pyplot: no window, no global state
    wave, spectrogram = figure.subplots(2, 1, sharex=True)
    every = max(1, len(samples) // 20_000)  # more points than pixels only cost time
    wave.plot([i * every / SAMPLE_RATE for i in range(len(samples[::every]))], samples[::every].tolist(), linewidth=0.4)
    wave.set_title(title, parse_math=False)
    wave.set(ylabel="amplitude", ylim=(-1, 1))
    spectrogram.imshow(mel.numpy(), origin="lower", aspect="auto", extent=(0, seconds, 0, BINS), cmap="magma")
    spectrogram.set(xlabel="seconds", ylabel="mel bin", xlim=(0, seconds))
    with write_aside(path) as aside:
        figure.savefig(aside, format="png")
