"""A model in, the same model with its decoder's weights in a byte each out.

A step of decoding reads every weight once and does little with it, so bytes are time: a quarter of those of fp32. Only
weights are rounded (symmetric, one scale for each output); what flows between layers keeps its precision, is brought to
bf16 for a product, and products are added up in fp32. A row comes out the same whichever rows are beside it.
"""

from __future__ import annotations

import torch
from torch import Tensor, nn

from ira.models.speech_lm import SpeechLM

AT_ONCE = 32  # inputs that the kernel reads together; of other widths it would read past the end


class Int8Linear(nn.Module):
    """What a Linear computes, x [..., in] -> [..., out], on a CPU; for use only, weights do not learn.

    weight: [out, in] int8; scale: [out], a weight is int8 x scale.

    Raises:
        ValueError: `in` is no multiple of 32.
    """

    weight: Tensor
    scale: Tensor
    bias: Tensor | None

    def __init__(self, linear: nn.Linear) -> None:
        if linear.in_features % AT_ONCE:
            raise ValueError(f"{linear.in_features} inputs; int8 weights are for multiples of {AT_ONCE}")
        super().__init__()
        weight = linear.weight.detach().float()
        scale = (weight.abs().amax(1) / 127).clamp_min(1e-8).bfloat16()  # rounded first: weights then make up for it
        rounded = (weight / scale.float()[:, None]).round().clamp(-127, 127)
        self.register_buffer("weight", rounded.to(torch.int8))
        self.register_buffer("scale", scale)
        self.register_buffer("bias", None if linear.bias is None else linear.bias.detach().clone())

    def forward(self, x: Tensor) -> Tensor:
        rows = x.flatten(0, -2).bfloat16()
        made = torch.ops.aten._weight_int8pack_mm(rows, self.weight, self.scale.bfloat16())
        made = made.to(x.dtype).unflatten(0, x.shape[:-1])
        return made if self.bias is None else made + self.bias.to(x.dtype)


def with_int8_weights(model: SpeechLM) -> SpeechLM:
    """`model` itself, the matrices of its decoder layers and heads in int8; encoders and embeddings stay as they are.

    So do matrices whose width is no multiple of 32.
    """
    for parent in [*model.layers.modules(), model]:
        for name, child in list(parent.named_children()):
            decodes = isinstance(child, nn.Linear) and (parent is not model or name == "heads")
            if decodes and child.in_features % AT_ONCE == 0:
                setattr(parent, name, Int8Linear(child))
    return model
