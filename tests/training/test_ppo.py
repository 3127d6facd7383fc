"""Proximal policy optimisation by hand."""

from __future__ import annotations

import math

import pytest
import torch

from ira.training.ppo import gae, policy_loss, token_log_probs, token_rewards, value_loss, whiten

MASK = torch.tensor([[True, True, True], [True, False, False]])


def test_log_probabilities_are_those_of_the_tokens_at_the_sampling_temperature():
    logits = torch.tensor([[[0.0, 1.0, 2.0], [3.0, 0.0, 0.0]]])
    found = token_log_probs(logits, torch.tensor([[2, 1]]), temperature=0.5)
    by_hand = [4 - math.log(1 + math.exp(2) + math.exp(4)), 0 - math.log(math.exp(6) + 2)]
    assert found[0].tolist() == pytest.approx(by_hand, rel=1e-5)


def test_rewards_are_the_kl_penalty_at_every_token_and_the_score_at_the_last():
    log_probs = torch.tensor([[-1.0, -2.0, -3.0], [-1.0, -9.0, -9.0]])
    reference = torch.tensor([[-1.5, -2.0, -2.0], [-2.0, 0.0, 0.0]])
    rewards = token_rewards(torch.tensor([2.0, -1.0]), log_probs, reference, MASK, kl_coef=0.1)
    expected = torch.tensor([[-0.05, 0.0, 2.1], [-1.1, 0.0, 0.0]])
    assert torch.allclose(rewards, expected)


def test_advantages_are_the_discounted_sum_of_surprises():
    gamma, lam = 0.9, 0.8
    rewards = torch.tensor([[1.0, 0.0, 2.0], [3.0, 0.0, 0.0]])
    values = torch.tensor([[0.5, 1.0, -1.0], [1.0, 7.0, 7.0]])
    advantages, returns = gae(rewards, values, MASK, gamma, lam)
    third = 2.0 - -1.0  # nothing follows the last token
    second = 0.0 + gamma * -1.0 - 1.0 + gamma * lam * third
    first = 1.0 + gamma * 1.0 - 0.5 + gamma * lam * second
    expected = torch.tensor([[first, second, third], [3.0 - 1.0, 0.0, 0.0]])
    assert torch.allclose(advantages, expected)
    assert torch.allclose(returns, (expected + values) * MASK)


def test_without_discount_an_advantage_is_what_is_still_earned_less_what_was_expected():
    rewards, values = torch.rand(2, 3), torch.rand(2, 3)
    advantages, returns = gae(rewards, values, torch.ones(2, 3).bool(), 1.0, 1.0)
    still = rewards.flip(1).cumsum(1).flip(1)
    assert torch.allclose(advantages, still - values, atol=1e-6) and torch.allclose(returns, still, atol=1e-6)


def test_whitened_values_have_mean_0_and_deviation_1_over_all_minibatches_together():
    generator = torch.Generator().manual_seed(0)
    values = [5 + 3 * torch.randn(4, 6, generator=generator), 2 * torch.randn(3, 2, generator=generator)]
    masks = [torch.rand(4, 6, generator=generator) < 0.7, torch.ones(3, 2, dtype=torch.bool)]
    white = whiten(values, masks)
    inside = torch.cat([w[m] for w, m in zip(white, masks, strict=True)])
    assert abs(float(inside.mean())) < 1e-5 and float(inside.std(unbiased=False)) == pytest.approx(1, rel=1e-4)
    assert float(white[0][~masks[0]].abs().sum()) == 0


def test_the_ratio_is_1_before_the_policy_moves_and_the_loss_is_minus_the_mean_advantage():
    old, advantages = torch.randn(2, 3), torch.randn(2, 3)
    loss, figures = policy_loss(old.clone(), old, advantages, MASK, clip=0.2)
    assert figures == {"ratio": 1.0, "clip_fraction": 0.0, "approx_kl": 0.0}
    assert float(loss) == pytest.approx(-float(advantages[MASK].mean()), rel=1e-5)


def test_the_divergence_is_never_negative_and_the_ratio_follows_the_policy():
    generator = torch.Generator().manual_seed(0)
    for _ in range(20):
        old, moved = torch.randn(2, 3, generator=generator), 0.3 * torch.randn(2, 3, generator=generator)
        _, figures = policy_loss(old + moved, old, torch.ones(2, 3), MASK, 0.2)
        assert figures["approx_kl"] >= 0
        assert figures["ratio"] == pytest.approx(float(moved.exp()[MASK].mean()), rel=1e-5)


@pytest.mark.parametrize(
    ("log_ratio", "advantage", "loss", "moves"),
    [
        (0.5, 1.0, -1.2, False),  # already far enough towards a good token
        (-0.5, 1.0, -math.exp(-0.5), True),  # a good token that became rarer is pulled back
        (-0.5, -1.0, 0.8, False),  # already far enough from a bad token
        (0.5, -1.0, math.exp(0.5), True),
    ],
)
def test_the_clip_stops_the_gradient_of_steps_that_have_gone_far_enough(log_ratio, advantage, loss, moves):
    new = torch.tensor([[log_ratio]], requires_grad=True)
    found, figures = policy_loss(new, torch.zeros(1, 1), torch.tensor([[advantage]]), torch.ones(1, 1).bool(), 0.2)
    found.backward()
    assert float(found.detach()) == pytest.approx(loss, rel=1e-5)
    assert figures["clip_fraction"] == 1.0
    assert new.grad is not None and bool(new.grad != 0) == moves


def test_masked_tokens_do_not_count_in_the_losses():
    old, new = torch.zeros(2, 3), torch.where(MASK, 0.1, 3.0)
    advantages = torch.where(MASK, 1.0, 100.0)
    loss, figures = policy_loss(new, old, advantages, MASK, 0.2)
    assert float(loss) == pytest.approx(-math.exp(0.1), rel=1e-5) and figures["clip_fraction"] == 0
    assert float(value_loss(new, new, torch.where(MASK, 0.3, 9.0), MASK, 0.2)) == pytest.approx(0.02, rel=1e-4)


def test_a_value_that_jumps_past_the_clip_is_judged_by_the_worse_of_both():
    one, mask = torch.ones(1, 1), torch.ones(1, 1).bool()
    assert float(value_loss(1.0 * one, 0 * one, 1.0 * one, mask, clip=0.2)) == pytest.approx(0.5 * 0.8**2)
    assert float(value_loss(3.0 * one, 0 * one, 1.0 * one, mask, clip=0.2)) == pytest.approx(0.5 * 2.0**2)
