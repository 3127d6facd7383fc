"""A SpeechLM in, the same model whose steps of decoding are recorded once and replayed, out.

On an NVIDIA GPU a step of one row is hundreds of small kernels, and starting each from Python takes longer than running
it; a CUDA graph starts all of them at once. A recorded step is the same kernels on the same memory each time, so what
changes is copied into fixed tensors before: the tokens, the pointer and the position.
"""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import replace
from typing import Any, cast

import torch
from torch import Tensor

from ira.models.pointer import Pointer
from ira.models.speech_lm import DecodeState, SpeechLM

Made = tuple[Tensor, Tensor]  # what `SpeechLM.step` returns
Record = Callable[[Callable[[], Made]], Callable[[], Made]]  # a run in, its replay out, which returns the same tensors

RUNS_BEFORE = 3  # what a kernel sets up when it first runs cannot be recorded


class RecordedStep:
    """Steps of one decoding. A call's result lies in the same memory as the last one's: use it before the next call."""

    def __init__(self, model: SpeechLM, state: DecodeState, tokens: Tensor, record: Record) -> None:
        # Another object on the same caches: with itself in reach, memory would wait for Python's collector of cycles.
        self.model, self.state = model, replace(state)
        # Runs before and during recording write where the first real step will overwrite them.
        self.tokens, self.at = tokens.clone(), torch.full((1,), state.caches[0].length, device=tokens.device)
        self.pointer = Pointer(*(torch.zeros_like(tokens[:, :1]) for _ in range(2)))
        self.places = torch.arange(state.caches[0].keys.shape[2], device=tokens.device)
        self.replay = record(self._run)

    def _run(self) -> Made:
        place = self.at % len(self.places)
        for cache in self.state.caches:
            cache.place = place
        angles, seen = self.model.angles(self.at), (self.places <= self.at)[None]
        return self.model.step_at(self.tokens, self.state, self.pointer, angles, seen)

    def __call__(self, tokens: Tensor, pointer: Pointer) -> Made:
        self.tokens.copy_(tokens)
        self.pointer.place.copy_(pointer.place)
        self.pointer.stay.copy_(pointer.stay)
        self.at.fill_(self.state.caches[0].length)
        for cache in self.state.caches:
            cache.length += 1
        return self.replay()


def with_recorded_step(model: SpeechLM, record: Record) -> SpeechLM:
    """`model` itself: the first step of a decoding is recorded, all of them are replayed.

    A copy of it would run the original: copy before.
    """

    def step(tokens: Tensor, state: DecodeState, pointer: Pointer) -> Made:
        model.check_room(state.caches[0].length + 1)
        if state.recorded is None:
            state.recorded = RecordedStep(model, state, tokens, record)
        return state.recorded(tokens, pointer)

    cast(Any, model).step = step
    return model


def cuda_graph(device: torch.device) -> Record:
    """Records what a run starts on that GPU (https://docs.pytorch.org/docs/stable/notes/cuda.html#cuda-graphs).

    All of it on one stream: each stream has a workspace of its own, which is never freed.
    """
    aside = torch.cuda.Stream(device)

    def record(run: Callable[[], Made]) -> Callable[[], Made]:
        graph = torch.cuda.CUDAGraph()
        with torch.cuda.device(device):
            aside.wait_stream(torch.cuda.current_stream())
            with torch.cuda.stream(aside):
                for _ in range(RUNS_BEFORE):
                    run()
            torch.cuda.current_stream().wait_stream(aside)
            with torch.cuda.graph(graph, stream=aside, capture_error_mode="thread_local"):
                made = run()
        return lambda: (graph.replay(), made)[1]

    return record
