"""The loop on a toy stage: a straight line through points, drawn from the sampler's state alone."""

from __future__ import annotations

import math
from collections.abc import Iterator
from pathlib import Path
from types import SimpleNamespace

import pytest
import torch
from torch import Tensor, nn

from ira.config import StageConfig, TrainConfig
from ira.data.batches import SamplerState
from ira.errors import InputError
from ira.trackers.base import Samples
from ira.training.loop import fit
from ira.training.stage import StepLoss

CPU = torch.device("cpu")
SLOPE = torch.tensor([[1.0], [-2.0], [0.5]])


class Line:
    """Trains a linear layer; `sizes` are the rows of successive batches, `broken` the batches whose loss is NaN."""

    name, metric = "line", "error"

    def __init__(self, sizes: tuple[int, ...] = (4,), broken: tuple[int, ...] = (), seed: int = 0, **settings) -> None:
        torch.manual_seed(seed)
        self.model = nn.Linear(3, 1)
        given = {"steps": 6, "lr": 0.05, "warmup_steps": 2, "accumulation": 1, "validate_every": 2, **settings}
        self.settings = StageConfig(**given)
        self.sizes, self.broken, self.killed_at = sizes, broken, -1
        self.judged: list[dict[str, Tensor]] = []
        self.figures: list[float] = []

    def modules(self) -> dict[str, nn.Module]:
        return {"line": self.model}

    def plan(self, state: SamplerState) -> Iterator[tuple[tuple[int, int], SamplerState]]:
        while True:
            if state.cursor == self.killed_at:
                raise KeyboardInterrupt
            key, state = (state.seed, state.cursor), SamplerState(state.seed, state.epoch, state.cursor + 1)
            yield key, state

    def load(self, key: tuple[int, int]) -> tuple[int, Tensor]:
        seed, number = key
        generator = torch.Generator().manual_seed(1000 * seed + number)
        return number, torch.randn(self.sizes[number % len(self.sizes)], 3, generator=generator)

    def loss(self, batch: tuple[int, Tensor], share_done: float) -> StepLoss:
        number, points = batch
        kept = self.model(points) + 0.1 * torch.rand(len(points), 1)  # the global generator has to be resumed as well
        loss = (kept - points @ SLOPE).square().mean()
        return StepLoss(loss * (math.nan if number in self.broken else 1.0), len(points), {"number": float(number)})

    def validate(self) -> dict[str, float]:
        self.judged.append({name: p.detach().clone() for name, p in self.model.state_dict().items()})
        figure = self.figures.pop(0) if self.figures else -float(len(self.judged))
        return {"error": figure}

    def weights(self) -> Tensor:
        return torch.cat([p.detach().flatten().clone() for p in self.model.parameters()])


class Notes:
    """A tracker that remembers."""

    def __init__(self) -> None:
        self.lines: list[tuple[int, dict[str, float]]] = []

    def log(self, step: int, stage: str, metrics: dict[str, float]) -> None:
        self.lines.append((step, dict(metrics)))

    def show(self, step: int, stage: str, samples: Samples) -> None: ...

    def close(self) -> None: ...

    def column(self, name: str) -> list[float]:
        return [metrics[name] for _, metrics in self.lines if name in metrics]


def train(**changes) -> TrainConfig:
    return TrainConfig(**{"dtype": "fp32", **changes})


def folder(path: Path, name: str) -> Path:
    (path / name).mkdir()
    return path / name


def tick(monkeypatch: pytest.MonkeyPatch) -> None:
    """A clock that goes on by a second at every look."""
    seconds = iter(range(10_000))
    clock = SimpleNamespace(monotonic=lambda: float(next(seconds)))
    monkeypatch.setattr("ira.training.loop.time", clock)


def test_batches_added_up_by_their_tokens_are_one_large_batch(tmp_path, monkeypatch):
    monkeypatch.setattr(torch, "rand", lambda *shape: torch.zeros(*shape))
    apart, together = Line(sizes=(3, 5, 2), accumulation=3, steps=1), Line(sizes=(10,), steps=1)
    points = torch.cat([apart.load((0, i))[1] for i in range(3)])
    together.load = lambda key: (0, points)  # type: ignore[method-assign]
    logged = {}
    for name, stage in (("apart", apart), ("together", together)):
        notes = Notes()
        fit(stage, train(clip_grad=1e9), folder(tmp_path, name), CPU, [notes])
        logged[name] = notes.lines[0][1]
    assert torch.allclose(apart.weights(), together.weights(), atol=1e-6)
    assert logged["apart"]["loss"] == pytest.approx(logged["together"]["loss"], rel=1e-5)
    assert logged["apart"]["grad_norm"] == pytest.approx(logged["together"]["grad_norm"], rel=1e-5)


def test_a_killed_run_that_is_taken_up_ends_with_the_very_same_weights(tmp_path):
    whole = Line(steps=8, validate_every=3)
    fit(whole, train(), folder(tmp_path, "whole"), CPU, [])
    first = Line(steps=8, validate_every=3)
    first.killed_at = 5
    place = folder(tmp_path, "killed")
    with pytest.raises(KeyboardInterrupt):
        fit(first, train(checkpoint_minutes=1e-9), place, CPU, [])
    second = Line(seed=99, steps=8, validate_every=3)
    notes = Notes()
    progress = fit(second, train(), place, CPU, [notes])
    assert notes.lines[0][0] == 6 and progress.step == 8
    assert torch.equal(second.weights(), whole.weights())
    assert not torch.equal(whole.weights(), Line(seed=99).weights())


def test_a_run_killed_between_checkpoints_repeats_the_lost_steps(tmp_path, monkeypatch):
    whole = Line(steps=8)
    fit(whole, train(), folder(tmp_path, "whole"), CPU, [])
    tick(monkeypatch)
    first, place = Line(steps=8), folder(tmp_path, "killed")
    first.killed_at = 5
    with pytest.raises(KeyboardInterrupt):
        fit(first, train(checkpoint_minutes=10 / 60), place, CPU, [])  # every third step or so
    second, notes = Line(seed=99, steps=8), Notes()
    fit(second, train(), place, CPU, [notes])
    assert 1 < notes.lines[0][0] < 6
    assert torch.equal(second.weights(), whole.weights())


def test_nothing_is_saved_where_the_sampler_says_that_it_cannot_go_on(tmp_path):
    """Rollouts: the state moves with every third batch, so only every third step can be resumed from."""

    class Threes(Line):
        def plan(self, state):
            for key, after in super().plan(SamplerState(0, 0, 3 * state.cursor)):
                yield key, SamplerState(0, 0, after.cursor // 3)

    whole = Threes(steps=9)
    fit(whole, train(), folder(tmp_path, "whole"), CPU, [])
    first, place = Threes(steps=9), folder(tmp_path, "killed")
    first.killed_at = 5
    with pytest.raises(KeyboardInterrupt):
        fit(first, train(checkpoint_minutes=1e-9), place, CPU, [])
    second, notes = Threes(seed=99, steps=9), Notes()
    fit(second, train(), place, CPU, [notes])
    assert notes.lines[0][0] == 4
    assert torch.equal(second.weights(), whole.weights())


def test_the_run_ends_with_the_weights_that_were_judged_best(tmp_path):
    stage = Line(steps=8)
    stage.figures = [3.0, 1.0, math.nan, 2.0]
    progress = fit(stage, train(), folder(tmp_path, "run"), CPU, [])
    assert progress.best == 1.0 and len(stage.judged) == 4
    assert torch.equal(stage.model.weight, stage.judged[1]["weight"])
    assert not torch.equal(stage.judged[1]["weight"], stage.judged[3]["weight"])
    assert not stage.model.training


def test_the_last_step_is_judged_even_between_two_validations(tmp_path):
    stage, notes = Line(steps=5), Notes()
    fit(stage, train(), folder(tmp_path, "run"), CPU, [notes])
    assert [step for step, metrics in notes.lines if "val/error" in metrics] == [2, 4, 5]


def test_a_batch_that_is_not_a_number_is_dropped_and_counted(tmp_path):
    stage, notes = Line(steps=5, broken=(2,)), Notes()
    fit(stage, train(), folder(tmp_path, "run"), CPU, [notes])
    assert notes.column("dropped_steps") == [0, 0, 1, 1, 1]
    assert bool(stage.weights().isfinite().all())
    without = Line(steps=3, broken=(2,), validate_every=1)
    fit(without, train(), folder(tmp_path, "short"), CPU, [])
    assert torch.equal(without.judged[1]["weight"], without.judged[2]["weight"])


def test_many_such_batches_in_a_row_end_the_run_with_the_remedy(tmp_path):
    stage, notes = Line(steps=100, validate_every=1000, broken=tuple(range(3, 100))), Notes()
    with pytest.raises(InputError, match=r"20 steps.*the loss is nan.*lower train\.line\.lr"):
        fit(stage, train(), folder(tmp_path, "run"), CPU, [notes])
    assert len(notes.lines) == 3 + 19


def test_a_folder_of_another_model_is_refused_by_name(tmp_path):
    place = folder(tmp_path, "run")
    fit(Line(), train(), place, CPU, [])
    other = Line()
    other.model = nn.Linear(4, 1)
    with pytest.raises(InputError, match="another model"):
        fit(other, train(), place, CPU, [])


def test_a_finished_run_is_not_trained_further(tmp_path):
    stage, place, notes = Line(), folder(tmp_path, "run"), Notes()
    fit(stage, train(), place, CPU, [])
    again = Line(seed=5)
    fit(again, train(), place, CPU, [notes])
    assert torch.equal(again.weights(), stage.weights()) and not notes.column("loss")


def test_minutes_end_a_run_before_its_steps_do(tmp_path, monkeypatch):
    tick(monkeypatch)
    notes = Notes()
    progress = fit(Line(steps=1000), train(max_minutes=10 / 60), folder(tmp_path, "run"), CPU, [notes])
    assert 4 <= progress.step <= 11
    shares = notes.column("share_done")
    assert shares == sorted(shares) and shares[-1] >= 1


def test_batches_are_made_in_the_same_precision_as_their_loss(tmp_path):
    """A rollout's log-probabilities are compared with those of the update; both have to be computed alike."""
    seen = []

    class Watched(Line):
        def plan(self, state):
            for key in super().plan(state):
                seen.append(("plan", torch.is_autocast_enabled("cpu")))
                yield key

        def loss(self, batch, share_done):
            seen.append(("loss", torch.is_autocast_enabled("cpu")))
            return super().loss(batch, share_done)

    fit(Watched(steps=1), train(dtype="bf16"), folder(tmp_path, "bf16"), CPU, [])
    fit(Watched(steps=1), train(), folder(tmp_path, "fp32"), CPU, [])
    assert seen == [("plan", True), ("loss", True), ("plan", False), ("loss", False)]


def test_a_scaled_module_learns_at_its_own_rate(tmp_path):
    slow, fast = Line(steps=1, warmup_steps=0), Line(steps=1, warmup_steps=0)
    fast.model.lr_scale = 10.0  # type: ignore[assignment]
    start = slow.weights()
    for name, stage in (("slow", slow), ("fast", fast)):
        fit(stage, train(), folder(tmp_path, name), CPU, [])
    moved = (fast.weights() - start).abs() / (slow.weights() - start).abs()
    assert torch.allclose(moved, torch.full_like(moved, 10.0), rtol=0.02)  # weight decay is in the slow one alone
