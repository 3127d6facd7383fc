"""Spectra, attention, similarities and gradients in; pictures, sounds and histograms for the trackers out."""

from __future__ import annotations

import torch
from matplotlib import colormaps
from torch import Tensor, nn
from torch.nn import functional as F

from ira.audio.waveform import LogMel
from ira.trackers.base import Histogram, Picture, Samples, Sound

SMALLEST, LARGEST = 200, 1600  # pixels of a side: less cannot be read, more is only a large file
MEL_BINS = 80
QUIET, LOUD = -9.0, 4.0  # log-mel at both ends of the colours: fixed, so that pictures of a run can be compared
GRADIENT_VALUES = 100_000  # of a module, evenly spread: a histogram needs no more


def sound_and_spectrogram(name: str, waveform: Tensor, rate: int, hop: int) -> Samples:
    """A waveform [N] to hear as NAME and its log-mel spectrogram to see as NAME-mel."""
    waveform = waveform.detach().float().cpu()
    audible = F.pad(waveform, (0, max(hop - len(waveform), 0)))  # a sentence may be spoken as nothing at all
    mel = LogMel(MEL_BINS, rate, 4 * hop, hop)(audible[None, None])[0]
    return {name: Sound(waveform, rate), f"{name}-mel": spectrogram(mel)}


def spectrogram(mel: Tensor) -> Picture:
    """Log-mel [M, T], low notes at the bottom, time to the right."""
    return _paint(mel.flip(0), QUIET, LOUD, "magma")


def attention(weights: Tensor) -> Picture:
    """Attention of frames over text [L, T], each frame's weights summing to 1; the text begins at the bottom left.

    A model that reads while it speaks draws a line from the bottom left to the top right.
    """
    brightest = 1.0
    if weights.numel():  # where half of the frames are as sure as that; attention that is everywhere stays dark
        brightest = max(float(weights.float().amax(0).median()), 4 / len(weights))
    return _paint(weights.flip(0), 0.0, brightest, "viridis")


def heat_map(values: Tensor, low: float = -1.0, high: float = 1.0) -> Picture:
    """A matrix [R, C] as it is written, the first row at the top; blue is `low`, red is `high`."""
    return _paint(values, low, high, "coolwarm")


def gradient_histograms(modules: dict[str, nn.Module]) -> Samples:
    """The gradients of each module after a backward pass, as `gradient/MODULE`; of a sharded one, this process's part.

    A module without gradients is left out. Call it before the gradients are cleared.
    """
    found: Samples = {}
    for name, module in modules.items():
        gradients = [_own(p.grad) for p in module.parameters() if p.grad is not None]
        stride = max(sum(g.numel() for g in gradients) // GRADIENT_VALUES, 1)
        if gradients:
            values = torch.cat([g.flatten()[::stride].float().cpu() for g in gradients])
            found[f"gradient/{name}"] = Histogram(values)
    return found


def _own(gradient: Tensor) -> Tensor:
    """The part of a sharded tensor that lies in this process; a plain tensor as it is."""
    to_local = getattr(gradient, "to_local", None)
    return (to_local() if to_local else gradient).detach()


def _paint(values: Tensor, low: float, high: float, colours: str) -> Picture:
    """Values [H, W] from `low` to `high` as colours, with sides of 200 to 1600 pixels; what is not finite is `low`."""
    plain = values.detach().float().cpu()
    plain = plain if plain.numel() else torch.full((1, 1), low)
    height, width = (min(side, LARGEST) for side in plain.shape)
    plain = F.adaptive_avg_pool2d(plain[None], (height, width))[0]
    share = ((plain - low) / max(high - low, 1e-12)).nan_to_num(0.0, 0.0, 0.0).clamp(0, 1)
    for axis in (0, 1):
        share = share.repeat_interleave(-(-SMALLEST // share.shape[axis]), axis)
    return Picture(torch.from_numpy(colormaps[colours](share.numpy(), bytes=True)[..., :3].copy()))
