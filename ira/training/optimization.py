"""A stage's modules and settings in; AdamW with its groups, and a learning rate for every step, out."""

from __future__ import annotations

import math
from typing import Any

import torch
from torch import nn

from ira.config import StageConfig

BETAS = (0.9, 0.95)
LONGEST_WARMUP = 0.1  # share of the run
FLOOR = 0.1  # the schedule ends at this share of the peak learning rate


def make_optimizer(modules: dict[str, nn.Module], settings: StageConfig) -> torch.optim.AdamW:
    """AdamW whose moments exist from the start, so that every checkpoint holds the same tensors."""
    optimizer = torch.optim.AdamW(parameter_groups(modules, settings), betas=BETAS, eps=1e-8, fused=True)
    for group in optimizer.param_groups:
        for parameter in group["params"]:
            optimizer.state[parameter] = {
                "step": torch.zeros((), device=parameter.device),
                "exp_avg": torch.zeros_like(parameter),
                "exp_avg_sq": torch.zeros_like(parameter),
            }
    return optimizer


def schedule(share_done: float, step: int, settings: StageConfig) -> float:
    """Learning rate: linear warm-up in steps, then cosine over the share of the run that is done, to a tenth.

    The warm-up is never more than a tenth of the run: one of a minute is to reach its peak too.
    """
    warm = min(1.0, max(step / max(settings.warmup_steps, 1), share_done / LONGEST_WARMUP))
    cosine = 0.5 * (1 + math.cos(math.pi * min(share_done, 1.0)))
    return settings.lr * warm * (FLOOR + (1 - FLOOR) * cosine)


def parameter_groups(modules: dict[str, nn.Module], settings: StageConfig) -> list[dict[str, Any]]:
    """Optimizer groups: matrices decay, vectors do not; a module's own `lr_scale` is kept in its groups."""
    groups = []
    for module in modules.values():
        scale = float(getattr(module, "lr_scale", 1.0))
        trained = [p for p in module.parameters() if p.requires_grad]
        decay = settings.weight_decay if scale == 1.0 else 0.0
        for matrices, weight_decay in ((True, decay), (False, 0.0)):
            chosen = [p for p in trained if (p.ndim >= 2) is matrices]
            if chosen:
                groups.append(
                    {"params": chosen, "weight_decay": weight_decay, "lr_scale": scale, "lr": settings.lr * scale}
                )
    return groups
