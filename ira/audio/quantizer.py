"""A latent [B, T, C] in, codes [B, K, T] out, of which any first K' say it as well as K' can.

Factorised, L2-normalised codes follow the Descript audio codec (Kumar et al. 2023); residual quantization follows
SoundStream (Zeghidour et al. 2021).
"""

from __future__ import annotations

from typing import NamedTuple

import torch
from torch import Tensor, nn
from torch.nn import functional as F

KEPT_POINTS = 256  # of a batch
USE_RATE, DEAD = 0.02, 0.02  # a code starts at 1 and falls to 0.02 in 200 batches without a pick


class Quantized(NamedTuple):
    """What the quantizer returns: latent [B, T, C], codes [B, K, T], and two losses (scalars)."""

    latent: Tensor
    codes: Tensor
    codebook_loss: Tensor
    commitment_loss: Tensor


class Seen(NamedTuple):
    """What a batch said about the codes: how often each was picked [K, V], and some of its points [K, P, C]."""

    picks: Tensor
    points: Tensor


class ResidualQuantizer(nn.Module):
    """Residual vector quantizer with factorised, L2-normalised codes; any prefix of the books decodes."""

    use: Tensor

    def __init__(self, width: int, codebooks: int, codebook_size: int, code_dim: int) -> None:
        super().__init__()
        self.project_in = nn.ModuleList(nn.Linear(width, code_dim) for _ in range(codebooks))
        self.project_out = nn.ModuleList(nn.Linear(code_dim, width) for _ in range(codebooks))
        self.books = nn.ParameterList(nn.Parameter(torch.randn(codebook_size, code_dim)) for _ in range(codebooks))
        self.register_buffer("use", torch.ones(codebooks, codebook_size))  # running count of picks in a batch
        self.seen: list[Seen] = []  # since the last `revive`, while training

    def forward(self, latent: Tensor, codebooks: Tensor | None = None) -> Quantized:
        """Quantize latent [B, T, C] in fp32; `codebooks` [B] limits how many books each row uses (training)."""
        residual, total = latent, torch.zeros_like(latent)
        codes, losses, points = [], [], []
        for k in range(len(self.books)):
            used = 1.0 if codebooks is None else (codebooks > k).to(latent.dtype)[:, None, None]
            point = self.project_in[k](residual)
            index = self._nearest(point, k)
            code = F.embedding(index, self.books[k])
            losses.append(torch.stack([_gap(code, point.detach(), used), _gap(point, code.detach(), used)]))
            quantized = self.project_out[k](point + (code - point).detach()) * used
            residual, total = residual - quantized, total + quantized
            codes.append(index)
            points.append(point.detach())
        if self.training and torch.is_grad_enabled():
            self.seen.append(self._look(codes, points))
        codebook_loss, commitment_loss = torch.stack(losses).sum(0)
        return Quantized(total, torch.stack(codes, 1), codebook_loss, commitment_loss)

    def _nearest(self, point: Tensor, k: int) -> Tensor:
        """Index of the code with the largest cosine; L2-normalised nearest neighbour."""
        return (F.normalize(point, dim=-1) @ F.normalize(self.books[k], dim=-1).T).argmax(-1)

    def _look(self, codes: list[Tensor], points: list[Tensor]) -> Seen:
        size = self.use.shape[1]
        picks = torch.stack([torch.bincount(index.flatten(), minlength=size) for index in codes])
        return Seen(picks.cpu(), torch.stack([evenly(point.flatten(0, 1), KEPT_POINTS) for point in points]).cpu())

    @torch.no_grad()
    def revive(self, seen: list[Seen]) -> None:
        """Move codes that no frame has picked for some 200 steps to points of the batches that were seen.

        Apart from the forward pass, so that many processes can do it alike, with what all of them saw.
        """
        picks = torch.stack([each.picks for each in seen]).float().mean(0).to(self.use)
        points = torch.cat([each.points for each in seen], dim=1).to(self.use)
        self.use += USE_RATE * (picks - self.use)
        for k, dead in enumerate(self.use < DEAD):
            if count := int(dead.sum()):
                self.books[k][dead] = evenly(points[k], count).to(self.books[k].dtype)
        self.use[self.use < DEAD] = 1.0

    def all_vectors(self) -> list[Tensor]:
        """What each code of each book adds to the latent: [V, C] a book."""
        return [project(book) for project, book in zip(self.project_out, self.books, strict=True)]

    def decode(self, codes: Tensor) -> Tensor:
        """codes [B, K', T] -> latent [B, T, C], for any prefix K' of the books."""
        parts = [self.project_out[k](F.embedding(codes[:, k], self.books[k])) for k in range(codes.shape[1])]
        return torch.stack(parts).sum(0)


def evenly(rows: Tensor, count: int) -> Tensor:
    """`count` of the rows, from first to last; some of them twice where there are fewer."""
    return rows[torch.arange(count, device=rows.device) * len(rows) // count]


def _gap(moving: Tensor, fixed: Tensor, used: Tensor | float) -> Tensor:
    return ((moving - fixed).square() * used).mean()
