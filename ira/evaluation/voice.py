"""Clips in, what the voice encoder knows of their voices out."""

from __future__ import annotations

from collections import Counter
from collections.abc import Sequence

import torch
from torch import Tensor

from ira.audio.measure import measure
from ira.audio.waveform import SAMPLE_RATE
from ira.data.manifest import Row
from ira.data.shards import Example
from ira.data.text import CharTokenizer
from ira.data.voices import GROWN, alternatives, attributes, captions, with_measures
from ira.evaluation import metrics
from ira.evaluation.report import Metrics
from ira.evaluation.shares import Advance, recordings, shared
from ira.inference.pipeline import Pipeline
from ira.models.voice_encoder import embed_recording, embed_words

NAMED = ("pitch", "pace", "age", "emotion", "noise", "reverberation")


def measure_voice(pipeline: Pipeline, rows: list[Row], advance: Advance) -> tuple[int, Metrics]:
    """Finding a clip's caption among all captions, naming what is known of it, and telling speakers apart."""
    encoder, codec = pipeline.parts.voice_encoder, pipeline.parts.codec

    def work(few: Sequence[Row]) -> list[tuple[Row, Tensor, dict[str, float]]]:
        heard = recordings(few)
        return [(row, embed_recording(encoder, codec, clip).cpu(), measure(clip, SAMPLE_RATE)) for row, clip in heard]

    used = shared(rows, 1, work, advance)
    examples = [_example(row, measures) for row, _, measures in used]
    if not used:
        return 0, {}
    voices = torch.stack([voice for _, voice, _ in used]).to(pipeline.parts.device)
    return len(used), {
        **_retrieval(pipeline, voices, examples),
        **_genders(pipeline, voices, examples),
        **_names(pipeline, voices, examples),
        **_speakers(voices, examples),
    }


def _read(pipeline: Pipeline, words: list[str]) -> Tensor:
    return embed_words(pipeline.parts.voice_encoder, words, CharTokenizer())


def _retrieval(pipeline: Pipeline, voices: Tensor, examples: list[Example]) -> Metrics:
    """A clip's caption is its description, else the fullest one that its tags give; `full_` is of the fullest for all.

    `captions` are the distinct ones, of which chance picks.
    """
    fullest = [(captions(example) or [""])[-1] for example in examples]
    own = [example.description.strip() or full for example, full in zip(examples, fullest, strict=True)]
    in_full = {f"full_{name}": value for name, value in _found(pipeline, voices, fullest).items()}
    return _found(pipeline, voices, own) | in_full


def _found(pipeline: Pipeline, voices: Tensor, own: list[str]) -> Metrics:
    distinct = sorted({caption for caption in own if caption})
    captioned = [i for i, caption in enumerate(own) if caption]
    figures: Metrics = {"captioned": len(captioned), "captions": len(distinct)}
    if not distinct:
        missing = ("recall@1", "chance@1", "recall@10", "chance@10", "matching_cosine", "other_cosine")
        return figures | {name: None for name in missing}
    alike = voices[captioned] @ _read(pipeline, distinct).T
    right = [distinct.index(own[i]) for i in captioned]
    for k in (1, 10):
        figures[f"recall@{k}"] = metrics.recall_at_k(alike, right, k)
        figures[f"chance@{k}"] = min(k / len(distinct), 1.0)
    matches = torch.zeros_like(alike, dtype=torch.bool)
    matches[range(len(right)), right] = True
    figures["matching_cosine"] = float(alike[matches].mean())
    figures["other_cosine"] = metrics.mean(alike[~matches].tolist())
    return figures


def _genders(pipeline: Pipeline, voices: Tensor, examples: list[Example]) -> Metrics:
    """The grown by "a man" and "a woman"; boys and girls, whose voices differ little, apart by their own words."""
    figures: Metrics = {}
    tags = [attributes(example) for example in examples]
    for name, sides, grown in (("gender", ["a man", "a woman"], True), ("child_gender", ["a boy", "a girl"], False)):
        known = [i for i, tag in enumerate(tags) if "gender" in tag and (tag.get("age", "young") in GROWN) == grown]
        guessed = (voices[known] @ _read(pipeline, sides).T).argmax(-1).tolist()
        right = [guess == ("male", "female").index(tags[i]["gender"]) for guess, i in zip(guessed, known, strict=True)]
        figures |= {f"{name}_known": len(right), f"{name}_accuracy": metrics.mean(right)}
    return figures


def _names(pipeline: Pipeline, voices: Tensor, examples: list[Example]) -> Metrics:
    """How often the nearest of the captions that tell an attribute's values apart is the right one.

    `X_commonest` is what always saying the commonest value would give. Of pitch, with five values, also how often it is
    at most one step away, beside what always saying "medium" would give.
    """
    options = [alternatives(attributes(example)) for example in examples]
    distinct = sorted({words for scales in options for name in scales for words in scales[name][0]})
    read = dict(zip(distinct, _read(pipeline, distinct), strict=True)) if distinct else {}
    figures: Metrics = {}
    for name in NAMED:
        asked = [(voice, *scales[name]) for voice, scales in zip(voices, options, strict=True) if name in scales]
        truth = [right for _, _, right in asked]
        guess = [int((torch.stack([read[words] for words in scale]) @ voice).argmax()) for voice, scale, _ in asked]
        figures[f"{name}_known"] = len(asked)
        figures[f"{name}_accuracy"] = metrics.mean([a == b for a, b in zip(guess, truth, strict=True)])
        figures[f"{name}_commonest"] = max(Counter(truth).values()) / len(truth) if truth else None
        if name == "pitch":
            figures["pitch_within_one"] = metrics.mean([abs(a - b) <= 1 for a, b in zip(guess, truth, strict=True)])
            figures["pitch_within_one_of_medium"] = metrics.mean([abs(2 - b) <= 1 for b in truth])
    return figures


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


def _example(row: Row, measures: dict[str, float]) -> Example:
    """What is known and measured of a row, as `ira.data.voices` reads it."""
    words = (row.text, row.speaker, row.description, row.language, row.instruction, row.response, row.emotion)
    extra = with_measures(row.extra, measures, row.text)
    return Example(torch.zeros(0, 0), 0, *words, extra=extra, speaker_id=row.speaker_id)
