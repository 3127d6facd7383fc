"""A suite's name and a model in; its measurements one after another, and a record of them, out."""

from __future__ import annotations

import copy
import itertools
import json
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from functools import partial
from pathlib import Path
from typing import Any

import torch

from ira.bench.codec import measure_codec
from ira.bench.decode import can_be_measured, measure_decode
from ira.bench.prepare import measure_prepare
from ira.bench.sizes import Sizes, seed_model
from ira.bench.stream import measure_replying, measure_speaking, quicker
from ira.bench.timing import MEGA, Figures, Spread, forget_peak, peak
from ira.bench.train import measure_train
from ira.checkpoint import write_aside
from ira.evaluation.report import commit
from ira.inference.pipeline import Pipeline
from ira.models.speech_lm import SpeechLM

SUITES = ("codec", "prepare", "decode", "train", "stream")
ONE_THREAD = ("prepare", "decode", "stream")  # as a worker has; many small products: threads that wait only cost


@dataclass(frozen=True)
class Case:
    """One measurement: its suite, what stands before the names of its figures, and how it is made."""

    suite: str
    name: str
    measure: Callable[[], Figures]


def cases(suite: str, pipeline: Pipeline, sizes: Sizes) -> list[Case]:
    """All of a suite, or of all suites."""
    listed = {
        "codec": [Case("codec", "", lambda: measure_codec(pipeline.parts.codec, sizes, pipeline.parts.device))],
        "prepare": [Case("prepare", "", lambda: measure_prepare(pipeline.parts.codec, sizes))],
        "decode": _decode(pipeline, sizes),
        "train": _train(pipeline, sizes),
        "stream": _stream(pipeline, sizes),
    }
    return [case for name in SUITES if suite in (name, "all") for case in listed[name]]


def _models(pipeline: Pipeline, sizes: Sizes) -> dict[str, Callable[[], SpeechLM]]:
    """The model at hand and the full-scale one, each made when it is needed and dropped afterwards."""
    return {
        "own": lambda: copy.deepcopy(pipeline.parts.speech_lm),
        "full": lambda: seed_model(sizes).to(pipeline.parts.device),
    }


def _decode(pipeline: Pipeline, sizes: Sizes) -> list[Case]:
    """Each size, precision and batch at the first place of the growth curve; alone also at the others."""
    shape = pipeline.parts.speech_lm
    room = {"own": shape.config.max_steps - shape.codebooks, "full": sizes.seed.max_steps - sizes.seed_books}
    width, found = {"own": shape.config.width, "full": sizes.seed.width}, []
    for size, make in _models(pipeline, sizes).items():
        for precision, rows, frame in itertools.product(sizes.precisions, sizes.batches, sizes.growth):
            if not can_be_measured(precision, width[size], pipeline.parts.device, sizes.compiled):
                continue
            if frame + sizes.steps < room[size] and (rows == 1 or frame == sizes.growth[0]):
                measure = partial(_decode_one, make, precision, rows, frame, sizes)
                found.append(Case("decode", f"{size}_{precision}_batch{rows}@{frame}/", measure))
    return found


def _decode_one(make: Callable[[], SpeechLM], precision: str, rows: int, frame: int, sizes: Sizes) -> Figures:
    return measure_decode(make(), precision, rows, frame, sizes)


def _stream(pipeline: Pipeline, sizes: Sizes) -> list[Case]:
    pipelines = {"": pipeline, **quicker(pipeline)}
    found = [Case("stream", name, partial(measure_speaking, one, sizes)) for name, one in pipelines.items()]
    return [*found, Case("stream", "", partial(measure_replying, pipelines, sizes))]


def _train(pipeline: Pipeline, sizes: Sizes) -> list[Case]:
    pairs = zip(_models(pipeline, sizes).items(), sizes.train, strict=True)
    return [
        Case("train", f"{size}_batch{rows}x{frames}/", partial(_train_one, make, rows, frames, sizes))
        for (size, make), (rows, frames) in pairs
    ]


def _train_one(make: Callable[[], SpeechLM], rows: int, frames: int, sizes: Sizes) -> Figures:
    return measure_train(make(), rows, frames, sizes)


def run(found: list[Case], threads: int | None, tell: Callable[[int, Case], None], several: bool) -> Figures:
    """Every case in turn; `tell` is called before each. With `several` suites the names begin with theirs.

    threads: on a CPU; None is what suits the suite. Besides the cases' own figures: threads used, and the largest
    resident set of the process in each suite.
    """
    figures: Figures = {}
    for suite, part in itertools.groupby(enumerate(found), key=lambda one: one[1].suite):
        forget_peak()
        with using_threads(threads or (1 if suite in ONE_THREAD else None)):
            made: Figures = {"threads": torch.get_num_threads()}
            for number, case in part:
                tell(number, case)
                made |= {f"{case.name}{name}": value for name, value in case.measure().items()}
        made["peak_mb"] = peak() / MEGA
        figures |= {f"{suite}/{name}" if several else name: value for name, value in made.items()}
    return figures


@contextmanager
def using_threads(count: int | None) -> Iterator[None]:
    """Inside, torch computes with `count` CPU threads (None: as many as before); afterwards as before."""
    before = torch.get_num_threads()
    torch.set_num_threads(count or before)
    try:
        yield
    finally:
        torch.set_num_threads(before)


def plain(figures: Figures) -> dict[str, float | int | None]:
    """Numbers alone: of a spread the median under its name, the quartiles under NAME_low and NAME_high."""
    found: dict[str, float | int | None] = {}
    for name, value in figures.items():
        if isinstance(value, Spread):
            found |= {name: value.median, f"{name}_low": value.low, f"{name}_high": value.high}
        else:
            found[name] = value
    return found


def shown(value: Spread | float | int | None) -> str:
    """A median with its quartiles, or a number, to four digits; a dash where there was nothing to measure."""
    if value is None:
        return "-"
    if isinstance(value, Spread):
        return f"{value.median:.4g} ({value.low:.4g} to {value.high:.4g})"
    return f"{value:.4g}" if isinstance(value, float) else str(value)


def write_record(
    path: Path, suite: str, model: str, device: torch.device, sizes: Sizes, machine: dict[str, Any], figures: Figures
) -> None:
    """The figures with what they belong to; a file that is there already is replaced at once or not at all."""
    record = {"suite": suite, "model": model, "device": str(device), "commit": commit(), "machine": machine}
    record |= {"quick": sizes.quick, "compiled": sizes.compiled, "repeats": sizes.repeats, "metrics": plain(figures)}
    with write_aside(path) as aside:
        aside.write_text(json.dumps(record, indent=1) + "\n", encoding="utf-8")
