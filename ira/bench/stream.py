"""A pipeline in; how soon it speaks, how evenly, and how soon it replies to a question, out.

Beside the stream stands the same text said whole, of which nothing is heard before the end.
"""

from __future__ import annotations

import importlib.util
import time
from collections.abc import Callable, Iterable
from dataclasses import dataclass, replace

from torch import Tensor

from ira.bench.sizes import Sizes
from ira.bench.timing import Figures, spread
from ira.errors import InputError
from ira.evaluation.judges import open_recogniser, recognise
from ira.inference.answering import answer_bits
from ira.inference.pipeline import Pipeline
from ira.models.audio_llm import PromptItem
from ira.models.llm import lora_off
from ira.models.native.build import has_compiler
from ira.models.rounded import bits_here

ANSWER_TOKENS = 24


@dataclass(frozen=True)
class Heard:
    """When each part came, in seconds from the beginning, and how many seconds of sound it holds."""

    came: list[float]
    lasts: list[float]

    @property
    def gaps(self) -> list[float]:
        """Seconds between one part and the next."""
        return [after - before for before, after in zip(self.came, self.came[1:], strict=False)]

    @property
    def silence(self) -> float:
        """Seconds that a player which starts at the first part has nothing to play."""
        runs_out, waited = self.came[0], 0.0
        for came, lasts in zip(self.came, self.lasts, strict=True):
            waited += max(came - runs_out, 0.0)
            runs_out = max(came, runs_out) + lasts
        return waited


def measure_speaking(pipeline: Pipeline, sizes: Sizes) -> Figures:
    """First sound, gaps and real-time factor of `speak_stream`, in turns with the same text said whole."""
    rate, streams, whole, factors = pipeline.parts.codec.sample_rate, [], [], []
    for turn in range(sizes.repeats + 1):  # the first one warms up
        started = time.perf_counter()
        heard = hear(pipeline.speak_stream(sizes.text), rate, started)
        started = time.perf_counter()
        spoken = pipeline.speak(sizes.text)
        took = time.perf_counter() - started
        if turn:
            streams.append(heard)
            whole.append(took)
            factors.append(took / (spoken.waveform.shape[-1] / rate))
    return _speaking(streams) | {"whole_seconds": spread(whole), "whole_real_time_factor": spread(factors)}


def _speaking(streams: list[Heard]) -> Figures:
    gaps = [gap for heard in streams for gap in heard.gaps]
    return {
        "first_sound_seconds": spread([heard.came[0] for heard in streams]),
        "gap_seconds": spread(gaps) if gaps else None,
        "longest_gap_seconds": max(gaps, default=None),
        "player_waits_seconds": spread([heard.silence for heard in streams]),
        "real_time_factor": spread([heard.came[-1] / sum(heard.lasts) for heard in streams]),
        "sound_seconds": spread([sum(heard.lasts) for heard in streams]),
    }


def measure_replying(pipelines: dict[str, Pipeline], sizes: Sizes) -> Figures:
    """From the end of a spoken question to the first bit of its answer, to the whole, and to its first sound.

    pipelines: by what stands before the names of their figures; "" is the one at hand.

    Beside them a cascade: a recogniser writes the question down, and the LLM without LoRA reads it. None where its
    package is not installed, or where the answer holds nothing that can be spoken (`unspoken` says how often).
    """
    pipeline = pipelines[""]
    question, rate = pipeline.speak(sizes.question).waveform, pipeline.parts.codec.sample_rate
    took: dict[str, list[float | None]] = {}
    cascade = _cascade(pipeline)
    for turn in range(sizes.repeats + 1):
        found = {f"{kind}{name}": s for kind, one in pipelines.items() for name, s in _replied(one, question).items()}
        found["cascade_first_token_seconds"] = cascade(question) if cascade else None
        for name, seconds in found.items() if turn else ():
            took.setdefault(name, []).append(seconds)
    figures: Figures = {"question_seconds": question.shape[-1] / rate}
    for name, values in took.items():
        known = [value for value in values if value is not None]
        figures[name] = spread(known) if known else None
    return figures | {"unspoken": took["first_sound_of_reply_seconds"].count(None)}


def quicker(pipeline: Pipeline) -> dict[str, Pipeline]:
    """`fp16_`: the same model with weights of 16 bits; `compiled_`: also a compiled step; where they can be had."""
    if pipeline.parts.device.type != "cpu" or 16 not in bits_here():
        return {}
    found = {"fp16_": replace(pipeline.parts, bits=16)}
    if has_compiler():
        found["compiled_"] = replace(found["fp16_"], compiled=True)
    return {name: Pipeline(parts, pipeline.sampling) for name, parts in found.items()}


def _replied(pipeline: Pipeline, question: Tensor) -> dict[str, float | None]:
    return _answered(pipeline, question) | {"first_sound_of_reply_seconds": _first_sound(pipeline, question)}


def _answered(pipeline: Pipeline, question: Tensor) -> dict[str, float | None]:
    """Seconds to the first bit of the answer and to its end."""
    started = time.perf_counter()
    bits = pipeline.listen_stream(question, max_new_tokens=ANSWER_TOKENS)
    next(bits, None)
    first = time.perf_counter() - started
    list(bits)
    return {"first_token_seconds": first, "answer_seconds": time.perf_counter() - started}


def _first_sound(pipeline: Pipeline, question: Tensor) -> float | None:
    """Seconds at which the first part of the spoken answer is there."""
    started = time.perf_counter()
    try:
        answer = pipeline.listen_stream(question, max_new_tokens=ANSWER_TOKENS)
        next(pipeline.speak_stream(answer, strict=False))
    except (InputError, StopIteration):
        return None
    return time.perf_counter() - started


def _cascade(pipeline: Pipeline) -> Callable[[Tensor], float] | None:
    """What takes the seconds from a sound to the first bit of what the LLM answers to the words that are heard."""
    if not importlib.util.find_spec("pocketsphinx"):
        return None
    recogniser, model = open_recogniser(), pipeline.parts.audio_llm
    with lora_off(model.llm):
        opening = model.opening()

    def seconds(question: Tensor) -> float:
        started = time.perf_counter()
        item = PromptItem([{"role": "user", "content": recognise(recogniser, question) or "..."}])
        with lora_off(model.llm):
            next(answer_bits(model, item, ANSWER_TOKENS, opening.copy()), None)
        return time.perf_counter() - started

    return seconds


def hear(parts: Iterable[Tensor], rate: int, started: float) -> Heard:
    """Take every part [1, n] as it comes; one part of no length where none came."""
    found = [(time.perf_counter() - started, part.shape[-1] / rate) for part in parts]
    found = found or [(time.perf_counter() - started, 1 / rate)]
    return Heard([came for came, _ in found], [lasts for _, lasts in found])
