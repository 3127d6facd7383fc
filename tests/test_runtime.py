"""Devices, threads and seeds do what the configuration names."""

from __future__ import annotations

import random
from pathlib import Path

import numpy as np
import pytest
import torch

from ira.errors import InputError
from ira.runtime import autocast, pick_device, pick_threads, run_folder, seed_everything


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
