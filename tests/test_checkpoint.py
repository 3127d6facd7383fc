"""Models come back as they were, or are refused in one line."""

from __future__ import annotations

import json
import os
from pathlib import Path
from typing import TYPE_CHECKING

import pytest
import torch
from torch import nn

from ira import checkpoint
from ira.checkpoint import (
    load_model,
    load_tensors,
    read_card,
    save_model,
    save_tensors,
    weights_hash,
    write_aside,
)
from ira.errors import InputError

if TYPE_CHECKING:
    from typing_extensions import Self


class Small(nn.Module):
    count: torch.Tensor
    window: torch.Tensor

    def __init__(self, width: int = 4, *, tied: bool = False) -> None:
        super().__init__()
        self.width, self.tied = width, tied
        self.first = nn.Linear(width, width)
        self.second = nn.Linear(width, width)
        if tied:
            self.second.weight = self.first.weight
        self.register_buffer("count", torch.arange(3))
        self.register_buffer("window", torch.ones(5), persistent=False)

    def hparams(self) -> dict:
        return {"width": self.width, "tied": self.tied}

    @classmethod
    def from_hparams(cls, hparams: dict) -> Self:
        return cls(**hparams)


class Other(Small):
    pass


@pytest.fixture
def saved(tmp_path: Path) -> Path:
    save_model(tmp_path, "small", Small(), extra={"steps": 7})
    return tmp_path


def test_a_model_comes_back_equal_in_eval_mode(tmp_path: Path):
    model = Small(6)
    path = save_model(tmp_path / "deep" / "folder", "small", model)
    loaded = load_model(Small, path.parent, "small")
    assert not loaded.training and loaded.width == 6
    for key, value in model.state_dict().items():
        assert torch.equal(loaded.state_dict()[key], value), key


def test_the_path_of_the_file_itself_can_be_given(saved: Path):
    assert load_model(Small, saved / "small.safetensors", "whatever").width == 4


def test_bfloat16_files_are_smaller_and_load_as_fp32(tmp_path: Path):
    torch.manual_seed(0)
    model = Small(64)
    full, half = save_model(tmp_path, "full", model), save_model(tmp_path, "half", model, dtype=torch.bfloat16)
    assert half.stat().st_size < 0.6 * full.stat().st_size
    loaded = load_model(Small, tmp_path, "half")
    assert loaded.first.weight.dtype == torch.float32
    assert torch.equal(loaded.first.weight, model.first.weight.bfloat16().float())
    assert loaded.count.dtype == torch.int64


def test_non_persistent_buffers_are_not_saved(saved: Path):
    assert "window" not in load_tensors(saved, "small", "Small")
    assert torch.equal(load_model(Small, saved, "small").window, torch.ones(5))


def test_tied_weights_can_be_saved(tmp_path: Path):
    save_model(tmp_path, "small", Small(tied=True))
    loaded = load_model(Small, tmp_path, "small")
    assert loaded.first.weight is loaded.second.weight


def test_the_card_states_kind_arguments_hash_and_extra(saved: Path):
    card = read_card(saved, "small")
    assert (card["format"], card["kind"], card["extra"]) == (1, "Small", {"steps": 7})
    assert card["hparams"] == {"width": 4, "tied": False}
    assert weights_hash(saved, "small") == card["sha256"] == checkpoint.sha256_of(saved / "small.safetensors")


def test_saving_leaves_only_the_two_files(saved: Path):
    save_model(saved, "small", Small())
    assert sorted(os.listdir(saved)) == ["small.json", "small.safetensors"]


def test_loose_tensors_have_a_kind_too(tmp_path: Path):
    save_tensors(tmp_path, "lora", {"a": torch.ones(2)}, kind="lora", hparams={"r": 2})
    assert torch.equal(load_tensors(tmp_path, "lora", "lora")["a"], torch.ones(2))
    assert_refused("holds a lora, a Small is wanted", lambda: load_model(Small, tmp_path, "lora"))


def assert_refused(words: str, call) -> None:
    with pytest.raises(InputError) as caught:
        call()
    assert words in str(caught.value)
    assert "\n" not in str(caught.value)


def test_a_damaged_file_is_refused(saved: Path):
    file = saved / "small.safetensors"
    content = bytearray(file.read_bytes())
    content[-1] ^= 1
    file.write_bytes(content)
    assert_refused("does not match the sha256", lambda: load_model(Small, saved, "small"))


def test_a_half_copied_file_is_refused(saved: Path):
    file = saved / "small.safetensors"
    file.write_bytes(file.read_bytes()[:-8])
    assert_refused("half copied", lambda: load_model(Small, saved, "small"))


def test_a_file_that_is_not_safetensors_is_refused_even_with_its_own_hash(saved: Path):
    (saved / "small.safetensors").write_bytes(b"not tensors at all")
    card = json.loads((saved / "small.json").read_text())
    card["sha256"] = checkpoint.sha256_of(saved / "small.safetensors")
    (saved / "small.json").write_text(json.dumps(card))
    assert_refused("is not a safetensors file", lambda: load_model(Small, saved, "small"))


def test_another_kind_is_refused(saved: Path):
    assert_refused("holds a Small, a Other is wanted", lambda: load_model(Other, saved, "small"))


@pytest.mark.parametrize(
    ("change", "words"),
    [
        ({"format": 2}, "has format 2, this ira reads 1"),
        ({"hparams": {"breadth": 4}}, "cannot be built from its hparams"),
        ({"hparams": {"width": 5}}, "first.bias is [4], [5] is wanted"),
        ({"sha256": None}, "sha256 missing or of the wrong type"),
    ],
)
def test_a_card_that_does_not_fit_is_refused(saved: Path, change: dict, words: str):
    card = json.loads((saved / "small.json").read_text())
    (saved / "small.json").write_text(json.dumps({**card, **change}))
    assert_refused(words, lambda: load_model(Small, saved, "small"))


@pytest.mark.parametrize("text", ["", "[1]", "{", '{"kind": "Small"}', "[" * 100_000])
def test_a_card_that_is_no_card_is_refused(saved: Path, text: str):
    (saved / "small.json").write_text(text)
    assert_refused("small.json", lambda: load_model(Small, saved, "small"))


def test_missing_and_surplus_tensors_are_named(tmp_path: Path):
    tensors = {**Small().state_dict(), "third": torch.ones(1)}
    del tensors["second.bias"]
    save_tensors(tmp_path, "small", tensors, kind="Small", hparams={})
    assert_refused("second.bias is missing; third is not part of Small", lambda: load_model(Small, tmp_path, "small"))


def test_missing_files_and_pickles_are_refused(saved: Path, tmp_path: Path):
    assert_refused("no such folder", lambda: load_model(Small, saved / "none", "small"))
    assert_refused("give a model folder that holds voice.json", lambda: load_model(Small, saved, "voice"))
    (saved / "small.pt").write_bytes(b"x")
    assert_refused("is a file; give the folder", lambda: load_model(Small, saved / "small.pt", "small"))
    (saved / "small.safetensors").unlink()
    assert_refused("is missing beside its card", lambda: load_model(Small, saved, "small"))


def test_a_failed_save_keeps_the_old_model(saved: Path, monkeypatch: pytest.MonkeyPatch):
    before = load_tensors(saved, "small", "Small")["first.weight"]

    def disk_full(*_: object) -> None:
        raise OSError(28, "No space left on device")

    monkeypatch.setattr(checkpoint, "save_file", disk_full)
    assert_refused("No space left", lambda: save_model(saved, "small", Small()))
    assert torch.equal(load_tensors(saved, "small", "Small")["first.weight"], before)
    assert len(os.listdir(saved)) == 2


def test_extra_that_json_cannot_hold_fails_before_anything_is_replaced(saved: Path):
    with pytest.raises(ValueError):
        save_model(saved, "small", Small(), extra={"score": float("nan")})
    load_model(Small, saved, "small")


def test_writing_aside_keeps_the_suffix_and_replaces_only_at_the_end(tmp_path: Path):
    target = tmp_path / "a.wav"
    target.write_text("old")
    with write_aside(target) as aside:
        assert aside.suffix == ".wav" and aside.parent == tmp_path
        aside.write_text("new")
        assert target.read_text() == "old"
    assert target.read_text() == "new" and os.listdir(tmp_path) == ["a.wav"]


def test_weights_are_as_readable_as_any_new_file(tmp_path: Path):
    (tmp_path / "plain").touch()
    weights = save_tensors(tmp_path, "m", {"a": torch.zeros(2)}, kind="Thing")
    assert weights.stat().st_mode == (tmp_path / "plain").stat().st_mode
