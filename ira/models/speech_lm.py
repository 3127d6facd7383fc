"""SpeechLM: text [B, L] and a voice [B, P] in, codec-token logits [B, K, T + 1, V + 1] out.

A causal transformer over delayed codec tokens. Every layer attends to a memory that holds the voice and the encoded
text; either can be replaced by a learned null, which is what classifier-free guidance needs and what listening uses:
the states that the adapter reads are computed with both dropped, so no transcript can pass.

Attention to the text cannot slip: a pointer goes from one text token to the next, a prior centred on it leaves the
tokens around it visible, and a head says when it advances. The token under the pointer is also added to what enters the
first layer. Training takes the pointer from an alignment, decoding from the head (as transducers do; compare VALL-T,
Du et al. 2024, and the attention priors of T5-TTS, Neekhara et al. 2024).
"""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass
from typing import Any, cast

import torch
from torch import Tensor, nn

from ira.audio.delay import delay, special_ids, undelay
from ira.config import SpeechConfig
from ira.errors import InputError
from ira.models.blocks import (
    EPS,
    Attention,
    Block,
    KeyValueCache,
    cache_dtype,
    init_weights,
    length_mask,
    rope,
    window_mask,
)
from ira.models.pointer import Pointer, walked

MOST_CODEBOOKS = 64
FAR = -30.0  # prior of every token away from the pointer, however far


@dataclass
class Memory:
    """What cross-attention sees: vectors [B, 1 + L, D] (slot 0 the voice, then the text) and their mask [B, 1 + L].

    lengths: [B] text tokens of each row, 0 where it has the null text.
    """

    vectors: Tensor
    mask: Tensor
    lengths: Tensor


@dataclass
class SpeechOutput:
    """logits [B, K, T + 1, V + 1]: [:, :, t] predicts codes[:, :, t], index V is EOS and stands at t = frames.

    advance: [B, T + 1] logits that the pointer leaves its token after frame t. attention: [B, T + 1, L], where the
    middle layer looks in the text at book 0's steps, heads averaged, where asked for.
    """

    logits: Tensor
    advance: Tensor
    attention: Tensor | None = None


@dataclass
class DecodeState:
    """What one step of decoding needs: self-attention caches and projected memory, a pair for each layer.

    told: [B, L, D], what enters with the pointer at each text token. recorded: what takes a step in
    place of torch, see `native` and `recorded.py`.
    """

    caches: list[KeyValueCache]
    projected: list[tuple[Tensor, Tensor]]
    memory: Memory
    told: Tensor
    recorded: Callable[[Tensor, Pointer], tuple[Tensor, Tensor]] | None = None

    def keep(self, rows: Tensor) -> DecodeState:
        """A state of these rows alone, which is to be recorded anew."""
        caches = [cache.keep(rows) for cache in self.caches]
        memory = Memory(self.memory.vectors[rows], self.memory.mask[rows], self.memory.lengths[rows])
        projected = [(keys[rows], values[rows]) for keys, values in self.projected]
        return DecodeState(caches, projected, memory, self.told[rows])


class DecoderLayer(Block):
    """A block that looks at text and voice between its two halves."""

    def __init__(self, width: int, heads: int) -> None:
        super().__init__(width, heads)
        self.cross_norm = nn.RMSNorm(width, eps=EPS)
        self.cross_attention = Attention(width, heads)

    def forward(  # type: ignore[override]
        self, x: Tensor, cos_sin: tuple[Tensor, Tensor], memory: Tensor, bias: Tensor, window: Tensor | None = None
    ) -> Tensor:
        """A whole sequence x [B, S, D] over memory [B, 1 + L, D].

        bias: [B, 1, S, 1 + L], added to the scores of the memory. window: [S, S], see `window_mask`.
        """
        x = self.attend(x, cos_sin, mask=window, causal=window is None)
        keys, values = self.cross_attention.project_memory(memory)
        x = x + self.cross_attention.cross(self.cross_norm(x), keys, values, bias)
        return self.feed_forward(x)


class SpeechLM(nn.Module):
    """See the module's docstring; what is no part of `config` is read from neighbours.

    languages: those of its training texts, as two letters; no other can be spoken.
    cached_as: precision of keys and values of earlier steps while decoding; None: see `cache_dtype`.
    """

    cached_as: torch.dtype | None = None

    def __init__(
        self,
        config: SpeechConfig,
        *,
        codebooks: int,
        codebook_size: int,
        text_vocab: int,
        voice_dim: int,
        languages: list[str],
    ) -> None:
        super().__init__()
        if not 1 <= codebooks <= MOST_CODEBOOKS:
            raise ValueError(f"{codebooks} codebooks; 1 to {MOST_CODEBOOKS} are possible")
        self.config, self.languages = config, list(languages)
        self.codebooks, self.codebook_size, self.text_vocab, self.voice_dim = (
            codebooks,
            codebook_size,
            text_vocab,
            voice_dim,
        )
        width = config.width
        self.embed = nn.ModuleList(nn.Embedding(codebook_size + 3, width) for _ in range(codebooks))
        self.layers = nn.ModuleList(DecoderLayer(width, config.heads) for _ in range(config.layers))
        self.norm = nn.RMSNorm(width, eps=EPS)
        self.heads = nn.Linear(width, codebooks * (codebook_size + 1), bias=False)
        self.advance = nn.Linear(width, 1)
        self.stay_embed = nn.Embedding(config.longest_stay + 1, width)
        self.text_embed = nn.Embedding(text_vocab, width)
        self.language_embed = nn.Embedding(len(self.languages), width)
        self.text_layers = nn.ModuleList(Block(width, config.heads) for _ in range(config.text_layers))
        self.memory_norm = nn.RMSNorm(width, eps=EPS)
        self.voice_in = nn.Linear(voice_dim, width, bias=False)
        self.told_in = nn.Linear(width, width, bias=False)
        self.null_text = nn.Parameter(torch.empty(width))
        self.null_voice = nn.Parameter(torch.empty(width))
        self.init_weights()

    def init_weights(self) -> None:
        """What is added up at the entrance begins equally loud: codes, stay, voice; text is louder than its place."""
        init_weights(self, self.config.layers)
        for table in (*self.embed, self.stay_embed, self.language_embed):
            nn.init.normal_(cast(nn.Embedding, table).weight, std=0.2)
        nn.init.normal_(self.text_embed.weight, std=0.5)
        nn.init.normal_(self.null_text, std=0.5)
        nn.init.normal_(self.null_voice, std=0.2)

    @torch.no_grad()
    def start_from(self, code_vectors: list[Tensor]) -> None:
        """Begin with what codes sound like: each codebook's vectors [V, C], turned at random into the model's width.

        Codes that sound alike are then read alike and predicted alike before the first step.
        """
        heads = self.heads.weight.view(self.codebooks, -1, self.config.width)
        for k, vectors in enumerate(code_vectors):
            table = cast(nn.Embedding, self.embed[k]).weight
            for into, loudness in ((table[: len(vectors)], 0.2), (heads[k, : len(vectors)], 0.05)):
                turned = (vectors - vectors.mean(0)) @ torch.randn(vectors.shape[1], self.config.width).to(vectors)
                into.normal_(std=0.02).add_(loudness * turned / turned.square().mean().sqrt())

    def hparams(self) -> dict[str, Any]:
        names = ("codebooks", "codebook_size", "text_vocab", "voice_dim", "languages")
        return {"config": self.config.model_dump(), **{name: getattr(self, name) for name in names}}

    @classmethod
    def from_hparams(cls, hparams: dict[str, Any]) -> SpeechLM:
        rest = {name: value for name, value in hparams.items() if name != "config"}
        return cls(SpeechConfig(**hparams["config"]), **rest)

    @property
    def shown_layer(self) -> int:
        """The layer whose attention is shown: the middle one."""
        return self.config.layers // 2

    # -- conditions --------------------------------------------------------------------------------------------

    def condition(
        self,
        text: Tensor | None,
        text_lengths: Tensor | None,
        voice: Tensor | None,
        language: Tensor | None = None,
        *,
        drop_text: Tensor | None = None,
        drop_voice: Tensor | None = None,
        batch: int = 1,
    ) -> Memory:
        """Encode the conditions of a batch.

        Args:
            text: [B, L] ids of `SpeechTokenizer`, 0 past a row's length; None for the null condition.
            text_lengths: [B]; a row of length 0 has the null condition.
            voice: [B, P] voice embeddings, or None for the null condition.
            language: [B] places in `languages`; needed with text.
            drop_text, drop_voice: [B] booleans, True where a row takes the null condition.
            batch: number of rows where neither text nor voice tells it.
        """
        rows = len(text) if text is not None else len(voice) if voice is not None else batch
        voice_slot = self._voice_slot(voice, drop_voice, rows)
        if text is None or text.shape[1] == 0:
            vectors = torch.stack([voice_slot, self.null_text.expand(rows, -1)], dim=1)
            none = torch.zeros(rows, dtype=torch.long, device=vectors.device)
            return Memory(vectors, torch.ones(rows, 2, dtype=torch.bool, device=vectors.device), none)
        if text_lengths is None or language is None:
            raise ValueError("text without text_lengths or language; give both for each row")
        lengths = text_lengths if drop_text is None else text_lengths.masked_fill(drop_text, 0)
        encoded, mask = self._encode_text(text, lengths, language)
        vectors = torch.cat([voice_slot[:, None].to(encoded.dtype), encoded], dim=1)
        return Memory(vectors, torch.cat([torch.ones_like(mask[:, :1]), mask], dim=1), lengths)

    def _voice_slot(self, voice: Tensor | None, drop: Tensor | None, rows: int) -> Tensor:
        if voice is None:
            return self.null_voice.expand(rows, -1)
        # Unit vectors are scaled to unit variance, so that a wide embedding speaks as loudly as a narrow one.
        slot = self.voice_in(voice * self.voice_dim**0.5)
        return slot if drop is None else torch.where(drop[:, None], self.null_voice.to(slot.dtype), slot)

    def _encode_text(self, text: Tensor, lengths: Tensor, language: Tensor) -> tuple[Tensor, Tensor]:
        """[B, L] -> vectors [B, L, D] and mask [B, L]; a row without text has the null vector in its first place."""
        mask = length_mask(lengths.clamp(min=1), text.shape[1])
        positions = torch.arange(text.shape[1], device=text.device)
        x = self.text_embed(text) + self.language_embed(language)[:, None]
        angles = rope(positions, self.config.width // self.config.heads)
        for layer in self.text_layers:
            x = layer(x, angles, mask[:, None, None, :])
        # Absolute places tell the token under the pointer from its neighbours.
        x = self.memory_norm(x) + sinusoids(positions, self.config.width).to(x.dtype)
        return torch.where((lengths == 0)[:, None, None], self.null_text.to(x.dtype), x), mask

    # -- training and scoring ----------------------------------------------------------------------------------

    def forward(
        self,
        codes: Tensor,
        frames: Tensor,
        memory: Memory,
        walk: Tensor | None = None,
        *,
        hide: Tensor | None = None,
        look: bool = False,
    ) -> SpeechOutput:
        """Logits of whole sequences, aligned with the codes they predict.

        Args:
            codes: [B, K, T]; frames: [B].
            memory: from `condition`.
            walk: [B, T] text token of each frame; not read in rows without text, None where all are.
            hide: [B, T + K] True at decoding steps whose codes the model does not get to read (training).
            look: also return where the middle layer looks.
        """
        books, size = codes.shape[1:]
        if walk is None:
            walk = torch.zeros_like(codes[:, 0])
        pointer = walked(walk, frames, memory.lengths, size + books, self.config.longest_stay)
        self._check(codes)
        steps = delay(codes, frames, self.codebook_size)
        if hide is not None:
            steps = steps.masked_fill(hide[:, None], special_ids(self.codebook_size)[2])
        x, attention = self._decode(steps, memory, pointer, look)
        x = self.norm(x)
        logits = self.heads(x).unflatten(-1, (books, -1)).transpose(1, 2)
        advance = self.advance(x[:, : size + 1])[..., 0].float()
        return SpeechOutput(undelay(logits, size + 1), advance, None if attention is None else attention[:, : size + 1])

    def _decode(self, steps: Tensor, memory: Memory, pointer: Pointer, look: bool) -> tuple[Tensor, Tensor | None]:
        """steps [B, K, S] -> states [B, S, D] after the last layer, and the middle layer's attention [B, S, L]."""
        x = self._enter(steps, pointer, memory, self._told(memory))
        bias = self._bias(memory, pointer.place)
        angles = self.angles(torch.arange(x.shape[1], device=x.device))
        window = window_mask(x.shape[1], self.config.window, x.device)
        attention = None
        for index, layer in enumerate(cast(list[DecoderLayer], self.layers)):
            if look and index == self.shown_layer:
                keys, _ = layer.cross_attention.project_memory(memory.vectors)
                query = layer.cross_norm(layer.attend(x, angles, mask=window, causal=window is None))
                attention = (layer.cross_attention.scores(query, keys) + bias).softmax(-1).mean(1)[..., 1:]
            x = layer(x, angles, memory.vectors, bias, window)
        return x, attention

    def states(self, codes: Tensor, frames: Tensor, layers: list[int]) -> Tensor:
        """Hidden states [B, n, T, D] after the named layers, text and voice dropped: what the adapter listens to.

        The state of frame t stands where the model has read every codebook of frame t.
        """
        self._check(codes)
        memory = self.condition(None, None, None, batch=len(codes))
        steps = delay(codes, frames, self.codebook_size)
        nowhere = torch.zeros_like(steps[:, 0])
        x = self._enter(steps, Pointer(nowhere, nowhere), memory, self._told(memory))
        bias = self._bias(memory, nowhere)
        angles = self.angles(torch.arange(x.shape[1], device=x.device))
        window = window_mask(x.shape[1], self.config.window, x.device)
        found = {}
        for index, layer in enumerate(self.layers[: max(layers) + 1]):
            x = layer(x, angles, memory.vectors, bias, window)
            found[index] = x[:, self.codebooks :]
        return torch.stack([found[index] for index in layers], dim=1)

    def _bias(self, memory: Memory, place: Tensor) -> Tensor:
        """What is added to attention scores [B, 1, S, 1 + L]: a Gaussian around the pointer, and 0 for the voice."""
        tokens = torch.arange(memory.mask.shape[1] - 1, device=place.device)
        away = (tokens - place[..., None]).to(memory.vectors.dtype) / self.config.pointer_width
        bias = nn.functional.pad((-0.5 * away.square()).clamp(min=FAR), (1, 0))
        return bias.masked_fill(~memory.mask[:, None], torch.finfo(bias.dtype).min)[:, None]

    def _told(self, memory: Memory) -> Tensor:
        return self.told_in(memory.vectors[:, 1:])

    def _enter(self, steps: Tensor, pointer: Pointer, memory: Memory, told: Tensor) -> Tensor:
        """steps [B, K, S] and a pointer [B, S] -> [B, S, D]: codes, token, time at it and voice, added up."""
        self.check_room(steps.shape[-1])
        x = torch.stack([embed(steps[:, k]) for k, embed in enumerate(self.embed)]).sum(0)
        token = told.gather(1, pointer.place[..., None].expand(-1, -1, told.shape[-1]))
        return x + self.stay_embed(pointer.stay) + token.to(x.dtype) + memory.vectors[:, :1].to(x.dtype)

    def angles(self, positions: Tensor) -> tuple[Tensor, Tensor]:
        """Of positions [S] in audio: cosines and sines [S, C], see `rope`."""
        return rope(positions, self.config.width // self.config.heads)

    def _check(self, codes: Tensor) -> None:
        if codes.shape[1] != self.codebooks:
            raise InputError(f"codes of {codes.shape[1]} codebooks; the SpeechLM reads {self.codebooks}")

    def check_room(self, steps: int) -> None:
        if steps > self.config.max_steps:
            raise InputError(
                f"{steps} steps of audio; the model reads {self.config.max_steps}; cut the audio or the text"
            )

    # -- decoding ----------------------------------------------------------------------------------------------

    def start(self, memory: Memory, max_steps: int) -> DecodeState:
        """Empty caches for `max_steps` steps, or the window, and the memory's keys and values, projected once."""
        self.check_room(max_steps)
        rows, heads = len(memory.vectors), self.config.heads
        places = min(max_steps, self.config.window or max_steps)
        caches, projected, dtype = [], [], self.cached_as or cache_dtype(memory.vectors)
        for layer in cast(list[DecoderLayer], self.layers):
            shape = rows, heads, places, self.config.width // heads
            caches.append(KeyValueCache.empty(*shape, memory.vectors, dtype))
            # Copies: what is written in machine code reads them as they lie.
            both = layer.cross_attention.project_memory(memory.vectors)
            keys, values = (each.to(dtype).clone(memory_format=torch.contiguous_format) for each in both)
            projected.append((keys, values))
        return DecodeState(caches, projected, memory, self._told(memory))

    def step(self, tokens: Tensor, state: DecodeState, pointer: Pointer) -> tuple[Tensor, Tensor]:
        """One step: tokens [B, K] at the next position, pointer [B, 1] -> logits [B, K, V + 1] and advance [B]."""
        at = state.caches[0].length
        self.check_room(at + 1)
        return self.step_at(tokens, state, pointer, self.angles(torch.tensor([at], device=tokens.device)))

    def step_at(
        self,
        tokens: Tensor,
        state: DecodeState,
        pointer: Pointer,
        angles: tuple[Tensor, Tensor],
        seen: Tensor | None = None,
    ) -> tuple[Tensor, Tensor]:
        """`step` at the position of `angles`; seen: [1, places], True where caches are filled; None: all are."""
        x = self._enter(tokens[:, :, None], pointer, state.memory, state.told)
        bias = self._bias(state.memory, pointer.place)
        angles = angles[0].to(x.dtype), angles[1].to(x.dtype)
        layers = cast(list[DecoderLayer], self.layers)
        for layer, cache, (keys, values) in zip(layers, state.caches, state.projected, strict=True):
            x = layer.attend(x, angles, mask=seen, cache=cache)
            x = x + layer.cross_attention.cross(layer.cross_norm(x), keys, values, bias)
            x = layer.feed_forward(x)
        x = self.norm(x[:, 0])
        return self.heads(x).unflatten(-1, (self.codebooks, -1)), self.advance(x)[:, 0].float()


def sinusoids(positions: Tensor, width: int) -> Tensor:
    """Fixed absolute positions [L] -> [L, width] (Vaswani et al. 2017), unit amplitude."""
    angles = positions[:, None] * 10_000.0 ** (-torch.arange(0, width, 2, device=positions.device) / width)
    return torch.cat([angles.sin(), angles.cos()], dim=-1)
