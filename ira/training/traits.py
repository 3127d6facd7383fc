"""What the manifest says of voices in, what the adapter is to name out; rare choices weigh more."""

from __future__ import annotations

from collections import Counter
from collections.abc import Iterable, Mapping, Sequence
from typing import Any

import torch
from torch import Tensor
from torch.nn import functional as F

from ira.data.shards import Example
from ira.data.tasks import TRAITS
from ira.training.conversations import known_tasks

UNTOLD = -100  # what `cross_entropy` passes over


def trait_words(tokenizer: Any) -> dict[str, list[list[int]]]:
    """Ids of the LLM's tokens that each choice is written with, its article left out."""

    def ids(choice: str) -> list[int]:
        return tokenizer(f" {choice.split()[-1]}", add_special_tokens=False).input_ids

    return {trait: [ids(choice) for choice in choices] for trait, choices in TRAITS.items()}


def told(example: Example) -> dict[str, int]:
    """Number of the choice for each trait that the manifest tells."""
    tasks = [task for task in known_tasks(example) if task.name in TRAITS]
    return {task.name: TRAITS[task.name].index(task.answer) for task in tasks}


def balance(all_told: Iterable[Mapping[str, int]]) -> dict[str, Tensor]:
    """Weights [choices] of each trait, so that its choices count alike over all recordings, one on the average."""
    counts = Counter((trait, choice) for one in all_told for trait, choice in one.items())
    found = {}
    for trait, choices in TRAITS.items():
        each = torch.tensor([counts[trait, choice] for choice in range(len(choices))])
        found[trait] = torch.where(each > 0, each.sum() / ((each > 0).sum() * each.clamp(min=1)), 0.0)
    return found


def traits_loss(
    logits: Mapping[str, Tensor], all_told: Sequence[Mapping[str, int]], weights: Mapping[str, Tensor]
) -> Tensor:
    """Weighed cross-entropy of logits [B, choices] of each trait, mean over what is told; 0 where nothing is."""
    total, count = torch.zeros(()), 0
    for trait, given in logits.items():
        wanted = torch.tensor([one.get(trait, UNTOLD) for one in all_told], device=given.device)
        weight = weights[trait].to(given)
        total = total.to(given) + F.cross_entropy(given, wanted, weight, ignore_index=UNTOLD, reduction="sum")
        count += int((wanted != UNTOLD).sum())
    return total / max(count, 1)


def mistaken(logits: Mapping[str, Tensor], all_told: Sequence[Mapping[str, int]]) -> tuple[int, int]:
    """How many of the told traits the likeliest choice misses, and how many are told."""
    likeliest = {trait: given.argmax(-1).tolist() for trait, given in logits.items()}
    pairs = [
        (said[row], one[trait]) for row, one in enumerate(all_told) for trait, said in likeliest.items() if trait in one
    ]
    return sum(said != wanted for said, wanted in pairs), len(pairs)
