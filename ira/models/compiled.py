"""A model in, the same model out whose step of decoding, or whose layers, are machine code made for them.

torch.compile fuses what lies between the products, which stay what they are. The first steps take a minute or so.
"""

from __future__ import annotations

import shutil
from collections.abc import Iterable
from typing import Any, cast

import torch
from torch import nn

from ira.errors import InputError
from ira.models.recorded import cuda_graph, with_recorded_step
from ira.models.speech_lm import SpeechLM

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
        cast(Any, model).step_at = torch.compile(model.step_at, dynamic=True)
        return with_recorded_step(model, cuda_graph(device))
    model.cached_as = torch.bfloat16  # half the bytes; translated, attention reads them at memory's rate
    # Steps differ in how much they look back on: one translation for all of them.
    cast(Any, model).step = torch.compile(model.step, dynamic=True)
    return model


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
