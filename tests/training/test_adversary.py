"""Discriminators against a codec: who learns from what, and how loud each is heard."""

from __future__ import annotations

import pytest
import torch
from torch import nn

from ira.training.adversary import WINDOWS, Discriminators, balanced, feature_gap, fooled, told_apart
from ira.training.reconstruction import level_of

NOISE = torch.Generator().manual_seed(0)
REAL = 0.2 * torch.sin(torch.arange(4800) * 0.05).expand(4, 1, -1)
LEVEL = level_of(REAL[:, 0])
FAKE = 0.2 * torch.randn(4, 1, 4800, generator=NOISE)


@pytest.fixture
def discriminators() -> Discriminators:
    torch.manual_seed(0)
    return Discriminators(4)


def test_the_codecs_gradient_reaches_no_discriminator_and_theirs_no_codec(discriminators):
    made = FAKE.clone().requires_grad_()
    output = made * 1.0  # the codec's work
    leaf = output.detach().requires_grad_()
    gradient, own, _ = discriminators(leaf, REAL)
    assert gradient.shape == leaf.shape and gradient.abs().max() > 0
    assert all(p.grad is None for p in discriminators.parameters())
    own.backward()
    assert made.grad is None and leaf.grad is None
    assert sum(p.grad is not None for p in discriminators.parameters()) == 12  # one window's


def test_each_call_asks_one_window_and_in_time_all(discriminators):
    torch.manual_seed(0)
    asked = set()
    for _ in range(12):
        discriminators.zero_grad()
        discriminators(FAKE[:1].clone().requires_grad_(), REAL[:1])[1].backward()
        asked |= {i for i, part in enumerate(discriminators.parts) if next(part.parameters()).grad is not None}
    assert asked == set(range(len(WINDOWS)))


def test_they_learn_to_tell_noise_from_a_tone_and_the_codec_to_fool_them(discriminators):
    optimizer, critic = torch.optim.Adam(discriminators.parameters(), 1e-2), discriminators.parts[2]
    for _ in range(25):
        optimizer.zero_grad()
        told_apart(critic(REAL, LEVEL), critic(FAKE, LEVEL)).backward()
        optimizer.step()
    with torch.no_grad():
        real, fake = critic(REAL, LEVEL), critic(FAKE, LEVEL)
    assert float(told_apart(real, fake)) < 0.5
    assert float(fooled(fake)) > 1 > float(fooled(real))
    assert float(feature_gap(real, fake)) > 0 == float(feature_gap(real, real))


@pytest.mark.parametrize("size", [1e-6, 1.0, 1e6])
def test_the_adversary_has_its_share_of_the_gradient_at_the_last_layer_whatever_its_size(size):
    """Also where the output hardly depends on the layer in the place that the reconstruction's gradient lies."""
    last, loud = nn.Parameter(torch.randn(20, generator=NOISE)), torch.cat([torch.ones(10), torch.full((10,), 1e-3)])
    made = (last * loud).view(1, 1, -1)
    reconstruction, adversary = loud.flip(0).view(1, 1, -1), size * loud.view(1, 1, -1)
    whole = balanced(made, last, reconstruction, adversary, 0.7)

    def moved(gradient: torch.Tensor) -> float:
        return float(torch.autograd.grad(made, last, gradient, retain_graph=True)[0].norm())

    assert moved(whole - reconstruction) == pytest.approx(0.7 * moved(reconstruction), rel=1e-3)
    assert float((whole - reconstruction).norm()) < 0.01 * float(reconstruction.norm())


def test_an_adversary_without_an_opinion_changes_nothing():
    last = nn.Parameter(torch.ones(10))
    gradient = torch.ones(1, 1, 10)
    found = balanced((2 * last).view(1, 1, -1), last, gradient, torch.zeros(1, 1, 10), 0.7)
    assert torch.equal(found, gradient)
