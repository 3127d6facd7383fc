"""A W&B run keeps its id over a restart, and its stages count by themselves; the real package is used where it is."""

from __future__ import annotations

import json
import sys
from pathlib import Path
from types import SimpleNamespace

import pytest
import torch

from ira.errors import InputError
from ira.trackers.base import Histogram, Picture, Sound
from ira.trackers.weights_and_biases import WandbTracker, kept_id, mode_without_key

SETTINGS = ("WANDB_MODE", "WANDB_API_KEY", "WANDB_IDENTITY_TOKEN_FILE", "WANDB_BASE_URL", "NETRC")


@pytest.fixture(autouse=True)
def no_key(monkeypatch: pytest.MonkeyPatch, tmp_path: Path):
    for name in SETTINGS:
        monkeypatch.delenv(name, raising=False)
    monkeypatch.setenv("HOME", str(tmp_path / "home"))


class Refusal(Exception):
    """Stands for `wandb.Error`."""


@pytest.fixture
def calls(monkeypatch: pytest.MonkeyPatch) -> list[tuple]:
    found: list[tuple] = []
    run = SimpleNamespace(
        define_metric=lambda name, step_metric: found.append(("define", name, step_metric)),
        log=lambda values: found.append(("log", values)),
        finish=lambda: found.append(("finish",)),
    )
    stand_in = SimpleNamespace(init=lambda **keywords: found.append(("init", keywords)) or run, Error=Refusal)
    monkeypatch.setitem(sys.modules, "wandb", stand_in)
    return found


def test_wandb_counts_the_steps_of_each_stage_by_themselves(tmp_path: Path, calls: list[tuple]):
    (tmp_path / "config.json").write_text('{"device": "cpu"}')
    tracker = WandbTracker(tmp_path, "voices")
    tracker.log(7, "speech", {"loss": 1.0})
    tracker.log(0, "align", {"loss": 2.0})
    tracker.log(1, "align", {"loss": 1.5})
    tracker.close()
    kept = json.loads((tmp_path / "wandb.json").read_text())["id"]
    given = {"project": "voices", "name": tmp_path.name, "dir": str(tmp_path), "config": {"device": "cpu"}}
    assert calls == [
        ("init", {**given, "id": kept, "resume": "allow", "mode": "offline"}),
        ("define", "speech/*", "speech/step"),
        ("log", {"speech/step": 7, "speech/loss": 1.0}),
        ("define", "align/*", "align/step"),
        ("log", {"align/step": 0, "align/loss": 2.0}),
        ("log", {"align/step": 1, "align/loss": 1.5}),
        ("finish",),
    ]


def test_samples_are_logged_over_the_step_of_their_stage_and_none_are_not(tmp_path: Path, calls, monkeypatch):
    for kind in ("Audio", "Image", "Histogram"):
        monkeypatch.setattr(sys.modules["wandb"], kind, lambda value, kind=kind, **more: (kind, more), raising=False)
    tracker = WandbTracker(tmp_path, "voices")
    tracker.show(5, "codec", {"empty": Histogram(torch.zeros(0))})
    tracker.show(6, "codec", {"a": Sound(torch.zeros(9), 8000), "h": Histogram(torch.ones(3))})
    values = {"codec/step": 6, "codec/a": ("Audio", {"sample_rate": 8000}), "codec/h": ("Histogram", {})}
    assert calls[1:] == [("define", "codec/*", "codec/step"), ("log", values)]


def test_a_run_that_is_taken_up_keeps_its_id_and_another_folder_has_another(tmp_path: Path, calls: list[tuple]):
    (tmp_path / "other").mkdir()
    for folder in (tmp_path, tmp_path, tmp_path / "other"):
        WandbTracker(folder, "voices")
    first, again, other = (keywords["id"] for _, keywords in calls)
    assert first == again != other


@pytest.mark.parametrize("content", ["", "[]", '{"id": 5}', '{"id": "../x"}', "[" * 100_000, '{"id": ""}'])
def test_a_damaged_id_is_one_line_with_the_remedy(tmp_path: Path, content: str):
    (tmp_path / "wandb.json").write_text(content)
    with pytest.raises(InputError, match="holds no W&B run id; delete it"):
        kept_id(tmp_path / "wandb.json")


def test_a_run_is_offline_only_where_there_is_no_key_and_no_wish(tmp_path: Path, monkeypatch: pytest.MonkeyPatch):
    assert mode_without_key() == "offline"
    for name in ("WANDB_MODE", "WANDB_API_KEY"):
        with monkeypatch.context() as changed:
            changed.setenv(name, "online")
            assert mode_without_key() is None
    (tmp_path / "keys").write_text("machine api.wandb.ai login user password 123\n")
    monkeypatch.setenv("NETRC", str(tmp_path / "keys"))
    assert mode_without_key() is None
    monkeypatch.setenv("WANDB_BASE_URL", "https://wandb.example.org")
    assert mode_without_key() == "offline"


def test_a_service_that_refuses_is_one_line_with_the_remedy(tmp_path: Path, calls: list[tuple], monkeypatch):
    def refuse(**keywords: object):
        raise Refusal("no\nnetwork")

    monkeypatch.setattr(sys.modules["wandb"], "init", refuse)
    with pytest.raises(InputError, match="^wandb: no network; set WANDB_MODE=offline"):
        WandbTracker(tmp_path, "voices")


def test_two_offline_sessions_of_the_real_package_are_one_run(tmp_path: Path):
    pytest.importorskip("wandb", exc_type=ImportError)
    values = torch.tensor([0.5, float("nan"), -0.5])
    samples = {"a": Sound(values, 8000), "p": Picture(torch.zeros(8, 9, 3, dtype=torch.uint8)), "h": Histogram(values)}
    for step in (1, 2):
        tracker = WandbTracker(tmp_path, "ira")
        tracker.log(step, "speech", {"loss": 1.0 / step})
        tracker.show(step, "speech", {**samples, "empty": Histogram(torch.zeros(0))})
        tracker.close()
    kept = kept_id(tmp_path / "wandb.json")
    sessions = list((tmp_path / "wandb").glob(f"offline-run-*-{kept}"))
    assert sessions and len(list((tmp_path / "wandb").glob(f"offline-run-*/run-{kept}.wandb"))) == len(sessions)
    assert [path.suffix for path in sessions[0].rglob("media/*/*/*")] in ([".wav", ".png"], [".png", ".wav"])
