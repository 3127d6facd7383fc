"""Transformer pieces shared by every model: rotary positions, attention with a cache, SwiGLU, pre-norm blocks.

Normalisation is torch.nn.RMSNorm. The self-attention block computes what a Llama decoder layer computes
(Touvron et al. 2023; a parity test holds it to that), with an optional cross-attention between its two halves.
"""

from __future__ import annotations

from dataclasses import dataclass, replace

import torch
from torch import Tensor, nn
from torch.nn import functional as F

EPS = 1e-5
WRITTEN_OUT = 1 << 26  # scores, 128 MB in bf16


def rope(positions: Tensor, head_dim: int, base: float = 10_000.0) -> tuple[Tensor, Tensor]:
    """Cosines and sines of rotary positions (Su et al. 2021), halves rotated against each other as in Llama.

    Args:
        positions: [..., S] integers or floats.
        head_dim: C, even.

    Returns:
        Two fp32 tensors [..., S, C].
    """
    if head_dim % 2:
        raise ValueError(f"head width {head_dim} is odd; rotary positions turn pairs")
    exponents = torch.arange(0, head_dim, 2, device=positions.device, dtype=torch.float32) / head_dim
    angles = positions.float().unsqueeze(-1) * base**-exponents
    angles = torch.cat([angles, angles], dim=-1)
    return angles.cos(), angles.sin()


def apply_rope(x: Tensor, cos: Tensor, sin: Tensor) -> Tensor:
    """Rotate x [B, H, S, C] by the angles [..., S, C]; the dtype of x is kept."""
    left, right = x.chunk(2, dim=-1)
    return x * cos.to(x.dtype) + torch.cat([-right, left], dim=-1) * sin.to(x.dtype)


class SwiGLU(nn.Module):
    """Gated feed-forward layer (Shazeer 2020): down(silu(gate x) * up x)."""

    def __init__(self, width: int, hidden: int) -> None:
        super().__init__()
        self.gate = nn.Linear(width, hidden, bias=False)
        self.up = nn.Linear(width, hidden, bias=False)
        self.down = nn.Linear(hidden, width, bias=False)

    def open(self, x: Tensor) -> tuple[Tensor, Tensor]:
        """x [..., D] -> the gate and what it lets through, [..., hidden] each."""
        return self.gate(x), self.up(x)

    def forward(self, x: Tensor) -> Tensor:
        gate, up = self.open(x)
        return self.down(F.silu(gate) * up)


def swiglu_hidden(width: int) -> int:
    """8/3 of the width, rounded up to a multiple of 64: the parameters of a plain 4x layer."""
    return -(-8 * width // (3 * 64)) * 64


@dataclass
class KeyValueCache:
    """Preallocated keys and values [B, H, places, C] of one layer after `length` steps; new steps replace the oldest.

    Order does not matter to attention: where a step stood was turned into its key.

    place: [1], where the next step goes, in place of `length`, which a recorded step could not change. Then steps come
    one at a time, and all places are returned: those not yet filled must be masked.
    """

    keys: Tensor
    values: Tensor
    length: int = 0
    place: Tensor | None = None

    @classmethod
    def empty(
        cls, batch: int, heads: int, places: int, head_dim: int, like: Tensor, dtype: torch.dtype | None = None
    ) -> KeyValueCache:
        """On the device of `like`; dtype: else `cache_dtype`."""
        shape, dtype = (batch, heads, places, head_dim), dtype or cache_dtype(like)
        return cls(like.new_zeros(shape, dtype=dtype), like.new_zeros(shape, dtype=dtype))

    def keep(self, rows: Tensor) -> KeyValueCache:
        """A cache of these rows alone."""
        kept = self.empty(len(rows), *self.keys.shape[1:], like=self.keys, dtype=self.keys.dtype)
        kept.keys.copy_(self.keys[rows])
        kept.values.copy_(self.values[rows])
        return replace(kept, length=self.length)

    def append(self, keys: Tensor, values: Tensor) -> tuple[Tensor, Tensor]:
        """Store [B, H, S, C], several steps only side by side, and return all that is stored."""
        if self.place is not None:
            self.keys.index_copy_(2, self.place, keys.to(self.keys.dtype))
            self.values.index_copy_(2, self.place, values.to(self.values.dtype))
            return self.keys, self.values
        places, steps = self.keys.shape[2], keys.shape[2]
        first = self.length % places
        if first + steps > places:
            raise ValueError(f"{steps} steps at once into a cache of {places}, {first} of them taken")
        self.keys[:, :, first : first + steps] = keys
        self.values[:, :, first : first + steps] = values
        self.length += steps
        filled = min(self.length, places)
        return self.keys[:, :, :filled], self.values[:, :, :filled]


def cache_dtype(like: Tensor) -> torch.dtype:
    """Precision of keys and values that are kept for a model which computes as `like`.

    On a CPU fp32: there torch's attention of one query in bf16 takes several times as long.
    """
    return torch.float32 if like.device.type == "cpu" else like.dtype


def weigh(q: Tensor, k: Tensor, v: Tensor, mask: Tensor | None, *, causal: bool = False) -> Tensor:
    """Scaled dot-product attention; q [B, H, S, C], k and v [B, H, S', C], mask boolean or additive.

    Where gradients are wanted on a CPU it is written out: there the backward pass of torch's own takes a third of a
    training step, that of matrix products a tenth, as long as the scores fit in memory. Keys of another precision than
    the queries decide in which one it is computed.
    """
    if q.dtype != k.dtype:
        return weigh(q.to(k.dtype), k, v, mask, causal=causal).to(q.dtype)
    small = q.shape[0] * q.shape[1] * q.shape[2] * k.shape[2] <= WRITTEN_OUT
    if not (q.device.type == "cpu" and torch.is_grad_enabled() and small):
        return F.scaled_dot_product_attention(q, k, v, attn_mask=mask, is_causal=causal)
    scores = (q * q.shape[-1] ** -0.5) @ k.transpose(-1, -2)
    if causal:
        later = torch.ones(scores.shape[-2:], dtype=torch.bool).triu(1)
        scores = scores.masked_fill(later, -torch.inf)
    if mask is not None:
        scores = scores.masked_fill(~mask, -torch.inf) if mask.dtype == torch.bool else scores + mask
    return scores.softmax(-1).to(v.dtype) @ v


class Attention(nn.Module):
    """Multi-head attention; keys and values come from `memory` when it is given, else from the input itself."""

    def __init__(self, width: int, heads: int) -> None:
        super().__init__()
        if width % heads:
            raise ValueError(f"width {width} does not divide into {heads} heads")
        self.heads, self.head_dim = heads, width // heads
        self.q = nn.Linear(width, width, bias=False)
        self.k = nn.Linear(width, width, bias=False)
        self.v = nn.Linear(width, width, bias=False)
        self.o = nn.Linear(width, width, bias=False)

    def split(self, x: Tensor) -> Tensor:
        """[B, S, D] -> [B, H, S, C]."""
        return x.unflatten(-1, (self.heads, self.head_dim)).transpose(1, 2)

    def merge(self, x: Tensor) -> Tensor:
        """[B, H, S, C] -> [B, S, D], through the output projection."""
        return self.o(x.transpose(1, 2).flatten(2))

    def project(self, x: Tensor) -> tuple[Tensor, Tensor, Tensor]:
        """Queries, keys and values [B, H, S, C] of x [B, S, D]."""
        return self.split(self.q(x)), self.split(self.k(x)), self.split(self.v(x))

    def forward(
        self,
        x: Tensor,
        cos_sin: tuple[Tensor, Tensor] | None = None,
        *,
        mask: Tensor | None = None,
        causal: bool = False,
        cache: KeyValueCache | None = None,
    ) -> Tensor:
        """Self-attention over x [B, S, D]; mask [B, 1, S or 1, S'] is boolean (True = may look) or additive."""
        q, k, v = self.project(x)
        if cos_sin is not None:
            q, k = apply_rope(q, *cos_sin), apply_rope(k, *cos_sin)
        if cache is not None:
            k, v = cache.append(k, v)
        if causal and k.shape[2] > x.shape[1] > 1:
            raise ValueError("a filled cache takes one step at a time: torch's causal mask would misplace several")
        return self.merge(weigh(q, k, v, mask, causal=causal and x.shape[1] > 1))

    def project_memory(self, memory: Tensor) -> tuple[Tensor, Tensor]:
        """Keys and values [B, H, L, C] of memory [B, L, D']; computed once for a whole generation."""
        return self.split(self.k(memory)), self.split(self.v(memory))

    def cross(self, x: Tensor, keys: Tensor, values: Tensor, mask: Tensor) -> Tensor:
        """Attend from x [B, S, D] to projected memory; mask broadcasts to [B, H, S, L]."""
        q = self.split(self.q(x))
        mask = mask if mask.dtype == torch.bool else mask.to(keys.dtype)
        return self.merge(weigh(q, keys, values, mask))

    def scores(self, x: Tensor, keys: Tensor) -> Tensor:
        """Scaled dot products [B, H, S, L] in fp32, before mask and softmax: for alignment losses and pictures."""
        return (self.split(self.q(x)).float() @ keys.float().transpose(-1, -2)) * self.head_dim**-0.5


class Block(nn.Module):
    """Pre-norm transformer layer: self-attention, SwiGLU."""

    def __init__(self, width: int, heads: int) -> None:
        super().__init__()
        self.attention_norm = nn.RMSNorm(width, eps=EPS)
        self.attention = Attention(width, heads)
        self.feed_norm = nn.RMSNorm(width, eps=EPS)
        self.feed = SwiGLU(width, swiglu_hidden(width))

    def attend(
        self,
        x: Tensor,
        cos_sin: tuple[Tensor, Tensor],
        *,
        mask: Tensor | None = None,
        causal: bool = False,
        cache: KeyValueCache | None = None,
    ) -> Tensor:
        """First half: x [B, S, D] plus its self-attention."""
        return x + self.attention(self.attention_norm(x), cos_sin, mask=mask, causal=causal, cache=cache)

    def feed_forward(self, x: Tensor) -> Tensor:
        """Last half: x [B, S, D] plus its feed-forward layer."""
        return x + self.feed(self.feed_norm(x))

    def forward(self, x: Tensor, cos_sin: tuple[Tensor, Tensor], mask: Tensor | None = None) -> Tensor:
        """Both halves, nothing in between: a layer of an encoder."""
        return self.feed_forward(self.attend(x, cos_sin, mask=mask))


def init_weights(module: nn.Module, layers: int) -> None:
    """Normal(0, 0.02) for linear and embedding weights, residual outputs scaled by 1/sqrt(2 layers) (GPT-2)."""
    for name, child in module.named_modules():
        if isinstance(child, nn.Linear):
            std = 0.02 / (2 * layers) ** 0.5 if name.endswith((".o", ".down")) else 0.02
            nn.init.normal_(child.weight, std=std)
            if child.bias is not None:
                nn.init.zeros_(child.bias)
        elif isinstance(child, nn.Embedding):
            nn.init.normal_(child.weight, std=0.02)


def window_mask(steps: int, window: int | None, device: torch.device) -> Tensor | None:
    """[S, S] True where a step may look: at itself and the `window` - 1 before it; None where causality is all."""
    if window is None or steps <= window:
        return None
    at = torch.arange(steps, device=device)
    away = at[:, None] - at
    return (away >= 0) & (away < window)


def length_mask(lengths: Tensor, size: int) -> Tensor:
    """lengths [B] -> [B, size] boolean, True where a position is inside the row."""
    return torch.arange(size, device=lengths.device) < lengths[:, None]
