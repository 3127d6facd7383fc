"""Recordings with what is known of them in; prompts about them with the answers to learn out.

What words settle is learnt from the frozen LLM reading the text: the same prompt serves teacher and student, and where
the student has the sound, the teacher has the words. What only the voice tells (`told`) is learnt from the manifest.
"""

from __future__ import annotations

import hashlib
import json
import random
from collections.abc import Callable, Sequence
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import Any

import torch
from rich.console import Console
from rich.progress import track
from torch import Tensor

from ira.checkpoint import write_aside
from ira.config import WHOLE_FRAMES, AlignStage
from ira.data.batches import spread
from ira.data.shards import Example, TokenShards, language_of
from ira.data.tasks import SETTLED, Task, prompts_of, tasks_of
from ira.errors import InputError
from ira.models.adapter import AudioEmbeddings
from ira.models.audio_llm import AUDIO, AudioLLM, PromptItem
from ira.models.llm import lora_off
from ira.training.ctc import named

ASKED = (
    AUDIO,
    f"What is this about? Answer in one short sentence. {AUDIO}",
    f"Continue this text: {AUDIO}",
    f"Reply to this in one short sentence: {AUDIO}",
    f"Translate this into French: {AUDIO}",
)
WRITTEN_TOGETHER = 16  # answers that the teacher writes in one batch
READ = SETTLED - {"question", "command"}  # what the teacher is read out for; commands it reads too badly
FEW = 8  # of so many rows one is asked for its language


@dataclass(frozen=True)
class Turn:
    """One prompt about row `row` of the shards, and the answer to learn; `told`: by itself, not from the teacher."""

    row: int
    prompt: str
    response: str
    told: bool = False


def conversations(
    audio_llm: AudioLLM, shards: TokenShards, settings: AlignStage, limit: int | None = None
) -> list[Turn]:
    """Turns about every row that has something to learn from.

    With `limit`, about so many of the rows, spread over all. The teacher's answers are greedy, so they follow from the
    weights and the text; they are kept beside the shards. Rows with an `instruction` and a `response` of their own use
    those; questions are answered by the teacher, the other tasks by the manifest.
    """
    examples = [(i, shards[i]) for i in range(len(shards))]
    posed = [(i, e, known_tasks(e)) for i, e in examples]
    posed = [(i, e, tasks) for i, e, tasks in posed if tasks or e.text]
    posed = posed if limit is None else spread(posed, limit)
    if not posed:
        raise InputError(f"{shards.folder}: no row has text; the teacher needs transcripts, give a manifest with some")
    own = [Turn(i, _place(e.instruction), e.response) for i, e, _ in posed if e.instruction and e.response]
    given = [turn for i, _, tasks in posed for turn in _turns(i, tasks)]
    asked = [(i, _worded(task, i), written(e)) for i, e, tasks in posed for task in tasks if task.name == "question"]
    spoken = [(i, e) for i, e, _ in posed if e.text]
    spoken = spread(spoken, settings.teacher_responses)
    asked += [(i, ASKED[n % len(ASKED)], written(e)) for n, (i, e) in enumerate(spoken)]
    kept = shards.folder / f"answers-{_key(audio_llm, settings, asked)}.jsonl"
    return own + given + (_read(kept) or _write(kept, audio_llm, asked, settings))


def known_tasks(example: Example) -> list[Task]:
    """What the manifest lets one ask of a recording."""
    known = {"emotion": example.emotion, "language": example.language, **example.extra}
    return tasks_of(written(example), known, language_of(example))


def _turns(row: int, tasks: Sequence[Task]) -> list[Turn]:
    """The transcript where there is one, and one of the other tasks, drawn by the number of the row.

    The teacher answers questions. The language is heard so easily that few rows are enough.
    """
    said = [task for task in tasks if task.name == "transcription"]
    others = [task for task in tasks if task.name not in ("transcription", "question", "language")]
    others = others if row % FEW else [task for task in tasks if task.name == "language"]
    drawn = said + random.Random(row).sample(others, min(1, len(others)))
    return [Turn(row, _worded(task, row), task.answer, task.name not in READ) for task in drawn]


def _worded(task: Task, row: int) -> str:
    """One of the task's wordings, by the number of the row."""
    wordings = prompts_of(task.name, task.about)
    return f"{wordings[row % len(wordings)]} {AUDIO}"


def student_item(audio: Tensor, prompt: str) -> PromptItem:
    """The prompt with sound [q, E] in its place."""
    return PromptItem([{"role": "user", "content": prompt}], [audio])


def teacher_item(text: str, prompt: str) -> PromptItem:
    """The prompt with the words in its place, and nothing to hear."""
    return PromptItem([{"role": "user", "content": prompt.replace(AUDIO, text)}])


def response_ids(audio_llm: AudioLLM, response: str) -> list[int]:
    """Tokens of an answer with the end of turn."""
    tokenizer = audio_llm.llm.tokenizer
    return [*tokenizer(response, add_special_tokens=False).input_ids, audio_llm.llm.eos_ids[-1]]


def listen_to(
    audio_llm: AudioLLM,
    examples: Sequence[Example],
    device: torch.device,
    hidden: Callable[[Tensor, int], Tensor] | None = None,
) -> AudioEmbeddings:
    """What the adapter makes of some recordings; `hidden` says from the rows' sizes which stacks it does not hear."""
    frames = torch.tensor([e.frames for e in examples])
    codes = torch.nn.utils.rnn.pad_sequence([e.codes.T for e in examples], batch_first=True).transpose(1, 2)
    codes = torch.nn.functional.pad(codes, (0, -codes.shape[-1] % WHOLE_FRAMES))  # few shapes: see `collate`
    stack = audio_llm.adapter.config.stack
    hide = None if hidden is None else hidden(-(-frames // stack), -(-codes.shape[-1] // stack)).to(device)
    return audio_llm.listen(codes.to(device), frames.to(device), hide)


def written(example: Example) -> str:
    """The transcript with its case and punctuation, where the shards kept them: what an LLM is used to reading."""
    return str(example.extra.get("written") or example.text)


def spoken_tokens(tokenizer: Any, shards: TokenShards) -> list[int]:
    """Ids of the LLM's tokens that the transcripts are made of, in rising order."""
    return sorted({token for i in range(len(shards)) for token in named(written(shards[i]), tokenizer)})


def _place(instruction: str) -> str:
    return instruction if AUDIO in instruction else f"{instruction} {AUDIO}"


def _key(audio_llm: AudioLLM, settings: AlignStage, asked: list[tuple[int, str, str]]) -> str:
    """What the answers follow from: teacher (known by its name and first embeddings), prompts, texts, length."""
    plain = json.dumps([audio_llm.llm.name, settings.response_tokens, asked])
    embeddings = audio_llm.llm.model.get_input_embeddings().weight[:64].detach().float().cpu()
    return hashlib.sha256(plain.encode() + embeddings.numpy().tobytes()).hexdigest()[:12]


def _read(path: Path) -> list[Turn]:
    if not path.is_file():
        return []
    return [Turn(**json.loads(line)) for line in path.read_text(encoding="utf-8").splitlines()]


def _write(path: Path, audio_llm: AudioLLM, asked: list[tuple[int, str, str]], settings: AlignStage) -> list[Turn]:
    turns = []
    with lora_off(audio_llm.llm):
        parts = range(0, len(asked), WRITTEN_TOGETHER)
        for start in track(parts, "teacher's answers", console=Console(stderr=True)):
            part = asked[start : start + WRITTEN_TOGETHER]
            items = [teacher_item(text, prompt) for _, prompt, text in part]
            answers = audio_llm.generate(items, settings.response_tokens)
            turns += [Turn(row, prompt, a) for (row, prompt, _), a in zip(part, answers, strict=True) if a]
    with write_aside(path) as aside:
        aside.write_text("".join(json.dumps(asdict(turn)) + "\n" for turn in turns), encoding="utf-8")
    return turns
