"""Which prompts and answers the listener learns from."""

from __future__ import annotations

import pytest
import torch

from ira.config import AlignStage
from ira.data.tasks import prompts_of
from ira.errors import InputError
from ira.models.audio_llm import AUDIO
from ira.models.llm import lora_off
from ira.training.conversations import Turn, conversations, listen_to, response_ids, spoken_tokens, teacher_item

SETTINGS = AlignStage(teacher_responses=3, response_tokens=4)


@pytest.fixture
def shards(make_shards, colour_rows):
    """Eight colours with text and two recordings without; one has a question and an answer of its own."""
    rows = [*colour_rows(8, 1), *(row | {"text": ""} for row in colour_rows(2, 2))]
    rows[2] |= {"instruction": "which one", "response": "two"}
    rows[3] |= {"extra": {"written": "Black!"}}
    return make_shards("train", rows)


def told_of(turns, *names: str):
    """The turns that are about tasks of these names."""
    wordings = {f"{prompt} {AUDIO}" for name in names for prompt in prompts_of(name)}
    return [turn for turn in turns if turn.prompt in wordings]


def test_every_row_with_text_is_repeated_as_it_was_written_and_own_answers_are_used(make_ears, shards):
    turns = conversations(make_ears(), shards, SETTINGS)
    assert turns[0] == Turn(2, f"which one {AUDIO}", "two")
    repeated = told_of(turns, "transcription")
    assert [turn.row for turn in repeated] == list(range(8)) and not any(turn.told for turn in repeated)
    assert [turn.response for turn in repeated] == ["red", "green", "blue", "Black!", "red", "green", "blue", "black"]
    assert len({turn.prompt for turn in repeated}) > 1


def test_what_the_voice_alone_tells_is_learnt_from_the_manifest(make_ears, make_shards, colour_rows):
    rows = [row | {"extra": {"gender": "female"}} for row in colour_rows(8, 1)]
    rows[3] |= {"text": ""}
    turns = conversations(make_ears(), make_shards("known", rows), SETTINGS.model_copy(update={"teacher_responses": 0}))
    who = told_of(turns, "gender")
    assert [turn.row for turn in who] == [1, 2, 3, 4, 5, 6, 7]
    assert all(turn.told and turn.response == "a woman" for turn in who)
    (language,) = told_of(turns, "language")
    assert (language.row, language.response, language.told) == (0, "English", True)


def test_a_question_is_answered_by_the_teacher_who_reads_it(make_ears, make_shards, colour_rows):
    rows = [row | {"extra": {"answer": "one"}} for row in colour_rows(2, 1)]
    ears = make_ears()
    turns = conversations(ears, make_shards("asked", rows), SETTINGS.model_copy(update={"teacher_responses": 0}))
    with lora_off(ears.llm):
        for row, turn in enumerate(told_of(turns, "question")):
            assert not turn.told
            assert [turn.response] == ears.generate([teacher_item(rows[row]["text"], turn.prompt)], 4)


def test_the_teachers_answers_are_those_of_the_frozen_model_to_the_text(make_ears, shards):
    ears = make_ears()
    with torch.no_grad():
        for name, parameter in ears.language.named_parameters():
            if "lora_B" in name:
                parameter.normal_(std=0.5)
    turns = conversations(ears, shards, SETTINGS)
    given = told_of(turns, "transcription", "language")
    asked = [turn for turn in turns[1:] if turn not in given]
    assert 1 <= len(asked) <= 3 and [turn.row for turn in asked] == sorted({turn.row for turn in asked})
    with lora_off(ears.llm):
        for turn in asked:
            assert ears.generate([teacher_item(shards[turn.row].text, turn.prompt)], 4) == [turn.response]


def test_answers_are_written_once_and_anew_for_other_settings(make_ears, shards, monkeypatch):
    ears = make_ears()
    first = conversations(ears, shards, SETTINGS)
    written = list(shards.folder.glob("answers-*.jsonl"))
    monkeypatch.setattr(ears, "generate", lambda *_: pytest.fail("the answers are there already"))
    assert conversations(ears, shards, SETTINGS) == first and len(written) == 1
    monkeypatch.undo()
    conversations(ears, shards, SETTINGS.model_copy(update={"response_tokens": 2}))
    assert len(list(shards.folder.glob("answers-*.jsonl"))) == 2


def test_a_limit_takes_rows_from_everywhere(make_ears, shards):
    assert {turn.row for turn in conversations(make_ears(), shards, SETTINGS, limit=2)} == {0, 4}


def test_shards_without_text_are_refused(make_ears, make_shards, colour_rows):
    silent = make_shards("silent", [row | {"text": ""} for row in colour_rows(2, 0)])
    with pytest.raises(InputError, match="no row has text"):
        conversations(make_ears(), silent, SETTINGS)


def test_an_answer_ends_its_turn(make_ears):
    ears = make_ears()
    assert response_ids(ears, "red five") == [2, 11, 1] and 1 in ears.llm.eos_ids


def test_what_is_heard_of_a_row_does_not_depend_on_its_neighbours(make_ears, shards):
    ears, cpu = make_ears(), torch.device("cpu")
    examples = [shards[i] for i in range(4)]
    with torch.no_grad():
        together = listen_to(ears, examples, cpu).rows()
        for example, row in zip(examples, together, strict=True):
            assert torch.allclose(listen_to(ears, [example], cpu).rows()[0], row, atol=1e-5)


def test_another_teacher_of_the_same_name_writes_anew(make_ears, shards):
    ears = make_ears()
    conversations(ears, shards, SETTINGS)
    with torch.no_grad():
        ears.language.get_input_embeddings().weight.neg_()
    conversations(ears, shards, SETTINGS)
    assert len(list(shards.folder.glob("answers-*.jsonl"))) == 2


def test_the_tokens_that_can_be_named_are_those_of_the_transcripts(make_ears, shards):
    tokenizer = make_ears().llm.tokenizer
    wanted = {i for word in ("red", "green", "blue", "black", "Black") for i in tokenizer(f" {word}").input_ids}
    assert spoken_tokens(tokenizer, shards) == sorted(wanted)
