"""Stage `align`: recordings with transcripts in, an adapter (and LoRA) that lets the LLM hear, out.

At first the adapter learns by itself, without the LLM: to spell what is said at its trunk, to name it in the LLM's
tokens at its queries (CTC), and to name what the manifest tells of the voice (traits). Then the LLM listens:
distillation after Ultravox and BLSP-KD (Wang et al. 2024), where the teacher is the frozen LLM, LoRA off, on the text,
and the student the same LLM on the sound. The loss stands on response tokens only: KL at a temperature, KL at the end
of turn, and the cosine of the last hidden states; answers that words do not settle, such as who speaks, are learnt by
cross-entropy. What was learnt first goes on beside.
"""

from __future__ import annotations

from collections.abc import Iterator
from contextlib import contextmanager

import torch
from torch import Tensor, nn

from ira.config import AlignStage
from ira.data.batches import SamplerState, batches, spread
from ira.data.shards import Example, TokenShards
from ira.data.tasks import edit_distance
from ira.data.text import CharTokenizer
from ira.models.adapter import AudioEmbeddings
from ira.models.audio_llm import AudioLLM, PromptItem
from ira.models.llm import lora_off
from ira.processes import mine, summed
from ira.training.conversations import Turn, listen_to, response_ids, student_item, teacher_item, written
from ira.training.ctc import ctc, hidden_spans, likeliest, named, spelled
from ira.training.losses import (
    UncertaintyWeights,
    cosine_gap,
    divergence,
    fixed_weights,
    in_parts,
    masked_mean,
    surprise,
)
from ira.training.rewards import pad_tokens
from ira.training.stage import StepLoss
from ira.training.traits import balance, mistaken, told, traits_loss

JUDGED, JUDGED_TOGETHER = 32, 8
AT_ONCE = 64  # tokens of answers whose logits exist at a time
TERMS = ("kl", "end", "cosine", "answer", "characters", "tokens")


class AlignTraining:
    """The stage: trains the adapter of `audio_llm`, and its LoRA where the settings say so; SpeechLM stays frozen."""

    name = "align"
    metric = "missed"

    def __init__(
        self,
        audio_llm: AudioLLM,
        shards: TokenShards,
        turns: list[Turn],
        held_out: TokenShards,
        held_out_turns: list[Turn],
        settings: AlignStage,
        device: torch.device,
        frame_rate: float,
    ) -> None:
        self.audio_llm, self.shards, self.turns, self.settings = audio_llm, shards, turns, settings
        self.held_out, self.judged = held_out, spread(held_out_turns, JUDGED)
        self.device, self.frame_rate = device, frame_rate
        self.characters = CharTokenizer()
        self.places = {token: place for place, token in enumerate(audio_llm.adapter.tokens, 1)}
        self.balance = balance(told(shards[row]) for row in sorted({turn.row for turn in turns}))
        self.audio_llm.speech_lm.requires_grad_(False)
        self.weights = UncertaintyWeights(list(TERMS)).to(device) if settings.weights is None else None
        if not settings.train_lora:
            self.audio_llm.language.requires_grad_(False)

    def modules(self) -> dict[str, nn.Module]:
        learnt = {} if self.weights is None else {"weights": self.weights}
        return {"adapter": self.audio_llm.adapter, "lora": self.audio_llm.language, **learnt}

    def plan(self, state: SamplerState) -> Iterator[tuple[list[int], SamplerState]]:
        """Numbers of turns whose recordings are of like length."""
        lengths = self.shards.lengths[[turn.row for turn in self.turns]]
        yield from batches(lengths, int(self.settings.batch_seconds * self.frame_rate), state)

    def load(self, key: list[int]) -> list[Turn]:
        return [self.turns[i] for i in key]

    def loss(self, batch: list[Turn], share_done: float) -> StepLoss:
        """Of what was heard; from `hearing_share` of the run on, of what the LLM makes of it too."""
        examples = [self.shards[turn.row] for turn in batch]
        heard = listen_to(self.audio_llm, examples, self.device, hidden_spans)
        losses = self._heard_losses(heard, examples)
        if share_done >= self.settings.hearing_share:
            losses |= self._answer_losses(heard.rows(), examples, batch)
        metrics = {name: float(value.detach()) for name, value in losses.items()}
        weights = {f"weight/{name}": value for name, value in self.weights.weights().items()} if self.weights else {}
        return StepLoss(self._weighed(losses), len(batch), metrics | weights)

    def _weighed(self, losses: dict[str, Tensor]) -> Tensor:
        """The sum of the losses with learned weights, or with those of the settings.

        Traits count as they are: nothing else learns from them, and as they are near 0 in most batches and large in a
        few, a learned weight would run away.
        """
        if self.weights is None:
            return fixed_weights(losses, self.settings.weights or {})
        traits = losses.get("traits", 0.0)
        return self.weights({name: value for name, value in losses.items() if name != "traits"}) + traits

    def _heard_losses(self, heard: AudioEmbeddings, examples: list[Example]) -> dict[str, Tensor]:
        spelling, naming = self._symbols(examples)
        losses = {
            "characters": ctc(heard.characters, heard.stacks, spelling),
            "tokens": ctc(heard.tokens, heard.queries, naming),
        }
        known = [told(one) for one in examples]
        return losses | (
            {"traits": traits_loss(heard.traits, known, self.balance)} if heard.traits and any(known) else {}
        )

    def _symbols(self, examples: list[Example]) -> tuple[list[list[int]], list[list[int]]]:
        """What there is to spell and to name in each row; a token that the adapter has no name for is left out."""
        tokens = [named(written(one), self.audio_llm.llm.tokenizer) for one in examples]
        naming = [[self.places[token] for token in row if token in self.places] for row in tokens]
        return [spelled(one.text, self.characters) for one in examples], naming

    def _answer_losses(self, heard: list[Tensor], examples: list[Example], turns: list[Turn]) -> dict[str, Tensor]:
        losses: dict[str, Tensor] = {}
        told, taught = ([i for i, turn in enumerate(turns) if turn.told == by] for by in (True, False))
        if taught:
            losses |= self._taught_losses(*_picked(taught, heard, examples, turns))
        if told:
            items, answers = self._posed([heard[i] for i in told], [turns[i] for i in told])
            states, mask = self.audio_llm.response_states(items, answers)
            losses["answer"] = in_parts(
                self._surprise, states[mask], pad_tokens(answers, self.device)[mask], AT_ONCE
            ).mean()
        return losses

    def _taught_losses(self, heard: list[Tensor], examples: list[Example], turns: list[Turn]) -> dict[str, Tensor]:
        """Student on the sound and teacher on the text, both on the same answers.

        An answer that is too long loses its end: what is left still follows the prompt.
        """
        with self._teaching():
            teacher, _ = self.audio_llm.response_states(_told(examples, turns), self._ids(turns))
        items, answers = self._posed(heard, turns)
        student, mask = self.audio_llm.response_states(items, answers)
        kl = in_parts(self._divergence, student[mask], teacher[mask], AT_ONCE)
        ends = pad_tokens(answers, self.device)[mask] == self.audio_llm.llm.eos_ids[-1]
        return {"kl": kl.mean(), "end": masked_mean(kl, ends), "cosine": cosine_gap(student, teacher, mask)}

    def _divergence(self, student: Tensor, teacher: Tensor) -> Tensor:
        """Of the logits of states [N, E] -> [N]."""
        with self._teaching():
            wanted = self.audio_llm.project(teacher)
        return divergence(self.audio_llm.project(student), wanted, self.settings.temperature)

    def _surprise(self, states: Tensor, tokens: Tensor) -> Tensor:
        return surprise(self.audio_llm.project(states), tokens)

    @contextmanager
    def _teaching(self) -> Iterator[None]:
        """Inside, the LLM is the frozen one."""
        with torch.no_grad(), lora_off(self.audio_llm.llm):
            yield

    def _posed(self, heard: list[Tensor], turns: list[Turn]) -> tuple[list[PromptItem], list[list[int]]]:
        """Prompts with what is heard, and the answers to them."""
        return [student_item(audio, turn.prompt) for audio, turn in zip(heard, turns, strict=True)], self._ids(turns)

    def _ids(self, turns: list[Turn]) -> list[list[int]]:
        return [response_ids(self.audio_llm, turn.response)[: self.settings.response_tokens] for turn in turns]

    def validate(self) -> dict[str, float]:
        """Held-out figures; those of another recording's sound show what is heard.

        `kl` to the teacher and `agreement` with it where it teaches, `told` the share of the other answers' tokens that
        are likeliest, `characters`, `tokens` and `traits` the share heard wrong. `missed`, the mean of what is wrong,
        chooses.
        """
        totals: dict[str, float] = {}
        for start in mine(range(0, len(self.judged), JUDGED_TOGETHER)):
            part = self.judged[start : start + JUDGED_TOGETHER]
            for name, value in self._judge(part).items():
                totals[name] = totals.get(name, 0.0) + value
        sums = summed(totals)
        figures = {name: value / sums[f"of_{name}"] for name, value in sums.items() if sums.get(f"of_{name}")}
        wrong = [figures[name] for name in ("characters", "tokens", "traits") if name in figures]
        wrong += [1 - figures[name] for name in ("agreement", "told") if name in figures]
        return figures | {"missed": sum(wrong) / max(len(wrong), 1)}

    def _judge(self, turns: list[Turn]) -> dict[str, float]:
        """Sums over some turns, and `of_` how much each is the sum of."""
        examples = [self.held_out[turn.row] for turn in turns]
        heard = listen_to(self.audio_llm, examples, self.device)
        found = self._misheard(heard, examples)
        rows = heard.rows()
        for key, sound in (("", rows), ("_other_audio", rows[1:] + rows[:1])):
            for name, (value, count) in self._judge_answers(sound, examples, turns).items():
                found |= {f"{name}{key}": value, f"of_{name}{key}": count}
        return found

    def _misheard(self, heard: AudioEmbeddings, examples: list[Example]) -> dict[str, float]:
        found: dict[str, float] = {}
        symbols = zip(("characters", "tokens"), self._symbols(examples), strict=True)
        logits = {"characters": (heard.characters, heard.stacks), "tokens": (heard.tokens, heard.queries)}
        for name, wanted in symbols:
            pairs = zip(wanted, likeliest(*logits[name]), strict=True)
            wrong = sum(min(edit_distance(truth, said), len(truth)) for truth, said in pairs)
            found |= {name: float(wrong), f"of_{name}": float(sum(len(truth) for truth in wanted))}
        wrong, count = mistaken(heard.traits, [told(one) for one in examples])
        return found | {"traits": float(wrong), "of_traits": float(count)}

    def _judge_answers(
        self, heard: list[Tensor], examples: list[Example], turns: list[Turn]
    ) -> dict[str, tuple[float, float]]:
        found: dict[str, tuple[float, float]] = {}
        told, taught = ([i for i, turn in enumerate(turns) if turn.told == by] for by in (True, False))
        if taught:
            sound, texts, asked = _picked(taught, heard, examples, turns)
            with self._teaching():
                teacher = self.audio_llm.response_logits(_told(texts, asked), self._ids(asked))
            student = self.audio_llm.response_logits(*self._posed(sound, asked))
            same = (student.logits.argmax(-1) == teacher.logits.argmax(-1)).float()
            kl = masked_mean(divergence(student.logits, teacher.logits, 1.0), student.mask)
            found["kl"] = _weighed(kl, len(taught))
            found["agreement"] = _weighed(masked_mean(same, student.mask), len(taught))
        if told:
            items, answers = self._posed([heard[i] for i in told], [turns[i] for i in told])
            student = self.audio_llm.response_logits(items, answers)
            right = (student.logits.argmax(-1) == pad_tokens(answers, self.device)).float()
            found["told"] = _weighed(masked_mean(right, student.mask), len(told))
        return found


def _weighed(mean: Tensor, count: int) -> tuple[float, float]:
    return float(mean) * count, float(count)


def _told(examples: list[Example], turns: list[Turn]) -> list[PromptItem]:
    """Prompts with the texts."""
    return [teacher_item(written(example), turn.prompt) for example, turn in zip(examples, turns, strict=True)]


def _picked(
    numbers: list[int], heard: list[Tensor], examples: list[Example], turns: list[Turn]
) -> tuple[list[Tensor], list[Example], list[Turn]]:
    return [heard[i] for i in numbers], [examples[i] for i in numbers], [turns[i] for i in numbers]
