"""What the manifest says of voices: weighed so that the rare counts as the common, and learnt."""

from __future__ import annotations

from collections.abc import Callable

import pytest
import torch

from ira.data.shards import Example
from ira.data.tasks import TRAITS
from ira.models.traits import Traits
from ira.training.traits import balance, mistaken, told, trait_words, traits_loss


@pytest.fixture
def example() -> Callable[..., Example]:
    def make(language: str = "", emotion: str = "", **extra: object) -> Example:
        codes = torch.zeros(1, 1, dtype=torch.long)
        return Example(codes, 1, "good morning", "", "", language, "", "", emotion, dict(extra))

    return make


def test_what_is_told_is_the_number_of_the_choice(example: Callable[..., Example]):
    known = told(example("de", "sad", gender="female", age="34", truncated=False))
    assert {trait: TRAITS[trait][choice] for trait, choice in known.items()} == {
        "gender": "a woman",
        "age": "an adult",
        "emotion": "sad",
        "language": "German",
    }
    assert told(example("nl")) == {"language": TRAITS["language"].index("Dutch")}
    assert "gender" not in told(example("en", age="7", gender="male"))  # children's voices are not told apart


def test_rare_choices_weigh_as_much_as_common_ones():
    weights = balance([{"gender": 0}] * 6 + [{"gender": 1}] * 2 + [{"age": 1}])
    torch.testing.assert_close(weights["gender"], torch.tensor([8 / 12, 2.0]))
    torch.testing.assert_close(weights["age"], torch.tensor([0.0, 1.0]))
    assert not weights["emotion"].any()


def test_the_loss_is_the_mean_over_what_is_told():
    logits = {"gender": torch.tensor([[2.0, 0.0], [1.0, 1.0], [0.0, 3.0]]), "age": torch.tensor([[0.0, 1.0]] * 3)}
    weights = {"gender": torch.tensor([0.5, 2.0]), "age": torch.ones(2)}
    known = [{"gender": 0, "age": 1}, {}, {"gender": 0}]
    chances = {trait: given.log_softmax(-1) for trait, given in logits.items()}
    wanted = -(0.5 * chances["gender"][0, 0] + 0.5 * chances["gender"][2, 0] + chances["age"][0, 1]) / 3
    torch.testing.assert_close(traits_loss(logits, known, weights), wanted)
    assert mistaken(logits, known) == (1, 3)
    assert float(traits_loss(logits, [{}] * 3, weights)) == 0


def test_voices_that_differ_by_their_mean_are_told_apart_whatever_they_say():
    torch.manual_seed(0)
    traits = Traits(8, {"gender": [[0], [1]]})
    optimizer = torch.optim.Adam(traits.parameters(), 1e-2)
    known, weights = [{"gender": i % 2} for i in range(16)], {"gender": torch.ones(2)}
    voice = torch.randn(2, 1, 1, 8)

    def recordings() -> torch.Tensor:
        return torch.randn(16, 1, 30, 8) + voice.repeat(8, 1, 1, 1)

    for _ in range(60):
        loss = traits_loss(traits(recordings(), torch.full((16,), 30)), known, weights)
        optimizer.zero_grad()
        loss.backward()
        optimizer.step()
    assert mistaken(traits(recordings(), torch.full((16,), 30)), known)[0] == 0


def test_each_choice_is_written_without_its_article():
    class Tokenizer:
        def __call__(self, text: str, add_special_tokens: bool):
            assert not add_special_tokens
            return type("Found", (), {"input_ids": [text]})

    words = trait_words(Tokenizer())
    assert words["gender"] == [[" man"], [" woman"]]
    assert list(words) == list(TRAITS)
