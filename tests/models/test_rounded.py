"""Weights of 16, 8 and 4 bits: close to what they were rounded from, a row never depends on its neighbours."""

from __future__ import annotations

import copy
import math

import pytest
import torch
from torch import nn

from ira.config import LLMConfig, SpeechConfig
from ira.errors import InputError
from ira.models import rounded
from ira.models.decode import generate
from ira.models.llm import load_llm, lora_off
from ira.models.rounded import (
    KINDS,
    Fp16Linear,
    Int4Linear,
    Int8Linear,
    best_scale,
    bits_here,
    with_rounded_llm,
    with_rounded_weights,
)
from ira.models.sampling import Sampling
from ira.models.speech_lm import SpeechLM

BITS = pytest.mark.parametrize("bits", bits_here())
FBGEMM = pytest.mark.skipif(16 not in bits_here(), reason="needs a torch with FBGEMM")


def speech_lm(width: int = 32) -> SpeechLM:
    torch.manual_seed(5)
    config = SpeechConfig(layers=2, width=width, heads=4, max_steps=64, text_layers=1, longest_stay=4)
    return SpeechLM(config, codebooks=3, codebook_size=11, text_vocab=20, voice_dim=6, languages=["en"]).eval()


def meant(small: nn.Module, weight: torch.Tensor) -> torch.Tensor:
    """The weights [out, in] that a rounded matrix stands for, by what it makes of unit vectors."""
    return small(torch.eye(weight.shape[1])).T


@pytest.mark.parametrize("outputs", [1, 12, 33, 64])
def test_an_int8_product_is_that_of_weights_rounded_by_half_a_step_at_most(outputs):
    torch.manual_seed(0)
    weight = torch.randn(outputs, 96)
    weight[0] *= 100  # one loud output must not cost the others their precision
    small = Int8Linear(weight)
    rounded = small.weight.float() * small.scale.float()[:, None]
    steps = (rounded - weight).abs() / small.scale.float()[:, None]
    assert steps.max() <= 0.51 + 127 * 2**-9 and steps.mean() < 0.3  # a scale in bf16 is off by 1 in 512
    x = torch.randn(2, 5, 96).bfloat16().float()
    wanted = x @ rounded.T
    assert ((small(x) - wanted).norm() / wanted.norm()) < 0.005


@pytest.mark.parametrize("outputs", [1, 12, 33, 64])
def test_an_int4_product_is_that_of_weights_rounded_within_their_group(outputs):
    torch.manual_seed(0)
    weight = torch.randn(outputs, 96)
    weight[0, :32] *= 100  # one loud group must not cost the others their precision
    small = Int4Linear(weight)
    rounded = meant(small, weight)
    groups, off = weight.unflatten(1, (-1, 32)), (rounded - weight).unflatten(1, (-1, 32))
    assert (off.norm(dim=-1) / groups.norm(dim=-1)).max() < 0.15
    assert all(len(group.unique()) <= 16 for group in rounded.unflatten(1, (-1, 32)).flatten(0, 1))
    x = torch.randn(2, 5, 96).bfloat16().float()
    assert ((small(x) - x @ rounded.T).norm() / (x @ rounded.T).norm()) < 0.01


@FBGEMM
@pytest.mark.parametrize("outputs", [1, 12, 33, 64])
def test_an_fp16_product_is_that_of_weights_in_fp16_and_inputs_in_fp32(outputs):
    torch.manual_seed(0)
    weight, x = torch.randn(outputs, 50), torch.randn(2, 5, 50)
    wanted = x.double() @ weight.half().double().T
    torch.testing.assert_close(Fp16Linear(weight)(x), wanted.float(), atol=1e-5, rtol=1e-5)


def test_where_fbgemm_is_not_16_bits_are_refused(monkeypatch):
    monkeypatch.setattr(rounded, "bits_here", lambda: [8, 4])
    with pytest.raises(InputError, match="weights of 16 bits; this CPU computes with 32, 8, 4"):
        with_rounded_weights(speech_lm(), 16)


def test_the_scale_of_a_group_does_less_harm_than_the_one_that_fits_its_largest_weight():
    torch.manual_seed(0)
    groups = torch.randn(200, 32)

    def harm(scale: torch.Tensor) -> torch.Tensor:
        steps = scale.float()[:, None]
        return ((groups / steps).round().clamp(-8, 7) * steps - groups).square().sum(-1)

    plain = (groups.abs().amax(-1) / 7).bfloat16()
    assert (harm(best_scale(groups)) <= harm(plain) * 1.05).all()
    assert harm(best_scale(groups)).mean() < 0.85 * harm(plain).mean()


@BITS
def test_an_output_whose_weights_are_all_zero_stays_zero(bits):
    weight = torch.randn(3, 32)
    weight[1] = 0
    assert torch.equal(KINDS[bits](weight)(torch.ones(1, 32))[:, 1], torch.zeros(1))


@pytest.mark.parametrize("bits", [8, 4])
def test_a_width_that_the_kernel_would_read_past_is_refused(bits):
    with pytest.raises(ValueError, match="24 inputs; rounded weights are for multiples of 32"):
        KINDS[bits](torch.ones(4, 24))
    with pytest.raises(InputError, match=f"weights of {bits} bits are for a width that is a multiple of 32, not 24"):
        with_rounded_weights(speech_lm(width=24), bits)


def test_other_bits_are_refused():
    with pytest.raises(InputError, match="weights of 3 bits; this CPU computes with .*8, 4"):
        with_rounded_weights(speech_lm(), 3)


@BITS
@pytest.mark.parametrize("dtype", [torch.float32, torch.bfloat16])
def test_a_row_does_not_depend_on_how_many_are_beside_it(bits, dtype):
    torch.manual_seed(0)
    layer, x = KINDS[bits](torch.randn(48, 64)), torch.randn(17, 64).to(dtype)
    together = layer(x)
    assert together.dtype == dtype
    assert all(torch.equal(together[i : i + 1], layer(x[i : i + 1])) for i in range(17))


@BITS
def test_decoder_layers_and_heads_are_rounded_and_encoders_are_not(bits):
    model = with_rounded_weights(speech_lm(), bits)
    floats = {name for name, child in model.named_modules() if type(child) is nn.Linear}
    assert not any(name.startswith(("layers.", "heads")) for name in floats)
    assert {"advance", "voice_in", "told_in"} < floats
    assert len([child for child in model.modules() if isinstance(child, KINDS[bits])]) == 2 * 8 + 1  # type: ignore[arg-type]


def test_what_is_said_next_is_nearly_as_likely_as_before():
    model = speech_lm()
    text, lengths = torch.arange(1, 7).view(1, 6), torch.tensor([6])
    codes, frames = torch.randint(11, (1, 3, 20), generator=torch.Generator().manual_seed(1)), torch.tensor([20])
    voice = nn.functional.normalize(torch.ones(1, 6), dim=-1)
    logits = []
    for each in (
        model,
        *(with_rounded_weights(copy.deepcopy(model), bits) for bits in (8, 4, *({16} & set(bits_here())))),
    ):
        memory = each.condition(text, lengths, voice, torch.tensor([0]))
        walk = torch.arange(20).view(1, 20) * 6 // 20
        logits.append(each(codes, frames, memory, walk).logits)
    of_8, of_4, *of_16 = ((logits[0] - other).norm() / logits[0].norm() for other in logits[1:])
    assert 0 < of_8 < 0.02 and of_8 < of_4 < 0.2 and all(0 < off < 1e-3 for off in of_16)


@BITS
def test_it_decodes_as_it_reads(bits):
    small = with_rounded_weights(speech_lm(), bits)
    voice, language = torch.ones(1, 6) / math.sqrt(6), torch.tensor([0])
    memory = small.condition(torch.arange(1, 7).view(1, 6), torch.tensor([6]), voice, language)
    made = generate(small, memory, None, torch.tensor([12]), [0], Sampling(temperature=0))
    frames = int(made.frames[0])
    read = small(made.codes[:, :, :frames], made.frames, memory, made.path[:, :frames]).logits
    assert torch.equal(read[0, 0, :frames, :11].argmax(-1), made.codes[0, 0, :frames])


@pytest.mark.parametrize(("bits", "most"), [(8, 0.06), pytest.param(16, 2e-3, marks=FBGEMM)])
@pytest.mark.parametrize("lora", [True, False])
def test_a_rounded_llm_reads_as_the_one_with_lora_that_it_came_from(tiny_llm_folder, lora, bits, most):
    llm = load_llm(LLMConfig(name=str(tiny_llm_folder)), "cpu", torch.float32, lora=lora)
    for name, weight in llm.model.named_parameters():
        if "lora_B" in name:
            torch.nn.init.normal_(weight, std=0.2)
    ids = torch.arange(5, 25)[None]
    with torch.no_grad():
        wanted = llm.model(input_ids=ids).logits
        with lora_off(llm):
            base = llm.model(input_ids=ids).logits
        small = with_rounded_llm(llm, bits)
        found = small.model(input_ids=ids).logits
    linears = {type(child) for child in small.model.modules() if child.__class__.__name__.endswith("Linear")}
    assert linears == {KINDS[bits]}
    off = (found - wanted).norm() / wanted.norm()
    assert 0 < off < most
    assert not lora or off < 0.1 * (base - wanted).norm() / wanted.norm()


def test_an_llm_with_biases_keeps_them(tiny_llm_folder):
    llm = load_llm(LLMConfig(name=str(tiny_llm_folder)), "cpu", torch.float32, lora=False)
    query = llm.model.model.layers[0].self_attn.q_proj
    query.bias = nn.Parameter(torch.randn(query.out_features))
    ids = torch.arange(5, 25)[None]
    with torch.no_grad():
        wanted = llm.model(input_ids=ids).logits
        found = with_rounded_llm(llm, 8).model(input_ids=ids).logits
    assert (found - wanted).norm() / wanted.norm() < 0.06
