"""torchrun's environment in; one process of many that agree with the others, or a single one, out.

Every function here does the same on every process, and nothing on a single one: nobody else has to know how many there
are, and none is called by some of them alone.
"""

from __future__ import annotations

import datetime
import itertools
import os
from collections.abc import Callable, Iterator, Sequence
from contextlib import contextmanager
from typing import Any, TypeVar

import torch
import torch.distributed as dist
from torch.distributed.distributed_c10d import PrefixStore, _set_pg_timeout
from torch.distributed.rendezvous import rendezvous

from ira.errors import InputError

T = TypeVar("T")
JOINS = itertools.count()
STARTING = datetime.timedelta(minutes=2)  # gloo tries a connection that is refused for as long as it may
LONGEST_WAIT = datetime.timedelta(days=7)  # others wait while one prepares a corpus; training has a clock of its own


@contextmanager
def joined(device: torch.device) -> Iterator[torch.device]:
    """Inside, this process is one of those that torchrun started; the device is its own. Alone it is as it was."""
    if int(os.environ.get("WORLD_SIZE", "1")) == 1 or dist.is_initialized():
        yield device
        return
    if device.type == "cuda":
        device = torch.device("cuda", int(os.environ["LOCAL_RANK"]))
        torch.cuda.set_device(device)
    _find_one_another("nccl" if device.type == "cuda" else "gloo")
    _set_pg_timeout(LONGEST_WAIT, dist.group.WORLD)
    try:
        yield device
    finally:
        dist.destroy_process_group()


def _find_one_another(backend: str) -> None:
    """The process group, in a store of its own: an earlier group of this job left addresses that nobody answers at.

    Without that, a process that joins again before the others reads where they were the last time.
    """
    store, number, size = next(rendezvous("env://", timeout=STARTING))
    own = PrefixStore(f"join-{next(JOINS)}", store)
    dist.init_process_group(backend, store=own, rank=number, world_size=size, timeout=STARTING)


def rank() -> int:
    return dist.get_rank() if dist.is_initialized() else 0


def world() -> int:
    return dist.get_world_size() if dist.is_initialized() else 1


def exchange(value: T) -> list[T]:
    """The value of every process, in order of rank. It is pickled between processes of one job, never to a file."""
    if world() == 1:
        return [value]
    values: list[Any] = [None] * world()
    dist.all_gather_object(values, value)
    return values


def mine(items: Sequence[T]) -> list[T]:
    """This process's share of the items, every `world()`-th."""
    return list(items[rank() :: world()])


def summed(figures: dict[str, float]) -> dict[str, float]:
    """Each figure added up over all processes, in order of rank; one that a process lacks counts as 0 there."""
    everywhere = exchange(figures)
    names = sorted({name for each in everywhere for name in each})
    return {name: sum(each.get(name, 0.0) for each in everywhere) for name in names}


def in_order(own: dict[int, T]) -> list[T]:
    """Numbered pieces of work of all processes, in the order of their numbers."""
    found = {number: piece for each in exchange(own) for number, piece in each.items()}
    return [found[number] for number in sorted(found)]


def agreed(work: Callable[[], T]) -> T:
    """What the work gives here; where some process could not do it, every process raises that and none waits for it.

    Raises:
        InputError: of the first process that raised it.
    """
    found: list[T] = []
    failure = None
    try:
        found.append(work())
    except InputError as error:
        failure = error
    for each in exchange(failure):
        if each is not None:
            raise each
    return found[0]


def first_alone(work: Callable[[], T]) -> T:
    """What the work gives; the first process does it alone, the others then find what it left on the disk."""
    found = work() if rank() == 0 else None
    exchange(None)
    return work() if found is None else found


def first_does(work: Callable[[], object]) -> None:
    """The first process does the work; the others go on once it is done."""
    if rank() == 0:
        work()
    exchange(None)
