"""What torch.compile makes of a step draws what the plain one draws; compiled layers learn what plain ones do."""

from __future__ import annotations

import copy

import pytest
import torch
from torch import nn
from torch._dynamo.utils import counters

from ira.config import SpeechConfig
from ira.models import compiled
from ira.models.compiled import compile_layers
from ira.models.decode import generate
from ira.models.native.build import has_compiler
from ira.models.recorded import with_recorded_step
from ira.models.sampling import Sampling
from ira.models.speech_lm import SpeechLM

needs_compiler = pytest.mark.skipif(not has_compiler(), reason="needs a C++ compiler")


def speech_lm(window: int | None = 8, seed: int = 0) -> SpeechLM:
    torch.manual_seed(seed)
    config = SpeechConfig(layers=1, width=32, heads=2, max_steps=64, text_layers=1, longest_stay=4, window=window)
    return SpeechLM(config, codebooks=2, codebook_size=11, text_vocab=20, voice_dim=6, languages=["en"]).eval()


def translated() -> int:
    """Graphs that torch.compile has made so far."""
    return counters["stats"]["unique_graphs"]


@needs_compiler
@torch.no_grad()
def test_a_translated_step_draws_the_same_codes_and_is_translated_once_for_two_rows_and_more():
    plain = speech_lm()
    fast = copy.deepcopy(plain)
    fast.step_at = compiled._translated(fast.step_at)
    fast = with_recorded_step(fast, lambda run: run)  # as on a GPU, where the run is recorded
    before = translated()
    for rows, guided in ((1, True), (2, True), (4, False)):
        voice = nn.functional.normalize(torch.ones(rows, 6), dim=-1)
        text, lengths = torch.arange(1, 8).expand(rows, 7), torch.full((rows,), 7)
        memory = plain.condition(text, lengths, voice, torch.zeros(rows, dtype=torch.long))
        untold = plain.condition(None, None, None, batch=rows) if guided else None
        bounds = torch.full((rows,), 24)
        made = [generate(each, memory, untold, bounds, list(range(rows)), Sampling()) for each in (plain, fast)]
        assert int(made[0].frames.max()) > 9  # the window was full
        assert torch.equal(made[0].codes, made[1].codes)
    assert translated() == before + 1


@needs_compiler
def test_compiled_layers_learn_the_same_from_batches_of_several_sizes():
    plain = speech_lm(window=None)
    fast, before = copy.deepcopy(plain), translated()
    compile_layers(fast.layers, torch.device("cpu"))
    assert fast.state_dict().keys() == plain.state_dict().keys()
    for size in (9, 5):
        for model in (plain, fast):
            codes = torch.randint(11, (2, 2, size), generator=torch.Generator().manual_seed(size))
            memory = model.condition(None, None, None, batch=2)
            out = model(codes, torch.tensor([size, size]), memory)
            (out.logits.square().mean() + out.advance.square().mean()).backward()
    assert translated() > before
    for (name, one), other in zip(plain.named_parameters(), fast.parameters(), strict=True):
        if one.grad is not None:
            torch.testing.assert_close(other.grad, one.grad, atol=1e-5, rtol=1e-4, msg=name)
