"""SpeechLM hidden states in, a few embeddings in the LLM's own space out.

The sound is cut into windows; in each, a fixed number of queries reads the window's frames (Perceiver, Jaegle et al.
2021). A query begins as a learned vector plus the average of the stretch of sound it stands for, so that order and
content reach the LLM from the first step, and the layers learn what to add.
"""

from __future__ import annotations

from dataclasses import dataclass
from typing import Any

import torch
from torch import Tensor, nn
from torch.nn import functional as F

from ira.config import AdapterConfig
from ira.models.blocks import EPS, Attention, SwiGLU, apply_rope, init_weights, length_mask, rope, swiglu_hidden


@dataclass
class AudioEmbeddings:
    """What the LLM hears. embeddings: [B, Q, E], zero where the mask is False; mask: [B, Q] bool."""

    embeddings: Tensor
    mask: Tensor

    def rows(self) -> list[Tensor]:
        """One [q, E] tensor a recording, without padding."""
        return [row[mask] for row, mask in zip(self.embeddings, self.mask, strict=True)]


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
    """Learned mix of SpeechLM layers -> stacked frames -> windows -> Perceiver queries -> LLM embeddings.

    Args:
        config: sizes; `window_seconds` is rounded to whole stacks of frames.
        source_width: D of the SpeechLM states.
        source_layers: n, how many of its layers are mixed.
        target_width: E of the LLM.
        frame_rate: frames a second of the codec.
    """

    def __init__(
        self, config: AdapterConfig, *, source_width: int, source_layers: int, target_width: int, frame_rate: float
    ) -> None:
        super().__init__()
        self.config, self.source_layers, self.frame_rate = config, source_layers, frame_rate
        self.window = max(1, round(config.window_seconds * frame_rate / config.stack))
        self.mix = nn.Parameter(torch.zeros(source_layers))
        self.enter = nn.Linear(config.stack * source_width, config.width, bias=False)
        self.queries = nn.Parameter(0.02 * torch.randn(config.queries, config.width))
        self.layers = nn.ModuleList(PerceiverLayer(config.width, config.heads) for _ in range(config.layers))
        self.norm = nn.RMSNorm(config.width, eps=EPS)
        self.leave = nn.Linear(config.width, target_width, bias=False)
        self.init_weights()

    def init_weights(self) -> None:
        """Linear layers as everywhere; the entry keeps the scale of its normalised input, so frames outweigh noise."""
        init_weights(self, self.config.layers)
        nn.init.normal_(self.enter.weight, std=self.enter.in_features**-0.5)

    def hparams(self) -> dict[str, Any]:
        return {
            "config": self.config.model_dump(),
            "source_width": self.enter.in_features // self.config.stack,
            "source_layers": self.source_layers,
            "target_width": self.leave.out_features,
            "frame_rate": self.frame_rate,
        }

    @classmethod
    def from_hparams(cls, hparams: dict[str, Any]) -> Adapter:
        return cls(AdapterConfig(**hparams["config"]), **{k: v for k, v in hparams.items() if k != "config"})

    @torch.no_grad()
    def match_scale(self, embedding_weight: Tensor) -> None:
        """Redraw the last layer so that outputs have the root mean square of the LLM's token embeddings [Vocab, E]."""
        scale = embedding_weight.float().square().mean().sqrt().item()
        self.leave.weight.normal_(std=scale * self.leave.in_features**-0.5)

    def forward(self, states: Tensor, frames: Tensor) -> AudioEmbeddings:
        """states [B, n, T, D], frames [B] valid frames -> embeddings [B, windows x queries, E] and their mask.

        A row has `queries` embeddings for every window it reaches into, none of which sees another window.
        """
        B, n, _, D = states.shape
        if n != self.source_layers or D * self.config.stack != self.enter.in_features:
            raise ValueError(f"states {tuple(states.shape)} do not fit an adapter of {self.hparams()}")
        stacks = self._stack(self._mix(states), frames)
        windows = stacks.shape[1] // self.window
        starts = torch.arange(windows, device=frames.device) * self.window
        lengths = (-(-frames // self.config.stack))[:, None] - starts  # valid stacks in each window, [B, windows]
        lengths = lengths.clamp(0, self.window)
        embeddings = self._read(stacks.reshape(B * windows, self.window, self.config.width), lengths.flatten())
        mask = (lengths > 0).repeat_interleave(self.config.queries, dim=1)
        embeddings = embeddings.reshape(*mask.shape, self.leave.out_features)
        return AudioEmbeddings(embeddings.masked_fill(~mask[..., None], 0), mask)

    def _mix(self, states: Tensor) -> Tensor:
        """[B, n, T, D] -> [B, T, D]; each layer is normalised first, else the deepest would drown the others."""
        normed = F.rms_norm(states, states.shape[-1:], eps=EPS)
        return torch.einsum("bntd,n->btd", normed, self.mix.softmax(0).to(normed.dtype))

    def _stack(self, x: Tensor, frames: Tensor) -> Tensor:
        """[B, T, D] -> [B, T', C], T' whole windows; zero past a row's end, whatever its padding held."""
        x = x.masked_fill(~length_mask(frames, x.shape[1])[..., None], 0)
        whole = self.window * self.config.stack
        x = F.pad(x, (0, 0, 0, -x.shape[1] % whole))
        return self.enter(x.unflatten(1, (-1, self.config.stack)).flatten(2))

    def _read(self, x: Tensor, lengths: Tensor) -> Tensor:
        """Windows x [W, P, C] with `lengths` [W] valid stacks -> [W, Q, E]."""
        mask = length_mask(lengths.clamp(min=1), self.window)  # an empty window reads its zeros: no row without a key
        centres, weights = stretch_weights(lengths, self.config.queries, self.window)
        places = self._places(centres)
        x = x.to(self.queries.dtype)  # under autocast the sums stay in the parameters' precision
        queries = self.queries + weights.to(x.dtype) @ x
        for layer in self.layers:
            queries = layer(queries, x, mask[:, None, None], places)
        return self.leave(self.norm(queries))

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
