"""Lines of stdin in, an answer of the language model to each on stdout."""

from __future__ import annotations

import re
import sys
from collections.abc import Sequence
from itertools import chain

import typer

from ira.console import warn
from ira.errors import InputError
from ira.inference.answering import Sound
from ira.inference.conversation import Conversation
from ira.inference.pipeline import Pipeline
from ira.models.audio_llm import AUDIO, TextStreamer

NAMED = re.compile(r"@(.*[^.,;:?!])([.,;:?!]*)")


def talk(pipeline: Pipeline, audio: Sequence[str], prompt: str | None) -> None:
    """A conversation whose first turn, `prompt` or the first line, has `audio` too.

    A turn that fails is named on stderr, and the next line is read.
    """
    conversation, waiting = Conversation(pipeline), list(audio)
    for line in chain([prompt] if prompt else [], sys.stdin):
        words, sounds = read_line(line)
        if not words:
            continue
        if waiting and sounds:  # places that are not marked are at the end only where none is marked
            words = " ".join([*[AUDIO] * len(waiting), words])
        _turn(conversation, words, [*waiting, *sounds])
        waiting = []


def _turn(conversation: Conversation, prompt: str, audio: list[Sound]) -> None:
    """The answer on stdout, on a terminal as it comes."""
    streamer = token_printer(conversation.pipeline) if sys.stdout.isatty() else None
    try:
        answer = conversation.say(prompt, audio, streamer=streamer)
    except InputError as error:
        warn(str(error))
        return
    if streamer is None:
        typer.echo(answer)


def token_printer(pipeline: Pipeline) -> TextStreamer:
    """What prints the words of an answer to stdout while the rest is being found."""
    from transformers import TextStreamer as Printer

    return Printer(pipeline.parts.audio_llm.llm.tokenizer, skip_special_tokens=True)


def read_line(line: str) -> tuple[str, list[Sound]]:
    """A turn's words with `<|audio|>` where it names a recording as @FILE, and those recordings.

    A mark right after the name belongs to the sentence: "And in @second.wav?".
    """
    words, sounds = [], []
    for word in line.split():
        named = NAMED.fullmatch(word)
        words.append(AUDIO + named[2] if named else word)
        sounds += [named[1]] if named else []
    return " ".join(words), sounds
