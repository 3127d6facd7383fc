"""SpeechLM hidden states in, a few embeddings in the LLM's own space out.

A trunk listens to the whole recording in both directions. Its sound is then cut into windows; in each, a fixed number
of queries reads the window (Perceiver, Jaegle et al. 2021). A query begins as a learned vector plus the average of the
stretch of sound it stands for, and names what it hears: a distribution over tokens of the LLM and a blank. The LLM is
given the mean of its own embeddings under that distribution (as in LegoSLM, Ma et al. 2025) plus what the query says
freely. Queries that are blank or name what the one before named are left out, as CTC leaves them out (Gaido et al.
2021), so that sound takes about as many places as its text would. Before the words stand those for who speaks and how
(`ira.models.traits`).
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import Any, cast

import torch
from torch import Tensor, nn
from torch.nn import functional as F

from ira.config import AdapterConfig
from ira.data.text import CharTokenizer
from ira.models.blocks import EPS, Attention, Block, SwiGLU, apply_rope, init_weights, length_mask, rope, swiglu_hidden
from ira.models.traits import Traits

CONVOLVED = 15  # stacks that a trunk layer's convolution reaches over
FREELY = 0.1  # what a query says freely at the start, against the LLM's embeddings


@dataclass
class AudioEmbeddings:
    """What the LLM hears. embeddings: [B, traits + Q, E], zero where the mask is False; mask: [B, traits + Q] bool.

    And as what it was heard on the way, in logits of which 0 is the blank: characters [B, P, ids of `CharTokenizer`]
    of `stacks` [B] stacks of frames, and tokens [B, Q, 1 + n] of `queries` [B] queries; and of each of the `traits`
    logits [B, choices].
    """

    embeddings: Tensor
    mask: Tensor
    characters: Tensor
    stacks: Tensor
    tokens: Tensor
    queries: Tensor
    traits: dict[str, Tensor]

    def rows(self) -> list[Tensor]:
        """One [q, E] tensor a recording, without what is left out."""
        return [row[mask] for row, mask in zip(self.embeddings, self.mask, strict=True)]


class TrunkLayer(Block):
    """A block behind a depthwise convolution, which finds the edges of sounds before attention has learnt to."""

    def __init__(self, width: int, heads: int) -> None:
        super().__init__(width, heads)
        self.convolution_norm = nn.RMSNorm(width, eps=EPS)
        self.convolution = nn.Conv1d(width, width, CONVOLVED, padding=CONVOLVED // 2, groups=width)

    def forward(self, x: Tensor, cos_sin: tuple[Tensor, Tensor], mask: Tensor) -> Tensor:  # type: ignore[override]
        """x [B, P, C], mask [B, 1, 1, P] (True = sound); the convolution hears silence in the padding."""
        heard = self.convolution_norm(x) * mask[:, 0, 0, :, None].to(x.dtype)
        x = x + F.silu(self.convolution(heard.transpose(1, 2)).transpose(1, 2))
        return super().forward(x, cos_sin, mask)


class PerceiverLayer(nn.Module):
    """Pre-norm layer over the queries of a window: read the frames, talk among themselves, think (SwiGLU)."""

    def __init__(self, width: int, heads: int) -> None:
        super().__init__()
        self.read_norm = nn.RMSNorm(width, eps=EPS)
        self.frames_norm = nn.RMSNorm(width, eps=EPS)
        self.read = Attention(width, heads)
        self.talk_norm = nn.RMSNorm(width, eps=EPS)
        self.talk = Attention(width, heads)
        self.feed_norm = nn.RMSNorm(width, eps=EPS)
        self.feed = SwiGLU(width, swiglu_hidden(width))

    def forward(self, queries: Tensor, frames: Tensor, mask: Tensor, places: Places) -> Tensor:
        """queries [W, Q, C], frames [W, P, C], mask [W, 1, 1, P] (True = may look) -> [W, Q, C]."""
        keys, values = self.read.project_memory(self.frames_norm(frames))
        asked = apply_rope(self.read.split(self.read.q(self.read_norm(queries))), *places.queries)
        found = F.scaled_dot_product_attention(asked, apply_rope(keys, *places.frames), values, attn_mask=mask)
        queries = queries + self.read.merge(found)
        queries = queries + self.talk(self.talk_norm(queries), places.among)
        return queries + self.feed(self.feed_norm(queries))


@dataclass
class Places:
    """Rotary angles: of the frames in a window, of the queries among the frames, of the queries among themselves."""

    frames: tuple[Tensor, Tensor]
    queries: tuple[Tensor, Tensor]
    among: tuple[Tensor, Tensor]


class Adapter(nn.Module):
    """Learned mix of SpeechLM layers -> stacked frames -> trunk -> windows -> queries -> LLM embeddings.

    Args:
        config: sizes; `window_seconds` is rounded to whole stacks of frames.
        source_width: D of the SpeechLM states.
        source_layers: n, how many of its layers are mixed.
        target_width: E of the LLM.
        frame_rate: frames a second of the codec.
        tokens: ids of the LLM's tokens that a query can name: those of the training's transcripts.
        traits: what a voice can be named, as `Traits` has it; nothing is named without.
    """

    def __init__(
        self,
        config: AdapterConfig,
        *,
        source_width: int,
        source_layers: int,
        target_width: int,
        frame_rate: float,
        tokens: Sequence[int],
        traits: Mapping[str, Sequence[Sequence[int]]] | None = None,
    ) -> None:
        super().__init__()
        self.config, self.source_layers, self.frame_rate = config, source_layers, frame_rate
        self.tokens = list(tokens)
        self.window = max(1, round(config.window_seconds * frame_rate / config.stack))
        self.mix = nn.Parameter(torch.zeros(source_layers))
        self.enter = nn.Linear(config.stack * source_width, config.width, bias=False)
        self.trunk = nn.ModuleList(TrunkLayer(config.width, config.heads) for _ in range(config.trunk_layers))
        self.trunk_norm = nn.RMSNorm(config.width, eps=EPS)
        self.spell = nn.Linear(config.width, CharTokenizer().vocab_size)
        self.queries = nn.Parameter(0.02 * torch.randn(config.queries, config.width))
        self.layers = nn.ModuleList(PerceiverLayer(config.width, config.heads) for _ in range(config.layers))
        self.norm = nn.RMSNorm(config.width, eps=EPS)
        self.name = nn.Linear(config.width, target_width, bias=False)
        self.name_bias = nn.Parameter(torch.zeros(1 + len(self.tokens)))
        self.name_blank = nn.Linear(config.width, 1, bias=False)
        self.blank = nn.Parameter(torch.zeros(target_width))
        self.leave = nn.Linear(config.width, target_width, bias=False)
        self.traits = Traits(source_layers * source_width, traits) if traits else None
        self.init_weights()

    def init_weights(self) -> None:
        """Linear layers as everywhere; the entry keeps the scale of its normalised input, so frames outweigh noise."""
        init_weights(self, self.config.trunk_layers + self.config.layers)
        nn.init.normal_(self.enter.weight, std=self.enter.in_features**-0.5)
        for layer in cast(list[TrunkLayer], self.trunk):
            nn.init.zeros_(cast(Tensor, layer.convolution.bias))

    def hparams(self) -> dict[str, Any]:
        return {
            "config": self.config.model_dump(),
            "source_width": self.enter.in_features // self.config.stack,
            "source_layers": self.source_layers,
            "target_width": self.leave.out_features,
            "frame_rate": self.frame_rate,
            "tokens": self.tokens,
            "traits": self.traits.words if self.traits else {},
        }

    @classmethod
    def from_hparams(cls, hparams: dict[str, Any]) -> Adapter:
        return cls(AdapterConfig(**hparams["config"]), **{k: v for k, v in hparams.items() if k != "config"})

    @torch.no_grad()
    def match_scale(self, embedding_weight: Tensor) -> None:
        """Redraw the last layers for an LLM's token embeddings [Vocab, E]: what is said freely is soft beside them."""
        scale = embedding_weight.float().square().mean().sqrt().item()
        self.leave.weight.normal_(std=FREELY * scale * self.leave.in_features**-0.5)
        self.name.weight.normal_(std=self.name.in_features**-0.5)

    def forward(self, states: Tensor, frames: Tensor, table: Tensor, hide: Tensor | None = None) -> AudioEmbeddings:
        """SpeechLM states to what the LLM hears.

        A row has `queries` queries for every window it reaches into; the first of each is never left out.

        Args:
            states: [B, n, T, D]; frames: [B], how many are sound.
            table: the LLM's token embeddings [Vocab, E].
            hide: [B, P] True at stacks that the trunk does not get to hear (training).
        """
        _, n, _, D = states.shape
        if n != self.source_layers or D * self.config.stack != self.enter.in_features:
            raise ValueError(f"states {tuple(states.shape)} do not fit an adapter of {self.hparams()['config']}")
        normed = F.rms_norm(states, states.shape[-1:], eps=EPS)  # else the deepest layer would drown the others
        heard, stacks = self._listen(normed, frames, hide)
        queries, there = self._ask(heard, stacks)
        named = table[self.tokens].to(queries.dtype)
        tokens = self._names(queries, named)
        traits = self.traits(normed, frames) if self.traits else {}
        said = self._said(queries, tokens, named)
        mask = there & self._kept(tokens)
        if self.traits:
            said = torch.cat([self.traits.say(traits, table).to(said.dtype), said], dim=1)
            mask = torch.cat([(frames > 0)[:, None].expand(-1, len(traits)), mask], dim=1)
        said = said.masked_fill(~mask[..., None], 0)
        return AudioEmbeddings(said, mask, self.spell(heard), stacks, tokens, there.sum(1), traits)

    def _listen(self, normed: Tensor, frames: Tensor, hide: Tensor | None) -> tuple[Tensor, Tensor]:
        """Stacks [B, P, C] after the trunk, and how many of them are sound [B]."""
        mixed = torch.einsum("bntd,n->btd", normed, self.mix.softmax(0).to(normed.dtype))
        x = self._stack(mixed, frames)
        if hide is not None:
            x = x.masked_fill(hide[..., None], 0)
        x = x.to(self.queries.dtype)  # under autocast the sums stay in the parameters' precision
        stacks = -(-frames // self.config.stack)
        mask = length_mask(stacks.clamp(min=1), x.shape[1])[:, None, None]
        angles = rope(torch.arange(x.shape[1], device=x.device), self.config.width // self.config.heads)
        for layer in self.trunk:
            x = layer(x, angles, mask)
        return self.trunk_norm(x), stacks

    def _ask(self, heard: Tensor, stacks: Tensor) -> tuple[Tensor, Tensor]:
        """Stacks [B, P, C] -> the queries of all windows [B, Q, C], and [B, Q] True in windows that hold sound."""
        heard = F.pad(heard, (0, 0, 0, -heard.shape[1] % self.window))
        windows = heard.unflatten(1, (-1, self.window))
        starts = torch.arange(windows.shape[1], device=stacks.device) * self.window
        lengths = (stacks[:, None] - starts).clamp(0, self.window)  # stacks of sound in each window
        queries = self._read(windows.flatten(0, 1), lengths.flatten()).unflatten(0, windows.shape[:2])
        return queries.flatten(1, 2), (lengths > 0).repeat_interleave(self.config.queries, dim=1)

    def _names(self, queries: Tensor, named: Tensor) -> Tensor:
        """Logits [B, Q, 1 + n] of the blank and of the tokens, whose embeddings [n, E] count by their direction."""
        tokens = self.name(queries) @ F.normalize(named, dim=-1).T
        return torch.cat([self.name_blank(queries), tokens], dim=-1).float() + self.name_bias

    def _kept(self, tokens: Tensor) -> Tensor:
        """[B, Q] True where a query names another token than the one before it, and at the first of a window."""
        likeliest = tokens.detach().argmax(-1)
        before = F.pad(likeliest[:, :-1], (1, 0))
        first = torch.arange(tokens.shape[1], device=tokens.device) % self.config.queries == 0
        return (likeliest != 0) & (likeliest != before) | first

    def _said(self, queries: Tensor, tokens: Tensor, named: Tensor) -> Tensor:
        """[B, Q, E]: the mean embedding of what a query names, and what it says freely."""
        chances = tokens.softmax(-1)
        mean = chances[..., 1:].to(named.dtype) @ named + chances[..., :1] * self.blank
        return mean + self.leave(queries)

    def _stack(self, x: Tensor, frames: Tensor) -> Tensor:
        """[B, T, D] -> [B, P, C]; zero past a row's end, whatever its padding held."""
        x = x.masked_fill(~length_mask(frames, x.shape[1])[..., None], 0)
        x = F.pad(x, (0, 0, 0, -x.shape[1] % self.config.stack))
        return self.enter(x.unflatten(1, (-1, self.config.stack)).flatten(2))

    def _read(self, x: Tensor, lengths: Tensor) -> Tensor:
        """Windows x [W, P, C] with `lengths` [W] valid stacks -> [W, Q, C]."""
        mask = length_mask(lengths.clamp(min=1), self.window)  # an empty window reads its zeros: no row without a key
        centres, weights = stretch_weights(lengths, self.config.queries, self.window)
        places = self._places(centres)
        x = x.to(self.queries.dtype)
        queries = self.queries + weights.to(x.dtype) @ x
        for layer in self.layers:
            queries = layer(queries, x, mask[:, None, None], places)
        return self.norm(queries)

    def _places(self, centres: Tensor) -> Places:
        head_dim = self.config.width // self.config.heads
        within = torch.arange(self.window, device=centres.device)
        among = torch.arange(self.config.queries, device=centres.device)
        return Places(rope(within, head_dim), rope(centres[:, None], head_dim), rope(among, head_dim))


def stretch_weights(lengths: Tensor, queries: int, size: int) -> tuple[Tensor, Tensor]:
    """Share `lengths` [W] positions out among `queries`: centres [W, Q] and averaging weights [W, Q, size].

    Query i stands for the i-th of Q equal stretches; its weights fall linearly from the centre, over at least one
    position (then they interpolate), are zero past the length and sum to one.
    """
    lengths = lengths.float().clamp(min=1)[:, None]
    centres = (torch.arange(queries, device=lengths.device) + 0.5) * lengths / queries - 0.5
    position = torch.arange(size, device=lengths.device)
    hat = 1 - (position - centres[..., None]).abs() / (lengths / queries).clamp(min=1)[..., None]
    hat = hat.clamp(min=0) * (position < lengths)[:, None]
    return centres, hat / hat.sum(-1, keepdim=True)
