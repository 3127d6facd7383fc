"""Clips in, what the codec leaves of them at every bandwidth out."""

from __future__ import annotations

from collections.abc import Sequence

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


def measure_codec(pipeline: Pipeline, rows: list[Row], advance: Advance) -> tuple[int, Metrics]:
    """PESQ, STOI and mel distance at every bandwidth, all from one encoding: any prefix of the codebooks decodes."""
    offers = bandwidths(pipeline.parts.codec)

    def work(few: Sequence[Row]) -> list[Metrics]:
        sounds = [clip for _, clip in recordings(few) if float(clip.abs().max()) >= metrics.SILENT]
        return [_scores(pipeline, offers, clip) for clip in sounds]  # STOI of silence says nothing

    scored = shared(rows, 1, work, advance)
    values = {
        f"{name}@{kbps:g}": [found for scores in scored if (found := scores[f"{name}@{kbps:g}"]) is not None]
        for kbps in offers
        for name in ("pesq", "stoi", "mel")
    }
    counted = {f"pesq_clips@{kbps:g}": len(values[f"pesq@{kbps:g}"]) for kbps in offers}
    return len(scored), {**{name: metrics.mean(found) for name, found in values.items()}, **counted}


def _scores(pipeline: Pipeline, offers: dict[float, int], clip: Tensor) -> Metrics:
    """The figures of one clip [1, N] at every bandwidth."""
    codec, scores = pipeline.parts.codec, Metrics()
    codes = codec.encode(clip[None].to(pipeline.parts.device), codebooks=max(offers.values())).codes
    for kbps, books in offers.items():
        made = codec.decode(codes[:, :books])[0, :, : clip.shape[-1]].cpu()
        scores[f"pesq@{kbps:g}"] = metrics.pesq(clip, made)
        scores[f"stoi@{kbps:g}"] = metrics.stoi(clip, made)
        scores[f"mel@{kbps:g}"] = metrics.mel_distance(clip, made)
    return scores


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
