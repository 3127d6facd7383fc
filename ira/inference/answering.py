"""A prompt and sounds in, their places in it checked, and the language model's answer out in bits, as they come."""

from __future__ import annotations

import os
from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from itertools import islice
from pathlib import Path

from torch import Tensor

from ira.errors import InputError
from ira.inference.speaking import cpu_threads
from ira.models.audio_llm import AUDIO, AudioLLM, Past, PromptItem

Sound = str | Path | Tensor
HALF = "\ufffd"  # what a decoder writes for a character of which some bytes are still to come


@dataclass(frozen=True)
class ListenRow:
    """One prompt, about a sound, several, or none. A prompt without `<|audio|>` gets one for each sound at its end."""

    audio: Sound | Sequence[Sound] | None
    prompt: str | None = None


def place_audio(prompt: str | None, count: int) -> str:
    """The prompt with `<|audio|>` for each of `count` sounds, put at its end where it has none.

    Raises:
        InputError: another number of places than sounds, or neither a prompt nor a sound.
    """
    prompt = (prompt or "").strip()
    if any(
        "\ud800" <= character <= "\udfff" for character in prompt
    ):  # of bytes that were no text; no tokenizer reads it
        raise InputError(f"the prompt {prompt[:40]!a} is not Unicode text; write it as UTF-8")
    if AUDIO not in prompt:
        prompt = " ".join([prompt, *[AUDIO] * count]).strip()
    if prompt.count(AUDIO) != count:
        raise InputError(f"the prompt has {prompt.count(AUDIO)} {AUDIO} for {count} sounds; give one for each")
    if not prompt:
        raise InputError("neither a sound nor a prompt; give one of them")
    return prompt


def sounds_of(audio: Sound | Sequence[Sound] | None) -> list[Sound]:
    """No sound, one or several, as a list."""
    if audio is None:
        return []
    return [audio] if isinstance(audio, (str, Path, Tensor)) else list(audio)


def answer_bits(model: AudioLLM, item: PromptItem, max_new_tokens: int, past: Past | None = None) -> Iterator[str]:
    """Bits that joined are the answer of `AudioLLM.generate`; none is half a character.

    past: what the LLM has read already and the prompt may begin with; it is brought up to date.
    """
    ids: list[int] = []
    said = ""
    for picked in islice(_on_few_threads(model, item, past), max_new_tokens):
        if (token := int(picked)) in model.llm.eos_ids:
            break
        ids.append(token)
        text = model.llm.tokenizer.decode(ids, skip_special_tokens=True).strip()
        if text.startswith(said) and not text.endswith(HALF) and text != said:
            yield text[len(said) :]
            said = text
    text = model.llm.tokenizer.decode(ids, skip_special_tokens=True).strip()
    if text != said:
        yield text[len(said) :]


def llm_threads() -> int:
    """Of the CPU, for one answer: products of one row gain little from more, and lose much where they wait."""
    return max(1, (os.cpu_count() or 1) // 4)


def _on_few_threads(model: AudioLLM, item: PromptItem, past: Past | None) -> Iterator[int]:
    """Between one token and the next whoever asks has the threads of before."""
    draws = model.draws([item], past=past)
    while True:
        with cpu_threads(llm_threads()):
            picked = next(draws, None)
        if picked is None:
            return
        yield int(picked[0])
