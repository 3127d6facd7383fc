"""A compiled step draws what the plain one draws."""

from __future__ import annotations

import copy
import shutil

import pytest
import torch
from torch import nn
from torch._dynamo.utils import counters

from ira.config import SpeechConfig
from ira.errors import InputError
from ira.models import compiled
from ira.models.compiled import COMPILERS, compile_layers, with_compiled_step
from ira.models.decode import generate
from ira.models.rounded import bits_here, with_rounded_weights
from ira.models.sampling import Sampling
from ira.models.speech_lm import SpeechLM


def speech_lm(window: int | None = 8, seed: int = 0) -> SpeechLM:
    torch.manual_seed(seed)
    config = SpeechConfig(layers=1, width=32, heads=2, max_steps=64, text_layers=1, longest_stay=4, window=window)
    return SpeechLM(config, codebooks=2, codebook_size=11, text_vocab=20, voice_dim=6, languages=["en"]).eval()


def translated() -> int:
    """Graphs that torch.compile has made so far."""
    return counters["stats"]["unique_graphs"]


@pytest.mark.skipif(not any(map(shutil.which, COMPILERS)), reason="needs a C++ compiler")
@pytest.mark.parametrize("bits", [bits for bits in bits_here() if bits != 8])
def test_a_compiled_step_draws_the_same_codes_past_its_window(bits):
    model = with_rounded_weights(speech_lm(), bits)
    voice = nn.functional.normalize(torch.ones(1, 6), dim=-1)
    memory = model.condition(torch.arange(1, 8).view(1, 7), torch.tensor([7]), voice, torch.tensor([0]))
    calls, before = [], translated()
    fast = with_compiled_step(copy.deepcopy(model))
    step = fast.step
    object.__setattr__(fast, "step", lambda *given: (calls.append(1), step(*given))[1])
    made = [generate(each, memory, None, torch.tensor([24]), [3], Sampling()) for each in (model, fast)]
    assert int(made[0].frames[0]) > 8 and len(calls) > 8
    assert torch.equal(made[0].codes, made[1].codes)
    assert translated() > before


@pytest.mark.skipif(not any(map(shutil.which, COMPILERS)), reason="needs a C++ compiler")
@torch.no_grad()  # as the product does: in inference mode a view is no view to torch.compile
def test_one_translation_serves_every_step_and_any_number_of_rows_from_two_on():
    fast, before, frames = with_compiled_step(speech_lm()), translated(), []
    for rows, guided in ((1, True), (2, True), (4, True), (4, False)):
        voice = nn.functional.normalize(torch.ones(rows, 6), dim=-1)
        text, lengths = torch.arange(1, 8).expand(rows, 7), torch.full((rows,), 7)
        memory = fast.condition(text, lengths, voice, torch.zeros(rows, dtype=torch.long))
        untold = fast.condition(None, None, None, batch=rows)
        bounds = torch.tensor([24, 24, 9, 9][:rows])  # of four rows two leave the batch on the way
        made = generate(fast, memory, untold if guided else None, bounds, list(range(rows)), Sampling())
        frames.append(int(made.frames.max()))
    assert min(frames) > 9  # the window was full, and steps were left when two of four rows had ended
    assert translated() == before + 1


@pytest.mark.skipif(not any(map(shutil.which, COMPILERS)), reason="needs a C++ compiler")
@torch.no_grad()
def test_models_of_the_same_sizes_have_each_a_translation_of_their_own():
    before = translated()
    plain = [with_rounded_weights(speech_lm(seed=seed), bits_here()[0]) for seed in (0, 1)]
    fast = [with_compiled_step(copy.deepcopy(model)) for model in plain]
    made = []
    for model in (*plain, *fast):
        memory = model.condition(None, None, None, batch=3)
        made.append(generate(model, memory, None, torch.tensor([12, 12, 12]), [3, 4, 5], Sampling()).codes)
    assert not torch.equal(made[0], made[1])
    assert torch.equal(made[0], made[2]) and torch.equal(made[1], made[3])
    assert translated() >= before + 2


@pytest.mark.skipif(not any(map(shutil.which, COMPILERS)), reason="needs a C++ compiler")
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


def test_without_a_compiler_it_says_so(monkeypatch):
    monkeypatch.setattr(compiled.shutil, "which", lambda name: None)
    with pytest.raises(InputError, match=r"nothing to compile with; install one of g\+\+, clang\+\+, c\+\+"):
        with_compiled_step(speech_lm())
