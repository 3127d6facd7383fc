"""Tokens and seconds of a step in; how well they use the machine, out.

    share_of_peak = FLOPs per token x tokens / seconds / (matrix rate of the machine x processes)
    FLOPs per token = 6 x trained matrix elements + 4 x frozen ones

A matrix element costs two operations in the forward pass, two for the gradient of its input and, where it is trained,
two for its own (Kaplan et al. 2020). The rate is that of a large matrix product on this machine, measured once.

What this leaves out: attention over the sequence, embeddings (they are looked up), norms, losses, Fourier transforms,
the optimizer, a teacher's or a reference's extra pass, and everything that stands beside the counted tokens (prompts,
audio before an answer, characters). It takes every matrix to be used once a token. So it is a lower bound: close for
`codec` and `speech`, whose tokens are frames; far too low for `voice`, which counts clips, and for `align` and
`reinforce`, which count the tokens of answers. It compares runs of one stage.
"""

from __future__ import annotations

import sys
import time
from functools import cache

import torch
from torch import nn

MEASURED_SECONDS = 0.1  # for each precision
LONG_PRODUCT = 0.005  # seconds; the matrices grow until a product takes as long
SIZES = (256, 8192)
GIGA = 1e9


class Meter:
    """The machine's figures for each step of a stage; measures the machine when it is made, in less than 0.5 s."""

    def __init__(
        self, modules: dict[str, nn.Module], device: torch.device, dtype: str = "bf16", processes: int = 1
    ) -> None:
        self.device, self.flops = device, flops_per_token(modules)
        self.peak = matrix_rate(device, dtype) * processes
        if device.type == "cuda":
            torch.cuda.reset_peak_memory_stats(device)  # a stage's memory is not that of the one before

    def step(self, tokens: float, seconds: float, waited: float) -> dict[str, float]:
        """Figures of a step of all processes.

        Args:
            tokens: what the stage counts, over all processes and accumulated batches.
            seconds: wall clock of the whole step, the wait for data in it.
            waited: seconds of it in which nothing but the next batch was made.
        """
        rate = tokens / max(seconds, 1e-9)
        return {
            "tokens_per_second": rate,
            "data_wait": min(max(waited / max(seconds, 1e-9), 0.0), 1.0),
            "memory_gb": peak_memory(self.device) / GIGA,
            "share_of_peak": self.flops * rate / self.peak,
        }


def flops_per_token(modules: dict[str, nn.Module]) -> float:
    """6 x the elements of trained matrices + 4 x those of frozen ones, embeddings and vectors not counted.

    A matrix that serves as embedding and as output layer counts once, as the latter.
    """
    counted = {
        id(parameter): parameter.numel() * (6.0 if parameter.requires_grad else 4.0)
        for top in modules.values()
        for module in top.modules()
        if not isinstance(module, nn.Embedding)
        for parameter in module.parameters(recurse=False)
        if parameter.ndim >= 2
    }
    return sum(counted.values())


@cache
def matrix_rate(device: torch.device, dtype: str) -> float:
    """Operations a second of a large matrix product, in fp32 or in `dtype`, whichever is faster here."""
    kinds = {torch.float32, torch.bfloat16 if dtype == "bf16" else torch.float32}
    return max(_rate(device, kind) for kind in kinds)


def _rate(device: torch.device, kind: torch.dtype) -> float:
    """The best of as many products as fit in a tenth of a second, larger and larger ones."""
    size, best = SIZES[0], 0.0
    end = None
    while end is None or time.perf_counter() < end:
        generator = torch.Generator(device).manual_seed(0)  # not the one that training draws from
        matrix = torch.randn(size, size, generator=generator, device=device).to(kind)
        if end is None:  # the first product loads libraries
            _product_seconds(matrix)
            end = time.perf_counter() + MEASURED_SECONDS
        seconds = _product_seconds(matrix)
        best = max(best, 2 * size**3 / seconds)
        size = min(2 * size, SIZES[1]) if seconds < LONG_PRODUCT else size
    return best


def _product_seconds(matrix: torch.Tensor) -> float:
    _wait(matrix.device)
    started = time.perf_counter()
    torch.mm(matrix, matrix)
    _wait(matrix.device)
    return max(time.perf_counter() - started, 1e-9)


def _wait(device: torch.device) -> None:
    """An accelerator answers before it has computed."""
    if device.type == "cuda":
        torch.cuda.synchronize(device)
    elif device.type == "mps":
        torch.mps.synchronize()


def peak_memory(device: torch.device) -> float:
    """Bytes: on CUDA the most that tensors of this stage held at once, elsewhere the process's largest resident set."""
    if device.type == "cuda":
        return float(torch.cuda.max_memory_allocated(device))
    try:
        import resource
    except ImportError:  # Windows
        return float("nan")
    largest = resource.getrusage(resource.RUSAGE_SELF).ru_maxrss
    return float(largest if sys.platform == "darwin" else 1024 * largest)  # macOS counts bytes, Linux kilobytes
