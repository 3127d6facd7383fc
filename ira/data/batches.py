"""Lengths of all examples in, batches of like length out, in an order that is a function of (seed, epoch, cursor).

The whole state of the sampler is `SamplerState`: from it any process, at any time, goes on with the very next batch.
"""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from typing import TypeVar

import numpy as np
import torch
from torch import Tensor
from torch.nn import functional as F
from torch.nn.utils.rnn import pad_sequence

from ira.config import WHOLE_FRAMES
from ira.data.pronunciation import SpeechTokenizer
from ira.data.shards import Example, language_of
from ira.errors import InputError

Item = TypeVar("Item")
# Examples are sorted by length within about this many batches: enough for little padding, few enough that batches
# of one epoch and the next hold different company.
_BATCHES_SORTED_TOGETHER = 50
WHOLE_TOKENS = 32  # what the lengths of texts are multiples of, as those of sound are of WHOLE_FRAMES


@dataclass(frozen=True)
class SamplerState:
    """Where training is in its data: `cursor` batches of the plan for (seed, epoch) are done."""

    seed: int
    epoch: int
    cursor: int


@dataclass
class SpeechBatch:
    """Examples side by side: codes [B, K, T] and text [B, L], 0 past a row's end; frames and text_lengths [B]."""

    codes: Tensor
    frames: Tensor
    text: Tensor
    text_lengths: Tensor
    examples: list[Example]


def spread(items: Sequence[Item], count: int) -> list[Item]:
    """`count` of the items, evenly over all of them (held-out sets often stand one after another), or all if fewer."""
    return [items[i * len(items) // count] for i in range(count)] if len(items) > count else list(items)


def plan_epoch(
    lengths: Sequence[int] | np.ndarray, batch_frames: int, seed: int, epoch: int, whole: int = 1
) -> list[list[int]]:
    """Every index once, in batches whose padded size (rows x longest, rounded up to `whole`) is at most `batch_frames`.

    An example that is longer than that is a batch of its own. Shuffled, sorted by length within parts of about fifty
    batches, cut, and the batches shuffled; the same arguments give the same plan.

    Raises:
        InputError: there are no examples, or one has no frames.
    """
    sizes = np.asarray(lengths, dtype=np.int64)
    if not len(sizes) or sizes.min() < 1 or batch_frames < 1:
        shortest = sizes.min() if len(sizes) else 0
        raise InputError(f"{len(sizes)} examples, the shortest of {shortest} frames; at least one frame each is wanted")
    random = np.random.default_rng([seed, epoch])
    rows = max(1.0, _BATCHES_SORTED_TOGETHER * batch_frames / float(sizes.mean()))
    parts = np.array_split(random.permutation(len(sizes)), max(1, round(len(sizes) / rows)))
    ordered = (part[np.argsort(sizes[part], kind="stable")] for part in parts)
    plan = [batch for part in ordered for batch in _cut(part, -(-sizes // whole) * whole, batch_frames)]
    return [plan[i] for i in random.permutation(len(plan))]


def batches(
    lengths: Sequence[int] | np.ndarray, batch_frames: int, state: SamplerState, whole: int = 1
) -> Iterator[tuple[list[int], SamplerState]]:
    """Batches of indices without end, epoch after epoch from `state` on, each with the state after it."""
    while True:
        plan = plan_epoch(lengths, batch_frames, state.seed, state.epoch, whole)
        after = SamplerState(state.seed, state.epoch + 1, 0)
        for cursor in range(state.cursor, len(plan)):
            last = cursor + 1 == len(plan)
            yield plan[cursor], after if last else SamplerState(state.seed, state.epoch, cursor + 1)
        state = after


def collate(examples: Sequence[Example], tokenizer: SpeechTokenizer, spelled: float = 0.0) -> SpeechBatch:
    """Pad examples to one batch; an example without text has the opening space and the end id alone.

    `spelled` is the share of English words that stay letters.

    Lengths are rounded up, for a processor prepares its kernels anew for every shape that it has not met: without that
    a training step takes twice as long.
    """
    texts = [torch.tensor(tokenizer.encode(one.text, language_of(one), spelled=spelled)) for one in examples]
    codes = pad_sequence([example.codes.T for example in examples], batch_first=True)  # [B, T, K]
    text = pad_sequence(texts, batch_first=True, padding_value=tokenizer.pad)
    return SpeechBatch(
        codes=F.pad(codes.transpose(1, 2), (0, -codes.shape[1] % WHOLE_FRAMES)).contiguous(),
        frames=torch.tensor([example.frames for example in examples]),
        text=F.pad(text, (0, -text.shape[1] % WHOLE_TOKENS), value=tokenizer.pad),
        text_lengths=torch.tensor([len(text) for text in texts]),
        examples=list(examples),
    )


def _cut(order: np.ndarray, sizes: np.ndarray, batch_frames: int) -> Iterator[list[int]]:
    """Cut indices in order of rising size wherever the padded batch would grow beyond `batch_frames`."""
    batch: list[int] = []
    for i in order.tolist():
        if batch and int(sizes[i]) * (len(batch) + 1) > batch_frames:
            yield batch
            batch = []
        batch.append(i)
    if batch:
        yield batch
