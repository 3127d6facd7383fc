"""A stopped training has saved itself, says so by its exit code, and goes on to the bytes of one left alone."""

from __future__ import annotations

import importlib.util
import os
import signal
import subprocess
import sys
import time
from collections.abc import Iterator
from pathlib import Path
from types import ModuleType
from typing import Any

import pytest
import torch
from torch import Tensor, nn

from ira.config import Config, StageConfig, TrainConfig
from ira.data.batches import SamplerState
from ira.training.journey import train
from ira.training.loop import fit
from ira.training.signals import stop_asked
from ira.training.stage import StepLoss

CPU = torch.device("cpu")
STEPS = 60


@pytest.fixture(scope="module")
def kill_train() -> ModuleType:
    """The script that knows how to make a tiny journey."""
    path = Path(__file__).parents[2] / "scripts" / "kill_train.py"
    spec = importlib.util.spec_from_file_location("kill_train", path)
    assert spec and spec.loader
    module = importlib.util.module_from_spec(spec)
    spec.loader.exec_module(module)
    return module


def configured(kill_train: ModuleType, place: Path) -> Config:
    """The codec stage, saved only when it is asked to end."""
    plain = kill_train.configure(place, STEPS).model_dump()
    plain["train"] |= {"checkpoint_minutes": 1000.0}
    plain["train"]["codec"] |= {"validate_every": STEPS, "accumulation": 1}
    return Config.model_validate(plain)


def stopped(config: Config, path: Path, number: int, after: int) -> subprocess.CompletedProcess[str]:
    """`ira train` of the codec stage, sent a signal once `after` steps are logged."""
    path.write_text(config.model_dump_json())
    words = ["-c", "from ira.cli.app import app; app()", "train", "--config", str(path), "--stage", "codec"]
    process = subprocess.Popen([sys.executable, *words], stdout=subprocess.PIPE, stderr=subprocess.PIPE, text=True)
    metrics = Path(config.run_dir) / "metrics.jsonl"
    while process.poll() is None and (not metrics.exists() or metrics.read_text().count("\n") < after):
        time.sleep(0.01)
    process.send_signal(number)
    out, said = process.communicate(timeout=300)
    return subprocess.CompletedProcess(words, process.returncode, out, said)


def test_sigterm_and_control_c_save_and_the_same_command_goes_on_to_the_same_bytes(kill_train, tmp_path):
    for name in ("alone", "stopped"):
        kill_train.record(tmp_path / name / "data" / "train", 4, 0)
        kill_train.record(tmp_path / name / "data" / "val", 2, 2)
    config = configured(kill_train, tmp_path / "stopped")
    folder, saved = Path(config.run_dir) / "codec", 0
    for number, code in ((signal.SIGTERM, 143), (signal.SIGINT, 130)):
        done = stopped(config, tmp_path / "config.yaml", number, saved + 3)
        checkpoints = sorted(path.name for path in folder.glob("step-*"))
        assert done.returncode == code, done.stderr[-2000:]
        assert "Traceback" not in done.stderr and not (folder / "done.json").exists()
        before, saved = saved, int(checkpoints[-1].removeprefix("step-"))
        assert saved > before
        assert f"codec: stopped at step {saved}; the same command goes on from step {saved}" in done.stderr
    train(config, "codec")
    alone = configured(kill_train, tmp_path / "alone")
    train(alone, "codec")
    weights = [(Path(c.run_dir) / "model" / "codec.safetensors").read_bytes() for c in (config, alone)]
    assert weights[0] == weights[1]


class Threes:
    """Collections of three batches, as of rollouts: only after the third can be gone on from. `asks_at` is a batch."""

    name, metric = "threes", "error"

    def __init__(self, asks_at: int = -1) -> None:
        torch.manual_seed(0)
        self.model, self.asks_at = nn.Linear(2, 1), asks_at
        self.settings = StageConfig(steps=9, lr=0.05, warmup_steps=1, accumulation=1, validate_every=4)

    def modules(self) -> dict[str, nn.Module]:
        return {"threes": self.model}

    def plan(self, state: SamplerState) -> Iterator[tuple[int, SamplerState]]:
        while True:
            first = 3 * state.epoch
            if first <= self.asks_at < first + 3:
                os.kill(os.getpid(), signal.SIGTERM)  # while answers are sampled
            yield first, state
            yield first + 1, state
            state = SamplerState(state.seed, state.epoch + 1, 0)
            yield first + 2, state

    def load(self, key: int) -> Tensor:
        return torch.randn(4, 2, generator=torch.Generator().manual_seed(key))

    def loss(self, batch: Tensor, share_done: float) -> StepLoss:
        return StepLoss((self.model(batch) - batch.sum(1, keepdim=True)).square().mean(), 4)

    def validate(self) -> dict[str, float]:
        return {"error": float(self.model.weight.square().sum())}


def trained(place: Path, **changes: Any) -> Tensor:
    place.mkdir(exist_ok=True)
    stage = Threes(**changes)
    fit(stage, TrainConfig(dtype="fp32", checkpoint_minutes=1e-9), place, CPU, [])
    return stage.model.weight.detach()


def test_a_stop_amid_a_collection_goes_back_to_its_beginning(tmp_path, capsys):
    whole = trained(tmp_path / "whole")
    with pytest.raises(SystemExit) as ended:
        trained(tmp_path / "stopped", asks_at=4)
    assert ended.value.code == 143
    assert "threes: stopped at step 4; the same command goes on from step 3" in capsys.readouterr().err
    assert [path.name for path in (tmp_path / "stopped").glob("step-*")] == ["step-00000003"]
    assert torch.equal(trained(tmp_path / "stopped"), whole)


def test_a_second_signal_ends_at_once_and_afterwards_all_is_as_it_was():
    usual = signal.signal(signal.SIGINT, signal.default_int_handler)  # a shell lets background jobs ignore it
    before = [signal.getsignal(number) for number in (signal.SIGTERM, signal.SIGINT)]
    with pytest.raises(KeyboardInterrupt), stop_asked() as asked:
        assert asked() == 0
        signal.raise_signal(signal.SIGINT)
        assert asked() == signal.SIGINT
        signal.raise_signal(signal.SIGINT)
    assert [signal.getsignal(number) for number in (signal.SIGTERM, signal.SIGINT)] == before
    signal.signal(signal.SIGINT, usual)


def test_a_second_control_c_while_a_checkpoint_is_written_is_no_failed_write(tmp_path, monkeypatch):
    def interrupted(*_: object, **__: object) -> None:
        raise KeyboardInterrupt

    monkeypatch.setattr("torch.distributed.checkpoint.filesystem.FileSystem.create_stream", interrupted)
    with pytest.raises(KeyboardInterrupt):
        trained(tmp_path / "run")
    assert not list((tmp_path / "run").glob("step-*"))
