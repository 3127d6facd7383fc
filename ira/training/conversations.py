"""Recordings with transcripts in; prompts about them with the answers that the frozen LLM gives to the text, out.

The same prompt serves teacher and student: where the student has the sound, the teacher has the words.
"""

from __future__ import annotations

import hashlib
import json
from collections.abc import Sequence
from dataclasses import asdict, dataclass
from pathlib import Path

import torch
from rich.console import Console
from rich.progress import track
from torch import Tensor

from ira.checkpoint import write_aside
from ira.config import AlignStage
from ira.data.batches import spread
from ira.data.shards import Example, TokenShards
from ira.errors import InputError
from ira.models.audio_llm import AUDIO, AudioLLM, PromptItem
from ira.models.llm import lora_off

REPEAT = f"Repeat the following word for word: {AUDIO}"
ASKED = (
    AUDIO,
    f"What is this about? Answer in one short sentence. {AUDIO}",
    f"Continue this text: {AUDIO}",
)
WRITTEN_TOGETHER = 16  # answers that the teacher writes in one batch


@dataclass(frozen=True)
class Turn:
    """One prompt about row `row` of the shards, and the answer to learn."""

    row: int
    prompt: str
    response: str


def conversations(
    audio_llm: AudioLLM, shards: TokenShards, settings: AlignStage, limit: int | None = None
) -> list[Turn]:
    """A turn for every row with text: repeating it, or an answer that the teacher wrote.

    With `limit`, for so many of the rows, spread over all. The teacher's answers are greedy, so they follow
    from the weights and the text; they are kept beside the shards. Rows with an `instruction` and a `response` of
    their own use those.
    """
    examples = [(i, shards[i]) for i in range(len(shards))]
    spoken = [(i, e) for i, e in examples if e.text]
    spoken = spoken if limit is None else spread(spoken, limit)
    if not spoken:
        raise InputError(f"{shards.folder}: no row has text; the teacher needs transcripts, give a manifest with some")
    own = [Turn(i, _place(e.instruction), e.response) for i, e in spoken if e.instruction and e.response]
    repeat = [Turn(i, REPEAT, written(e)) for i, e in spoken]
    step = max(len(spoken) // max(settings.teacher_responses, 1), 1)
    asked = [(i, ASKED[n % len(ASKED)], written(e)) for n, (i, e) in enumerate(spoken[::step])]
    asked = asked[: settings.teacher_responses]
    kept = shards.folder / f"answers-{_key(audio_llm, settings, asked)}.jsonl"
    return own + repeat + (_read(kept) or _write(kept, audio_llm, asked, settings))


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


def listen_rows(audio_llm: AudioLLM, examples: Sequence[Example], device: torch.device) -> list[Tensor]:
    """What the adapter makes of each recording: a [q, E] tensor a row."""
    frames = torch.tensor([e.frames for e in examples])
    codes = torch.nn.utils.rnn.pad_sequence([e.codes.T for e in examples], batch_first=True).transpose(1, 2)
    return audio_llm.listen(codes.to(device), frames.to(device)).rows()


def written(example: Example) -> str:
    """The transcript with its case and punctuation, where the shards kept them: what an LLM is used to reading."""
    return str(example.extra.get("written") or example.text)


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
