"""Losses against a slow loop or a sum by hand."""

from __future__ import annotations

import itertools
import math

import pytest
import torch
from torch import Tensor
from torch.nn import functional as F

from ira.training.losses import (
    MultiScaleMel,
    UncertaintyWeights,
    advance_loss,
    codec_cross_entropy,
    cosine_gap,
    divergence,
    fixed_weights,
    in_parts,
    masked_mean,
    soft_contrastive,
    surprise,
)

V = 5  # codebook size; index V is the end
WEIGHTS = torch.tensor([0.5, 0.3, 0.2])
FRAMES = torch.tensor([4, 2])


def codes() -> Tensor:
    """[2, 3, 4]; neighbouring frames differ, so that a shift by one shows."""
    return (torch.arange(4) + torch.arange(3)[:, None] + torch.arange(2)[:, None, None]) % V


def certain(target: Tensor) -> Tensor:
    """Logits that put nearly everything on target."""
    return 30.0 * F.one_hot(target, V + 1).float()


def perfect() -> Tensor:
    ends = torch.arange(5) == FRAMES[:, None, None]
    return certain(torch.where(ends, V, F.pad(codes(), (0, 1))))


def test_codec_cross_entropy_is_the_weighted_mean_of_a_slow_loop():
    logits = torch.randn(2, 3, 5, V + 1, generator=torch.Generator().manual_seed(0))
    log_probs = logits.log_softmax(-1)
    total, norm = 0.0, 0.0
    for b, k in itertools.product(range(2), range(3)):
        for t in range(int(FRAMES[b])):
            total -= float(WEIGHTS[k] * log_probs[b, k, t, codes()[b, k, t]])
            norm += float(WEIGHTS[k])
        if k == 0:
            total -= float(7.0 * WEIGHTS[0] * log_probs[b, 0, FRAMES[b], V])
            norm += 7.0 * float(WEIGHTS[0])
    loss = codec_cross_entropy(logits, codes(), FRAMES, WEIGHTS, eos_weight=7.0)
    assert float(loss) == pytest.approx(total / norm, rel=1e-5)


def test_logits_at_t_are_judged_by_the_code_at_t_and_by_no_neighbour():
    assert codec_cross_entropy(perfect(), codes(), FRAMES, WEIGHTS, 1.0) < 1e-6
    for shift in (-1, 1):
        shifted = perfect().roll(shift, dims=2)
        assert codec_cross_entropy(shifted, codes(), FRAMES, WEIGHTS, 1.0) > 5


def test_what_stands_past_a_rows_end_does_not_count():
    before = codec_cross_entropy(perfect(), codes(), FRAMES, WEIGHTS, 5.0)
    other, logits = codes(), perfect()
    other[1, :, 2:] = 0
    logits[1, :, 3:] = certain(torch.full((3, 2), 1))
    assert codec_cross_entropy(logits, other, FRAMES, WEIGHTS, 5.0) == before


def test_the_end_is_asked_of_book_0_alone_and_only_where_the_frames_end():
    logits = perfect()
    for b in range(2):
        logits[b, 1:, FRAMES[b]] = certain(torch.full((2,), 3))
    assert codec_cross_entropy(logits, codes(), FRAMES, WEIGHTS, 5.0) < 1e-6
    logits[0, 0, 4] = certain(torch.tensor(0))
    late = codec_cross_entropy(logits, codes(), FRAMES, WEIGHTS, 5.0)
    early = perfect()
    early[0, 0, 1] = certain(torch.tensor(V))
    soon = codec_cross_entropy(early, codes(), FRAMES, WEIGHTS, 5.0)
    assert float(late) == pytest.approx(5 * float(soon), rel=1e-4)  # one end step counts like five frames of book 0


WALK = torch.tensor([[0, 0, 1, 2, 2], [0, 1, 0, 0, 0]])  # the second row has two frames
MOVES = torch.tensor([[0, 1, 1, 0, 1], [1, 1, 0, 0, 0]])


def test_the_advance_is_asked_after_the_last_frame_of_every_token():
    sure = 30.0 * (2 * MOVES - 1).float()
    assert advance_loss(sure, WALK, torch.tensor([5, 2]), 3.0) < 1e-6
    for shift in (-1, 1):
        assert advance_loss(sure.roll(shift, 1), WALK, torch.tensor([5, 2]), 3.0) > 5


def test_the_advance_loss_by_hand_where_an_end_weighs_more():
    logits = torch.randn(2, 6, generator=torch.Generator().manual_seed(0))
    total, norm = 0.0, 0.0
    for row, frames in enumerate((5, 2)):
        for t in range(frames):
            chance = 1 / (1 + math.exp(-float(logits[row, t])))
            weight = 4.0 if t == frames - 1 else 1.0
            total -= weight * math.log(chance if MOVES[row, t] else 1 - chance)
            norm += weight
    loss = advance_loss(logits, WALK, torch.tensor([5, 2]), 4.0)
    assert float(loss) == pytest.approx(total / norm, rel=1e-5)
    assert torch.equal(advance_loss(logits[:, :5], WALK, torch.tensor([5, 2]), 4.0), loss)


def test_a_row_of_no_frames_and_what_stands_past_an_end_count_nothing_in_the_advance():
    logits = torch.randn(2, 6, generator=torch.Generator().manual_seed(0)).requires_grad_()
    advance_loss(logits, WALK, torch.tensor([0, 2]), 4.0).backward()
    assert logits.grad is not None
    assert (logits.grad != 0).tolist() == [[False] * 6, [True, True, False, False, False, False]]
    assert float(advance_loss(logits.detach(), WALK, torch.tensor([0, 0]), 4.0)) == 0
    other = WALK.clone()
    other[1, 2:] = 7
    assert advance_loss(logits, other, torch.tensor([0, 2]), 4.0) == advance_loss(
        logits, WALK, torch.tensor([0, 2]), 4.0
    )


def test_distillation_is_zero_where_both_agree_and_the_divergence_by_hand_elsewhere():
    teacher = torch.tensor([[[2.0, 0.0], [0.0, 0.0]]])
    student = torch.tensor([[[0.0, 0.0], [9.0, -9.0]]])
    assert float(divergence(teacher, teacher + 3.0, 2.0).max()) < 1e-6
    p = 1 / (1 + math.exp(-1))  # softmax of (2, 0) at temperature 2
    by_hand = 4 * (p * math.log(p / 0.5) + (1 - p) * math.log((1 - p) / 0.5))
    assert float(divergence(student, teacher, 2.0)[0, 0]) == pytest.approx(by_hand, rel=1e-5)


def test_masked_positions_do_not_count_in_the_cosine_gap():
    generator = torch.Generator().manual_seed(0)
    student, teacher = (torch.randn(2, 3, 4, generator=generator) for _ in range(2))
    mask = torch.tensor([[True, True, False], [True, False, False]])
    changed = torch.where(mask[..., None], student, 50.0)
    assert torch.equal(cosine_gap(student, teacher, mask), cosine_gap(changed, teacher, mask))
    inside = [F.cosine_similarity(student[b, r], teacher[b, r], dim=0) for b, r in ((0, 0), (0, 1), (1, 0))]
    assert float(cosine_gap(student, teacher, mask)) == pytest.approx(1 - float(torch.stack(inside).mean()), rel=1e-5)


def test_equal_states_have_no_cosine_gap_and_rounding_never_makes_it_negative():
    states = torch.randn(1, 400, 33, generator=torch.Generator().manual_seed(0))
    for scale in (1.0, 0.1, 3.0):
        gap = cosine_gap(scale * states[:, :1], states[:, :1], torch.ones(1, 1, dtype=torch.bool))
        assert 0 <= float(gap) < 1e-5
    each = [float(cosine_gap(states[:, i : i + 1], states[:, i : i + 1], torch.ones(1, 1).bool())) for i in range(400)]
    assert min(each) >= 0


def test_the_contrastive_loss_is_zero_where_similarities_are_the_targets_and_positive_elsewhere():
    targets = torch.tensor([[1.0, 1.0, 0.0], [1.0, 1.0, 0.0], [0.0, 0.0, 1.0]])
    left = torch.tensor([[1.0, 0.0], [1.0, 0.0], [0.0, 1.0]])
    sharp = torch.tensor(0.01)
    assert soft_contrastive(left, left, targets, sharp) < 1e-6
    assert soft_contrastive(left, left.flip(0), targets, sharp) > 1


def test_the_contrastive_loss_is_clips_cross_entropy_where_targets_are_hard():
    generator = torch.Generator().manual_seed(0)
    left, right = (F.normalize(torch.randn(4, 3, generator=generator), dim=-1) for _ in range(2))
    logits, wanted = left @ right.T / 0.5, torch.arange(4)
    by_hand = (F.cross_entropy(logits, wanted) + F.cross_entropy(logits.T, wanted)) / 2
    assert float(soft_contrastive(left, right, torch.eye(4), torch.tensor(0.5))) == pytest.approx(float(by_hand))


def settled(losses: dict[str, float]) -> dict[str, float]:
    """Weights after s has followed constant losses for a while."""
    weights = UncertaintyWeights(list(losses))
    optimizer = torch.optim.Adam(weights.parameters(), lr=0.1)
    for _ in range(400):
        optimizer.zero_grad()
        weights({name: torch.tensor(value) for name, value in losses.items()}).backward()
        optimizer.step()
    return weights.weights()


def test_uncertainty_weights_reach_one_over_twice_the_loss():
    losses = {"small": 0.05, "one": 1.0, "large": 9.0}
    for name, weight in settled(losses).items():
        assert weight == pytest.approx(1 / (2 * losses[name]), rel=0.05)  # s = log(2 L)


def test_a_loss_counts_alike_whatever_unit_it_is_measured_in():
    share = {scale: settled({"a": 0.08 * scale, "b": 1.0})["a"] * 0.08 * scale for scale in (1, 100)}
    assert share[1] == pytest.approx(share[100], rel=0.05)


def test_uncertainty_weights_refuse_a_negative_loss_and_unknown_names():
    weights = UncertaintyWeights(["a", "b"])
    with pytest.raises(ValueError, match="negative"):
        weights({"a": torch.tensor(1.0), "b": torch.tensor(-0.1)})
    with pytest.raises(ValueError, match="not the weighted ones"):
        weights({"a": torch.tensor(1.0), "c": torch.tensor(1.0)})


def test_uncertainty_weights_of_a_batch_without_some_loss_leave_that_one_alone():
    weights = UncertaintyWeights(["a", "b", "c"])
    weights({"c": torch.tensor(3.0), "a": torch.tensor(2.0)}).backward()
    assert weights.s.grad is not None and [bool(slope) for slope in weights.s.grad] == [True, False, True]
    assert float(weights.s.grad[2]) == pytest.approx(-3.0 + 0.5)


def test_fixed_weights_multiply_what_is_named_and_one_stands_for_the_rest():
    losses = {"a": torch.tensor(2.0), "b": torch.tensor(5.0)}
    assert float(fixed_weights(losses, {"a": 3.0})) == 11.0


def test_the_mean_weighs_by_the_mask_and_is_zero_without_any():
    values = torch.tensor([1.0, 2.0, 4.0])
    assert float(masked_mean(values, torch.tensor([1.0, 0.0, 3.0]))) == pytest.approx(13 / 4)
    assert float(masked_mean(values, torch.zeros(3, dtype=torch.bool))) == 0


def test_the_mel_distance_is_zero_for_the_same_sound_and_grows_with_what_is_wrong():
    time = torch.arange(4800) / 24_000
    tone = 0.3 * torch.sin(2 * torch.pi * 440 * time)[None, None]
    mel = MultiScaleMel()
    noise = torch.randn(1, 1, 4800, generator=torch.Generator().manual_seed(0))
    assert float(mel(tone, tone)) == 0
    assert 0 < float(mel(tone + 1e-4 * noise, tone)) < float(mel(tone + 0.1 * noise, tone))


def test_the_surprise_at_a_token_is_its_negative_log_probability():
    logits = torch.randn(2, 3, 7, generator=torch.Generator().manual_seed(0))
    tokens = torch.tensor([[1, 2, 0], [6, 0, 0]])
    by_hand = -logits.log_softmax(-1).gather(-1, tokens[..., None])[..., 0]
    torch.testing.assert_close(surprise(logits, tokens), by_hand)


def test_parts_give_what_the_whole_gives_with_its_gradient():
    left, right = (torch.randn(7, 3, generator=torch.Generator().manual_seed(n), requires_grad=True) for n in (0, 1))
    sizes, gradients = [], []

    def of(a: torch.Tensor, b: torch.Tensor) -> torch.Tensor:
        sizes.append(len(a))
        return (a * b).sin().sum(-1)

    for size in (3, 7):
        made = in_parts(of, left, right, size)
        torch.testing.assert_close(made, (left * right).sin().sum(-1))
        gradients.append(torch.autograd.grad(made.square().sum(), (left, right)))
    assert sizes == [3, 3, 1, 1, 3, 3, 7, 7]  # each part once more for its gradient, the last first
    torch.testing.assert_close(*gradients)
