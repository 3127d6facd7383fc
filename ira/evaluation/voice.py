"""Clips in, what the voice encoder knows of their voices out."""

from __future__ import annotations

from collections.abc import Sequence

import torch
from torch import Tensor

from ira.data.manifest import Row
from ira.data.shards import Example
from ira.data.text import CharTokenizer
from ira.data.voices import attributes, captions
from ira.evaluation import metrics
from ira.evaluation.report import Metrics
from ira.evaluation.shares import Advance, recordings, shared
from ira.inference.pipeline import Pipeline
from ira.models.voice_encoder import embed_recording, embed_words


def measure_voice(pipeline: Pipeline, rows: list[Row], advance: Advance) -> tuple[int, Metrics]:
    """Finding a clip's caption among all captions, telling men from women, and telling speakers apart."""
    encoder, codec = pipeline.parts.voice_encoder, pipeline.parts.codec

    def work(few: Sequence[Row]) -> list[tuple[Row, Tensor]]:
        return [(row, embed_recording(encoder, codec, clip).cpu()) for row, clip in recordings(few)]

    used = shared(rows, 1, work, advance)
    examples = [_example(row) for row, _ in used]
    if not used:
        return 0, {}
    voices = torch.stack([voice for _, voice in used]).to(pipeline.parts.device)
    return len(used), {
        **_retrieval(pipeline, voices, examples),
        **_genders(pipeline, voices, examples),
        **_speakers(voices, examples),
    }


def _retrieval(pipeline: Pipeline, voices: Tensor, examples: list[Example]) -> Metrics:
    """A clip's caption is its description, else the fullest one that its tags give; `captions` are distinct."""
    own = [example.description.strip() or (captions(example) or [""])[-1] for example in examples]
    distinct = sorted({caption for caption in own if caption})
    captioned = [i for i, caption in enumerate(own) if caption]
    figures: Metrics = {"captioned": len(captioned), "captions": len(distinct)}
    if not distinct:
        return figures | {f"{name}{k}": None for k in (1, 10) for name in ("recall@", "chance@")}
    words = embed_words(pipeline.parts.voice_encoder, distinct, CharTokenizer())
    right = [distinct.index(own[i]) for i in captioned]
    for k in (1, 10):
        figures[f"recall@{k}"] = metrics.recall_at_k(voices[captioned] @ words.T, right, k)
        figures[f"chance@{k}"] = min(k / len(distinct), 1.0)
    return figures


def _genders(pipeline: Pipeline, voices: Tensor, examples: list[Example]) -> Metrics:
    sides = embed_words(pipeline.parts.voice_encoder, ["a man", "a woman"], CharTokenizer())
    guessed = (voices @ sides.T).argmax(-1).tolist()
    known = [attributes(example).get("gender") for example in examples]
    right = [guess == ("male", "female").index(g) for guess, g in zip(guessed, known, strict=True) if g]
    return {"gender_known": len(right), "gender_accuracy": metrics.mean(right)}


def _speakers(voices: Tensor, examples: list[Example]) -> Metrics:
    """Over all pairs of clips whose speakers are known."""
    alike = (voices @ voices.T).tolist()
    pairs = [(i, j) for i in range(len(examples)) for j in range(i) if examples[i].speaker and examples[j].speaker]
    same = [alike[i][j] for i, j in pairs if examples[i].speaker == examples[j].speaker]
    different = [alike[i][j] for i, j in pairs if examples[i].speaker != examples[j].speaker]
    return {
        "same_speaker_pairs": len(same),
        "different_speaker_pairs": len(different),
        "speaker_auc": metrics.ranking_area(same, different),
        "speaker_eer": metrics.equal_error_rate(same, different),
    }


def _example(row: Row) -> Example:
    """What is known of a row, as `ira.data.voices` reads it."""
    words = (row.text, row.speaker, row.description, row.language, row.instruction, row.response, row.emotion)
    return Example(torch.zeros(0, 0), 0, *words, extra=row.extra, speaker_id=row.speaker_id)
