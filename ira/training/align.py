"""Stage `align`: recordings with transcripts in, an adapter (and LoRA) that lets the LLM hear, out.

Distillation after Ultravox and BLSP-KD (Wang et al. 2024): the teacher is the frozen LLM, LoRA off, on the text; the
student is the same LLM on the sound. The loss stands on response tokens only: KL at a temperature, KL at the end of
turn, and the cosine of the last hidden states, under learned uncertainty weights.
"""

from __future__ import annotations

from collections.abc import Iterator

import torch
from torch import Tensor, nn

from ira.config import AlignStage
from ira.data.batches import SamplerState, batches, spread
from ira.data.shards import TokenShards
from ira.models.audio_llm import AudioLLM, Responses
from ira.models.llm import lora_off
from ira.processes import mine, summed
from ira.training.conversations import Turn, listen_rows, response_ids, student_item, teacher_item, written
from ira.training.losses import UncertaintyWeights, cosine_gap, distillation, masked_mean
from ira.training.rewards import pad_tokens
from ira.training.stage import StepLoss

JUDGED = 32


class AlignTraining:
    """The stage: trains the adapter of `audio_llm`, and its LoRA where the settings say so; SpeechLM stays frozen."""

    name = "align"
    metric = "kl"

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
        self.audio_llm.speech_lm.requires_grad_(False)
        self.weights = UncertaintyWeights(["kl", "end", "cosine"]).to(device)
        if not settings.train_lora:
            self.audio_llm.language.requires_grad_(False)

    def modules(self) -> dict[str, nn.Module]:
        return {"adapter": self.audio_llm.adapter, "lora": self.audio_llm.language, "weights": self.weights}

    def plan(self, state: SamplerState) -> Iterator[tuple[list[int], SamplerState]]:
        """Numbers of turns whose recordings are of like length."""
        lengths = self.shards.lengths[[turn.row for turn in self.turns]]
        yield from batches(lengths, int(self.settings.batch_seconds * self.frame_rate), state)

    def load(self, key: list[int]) -> list[Turn]:
        return [self.turns[i] for i in key]

    def loss(self, batch: list[Turn], share_done: float) -> StepLoss:
        student, teacher, ends = self._answers(self.shards, batch)
        losses = self._losses(student, teacher, ends)
        metrics = {name: float(value.detach()) for name, value in losses.items()}
        weights = {f"weight/{name}": value for name, value in self.weights.weights().items()}
        return StepLoss(self.weights(losses), int(student.mask.sum()), metrics | weights)

    def _losses(self, student: Responses, teacher: Responses, ends: Tensor) -> dict[str, Tensor]:
        temperature = self.settings.temperature
        return {
            "kl": distillation(student.logits, teacher.logits, student.mask, temperature),
            "end": distillation(student.logits, teacher.logits, ends, temperature),
            "cosine": cosine_gap(student.hidden, teacher.hidden, student.mask),
        }

    def _answers(self, shards: TokenShards, turns: list[Turn], shift: int = 0) -> tuple[Responses, Responses, Tensor]:
        """Student on the sound and teacher on the text, both on the same answers; `shift` gives others' sound.

        An answer that is too long loses its end: what is left still follows the prompt. The third [B, R] is True where
        an answer ends its turn.
        """
        examples = [shards[turn.row] for turn in turns]
        answers = [response_ids(self.audio_llm, turn.response)[: self.settings.response_tokens] for turn in turns]
        with torch.no_grad(), lora_off(self.audio_llm.llm):
            told = [teacher_item(written(e), t.prompt) for e, t in zip(examples, turns, strict=True)]
            teacher = self.audio_llm.response_logits(told, answers)
        heard = listen_rows(self.audio_llm, examples, self.device)
        heard = heard[shift:] + heard[:shift]
        items = [student_item(audio, turn.prompt) for audio, turn in zip(heard, turns, strict=True)]
        student = self.audio_llm.response_logits(items, answers)
        tokens = pad_tokens(answers, self.device)
        return student, teacher, (tokens == self.audio_llm.llm.eos_ids[-1]) & student.mask

    def validate(self) -> dict[str, float]:
        """Held-out KL and agreement with the teacher; the same with another recording's sound shows what is heard."""
        totals: dict[str, float] = {}
        for start in mine(range(0, len(self.judged), 8)):
            part = self.judged[start : start + 8]
            for key, shift in (("", 0), ("_other_audio", 1)):
                student, teacher, _ = self._answers(self.held_out, part, shift)
                same = (student.logits.argmax(-1) == teacher.logits.argmax(-1)).float()
                kl = distillation(student.logits, teacher.logits, student.mask, 1.0)
                for name, value in (("kl", kl), ("agreement", masked_mean(same, student.mask))):
                    totals[name + key] = totals.get(name + key, 0.0) + float(value) * len(part) / len(self.judged)
        return summed(totals)
