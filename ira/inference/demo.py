"""A pipeline and a folder in; a sentence spoken, understood, and a question answered aloud, as files, out."""

from __future__ import annotations

import time
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from dataclasses import dataclass, field
from pathlib import Path
from typing import TypeVar

from ira.audio.waveform import save_audio
from ira.data.text import normalize
from ira.errors import InputError
from ira.inference.answering import ListenRow
from ira.inference.pictures import draw_sound
from ira.inference.pipeline import Pipeline, SpeakRow
from ira.inference.spoken import Spoken, beginning
from ira.models.audio_llm import AUDIO

SENTENCE = "the north wind and the sun were arguing."
SENTENCE_VOICE = "a woman with a high voice speaking at a normal pace"
QUESTION = "what is the capital of france?"
HEARD_PROMPT = f"Repeat the following word for word: {AUDIO}"
ANSWER_TOKENS = 32
NO_WORDS = "I have no words for that."
REPLY_CHARACTERS = 80  # of the answer are spoken: the demo is to be short

Row = TypeVar("Row")


@dataclass
class Demo:
    """What was heard and answered, the files written with a line each, and the seconds each step took."""

    heard: str = ""
    answer: str = ""
    files: dict[Path, str] = field(default_factory=dict)
    took: dict[str, float] = field(default_factory=dict)


def run_demo(pipeline: Pipeline, out: Path, report: Callable[[str], None]) -> Demo:
    """The main job: words to speech, speech to the LLM's text, and the reply to speech. `report` gets each step's name.

    The LLM is given sound only: the waveforms that were written, never the sentences they came from.
    """
    made = Demo()
    with _timed(made, "speak a sentence and a question", report):
        rows = [SpeakRow(SENTENCE, SENTENCE_VOICE), SpeakRow(QUESTION)]
        spoken, question = (_good(row) for row in pipeline.speak_batch(rows))
    _write(made, out / "spoken.wav", spoken, f"{SENTENCE!r}, {SENTENCE_VOICE}")
    _write(made, out / "question.wav", question, f"{QUESTION!r}, the default voice")
    with _timed(made, "listen to both", report):
        rows = [ListenRow(spoken.waveform, HEARD_PROMPT), ListenRow(question.waveform)]
        made.heard, made.answer = (_good(row) for row in pipeline.listen_batch(rows, ANSWER_TOKENS))
    with _timed(made, "speak the answer", report):
        words = beginning(normalize(made.answer, strict=False), REPLY_CHARACTERS)
        wordless = not any(character.isalpha() for character in words)
        reply = pipeline.speak(NO_WORDS if wordless else words)
    instead = "the answer has no words to speak, so a fixed sentence: " if wordless else ""
    _write(made, out / "reply.wav", reply, f"{instead}{reply.text!r}, the default voice")
    with _timed(made, "draw it", report):
        draw_sound(out / "reply.png", reply.waveform, _title(reply))
    made.files[out / "reply.png"] = "waveform and spectrogram of the reply"
    return made


@contextmanager
def _timed(made: Demo, step: str, report: Callable[[str], None]) -> Iterator[None]:
    report(step)
    started = time.monotonic()
    yield
    made.took[step] = time.monotonic() - started


def _good(row: Row | InputError) -> Row:
    if isinstance(row, InputError):
        raise row
    return row


def _write(made: Demo, path: Path, spoken: Spoken, what: str) -> None:
    save_audio(path, spoken.waveform)
    made.files[path] = f"{what}; {spoken.remark}" if spoken.remark else what


def _title(spoken: Spoken) -> str:
    return f"{spoken.text} ({spoken.seconds:.1f} s)"
