from __future__ import annotations

from pathlib import Path

import pytest
import torch

from ira.checkpoint import load_model, save_model
from ira.config import AdapterConfig
from ira.models.adapter import Adapter, PerceiverLayer, Places, stretch_weights
from ira.models.blocks import length_mask, rope

FRAME_RATE = 75.0
WINDOW = 32  # frames of a window: 32 / 75 s, 8 stacks of 4
CONFIG = AdapterConfig(
    trunk_layers=1, layers=2, queries=5, window_seconds=WINDOW / FRAME_RATE, width=24, heads=3, stack=4
)
TABLE = 0.07 * torch.randn(30, 20, generator=torch.Generator().manual_seed(5))  # the embeddings of an LLM
NAMED = [3, 4, 8, 20, 21, 29]


@pytest.fixture
def adapter() -> Adapter:
    torch.manual_seed(0)
    made = Adapter(
        CONFIG, source_width=16, source_layers=3, target_width=20, frame_rate=FRAME_RATE, tokens=NAMED
    ).eval()
    made.match_scale(TABLE)
    return made


@pytest.fixture
def open_adapter(adapter: Adapter, monkeypatch: pytest.MonkeyPatch) -> Adapter:
    """One that leaves nothing out."""
    monkeypatch.setattr(adapter, "_kept", lambda tokens: torch.ones(tokens.shape[:2], dtype=torch.bool))
    return adapter


def states(batch: int, frames: int, seed: int = 1) -> torch.Tensor:
    return torch.randn(batch, 3, frames, 16, generator=torch.Generator().manual_seed(seed))


@torch.no_grad()
def test_a_row_has_its_queries_for_every_window_it_reaches_into(open_adapter: Adapter):
    frames = torch.tensor([1, WINDOW, WINDOW + 1, 3 * WINDOW, 0])
    heard = open_adapter(states(5, 3 * WINDOW), frames, TABLE)
    assert heard.embeddings.shape == (5, 15, 20)
    assert heard.mask.sum(1).tolist() == heard.queries.tolist() == [5, 5, 10, 15, 0]
    assert heard.stacks.tolist() == [1, 8, 9, 24, 0]
    assert heard.embeddings[~heard.mask].eq(0).all()
    assert [tuple(row.shape) for row in heard.rows()] == [(5, 20), (5, 20), (10, 20), (15, 20), (0, 20)]
    assert heard.embeddings.isfinite().all()


@torch.no_grad()
@pytest.mark.parametrize("frames", [1, 3, 4, 30, WINDOW, WINDOW + 2, 70])
def test_what_lies_in_the_padding_changes_nothing(adapter: Adapter, frames: int):
    x = states(1, frames)
    alone = adapter(x, torch.tensor([frames]), TABLE).rows()[0]
    padded = torch.cat([x, 1000 * states(1, 41, seed=2)], dim=2)
    torch.testing.assert_close(adapter(padded, torch.tensor([frames]), TABLE).rows()[0], alone, atol=1e-5, rtol=1e-5)


@torch.no_grad()
def test_batch_neighbours_change_nothing(adapter: Adapter):
    x, frames = states(6, 80), torch.tensor([80, 3, 33, 64, 1, 50])
    together = adapter(x, frames, TABLE).rows()
    for row in range(6):
        alone = adapter(x[row : row + 1], frames[row : row + 1], TABLE).rows()[0]
        torch.testing.assert_close(together[row], alone, atol=1e-5, rtol=1e-5)


@torch.no_grad()
def test_a_query_reads_its_own_window_of_a_trunk_that_hears_all(open_adapter: Adapter):
    x, frames = states(1, 3 * WINDOW), torch.tensor([3 * WINDOW])
    other = x.clone()
    other[:, :, 2 * WINDOW :] += 1
    whole, changed = (open_adapter(given, frames, TABLE).embeddings for given in (x, other))
    assert (whole[:, :5] - changed[:, :5]).abs().max() > 1e-5
    open_adapter.trunk = torch.nn.ModuleList()
    whole, changed = (open_adapter(given, frames, TABLE).embeddings for given in (x, other))
    torch.testing.assert_close(whole[:, :10], changed[:, :10], atol=1e-6, rtol=1e-6)
    assert (whole[:, 10:] - changed[:, 10:]).abs().max() > 1e-4


@torch.no_grad()
def test_queries_that_are_blank_or_repeat_the_one_before_are_left_out_but_for_the_first(adapter: Adapter):
    likeliest = torch.tensor([[0, 2, 2, 0, 2, 2, 3, 3, 0, 0]])  # of two windows
    kept = adapter._kept(torch.nn.functional.one_hot(likeliest, 7).float())
    assert kept.int().tolist() == [[1, 1, 0, 0, 1, 1, 1, 0, 0, 0]]


@torch.no_grad()
def test_the_llm_is_given_the_embedding_of_a_token_that_is_surely_named(open_adapter: Adapter):
    open_adapter.name_bias[NAMED.index(20) + 1] = 1e4
    open_adapter.leave.weight.zero_()
    heard = open_adapter(states(1, 20), torch.tensor([20]), TABLE)
    torch.testing.assert_close(heard.rows()[0], TABLE[20].expand(5, -1))
    open_adapter.name_bias[0] = 1e5  # the blank
    open_adapter.blank.fill_(0.25)
    heard = open_adapter(states(1, 20), torch.tensor([20]), TABLE)
    torch.testing.assert_close(heard.rows()[0], torch.full((5, 20), 0.25))


@torch.no_grad()
def test_what_is_hidden_is_not_heard(open_adapter: Adapter):
    x, frames = states(1, 40), torch.tensor([40])
    hide = torch.zeros(1, 10, dtype=torch.bool)
    hide[0, 4] = True
    other = x.clone()
    other[:, :, 16:20] = 9.0
    hidden, changed = (open_adapter(given, frames, TABLE, hide).embeddings for given in (x, other))
    torch.testing.assert_close(hidden, changed)
    assert (open_adapter(x, frames, TABLE).embeddings - hidden).abs().max() > 1e-4


@torch.no_grad()
def test_the_last_valid_frame_and_the_order_of_frames_are_heard(open_adapter: Adapter):
    x, frames = states(1, 30), torch.tensor([30])
    before = open_adapter(x, frames, TABLE).embeddings
    last = x.clone()
    last[:, :, 29] += 1
    assert (open_adapter(last, frames, TABLE).embeddings - before).abs().max() > 1e-3
    assert (open_adapter(x.flip(2), frames, TABLE).embeddings - before).abs().max() > 1e-2


def test_every_parameter_learns_from_valid_frames_and_no_gradient_reaches_the_padding(open_adapter: Adapter):
    x = states(2, 50).requires_grad_()
    heard = open_adapter(x, torch.tensor([50, 20]), TABLE)
    (heard.embeddings.square().sum() + heard.characters.square().mean()).backward()
    for name, parameter in open_adapter.named_parameters():
        assert parameter.grad is not None and parameter.grad.abs().max() > 0, name
    assert x.grad is not None
    assert x.grad[1, :, 20:].eq(0).all()
    assert (x.grad.abs().sum((1, 3))[1, :20] > 0).all()


@torch.no_grad()
def test_what_is_said_freely_is_soft_beside_the_llms_embeddings(open_adapter: Adapter):
    before = open_adapter(states(8, 64), torch.full((8,), 64), TABLE).embeddings
    open_adapter.leave.weight.zero_()
    freely = before - open_adapter(states(8, 64), torch.full((8,), 64), TABLE).embeddings
    assert freely.square().mean().sqrt().item() == pytest.approx(0.007, rel=0.3)


@torch.no_grad()
def test_the_mix_takes_the_layers_it_is_told_to(open_adapter: Adapter):
    open_adapter.mix.copy_(torch.tensor([0.0, 50.0, 0.0]))
    x, frames = states(1, 40), torch.tensor([40])
    before = open_adapter(x, frames, TABLE).embeddings
    x[:, 0], x[:, 2] = 7.0, -3.0
    torch.testing.assert_close(open_adapter(x, frames, TABLE).embeddings, before)


@torch.no_grad()
def test_the_loudness_of_a_layers_states_changes_nothing(open_adapter: Adapter):
    x, frames = states(1, 40), torch.tensor([40])
    before = open_adapter(x, frames, TABLE).embeddings
    x[:, 2] *= 100
    torch.testing.assert_close(open_adapter(x, frames, TABLE).embeddings, before, atol=1e-4, rtol=1e-4)


@torch.no_grad()
def test_queries_look_only_at_the_stacks_that_are_there():
    torch.manual_seed(2)
    layer = PerceiverLayer(24, heads=3)
    queries, frames = torch.randn(1, 5, 24), torch.randn(1, 8, 24)

    def read(size: int, valid: int) -> torch.Tensor:
        places = Places(rope(torch.arange(size), 8), rope(torch.arange(5) / 5, 8), rope(torch.arange(5), 8))
        return layer(queries, frames[:, :size], length_mask(torch.tensor([valid]), size)[:, None, None], places)

    torch.testing.assert_close(read(8, valid=3), read(3, valid=3), atol=1e-6, rtol=1e-6)
    assert (read(8, valid=8) - read(3, valid=3)).abs().max() > 1e-2


def test_states_of_another_model_are_refused(adapter: Adapter):
    with pytest.raises(ValueError, match="do not fit"):
        adapter(torch.zeros(1, 2, 8, 16), torch.tensor([8]), TABLE)


@torch.no_grad()
def test_saved_and_loaded_it_says_the_same(adapter: Adapter, tmp_path: Path):
    save_model(tmp_path, "adapter", adapter)
    again = load_model(Adapter, tmp_path, "adapter")
    x, frames = states(2, 50), torch.tensor([50, 9])
    assert torch.equal(again(x, frames, TABLE).embeddings, adapter(x, frames, TABLE).embeddings)


def test_half_precision_on_the_cpu_stays_near_full_precision(open_adapter: Adapter):
    x, frames = states(2, 50), torch.tensor([50, 9])
    full = open_adapter(x, frames, TABLE).embeddings
    with torch.autocast("cpu", torch.bfloat16):
        half = open_adapter(x, frames, TABLE).embeddings.float()
    assert (full - half).abs().max() < 0.05 * full.abs().max()


def test_the_seeds_size_builds_and_reads_ten_seconds_with_32_queries():
    with torch.device("meta"):
        sizes = {"source_width": 768, "source_layers": 4, "target_width": 2048, "frame_rate": 75.0}
        full = Adapter(AdapterConfig(), **sizes, tokens=range(9))
        heard = full(torch.empty(1, 4, 750, 768), torch.empty(1, dtype=torch.long), torch.empty(9, 2048))
    assert heard.embeddings.shape == (1, 32, 2048)


def test_stretches_share_out_what_is_there_and_nothing_else():
    centres, weights = stretch_weights(torch.tensor([8, 4, 2, 1]), queries=4, size=8)
    torch.testing.assert_close(centres[0], torch.tensor([0.5, 2.5, 4.5, 6.5]))
    torch.testing.assert_close(centres[1], torch.tensor([0.0, 1.0, 2.0, 3.0]))
    torch.testing.assert_close(weights[1], torch.eye(4, 8))
    torch.testing.assert_close(weights[2, :, :2], torch.tensor([[1.0, 0.0], [0.75, 0.25], [0.25, 0.75], [0.0, 1.0]]))
    torch.testing.assert_close(weights.sum(-1), torch.ones(4, 4))
    assert weights[3, :, 1:].eq(0).all()
