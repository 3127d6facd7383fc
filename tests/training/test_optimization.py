"""The schedule and the groups of the optimizer."""

from __future__ import annotations

import pytest
import torch
from torch import nn

from ira.config import StageConfig
from ira.training.optimization import make_optimizer, parameter_groups, schedule


def test_the_rate_warms_up_in_steps_and_falls_to_a_tenth():
    settings = StageConfig(lr=1.0, warmup_steps=10)
    assert schedule(0.0, 1, settings) == pytest.approx(0.1)
    assert schedule(0.0, 10, settings) == pytest.approx(1.0)
    assert schedule(0.5, 50, settings) == pytest.approx(0.1 + 0.9 * 0.5)
    assert schedule(1.0, 99, settings) == schedule(1.2, 99, settings) == pytest.approx(0.1)
    assert schedule(0.0, 1, StageConfig(lr=1.0, warmup_steps=0)) == pytest.approx(1.0)


def test_matrices_decay_vectors_do_not_and_a_scaled_module_never_does():
    fast = nn.Linear(2, 2)
    fast.lr_scale = 10.0  # type: ignore[assignment]
    frozen = nn.Linear(2, 2).requires_grad_(False)
    modules: dict[str, nn.Module] = {"plain": nn.Linear(3, 2), "fast": fast, "frozen": frozen}
    groups = parameter_groups(modules, StageConfig(lr=0.1, weight_decay=0.5))
    found = [(g["params"][0].ndim, g["weight_decay"], g["lr_scale"], g["lr"]) for g in groups]
    assert found == [(2, 0.5, 1.0, 0.1), (1, 0.0, 1.0, 0.1), (2, 0.0, 10.0, 1.0), (1, 0.0, 10.0, 1.0)]


def test_the_moments_are_there_before_the_first_step_and_change_nothing():
    torch.manual_seed(0)
    started, plain = nn.Linear(3, 2), nn.Linear(3, 2)
    plain.load_state_dict(started.state_dict())
    settings = StageConfig(lr=0.1)
    ours = make_optimizer({"line": started}, settings)
    torchs = torch.optim.AdamW(parameter_groups({"line": plain}, settings), betas=(0.9, 0.95), eps=1e-8)
    assert all("exp_avg_sq" in ours.state[p] for p in started.parameters())
    for _ in range(3):
        for layer, optimizer in ((started, ours), (plain, torchs)):
            optimizer.zero_grad()
            layer(torch.ones(1, 3)).square().sum().backward()
            optimizer.step()
    assert torch.allclose(started.weight, plain.weight, rtol=1e-5, atol=1e-7)  # fused, sums are rounded otherwise
