"""A SpeechLM in; milliseconds a frame of its decoding, beside MusicgenForCausalLM and what memory allows, out.

Both draw a code of every book from the likeliest, have as long a text before them and begin at the same frame. Weights
must be read once a step however few rows there are: bytes of weights and of the cache by the measured rate of memory
is a floor that no arrangement of the same numbers gets below.
"""

from __future__ import annotations

import copy

import torch
from torch import nn

from ira.bench.machine import read_rate
from ira.bench.peers import MusicgenLoop, musicgen
from ira.bench.sizes import TEXT, Sizes
from ira.bench.timing import MILLI, Figures, Timed, Work, in_turns, memory_figures
from ira.inference.speaking import cpu_threads
from ira.models.blocks import cache_dtype
from ira.models.compiled import with_compiled_step
from ira.models.decode import Decoding
from ira.models.rounded import AT_ONCE, GROUP, bits_here, with_rounded_weights
from ira.models.sampling import Sampling
from ira.models.speech_lm import Memory, SpeechLM

DTYPES = {"fp32": torch.float32, "bf16": torch.bfloat16}
BITS = {"fp16": 16, "int8": 8, "int4": 4}  # of weights; all else is fp32, as `--bits` has it
BYTES = {
    "fp32": 4.0,
    "bf16": 2.0,
    "fp16": 2.0,
    "int8": 1.0,
    "int4": 0.5 + 4 / GROUP,
}  # of a weight; int4 with the scale of each group
UNGUIDED, GUIDED = Sampling(guidance=1.0), Sampling()


def can_be_measured(precision: str, width: int, device: torch.device, compiled: bool) -> bool:
    """Whether a model of this width can have such weights there."""
    if (bits := BITS.get(precision)) is None:
        return not (compiled and precision == "bf16" and device.type == "cpu")  # machine code there has no bf16
    return device.type == "cpu" and bits in bits_here() and (bits == 16 or width % AT_ONCE == 0)


class OurLoop:
    """`Decoding` of rows of text and voice, brought to any frame."""

    def __init__(self, model: SpeechLM, rows: int, longest: int, sampling: Sampling) -> None:
        memory = text_memory(model, rows)
        untold = model.condition(None, None, None, batch=rows) if sampling.guidance != 1.0 else None
        bounds = torch.full((rows,), longest)
        self.decoding = Decoding(model, memory, untold, bounds, list(range(rows)), sampling)
        for cache in self.decoding.state.caches:  # pages that were never written are read from one and the same
            cache.keys.normal_()
            cache.values.normal_()
        self.fresh = copy.copy(self.decoding)
        self.walker = copy.copy(self.decoding.walker)

    @property
    def length(self) -> int:
        """Steps in the cache."""
        return self.decoding.state.caches[0].length

    def go_to(self, frame: int) -> None:
        """As if `frame` steps had been taken: what stands in the cache does not change how long a step takes."""
        self.decoding = copy.copy(self.fresh)
        self.decoding.walker = copy.copy(self.walker)
        self.decoding.step = frame
        for cache in self.decoding.state.caches:
            cache.length = frame

    def step(self) -> None:
        self.decoding.advance()


def measure_decode(model: SpeechLM, precision: str, rows: int, frame: int, sizes: Sizes) -> Figures:
    """One precision, batch and place: milliseconds a step, ours (also guided) beside the peer's, which is in
    bf16 where it has no such precision.

    `model` is turned into that precision itself.
    """
    device = model.null_text.device
    model = model.to(torch.float32 if precision in BITS else DTYPES[precision]).eval()
    longest = min(frame + sizes.steps + 1, model.config.max_steps - model.codebooks)
    first = longest - sizes.steps - 1
    peer = musicgen(model).to(DTYPES.get(precision, torch.bfloat16))
    weights = BYTES[precision] * weights_read(model)
    bits = BITS.get(precision)
    if sizes.compiled:
        torch.compiler.reset()  # it translates a function for a few models, and runs it as it is for others
        model = with_compiled_step(model, bits, torch.get_num_threads())
    elif bits is not None:
        model = with_rounded_weights(model, bits)
    with torch.no_grad():
        loops = {
            "ours": OurLoop(model, rows, longest, UNGUIDED),
            "musicgen": MusicgenLoop(peer, text_memory(model, rows).vectors.to(peer.dtype), UNGUIDED),
            "ours_guided": OurLoop(model, rows, longest, GUIDED),
        }
        own = 1 if sizes.compiled else None  # as `ira speak` has it: a compiled step has threads of its own
        works = {
            name: _work(loop, first, sizes.steps, None if name == "musicgen" else own) for name, loop in loops.items()
        }
        timed = in_turns(works, device, sizes.repeats)
    read = weights + rows * cache_read(model, first)
    floor = read / read_rate(device, sizes.read_bytes) * MILLI
    return _figures(timed, floor, sizes.steps)


def _work(loop: OurLoop | MusicgenLoop, frame: int, steps: int, threads: int | None) -> Work:
    """threads: of torch, at most; None: as many as it has."""

    def run() -> None:
        with cpu_threads(threads or torch.get_num_threads()):
            for _ in range(steps):
                loop.step()

    return Work(run, lambda: loop.go_to(frame))


def _figures(timed: dict[str, Timed], floor: float, steps: int) -> Figures:
    found: Figures = {f"{name}_ms": one.seconds.of(lambda s: s / steps * MILLI) for name, one in timed.items()}
    ours, theirs = timed["ours"].seconds.median, timed["musicgen"].seconds.median
    found |= {"floor_ms": floor, "share_of_limit": floor / (ours / steps * MILLI), "speedup": theirs / ours}
    return found | memory_figures(timed)


def text_memory(model: SpeechLM, rows: int) -> Memory:
    """Rows of one random text of 60 tokens in one random voice."""
    device, dtype = model.null_text.device, model.null_text.dtype
    generator = torch.Generator().manual_seed(0)
    text = torch.randint(1, model.text_vocab, (1, TEXT), generator=generator).expand(rows, -1).to(device)
    voice = nn.functional.normalize(torch.randn(1, model.voice_dim, generator=generator), dim=-1)
    lengths, language = torch.full((rows,), TEXT, device=device), torch.zeros(rows, dtype=torch.long, device=device)
    return model.condition(text, lengths, voice.expand(rows, -1).to(device, dtype), language)


def weights_read(model: SpeechLM) -> int:
    """Weights that a step needs; looked-up rows of embeddings are left out, and what is made of the memory once."""
    matrices = [weight for layer in model.layers for name, weight in layer.state_dict().items() if _each(name)]
    own = [weight for part in (model.heads, model.advance) for weight in part.state_dict().values()]
    return sum(weight.numel() for weight in [*matrices, *own])


def cache_read(model: SpeechLM, frame: int) -> int:
    """Bytes of the cache of a row that a step at `frame` reads."""
    each = (model.cached_as or cache_dtype(model.null_text)).itemsize
    seen = min(frame, model.config.window or frame)
    return 2 * seen * model.config.width * model.config.layers * each


def _each(name: str) -> bool:
    """Whether a layer's parameter is read at every step."""
    return not name.startswith(("cross_attention.k.", "cross_attention.v."))
