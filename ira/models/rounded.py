"""A SpeechLM in, the same with its decoder's weights in two bytes, one or half of one out; an LLM's in two or one.

A step of decoding reads every weight once and does little with it, so bytes are time: an eighth of those of fp32 with 4
bits. Only weights are rounded, symmetrically, and laid out for the kernel that reads them; what flows between layers
keeps its precision, is brought to bf16 for a product with 8 or 4 bits, and products are added up in fp32. A row comes
out the same whichever rows are beside it. Projections of the same input are one matrix here: at a row at a time each
call costs as much as a part of the matrix.
"""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import replace
from typing import Any, cast

import torch
from torch import Tensor, nn
from torch.nn import functional as F

from ira.errors import InputError
from ira.models.blocks import Attention, SwiGLU
from ira.models.llm import LanguageModel
from ira.models.speech_lm import DecoderLayer, SpeechLM

AT_ONCE = 32  # inputs that the int8 kernel reads together; of other widths it would read past the end
GROUP = 32  # inputs of one int4 scale
IN_CACHE = 1024  # outputs whose scales are sought together: ten times as fast as all at once
ROWS = 16  # outputs that the int4 kernel computes together


class Packed:
    """weight [out, in] in fp16, in the order in which FBGEMM reads it: torch's own object, which cannot be copied.

    A copy is the same: it never changes.
    """

    def __init__(self, weight: Tensor) -> None:
        self.matrix = torch.ops.quantized.linear_prepack_fp16(weight.detach().float(), None)

    def __deepcopy__(self, memo: dict[int, Any]) -> Packed:
        return self


class Fp16Linear(nn.Module):
    """x [..., in] -> x weight^T [..., out] on a CPU with FBGEMM; for use only, weights do not learn.

    Products are in fp32. A checkpoint would lack the weights.
    """

    def __init__(self, weight: Tensor) -> None:
        """weight: [out, in]."""
        super().__init__()
        self.packed = Packed(weight)

    def forward(self, x: Tensor) -> Tensor:
        return torch.ops.quantized.linear_dynamic_fp16(x.float(), self.packed.matrix).to(x.dtype)


class Int8Linear(nn.Module):
    """x [..., in] -> x weight^T [..., out] on a CPU; for use only, weights do not learn.

    weight: [out, in] int8; scale: [out], a weight is int8 x scale.
    """

    weight: Tensor
    scale: Tensor

    def __init__(self, weight: Tensor) -> None:
        """weight: [out, in]; ValueError where `in` is no multiple of 32."""
        _check(weight, AT_ONCE)
        super().__init__()
        ints, scale = in_8_bits(weight)
        self.register_buffer("weight", ints)
        self.register_buffer("scale", scale)

    def forward(self, x: Tensor) -> Tensor:
        rows = x.flatten(0, -2).bfloat16()
        made = torch.ops.aten._weight_int8pack_mm(rows, self.weight, self.scale.bfloat16())
        return made.to(x.dtype).unflatten(0, x.shape[:-1])


class Int4Linear(nn.Module):
    """x [..., in] -> x weight^T [..., out] on a CPU; for use only, weights do not learn.

    packed: two weights a byte, in the order of torch's kernel; scales: [in / 32, out, 2] bf16, of each 32 inputs of an
    output, and zeros: a weight is (int4 - 8) x scale.
    """

    packed: Tensor
    scales: Tensor

    def __init__(self, weight: Tensor) -> None:
        """weight: [out, in]; ValueError where `in` is no multiple of 32."""
        _check(weight, GROUP)
        super().__init__()
        self.outputs = len(weight)
        whole = F.pad(weight.detach().float(), (0, 0, 0, -self.outputs % ROWS))
        ints, scale = in_4_bits(whole)
        self.register_buffer("packed", torch.ops.aten._convert_weight_to_int4pack_for_cpu(ints, 1))
        self.register_buffer("scales", torch.stack([scale.T, torch.zeros_like(scale.T)], -1).contiguous())

    def forward(self, x: Tensor) -> Tensor:
        rows = x.flatten(0, -2).bfloat16()
        made = torch.ops.aten._weight_int4pack_mm_for_cpu(rows, self.packed, GROUP, self.scales.bfloat16())
        return made[:, : self.outputs].to(x.dtype).unflatten(0, x.shape[:-1])


def in_8_bits(weight: Tensor) -> tuple[Tensor, Tensor]:
    """[out, in] -> integers [out, in] int8 and scales [out] bf16, whose product the weights are."""
    weight = weight.detach().float()
    scale = (weight.abs().amax(1) / 127).clamp_min(1e-8).bfloat16()  # rounded first: weights then make up for it
    return (weight / scale.float()[:, None]).round().clamp(-127, 127).to(torch.int8), scale


def in_4_bits(weight: Tensor) -> tuple[Tensor, Tensor]:
    """[out, in] -> integers from 0 to 15, [out, in] int32, and scales [out, in / 32] bf16.

    A weight is (integer - 8) x scale.
    """
    groups = weight.detach().float().unflatten(1, (-1, GROUP))
    scale = torch.cat([best_scale(part) for part in groups.split(IN_CACHE)])
    return ((groups / scale.float()[..., None]).round() + 8).clamp(0, 15).to(torch.int32).flatten(1), scale


def best_scale(groups: Tensor) -> Tensor:
    """Of each group of weights [..., G] -> [...] bf16: the scale at which rounding to -8 .. 7 does least harm.

    The largest weight takes the side that has a number more, and may be cut off where the others gain from it.
    """
    outermost = groups.gather(-1, groups.abs().argmax(-1, keepdim=True))[..., 0] / -8
    outermost = torch.where(outermost.abs() < 1e-8, 1e-8, outermost)
    found, least = outermost.bfloat16(), torch.full_like(outermost, torch.inf)
    for share in torch.linspace(1.15, 0.7, 19):
        scale = (outermost * share).bfloat16()
        steps = scale.float()[..., None]
        harm = ((groups / steps).round().clamp(-8, 7) * steps - groups).square().sum(-1)
        found, least = torch.where(harm < least, scale, found), torch.minimum(harm, least)
    return found


class JoinedAttention(Attention):
    """Self-attention whose queries, keys and values are one product."""

    def __init__(self, attention: Attention, small: Callable[[Tensor], nn.Module]) -> None:
        nn.Module.__init__(self)
        self.heads, self.head_dim = attention.heads, attention.head_dim
        self.qkv = small(torch.cat([attention.q.weight, attention.k.weight, attention.v.weight]))
        self.o = cast(nn.Linear, small(attention.o.weight))

    def project(self, x: Tensor) -> tuple[Tensor, Tensor, Tensor]:
        q, k, v = self.qkv(x).chunk(3, dim=-1)
        return self.split(q), self.split(k), self.split(v)


class JoinedSwiGLU(SwiGLU):
    """SwiGLU whose gate and other half are one product."""

    def __init__(self, feed: SwiGLU, small: Callable[[Tensor], nn.Module]) -> None:
        nn.Module.__init__(self)
        self.both = small(torch.cat([feed.gate.weight, feed.up.weight]))
        self.down = cast(nn.Linear, small(feed.down.weight))

    def open(self, x: Tensor) -> tuple[Tensor, Tensor]:
        gate, up = self.both(x).chunk(2, dim=-1)
        return gate, up


KINDS: dict[int, Callable[[Tensor], nn.Module]] = {16: Fp16Linear, 8: Int8Linear, 4: Int4Linear}


def bits_here() -> list[int]:
    """What this CPU can compute with: FBGEMM is for x86 with AVX2."""
    return [bits for bits in KINDS if bits != 16 or "fbgemm" in torch.backends.quantized.supported_engines]


def check_bits(bits: int) -> None:
    """InputError where this CPU cannot compute with weights of so many bits."""
    if bits not in bits_here():
        raise InputError(f"weights of {bits} bits; this CPU computes with {', '.join(map(str, [32, *bits_here()]))}")


def with_rounded_weights(model: SpeechLM, bits: int) -> SpeechLM:
    """`model` itself, the matrices of its decoder layers and heads in 16, 8 or 4 bits; the rest stays as it is.

    Raises:
        InputError: as `check_bits`, or a width that is no multiple of 32, for 8 and 4 bits.
    """
    check_bits(bits)
    if bits < 16 and model.config.width % AT_ONCE:
        raise InputError(
            f"weights of {bits} bits are for a width that is a multiple of {AT_ONCE}, not {model.config.width}"
        )
    small = KINDS[bits]
    for layer in cast(list[DecoderLayer], model.layers):
        layer.attention = JoinedAttention(layer.attention, small)
        layer.feed = JoinedSwiGLU(layer.feed, small)
        for name, child in list(layer.cross_attention.named_children()):
            setattr(layer.cross_attention, name, small(cast(nn.Linear, child).weight))
    model.heads = cast(nn.Linear, small(model.heads.weight))
    return model


def with_rounded_llm(llm: LanguageModel, bits: int) -> LanguageModel:
    """An LLM of `llm`'s weights, LoRA added to them for good, its matrices in 16 or 8 bits; `llm` is used up.

    Embeddings of tokens stay as they are, and so does a matrix with a bias or, for 8 bits, whose inputs are no multiple
    of 32.
    """
    model = llm.model.merge_and_unload() if hasattr(llm.model, "merge_and_unload") else llm.model
    for parent in list(model.modules()):
        for name, child in list(parent.named_children()):
            if type(child) is nn.Linear and child.bias is None and (bits == 16 or not child.in_features % AT_ONCE):
                setattr(parent, name, KINDS[bits](child.weight))
    return replace(llm, model=model)


def _check(weight: Tensor, multiple: int) -> None:
    if weight.shape[1] % multiple:
        raise ValueError(f"{weight.shape[1]} inputs; rounded weights are for multiples of {multiple}")
