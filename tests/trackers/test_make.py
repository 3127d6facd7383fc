"""The names in the configuration become trackers, or one line that says what is missing."""

from __future__ import annotations

import sys
from pathlib import Path

import pytest

from ira.errors import InputError
from ira.trackers.console import ConsoleTracker
from ira.trackers.jsonl import JsonlTracker
from ira.trackers.make import make_trackers


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
