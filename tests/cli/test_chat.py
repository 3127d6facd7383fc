"""Lines of a conversation: which words name a recording."""

from __future__ import annotations

import pytest

from ira.cli.chat import read_line
from ira.models.audio_llm import AUDIO


@pytest.mark.parametrize(
    ("line", "words", "sounds"),
    [
        ("what is said?\n", "what is said?", []),
        ("and in @second.wav?", f"and in {AUDIO}?", ["second.wav"]),
        ("@a/one.wav, @two.flac: which?", f"{AUDIO}, {AUDIO}: which?", ["a/one.wav", "two.flac"]),
        ("mail me @ home, or @...", "mail me @ home, or @...", []),
        ("anna@example.org", "anna@example.org", []),
    ],
)
def test_a_mark_after_a_name_belongs_to_the_sentence(line, words, sounds):
    assert read_line(line) == (words, sounds)
