"""Run by torchrun and imported by the test that compares: a small stage, trained in every way that ranks can differ."""

from __future__ import annotations

import math
import sys
import time
from collections.abc import Iterator
from pathlib import Path

import torch
from torch import Tensor, nn

from ira.config import StageConfig, TrainConfig
from ira.data.batches import SamplerState
from ira.processes import in_order, joined, mine, rank, summed
from ira.training.loop import fit
from ira.training.stage import StepLoss

CPU = torch.device("cpu")


class Net(nn.Module):
    def __init__(self) -> None:
        super().__init__()
        self.layers = nn.ModuleList(nn.Linear(6, 6) for _ in range(2))
        self.out = nn.Linear(6, 1)
        self.spare = nn.Linear(6, 1)  # used in the first half of a run alone

    def forward(self, x: Tensor) -> Tensor:
        for layer in self.layers:
            x = x + nn.functional.dropout(torch.tanh(layer(x)), 0.3)
        return self.out(x)


class Toy:
    """Four micro-batches of different sizes a step; `fails` says what goes wrong in which of them."""

    name, metric = "toy", "error"

    def __init__(self, fails: dict[int, str] | None = None, killed_at: int = -1) -> None:
        torch.manual_seed(1 + rank())  # only the first process's weights may count
        self.net, self.fails, self.killed_at = Net(), fails or {}, killed_at
        self.settings = StageConfig(steps=6, lr=0.05, warmup_steps=2, accumulation=4, validate_every=2)

    def modules(self) -> dict[str, nn.Module]:
        return {"net": self.net}

    def plan(self, state: SamplerState) -> Iterator[tuple[int, SamplerState]]:
        while True:
            if state.cursor == self.killed_at:
                raise KeyboardInterrupt
            key, state = state.cursor, SamplerState(state.seed, state.epoch, state.cursor + 1)
            yield key, state

    def load(self, key: int) -> tuple[int, Tensor]:
        return key, torch.randn(2 + key % 3, 6, generator=torch.Generator().manual_seed(key))

    def loss(self, batch: tuple[int, Tensor], share_done: float) -> StepLoss:
        number, points = batch
        failure = self.fails.get(number)
        if failure == "out of memory":
            raise torch.OutOfMemoryError("no more")
        if failure == "stands still":
            time.sleep(600)
        made = self.net(points) + (self.net.spare(points) if share_done < 0.5 else 0.0)
        loss = (made - points.sum(1, keepdim=True)).square().mean()
        return StepLoss(loss * (math.nan if failure == "nan" else 1.0), len(points), {"number": float(number)})

    def validate(self) -> dict[str, float]:
        points = torch.randn(8, 6, generator=torch.Generator().manual_seed(99))
        errors = {n: (self.net(points[n : n + 1]) - points[n].sum()).square().sum() for n in mine(range(8))}
        assert len(in_order(errors)) == 8
        return {"error": summed({"error": float(sum(errors.values()))})["error"] / 8}


def train(stage: Toy, folder: Path, **changes) -> dict[str, Tensor]:
    """The weights that a run ends with."""
    folder.mkdir(parents=True, exist_ok=True)
    fit(stage, TrainConfig(**{"dtype": "fp32", **changes}), folder, CPU, [])
    return {name: value.detach().clone() for name, value in stage.net.state_dict().items()}


def killed(folder: Path, **changes) -> None:
    try:
        train(Toy(killed_at=12), folder, checkpoint_minutes=1e-9, **changes)
    except KeyboardInterrupt:
        return
    raise AssertionError("nobody came to kill it")


def every_way(out: Path) -> None:
    from ira.training.parallel import whole

    results = {
        "ddp": train(Toy(), out / "ddp"),
        "fsdp": train(Toy(), out / "fsdp", parallel="fsdp"),
        "nan": train(Toy({5: "nan"}), out / "nan"),
        "nan in fsdp": train(Toy({5: "nan"}), out / "nan-fsdp", parallel="fsdp"),
        "out of memory": train(Toy({6: "out of memory"}), out / "oom"),
    }
    killed(out / "killed-ddp")
    killed(out / "killed-fsdp", parallel="fsdp")
    full = {way: {name: whole(value) for name, value in found.items()} for way, found in results.items()}
    results["from one"] = train(Toy(), out / "from-one")  # which a single process began
    if rank() == 0:
        torch.save(full | {"from one": results["from one"]}, out / "results.pt")


if __name__ == "__main__":
    with joined(CPU):
        if sys.argv[1] == "every way":
            every_way(Path(sys.argv[2]))
        else:
            train(Toy({3: "stands still"}), Path(sys.argv[2]), stuck_minutes=0.1)
