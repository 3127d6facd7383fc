"""A model in, the same model out whose step of decoding, or whose layers, are machine code made for them.

torch.compile fuses what lies between the products, which stay what they are; its first steps take a minute or so.
"""

from __future__ import annotations

from collections.abc import Callable, Iterable
from typing import Any, cast

import torch
from torch import nn
from torch.fx.experimental import _config as shapes

from ira.models.native.build import compiler
from ira.models.native.step import CORES, with_native_step
from ira.models.recorded import Made, cuda_graph, with_recorded_step
from ira.models.speech_lm import SpeechLM


def with_compiled_step(model: SpeechLM, bits: int | None = None, threads: int = CORES) -> SpeechLM:
    """`model` itself: on a CPU its step in one piece (`native`), with weights of 16, 8 or 4 bits; on an NVIDIA GPU
    translated by torch and a CUDA graph for each decoding.

    What is drawn may differ where two codes are nearly as likely: sums are rounded in another order. A copy of it would
    run the original: copy before. Weights are taken as they are: round those of `model` afterwards.

    Raises:
        InputError: there is no C++ compiler, which a CPU needs.
    """
    device = model.null_text.device
    if device.type == "cpu":
        return with_native_step(model, bits or 32, threads)
    cast(Any, model).step_at = _translated(model.step_at)
    record = cuda_graph(device) if device.type == "cuda" else lambda run: run
    return with_recorded_step(model, record)  # also where nothing records: sizes then stay the same from step to step


def _translated(step_at: Callable[..., Made]) -> Callable[..., Made]:
    """One translation for any number of rows from two on, and another for one."""
    translated = torch.compile(step_at, dynamic=True)

    def run(*given: Any) -> Made:
        # Else sizes that are equal by chance, as rows and codebooks may be, would have to be so ever after.
        with cast(Any, shapes).patch(use_duck_shape=False):
            return translated(*given)

    return run


def compile_layers(layers: Iterable[nn.Module], device: torch.device) -> None:
    """Each of these apart, so that alike layers share a translation, and batches of any size do.

    Raises:
        InputError: as above.
    """
    if device.type == "cpu":
        compiler()
    for layer in layers:
        layer.compile(dynamic=True)
