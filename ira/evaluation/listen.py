"""Clips with their transcripts in, how well the language model repeats what it hears out."""

from __future__ import annotations

from collections.abc import Sequence

import torch
from torch import Tensor

from ira.data.manifest import Row
from ira.errors import InputError
from ira.evaluation import metrics
from ira.evaluation.report import Metrics
from ira.evaluation.shares import Advance, recordings, shared
from ira.inference.pipeline import Pipeline
from ira.models.audio_llm import AUDIO, PromptItem

HEARD_TOGETHER = 8
REPEAT = f"Repeat the following word for word: {AUDIO}"
SPARE_TOKENS = 16  # beyond the longest transcript, before an answer is cut off


def measure_listen(pipeline: Pipeline, rows: list[Row], advance: Advance) -> tuple[int, Metrics]:
    """Repeating what is said: from its text, its sound, nothing, and another clip's sound.

    wer: of the greedy answer, at most 1 a clip; logprob: nats a token of the true transcript as the answer, which still
    tells models apart whose answers are all wrong; gap_closed: where the sound stands between nothing and the text.
    """
    heard = shared(rows, 1, lambda few: _hear(pipeline, few), advance)
    texts = [row.text.strip() for row, _ in heard]
    conditions = listen_conditions(texts, [sound for _, sound in heard])
    figures: Metrics = {}
    for name, items in conditions.items():
        figures[f"logprob_{name}"] = metrics.mean(_log_chances(pipeline, items, texts))
        figures[f"wer_{name}"] = metrics.mean(_word_errors(pipeline, items, texts))
    ends = [figures.get(f"logprob_{name}") for name in ("audio", "none", "text")]
    return len(heard), {**figures, "gap_closed": metrics.gap_closed(*ends)}


def _hear(pipeline: Pipeline, rows: Sequence[Row]) -> list[tuple[Row, Tensor]]:
    """Rows with their sound as embeddings [q, E], but for those that are refused."""
    heard = []
    for row, clip in recordings(rows):
        try:
            heard.append((row, pipeline.hear(clip).cpu()))
        except InputError:
            continue
    return heard


def listen_conditions(texts: list[str], sounds: list[Tensor]) -> dict[str, list[PromptItem]]:
    """The prompts of the four rows of the comparison; a single clip has no other sound, so nothing is shuffled."""
    other = sounds[1:] + sounds[:1] if len(sounds) > 1 else []
    return {
        "text": [_item(REPEAT.replace(AUDIO, text.replace(AUDIO, " "))) for text in texts],
        "audio": [_item(REPEAT, sound) for sound in sounds],
        "none": [_item(REPEAT.replace(AUDIO, "").strip()) for _ in texts],
        "shuffled": [_item(REPEAT, sound) for sound in other],
    }


def _item(prompt: str, *sounds: Tensor) -> PromptItem:
    return PromptItem([{"role": "user", "content": prompt}], list(sounds))


def _log_chances(pipeline: Pipeline, items: list[PromptItem], texts: list[str]) -> list[float]:
    """Mean log-probability in nats a token of each transcript with the end of turn, as the answer to its prompt."""
    model = pipeline.parts.audio_llm

    def work(pairs: Sequence[tuple[PromptItem, str]]) -> list[float]:
        found = []
        for item, text in pairs:
            answer = [*_token_ids(pipeline, text), model.llm.eos_ids[-1]]
            logits = model.response_logits([item], [answer]).logits[0].float()
            chances = logits.log_softmax(-1).gather(1, torch.tensor(answer, device=logits.device)[:, None])
            found.append(float(chances.mean()))
        return found

    return shared(list(zip(items, texts[: len(items)], strict=True)), 1, work)


def _word_errors(pipeline: Pipeline, items: list[PromptItem], texts: list[str]) -> list[float]:
    limit = max((len(_token_ids(pipeline, text)) for text in texts), default=0) + SPARE_TOKENS
    answers = shared(items, HEARD_TOGETHER, lambda few: pipeline.parts.audio_llm.generate(few, limit))
    rates = [metrics.capped_wer(text, answer) for text, answer in zip(texts[: len(answers)], answers, strict=True)]
    return [rate for rate in rates if rate is not None]


def _token_ids(pipeline: Pipeline, text: str) -> list[int]:
    return pipeline.parts.audio_llm.llm.tokenizer(text, add_special_tokens=False).input_ids
