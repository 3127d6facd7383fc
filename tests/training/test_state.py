"""Checkpoint folders: whole or not there, the last few and the best, and nothing from a stranger but one line."""

from __future__ import annotations

import errno
import json
import os
import pickle
import shutil
import subprocess
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest
import torch
from safetensors.torch import load_file, save_file
from torch import nn

from ira.checkpoint import sha256_of
from ira.config import StageConfig, TrainConfig
from ira.data.batches import SamplerState
from ira.errors import InputError
from ira.training import state
from ira.training.loop import Progress, fit
from ira.training.stage import StepLoss

CPU = torch.device("cpu")
SHARD = "shard-00001-model-00001-of-00001.safetensors"


class Curve:
    """Six steps of a linear layer; validation at 2, 4 and 6, of which `figures` says how good they were."""

    name, metric = "curve", "error"

    def __init__(self, figures: tuple[float, ...] = (3.0, 1.0, 2.0), dies_at: int = -1) -> None:
        torch.manual_seed(0)
        self.model, self.figures, self.dies_at = nn.Linear(3, 1), figures, dies_at
        self.settings = StageConfig(steps=6, lr=0.05, warmup_steps=1, accumulation=1, validate_every=2)

    def modules(self) -> dict[str, nn.Module]:
        return {"curve": self.model}

    def plan(self, state: SamplerState):
        while True:
            self.cursor, state = state.cursor, SamplerState(state.seed, state.epoch, state.cursor + 1)
            if self.cursor == self.dies_at:
                raise KeyboardInterrupt
            yield self.cursor, state

    def load(self, key: int) -> torch.Tensor:
        return torch.randn(4, 3, generator=torch.Generator().manual_seed(key))

    def loss(self, batch: torch.Tensor, share_done: float) -> StepLoss:
        return StepLoss((self.model(batch) - batch.sum(1, keepdim=True)).square().mean() + torch.rand(()), 4)

    def validate(self) -> dict[str, float]:
        return {"error": self.figures[(self.cursor + 1) // 2 - 1]}


def run(folder: Path, **changes: Any) -> torch.Tensor:
    """The weights that a run ends with, a checkpoint after every step."""
    stage = Curve(**changes)
    fit(stage, TrainConfig(dtype="fp32", checkpoint_minutes=1e-9), folder, CPU, [])
    return torch.cat([p.detach().flatten() for p in stage.model.parameters()])


def killed(folder: Path, at: int, **changes: Any) -> Path:
    folder.mkdir(exist_ok=True)
    with pytest.raises(KeyboardInterrupt):
        run(folder, dies_at=at, **changes)
    return folder


@pytest.fixture(scope="module")
def whole(tmp_path_factory: pytest.TempPathFactory) -> torch.Tensor:
    return run(tmp_path_factory.mktemp("whole"))


def names(folder: Path) -> list[str]:
    return sorted(path.name for path in folder.iterdir())


def forge(checkpoint: Path, change: Callable[[dict[str, Any]], Any]) -> None:
    """Alter state.json as somebody would who also knows how to make its hashes right."""
    note = json.loads((checkpoint / "state.json").read_text())
    del note["sha256"]
    note["files"] = {path.name: sha256_of(path) for path in checkpoint.glob("*.safetensors")}
    change(note)
    (checkpoint / "state.json").write_text(json.dumps({**note, "sha256": state._hash(note)}))


def test_the_last_two_checkpoints_and_the_best_are_kept_and_nothing_else(tmp_path):
    run(tmp_path)
    assert names(tmp_path) == ["best-00000004", "step-00000005", "step-00000006"]


def test_the_same_are_kept_by_a_run_that_was_killed_while_it_wrote(tmp_path, whole):
    place = killed(tmp_path / "run", at=5)
    (place / ".step-00000003.partial").mkdir()  # of kills before
    (place / ".best-00000006.partial").mkdir()
    assert torch.equal(run(place), whole)
    assert names(place) == ["best-00000004", "step-00000005", "step-00000006"]


def test_a_best_that_only_the_older_checkpoint_counts_on_stays_until_that_one_goes(tmp_path):
    place = killed(tmp_path / "run", at=4)
    assert names(place) == ["best-00000002", "best-00000004", "step-00000003", "step-00000004"]


def test_a_finished_run_that_is_opened_again_is_left_as_it_is(tmp_path, whole):
    run(tmp_path)
    before = {path: path.stat().st_mtime_ns for path in tmp_path.rglob("*")}
    assert torch.equal(run(tmp_path), whole)
    assert {path: path.stat().st_mtime_ns for path in tmp_path.rglob("*")} == before


def test_a_run_cut_short_before_its_first_validation_is_judged_and_ends(tmp_path, monkeypatch):
    place = killed(tmp_path / "run", at=1)
    stage = Curve()
    stage.settings, stage.cursor = StageConfig(steps=1, accumulation=1, validate_every=2), 1
    assert fit(stage, TrainConfig(dtype="fp32"), place, CPU, []).best_step == 1


@pytest.mark.parametrize("moment", ["os.rename", "os.fsync"])
def test_a_kill_between_writing_and_renaming_leaves_no_folder_of_that_name(tmp_path, monkeypatch, whole, moment):
    place = killed(tmp_path / "run", at=3)
    before = names(place)

    def dies(*_: object, **__: object) -> None:
        raise KeyboardInterrupt

    with monkeypatch.context() as patch:
        module, _, name = moment.partition(".")
        patch.setattr(state, module, _Dying(getattr(state, module), name, dies))
        with pytest.raises(KeyboardInterrupt):
            run(place)
    assert [name for name in names(place) if not name.endswith(".partial")] == before
    assert names(place) != before
    assert torch.equal(run(place), whole)


class _Dying:
    """A module but for one function."""

    def __init__(self, module: Any, name: str, function: Callable[..., Any]) -> None:
        self._module, self._name, self._function = module, name, function

    def __getattr__(self, name: str) -> Any:
        return self._function if name == self._name else getattr(self._module, name)


# -- damage ------------------------------------------------------------------------------------------------------------


def cut(checkpoint: Path) -> None:
    os.truncate(checkpoint / SHARD, (checkpoint / SHARD).stat().st_size - 1)


def flip(checkpoint: Path) -> None:
    data = bytearray((checkpoint / SHARD).read_bytes())
    data[-3] ^= 1
    (checkpoint / SHARD).write_bytes(data)


def flip_note(checkpoint: Path) -> None:
    note = checkpoint / "state.json"
    note.write_text(note.read_text().replace('"dropped": 0', '"dropped": 1'))


def lose_shard(checkpoint: Path) -> None:
    (checkpoint / SHARD).unlink()


def damage_best(checkpoint: Path) -> None:
    cut(checkpoint.parent / "best-00000004")


DAMAGE = [cut, flip, flip_note, lose_shard, damage_best]


@pytest.mark.parametrize("damage", DAMAGE)
def test_a_damaged_newest_checkpoint_is_named_and_the_one_before_leads_to_the_same_weights(
    tmp_path, whole, capsys, damage
):
    place = killed(tmp_path / "run", at=4)
    damage(place / "step-00000004")
    assert torch.equal(run(place), whole)
    said = capsys.readouterr().err.splitlines()
    assert len(said) == 1 and "step-00000004: " in said[0] and said[0].endswith("; passed over")
    assert names(place) == ["best-00000004", "step-00000005", "step-00000006"]


def test_damaged_best_weights_alone_do_not_lose_the_run(tmp_path, capsys):
    place = killed(tmp_path / "run", at=4)
    for best in place.glob("best-*"):
        shard = best / SHARD
        shard.write_bytes(shard.read_bytes()[:-1])
    assert bool(run(place).isfinite().all())
    assert "step-00000004: taken up without the best weights so far" in capsys.readouterr().err
    assert {"step-00000005", "step-00000006"} < set(names(place))


def test_when_all_are_damaged_one_line_says_so(tmp_path):
    place = killed(tmp_path / "run", at=4)
    for checkpoint in place.glob("step-*"):
        flip(checkpoint)
    with pytest.raises(InputError, match="no checkpoint is whole; delete the folder"):
        run(place)


def test_a_damaged_later_checkpoint_does_not_push_out_the_good_ones(tmp_path):
    place = killed(tmp_path / "run", at=4)
    shutil.copytree(place / "step-00000004", place / "step-00000999")
    flip(place / "step-00000999")
    killed(place, at=5)
    assert [name for name in names(place) if "step" in name] == ["step-00000004", "step-00000005"]


def test_a_best_that_is_damaged_while_it_trains_is_an_error_by_name(tmp_path, monkeypatch):
    save = state.write_checkpoint

    def damages(folder: Path, *given: Any) -> None:
        save(folder, *given)
        if folder.name == "step-00000006":
            flip(tmp_path / "best-00000004")

    monkeypatch.setattr(state, "write_checkpoint", damages)
    with pytest.raises(InputError, match="best-00000004: .* does not match its hash"):
        run(tmp_path)


# -- no room, no permission --------------------------------------------------------------------------------------------


@pytest.fixture
def small_disk(tmp_path: Path):
    """A file system of 128 KiB."""
    place = tmp_path / "disk"
    place.mkdir()
    if subprocess.run(["mount", "-t", "tmpfs", "-o", "size=128k", "tmpfs", place], capture_output=True).returncode:
        pytest.skip("mounting is not permitted here")
    yield place
    subprocess.run(["umount", place], check=True)


def test_a_full_disk_is_one_line_and_a_later_run_goes_on(small_disk, whole):
    place = killed(small_disk / "run", at=4)
    before = {path: path.read_bytes() for path in place.rglob("*") if path.is_file()}
    filler = small_disk / "filler"
    with open(filler, "wb", buffering=0) as file:
        os.posix_fallocate(file.fileno(), 0, os.statvfs(small_disk).f_bfree * os.statvfs(small_disk).f_frsize)
    with pytest.raises(InputError, match=r"step-00000005: .*No space left.*the one before is good") as caught:
        run(place)
    assert "\n" not in str(caught.value)
    assert {path: path.read_bytes() for path in place.rglob("*") if path.is_file()} == before
    filler.unlink()
    assert torch.equal(run(place), whole)


@pytest.mark.parametrize("number", [errno.ENOSPC, errno.EROFS, errno.EACCES])
@pytest.mark.parametrize("step", ["a shard", "the note"])
def test_what_cannot_be_written_is_one_line_and_a_later_run_goes_on(tmp_path, monkeypatch, whole, number, step):
    place = killed(tmp_path / "run", at=4)
    before = names(place)

    def fails(*_: object, **__: object) -> None:
        raise OSError(number, os.strerror(number))

    with monkeypatch.context() as patch:
        if step == "a shard":
            patch.setattr("torch.distributed.checkpoint.filesystem.FileSystem.create_stream", fails)
        else:
            patch.setattr(state, "os", _Dying(os, "fsync", fails))
        with pytest.raises(InputError, match=rf"step-00000005: .*{os.strerror(number)}.*; the one before is good"):
            run(place)
    assert names(place) == before
    assert torch.equal(run(place), whole)


# -- strangers ---------------------------------------------------------------------------------------------------------


class Bomb:
    """A pickle that makes a file when it is read."""

    def __init__(self, trace: Path) -> None:
        self.trace = trace

    def __reduce__(self) -> tuple[Any, ...]:
        return open, (str(self.trace), "w")


def test_a_pickle_under_the_name_of_a_shard_is_never_read_as_one(tmp_path):
    place = killed(tmp_path / "run", at=4)
    trace = tmp_path / "trace"
    assert pickle.loads(pickle.dumps(Bomb(trace))) and trace.exists()  # it would
    trace.unlink()
    for checkpoint in [*place.glob("step-*"), *place.glob("best-*")]:
        (checkpoint / SHARD).write_bytes(pickle.dumps(Bomb(trace)))
        (checkpoint / ".metadata").write_bytes(pickle.dumps(Bomb(trace)))
    with pytest.raises(InputError, match="no checkpoint is whole"):
        run(place)
    for checkpoint in [*place.glob("step-*"), *place.glob("best-*")]:
        forge(checkpoint, lambda note: None)
    with pytest.raises(InputError, match="step-00000004: cannot be read") as caught:
        run(place)
    assert "\n" not in str(caught.value) and not trace.exists()


def reshape(tensors: dict[str, torch.Tensor]) -> None:
    tensors["weights/curve.weight"] = torch.zeros(3, 1)


def retype(tensors: dict[str, torch.Tensor]) -> None:
    tensors["weights/curve.bias"] = tensors["weights/curve.bias"].half()


def rename(tensors: dict[str, torch.Tensor]) -> None:
    tensors["weights/curve.more"] = tensors.pop("weights/curve.bias")


@pytest.mark.parametrize("change", [reshape, retype, rename])
def test_other_tensors_are_refused_by_name(tmp_path, change):
    place = killed(tmp_path / "run", at=4)
    tensors = load_file(place / "step-00000004" / SHARD)
    change(tensors)
    save_file(tensors, place / "step-00000004" / SHARD)
    forge(place / "step-00000004", lambda note: None)
    with pytest.raises(InputError, match=r"step-00000004: is of another model \(weights/curve\.\w+ does not fit\)"):
        run(place)


HEADERS = {
    "offsets": (b'data_offsets":[0,', b'data_offsets":[9,'),
    "unknown dtype": (b'"F32"', b'"Q99"'),
    "other metadata": (b"saved_offsets", b"saved_offsetz"),
}


def altered(kind: str, data: bytes) -> bytes:
    size = int.from_bytes(data[:8], "little")
    header = data[8 : 8 + size]
    if kind == "cut":
        return data[: 8 + size // 2]
    if kind == "huge header":
        return (2**63 - 1).to_bytes(8, "little") + data[8:]
    if kind == "offsets beyond the end":
        return data[:8] + header.replace(b'data_offsets":[0,', b'data_offsets":[9,') + data[8 + size :]
    if kind == "unknown dtype":
        return data[:8] + header.replace(b'"F32"', b'"Q99"') + data[8 + size :]
    return data[:8] + header.replace(b"saved_offsets", b"saved_offsetz") + data[8 + size :]


@pytest.mark.parametrize("kind", ["cut", "huge header", *HEADERS])
def test_an_altered_header_is_one_line_even_where_the_hashes_agree(tmp_path, kind):
    place = killed(tmp_path / "run", at=4)
    shard = place / "step-00000004" / SHARD
    changed = altered(kind, shard.read_bytes())
    assert changed != shard.read_bytes()
    shard.write_bytes(changed)
    forge(place / "step-00000004", lambda note: None)
    with pytest.raises(InputError, match=r"step-00000004: (cannot be read|is of another model)") as caught:
        run(place)
    assert "\n" not in str(caught.value)


FIGURES: list[tuple[str, Any]] = [
    *(("step", value) for value in ("four", True, 10**40, 4.5, None)),
    *(("best_step", value) for value in (-1, "../../x")),
    *(("best", value) for value in ("low", float("nan"), [1])),
    *(("seconds", value) for value in (float("inf"), 10**400)),
    *(("sampler", value) for value in ({"seed": 0, "epoch": -1, "cursor": 0}, [0, 0, 0], {})),
]
NOTES: list[dict[str, Any]] = [
    *({"progress": {**Progress(1).plain(), name: value}} for name, value in FIGURES),
    *({"progress": value} for value in (None, {}, {"best_step": 0})),
    *({"inputs": value} for value in (7, None)),
    *({"files": value} for value in ({"../../secret": "0"}, [SHARD], {})),
    {"format": "2"},
]


@pytest.mark.parametrize("change", NOTES, ids=range(len(NOTES)))
def test_a_note_with_right_hashes_and_wrong_figures_is_one_line(tmp_path, change):
    place = killed(tmp_path / "run", at=1)  # one checkpoint, and no other to fall back on
    forge(place / "step-00000001", lambda note: note.update(change))
    with pytest.raises(InputError) as caught:
        run(place)
    assert "\n" not in str(caught.value)


TEXTS = ["", "[]", "null", "[" * 100_000, "9" * 5000, '{"format": 2}', '{"a": 1, "a"', "\x00\xff"]


@pytest.mark.parametrize("text", TEXTS, ids=range(len(TEXTS)))
def test_a_note_that_is_none_is_passed_over(tmp_path, text):
    folder = tmp_path / "step-00000001"
    folder.mkdir()
    (folder / "state.json").write_text(text, encoding="latin-1")
    assert str(state.read_note(folder)).startswith("state.json cannot be read (")


def test_progress_comes_back_as_it_went():
    gone = Progress(7, 1.5, 0.25, 4, 2, 1, SamplerState(3, 2, 1))
    assert Progress.from_plain(json.loads(json.dumps(gone.plain()))) == gone
    assert Progress.from_plain(Progress().plain()) == Progress()
