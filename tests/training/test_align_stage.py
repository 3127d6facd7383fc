"""The align stage on four words: the student hears a word and has to answer as the teacher does who reads it."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

import pytest
import torch
from torch import Tensor

from ira.config import AlignStage, TrainConfig
from ira.data.batches import SamplerState
from ira.data.shards import TokenShards
from ira.errors import InputError
from ira.models.audio_llm import AUDIO, AudioLLM
from ira.models.llm import lora_off
from ira.training import align
from ira.training.align import AlignTraining
from ira.training.conversations import Turn, listen_to, response_ids, student_item, teacher_item
from ira.training.loop import fit

CPU = torch.device("cpu")
PROMPT = f"{AUDIO} one"
COLOURS = ["red", "green", "blue", "black"]
ANSWER = 5  # tokens that an answer may have


def loaded(training, state: SamplerState):
    """The stage's micro-batches, each with the state after it."""
    for key, after in training.plan(state):
        yield training.load(key), after


def teacher_says(audio_llm: AudioLLM, word: str) -> str:
    with lora_off(audio_llm.llm):
        return audio_llm.generate([teacher_item(word, PROMPT)], ANSWER)[0]


def turns(audio_llm: AudioLLM, shards: TokenShards) -> list[Turn]:
    said = {word: teacher_says(audio_llm, word) for word in COLOURS}
    return [Turn(i, PROMPT, said[shards[i].text]) for i in range(len(shards))]


@pytest.fixture
def stage(make_ears, make_shards, colour_rows) -> Callable[..., AlignTraining]:
    made = []

    def make(**settings: Any) -> AlignTraining:
        ears, folder = make_ears(), f"run-{len(made)}"
        shards = make_shards(f"{folder}/train", colour_rows(32, 1)), make_shards(f"{folder}/val", colour_rows(16, 2))
        given = {"steps": 120, "lr": 5e-3, "warmup_steps": 5, "batch_seconds": 3, "response_tokens": 8}
        given |= {"hearing_share": 0.3} | settings
        plain = AlignStage(accumulation=1, validate_every=60, **given)
        taught, judged = (turns(ears, part) for part in shards)
        made.append(AlignTraining(ears, shards[0], taught, shards[1], judged, plain, CPU, 75.0))
        return made[-1]

    return make


def answers(training: AlignTraining, shards: TokenShards, turns: list[Turn]):
    """Student and teacher on the same answers to some recordings, and the losses that the stage makes of them."""
    examples, ears = [shards[turn.row] for turn in turns], training.audio_llm
    rows, ids = listen_to(ears, examples, CPU).rows(), [response_ids(ears, turn.response) for turn in turns]
    ids = [row[: training.settings.response_tokens] for row in ids]
    with torch.no_grad(), lora_off(ears.llm):
        items = [teacher_item(example.text or "", turn.prompt) for example, turn in zip(examples, turns, strict=True)]
        teacher = ears.response_logits(items, ids)
    items = [student_item(audio, turn.prompt) for audio, turn in zip(rows, turns, strict=True)]
    return ears.response_logits(items, ids), teacher, training._taught_losses(rows, examples, turns)


@torch.no_grad()
def heard(training: AlignTraining) -> list[str]:
    """The student's own answers to the held-out recordings."""
    examples = [training.held_out[i] for i in range(len(training.held_out))]
    rows = listen_to(training.audio_llm, examples, CPU).rows()
    return training.audio_llm.generate([student_item(audio, PROMPT) for audio in rows], ANSWER)


@torch.no_grad()
def read(audio_llm: AudioLLM) -> Tensor:
    """Logits of the text path with LoRA off."""
    with lora_off(audio_llm.llm):
        out = audio_llm.response_logits([teacher_item(word, PROMPT) for word in COLOURS], [[2, 5, 1]] * 4)
    return out.logits


def test_the_student_answers_what_it_hears_as_the_teacher_answers_what_it_reads(stage, tmp_path):
    training = stage()
    said = {word: teacher_says(training.audio_llm, word) for word in COLOURS}
    assert len({tuple(answer.split()[:3]) for answer in said.values()}) == 4  # else agreement would say nothing
    before = read(training.audio_llm)
    (tmp_path / "fit").mkdir()
    fit(training, TrainConfig(dtype="fp32"), tmp_path / "fit", CPU, [])
    with torch.no_grad():
        figures = training.validate()
    assert figures["agreement"] > 0.95 and figures["kl"] < 0.1
    assert figures["agreement_other_audio"] < 0.55 and figures["kl_other_audio"] > 5 * figures["kl"]
    pairs = zip(heard(training), COLOURS * 4, strict=True)
    assert sum(answer.split()[:3] == said[word].split()[:3] for answer, word in pairs) >= 15
    assert torch.equal(read(training.audio_llm), before)  # the text path with LoRA off is the same to the last bit
    moved = training.audio_llm.response_logits([teacher_item("red", PROMPT)], [[2, 5, 1]]).logits
    assert not torch.allclose(moved.detach(), before[:1], atol=1e-3)  # with LoRA on it is not


def test_the_answer_follows_the_sound_where_the_transcript_says_another_word(stage, make_shards, colour_rows):
    """What the student hears of a recording does not depend on the text that stands beside it."""
    training, rows = stage(), colour_rows(4, 3)
    lied = make_shards("lied", [row | {"text": "black"} for row in rows])
    told = make_shards("told", rows)
    wrong, right = (answers(training, shards, [Turn(i, PROMPT, "two") for i in range(4)]) for shards in (lied, told))
    assert torch.equal(wrong[0].logits, right[0].logits)
    assert not torch.equal(wrong[1].logits, right[1].logits)  # the teacher reads it


def test_the_loss_looks_at_answer_tokens_alone(stage):
    training = stage()
    turns = [Turn(0, PROMPT, "two"), Turn(1, PROMPT, "three four five")]
    training.settings = training.settings.model_copy(update={"temperature": 1.0})
    student, teacher, losses = answers(training, training.shards, turns)
    assert student.mask.tolist() == [[True, True, False, False], [True] * 4]  # the words and the end of the turn
    by_hand = []
    for row, turn in enumerate(turns):
        ids = response_ids(training.audio_llm, turn.response)
        p, q = (out.logits[row, : len(ids)].log_softmax(-1) for out in (teacher, student))
        by_hand += (p.exp() * (p - q)).sum(-1).tolist()
    assert float(losses["kl"].detach()) == pytest.approx(sum(by_hand) / 6, rel=1e-4)
    assert float(losses["end"].detach()) == pytest.approx((by_hand[1] + by_hand[5]) / 2, rel=1e-4)


def test_an_answer_that_is_too_long_loses_its_end_and_is_not_taught_to_stop_there(stage):
    training = stage(response_tokens=3)
    student, teacher, losses = answers(training, training.shards, [Turn(0, PROMPT, "one two three four five")])
    ids = response_ids(training.audio_llm, "one two three four five")[:3]
    alone = training.audio_llm.response_logits([teacher_item("red", PROMPT)], [ids]).logits
    assert torch.allclose(teacher.logits, alone, atol=1e-5)
    assert student.mask.tolist() == [[True] * 3]
    assert float(losses["kl"].detach()) > 0 and float(losses["end"].detach()) == 0


def test_logits_of_answers_exist_for_a_few_tokens_at_a_time_and_the_gradients_are_the_same(stage, monkeypatch):
    training, found = stage(), []
    training.audio_llm.eval()
    turns = [Turn(row, PROMPT, "two three four five", told=row > 3) for row in range(6)]
    examples = [training.shards[turn.row] for turn in turns]
    head, sizes = training.audio_llm.language.get_output_embeddings(), []
    head.register_forward_hook(lambda _, given, logits: sizes.append(logits[..., 0].numel()))
    for at_once in (3, 1000):
        monkeypatch.setattr(align, "AT_ONCE", at_once)
        training.audio_llm.zero_grad()
        rows = [row.detach().requires_grad_() for row in listen_to(training.audio_llm, examples, CPU).rows()]
        sizes.clear()
        losses = training._answer_losses(rows, examples, turns)
        torch.stack(list(losses.values())).sum().backward()
        gradients = [p.grad.clone() for p in [*rows, *training.audio_llm.parameters()] if p.grad is not None]
        found.append((max(sizes), torch.stack(list(losses.values())).detach(), gradients))
    assert found[0][0] == 3 and found[1][0] == 20  # of twenty tokens that the teacher teaches, ten that are told
    torch.testing.assert_close(found[0][1:], found[1][1:])


def test_an_llm_that_changes_its_logits_is_refused_for_distillation(stage):
    training = stage()
    training.audio_llm.language.config.final_logit_softcapping = 30.0
    with pytest.raises(InputError, match="changes its logits .final_logit_softcapping.; distil from an LLM"):
        answers(training, training.shards, [Turn(0, PROMPT, "two")])


def test_teacher_and_speech_model_get_no_gradient(stage):
    training = stage()
    batch, _ = next(loaded(training, SamplerState(0, 0, 0)))
    training.loss(batch, 0.5).loss.backward()
    moved = {name for name, p in training.audio_llm.named_parameters() if p.grad is not None and bool(p.grad.any())}
    assert moved and all(name.startswith("adapter.") or "lora_" in name for name in moved)
    assert {name.split(".")[0] for name in moved} == {"adapter", "language"}


def test_the_adapter_alone_learns_where_lora_is_to_stay_and_a_killed_run_can_be_taken_up(stage, tmp_path):
    whole = stage(train_lora=False, steps=6)
    (tmp_path / "whole").mkdir()
    fit(whole, TrainConfig(dtype="fp32"), tmp_path / "whole", CPU, [])
    lora = {name: p for name, p in whole.audio_llm.language.named_parameters() if "lora_B" in name}
    assert lora and all(not bool(p.any()) and not p.requires_grad for p in lora.values())

    killed = stage(train_lora=False, steps=6)
    fetched, load = [], killed.load

    def interrupted(key):
        if len(fetched) == 3:
            raise KeyboardInterrupt
        fetched.append(key)
        return load(key)

    killed.load = interrupted  # type: ignore[method-assign]
    (tmp_path / "killed").mkdir()
    with pytest.raises(KeyboardInterrupt):
        fit(killed, TrainConfig(dtype="fp32", checkpoint_minutes=1e-9), tmp_path / "killed", CPU, [])
    again = stage(train_lora=False, steps=6)
    progress = fit(again, TrainConfig(dtype="fp32"), tmp_path / "killed", CPU, [])
    assert progress.step == 6
    for one, two in zip(whole.audio_llm.adapter.parameters(), again.audio_llm.adapter.parameters(), strict=True):
        assert torch.equal(one, two)
