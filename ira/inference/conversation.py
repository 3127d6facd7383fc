"""Turns of a talk about sounds in, the language model's answers out; each turn sees all that was said and heard."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass, field

from torch import Tensor

from ira.inference.answering import Sound, llm_threads, place_audio, sounds_of
from ira.inference.pipeline import Pipeline
from ira.inference.speaking import cpu_threads
from ira.models.audio_llm import AUDIO, Past, PromptItem, TextStreamer


@dataclass
class Conversation:
    """messages: {"role", "content"} so far, the user's with one `<|audio|>` for each of `heard`: [q, E] embeddings."""

    pipeline: Pipeline
    messages: list[dict[str, str]] = field(default_factory=list)
    heard: list[Tensor] = field(default_factory=list)
    past: Past | None = None  # what the LLM has read already; a turn reads only what is new

    def say(
        self,
        prompt: str | None = None,
        audio: Sound | Sequence[Sound] | None = None,
        max_new_tokens: int | None = None,
        streamer: TextStreamer | None = None,
    ) -> str:
        """The answer to the next turn, greedy; `streamer` gets its tokens as they come.

        A turn that fails leaves the conversation as it was.

        Raises:
            InputError: as `Pipeline.listen`; also where the LLM has no room for all that was said.
        """
        new = [self.pipeline.hear(sound) for sound in sounds_of(audio)]
        turn = {"role": "user", "content": place_audio(prompt, len(new))}
        item = PromptItem([*self.messages, turn], [*self.heard, *new])
        limit = max_new_tokens or self.pipeline.parts.card.llm.max_new_tokens
        audio_llm = self.pipeline.parts.audio_llm
        past, self.past = self.past or self.pipeline.parts.opening.copy(), None  # half read where it is interrupted
        with cpu_threads(llm_threads()):
            (answer,) = audio_llm.generate([item], limit, streamer=streamer, past=past)
        self.past = past
        self.messages += [turn, {"role": "assistant", "content": answer.replace(AUDIO, " ")}]
        self.heard += new
        return answer
