"""The head of the compact codec: that windows overlap to the signal, and that a sample waits for three frames."""

from __future__ import annotations

import torch
from torch.nn.functional import pad

from ira.audio.synthesis import HOP, OVERLAP, CosineHead, cosine_basis, overlap_halves


def noise(*shape: int) -> torch.Tensor:
    return torch.randn(*shape, generator=torch.Generator().manual_seed(0))


def test_coefficients_of_a_signal_bring_it_back():
    signal, basis = noise(1, 1, 10 * HOP), cosine_basis(HOP)
    coefficients = pad(signal, (HOP, HOP))[0, 0].unfold(0, 2 * HOP, HOP) @ basis.T
    assert coefficients.shape == (11, HOP)  # as many numbers as samples, and a window more
    torch.testing.assert_close(overlap_halves((coefficients @ basis)[None]), signal, atol=1e-4, rtol=0)


def test_a_tone_is_a_few_coefficients():
    time = torch.arange(12 * HOP) / 24_000
    coefficients = torch.sin(2 * torch.pi * 1000 * time).unfold(0, 2 * HOP, HOP) @ cosine_basis(HOP).T
    power = coefficients.square().sum(0)
    assert int(power.argmax()) in (26, 27)  # rows are 37.5 Hz apart, the first at 18.75
    assert power[20:34].sum() / power.sum() > 0.99


def test_of_each_frame_but_the_last_three_there_are_320_samples():
    head = CosineHead(8)
    assert head(noise(2, 10, 8)).shape == (2, 1, 7 * HOP)
    assert head(noise(1, OVERLAP + 1, 8)).abs().max() > 0


def test_a_block_of_samples_hears_the_third_frame_after_its_own_and_none_later():
    hidden = noise(1, 12, 8).requires_grad_()
    CosineHead(8)(hidden)[0, 0, 4 * HOP + 100].backward()
    assert hidden.grad is not None
    heard = hidden.grad[0].abs().amax(-1) > 0
    assert heard[4 + OVERLAP] and not heard[4 + OVERLAP + 1 :].any()
