from __future__ import annotations

from pathlib import Path

import pytest
import torch

from ira.errors import InputError
from ira.inference.conversation import Conversation
from ira.inference.pipeline import Pipeline
from ira.models.audio_llm import AUDIO, PromptItem


@pytest.fixture
def pipeline(tiny_model_folder: Path) -> Pipeline:
    return Pipeline.from_folder(tiny_model_folder, "cpu")


@pytest.fixture
def seen(pipeline: Pipeline, monkeypatch: pytest.MonkeyPatch) -> list[PromptItem]:
    """The prompts that reach the language model, which answers with their number."""
    found: list[PromptItem] = []

    def generate(items: list[PromptItem], limit: int, **_: object) -> list[str]:
        found.extend(items)
        return [f"answer {len(found)} {AUDIO}"]

    monkeypatch.setattr(pipeline.parts.audio_llm, "generate", generate)
    return found


def tone(seconds: float, hertz: float) -> torch.Tensor:
    return 0.3 * torch.sin(2 * torch.pi * hertz * torch.arange(int(24_000 * seconds)) / 24_000)[None]


def test_every_turn_sees_the_sounds_and_the_words_of_those_before(pipeline: Pipeline, seen: list[PromptItem]):
    talk, first, second = Conversation(pipeline), tone(0.5, 300), tone(0.7, 200)
    talk.say("What is this?", first)
    talk.say("And then?")
    talk.say(f"{AUDIO} or not?", second)
    contents = [message["content"] for message in seen[2].messages]
    assert contents == [f"What is this? {AUDIO}", "answer 1  ", "And then?", "answer 2  ", f"{AUDIO} or not?"]
    assert [message["role"] for message in seen[2].messages] == ["user", "assistant"] * 2 + ["user"]
    assert len(seen[1].audio) == 1 and len(seen[2].audio) == 2
    assert torch.equal(seen[2].audio[0], pipeline.hear(first)) and torch.equal(seen[2].audio[1], pipeline.hear(second))


def test_a_turn_that_fails_leaves_the_conversation_as_it_was(
    pipeline: Pipeline, seen: list[PromptItem], tmp_path: Path
):
    talk = Conversation(pipeline)
    talk.say("hello")
    with pytest.raises(InputError, match="absent.wav"):
        talk.say("what of this", str(tmp_path / "absent.wav"))
    with pytest.raises(InputError, match="give one for each"):
        talk.say(f"{AUDIO} {AUDIO}", tone(0.5, 300))
    assert len(talk.messages) == 2 and not talk.heard
