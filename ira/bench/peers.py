"""The size of one of IRA's models in; a model of transformers that does the same amount of work, random weights, out.

Random weights take as long as trained ones, and nothing is downloaded.
"""

from __future__ import annotations

from typing import Any, cast

import torch
from torch import Tensor
from transformers import (
    DynamicCache,
    EncodecConfig,
    EncodecModel,
    EncoderDecoderCache,
    MusicgenDecoderConfig,
    MusicgenForCausalLM,
)

from ira.models.sampling import Sampling
from ira.models.speech_lm import SpeechLM


def musicgen(model: SpeechLM) -> Any:
    """`MusicgenForCausalLM`: as many layers, as wide, with as many heads, codebooks and codes, without dropout.

    Its feed-forward layer of 4 x width in two matrices has the parameters of the SpeechLM's 8/3 x width in three.
    """
    shape, codes = model.config, model.codebook_size + 1
    config = MusicgenDecoderConfig(
        vocab_size=codes,
        max_position_embeddings=shape.max_steps,
        num_hidden_layers=shape.layers,
        ffn_dim=4 * shape.width,
        num_attention_heads=shape.heads,
        hidden_size=shape.width,
        num_codebooks=model.codebooks,
        dropout=0.0,
        pad_token_id=codes,
        bos_token_id=codes,
    )
    return cast(Any, MusicgenForCausalLM(config)).to(model.heads.weight.device)


class MusicgenLoop:
    """A hand-written loop: a step for each frame with a cache, a code of each book drawn from the likeliest."""

    def __init__(self, peer: Any, memory: Tensor, sampling: Sampling) -> None:
        """memory: [B, L, D], what cross-attention sees."""
        self.peer, self.memory, self.sampling = peer.eval(), memory, sampling
        self.rows, self.books = len(memory), peer.config.num_codebooks
        self.cache = EncoderDecoderCache(DynamicCache(config=peer.config), DynamicCache(config=peer.config))
        self.tokens = torch.zeros(self.rows * self.books, 1, dtype=torch.long, device=memory.device)
        self.step()  # keys and values of the memory are in the cache from here on

    @property
    def length(self) -> int:
        """Steps in the cache."""
        return int(self.cache.get_seq_length())

    def go_to(self, frame: int) -> None:
        """As if `frame` steps had been taken: what stands in the cache does not change how long a step takes."""
        missing = frame - self.length
        if missing < 0:
            self.cache.self_attention_cache.crop(missing)  # of a negative number: so many steps away
        elif missing:
            for index, layer in enumerate(cast(Any, self.cache.self_attention_cache).layers):
                like: Tensor = layer.keys
                some = torch.randn_like(like[:, :, :1]).expand(-1, -1, missing, -1)
                self.cache.self_attention_cache.update(some, some, index)

    @torch.no_grad()
    def step(self) -> None:
        """One frame: the model, then a draw from the `top_k` likeliest."""
        out = self.peer(
            self.tokens, encoder_hidden_states=self.memory, past_key_values=self.cache, use_cache=True, return_dict=True
        )
        logits = out.logits[:, -1].float() / self.sampling.temperature
        likeliest = logits.topk(min(self.sampling.top_k, logits.shape[-1]), dim=-1)
        self.tokens = likeliest.indices.gather(1, likeliest.values.softmax(-1).multinomial(1))


def encodec(small: bool, device: torch.device) -> Any:
    """The shape of the released 24 kHz model; `small` for a look at whether all runs."""
    config = EncodecConfig(num_filters=4, hidden_size=32, codebook_dim=32) if small else EncodecConfig()
    return cast(Any, EncodecModel(config)).eval().to(device)
