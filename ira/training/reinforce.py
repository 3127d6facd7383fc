"""Stage `reinforce`: spoken prompts in, LoRA weights whose answers to speech the reader of the text would give, out.

Reinforced behaviour alignment by PPO. Answers are sampled from the policy; their log-probabilities, values and the
reference's log-probabilities (the policy as the stage found it, on the same sound) are stored; a few epochs of clipped
updates follow. The batches are rollouts, so the loop is the one every stage uses.
"""

from __future__ import annotations

from collections.abc import Callable, Iterator
from contextlib import contextmanager
from dataclasses import dataclass, fields, replace

import torch
from torch import Tensor, nn

from ira.config import ReinforceStage
from ira.data.batches import SamplerState, spread
from ira.data.shards import TokenShards
from ira.models.audio_llm import AudioLLM, PromptItem, Responses
from ira.processes import in_order, mine, summed
from ira.training import ppo
from ira.training.conversations import Turn, listen_to, student_item, written
from ira.training.parallel import gathered
from ira.training.rewards import behaviour_scores, normalise_scores, pad_tokens
from ira.training.stage import StepLoss

MINIBATCHES = 4
JUDGED = 16

Reward = Callable[[list[Turn], list[list[int]]], Tensor]


@dataclass
class Rollouts:
    """A minibatch of answers as they were when sampled; tensors are [B, R]."""

    items: list[PromptItem]
    responses: list[list[int]]
    tokens: Tensor
    mask: Tensor
    old_log_probs: Tensor
    old_values: Tensor
    advantages: Tensor
    returns: Tensor
    figures: dict[str, float]

    def to(self, device: torch.device) -> Rollouts:
        moved = {f.name: v.to(device) for f in fields(self) if isinstance(v := getattr(self, f.name), Tensor)}
        items = [PromptItem(item.messages, [audio.to(device) for audio in item.audio]) for item in self.items]
        return replace(self, items=items, **moved)


class ValueHead(nn.Module):
    """Expected reward from a token on, read off the LLM's last hidden state without shaping it; starts at 0."""

    lr_scale = 10.0  # it starts from nothing where the policy starts from a trained model

    def __init__(self, width: int) -> None:
        super().__init__()
        self.norm = nn.LayerNorm(width, elementwise_affine=False)
        self.out = nn.Linear(width, 1)
        nn.init.zeros_(self.out.weight)
        nn.init.zeros_(self.out.bias)

    def forward(self, hidden: Tensor) -> Tensor:
        """[B, R, E] -> [B, R]."""
        return self.out(self.norm(hidden.detach().float()))[..., 0]


class ReinforceTraining:
    """The stage: trains the LoRA of `audio_llm`; the adapter and SpeechLM stay as they are.

    `reward` scores answers (one number each); by default it is `behaviour_scores`.
    """

    name = "reinforce"
    metric = "loss_of_reward"

    def __init__(
        self,
        audio_llm: AudioLLM,
        shards: TokenShards,
        turns: list[Turn],
        held_out: TokenShards,
        held_out_turns: list[Turn],
        settings: ReinforceStage,
        device: torch.device,
        reward: Reward | None = None,
    ) -> None:
        self.audio_llm, self.shards, self.turns, self.settings = audio_llm, shards, turns, settings
        self.held_out, self.judged, self.device = held_out, spread(held_out_turns, JUDGED), device
        self.custom_reward = reward
        self.audio_llm.speech_lm.requires_grad_(False)
        self.audio_llm.adapter.requires_grad_(False)
        self.value = ValueHead(audio_llm.llm.width).to(device)
        self.found = {name: weight.detach().clone() for name, weight in self._policy().items()}

    def modules(self) -> dict[str, nn.Module]:
        return {"lora": self.audio_llm.language, "value": self.value}

    def plan(self, state: SamplerState) -> Iterator[tuple[Rollouts, SamplerState]]:
        """Rollouts of the policy as it is now; each minibatch comes `epochs` times, in changing order.

        The state moves with the last of them: those before belong to a policy that is gone when a run is resumed.
        """
        while True:
            generator = torch.Generator().manual_seed(hash((state.seed, state.epoch)) % 2**63)
            drawn = torch.randint(len(self.turns), (self.settings.rollouts,), generator=generator).tolist()
            parts = self._collect([self.turns[i] for i in drawn], seed=hash((state.seed, state.epoch)) % 2**31)
            epochs = [torch.randperm(len(parts), generator=generator) for _ in range(self.settings.epochs)]
            *before, last = torch.cat(epochs).tolist()
            for index in before:
                yield parts[index], state
            state = SamplerState(state.seed, state.epoch + 1, 0)
            yield parts[last], state

    def load(self, key: Rollouts) -> Rollouts:
        return key.to(self.device)

    @torch.no_grad()
    def _collect(self, turns: list[Turn], seed: int) -> list[Rollouts]:
        """Sample answers, score them, and turn the scores into advantages over the whole collection.

        Every process samples its share of the parts and gets to know those of the others.
        """
        self.audio_llm.eval()  # dropout would make the policy another one at every look
        size = -(-len(turns) // MINIBATCHES)
        groups = [turns[start : start + size] for start in range(0, len(turns), size)]
        with gathered():
            own = {n: self._answer(group, seed + 100 * n) for n, group in mine(list(enumerate(groups)))}
            raw = torch.cat(in_order({n: scores.cpu() for n, (_, _, scores) in own.items()}))
            scores = normalise_scores(raw).split([len(group) for group in groups])
            rolled = {n: self._roll(items, ids, scores[n].to(self.device)) for n, (items, ids, _) in own.items()}
        parts = in_order({n: part.to(torch.device("cpu")) for n, part in rolled.items()})
        whitened = ppo.whiten([part.advantages for part in parts], [part.mask for part in parts])
        for part, advantages in zip(parts, whitened, strict=True):
            part.advantages = advantages
            part.figures["reward"] = float(raw.mean())
        return parts

    def _answer(self, turns: list[Turn], seed: int) -> tuple[list[PromptItem], list[list[int]], Tensor]:
        items = self._items(self.shards, turns)
        answers = self._sample(items, seed)
        return items, answers, self._reward(self.shards, turns, answers)

    def _items(self, shards: TokenShards, turns: list[Turn]) -> list[PromptItem]:
        heard = listen_to(self.audio_llm, [shards[turn.row] for turn in turns], self.device).rows()
        return [student_item(audio, turn.prompt) for audio, turn in zip(heard, turns, strict=True)]

    def _sample(self, items: list[PromptItem], seed: int) -> list[list[int]]:
        settings = self.settings
        return self.audio_llm.generate_ids(items, settings.response_tokens, settings.temperature, seed)

    def _reward(self, shards: TokenShards, turns: list[Turn], responses: list[list[int]]) -> Tensor:
        if self.custom_reward is not None:
            return self.custom_reward(turns, responses)
        texts = [written(shards[turn.row]) for turn in turns]
        prompts = [turn.prompt for turn in turns]
        return behaviour_scores(self.audio_llm, texts, prompts, responses, self.settings.missing_eos_penalty)

    def _roll(self, items: list[PromptItem], responses: list[list[int]], scores: Tensor) -> Rollouts:
        """Store what the update will be measured against, on the same path that the update takes."""
        tokens = pad_tokens(responses, self.device)
        log_probs, values, out = self._evaluate(items, responses, tokens)
        with self._as_found():
            reference, _, _ = self._evaluate(items, responses, tokens)
        rewards = ppo.token_rewards(scores, log_probs, reference, out.mask, self.settings.kl_coef)
        advantages, returns = ppo.gae(rewards, values, out.mask, self.settings.gamma, self.settings.gae_lambda)
        length = float(out.mask.sum(1).float().mean())
        kl = float(((log_probs - reference) * out.mask).sum(1).mean())
        figures = {"answer_tokens": length, "kl_to_reference": kl}
        return Rollouts(items, responses, tokens, out.mask, log_probs, values, advantages, returns, figures)

    def _policy(self) -> dict[str, nn.Parameter]:
        return {name: p for name, p in self.audio_llm.language.named_parameters() if p.requires_grad}

    @contextmanager
    def _as_found(self) -> Iterator[None]:
        """Inside, the LLM answers with the LoRA that the stage began with: aligned, and not yet reinforced."""
        now = {name: weight.detach().clone() for name, weight in self._policy().items()}
        self._put(self.found)
        try:
            yield
        finally:
            self._put(now)

    @torch.no_grad()
    def _put(self, weights: dict[str, Tensor]) -> None:
        for name, parameter in self._policy().items():
            parameter.copy_(weights[name])
        torch.clear_autocast_cache()  # it would go on with bf16 copies of the weights from before

    def _evaluate(
        self, items: list[PromptItem], responses: list[list[int]], tokens: Tensor
    ) -> tuple[Tensor, Tensor, Responses]:
        """Log-probabilities and values [B, R] of given answers under the weights as they are."""
        out = self.audio_llm.response_logits(items, responses)
        return ppo.token_log_probs(out.logits, tokens, self.settings.temperature), self.value(out.hidden), out

    def loss(self, batch: Rollouts, share_done: float) -> StepLoss:
        self.audio_llm.eval()
        log_probs, values, _ = self._evaluate(batch.items, batch.responses, batch.tokens)
        clip = self.settings.clip
        policy, figures = ppo.policy_loss(log_probs, batch.old_log_probs, batch.advantages, batch.mask, clip)
        value = ppo.value_loss(values, batch.old_values, batch.returns, batch.mask, clip)
        figures |= batch.figures | {"policy_loss": float(policy.detach()), "value_loss": float(value.detach())}
        return StepLoss(policy + self.settings.value_coef * value, int(batch.mask.sum()), figures)

    def validate(self) -> dict[str, float]:
        """Mean reward of greedy answers on held-out speech; `loss_of_reward` is its negative, to be minimised."""
        total = 0.0
        for start in mine(range(0, len(self.judged), 8)):
            turns = self.judged[start : start + 8]
            answers = self.audio_llm.generate_ids(self._items(self.held_out, turns), self.settings.response_tokens)
            total += float(self._reward(self.held_out, turns, answers).sum())
        mean = summed({"reward": total})["reward"] / len(self.judged)
        return {"reward": mean, "loss_of_reward": -mean}
