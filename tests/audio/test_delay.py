"""The delay pattern: there and back gives the same codes, a slow loop says where everything stands."""

from __future__ import annotations

import pytest
import torch
from hypothesis import given
from hypothesis import strategies as st

from ira.audio.delay import delay, special_ids, undelay

V = 9


@st.composite
def batches(draw: st.DrawFn) -> tuple[torch.Tensor, torch.Tensor]:
    """codes [B, K, T] and frames [B], some rows shorter than T and some empty."""
    B, K, T = draw(st.integers(1, 3)), draw(st.integers(1, 5)), draw(st.integers(0, 7))
    values = draw(st.lists(st.integers(0, V - 1), min_size=B * K * T, max_size=B * K * T))
    frames = draw(st.lists(st.integers(0, T), min_size=B, max_size=B))
    return torch.tensor(values, dtype=torch.long).reshape(B, K, T), torch.tensor(frames)


def slow_delay(codes: torch.Tensor, frames: torch.Tensor) -> torch.Tensor:
    """Each book's sequence written out by hand: BOS x (k + 1), codes, EOS, PAD until S."""
    B, K, T = codes.shape
    eos, bos, pad = special_ids(V)
    rows = []
    for b in range(B):
        for k in range(K):
            line = [bos] * (k + 1) + codes[b, k, : int(frames[b])].tolist() + [eos] + [pad] * (T + K)
            rows.append(line[: T + K])
    return torch.tensor(rows, dtype=torch.long).reshape(B, K, T + K)


@given(batches())
def test_delay_puts_everything_where_the_slow_loop_does(batch):
    codes, frames = batch
    assert torch.equal(delay(codes, frames, V), slow_delay(codes, frames))


@given(batches())
def test_undelay_after_delay_is_the_identity(batch):
    codes, frames = batch
    back = undelay(delay(codes, frames, V)[:, :, 1:], codes.shape[-1])
    inside = torch.arange(codes.shape[-1]) < frames[:, None, None]
    assert torch.equal(back.masked_fill(~inside, -1), codes.masked_fill(~inside, -1))


@given(batches())
def test_what_stands_past_a_rows_frames_is_ignored(batch):
    codes, frames = batch
    inside = torch.arange(codes.shape[-1]) < frames[:, None, None]
    assert torch.equal(delay(codes, frames, V), delay(codes.masked_fill(~inside, V - 1), frames, V))


def test_undelay_keeps_what_stands_behind_the_steps():
    logits = torch.randn(2, 3, 8, 5)
    aligned = undelay(logits, 6)
    assert aligned.shape == (2, 3, 6, 5)
    for k in range(3):
        assert torch.equal(aligned[:, k, 4], logits[:, k, 4 + k])


def test_undelay_refuses_frames_that_the_steps_do_not_hold():
    with pytest.raises(ValueError, match="7 frames of 3 books need 9 steps, 8 given"):
        undelay(torch.zeros(1, 3, 8), 7)


def test_the_three_ids_follow_the_codes_and_the_ends_carry_them():
    assert special_ids(1024) == (1024, 1025, 1026)
    eos, bos, pad = special_ids(V)
    steps = delay(torch.tensor([[[3, 4, 0], [5, 6, 0]]]), torch.tensor([2]), V)
    assert steps.tolist() == [[[bos, 3, 4, eos, pad], [bos, bos, 5, 6, eos]]]
