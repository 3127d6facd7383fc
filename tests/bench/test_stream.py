from __future__ import annotations

import importlib.util
import time
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path

import pytest
import torch
from torch import Tensor

from ira.bench import stream
from ira.bench.sizes import QUICK
from ira.bench.stream import Heard, hear, measure_replying
from ira.bench.timing import Spread
from ira.inference.pipeline import Pipeline
from ira.models.llm import LanguageModel
from ira.models.native.build import has_compiler
from ira.models.rounded import Fp16Linear, bits_here


def test_gaps_and_silence_by_hand():
    heard = Heard(came=[1.0, 2.0, 5.0, 5.5], lasts=[2.0, 1.0, 1.0, 0.5])
    assert heard.gaps == [1.0, 3.0, 0.5]
    assert heard.silence == 1.0  # the first two last until 4


def test_parts_are_timed_as_they_come():
    def parts() -> Iterator[Tensor]:
        yield torch.zeros(1, 100)
        time.sleep(0.05)
        yield torch.zeros(1, 50)

    heard = hear(parts(), 100, time.perf_counter())
    assert heard.lasts == [1.0, 0.5]
    assert heard.gaps[0] == pytest.approx(0.05, abs=0.04) and heard.came[0] < 0.04


@pytest.fixture
def pipeline(tiny_model_folder: Path) -> Pipeline:
    return Pipeline.from_folder(tiny_model_folder, "cpu")


def test_the_first_bit_of_an_answer_is_timed_before_its_end_and_without_a_recogniser_no_cascade(pipeline, monkeypatch):
    monkeypatch.setattr(importlib.util, "find_spec", lambda name: None)
    figures = measure_replying({"": pipeline}, QUICK)
    first, whole = figures["first_token_seconds"], figures["answer_seconds"]
    assert isinstance(first, Spread) and isinstance(whole, Spread) and 0 < first.median < whole.median
    assert figures["cascade_first_token_seconds"] is None
    assert (figures["first_sound_of_reply_seconds"] is None) == (figures["unspoken"] == QUICK.repeats)


def test_the_cascade_is_asked_what_was_recognised_and_that_without_lora(pipeline, monkeypatch):
    asked, off, answer_bits = [], [], stream.answer_bits

    @contextmanager
    def lora_off(llm: LanguageModel) -> Iterator[None]:
        off.append(llm)
        yield
        off.pop()

    def told(model, item, limit, past):
        asked.append((item.messages[0]["content"], off == [pipeline.parts.audio_llm.llm]))
        return answer_bits(model, item, limit, past)

    monkeypatch.setattr(stream, "answer_bits", told)
    monkeypatch.setattr(stream, "lora_off", lora_off)
    monkeypatch.setattr(importlib.util, "find_spec", lambda name: name)
    monkeypatch.setattr(stream, "open_recogniser", lambda: None)
    monkeypatch.setattr(stream, "recognise", lambda recogniser, sound: "what is one")
    figures = measure_replying({"": pipeline}, QUICK)
    assert isinstance(figures["cascade_first_token_seconds"], Spread)
    assert set(asked) == {("what is one", True)}


@pytest.mark.skipif(16 not in bits_here(), reason="needs a torch with FBGEMM")
def test_the_reply_is_also_timed_with_rounded_weights(pipeline):
    small = stream.quicker(pipeline)
    assert ("compiled_" in small) == has_compiler()
    figures = measure_replying({"": pipeline, **small}, QUICK)
    assert all(isinstance(figures[f"{kind}first_sound_of_reply_seconds"], Spread) for kind in small)
    assert any(isinstance(child, Fp16Linear) for child in small["fp16_"].parts.audio_llm.language.modules())


def test_the_reply_is_timed_to_its_first_sound_while_the_answer_is_still_found(pipeline, monkeypatch):
    read: list[str] = []

    def answer(*_: object, **__: object) -> Iterator[str]:
        for word in "The first sentence is longer than sixty characters, and so it is alone. ".split() * 4:
            read.append(word)
            yield f"{word} "

    monkeypatch.setattr(pipeline, "listen_stream", answer)
    assert stream._first_sound(pipeline, torch.zeros(1, 100)) is not None
    assert len(read) < 4 * 13
    monkeypatch.setattr(pipeline, "listen_stream", lambda *_, **__: iter(["...", " ?"]))
    assert stream._first_sound(pipeline, torch.zeros(1, 100)) is None
