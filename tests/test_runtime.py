"""Devices, seeds and trackers do what the configuration names."""

from __future__ import annotations

import io
import json
import random
import sys
from pathlib import Path
from types import SimpleNamespace

import numpy as np
import pytest
import torch
from rich.console import Console

from ira import runtime
from ira.errors import InputError
from ira.runtime import (
    ConsoleTracker,
    JsonlTracker,
    TensorboardTracker,
    WandbTracker,
    autocast,
    format_seconds,
    make_trackers,
    pick_device,
    pick_threads,
    run_folder,
    seed_everything,
)


def test_auto_takes_the_best_device_there_is(monkeypatch: pytest.MonkeyPatch):
    monkeypatch.setattr(torch.cuda, "is_available", lambda: False)
    monkeypatch.setattr(torch.backends.mps, "is_available", lambda: False)
    assert pick_device() == torch.device("cpu")
    monkeypatch.setattr(torch.cuda, "is_available", lambda: True)
    assert pick_device("auto") == torch.device("cuda")


def test_a_device_that_is_not_there_is_refused(monkeypatch: pytest.MonkeyPatch):
    monkeypatch.setattr(torch.cuda, "is_available", lambda: False)
    with pytest.raises(InputError, match="'cuda' is not on this machine"):
        pick_device("cuda")
    monkeypatch.setattr(torch.cuda, "is_available", lambda: True)
    monkeypatch.setattr(torch.cuda, "device_count", lambda: 1)
    assert pick_device("cuda:0").index == 0
    with pytest.raises(InputError, match="'cuda:3' is not on this machine"):
        pick_device("cuda:3")


@pytest.mark.parametrize("name", ["gpu", "", "meta", "cuda:x"])
def test_a_device_with_an_unknown_name_is_refused(name: str):
    with pytest.raises(InputError, match="is unknown; give auto, cpu"):
        pick_device(name)


def test_threads_are_set_and_none_leaves_them():
    before = torch.get_num_threads()
    try:
        assert pick_threads(1) == torch.get_num_threads() == 1
        assert pick_threads(None) == 1
        with pytest.raises(InputError, match="0 threads"):
            pick_threads(0)
    finally:
        torch.set_num_threads(before)


def test_the_same_seed_gives_the_same_numbers():
    def draw(seed: int) -> tuple[float, float, float]:
        seed_everything(seed)
        return random.random(), float(np.random.rand()), float(torch.rand(()))

    first = draw(2**40 + 1)
    assert draw(2**40 + 1) == first
    assert all(a != b for a, b in zip(draw(5), first, strict=True))


def test_autocast_lowers_products_only_for_bf16():
    a, device = torch.ones(2, 2), torch.device("cpu")
    with autocast(device, "bf16"):
        assert (a @ a).dtype == torch.bfloat16
    with autocast(device, "fp32"):
        assert (a @ a).dtype == torch.float32
    with pytest.raises(InputError, match="'fp16' is unknown"):
        autocast(device, "fp16")


def test_a_run_folder_is_made_or_refused(tmp_path: Path):
    assert run_folder(tmp_path / "a" / "b").is_dir()
    (tmp_path / "file").write_text("")
    with pytest.raises(InputError, match="set run_dir elsewhere"):
        run_folder(tmp_path / "file" / "run")


def read_lines(path: Path) -> list[dict]:
    return [json.loads(line) for line in path.read_text().splitlines()]


def test_every_metric_is_a_line_of_valid_json(tmp_path: Path):
    tracker = JsonlTracker(tmp_path / "metrics.jsonl")
    tracker.log(3, "voice", {"loss": 0.5, "norm": float("nan")})
    (line,) = read_lines(tmp_path / "metrics.jsonl")  # readable before it is closed
    tracker.close()
    assert line.pop("time") > 0
    assert line == {"stage": "voice", "step": 3, "loss": 0.5, "norm": None}


def test_a_resumed_run_appends_and_drops_the_half_line_of_a_killed_one(tmp_path: Path):
    path = tmp_path / "metrics.jsonl"
    path.write_text('{"step": 1}\n{"step": 2, "lo')
    tracker = JsonlTracker(path)
    tracker.log(2, "codec", {})
    tracker.close()
    assert [line["step"] for line in read_lines(path)] == [1, 2]


def console(terminal: bool) -> Console:
    return Console(file=io.StringIO(), force_terminal=terminal, width=160, soft_wrap=True)


def text_of(target: Console) -> str:
    assert isinstance(target.file, io.StringIO)
    return target.file.getvalue()


def test_the_console_tells_the_time_left_from_the_pace(monkeypatch: pytest.MonkeyPatch):
    clock = [100.0]
    monkeypatch.setattr(runtime.time, "monotonic", lambda: clock[0])
    target = console(terminal=False)
    tracker = ConsoleTracker(target)
    tracker.log(50, "speech", {"share_done": 0.5, "loss": 2.0})  # resumed half-way
    clock[0] += 60
    tracker.log(60, "speech", {"share_done": 0.6, "loss": 1.5})
    tracker.log(60, "speech", {"val_loss": 1.75})
    tracker.close()
    assert text_of(target).splitlines() == [
        "speech step 50  50%  left ?  loss 2",
        "speech step 60  60%  left 0:04:00  loss 1.5",
        "speech step 60  val_loss 1.75",
    ]


def test_the_console_shows_a_bar_for_each_stage_on_a_terminal():
    target = console(terminal=True)
    tracker = ConsoleTracker(target)
    tracker.log(1, "codec", {"share_done": 0.5, "mel": 1.0})
    tracker.log(1, "voice", {"share_done": 0.25, "loss": 3.0})
    tracker.close()
    shown = text_of(target)
    assert "codec" in shown and "voice" in shown and " 25%" in shown and "loss 3" in shown


@pytest.mark.parametrize(
    ("seconds", "text"), [(0, "0:00:00"), (59.6, "0:01:00"), (3725, "1:02:05"), (90000, "25:00:00")]
)
def test_seconds_read_as_hours_minutes_seconds(seconds: float, text: str):
    assert format_seconds(seconds) == text


def test_jsonl_is_always_among_the_trackers(tmp_path: Path):
    trackers = make_trackers(["console", "console"], tmp_path, "ira")
    assert [type(tracker) for tracker in trackers] == [JsonlTracker, ConsoleTracker]
    for tracker in trackers:
        tracker.close()
    assert (tmp_path / "metrics.jsonl").exists()
    with pytest.raises(InputError, match="'mlflow' is unknown; give some of console, tensorboard, wandb"):
        make_trackers(["mlflow"], tmp_path, "ira")


@pytest.mark.parametrize(("name", "extra"), [("tensorboard", "tb"), ("wandb", "wandb")])
def test_a_tracker_without_its_package_names_the_extra(tmp_path: Path, monkeypatch, name: str, extra: str):
    for module in (name, "torch.utils.tensorboard"):
        monkeypatch.setitem(sys.modules, module, None)
    with pytest.raises(InputError, match=rf"{name} is not installed; run pip install -e '\.\[{extra}\]'"):
        make_trackers([name], tmp_path, "ira")


def test_tensorboard_gets_every_scalar(tmp_path: Path):
    reader = pytest.importorskip("tensorboard.backend.event_processing.event_accumulator")
    tracker = TensorboardTracker(tmp_path)
    tracker.log(4, "align", {"loss": 0.25})
    tracker.close()
    events = reader.EventAccumulator(str(tmp_path / "tensorboard")).Reload()
    (scalar,) = events.Scalars("align/loss")
    assert (scalar.step, scalar.value) == (4, 0.25)


def test_wandb_counts_the_steps_of_each_stage_by_themselves(tmp_path: Path, monkeypatch: pytest.MonkeyPatch):
    calls: list[tuple] = []
    run = SimpleNamespace(
        define_metric=lambda name, step_metric: calls.append(("define", name, step_metric)),
        log=lambda values: calls.append(("log", values)),
        finish=lambda: calls.append(("finish",)),
    )
    stand_in = SimpleNamespace(init=lambda **keywords: calls.append(("init", keywords)) or run)
    monkeypatch.setitem(sys.modules, "wandb", stand_in)
    tracker = WandbTracker(tmp_path, "voices")
    tracker.log(7, "speech", {"loss": 1.0})
    tracker.log(0, "align", {"loss": 2.0})
    tracker.log(1, "align", {"loss": 1.5})
    tracker.close()
    assert calls == [
        ("init", {"project": "voices", "name": tmp_path.name, "dir": str(tmp_path)}),
        ("define", "speech/*", "speech/step"),
        ("log", {"speech/step": 7, "speech/loss": 1.0}),
        ("define", "align/*", "align/step"),
        ("log", {"align/step": 0, "align/loss": 2.0}),
        ("log", {"align/step": 1, "align/loss": 1.5}),
        ("finish",),
    ]
