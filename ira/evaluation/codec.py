"""Clips in, what the codec leaves of them at every bandwidth, and how evenly it uses its codes, out."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass

import torch
from torch import Tensor

from ira.audio.codec import Codec
from ira.config import BANDWIDTHS_KBPS, CodecConfig
from ira.data.manifest import Row
from ira.errors import InputError
from ira.evaluation import metrics
from ira.evaluation.report import Metrics
from ira.evaluation.shares import Advance, recordings, shared
from ira.inference.pipeline import Pipeline

# The released EnCodec on speech at 24 kHz, as Codec-SUPERB's results give it: other recordings, the same measures.
PUBLISHED_ENCODEC: dict[float, dict[str, float]] = {
    1.5: {"pesq": 1.52, "stoi": 0.799},
    3.0: {"pesq": 1.98, "stoi": 0.861},
    6.0: {"pesq": 2.64, "stoi": 0.910},
    12.0: {"pesq": 3.30, "stoi": 0.943},
    24.0: {"pesq": 3.66, "stoi": 0.960},
}


@dataclass(frozen=True)
class Scored:
    """The figures of one clip at every bandwidth, and how often each code stands in it: [K, codebook size]."""

    figures: Metrics
    counts: Tensor


def measure_codec(pipeline: Pipeline, rows: list[Row], advance: Advance) -> tuple[int, Metrics]:
    """PESQ, STOI and mel distance at every bandwidth, all from one encoding: any prefix of the codebooks decodes."""
    offers = bandwidths(pipeline.parts.codec)

    def work(few: Sequence[Row]) -> list[Scored]:
        sounds = [clip for _, clip in recordings(few) if float(clip.abs().max()) >= metrics.SILENT]
        return [_scores(pipeline, offers, clip) for clip in sounds]  # STOI of silence says nothing

    scored = shared(rows, 1, work, advance)
    figures: Metrics = {}
    for kbps in offers:
        for name in ("pesq", "stoi", "mel"):
            found = [value for one in scored if (value := one.figures[f"{name}@{kbps:g}"]) is not None]
            figures[f"{name}@{kbps:g}"] = metrics.mean(found)
            if name == "pesq":
                figures[f"pesq_clips@{kbps:g}"] = len(found)
            if name in PUBLISHED_ENCODEC.get(kbps, {}):
                figures[f"{name}_published_encodec@{kbps:g}"] = PUBLISHED_ENCODEC[kbps][name]
    return len(scored), figures | _usage([one.counts for one in scored])


def _scores(pipeline: Pipeline, offers: dict[float, int], clip: Tensor) -> Scored:
    """One clip [1, N] at every bandwidth."""
    codec, figures = pipeline.parts.codec, Metrics()
    codes = codec.encode(clip[None].to(pipeline.parts.device), codebooks=max(offers.values())).codes
    for kbps, books in offers.items():
        made = codec.decode(codes[:, :books])[0, :, : clip.shape[-1]].cpu()
        figures[f"pesq@{kbps:g}"] = metrics.pesq(clip, made)
        figures[f"stoi@{kbps:g}"] = metrics.stoi(clip, made)
        figures[f"mel@{kbps:g}"] = metrics.mel_distance(clip, made)
    return Scored(figures, torch.stack([book.bincount(minlength=codec.codebook_size) for book in codes[0].cpu()]))


def _usage(counts: Sequence[Tensor]) -> Metrics:
    """Of each codebook the share of its codes that occur, and their perplexity: as many as if all were as frequent.

    A few clips do not hold all codes: `frames` says how many draws it was.
    """
    if not counts:
        return {}
    together = torch.stack(list(counts)).sum(0)
    shares = together / together.sum(1, keepdim=True)
    perplexity = torch.special.entr(shares).sum(1).exp()
    figures: Metrics = {"frames": int(together[0].sum())}
    for book, (used, spread) in enumerate(zip((together > 0).float().mean(1), perplexity, strict=True), 1):
        figures |= {f"codes_used@book{book}": float(used), f"perplexity@book{book}": float(spread)}
    return figures


def bandwidths(codec: Codec) -> dict[float, int]:
    """Codebooks of every bandwidth in kbps that the codec offers, the widest first."""
    offers: dict[float, int] = {}
    for kbps in sorted(BANDWIDTHS_KBPS, reverse=True):
        books = CodecConfig(kind="encodec", bandwidth_kbps=kbps).codebooks
        device = next((p.device for p in getattr(codec, "parameters", list)()), None)
        try:
            codec.encode(torch.zeros(1, 1, codec.hop, device=device), codebooks=books)
            offers[kbps] = books
        except InputError:
            continue
    return offers
