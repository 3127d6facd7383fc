"""SpeechLM: text [B, L] and a voice [B, P] in, codec-token logits [B, K, T + 1, V + 1] out.

A causal transformer over delayed codec tokens. Every layer attends to a memory that holds the voice and the encoded
text; either can be replaced by a learned null, which is what classifier-free guidance needs and what listening uses:
the states that the adapter reads are computed with both dropped, so no transcript can pass.
"""

from __future__ import annotations

from dataclasses import dataclass
from typing import Any, cast

import torch
from torch import Tensor, nn

from ira.audio.delay import delay, undelay
from ira.config import SpeechConfig
from ira.errors import InputError
from ira.models.blocks import EPS, Attention, Block, KeyValueCache, init_weights, length_mask, rope

MOST_CODEBOOKS = 64


@dataclass
class Memory:
    """What cross-attention sees: vectors [B, 1 + L, D] (slot 0 the voice, then the text) and their mask [B, 1 + L]."""

    vectors: Tensor
    mask: Tensor


@dataclass
class SpeechOutput:
    """logits [B, K, T + 1, V + 1]: [:, :, t] predicts codes[:, :, t], index V is EOS and stands at t = frames.

    `alignment` is [B, T + 1, L], attention logits of book 0's steps over the text (-inf at padding), where asked for.
    """

    logits: Tensor
    alignment: Tensor | None = None


@dataclass
class DecodeState:
    """What one step of decoding needs: self-attention caches and projected memory, a pair for each layer."""

    caches: list[KeyValueCache]
    memory: list[tuple[Tensor, Tensor]]
    mask: Tensor


class DecoderLayer(Block):
    """A block that looks at text and voice between its two halves."""

    def __init__(self, width: int, heads: int) -> None:
        super().__init__(width, heads)
        self.cross_norm = nn.RMSNorm(width, eps=EPS)
        self.cross_attention = Attention(width, heads)

    def forward(  # type: ignore[override]
        self,
        x: Tensor,
        cos_sin: tuple[Tensor, Tensor],
        memory: Tensor,
        memory_mask: Tensor,
        mask: Tensor,
        align: bool,
    ) -> tuple[Tensor, Tensor | None]:
        """A whole sequence x [B, S, D] over memory [B, 1 + L, D]; with `align` also attention logits [B, S, L]."""
        x = self.attend(x, cos_sin, causal=True)
        keys, values = self.cross_attention.project_memory(memory)
        query = self.cross_norm(x)
        scores = None
        if align:
            scores = self.cross_attention.scores(query, keys[:, :, 1:]).mean(1)
            scores = scores + (mask[:, 0, :, 1:] if mask.dtype != torch.bool else 0.0)
            scores = scores.masked_fill(~memory_mask[:, None, 1:], -torch.inf)
        x = x + self.cross_attention.cross(query, keys, values, mask)
        return self.feed_forward(x), scores


class SpeechLM(nn.Module):
    """See the module's docstring; `codebooks`, `codebook_size`, `text_vocab`, `voice_dim` are read from neighbours."""

    def __init__(
        self, config: SpeechConfig, *, codebooks: int, codebook_size: int, text_vocab: int, voice_dim: int
    ) -> None:
        super().__init__()
        if not 1 <= codebooks <= MOST_CODEBOOKS:
            raise ValueError(f"{codebooks} codebooks; 1 to {MOST_CODEBOOKS} are possible")
        self.config = config
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
        self.text_embed = nn.Embedding(text_vocab, width)
        self.text_layers = nn.ModuleList(Block(width, config.heads) for _ in range(config.text_layers))
        self.memory_norm = nn.RMSNorm(width, eps=EPS)
        self.voice_in = nn.Linear(voice_dim, width, bias=False)
        self.null_text = nn.Parameter(torch.empty(width))
        self.null_voice = nn.Parameter(torch.empty(width))
        self.init_weights()

    def init_weights(self) -> None:
        init_weights(self, self.config.layers)
        nn.init.normal_(self.null_text, std=0.5)
        nn.init.normal_(self.null_voice, std=0.5)

    def hparams(self) -> dict[str, Any]:
        names = ("codebooks", "codebook_size", "text_vocab", "voice_dim")
        return {"config": self.config.model_dump(), **{name: getattr(self, name) for name in names}}

    @classmethod
    def from_hparams(cls, hparams: dict[str, Any]) -> SpeechLM:
        rest = {name: value for name, value in hparams.items() if name != "config"}
        return cls(SpeechConfig(**hparams["config"]), **rest)

    @property
    def guided_layer(self) -> int:
        """The layer whose attention is supervised and shown: the middle one."""
        return self.config.layers // 2

    # -- conditions --------------------------------------------------------------------------------------------

    def condition(
        self,
        text: Tensor | None,
        text_lengths: Tensor | None,
        voice: Tensor | None,
        *,
        drop_text: Tensor | None = None,
        drop_voice: Tensor | None = None,
        batch: int = 1,
    ) -> Memory:
        """Encode the conditions of a batch.

        Args:
            text: [B, L] character ids, 0 past a row's length; None for the null condition.
            text_lengths: [B]; a row of length 0 has the null condition.
            voice: [B, P] voice embeddings, or None for the null condition.
            drop_text, drop_voice: [B] booleans, True where a row takes the null condition.
            batch: number of rows where neither text nor voice tells it.
        """
        rows = len(text) if text is not None else len(voice) if voice is not None else batch
        voice_slot = self._voice_slot(voice, drop_voice, rows)
        if text is None or text.shape[1] == 0:
            vectors = torch.stack([voice_slot, self.null_text.expand(rows, -1)], dim=1)
            return Memory(vectors, torch.ones(rows, 2, dtype=torch.bool, device=vectors.device))
        if text_lengths is None:
            raise ValueError("text without text_lengths; give the length of each row")
        lengths = text_lengths if drop_text is None else text_lengths.masked_fill(drop_text, 0)
        encoded, mask = self._encode_text(text, lengths)
        vectors = torch.cat([voice_slot[:, None].to(encoded.dtype), encoded], dim=1)
        return Memory(vectors, torch.cat([torch.ones_like(mask[:, :1]), mask], dim=1))

    def _voice_slot(self, voice: Tensor | None, drop: Tensor | None, rows: int) -> Tensor:
        if voice is None:
            return self.null_voice.expand(rows, -1)
        # Unit vectors are scaled to unit variance, so that a wide embedding speaks as loudly as a narrow one.
        slot = self.voice_in(voice * self.voice_dim**0.5)
        return slot if drop is None else torch.where(drop[:, None], self.null_voice.to(slot.dtype), slot)

    def _encode_text(self, text: Tensor, lengths: Tensor) -> tuple[Tensor, Tensor]:
        """[B, L] -> vectors [B, L, D] and mask [B, L]; a row without text has the null vector in its first place."""
        mask = length_mask(lengths.clamp(min=1), text.shape[1])
        positions = torch.arange(text.shape[1], device=text.device)
        x = self.text_embed(text)
        angles = rope(positions, self.config.width // self.config.heads)
        for layer in self.text_layers:
            x = layer(x, angles, mask[:, None, None, :])
        # Absolute places in the memory are what lets attention go on from where it was.
        x = self.memory_norm(x) + sinusoids(positions, self.config.width).to(x.dtype)
        return torch.where((lengths == 0)[:, None, None], self.null_text.to(x.dtype), x), mask

    # -- training and scoring ----------------------------------------------------------------------------------

    def forward(
        self,
        codes: Tensor,
        frames: Tensor,
        memory: Memory,
        *,
        prior: Tensor | None = None,
        align: bool = False,
    ) -> SpeechOutput:
        """Logits of whole sequences, aligned with the codes they predict.

        Args:
            codes: [B, K, T]; frames: [B].
            memory: from `condition`.
            prior: [B, T + 1, L] added to the attention scores over text, in every layer (training).
            align: also return the guided layer's attention logits.
        """
        books, size = codes.shape[1:]
        self._check(codes)
        x = self._embed(delay(codes, frames, self.codebook_size))
        mask = self._cross_mask(memory, prior, x)
        alignment = None
        angles = self._angles(torch.arange(x.shape[1], device=x.device))
        for index, layer in enumerate(self.layers):
            want = align and index == self.guided_layer
            x, scores = layer(x, angles, memory.vectors, memory.mask, mask, want)
            alignment = scores if want else alignment
        logits = self.heads(self.norm(x)).unflatten(-1, (books, -1)).transpose(1, 2)
        if alignment is not None:
            alignment = alignment[:, : size + 1]
        return SpeechOutput(undelay(logits, size + 1), alignment)

    def states(self, codes: Tensor, frames: Tensor, layers: list[int]) -> Tensor:
        """Hidden states [B, n, T, D] after the named layers, text and voice dropped: what the adapter listens to.

        The state of frame t stands where the model has read every codebook of frame t.
        """
        self._check(codes)
        memory = self.condition(None, None, None, batch=len(codes))
        x = self._embed(delay(codes, frames, self.codebook_size))
        mask = self._cross_mask(memory, None, x)
        angles = self._angles(torch.arange(x.shape[1], device=x.device))
        found = {}
        for index, layer in enumerate(self.layers[: max(layers) + 1]):
            x, _ = layer(x, angles, memory.vectors, memory.mask, mask, False)
            found[index] = x[:, self.codebooks :]
        return torch.stack([found[index] for index in layers], dim=1)

    def _cross_mask(self, memory: Memory, prior: Tensor | None, x: Tensor) -> Tensor:
        """Boolean [B, 1, 1, 1 + L], or additive [B, 1, S, 1 + L] where a prior guides the attention."""
        mask = memory.mask[:, None, None, :]
        if prior is None:
            return mask
        rows, size, length = prior.shape
        bias = x.new_zeros(rows, 1, x.shape[1], length + 1)
        bias[:, 0, :size, 1:] = prior.to(bias.dtype)
        bias[:, 0, size:, 1:] = prior[:, -1:].to(bias.dtype)
        return bias.masked_fill(~mask, torch.finfo(bias.dtype).min)

    def _embed(self, steps: Tensor) -> Tensor:
        """steps [B, K, S] -> [B, S, D]: the codebooks' embeddings added up."""
        self._check_room(steps.shape[-1])
        return torch.stack([embed(steps[:, k]) for k, embed in enumerate(self.embed)]).sum(0)

    def _angles(self, positions: Tensor) -> tuple[Tensor, Tensor]:
        return rope(positions, self.config.width // self.config.heads)

    def _check(self, codes: Tensor) -> None:
        if codes.shape[1] != self.codebooks:
            raise InputError(f"codes of {codes.shape[1]} codebooks; the SpeechLM reads {self.codebooks}")

    def _check_room(self, steps: int) -> None:
        if steps > self.config.max_steps:
            raise InputError(
                f"{steps} steps of audio; the model reads {self.config.max_steps}; cut the audio or the text"
            )

    # -- decoding ----------------------------------------------------------------------------------------------

    def start(self, memory: Memory, max_steps: int) -> DecodeState:
        """Empty caches for `max_steps` steps and the memory's keys and values, projected once."""
        self._check_room(max_steps)
        rows, heads = len(memory.vectors), self.config.heads
        caches, projected = [], []
        for layer in cast(list[DecoderLayer], self.layers):
            caches.append(KeyValueCache.empty(rows, heads, max_steps, self.config.width // heads, memory.vectors))
            projected.append(layer.cross_attention.project_memory(memory.vectors))
        return DecodeState(caches, projected, memory.mask[:, None, None, :])

    def step(self, tokens: Tensor, state: DecodeState) -> Tensor:
        """One step: tokens [B, K] that stand at the next position -> logits [B, K, V + 1] of the one after it."""
        x = self._embed(tokens[:, :, None])
        angles = self._angles(torch.tensor([state.caches[0].length], device=x.device))
        layers = cast(list[DecoderLayer], self.layers)
        for layer, cache, (keys, values) in zip(layers, state.caches, state.memory, strict=True):
            x = layer.attend(x, angles, cache=cache)
            x = x + layer.cross_attention.cross(layer.cross_norm(x), keys, values, state.mask)
            x = layer.feed_forward(x)
        return self.heads(self.norm(x[:, 0])).unflatten(-1, (self.codebooks, -1))


def sinusoids(positions: Tensor, width: int) -> Tensor:
    """Fixed absolute positions [L] -> [L, width] (Vaswani et al. 2017), unit amplitude."""
    angles = positions[:, None] * 10_000.0 ** (-torch.arange(0, width, 2, device=positions.device) / width)
    return torch.cat([angles.sin(), angles.cos()], dim=-1)
