"""IRA's transformer block without cross-attention equals transformers' Llama layer with the same weights."""

from __future__ import annotations

from typing import Any

import pytest
import torch
from torch import nn
from transformers import LlamaConfig
from transformers.models.llama.modeling_llama import LlamaDecoderLayer, LlamaRotaryEmbedding

from ira.models.blocks import Block, KeyValueCache, apply_rope, rope, swiglu_hidden

WIDTH, HEADS, STEPS = 32, 4, 23
SETTINGS: dict[str, Any] = {
    "hidden_size": WIDTH,
    "num_attention_heads": HEADS,
    "num_key_value_heads": HEADS,
    "intermediate_size": swiglu_hidden(WIDTH),
    "num_hidden_layers": 1,
    "rms_norm_eps": 1e-5,
    "rope_parameters": {"rope_type": "default", "rope_theta": 10_000.0},
    "attn_implementation": "eager",
}
CONFIG = LlamaConfig(**SETTINGS)
NAMES = {
    "attention_norm": "input_layernorm",
    "attention.q": "self_attn.q_proj",
    "attention.k": "self_attn.k_proj",
    "attention.v": "self_attn.v_proj",
    "attention.o": "self_attn.o_proj",
    "feed_norm": "post_attention_layernorm",
    "feed.gate": "mlp.gate_proj",
    "feed.up": "mlp.up_proj",
    "feed.down": "mlp.down_proj",
}


def make_block(seed: int) -> Block:
    """A block whose attention is far from uniform and whose norms are far from one."""
    torch.manual_seed(seed)
    block = Block(WIDTH, HEADS).eval()
    for parameter in block.parameters():
        nn.init.normal_(parameter, mean=float(parameter.dim() == 1), std=0.25)
    return block.requires_grad_(False)


def llama_layer(block: Block) -> Any:
    """transformers' layer with the weights of `block`; every parameter of both is in `NAMES`."""
    layer = LlamaDecoderLayer(CONFIG, layer_idx=0).eval()
    ours = block.state_dict()
    layer.load_state_dict({f"{theirs}.weight": ours.pop(f"{mine}.weight") for mine, theirs in NAMES.items()})
    assert not ours
    return layer.requires_grad_(False)


def stack(blocks: list[Block], x: torch.Tensor, caches: list[KeyValueCache] | None = None) -> torch.Tensor:
    start = caches[0].length if caches else 0
    angles = rope(torch.arange(start, start + x.shape[1]), WIDTH // HEADS)
    for index, block in enumerate(blocks):
        cache = caches[index] if caches else None
        x = block.feed_forward(block.attend(x, angles, causal=True, cache=cache))
    return x


def test_rotary_positions_turn_queries_as_llama_does():
    from transformers.models.llama.modeling_llama import apply_rotary_pos_emb

    positions = torch.tensor([[0, 1, 2, 5, 11, 400, 8000]])
    q = torch.randn(2, HEADS, 7, WIDTH // HEADS)
    cos, sin = LlamaRotaryEmbedding(CONFIG)(q, positions)
    want, _ = apply_rotary_pos_emb(q, q, cos, sin)
    torch.testing.assert_close(apply_rope(q, *rope(positions[0], WIDTH // HEADS)), want, atol=1e-5, rtol=1e-5)
    assert (want - q)[:, :, 1:].abs().amax() > 0.1


def test_a_causal_block_equals_a_llama_layer():
    block, x = make_block(0), torch.randn(2, STEPS, WIDTH)
    mask = torch.full((STEPS, STEPS), torch.finfo(torch.float32).min).triu(1)[None, None]
    places = LlamaRotaryEmbedding(CONFIG)(x, torch.arange(STEPS)[None])
    want = llama_layer(block)(x, attention_mask=mask, position_embeddings=places)
    torch.testing.assert_close(stack([block], x), want, atol=2e-5, rtol=1e-4)


def test_a_stack_with_caches_equals_one_without():
    blocks, x = [make_block(seed) for seed in range(3)], torch.randn(2, STEPS, WIDTH)
    whole = stack(blocks, x)
    caches = [KeyValueCache.empty(2, HEADS, STEPS, WIDTH // HEADS, x) for _ in blocks]
    pieces = [stack(blocks, x[:, :5], caches)]  # a first piece at once, then step by step
    pieces += [stack(blocks, x[:, t : t + 1], caches) for t in range(5, STEPS)]
    torch.testing.assert_close(torch.cat(pieces, 1), whole, atol=2e-5, rtol=1e-4)
    assert caches[0].length == STEPS


def test_a_cache_refuses_several_steps_once_it_is_filled():
    block, x = make_block(0), torch.randn(1, 4, WIDTH)
    caches = [KeyValueCache.empty(1, HEADS, 4, WIDTH // HEADS, x)]
    stack([block], x[:, :2], caches)
    with pytest.raises(ValueError, match="one step at a time"):
        stack([block], x[:, 2:], caches)


@pytest.mark.parametrize(("width", "hidden"), [(24, 64), (25, 128), (768, 2048)])
def test_the_feed_forward_width_is_eight_thirds_in_steps_of_64(width, hidden):
    assert swiglu_hidden(width) == hidden
