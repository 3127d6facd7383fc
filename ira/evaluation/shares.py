"""Clips and work on a few of them in; what the work makes of all of them, shared out over the processes, out."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from typing import TypeVar

from torch import Tensor

from ira.audio.waveform import load_audio
from ira.data.manifest import Row
from ira.errors import InputError
from ira.processes import agreed, in_order, mine

Advance = Callable[[int], None]
S = TypeVar("S")
T = TypeVar("T")


def shared(
    items: Sequence[S], together: int, work: Callable[[Sequence[S]], list[T]], advance: Advance = lambda _: None
) -> list[T]:
    """All that the work makes of the items, in their order, on every process.

    Each process works on its share of groups of `together` items. The groups are the same for any number of processes,
    and so is what a batch of them is rounded to.

    Args:
        work: makes any number of results of one group; tensors among them belong on the CPU, for they travel.
        advance: called with the place in `items` that this process has come to.

    Raises:
        InputError: the work raised it, on any process.
    """

    def own() -> dict[int, list[T]]:
        done = {}
        for start in mine(range(0, len(items), together)):
            done[start] = work(items[start : start + together])
            advance(min(start + together, len(items)))
        return done

    return [result for group in in_order(agreed(own)) for result in group]


def recordings(rows: Sequence[Row]) -> list[tuple[Row, Tensor]]:
    """Rows with their sound [1, N], but for those that cannot be read."""
    found = []
    for row in rows:
        try:
            found.append((row, load_audio(row.audio or "")))
        except InputError:
            continue
    return found
