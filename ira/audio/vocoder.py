"""The first codebooks of the compact codec: waveform [B, 1, N] to codes [B, K, T] that know no phase, and back.

log-mel and pitch -> causal ConvNeXt -> residual quantizer -> causal ConvNeXt -> pitch and envelopes -> pulses and
noise, filtered. What a phase is like follows from no text and no voice; a language model that had to write phases would
write noise. So the books that it writes are these.
"""

from __future__ import annotations

from typing import NamedTuple

import torch
from torch import Tensor, nn
from torch.nn import functional as F

from ira.audio.convnext import ConvNeXt
from ira.audio.pitch import Pitch, at_centres, track
from ira.audio.quantizer import Quantized, ResidualQuantizer
from ira.audio.source_filter import BINS, SIZE, cycles, filtered, noise, overlapped, pulses
from ira.audio.synthesis import HOP
from ira.audio.waveform import SAMPLE_RATE, LogMel
from ira.config import CompactConfig

MEL_BINS, MEL_WINDOW = 80, 960
MIDDLE_PITCH = 5.0  # natural logarithm of 148 Hz
LOW, HIGH = 4.0, 6.1  # 55 to 446 Hz
STEPS = 512  # of pitch to a neper, 3.4 cents: or errors of rounding would add up to another phase


class Rehearsed(NamedTuple):
    """A training pass. made: [B, 1, N], with the recording's own pitch; pitch_error: nepers, over voiced frames."""

    made: Tensor
    quantized: Quantized
    pitch_error: Tensor


class Vocoder(nn.Module):
    """See the module's docstring. A frame is heard with one more after it, a sample is final three after its own."""

    def __init__(self, config: CompactConfig) -> None:
        super().__init__()
        width = config.width
        self.mel = LogMel(MEL_BINS, SAMPLE_RATE, MEL_WINDOW, HOP)
        self.encoder_in = nn.Linear(MEL_BINS + 3, width)
        self.encoder = ConvNeXt(width, config.encoder_layers)
        self.encoder_norm = nn.LayerNorm(width)
        self.quantizer = ResidualQuantizer(width, config.vocoder_books, config.codebook_size, config.code_dim)
        self.decoder = ConvNeXt(width, config.decoder_layers)
        self.decoder_norm = nn.LayerNorm(width)
        self.head = nn.Linear(width, 2 * BINS)
        self.pitch_head = nn.Linear(width, 1)
        nn.init.normal_(self.head.weight, std=0.01)
        nn.init.zeros_(self.head.bias)

    def latent(self, waveform: Tensor, pitch: Pitch) -> Tensor:
        """waveform [B, 1, N] and its pitch -> [B, T, C], T = ceil(N / 320)."""
        tune = [(pitch.hertz.log() - MIDDLE_PITCH) * pitch.voiced, pitch.voiced.float(), pitch.periodicity]
        heard = torch.cat([self.mel(waveform).transpose(1, 2), torch.stack(tune, dim=-1)], dim=-1)
        return self.encoder_norm(self.encoder(self.encoder_in(heard)))

    def said(self, hidden: Tensor) -> tuple[Tensor, Tensor]:
        """What is said of the frame before each of hidden [B, T, C]: gains [B, T, 642], logarithm of the Hz [B, T]."""
        return self.head(hidden).float(), self.pitch_head(hidden).float()[..., 0] + MIDDLE_PITCH

    def forward(self, waveform: Tensor, codebooks: Tensor | None = None) -> Rehearsed:
        """Training pass over waveform [B, 1, N], N a multiple of 320."""
        pitch = track(waveform)
        latent, (wanted, voiced) = self.latent(waveform, pitch), at_centres(pitch)
        with torch.autocast(latent.device.type, enabled=False):
            quantized = self.quantizer(latent.float(), codebooks)
        gains, said = self.said(self.decoder_norm(self.decoder(F.pad(quantized.latent, (0, 0, 0, 1)))[:, 1:]))
        weight = voiced + 0.05  # a rest keeps the pitch on both sides of it
        error = ((said - wanted).abs() * weight).sum() / weight.sum()
        hertz, first = wanted.exp(), int(torch.randint(1 << 16, ()))  # no two steps hear the same noise
        with torch.autocast(latent.device.type, enabled=False):
            windows = filtered(gains, *_sources(_neighboured(hertz), cycles(hertz, hertz.new_zeros(len(hertz))), first))
        return Rehearsed(overlapped(F.pad(windows, (0, 0, 1, 1))), quantized, error)


class VocoderStream:
    """A `Stream` of a vocoder's codes, for B `rows`.

    Of the frames from `frame` on it keeps what is known so far: gains, pitch (and that of the frame before), and
    whether they are inside their row.
    """

    def __init__(self, vocoder: Vocoder, rows: int) -> None:
        weight = vocoder.head.weight
        self.vocoder, self.past, self.frame, self.begun = vocoder, vocoder.decoder.silence(rows), 0, False
        self.gains, self.hertz = weight.new_zeros(rows, 0, 2 * BINS), weight.new_zeros(rows, 0)
        self.inside = torch.zeros(rows, 0, dtype=torch.bool, device=weight.device)
        self.windows = weight.new_zeros(rows, 1, SIZE)  # nothing before the first frame
        self.cycle = torch.zeros(rows, dtype=torch.float64, device=weight.device)

    def push(self, codes: Tensor, inside: Tensor, last: bool = False) -> Tensor:
        self._hear(self.vocoder.quantizer.decode(codes) * inside[..., None], inside, last)
        ready = self.gains.shape[1] - (0 if last else 1)
        if ready <= 0:
            return self.gains.new_zeros(len(codes), 1, 0)
        windows = [self.windows, self._windows(ready, last)]
        joined = torch.cat([*windows, torch.zeros_like(self.windows[:, :1])] if last else windows, dim=1)
        self.windows = joined[:, -2:]
        return overlapped(joined)

    def _hear(self, latent: Tensor, inside: Tensor, last: bool) -> None:
        """What each frame of latent [B, n, C] settles: gains and pitch of the one before it."""
        hidden = self.vocoder.decoder.step(F.pad(latent, (0, 0, 0, int(last))), self.past)
        gains, pitch = self.vocoder.said(self.vocoder.decoder_norm(hidden if self.begun else hidden[:, 1:]))
        hertz, self.begun = ((pitch.clamp(LOW, HIGH) * STEPS).round() / STEPS).exp(), True
        self.gains, self.inside = torch.cat([self.gains, gains], dim=1), torch.cat([self.inside, inside], dim=1)
        known = torch.cat([self.hertz if self.hertz.shape[1] else hertz[:, :1], hertz], dim=1)
        # The frame after a row's end has the pitch of its last one; of later ones nothing is heard.
        within = self.inside[:, : known.shape[1] - 1]
        self.hertz = torch.cat([known[:, :1], torch.where(within, known[:, 1:], known[:, :-1])], dim=1)

    def _windows(self, ready: int, last: bool) -> Tensor:
        """Windows [B, ready, 640] of the first frames that wait, which wait no longer."""
        hertz = torch.cat([self.hertz, self.hertz[:, -1:]], dim=1) if last else self.hertz
        where = cycles(hertz[:, 1:], self.cycle)
        sources = pulses(hertz[:, : ready + 2], where[:, :ready]), noise(self.frame, ready, hertz.device)
        windows = filtered(self.gains[:, :ready], *sources) * self.inside[:, :ready, None]
        self.gains, self.hertz, self.inside = self.gains[:, ready:], self.hertz[:, ready:], self.inside[:, ready:]
        self.cycle, self.frame = where[:, ready], self.frame + ready
        return windows


def _neighboured(values: Tensor) -> Tensor:
    """[B, T] -> [B, T + 2], the first and the last value once more."""
    return torch.cat([values[:, :1], values, values[:, -1:]], dim=1)


def _sources(hertz: Tensor, cycle: Tensor, first: int) -> tuple[Tensor, Tensor]:
    """Pulses [B, T, 640] and noise [T, 640] of the T frames from `first` on; hertz [B, T + 2]."""
    return pulses(hertz, cycle), noise(first, cycle.shape[1], cycle.device)
