"""What a voice tells, named in words of the LLM."""

from __future__ import annotations

from pathlib import Path

import pytest
import torch

from ira.checkpoint import load_model, save_model
from ira.config import AdapterConfig
from ira.models.adapter import Adapter
from ira.models.traits import Traits

WORDS = {"gender": [[3], [4]], "language": [[5], [6, 7], [8]]}
TABLE = torch.randn(12, 20, generator=torch.Generator().manual_seed(5))
SIZES = {"source_width": 16, "source_layers": 3, "target_width": 20, "frame_rate": 75.0, "tokens": [3, 9]}


@pytest.fixture
def adapter() -> Adapter:
    torch.manual_seed(0)
    shape = AdapterConfig(trunk_layers=1, layers=1, queries=4, window_seconds=0.4, width=24, heads=3, stack=2)
    return Adapter(shape, **SIZES, traits=WORDS).eval()


def states(rows: int, frames: int, seed: int = 1) -> torch.Tensor:
    return torch.randn(rows, 3, frames, 16, generator=torch.Generator().manual_seed(seed))


@torch.no_grad()
def test_mean_and_deviation_are_those_of_the_sound_alone():
    traits, x = Traits(48, WORDS), states(2, 50)
    x[1, :, 20:] = 1e4
    seen = []
    traits.norm.register_forward_pre_hook(lambda _, given: seen.append(given[0]))
    traits(x, torch.tensor([50, 20]))
    for row, frames in ((0, 50), (1, 20)):
        sound = x[row, :, :frames]
        wanted = torch.cat([sound.mean(1), sound.std(1, unbiased=False)], -1).flatten()
        torch.testing.assert_close(seen[0][row], wanted, atol=1e-4, rtol=1e-4)


@torch.no_grad()
def test_a_sure_choice_is_said_in_the_embeddings_of_its_words():
    traits = Traits(48, WORDS)
    sure = {"gender": torch.tensor([[0.0, 99.0]]), "language": torch.tensor([[0.0, 99.0, 0.0]])}
    said = traits.say(sure, TABLE)
    torch.testing.assert_close(said[0], torch.stack([TABLE[4], (TABLE[6] + TABLE[7]) / 2]))


@torch.no_grad()
def test_the_voice_is_named_before_the_words_and_not_of_silence(adapter: Adapter):
    x, frames = states(3, 60), torch.tensor([60, 25, 0])
    heard = adapter(x, frames, TABLE)
    assert adapter.traits is not None
    assert heard.embeddings.shape == (3, 2 + 8, 20)
    torch.testing.assert_close(heard.embeddings[:2, :2], adapter.traits.say(heard.traits, TABLE)[:2])
    assert heard.mask[:, :2].tolist() == [[True, True], [True, True], [False, False]]
    assert not heard.embeddings[2].any()
    assert {trait: tuple(given.shape) for trait, given in heard.traits.items()} == {
        "gender": (3, 2),
        "language": (3, 3),
    }


@torch.no_grad()
def test_without_traits_the_words_are_the_same(adapter: Adapter):
    x, frames = states(2, 60), torch.tensor([60, 25])
    whole = adapter(x, frames, TABLE)
    adapter.traits = None
    torch.testing.assert_close(adapter(x, frames, TABLE).embeddings, whole.embeddings[:, 2:])


@torch.no_grad()
def test_saved_and_loaded_it_names_the_same(adapter: Adapter, tmp_path: Path):
    save_model(tmp_path, "adapter", adapter)
    again = load_model(Adapter, tmp_path, "adapter").eval()
    x, frames = states(2, 60), torch.tensor([60, 25])
    assert torch.equal(adapter(x, frames, TABLE).embeddings, again(x, frames, TABLE).embeddings)
