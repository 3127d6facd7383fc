"""A SpeechLM in, the same model whose step of decoding on a CPU is one call of machine code, out.

A step as torch runs it is some 300 operations, and what lies between its products takes as long as they do.
`step.cpp` is the same step in one piece, its weights in one stretch of memory in the order in which they are read. It
is compiled for this processor when it is first wanted and kept in IRA's cache. `SpeechLM.step` is its reference.
"""

from __future__ import annotations

import ctypes
import time
from collections.abc import Callable, Sequence
from math import inf
from statistics import median
from typing import Any, cast

import torch
from torch import Tensor
from torch.nn import functional as F

from ira.models.native.build import built
from ira.models.pointer import Pointer
from ira.models.recorded import Made
from ira.models.rounded import GROUP, in_4_bits, in_8_bits
from ira.models.speech_lm import DecoderLayer, DecodeState, SpeechLM

LINE = 64  # bytes that memory is read in
TRIAL_STEPS = 5  # of each number of threads
TRIAL_EVERY = 250  # steps: other work may come and go
POWERS = 2, 4, 8, 16, 32
CORES = torch.get_num_threads()  # now: later something may hold torch to fewer for a while

INT, FLOAT, POINTER = ctypes.c_int32, ctypes.c_float, ctypes.c_void_p


class Matrix(ctypes.Structure):
    _fields_ = [("weights", POINTER), ("scales", POINTER), ("outputs", INT), ("padded", INT)]


class Layer(ctypes.Structure):
    MATRICES = "qkv", "o", "cross_q", "cross_o", "both", "down"
    NORMS = "norm", "cross_norm", "feed_norm"
    _fields_ = [(name, Matrix) for name in MATRICES] + [(name, POINTER) for name in NORMS]


class Model(ctypes.Structure):
    NUMBERS = "layers", "width", "heads", "hidden", "books", "codes", "tokens", "longest_stay"
    TABLES = "norm", "advance", "stay", "embed", "cos", "sin"
    _fields_ = [
        *((name, INT) for name in NUMBERS),
        *((name, FLOAT) for name in ("eps", "pointer_width", "advance_bias")),
        ("layer", ctypes.POINTER(Layer)),
        ("out", Matrix),
        *((name, POINTER) for name in TABLES),
    ]


class State(ctypes.Structure):
    _fields_ = [
        *((name, INT) for name in ("rows", "places", "memory")),
        *((name, POINTER) for name in ("keys", "values", "cross_keys", "cross_values", "told", "voice", "mask")),
    ]


class Stretch:
    """Tensors, one after the other in one stretch of memory.

    `at` of what `add` returned is its address, once `lay` was called.
    """

    def __init__(self) -> None:
        self.parts: list[Tensor] = []
        self.places: list[int] = []
        self.size = 0

    def add(self, part: Tensor) -> int:
        """Its number."""
        self.parts.append(part)
        self.places.append(self.size)
        self.size += -(-part.nbytes // LINE) * LINE
        return len(self.parts) - 1

    def lay(self) -> None:
        self.memory = torch.empty(max(self.size, 1), dtype=torch.uint8)
        for place, part in zip(self.places, self.parts, strict=True):
            self.memory[place : place + part.nbytes] = part.contiguous().view(-1).view(torch.uint8)
        self.parts.clear()

    def at(self, number: int) -> int:
        return self.memory.data_ptr() + self.places[number]


def packed(weight: Tensor, bits: int) -> tuple[Tensor, Tensor | None]:
    """[out, in] as `step.cpp` reads it, inputs padded with zeros to a multiple of 32, and its scales."""
    weight = F.pad(weight.detach().float(), (0, -weight.shape[1] % GROUP))
    if bits == 8:
        ints, scale = in_8_bits(weight)
        return ints, scale.float()
    if bits == 4:
        ints, scale = in_4_bits(weight)
        first, last = ints.to(torch.uint8).unflatten(1, (-1, 2, GROUP // 2)).unbind(2)
        return (first | last << 4).flatten(1), scale.float()
    return weight.half() if bits == 16 else weight, None


class NativeModel:
    """The weights of a SpeechLM's decoder, laid out for `step.cpp`."""

    def __init__(self, model: SpeechLM, bits: int, threads: int) -> None:
        self.code = built(bits)
        self.stretch, layers = Stretch(), cast(Sequence[DecoderLayer], model.layers)
        placed = [(self._matrices(layer, bits), self._norms(layer)) for layer in layers]
        out = self._matrix(model.heads.weight, bits)
        angles = model.angles(torch.arange(model.config.max_steps))
        embed = torch.stack([cast(Any, table).weight for table in model.embed])
        tables = [model.norm.weight, model.advance.weight, model.stay_embed.weight, embed, *angles]
        numbers = [self.stretch.add(table.detach().float()) for table in tables]
        self.stretch.lay()
        self.layers = (Layer * len(placed))(*(self._layer(*each) for each in placed))
        config, hidden = model.config, layers[0].feed.gate.out_features
        shape = config.layers, config.width, config.heads, hidden, model.codebooks, model.codebook_size + 1
        more = (
            embed.shape[1],
            config.longest_stay,
            model.norm.eps,
            config.pointer_width,
            float(model.advance.bias.detach()),
        )
        self.model = Model(*shape, *more, self.layers, self._told(out), *map(self.stretch.at, numbers))
        self.threads = Threads(threads)

    def _matrices(self, layer: DecoderLayer, bits: int) -> list[tuple[int, int | None, int, int]]:
        own, cross, feed = layer.attention, layer.cross_attention, layer.feed
        qkv = torch.cat([own.q.weight, own.k.weight, own.v.weight])
        both = torch.cat([feed.gate.weight, feed.up.weight])
        weights = qkv, own.o.weight, cross.q.weight, cross.o.weight, both, feed.down.weight
        return [self._matrix(weight, bits) for weight in weights]

    def _norms(self, layer: DecoderLayer) -> list[int]:
        norms = layer.attention_norm, layer.cross_norm, layer.feed_norm
        return [self.stretch.add(norm.weight.detach().float()) for norm in norms]

    def _matrix(self, weight: Tensor, bits: int) -> tuple[int, int | None, int, int]:
        """Numbers of its weights and scales, outputs, and inputs with their padding."""
        weights, scales = packed(weight, bits)
        inputs = weight.shape[1] + -weight.shape[1] % GROUP
        return self.stretch.add(weights), None if scales is None else self.stretch.add(scales), len(weight), inputs

    def _layer(self, matrices: list[tuple[int, int | None, int, int]], norms: list[int]) -> Layer:
        return Layer(*map(self._told, matrices), *map(self.stretch.at, norms))

    def _told(self, matrix: tuple[int, int | None, int, int]) -> Matrix:
        weights, scales, outputs, inputs = matrix
        return Matrix(self.stretch.at(weights), None if scales is None else self.stretch.at(scales), outputs, inputs)


class NativeStep:
    """Steps of one decoding, on its caches."""

    def __init__(self, native: NativeModel, state: DecodeState) -> None:
        self.native, self.caches = native, state.caches
        rows, _, self.places, _ = state.caches[0].keys.shape
        crossed = list(zip(*state.projected, strict=True))
        lists = [[c.keys for c in self.caches], [c.values for c in self.caches], *crossed]
        if any(not each.is_contiguous() or each.dtype != torch.bfloat16 for one in lists for each in one):
            raise ValueError("caches that are not contiguous bf16")
        told, voice, mask = state.told.float(), state.memory.vectors[:, 0].float(), state.memory.mask.bool()
        self.kept = lists, told.contiguous(), voice.contiguous(), mask.contiguous()
        self.pointers = [(POINTER * len(one))(*(each.data_ptr() for each in one)) for one in lists]
        tensors = [each.data_ptr() for each in self.kept[1:]]
        self.state = State(rows, self.places, mask.shape[1], *(ctypes.addressof(p) for p in self.pointers), *tensors)

    def __call__(self, tokens: Tensor, pointer: Pointer) -> Made:
        model, at = self.native.model, self.caches[0].length
        logits = torch.empty(len(tokens), model.books, model.codes)
        advance = torch.empty(len(tokens))
        if len(tokens) != self.state.rows:
            raise ValueError(f"tokens of {len(tokens)} rows for a decoding of {self.state.rows}")
        given = [each.long().contiguous() for each in (tokens, pointer.place, pointer.stay)]
        addresses = [each.data_ptr() for each in (*given, logits, advance)]
        threads, began = self.native.threads.pick(), time.perf_counter()
        self.native.code(ctypes.byref(model), ctypes.byref(self.state), at, threads, *addresses)
        self.native.threads.note(threads, time.perf_counter() - began)
        for cache in self.caches:
            cache.length += 1
        return logits, advance


class Threads:
    """How many threads take a step: each number is tried now and then, and the one that was quickest goes on.

    Where the cores are busy with something else, threads that wait for one another can be many times slower than one.
    Results do not depend on it.
    """

    def __init__(self, most: int) -> None:
        self.choices = sorted({1, most, *(n for n in POWERS if n < most)})
        self.took = {n: [0.0] for n in self.choices}
        self.step = 0

    def pick(self) -> int:
        trial = self.step % TRIAL_EVERY
        self.step += 1
        if trial == 0:
            self.took = {n: [] for n in self.choices}
        if trial < TRIAL_STEPS * len(self.choices):
            return self.choices[trial % len(self.choices)]
        return min(self.choices, key=lambda n: median(self.took[n] or [inf]))

    def note(self, threads: int, seconds: float) -> None:
        if len(self.took[threads]) < TRIAL_STEPS:
            self.took[threads].append(seconds)


def with_native_step(model: SpeechLM, bits: int, threads: int = CORES) -> SpeechLM:
    """`model` itself, its step in machine code with weights of 32, 16, 8 or 4 bits; matrices stay what they are.

    threads: at most; how many there are is found out by trial.

    What is drawn may differ where two codes are nearly as likely: sums are rounded in another order. A copy of it would
    run the original: copy before.

    Raises:
        InputError: there is no C++ compiler.
    """
    native = NativeModel(model, bits, threads)
    model.cached_as = torch.bfloat16  # half the bytes to read

    def step(tokens: Tensor, state: DecodeState, pointer: Pointer) -> Made:
        model.check_room(state.caches[0].length + 1)
        if state.recorded is None:
            state.recorded = NativeStep(native, state)
        return state.recorded(tokens, pointer)

    cast(Any, model).step = cast(Callable[[Tensor, DecodeState, Pointer], Made], step)
    return model
