"""The reinforce stage on a bandit: one of the twelve words is worth a reward, whatever is heard."""

from __future__ import annotations

from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest
import torch
from torch import Tensor

from ira.config import ReinforceStage, TrainConfig
from ira.data.batches import SamplerState
from ira.models.audio_llm import AUDIO
from ira.models.llm import lora_off
from ira.trackers.base import Samples
from ira.training.conversations import Turn, teacher_item
from ira.training.loop import fit
from ira.training.reinforce import ReinforceTraining
from ira.training.rewards import behaviour_scores, normalise_scores, pad_tokens

CPU = torch.device("cpu")
START = SamplerState(0, 0, 0)
PROMPT = f"{AUDIO} one"
FIVE = 11  # the id of the rewarded word


def loaded(training, state: SamplerState):
    """The stage's micro-batches, each with the state after it."""
    for key, after in training.plan(state):
        yield training.load(key), after


def five(turns: list[Turn], responses: list[list[int]]) -> Tensor:
    """1 for an answer that begins with the word, else 0."""
    return torch.tensor([float(ids[0] == FIVE) for ids in responses])


@pytest.fixture
def stage(make_ears, make_shards, colour_rows) -> Callable[..., ReinforceTraining]:
    made = []

    def make(reward=five, dropout: float = 0.0, dtype: torch.dtype = torch.float32, **settings: Any):
        folder = f"run-{len(made)}"
        shards, held_out = (
            make_shards(f"{folder}/train", colour_rows(8, 1)),
            make_shards(f"{folder}/val", colour_rows(4, 2)),
        )
        given = {"steps": 60, "lr": 2e-2, "warmup_steps": 2, "rollouts": 32, "epochs": 2, "kl_coef": 0.0, **settings}
        given = {"response_tokens": 1, "temperature": 1.0, "validate_every": 1000, "weight_decay": 0.0, **given}
        turns = [[Turn(i, PROMPT, "") for i in range(len(part))] for part in (shards, held_out)]
        plain = ReinforceStage(accumulation=1, **given)
        ears = make_ears(dtype, dropout=dropout)
        ears.adapter.traits = None  # after the words alone the random LLM says "five" now and then
        made.append(ReinforceTraining(ears, shards, turns[0], held_out, turns[1], plain, CPU, reward))
        return made[-1]

    return make


class Figures:
    """A tracker that remembers every metric by name."""

    def __init__(self) -> None:
        self.seen: dict[str, list[float]] = {}

    def log(self, step: int, stage: str, metrics: dict[str, float]) -> None:
        for name, value in metrics.items():
            self.seen.setdefault(name, []).append(value)

    def show(self, step: int, stage: str, samples: Samples) -> None: ...

    def close(self) -> None: ...


def run(training: ReinforceTraining, folder: Path, dtype: str = "fp32", **changes: Any) -> dict[str, list[float]]:
    folder.mkdir(exist_ok=True)
    figures = Figures()
    fit(training, TrainConfig.model_validate({"dtype": dtype, **changes}), folder, CPU, [figures])
    return figures.seen


@torch.no_grad()
def chance(training: ReinforceTraining) -> float:
    """How likely the policy begins with the word, over the held-out recordings."""
    items = training._items(training.held_out, training.judged)
    logits = training.audio_llm.response_logits(items, [[FIVE]] * len(items)).logits
    return float(logits[:, 0].softmax(-1)[:, FIVE].mean())


def test_the_policy_finds_the_word_that_is_worth_a_reward(stage, tmp_path):
    training = stage(steps=120)
    assert chance(training) < 0.1
    seen = run(training, tmp_path / "fit")
    assert chance(training) > 0.9
    assert seen["reward"][-1] > 0.9 > 0.4 > seen["reward"][0]
    assert seen["val/loss_of_reward"][-1] == pytest.approx(-1.0)
    assert min(seen["approx_kl"]) >= -1e-6


@pytest.mark.parametrize(("dtype", "weights"), [("fp32", torch.float32), ("bf16", torch.bfloat16)])
def test_the_ratio_is_exactly_1_on_the_first_minibatch_of_every_collection_and_not_after(
    stage, tmp_path, dtype, weights
):
    training = stage(dropout=0.5, dtype=weights, response_tokens=3, steps=16, warmup_steps=0)
    seen = run(training, tmp_path / "fit", dtype)
    ratios = seen["ratio"]  # collections of four minibatches, twice each
    assert ratios[0] == 1.0 and ratios[8] == 1.0
    assert all(ratio != 1.0 for number, ratio in enumerate(ratios) if number % 8)
    assert seen["kl_to_reference"][0] == 0.0  # the policy is still what the stage found
    assert all(abs(kl) > 1e-4 for kl in seen["kl_to_reference"][8:])  # and then it is not


def test_a_collection_gives_every_minibatch_in_every_epoch_and_moves_the_state_at_its_end(stage):
    stream, parts, states = stage().plan(START), [], []
    for _ in range(9):
        part, state = next(stream)
        parts.append(part)
        states.append(state)
    first, second = ({id(part) for part in parts[:4]}, {id(part) for part in parts[4:8]})
    assert len(first) == 4 and first == second and id(parts[8]) not in first
    assert [state.epoch for state in states] == [0] * 7 + [1, 1]


def test_what_is_stored_is_what_the_policy_said(stage):
    training = stage(response_tokens=3, temperature=0.7, kl_coef=0.5)
    with torch.no_grad():
        for name, parameter in training.audio_llm.language.named_parameters():
            if "lora_B" in name:
                parameter.normal_(std=0.1)
    part, _ = next(loaded(training, START))
    advantages = torch.cat([p.advantages[p.mask] for p in {id(p): p for p, _ in take(training, 8)}.values()])
    assert abs(float(advantages.mean())) < 1e-5 and float(advantages.std(unbiased=False)) == pytest.approx(1, rel=1e-3)
    logits = training.audio_llm.response_logits(part.items, part.responses).logits / 0.7
    assert part.mask.sum(1).tolist() == [len(ids) for ids in part.responses]
    for row, ids in enumerate(part.responses):
        by_hand = [float(logits[row, r].log_softmax(-1)[token].detach()) for r, token in enumerate(ids)]
        assert part.old_log_probs[row, : len(ids)].tolist() == pytest.approx(by_hand, abs=1e-4)
    assert part.figures["kl_to_reference"] != 0


def take(training: ReinforceTraining, count: int) -> list:
    stream = loaded(training, START)
    return [next(stream) for _ in range(count)]


def test_only_lora_and_the_value_head_learn(stage, tmp_path):
    training = stage(steps=4)
    before = {name: p.detach().clone() for name, p in training.audio_llm.named_parameters()}
    run(training, tmp_path / "fit")
    moved = {name for name, p in training.audio_llm.named_parameters() if not torch.equal(p, before[name])}
    assert moved and all("lora_" in name for name in moved)


def test_a_killed_run_that_is_taken_up_ends_with_the_very_same_weights(stage, tmp_path):
    whole = stage(steps=10, epochs=1)
    run(whole, tmp_path / "whole")
    killed, losses, loss = stage(steps=10, epochs=1), [], ReinforceTraining.loss

    def dies(batch, share_done):
        losses.append(share_done)
        if len(losses) == 7:  # in the middle of the second collection
            raise KeyboardInterrupt
        return loss(killed, batch, share_done)

    killed.loss = dies  # type: ignore[method-assign]
    with pytest.raises(KeyboardInterrupt):
        run(killed, tmp_path / "killed", checkpoint_minutes=1e-9)
    again = stage(steps=10, epochs=1)
    figures = run(again, tmp_path / "killed")
    assert len(figures["loss"]) == 6  # the second collection is made again, by the policy that made it
    for one, two in zip(whole.audio_llm.parameters(), again.audio_llm.parameters(), strict=True):
        assert torch.equal(one, two)


def test_behaviour_is_scored_by_the_frozen_reader_and_an_answer_without_an_end_costs(make_ears):
    ears = make_ears()
    with torch.no_grad():
        for name, parameter in ears.language.named_parameters():
            if "lora_B" in name:
                parameter.normal_(std=0.5)
    responses = [[3, 4, 1], [3, 4]]
    scores = behaviour_scores(ears, ["red", "blue"], [PROMPT, PROMPT], responses, missing_eos_penalty=2.0)
    with torch.no_grad(), lora_off(ears.llm):
        for row, (word, ids) in enumerate(zip(["red", "blue"], responses, strict=True)):
            logits = ears.response_logits([teacher_item(word, PROMPT)], [ids]).logits[0]
            by_hand = float(logits.log_softmax(-1)[torch.arange(len(ids)), ids].mean()) - 2.0 * row
            assert float(scores[row]) == pytest.approx(by_hand, rel=1e-4)


def test_scores_are_normalised_and_equal_ones_teach_nothing():
    scores = normalise_scores(torch.tensor([1.0, 2.0, 3.0, 1000.0] + [0.0] * 96))
    assert float(scores.max()) == 5.0
    assert normalise_scores(torch.full((8,), 3.0)).tolist() == [0.0] * 8
    assert pad_tokens([[3], [4, 5]], CPU).tolist() == [[3, 0], [4, 5]]
