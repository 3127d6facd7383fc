"""A model in, the same model out whose step of decoding, or whose layers, are machine code made for them.

torch.compile fuses what lies between the products, which stay what they are. The first steps take a minute or so.
"""

from __future__ import annotations

import shutil
from collections.abc import Callable, Iterable
from dataclasses import replace
from typing import Any, cast

import torch
from torch import Tensor, nn
from torch.fx.experimental import _config as shapes

from ira.errors import InputError
from ira.models.pointer import Pointer
from ira.models.recorded import Made, cuda_graph, with_recorded_step
from ira.models.speech_lm import DecodeState, SpeechLM

COMPILERS = ("g++", "clang++", "c++")


def with_compiled_step(model: SpeechLM) -> SpeechLM:
    """`model` itself, on an NVIDIA GPU with a CUDA graph for each decoding.

    What is drawn may differ where two codes are nearly as likely: sums are rounded in another order. A copy of it would
    run the original: copy before.

    Raises:
        InputError: there is no C++ compiler, which a CPU needs.
    """
    device = model.null_text.device
    check_compiler(device)
    if device.type == "cuda":
        cast(Any, model).step_at = _translated(model.step_at)
        return with_recorded_step(model, cuda_graph(device))
    model.cached_as = torch.bfloat16  # half the bytes; translated, attention reads them at memory's rate
    cast(Any, model).step = _on_a_cpu(model)
    return model


def _on_a_cpu(model: SpeechLM) -> Callable[[Tensor, DecodeState, Pointer], Made]:
    """`SpeechLM.step`, all that differs from step to step taken out of the translation, so that one serves for all.

    Angles too: in it, each place that a query looks at would have them computed anew.
    """
    first, step_at = model.step, _translated(model.step_at)

    def step(tokens: Tensor, state: DecodeState, pointer: Pointer) -> Made:
        at, places = state.caches[0].length, state.caches[0].keys.shape[2]
        if not at:  # the only one that looks at a single place, for which there would be a translation
            return first(tokens, state, pointer)
        model.check_room(at + 1)
        place, angles = torch.tensor([at % places]), model.angles(torch.tensor([at]))
        caches = [cache.for_one_step(place) for cache in state.caches]
        here = Pointer(pointer.place.clone(), pointer.stay.clone())  # of this mode: one of inference is another kind
        return step_at(tokens, replace(state, caches=caches), here, angles)

    return step


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
    check_compiler(device)
    for layer in layers:
        layer.compile(dynamic=True)


def check_compiler(device: torch.device) -> None:
    """InputError where nothing is installed to compile with."""
    if device.type == "cpu" and not any(map(shutil.which, COMPILERS)):
        raise InputError(f"nothing to compile with; install one of {', '.join(COMPILERS)}, or go without compiling")
