"""Chat messages with places for sound in, the language model's answer (or its logits on a given answer) out.

The sound goes codes -> SpeechLM states (text and voice absent) -> adapter -> embeddings that stand in the prompt where
it says `<|audio|>`. The same prompt with words in that place, and no sound, is what a teacher sees.
"""

from __future__ import annotations

import copy
import re
from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from dataclasses import dataclass, field
from itertools import islice
from typing import Any, NamedTuple, Protocol

import torch
from torch import Tensor, nn
from torch.nn import functional as F
from transformers import DynamicCache

from ira.errors import InputError
from ira.models.adapter import Adapter, AudioEmbeddings
from ira.models.llm import LanguageModel, render_chat

AUDIO = "<|audio|>"
# What some LLMs do to their logits, as their configurations say.
MORE_THAN_PROJECTED = "final_logit_softcapping", "logits_scaling", "logit_scale", "lm_head_multiplier"


@dataclass
class PromptItem:
    """Messages ({"role", "content"}) with one `<|audio|>` for each of `audio`: [q, E] embeddings, without padding."""

    messages: list[dict[str, str]]
    audio: list[Tensor] = field(default_factory=list)


@dataclass
class Prompts:
    """Padded prompts. embeddings: [B, L, E]; mask: [B, L] int64, 0 on padding; positions: [B, L] from a row's start."""

    embeddings: Tensor
    mask: Tensor
    positions: Tensor


class Responses(NamedTuple):
    """What the LLM makes of given answers of at most R tokens.

    logits: [B, R, Vocab], [:, r] predicts token r of the answer; mask: [B, R] bool, True on answer tokens;
    hidden: [B, R, E], the states those logits were read from.
    """

    logits: Tensor
    mask: Tensor
    hidden: Tensor


@dataclass
class Past:
    """What the LLM has read of one conversation: its cache, and the embeddings [L, E] that this is the cache of."""

    cache: DynamicCache
    embeddings: Tensor

    def copy(self) -> Past:
        """To go on from here without changing this."""
        return Past(copy.deepcopy(self.cache), self.embeddings)


class TextStreamer(Protocol):
    """What transformers' streamers offer: tokens as they come, and the end."""

    def put(self, value: Tensor) -> None: ...

    def end(self) -> None: ...


class AudioLLM(nn.Module):
    """An LLM with ears. The parts stay reachable and are saved apart; dropout follows each part's own mode.

    Args:
        speech_lm: offers `states(codes, frames, layers) -> [B, n, T, D]`.
        adapter: those states to embeddings of the LLM's width.
        llm: its `model` is registered here as `language`.
        layers: which SpeechLM layers the adapter reads.
    """

    def __init__(self, speech_lm: nn.Module, adapter: Adapter, llm: LanguageModel, layers: list[int]) -> None:
        super().__init__()
        self.speech_lm: Any = speech_lm
        self.adapter = adapter
        self.language: Any = llm.model
        self.llm, self.layers = llm, layers
        if adapter.leave.out_features != llm.width:
            raise InputError(
                f"the adapter speaks to an LLM of width {adapter.leave.out_features}, {llm.name} has {llm.width}; "
                "use the LLM it was trained with, or train the adapter again"
            )

    def listen(self, codes: Tensor, frames: Tensor, hide: Tensor | None = None) -> AudioEmbeddings:
        """codes [B, K, T], frames [B] -> embeddings; no graph is kept of a frozen SpeechLM.

        hide: [B, stacks] True where the adapter does not get to hear (training).
        """
        learns = any(parameter.requires_grad for parameter in self.speech_lm.parameters())
        with torch.set_grad_enabled(torch.is_grad_enabled() and learns):
            states = self.speech_lm.states(codes, frames, self.layers)
        return self.adapter(states, frames, self.language.get_input_embeddings().weight, hide)

    def prompts(self, items: Sequence[PromptItem], side: str = "left") -> Prompts:
        """Chat template, tokens and sound of each item as embeddings, padded on `side` ("left" or "right").

        Raises:
            InputError: an item without as many `<|audio|>` as recordings, or longer than the LLM can hold.
        """
        rows = [self._embed(item) for item in items]
        longest = max(len(row) for row in rows)
        self._check_room(longest)
        embeddings = torch.stack([_pad(row, longest, side) for row in rows])
        mask = torch.stack([_pad(row.new_ones(len(row), 1, dtype=torch.long), longest, side)[:, 0] for row in rows])
        return Prompts(embeddings, mask, (mask.cumsum(1) - 1).clamp(min=0))

    def generate(
        self,
        items: Sequence[PromptItem],
        max_new_tokens: int,
        temperature: float = 0.0,
        seed: int | Sequence[int] | None = None,
        streamer: TextStreamer | None = None,
        past: Past | None = None,
    ) -> list[str]:
        """The answers as text; see `generate_ids`. An answer does not depend on the other items of the batch."""
        answers = self.generate_ids(items, max_new_tokens, temperature, seed, streamer, past)
        ends = self.llm.eos_ids
        decode = self.llm.tokenizer.decode
        return [decode([i for i in ids if i not in ends], skip_special_tokens=True).strip() for ids in answers]

    @torch.no_grad()
    def generate_ids(
        self,
        items: Sequence[PromptItem],
        max_new_tokens: int,
        temperature: float = 0.0,
        seed: int | Sequence[int] | None = None,
        streamer: TextStreamer | None = None,
        past: Past | None = None,
    ) -> list[list[int]]:
        """Token ids of each answer; the last is an end-of-text id where the LLM ended by itself.

        Args:
            temperature: 0 takes the likeliest token, above it samples.
            seed: one number per item, or one for the batch (item i then has seed + i), or torch's global generator.
            streamer: receives the tokens of a single item as they come.
            past: of the conversation that a single item goes on with. Only what is new since then is read, and `past`
                is brought up to date; the answer is what it is without.
        """
        if (streamer is not None or past is not None) and len(items) != 1:
            raise ValueError(f"a streamer or a past belongs to one answer, {len(items)} items were given")
        answers: list[list[int]] = [[] for _ in items]
        open_rows = set(range(len(items)))
        for picked in islice(self.draws(items, temperature, seed, past), max_new_tokens):
            for row in sorted(open_rows):
                token = int(picked[row])
                answers[row].append(token)
                if streamer is not None and token not in self.llm.eos_ids:
                    streamer.put(torch.tensor([token]))
                if token in self.llm.eos_ids:
                    open_rows.remove(row)
            if not open_rows:
                break
        if streamer is not None:
            streamer.end()
        return answers

    @torch.no_grad()
    def draws(
        self,
        items: Sequence[PromptItem],
        temperature: float = 0.0,
        seed: int | Sequence[int] | None = None,
        past: Past | None = None,
    ) -> Iterator[Tensor]:
        """The next token [B] of every row, one after another as they are asked for, while the LLM has room.

        Whoever asks tells when to stop: rows go on past their end of text. Arguments as of `generate_ids`.
        """
        generators = _generators(seed, len(items)) if temperature > 0 else []
        past = self.no_past() if past is None else past
        step = _unread(self.prompts(items), past)
        for _ in range(self._room() - step.mask.shape[1]):
            picked = _pick(self._next_logits(step, past.cache), temperature, generators)
            past.embeddings = torch.cat([past.embeddings, step.embeddings[0]])
            yield picked
            step = self._following(step, picked)

    def no_past(self) -> Past:
        """Of a conversation that is about to begin."""
        table = self.language.get_input_embeddings().weight
        return Past(DynamicCache(config=self.language.config), table[:0].detach())

    @torch.no_grad()
    def opening(self) -> Past:
        """Of the words that the chat template puts before the user's: every prompt of one turn begins with them."""
        ids = encode_prompt(self.llm.tokenizer, [{"role": "user", "content": AUDIO}])[0]
        past = self.no_past()
        if ids:
            past.embeddings = self._tokens(ids)
            self.language(inputs_embeds=past.embeddings[None], past_key_values=past.cache, logits_to_keep=1)
        return past

    def response_logits(self, items: Sequence[PromptItem], responses: Sequence[Sequence[int]]) -> Responses:
        """Logits on given answers (token ids), computed at answer positions only."""
        with _head_inputs(self.language) as hidden:
            logits, mask = self._read(items, responses)
        return Responses(logits, mask, hidden[0])

    def response_states(self, items: Sequence[PromptItem], responses: Sequence[Sequence[int]]) -> tuple[Tensor, Tensor]:
        """What `project` makes those logits of, [B, R, E], and the mask [B, R]; no logits are made."""
        with _head_inputs(self.language, pass_on=False) as hidden:
            _, mask = self._read(items, responses)
        return hidden[0], mask

    def project(self, states: Tensor) -> Tensor:
        """[..., E] -> logits [..., Vocab].

        Raises:
            InputError: the LLM does more than that to its logits.
        """
        config = self.language.config.get_text_config()
        more = [name for name in MORE_THAN_PROJECTED if getattr(config, name, None) not in (None, 1)]
        if more:
            raise InputError(f"{self.llm.name} changes its logits ({more[0]}); distil from an LLM that does not")
        return self.language.get_output_embeddings()(states)

    def _read(self, items: Sequence[PromptItem], responses: Sequence[Sequence[int]]) -> tuple[Tensor, Tensor]:
        """Logits [B, R, Vocab] on given answers, and True [B, R] where they have a token.

        Prompts are padded on the left and answers on the right, so that every answer begins at the same place and the
        vocabulary is projected for R positions, not for the prompt's.
        """
        if len(items) != len(responses):
            raise ValueError(f"{len(items)} prompts but {len(responses)} answers")
        prompts = self.prompts(items)
        lengths = torch.tensor([len(ids) for ids in responses], device=prompts.mask.device)
        R = max(1, int(lengths.max()))
        self._check_room(prompts.mask.shape[1] + R)
        inputs = torch.stack([_pad(self._tokens(ids)[:-1], R - 1, "right") for ids in responses])
        steps = torch.arange(R, device=lengths.device)
        mask = steps < lengths[:, None]
        made = self.language(
            inputs_embeds=torch.cat([prompts.embeddings, inputs], dim=1),
            attention_mask=torch.cat([prompts.mask, mask[:, 1:].long()], dim=1),
            position_ids=torch.cat([prompts.positions, prompts.positions[:, -1:] + steps[1:]], dim=1),
            use_cache=False,
            logits_to_keep=R,
        )
        return made.logits, mask

    def _embed(self, item: PromptItem) -> Tensor:
        """One prompt [L, E]: token embeddings with the recordings between them."""
        pieces = encode_prompt(self.llm.tokenizer, item.messages)
        if len(pieces) - 1 != len(item.audio):
            raise InputError(
                f"the prompt has {len(pieces) - 1} {AUDIO} and {len(item.audio)} recordings; give one {AUDIO} for each"
            )
        parts = [self._tokens(pieces[0])]
        for audio, ids in zip(item.audio, pieces[1:], strict=True):
            parts += [audio.to(parts[0]), self._tokens(ids)]
        return torch.cat(parts)

    def _tokens(self, ids: Sequence[int]) -> Tensor:
        """Token ids -> [L, E]."""
        table = self.language.get_input_embeddings()
        return table(torch.tensor(list(ids), dtype=torch.long, device=table.weight.device))

    def _room(self) -> int:
        """How many places the LLM's positions go up to."""
        return getattr(self.language.config.get_text_config(), "max_position_embeddings", None) or 1_000_000

    def _check_room(self, length: int) -> None:
        if length > self._room():
            raise InputError(
                f"the prompt takes {length} places, {self.llm.name} holds {self._room()}; give less audio or text"
            )

    def _next_logits(self, step: Prompts, cache: DynamicCache) -> Tensor:
        """Logits [B, Vocab] after the last position of `step`, whose past is in the cache."""
        return self.language(
            inputs_embeds=step.embeddings,
            attention_mask=step.mask,
            position_ids=step.positions,
            past_key_values=cache,
            use_cache=True,
            logits_to_keep=1,
        ).logits[:, -1]

    def _following(self, step: Prompts, tokens: Tensor) -> Prompts:
        """The next step: one token [B] a row, every earlier place still in the mask."""
        embeddings = self.language.get_input_embeddings()(tokens[:, None])
        return Prompts(embeddings, F.pad(step.mask, (0, 1), value=1), step.positions[:, -1:] + 1)


def encode_prompt(tokenizer: Any, messages: list[dict[str, str]]) -> list[list[int]]:
    """Token ids of the rendered chat, cut at each `<|audio|>`: one list more than there are such places.

    Only the template can write control tokens. Where a message spells one out, its characters are encoded apart, so
    that it stays text; text without any is encoded exactly as the tokenizer's own chat template does.
    """
    place, cut = _unused_characters("".join(str(value) for message in messages for value in message.values()))
    control = "|".join(re.escape(token) for token in tokenizer.get_added_vocab() if len(token) > 1)
    starts = re.compile(f"(?={control})(.)", re.DOTALL) if control else re.compile("(?!)")

    def disarm(value: Any) -> Any:
        if not isinstance(value, str):
            return value
        return starts.sub(lambda match: match[1] + cut, value.replace(AUDIO, place))

    text = render_chat(tokenizer, [{key: disarm(value) for key, value in message.items()} for message in messages])

    def encode(part: str) -> list[int]:
        pieces = [tokenizer(piece, add_special_tokens=False).input_ids for piece in part.split(cut)]
        return [token for piece in pieces for token in piece]

    return [encode(part) for part in text.split(place)]


def _unread(prompts: Prompts, past: Past) -> Prompts:
    """What of a single prompt is not in the cache yet, which forgets what the prompt does not begin with."""
    if not len(past.embeddings):
        return prompts
    whole = prompts.embeddings[0]
    shorter = min(len(whole) - 1, len(past.embeddings))  # the last place is read again: its logits are wanted
    alike = (whole[:shorter] == past.embeddings[:shorter]).all(-1)
    known = int(alike.int().cumprod(0).sum())
    if known < len(past.embeddings):
        past.cache.crop(known - len(past.embeddings))  # so many places fewer
        past.embeddings = past.embeddings[:known]
    return Prompts(prompts.embeddings[:, known:], prompts.mask, prompts.positions[:, known:])


def _unused_characters(text: str) -> tuple[str, str]:
    """Two private-use characters that the text does not hold."""
    free = (chr(code) for code in range(0xE000, 0xF900) if chr(code) not in text)
    return next(free), next(free)


def _pad(row: Tensor, length: int, side: str) -> Tensor:
    """[L, ...] -> [length, ...], zeros on `side`."""
    missing = length - len(row)
    return F.pad(row, (0, 0, missing, 0) if side == "left" else (0, 0, 0, missing))


def _pick(logits: Tensor, temperature: float, generators: list[torch.Generator]) -> Tensor:
    """Next tokens [B]; each row draws from its own generator, on the CPU, so that every device draws alike."""
    if temperature <= 0:
        return logits.argmax(-1)
    chances = (logits.float() / temperature).softmax(-1).cpu()
    drawn = [torch.multinomial(row, 1, generator=g) for row, g in zip(chances, generators, strict=True)]
    return torch.cat(drawn).to(logits.device)


def _generators(seed: int | Sequence[int] | None, count: int) -> list[torch.Generator]:
    if seed is None:
        seed = torch.randint(2**31, (count,)).tolist()
    seeds = [seed + row for row in range(count)] if isinstance(seed, int) else list(seed)
    if len(seeds) != count:
        raise ValueError(f"{len(seeds)} seeds for {count} items")
    return [torch.Generator().manual_seed(number) for number in seeds]


@contextmanager
def _head_inputs(language: Any, *, pass_on: bool = True) -> Iterator[list[Tensor]]:
    """Collects what the vocabulary projection is given: any LLM's last states, without keeping every layer's.

    pass_on: whether it gets them; else it projects no position.
    """
    collected: list[Tensor] = []

    def collect(_: nn.Module, given: tuple[Tensor, ...]) -> tuple[Tensor, ...]:
        collected.append(given[0])
        return given if pass_on else (given[0][:, :0],)

    handle = language.get_output_embeddings().register_forward_pre_hook(collect)
    try:
        yield collected
    finally:
        handle.remove()
