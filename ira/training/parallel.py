"""A stage's modules in; the same modules on many processes, with weights, gradients and a watch in common, out.

Weights are copied to each process (`ddp`) or cut up between them (`fsdp`). With copies, gradients are added up once a
step, after all processes have said that theirs are sound: one out of memory leaves nobody waiting.
"""

from __future__ import annotations

import faulthandler
import traceback
from collections.abc import Callable, Iterator, Sequence
from contextlib import contextmanager
from pathlib import Path
from typing import Literal

import torch
import torch.distributed as dist
from torch import Tensor, nn
from torch.distributed.device_mesh import init_device_mesh
from torch.distributed.fsdp import FSDPModule, fully_shard
from torch.distributed.tensor import DTensor

from ira.errors import InputError
from ira.processes import exchange, rank, world

Parallel = Literal["ddp", "fsdp"]
SENT_TOGETHER = 16 * 2**20  # numbers in one message
STACKED = ("layers", "blocks", "text_layers", "trunk")  # lists of like layers: each is cut up and gathered by itself

_cut_up: list[FSDPModule] = []  # of the stage that trains now


class Root(nn.Module):
    """All modules of a stage as one, so that work with any of their methods is one forward pass of this one."""

    def __init__(self, modules: dict[str, nn.Module]) -> None:
        super().__init__()
        self.parts = nn.ModuleDict(modules)

    def forward(self, work: Callable[[], Tensor]) -> Tensor:
        return work()


def spread_weights(root: Root, parallel: Parallel, device: torch.device) -> None:
    """Give every process the first one's weights, or a share of them.

    A module that says `always_copied` keeps its stage's modules whole: a codec is small, is changed beside the
    optimizer, and takes gradients amid its forward pass, which FSDP2 does not know.
    """
    _cut_up.clear()
    if world() == 1:
        return
    with torch.no_grad():
        for tensor in [*root.parameters(), *root.buffers()]:
            dist.broadcast(tensor, 0)
    if parallel == "fsdp" and not any(getattr(part, "always_copied", False) for part in root.parts.values()):
        mesh = init_device_mesh(device.type, (world(),))
        for layer in stacked_layers(root):
            fully_shard(layer, mesh=mesh)
        fully_shard(root, mesh=mesh)
        root._get_fsdp_state()._lazy_init()  # type: ignore[operator]  # the root, also where a part runs before it
        _cut_up.extend(m for m in root.modules() if isinstance(m, FSDPModule))


def stacked_layers(root: nn.Module) -> list[nn.Module]:
    """The layers of every transformer inside."""
    lists = [m for name, m in root.named_modules() if name.rpartition(".")[2] in STACKED]
    return [layer for found in lists if isinstance(found, nn.ModuleList) for layer in found]


def add_gradients(parameters: Sequence[nn.Parameter]) -> None:
    """Let every process hold the sum of all gradients; one that no process has stays away."""
    if world() == 1:
        return
    if any(is_cut(p) for p in parameters):  # added up and averaged while they were computed
        for parameter in parameters:
            if parameter.grad is not None:
                parameter.grad.mul_(world())
        return
    have = exchange([p.grad is not None for p in parameters])
    used = [p for number, p in enumerate(parameters) if any(there[number] for there in have)]
    for parameter in used:
        parameter.grad = torch.zeros_like(parameter) if parameter.grad is None else parameter.grad
    for group in alike(used):
        gradients = [p.grad for p in group if p.grad is not None]
        flat = torch.cat([gradient.flatten() for gradient in gradients])
        dist.all_reduce(flat)
        for gradient, part in zip(gradients, flat.split([g.numel() for g in gradients]), strict=True):
            gradient.copy_(part.view_as(gradient))


def alike(parameters: Sequence[nn.Parameter]) -> Iterator[list[nn.Parameter]]:
    """Parameters of one type and together not too large: what is sent as one, since every message has its price."""
    group: list[nn.Parameter] = []
    for parameter in sorted(parameters, key=lambda p: str(p.dtype)):
        full = sum(p.numel() for p in group) + parameter.numel() > SENT_TOGETHER
        if group and (full or group[0].dtype != parameter.dtype):
            yield group
            group = []
        group.append(parameter)
    if group:
        yield group


def is_cut(tensor: Tensor) -> bool:
    return isinstance(tensor, DTensor)


def whole(tensor: Tensor) -> Tensor:
    """The full tensor, wherever its parts are; every process must ask."""
    return tensor.full_tensor() if isinstance(tensor, DTensor) else tensor


@contextmanager
def gathered() -> Iterator[None]:
    """Inside, weights that were cut up are whole on every process, so that each may run the model at its own pace."""
    for module in _cut_up:
        module.set_reshard_after_forward(False, recurse=False)
        module.unshard()
    try:
        yield
    finally:
        for module in _cut_up:
            module.reshard()
            module.set_reshard_after_forward(True, recurse=False)


@contextmanager
def watched(folder: Path, minutes: float) -> Iterator[Callable[[], None]]:
    """Gives a function to call after each piece of work; a process that has not called it for `minutes` writes where
    every thread stands to FOLDER/stack-rank-N.txt and ends, and torchrun ends the others.

    The clock runs outside of Python, so that a process that hangs in a library is caught as well.
    """
    if world() == 1:
        yield lambda: None
        return
    path = folder / f"stack-rank-{rank()}.txt"
    try:
        file = open(path, "w", encoding="utf-8")
    except OSError as error:
        raise InputError(f"{path}: cannot be written ({error.strerror}); set run_dir elsewhere") from error
    with file:
        file.write(f"rank {rank()} of {world()}: where it stood if nothing moved for {minutes:g} minutes\n")
        file.flush()

        def alive() -> None:
            faulthandler.dump_traceback_later(60 * minutes, exit=True, file=file)

        alive()
        stuck = False
        try:
            yield alive
        except RuntimeError:  # the others have gone: it tells where this one waited for them
            traceback.print_exc(file=file)
            stuck = True
            raise
        finally:
            faulthandler.cancel_dump_traceback_later()
            if not stuck:
                path.unlink(missing_ok=True)
