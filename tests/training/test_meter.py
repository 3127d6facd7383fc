"""The machine's figures against sums by hand and against torch's own count of operations."""

from __future__ import annotations

import time
from pathlib import Path

import pytest
import torch
from torch import nn
from torch.utils.flop_counter import FlopCounterMode

from ira.training.meter import Meter, flops_per_token, matrix_rate, peak_memory

CPU = torch.device("cpu")


def counted(model: nn.Module, tokens: int) -> int:
    """Operations that torch counts in a forward and backward pass whose input has a gradient too."""
    counter = FlopCounterMode(display=False)
    with counter:
        model(torch.zeros(tokens, 8, requires_grad=True)).sum().backward()
    return counter.get_total_flops()


def layers() -> nn.Sequential:
    return nn.Sequential(nn.Linear(8, 16), nn.RMSNorm(16), nn.Linear(16, 8))


def test_six_operations_for_a_trained_element_are_what_torch_counts():
    assert flops_per_token({"model": layers()}) * 5 == counted(layers(), 5) == 6 * 2 * 8 * 16 * 5


def test_a_frozen_matrix_that_a_gradient_passes_through_costs_four():
    model = layers()
    model[0].requires_grad_(False)
    assert flops_per_token({"model": model}) * 5 == counted(model, 5) == (4 + 6) * 8 * 16 * 5


def test_embeddings_are_looked_up_and_shared_matrices_count_once():
    model = nn.ModuleDict({"embed": nn.Embedding(10, 8), "out": nn.Linear(8, 10, bias=False)})
    assert flops_per_token({"model": model}) == 6 * 80
    model["out"].weight = model["embed"].weight
    assert flops_per_token({"model": model, "again": model}) == 6 * 80


def test_a_step_is_told_by_the_definitions():
    meter = Meter({"model": layers()}, CPU, "fp32", processes=2)
    meter.peak = 1e6
    figures = meter.step(tokens=100, seconds=2.0, waited=0.5)
    memory = figures.pop("memory_gb")
    assert figures == {"tokens_per_second": 50, "data_wait": 0.25, "share_of_peak": 6 * 256 * 50 / 1e6}
    assert 0.05 < memory < 100
    idle = meter.step(tokens=0, seconds=0.0, waited=0.0)
    assert idle["share_of_peak"] == idle["data_wait"] == 0


@pytest.mark.skipif(not Path("/proc/self/status").exists(), reason="the kernel's own figure is a Linux file")
def test_memory_is_the_largest_that_the_process_held_in_bytes():
    lines = Path("/proc/self/status").read_text().splitlines()
    kilobytes = next(int(line.split()[1]) for line in lines if line.startswith("VmHWM"))
    assert peak_memory(CPU) == pytest.approx(1024 * kilobytes, rel=0.05)


@pytest.mark.parametrize("dtype", ["fp32", "bf16"])
def test_the_rate_of_the_machine_is_measured_once_and_quickly_and_draws_nothing(dtype: str):
    matrix_rate.cache_clear()
    state, started = torch.get_rng_state(), time.perf_counter()
    rate = matrix_rate(CPU, dtype)
    assert time.perf_counter() - started < 2.0  # 0.25 s on an idle machine
    assert torch.equal(torch.get_rng_state(), state)
    assert 1e8 < rate < 1e14 and matrix_rate(CPU, dtype) == rate
