"""Clips with what is known of them in; how well the language model solves tasks about what it hears, out.

Each task of a clip is asked under five conditions. `text` has the transcript in place of the sound and `cascade` what
an independent recogniser makes of it, both read by the LLM as it came, LoRA off; `audio` has the sound, `none` nothing
and `shuffled` another clip's sound. Beside the sound no condition is given anything of what is known.
"""

from __future__ import annotations

import importlib.util
import random
from collections.abc import Callable, Sequence
from contextlib import nullcontext
from dataclasses import dataclass
from functools import cache, partial
from typing import Any

import torch
from torch import Tensor

from ira.console import warn
from ira.data.manifest import Row
from ira.data.tasks import SETTLED, TASKS, Task, score
from ira.errors import InputError
from ira.evaluation import metrics
from ira.evaluation.clips import is_english, posed_by
from ira.evaluation.judges import open_recogniser, recognise
from ira.evaluation.report import Found, Metrics
from ira.evaluation.shares import Advance, recordings, shared
from ira.inference.pipeline import Pipeline
from ira.models.audio_llm import AUDIO, PromptItem
from ira.models.llm import lora_off
from ira.processes import rank

CONDITIONS = ("text", "cascade", "audio", "none", "shuffled")
READ = ("text", "cascade")
WORDED = ("text", "audio", "none", "shuffled")  # those under which the transcript itself is weighed as the answer
HEARD_TOGETHER = 8
SPARE_TOKENS = 16  # beyond the longest right answer, before an answer is cut off
LEAST_GAP = 0.05  # between nothing and the text; of less no share is worth printing

Words = Callable[[Tensor], str]


@dataclass(frozen=True)
class Clip:
    """A recording [q, E] as the adapter hears it, and as the recogniser does; None where nobody asked it."""

    row: Row
    sound: Tensor
    recognised: str | None

    @property
    def text(self) -> str:
        """The transcript, or what a manifest without transcripts says instead; "" where it says nothing."""
        answer = self.row.extra.get("answer")
        return self.row.text.strip() or (answer.strip() if isinstance(answer, str) else "")


@dataclass(frozen=True)
class Asked:
    """A task of a clip, by its number; what is asked under each condition that it has, the answers and their scores."""

    clip: int
    task: Task
    items: dict[str, PromptItem]
    said: dict[str, str]
    scores: dict[str, float]


def measure_listen(pipeline: Pipeline, rows: list[Row], advance: Advance) -> tuple[int, Found]:
    """Every task that the rows pose, under every condition, greedily.

    `TASK_CONDITION`: the mean score. `gap_closed`, `TASK_gap_closed`: where the sound stands between nothing (0) and
    the text (1), of tasks that the words settle. `logprob_CONDITION`: nats a token of the true transcript as the
    answer, which still tells models apart whose answers are all wrong. `gender_same_words`: of the texts that a man and
    a woman say, the share in which both are always known. The groups hold the 95 % intervals, over clips.
    """
    recogniser = cache(_recogniser)
    clips = shared(rows, 1, lambda few: _hear(pipeline, recogniser, few), advance)
    asked = _answered(pipeline, pose(clips))
    groups = [_group([one for one in asked if one.task.name == name]) for name in _names(asked)]
    figures = _log_chances(pipeline, asked) | _figures(groups)
    if "gender" in _names(asked):
        figures["gender_same_words"] = same_words(asked, clips)
    return len(clips), Found(figures, groups, [_sentence(one, clips[one.clip]) for one in asked])


def _hear(pipeline: Pipeline, recogniser: Callable[[], Words | None], rows: Sequence[Row]) -> list[Clip]:
    """The rows with their sound, but for those that are refused."""
    heard = []
    for row, waveform in recordings(rows):
        try:
            sound = pipeline.hear(waveform).cpu()
        except InputError:
            continue
        words_of = recogniser() if is_english(row) else None
        heard.append(Clip(row, sound, words_of(waveform) if words_of else None))
    return heard


def _recogniser() -> Words | None:
    """What writes down the words of a waveform; None, with a warning, where its package is not installed."""
    if importlib.util.find_spec("pocketsphinx"):
        return partial(recognise, open_recogniser())
    if rank() == 0:
        warn("pocketsphinx is not installed, so that nothing is said of `cascade`; pip install -e '.[eval]'")
    return None


def pose(clips: Sequence[Clip]) -> list[Asked]:
    """Every task of the clips, one kind after another, with what is asked under the conditions that it has."""
    posed = []
    for name in TASKS:
        tasks = {i: [task for task in posed_by(clip.row) if task.name == name] for i, clip in enumerate(clips)}
        numbers = [i for i, some in tasks.items() if some]
        others = other_clips([clips[i].text for i in numbers])
        for i, other in zip(numbers, others, strict=True):
            sound = None if other is None else clips[numbers[other]].sound
            posed += [Asked(i, task, _items(task.prompt, clips[i], sound), {}, {}) for task in tasks[i]]
    return posed


def other_clips(texts: Sequence[str]) -> list[int | None]:
    """For each clip the number of another, drawn with a fixed seed, that says something else if any does."""
    order = random.Random(0).sample(range(len(texts)), len(texts))
    found: list[int | None] = [None] * len(texts)
    for place, clip in enumerate(order):
        following = order[place + 1 :] + order[:place]
        found[clip] = next((i for i in following if texts[i] != texts[clip]), following[0] if following else None)
    return found


def _items(prompt: str, clip: Clip, other: Tensor | None) -> dict[str, PromptItem]:
    """The prompts of the conditions; one that has nothing to offer in place of the sound is not there."""
    items = {
        "text": _item(f"{prompt} {_plain(clip.text)}") if clip.text else None,
        "cascade": None if clip.recognised is None else _item(f"{prompt} {_plain(clip.recognised)}".strip()),
        "audio": _item(f"{prompt} {AUDIO}", clip.sound),
        "none": _item(prompt),
        "shuffled": None if other is None else _item(f"{prompt} {AUDIO}", other),
    }
    return {name: item for name, item in items.items() if item}


def _plain(text: str) -> str:
    return text.replace(AUDIO, " ")


def _item(prompt: str, *sounds: Tensor) -> PromptItem:
    return PromptItem([{"role": "user", "content": prompt}], list(sounds))


def _answered(pipeline: Pipeline, asked: list[Asked]) -> list[Asked]:
    """The same with answers and scores."""
    for name in _names(asked):
        some = [one for one in asked if one.task.name == name]
        limit = max(len(_token_ids(pipeline, one.task.answer)) for one in some) + SPARE_TOKENS
        for condition in CONDITIONS:
            having = [one for one in some if condition in one.items]
            said = _answers(pipeline, [one.items[condition] for one in having], limit, read=condition in READ)
            for one, answer in zip(having, said, strict=True):
                one.said[condition], one.scores[condition] = answer, score(one.task, answer)
    return asked


def _answers(pipeline: Pipeline, items: list[PromptItem], limit: int, read: bool) -> list[str]:
    """Greedy answers; what is asked twice in the same words, without a sound, is answered once."""
    once = {_known_by(i, item): item for i, item in enumerate(items)}
    model = pipeline.parts.audio_llm
    with lora_off(model.llm) if read else nullcontext():
        said = shared(list(once.values()), HEARD_TOGETHER, lambda few: model.generate(few, limit))
    told = dict(zip(once, said, strict=True))
    return [told[_known_by(i, item)] for i, item in enumerate(items)]


def _known_by(number: int, item: PromptItem) -> int | str:
    return number if item.audio else item.messages[0]["content"]


def _log_chances(pipeline: Pipeline, asked: Sequence[Asked]) -> Metrics:
    """`logprob_CONDITION` of the transcripts, and where the sound stands between nothing and the text by them."""
    some = [one for one in asked if one.task.name == "transcription"]
    figures: Metrics = {}
    for name in WORDED:
        pairs = [(one.items[name], one.task.answer) for one in some if name in one.items]
        with lora_off(pipeline.parts.audio_llm.llm) if name in READ else nullcontext():
            chances = shared(pairs, 1, lambda few: [log_chance(pipeline, *pair) for pair in few])
        figures[f"logprob_{name}"] = metrics.mean(chances)
    audio, none, text = (figures[f"logprob_{name}"] for name in ("audio", "none", "text"))
    return {**figures, "logprob_gap_closed": metrics.gap_closed(audio, none, text)}


def log_chance(pipeline: Pipeline, item: PromptItem, text: str) -> float:
    """Mean log-probability in nats a token of a text with the end of turn, as the answer to a prompt."""
    model = pipeline.parts.audio_llm
    answer = [*_token_ids(pipeline, text), model.llm.eos_ids[-1]]
    logits = model.response_logits([item], [answer]).logits[0].float()
    return float(logits.log_softmax(-1).gather(1, torch.tensor(answer, device=logits.device)[:, None]).mean())


def _token_ids(pipeline: Pipeline, text: str) -> list[int]:
    return pipeline.parts.audio_llm.llm.tokenizer(text, add_special_tokens=False).input_ids


def _names(asked: Sequence[Asked]) -> list[str]:
    return list(dict.fromkeys(one.task.name for one in asked))


def _group(asked: Sequence[Asked]) -> dict[str, Any]:
    """One task: how many clips and questions, [mean, low, high] of the scores of each condition and of the share."""
    found: dict[str, Any] = {"task": asked[0].task.name, "clips": len({one.clip for one in asked}), "asked": len(asked)}
    for name in CONDITIONS:
        having = [one for one in asked if name in one.scores]
        found[name] = metrics.mean_interval([one.scores[name] for one in having], [one.clip for one in having])
    return found | {"gap_closed": gap_share(asked) if asked[0].task.name in SETTLED else None}


def gap_share(asked: Sequence[Asked]) -> metrics.Interval | None:
    """(audio - none) / (text - none) over the questions that have all three."""
    ends = ("audio", "none", "text")
    having = [one for one in asked if all(name in one.scores for name in ends)]
    scores = [[one.scores[name] for one in having] for name in ends]
    return metrics.gap_interval(*scores, clips=[one.clip for one in having], least=LEAST_GAP)


def _figures(groups: Sequence[dict[str, Any]]) -> Metrics:
    """The means of the groups; the share of the gap of transcriptions has the plain name."""
    figures: Metrics = {"gap_closed": None}
    for group in groups:
        task = group["task"]
        figures |= {f"{task}_{name}": group[name] and group[name][0] for name in CONDITIONS}
        if task in SETTLED:
            name = "gap_closed" if task == "transcription" else f"{task}_gap_closed"
            figures[name] = group["gap_closed"] and group["gap_closed"][0]
    return figures


def same_words(asked: Sequence[Asked], clips: Sequence[Clip]) -> float | None:
    """Of the texts said by a man and a woman, the share in which the sound tells who of every clip."""
    texts: dict[str, list[Asked]] = {}
    for one in asked:
        if one.task.name == "gender" and clips[one.clip].row.text.strip():
            texts.setdefault(clips[one.clip].row.text.strip(), []).append(one)
    both = [some for some in texts.values() if len({one.task.answer for one in some}) > 1]
    return metrics.mean([float(all(one.scores["audio"] == 1 for one in some)) for some in both])


def _sentence(one: Asked, clip: Clip) -> dict[str, Any]:
    """All that is known of one question, and of its answers."""
    row, task = clip.row, one.task
    known = {"row": row.number, "voice": row.speaker, "language": row.language, "text": clip.text}
    asked = {"recognised": clip.recognised, "task": task.name, "about": task.about, "prompt": task.prompt}
    answers = {f"said_{name}": one.said.get(name) for name in CONDITIONS}
    return known | asked | {"wanted": task.answer} | answers | {f"score_{c}": one.scores.get(c) for c in CONDITIONS}
