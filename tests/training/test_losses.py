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
    codec_cross_entropy,
    cosine_gap,
    diagonal_prior,
    distillation,
    forward_sum,
    guided_attention,
    masked_mean,
    soft_contrastive,
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


def brute_force(scores: Tensor, frames: int, length: int) -> float:
    """Every path of blanks and labels that spells 1, 2, .. length, added up."""
    log_probs = torch.cat([torch.full((len(scores), 1), -1.0), scores], 1).log_softmax(-1)
    total = 0.0
    for path in itertools.product(range(length + 1), repeat=frames):
        spelt = [label for label, _ in itertools.groupby(path) if label]
        if spelt == list(range(1, length + 1)):
            total += math.exp(sum(float(log_probs[t, label]) for t, label in enumerate(path)))
    return -math.log(total) / frames


def test_forward_sum_is_the_sum_over_all_paths_and_the_mean_over_rows():
    scores = torch.randn(2, 5, 3, generator=torch.Generator().manual_seed(1))
    scores[1, :, 2:] = -torch.inf
    frames, lengths = torch.tensor([5, 4]), torch.tensor([3, 2])
    by_hand = (brute_force(scores[0], 5, 3) + brute_force(scores[1], 4, 2)) / 2
    assert float(forward_sum(scores, frames, lengths)) == pytest.approx(by_hand, rel=1e-5)


def test_forward_sum_prefers_the_diagonal_to_standing_still_and_to_reading_backwards():
    diagonal = 5 * torch.eye(6).repeat_interleave(2, 0)[None]
    frames, lengths = torch.tensor([12]), torch.tensor([6])
    still, backwards = torch.zeros(1, 12, 6), diagonal.flip(2)
    still[..., 0] = 5
    walked = forward_sum(diagonal, frames, lengths)
    assert walked < 0.1
    assert min(forward_sum(still, frames, lengths), forward_sum(backwards, frames, lengths)) > 10 * walked


def test_forward_sum_has_a_finite_gradient_beside_padding_and_rows_that_do_not_count():
    scores = torch.randn(3, 4, 6, requires_grad=True)
    lengths = torch.tensor([2, 0, 6])  # the last has more text than frames
    padded = scores.masked_fill(torch.arange(6) >= lengths[:, None, None].clamp(min=1), -torch.inf)
    loss = forward_sum(padded, torch.tensor([4, 4, 4]), lengths)
    loss.backward()
    assert scores.grad is not None and bool(scores.grad.isfinite().all())
    assert float(scores.grad[0].abs().sum()) > 0
    assert float(scores.grad[1:].abs().sum()) == 0
    assert float(loss.detach()) == pytest.approx(brute_force(padded.detach()[0], 4, 2), rel=1e-5)


def test_the_prior_is_largest_on_the_diagonal_and_never_positive():
    prior = diagonal_prior(torch.tensor([12, 6]), torch.tensor([4, 3]), 13, 4)
    assert prior.shape == (2, 13, 4) and float(prior.max()) == 0
    assert prior[0, :12:3].argmax(-1).tolist() == [0, 1, 2, 3]
    assert prior[1, :6:2, :3].argmax(-1).tolist() == [0, 1, 2]


def test_distillation_is_zero_where_both_agree_and_the_divergence_by_hand_elsewhere():
    teacher = torch.tensor([[[2.0, 0.0], [0.0, 0.0]]])
    student = torch.tensor([[[0.0, 0.0], [9.0, -9.0]]])
    mask = torch.tensor([[True, False]])
    assert distillation(teacher, teacher + 3.0, mask, 2.0) < 1e-6
    p = 1 / (1 + math.exp(-1))  # softmax of (2, 0) at temperature 2
    by_hand = 4 * (p * math.log(p / 0.5) + (1 - p) * math.log((1 - p) / 0.5))
    assert float(distillation(student, teacher, mask, 2.0)) == pytest.approx(by_hand, rel=1e-5)


def test_masked_positions_do_not_count_in_distillation_or_cosine():
    generator = torch.Generator().manual_seed(0)
    student, teacher = (torch.randn(2, 3, 4, generator=generator) for _ in range(2))
    mask = torch.tensor([[True, True, False], [True, False, False]])
    changed = torch.where(mask[..., None], student, 50.0)
    for loss in (lambda x: distillation(x, teacher, mask, 1.0), lambda x: cosine_gap(x, teacher, mask)):
        assert torch.equal(loss(student), loss(changed))
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
        weights({"b": torch.tensor(1.0), "a": torch.tensor(1.0)})


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


def test_guided_attention_is_the_share_off_the_diagonal_and_hates_running_ahead():
    frames, lengths = torch.tensor([20, 12]), torch.tensor([5, 3])
    walking = torch.full((2, 20, 5), -torch.inf)
    running = walking.clone()
    for row, (size, length) in enumerate(zip(frames.tolist(), lengths.tolist(), strict=True)):
        for t in range(20):
            walking[row, t, min(t * length // size, length - 1)] = 0.0
            running[row, t, min(t, length - 1)] = 0.0
    assert guided_attention(walking, frames, lengths) < 0.15
    assert guided_attention(running, frames, lengths) > 3 * guided_attention(walking, frames, lengths)
    padded = walking.clone()
    padded[1, 12:, 0], padded[1, 12:, 2] = 9.0, 0.0  # past the row's frames
    assert torch.equal(guided_attention(padded, frames, lengths), guided_attention(walking, frames, lengths))


def test_guided_attention_by_hand_and_without_text():
    scores = torch.zeros(1, 2, 2)  # half the attention on each of two characters at each of two frames
    off = 1 - math.exp(-(0.5**2) / (2 * 0.2**2))
    assert guided_attention(scores, torch.tensor([2]), torch.tensor([2])).item() == pytest.approx(0.5 * off)
    assert guided_attention(scores, torch.tensor([2]), torch.tensor([0])).item() == 0.0
