"""A codec's waveform and the original in; how well they are told apart, and the gradient that teaches the codec, out.

Discriminators hear complex spectra at several windows (Defossez et al. 2022), compressed as the reconstruction's are,
with hinge losses and the distance of their inner features. However large their losses, their gradient gets a fixed
share of the reconstruction's.
"""

from __future__ import annotations

import torch
from torch import Tensor, nn
from torch.nn import functional as F

from ira.training.reconstruction import compression, frames_of, level_of

WINDOWS = (1024, 512, 256)
CHANNELS = 16
SLOPE = 0.2
FEATURES = 2.0  # weight of the feature distance beside the judgement (Kumar et al. 2023)

Heard = list[Tensor]  # features of each layer, the last one the judgement


class SpectrumDiscriminator(nn.Module):
    """Waveform [B, 1, N] and the original's level [B, 1, 1] -> features of each layer; the last is above 0 where it
    sounds real."""

    shape: Tensor

    def __init__(self, window: int, channels: int) -> None:
        super().__init__()
        self.window = window
        self.register_buffer("shape", torch.hann_window(window), persistent=False)
        strided = [nn.Conv2d(n, channels, (3, 9), (1, 2), (1, 4)) for n in (2, channels, channels, channels)]
        self.layers = nn.ModuleList([*strided, nn.Conv2d(channels, channels, 3, padding=1)])
        self.judge = nn.Conv2d(channels, 1, 3, padding=1)

    def forward(self, waveform: Tensor, level: Tensor) -> Heard:
        with torch.autocast(waveform.device.type, enabled=False):
            shaped = frames_of(waveform[:, 0].float(), self.window) * self.shape
            spectrum = torch.view_as_real(torch.fft.rfft(shaped)[..., :-1])
            magnitude = spectrum.square().sum(-1).clamp(min=1e-14).sqrt()
            hidden = (spectrum * compression(magnitude, self.shape, level)[..., None]).permute(0, 3, 1, 2)
        features = []
        for layer in self.layers:
            hidden = F.leaky_relu(layer(hidden), SLOPE)
            features.append(hidden)
        return [*features, self.judge(hidden)]


class Discriminators(nn.Module):
    """One discriminator for each of WINDOWS. A call asks one, drawn from the global random numbers."""

    def __init__(self, channels: int = CHANNELS) -> None:
        super().__init__()
        self.parts = nn.ModuleList(SpectrumDiscriminator(window, channels) for window in WINDOWS)

    def forward(self, output: Tensor, original: Tensor) -> tuple[Tensor, Tensor, dict[str, Tensor]]:
        """The codec's output [B, 1, N], a leaf of the graph, and the original.

        Returns:
            the gradient [B, 1, N] at the output, which reaches no discriminator; the discriminators' own loss, which
            reaches no codec; and the losses to log.
        """
        critic, level = self.parts[int(torch.randint(len(self.parts), ()))], level_of(original[:, 0].float())
        real, made = critic(original, level), critic(output, level)
        losses = {"adversarial": fooled(made), "features": feature_gap(real, made)}
        (gradient,) = torch.autograd.grad(losses["adversarial"] + FEATURES * losses["features"], output)
        own = told_apart(real, critic(output.detach(), level))
        return gradient, own, {**losses, "discriminator": own}


def told_apart(real: Heard, made: Heard) -> Tensor:
    """Hinge loss of a discriminator: real above 1, made below -1."""
    return F.relu(1 - real[-1].float()).mean() + F.relu(1 + made[-1].float()).mean()


def fooled(made: Heard) -> Tensor:
    """Loss of the codec: what it made is to be taken for real."""
    return F.relu(1 - made[-1].float()).mean()


def feature_gap(real: Heard, made: Heard) -> Tensor:
    """L1 between features, each layer by the mean size of the original's."""
    pairs = [(r.detach().float(), m.float()) for r, m in zip(real[:-1], made[:-1], strict=True)]
    return torch.stack([(m - r).abs().mean() / r.abs().mean().clamp(min=1e-4) for r, m in pairs]).mean()


def balanced(made: Tensor, last: nn.Parameter, reconstruction: Tensor, adversary: Tensor, share: float) -> Tensor:
    """The reconstruction's gradient at the output and the adversary's, brought to `share` times its norm at `last`.

    Norms are compared at the codec's last layer (Esser et al. 2021). At the output the reconstruction's lies where
    there is nearly no sound; an equal one in the midst of speech would move the codec a hundred times as far.

    Args:
        made: the codec's output [B, 1, N], whose graph is kept.
        reconstruction, adversary: gradients at it.
    """
    norms = [
        torch.autograd.grad(made, last, g, retain_graph=True)[0].float().norm() for g in (reconstruction, adversary)
    ]
    return reconstruction + adversary * (share * norms[0] / norms[1].clamp(min=1e-12))
