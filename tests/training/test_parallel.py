"""Two processes do what one does: they agree on weights, on what is dropped, on checkpoints, and on giving up."""

from __future__ import annotations

import importlib.util
import subprocess
import sys
import time
from pathlib import Path
from types import ModuleType

import pytest
import torch
from torch import Tensor

from ira import processes
from ira.training import parallel

TOY = Path(__file__).parent / "ranks" / "toy.py"


def torchrun(script: Path, *args: object, timeout: float = 240) -> subprocess.CompletedProcess[str]:
    command = [sys.executable, "-m", "torch.distributed.run", "--standalone", "--nproc-per-node", "2", str(script)]
    return subprocess.run([*command, *map(str, args)], capture_output=True, text=True, timeout=timeout)


@pytest.fixture(scope="module")
def toy() -> ModuleType:
    spec = importlib.util.spec_from_file_location("toy", TOY)
    assert spec and spec.loader
    module = importlib.util.module_from_spec(spec)
    sys.modules["toy"] = module  # dataclasses and pickle look for it there
    spec.loader.exec_module(module)
    return module


@pytest.fixture(scope="module")
def out(toy: ModuleType, tmp_path_factory: pytest.TempPathFactory) -> Path:
    """What two processes left behind."""
    folder = tmp_path_factory.mktemp("ranks")
    toy.killed(folder / "from-one")
    done = torchrun(TOY, "every way", folder)
    assert done.returncode == 0, done.stderr[-3000:]
    return folder


@pytest.fixture(scope="module")
def two(out: Path) -> dict[str, dict[str, Tensor]]:
    return torch.load(out / "results.pt", weights_only=True)


def same(one: dict[str, Tensor], other: dict[str, Tensor]) -> bool:
    return all(torch.allclose(one[name], other[name], atol=1e-5) for name in one | other)


@pytest.mark.parametrize("way", ["ddp", "fsdp"])
def test_two_processes_end_with_the_weights_of_one(way, two, toy, tmp_path):
    start = dict(toy.Toy().net.state_dict())
    alone = toy.train(toy.Toy(), tmp_path / "alone")
    assert same(two[way], alone) and not same(start, alone)


def test_a_loss_that_is_no_number_on_one_process_is_dropped_on_both(two, toy, tmp_path):
    alone = toy.train(toy.Toy({5: "nan"}), tmp_path / "alone")
    assert same(two["nan"], alone) and same(two["nan in fsdp"], alone)
    assert not same(two["nan"], two["ddp"])


def test_a_process_out_of_memory_leaves_nobody_waiting(two, toy, tmp_path):
    alone = toy.train(toy.Toy({6: "out of memory"}), tmp_path / "alone")
    assert same(two["out of memory"], alone)
    assert same(two["out of memory"], two["nan"])  # both lost their second step


def test_what_was_dropped_is_said_once_with_its_reason_and_batch(toy, tmp_path, capsys):
    toy.train(toy.Toy({6: "out of memory"}), tmp_path / "alone")
    assert "toy: step 2 dropped: out of memory (no more) with 6; 1 so far" in capsys.readouterr().err


@pytest.mark.parametrize("way", ["ddp", "fsdp"])
def test_a_run_of_two_processes_goes_on_as_one(way, out, two, toy):
    went_on = toy.train(toy.Toy(), out / f"killed-{way}")
    assert same(went_on, two[way])


def test_a_run_of_one_process_goes_on_as_two(two):
    assert same(two["from one"], two["ddp"])


def test_a_process_that_stands_still_ends_the_job_and_every_process_says_where_it_stood(tmp_path):
    started = time.monotonic()
    done = torchrun(TOY, "stand still", tmp_path, timeout=120)
    assert done.returncode != 0 and time.monotonic() - started < 100
    stacks = {path.name: path.read_text() for path in tmp_path.glob("stack-rank-*.txt")}
    assert sorted(stacks) == ["stack-rank-0.txt", "stack-rank-1.txt"]
    assert "toy.py" in stacks["stack-rank-1.txt"] and "in loss" in stacks["stack-rank-1.txt"]
    assert "exchange" in stacks["stack-rank-0.txt"]


def test_gradients_travel_in_few_messages_none_too_large(monkeypatch):
    monkeypatch.setattr(parallel, "SENT_TOGETHER", 10)
    sizes = [(4, torch.float32), (3, torch.bfloat16), (5, torch.float32), (2, torch.float32), (30, torch.bfloat16)]
    made = [torch.nn.Parameter(torch.zeros(size, dtype=dtype)) for size, dtype in sizes]
    groups = list(parallel.alike(made))
    assert [[p.numel() for p in group] for group in groups] == [[3], [30], [4, 5], [2]]
    assert all(len({p.dtype for p in group}) == 1 for group in groups)


def test_alone_every_agreement_is_with_oneself():
    assert processes.exchange({"a": 1}) == [{"a": 1}]
    assert processes.mine([1, 2, 3]) == [1, 2, 3]
    assert processes.summed({"b": 2.0, "a": 1.0}) == {"a": 1.0, "b": 2.0}
    assert processes.in_order({2: "c", 0: "a", 1: "b"}) == ["a", "b", "c"]
    assert (processes.rank(), processes.world()) == (0, 1)
