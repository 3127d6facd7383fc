"""Proximal policy optimisation (Schulman et al. 2017) as pure functions: tensors [B, R] over response tokens.

Nothing here knows a model. Old log-probabilities are stored at rollout time, so the ratio is 1 on the first minibatch
and moves after it.
"""

from __future__ import annotations

import torch
from torch import Tensor

from ira.training.losses import masked_mean


def token_log_probs(logits: Tensor, tokens: Tensor, temperature: float) -> Tensor:
    """Log-probability [B, R] of tokens [B, R] under logits [B, R, Vocab] at the temperature they were sampled with."""
    return torch.log_softmax(logits.float() / temperature, -1).gather(-1, tokens[..., None])[..., 0]


def token_rewards(scores: Tensor, log_probs: Tensor, reference: Tensor, mask: Tensor, kl_coef: float) -> Tensor:
    """Rewards [B, R]: minus kl_coef times the log-ratio to the reference at each token, the score at the last one."""
    last = mask & (mask.cumsum(1) == mask.sum(1, keepdim=True))
    return (last * scores[:, None] - kl_coef * (log_probs - reference)) * mask


def gae(rewards: Tensor, values: Tensor, mask: Tensor, gamma: float, lam: float) -> tuple[Tensor, Tensor]:
    """Generalised advantage estimation (Schulman et al. 2016): advantages and returns, both [B, R].

    The value after a row's last token is 0: the answer is over.
    """
    advantages, running = torch.zeros_like(rewards), torch.zeros_like(rewards[:, 0])
    following = torch.zeros_like(rewards[:, 0])
    for t in range(rewards.shape[1] - 1, -1, -1):
        inside = mask[:, t].to(rewards.dtype)
        delta = rewards[:, t] + gamma * following - values[:, t]
        running = (delta + gamma * lam * running) * inside
        following = values[:, t] * inside
        advantages[:, t] = running
    return advantages, (advantages + values) * mask


def whiten(values: list[Tensor], masks: list[Tensor]) -> list[Tensor]:
    """Mean 0 and variance 1 over all masked tokens of all minibatches [B, R] together; 0 elsewhere."""
    inside = torch.cat([value[mask] for value, mask in zip(values, masks, strict=True)])
    mean, spread = inside.mean(), inside.std(unbiased=False)
    return [(value - mean) / (spread + 1e-8) * mask for value, mask in zip(values, masks, strict=True)]


def policy_loss(
    new: Tensor, old: Tensor, advantages: Tensor, mask: Tensor, clip: float
) -> tuple[Tensor, dict[str, float]]:
    """Clipped surrogate loss and the figures to watch: ratio, clip_fraction, approx_kl (k3 estimator, >= 0)."""
    log_ratio = new - old
    ratio = log_ratio.exp()
    loss = torch.maximum(-advantages * ratio, -advantages * ratio.clamp(1 - clip, 1 + clip))
    with torch.no_grad():
        figures = {
            "ratio": float(masked_mean(ratio, mask)),
            "clip_fraction": float(masked_mean(((ratio - 1).abs() > clip).float(), mask)),
            "approx_kl": float(masked_mean(ratio - 1 - log_ratio, mask)),
        }
    return masked_mean(loss, mask), figures


def value_loss(new: Tensor, old: Tensor, returns: Tensor, mask: Tensor, clip: float) -> Tensor:
    """Half the squared error to the returns, the worse of the new value and one kept within `clip` of the old."""
    kept = old + (new - old).clamp(-clip, clip)
    return 0.5 * masked_mean(torch.maximum((new - returns) ** 2, (kept - returns) ** 2), mask)
