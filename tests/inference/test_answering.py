"""An answer in bits is the answer whole, and each bit comes as soon as it is known."""

from __future__ import annotations

from itertools import islice
from pathlib import Path

import pytest
import torch

from ira.errors import InputError
from ira.inference.answering import answer_bits
from ira.inference.pipeline import Pipeline
from ira.models.audio_llm import AudioLLM, PromptItem

SOUND = torch.sin(torch.arange(24_000) / 20)[None]


@pytest.fixture(scope="module")
def pipeline(tiny_model_folder: Path) -> Pipeline:
    return Pipeline.from_folder(tiny_model_folder, "cpu")


@pytest.mark.parametrize("prompt", ["what is said?", "again", "who speaks?"])
def test_the_bits_joined_are_the_answer(pipeline, prompt):
    bits = list(pipeline.listen_stream(SOUND, prompt, 12))
    assert "".join(bits) == pipeline.listen(SOUND, prompt, 12) and all(bits)
    assert len(bits) > 1


def test_a_bit_is_there_before_the_next_token_is_computed(pipeline, monkeypatch):
    steps, compute = [], AudioLLM._next_logits

    def counted(self, *given):
        steps.append(1)
        return compute(self, *given)

    monkeypatch.setattr(AudioLLM, "_next_logits", counted)
    bits = pipeline.listen_stream(SOUND, "what is said?", 12)
    assert not steps
    next(bits)
    assert len(steps) <= 3  # the first tokens may be blanks
    bits.close()
    assert len(steps) <= 3


@pytest.mark.parametrize("written", ["naïve café", "日本語", " two  blanks ", "\U0001f600 smile", ""])
def test_no_bit_ends_within_a_character_and_blanks_at_the_ends_fall_away(pipeline, monkeypatch, written):
    llm = pipeline.parts.audio_llm.llm
    ids = [*llm.tokenizer.encode(written, add_special_tokens=False), *llm.eos_ids]
    monkeypatch.setattr(AudioLLM, "draws", lambda self, items, past=None: iter(torch.tensor([[i] for i in ids])))
    bits = list(answer_bits(pipeline.parts.audio_llm, PromptItem([]), 40))
    assert "".join(bits) == written.strip() and not any("\ufffd" in bit for bit in bits)


def test_no_more_tokens_than_wanted_and_what_cannot_be_heard_is_refused(pipeline):
    model = pipeline.parts.audio_llm
    item = PromptItem([{"role": "user", "content": "what?"}])
    assert len(list(islice(model.draws([item]), 3))) == 3
    assert "".join(pipeline.listen_stream(None, "what?", 1)) == pipeline.listen(None, "what?", 1)
    with pytest.raises(InputError, match="neither a sound nor a prompt"):
        pipeline.listen_stream(None, " ")
