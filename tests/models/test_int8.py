"""Weights of one byte: close to what they were rounded from, a row never depends on its neighbours."""

from __future__ import annotations

import copy
import math

import pytest
import torch
from torch import nn

from ira.config import SpeechConfig
from ira.models.decode import generate
from ira.models.int8 import Int8Linear, with_int8_weights
from ira.models.sampling import Sampling
from ira.models.speech_lm import SpeechLM


@pytest.fixture
def model() -> SpeechLM:
    torch.manual_seed(5)
    config = SpeechConfig(layers=2, width=32, heads=4, max_steps=64, text_layers=1, longest_stay=4)
    return SpeechLM(config, codebooks=3, codebook_size=11, text_vocab=20, voice_dim=6, languages=["en"]).eval()


@pytest.mark.parametrize("outputs", [1, 12, 33, 64])
@pytest.mark.parametrize("bias", [True, False])
def test_a_product_is_that_of_weights_rounded_by_half_a_step_at_most(outputs, bias):
    torch.manual_seed(0)
    linear = nn.Linear(96, outputs, bias=bias)
    linear.weight.data[0] *= 100  # one loud output must not cost the others their precision
    small = Int8Linear(linear)
    meant = small.weight.float() * small.scale.float()[:, None]
    steps = (meant - linear.weight).abs() / small.scale.float()[:, None]
    assert steps.max() <= 0.51 + 127 * 2**-9 and steps.mean() < 0.3  # a scale in bf16 is off by 1 in 512
    x = torch.randn(2, 5, 96).bfloat16().float()
    wanted = x @ meant.T + (linear.bias if bias else 0)
    assert ((small(x) - wanted).norm() / wanted.norm()) < 0.005


def test_an_output_whose_weights_are_all_zero_stays_zero():
    linear = nn.Linear(32, 3, bias=False)
    linear.weight.data[1] = 0
    assert torch.equal(Int8Linear(linear)(torch.ones(1, 32))[:, 1], torch.zeros(1))


def test_a_width_that_the_kernel_would_read_past_is_refused():
    with pytest.raises(ValueError, match="24 inputs; int8 weights are for multiples of 32"):
        Int8Linear(nn.Linear(24, 4))


@pytest.mark.parametrize("dtype", [torch.float32, torch.bfloat16])
def test_a_row_does_not_depend_on_how_many_are_beside_it(dtype):
    torch.manual_seed(0)
    layer, x = Int8Linear(nn.Linear(64, 48)), torch.randn(17, 64).to(dtype)
    together = layer(x)
    assert together.dtype == dtype
    assert all(torch.equal(together[i : i + 1], layer(x[i : i + 1])) for i in range(17))


def test_decoder_layers_and_heads_are_rounded_and_encoders_are_not(model):
    floats = {name for name, child in with_int8_weights(model).named_modules() if type(child) is nn.Linear}
    assert not any(name.startswith(("layers.", "heads")) for name in floats)
    assert {"advance", "voice_in", "told_in"} < floats
    assert len([child for child in model.modules() if isinstance(child, Int8Linear)]) == 2 * 11 + 1


def test_what_is_said_next_is_nearly_as_likely_as_before(model):
    small = with_int8_weights(copy.deepcopy(model))
    text, lengths = torch.arange(1, 7).view(1, 6), torch.tensor([6])
    codes, frames = torch.randint(11, (1, 3, 20), generator=torch.Generator().manual_seed(1)), torch.tensor([20])
    voice = nn.functional.normalize(torch.ones(1, 6), dim=-1)
    logits = []
    for each in (model, small):
        memory = each.condition(text, lengths, voice, torch.tensor([0]))
        walk = torch.arange(20).view(1, 20) * 6 // 20
        logits.append(each(codes, frames, memory, walk).logits)
    change = (logits[0] - logits[1]).abs()
    assert 0 < change.max() < 0.05 * logits[0].abs().max()


def test_it_decodes(model):
    small = with_int8_weights(model)
    voice, language = torch.ones(1, 6) / math.sqrt(6), torch.tensor([0])
    memory = small.condition(torch.arange(1, 7).view(1, 6), torch.tensor([6]), voice, language)
    made = generate(small, memory, None, torch.tensor([12]), [0], Sampling())
    assert made.codes.shape[:2] == (1, 3) and 1 <= int(made.frames[0]) <= 12
