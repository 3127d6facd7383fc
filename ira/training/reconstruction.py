"""A codec's waveform and the original in; how far apart they sound, as named losses, out.

Beside the log-mel distance, which hears no phase, stand distances of compressed spectra (magnitudes to the power 0.3,
as in speech enhancement: Braun and Tashev 2021): compression lets quiet harmonics count, and the complex one ties the
phases to those of the recording, without which they settle at the frame rate and hum.
"""

from __future__ import annotations

import torch
from torch import Tensor, nn
from torch.nn import functional as F

from ira.audio.waveform import SAMPLE_RATE, mel_filters

SCALES = ((2048, 80), (1024, 80), (512, 40), (256, 20))  # (window, mel bins); hop = window / 4
PHASED = (1024, 512)  # windows whose compressed spectra are compared too
POWER = 0.3
QUIETEST = 3e-3  # rms; nearly silent crops are compared at this level, or their noise would count as much as speech
FAINTEST = 1e-3  # magnitude against the crop's level below which compression is linear


class Reconstruction(nn.Module):
    """Losses by name, of waveforms [B, 1, N] against the originals.

    `mel`: L1 of log-mel spectra. `magnitude`, `phase`: L1 of compressed magnitudes and compressed complex spectra of
    crops brought to one level. `waveform`: L1 of samples by the mean size of the original's. In training two windows, a
    phased one and another, are drawn from the global random numbers: on average the same gradient in half of the time.
    """

    def __init__(self) -> None:
        super().__init__()
        for window, bins in SCALES:
            self.register_buffer(f"filters{window}", mel_filters(bins, SAMPLE_RATE, window).T.contiguous(), False)
            self.register_buffer(f"window{window}", torch.hann_window(window), False)

    def forward(self, made: Tensor, target: Tensor) -> dict[str, Tensor]:
        made, target = made[:, 0].float(), target[:, 0].float()
        level = level_of(target)
        found: dict[str, list[Tensor]] = {"mel": [], "magnitude": [], "phase": []}
        for window in self._windows():
            with torch.no_grad():
                wanted = self._spectra(target, window, level)
            spectra = self._spectra(made, window, level)
            for name, distance in found.items():
                if name in spectra:
                    distance.append(F.l1_loss(spectra[name], wanted[name]))
        size = target.abs().mean(-1).clamp(min=QUIETEST)
        losses = {name: torch.stack(distances).mean() for name, distances in found.items()}
        return losses | {"waveform": ((made - target).abs().mean(-1) / size).mean()}

    def _windows(self) -> list[int]:
        """All windows to judge; in training one that is phased and one that is not."""
        windows = [window for window, _ in SCALES]
        if not self.training:
            return windows
        others = [window for window in windows if window not in PHASED]
        return [kind[int(torch.randint(len(kind), ()))] for kind in (PHASED, others)]

    def _spectra(self, waveform: Tensor, window: int, level: Tensor) -> dict[str, Tensor]:
        """waveform [B, N], level [B, 1, 1] -> log-mel [B, T, M]; compressed spectra [B, T, F] and [B, T, F, 2]."""
        shape, filters = getattr(self, f"window{window}"), getattr(self, f"filters{window}")
        with torch.autocast(waveform.device.type, enabled=False):
            spectrum = torch.view_as_real(torch.fft.rfft(frames_of(waveform, window) * shape))
            magnitude = spectrum.square().sum(-1).clamp(min=1e-14).sqrt()
            spectra = {"mel": torch.log((magnitude @ filters).clamp(min=1e-5))}
            if window in PHASED:
                factor = compression(magnitude, shape, level)
                spectra |= {"magnitude": magnitude * factor, "phase": spectrum * factor[..., None]}
        return spectra


def level_of(waveform: Tensor) -> Tensor:
    """waveform [B, N] -> rms [B, 1, 1], of silence that of very quiet sound."""
    return waveform.square().mean(-1).sqrt().clamp(min=QUIETEST)[:, None, None]


def compression(magnitude: Tensor, shape: Tensor, level: Tensor) -> Tensor:
    """What a spectrum [B, T, F] under a window is multiplied by: magnitudes to the power 0.3, at one level."""
    gain = 1 / (level * shape.square().sum().sqrt())
    return (magnitude * gain).clamp(min=FAINTEST) ** (POWER - 1) * gain


def frames_of(waveform: Tensor, window: int) -> Tensor:
    """waveform [B, N] -> [B, T, window], four to a window; slices, whose gradient is many times faster than stft's."""
    hop = window // 4
    parts = F.pad(waveform, (window - hop, -waveform.shape[-1] % hop)).unflatten(-1, (-1, hop))
    frames = parts.shape[1] - 3
    return torch.cat([parts[:, i : frames + i] for i in range(4)], -1)
