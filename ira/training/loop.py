"""A stage in, trained weights out: the only loop in IRA, on one process or many.

The loop owns what stages have in common: precision, accumulation, schedule, clipping, checkpoints, resume, logs.
A step is made of `accumulation` micro-batches, shared out over the processes, and the random numbers of each follow
from its place in the run. So a run that was stopped, or that went on with another number of processes, is the same run.
"""

from __future__ import annotations

import math
import reprlib
import time
from collections.abc import Callable, Iterator, Sequence
from dataclasses import asdict, dataclass, field
from itertools import islice
from pathlib import Path
from typing import Any

import torch
from torch import Tensor, nn

from ira.config import TrainConfig
from ira.console import warn
from ira.data.batches import SamplerState
from ira.errors import InputError
from ira.models.compiled import compile_layers
from ira.processes import exchange, mine, rank, world
from ira.runtime import autocast
from ira.trackers.base import Samples, Tracker
from ira.training import state
from ira.training.meter import Meter
from ira.training.optimization import make_optimizer, schedule
from ira.training.parallel import Root, add_gradients, gathered, spread_weights, stacked_layers, watched, whole
from ira.training.recompute import recompute_layers
from ira.training.samples import gradient_histograms
from ira.training.signals import stop_asked
from ira.training.stage import Stage, StepLoss

BAD_STEPS = 20  # this many dropped steps in a row end the run


@dataclass
class Progress:
    """Everything about a run that is not a tensor."""

    step: int = 0
    seconds: float = 0.0
    best: float = math.inf
    best_step: int = 0
    dropped: int = 0
    dropped_in_a_row: int = 0
    sampler: SamplerState = field(default_factory=lambda: SamplerState(0, 0, 0))

    def plain(self) -> dict[str, Any]:
        return {**asdict(self), "best": self.best if math.isfinite(self.best) else None}

    @classmethod
    def from_plain(cls, plain: dict[str, Any]) -> Progress:
        """What `plain` gave.

        Raises:
            ValueError, KeyError, TypeError: it is not of that form.
        """
        counts = {name: _count(plain[name]) for name in ("step", "best_step", "dropped", "dropped_in_a_row")}
        sampler = SamplerState(*(_count(plain["sampler"][name]) for name in ("seed", "epoch", "cursor")))
        best, seconds = (math.inf if plain["best"] is None else float(plain["best"])), float(plain["seconds"])
        if math.isnan(best) or not 0 <= seconds < math.inf or counts["best_step"] > counts["step"]:
            raise ValueError("its figures do not fit together")
        return cls(**counts, best=best, seconds=seconds, sampler=sampler)


def _count(value: Any) -> int:
    if type(value) is not int or not 0 <= value < 2**63:
        raise ValueError(f"{reprlib.repr(value)} is no number of steps")
    return value


@dataclass
class Share:
    """What one process tells the others about its part of a step; loss and metrics are sums over its tokens."""

    loss: float = 0.0
    count: int = 0
    metrics: dict[str, float] = field(default_factory=dict)
    seconds: float = 0.0
    waited: float = 0.0
    failure: str = ""
    stop: bool = False


def fit(
    stage: Stage,
    train: TrainConfig,
    folder: Path,
    device: torch.device,
    trackers: Sequence[Tracker],
    inputs: dict[str, str] | None = None,
) -> Progress:
    """Train `stage` to its last step or minute; its modules end with their best weights.

    `folder` keeps the checkpoints. A folder of an unfinished run is taken up where it stopped; `inputs` are hashes of
    what the stage is built on, which have to be those of that run.

    Raises:
        InputError: 20 steps on end had to be dropped, or the folder belongs to another run.
        SystemExit: the process was asked to end (SIGTERM, SIGINT); the run has been saved.
    """
    trainer = _Trainer(stage, train, folder, device, trackers, inputs or {})
    trainer.resume()
    with watched(folder, train.stuck_minutes) as trainer.alive, stop_asked() as trainer.stop:
        trainer.run()
    return trainer.progress


class _Trainer:
    """One run of one stage: the state that the methods of the loop share."""

    def __init__(
        self,
        stage: Stage,
        train: TrainConfig,
        folder: Path,
        device: torch.device,
        trackers: Sequence[Tracker],
        inputs: dict[str, str],
    ) -> None:
        self.stage, self.train, self.folder, self.device, self.trackers = stage, train, folder, device, trackers
        self.inputs = inputs
        self.alive: Callable[[], None] = lambda: None
        self.stop: Callable[[], int] = lambda: 0
        self.meter = Meter(stage.modules(), device, train.dtype, world())
        self.root = Root(stage.modules())
        if train.activation_checkpointing:
            recompute_layers(self.root)
        if train.compile:
            compile_layers(stacked_layers(self.root), device)
        spread_weights(self.root, train.parallel, device)
        self.parameters = [p for p in self.root.parameters() if p.requires_grad]
        self.optimizer = make_optimizer(stage.modules(), stage.settings)
        self.micro_batches = micro_batches(stage)
        self.progress = Progress(sampler=SamplerState(train.seed, 0, 0))
        self.between = True  # a resume from here reads the batches that follow
        self.last_save, self.saved = time.monotonic(), 0
        self.pictures: Samples = {}

    # -- the run -----------------------------------------------------------------------------------------------

    def run(self) -> None:
        plan = self.stage.plan(self.progress.sampler)
        self.root.train()
        while not self._finished():
            shares = self._step(plan)
            if self.progress.step % self.stage.settings.validate_every == 0 or self._finished():
                self._validate()
            self._save_if_due(shares)
            self.alive()
        if not self.progress.best_step:  # taken up with fewer steps or minutes than it has behind it
            self._validate()
        if self.saved != self.progress.step:  # never over a checkpoint that is there: no moment is without one
            self.save()
        state.read_best(self.folder, self.progress.best_step, self._weights())
        self.root.eval()

    def share_done(self) -> float:
        """How far the run is, in steps or in minutes, whichever ends first."""
        by_steps = self.progress.step / self.stage.settings.steps
        minutes = self.train.max_minutes
        return min(1.0, max(by_steps, self.progress.seconds / (60 * minutes) if minutes else 0.0))

    def _finished(self) -> bool:
        return self.share_done() >= 1.0

    def _save_if_due(self, shares: list[Share]) -> None:
        """Save on the first process's clock, or because one was asked to end."""
        asked = any(share.stop for share in shares)
        due = time.monotonic() - self.last_save > 60 * self.train.checkpoint_minutes
        if self.between and exchange(due or asked)[0]:
            self.save()
        if asked:
            self._say(f"stopped at step {self.progress.step}; the same command goes on from step {self.saved}")
            raise SystemExit(128 + (self.stop() or 15))

    # -- one step ----------------------------------------------------------------------------------------------

    def _step(self, plan: Iterator[tuple[Any, SamplerState]]) -> list[Share]:
        """One optimizer step over `accumulation` micro-batches, weighed by their tokens."""
        started = time.monotonic()
        keys = self._draw(plan)
        self.alive()
        share = self._gradients(mine(list(enumerate(keys))))
        share.seconds, share.stop = time.monotonic() - started, bool(self.stop())
        shares = exchange(share)
        self.progress.step += 1
        self.progress.seconds += shares[0].seconds
        failures = [s.failure for s in shares if s.failure]
        figures = self._drop(failures[0]) if failures else self._update(sum(s.count for s in shares))
        self._log(shares, figures)
        return shares

    def _draw(self, plan: Iterator[tuple[Any, SamplerState]]) -> list[Any]:
        """The step's keys, made in the precision of the loss: a rollout's log-probabilities are compared with it."""
        with autocast(self.device, self.train.dtype):  # apart from the loss's, whose cached casts carry gradients
            drawn = list(islice(plan, self.micro_batches))
        states = [self.progress.sampler, *(after for _, after in drawn)]
        self.between, self.progress.sampler = states[-1] != states[-2], states[-1]
        return [key for key, _ in drawn]

    def _gradients(self, numbered: list[tuple[int, Any]]) -> Share:
        """Add up this process's gradients; one that fails says why, in words that name its batch.

        After a loss that is no number the rest is computed all the same: with `fsdp` the others wait for its weights.
        """
        share = Share()
        for number, key in numbered:
            try:
                self._add_gradient(share, number, key)
            except (torch.OutOfMemoryError, MemoryError) as error:
                share.failure = f"out of memory ({str(error)[:80]}) with {reprlib.repr(key)}"
                break
            except RuntimeError as error:
                if "can't allocate memory" not in str(error):
                    raise
                share.failure = f"out of memory with {reprlib.repr(key)}"
                break
            self.alive()
        return share

    def _add_gradient(self, share: Share, number: int, key: Any) -> None:
        started = time.monotonic()
        batch = self.stage.load(key)
        share.waited += time.monotonic() - started
        torch.manual_seed(hash((self.train.seed, self.progress.step, number)) % 2**63)
        found: list[StepLoss] = []

        def work() -> Tensor:
            found.append(self.stage.loss(batch, self.share_done()))
            return found[0].loss

        with autocast(self.device, self.train.dtype):
            loss = self.root(work)
        (loss * found[0].count).backward()
        value = float(loss.detach())
        share.loss, share.count = share.loss + value * found[0].count, share.count + found[0].count
        for name, figure in found[0].metrics.items():
            share.metrics[name] = share.metrics.get(name, 0.0) + figure * found[0].count
        if not math.isfinite(value):
            share.failure = f"the loss is {value} with {reprlib.repr(key)}"

    def _update(self, total: int) -> dict[str, float]:
        """Add up and divide the gradients by their tokens, clip, step."""
        rate = schedule(self.share_done(), self.progress.step, self.stage.settings)
        for group in self.optimizer.param_groups:
            group["lr"] = rate * group["lr_scale"]
        add_gradients(self.parameters)
        for parameter in self.parameters:
            if parameter.grad is not None:
                parameter.grad.div_(max(total, 1))
        norm = float(whole(nn.utils.clip_grad_norm_(self.parameters, self.train.clip_grad)))
        if not math.isfinite(norm):
            return self._drop(f"the gradient's norm is {norm}") | {"grad_norm": norm}
        if (self.progress.step % self.stage.settings.validate_every == 0) and self.trackers:
            self.pictures = gradient_histograms(self.stage.modules())
        self.optimizer.step()
        self.optimizer.zero_grad(set_to_none=True)
        self._after_step(True)
        self.progress.dropped_in_a_row = 0
        return {"lr": rate, "grad_norm": norm}

    def _drop(self, reason: str) -> dict[str, float]:
        """Forget the step's gradients, on every process alike."""
        self.optimizer.zero_grad(set_to_none=True)
        self._after_step(False)
        if self.device.type == "cuda":
            torch.cuda.empty_cache()
        self.progress.dropped += 1
        self.progress.dropped_in_a_row += 1
        if self.progress.dropped_in_a_row >= BAD_STEPS:
            raise InputError(
                f"{self.stage.name}: {BAD_STEPS} steps on end were dropped, the last because {reason}; lower "
                f"train.{self.stage.name}.lr or its batches"
            )
        self._say(f"step {self.progress.step} dropped: {reason}; {self.progress.dropped} so far")
        return {}

    def _after_step(self, kept: bool) -> None:
        if hasattr(self.stage, "after_step"):
            self.stage.after_step(kept)  # type: ignore[attr-defined]

    def _say(self, message: str) -> None:
        if rank() == 0:
            warn(f"{self.stage.name}: {message}")

    def _log(self, shares: list[Share], figures: dict[str, float]) -> None:
        """Metrics are means over the step's tokens, like the loss."""
        count = sum(s.count for s in shares)
        names = sorted({name for share in shares for name in share.metrics})
        metrics = {"loss": sum(s.loss for s in shares) / max(count, 1)}
        metrics |= {name: sum(s.metrics.get(name, 0.0) for s in shares) / max(count, 1) for name in names}
        metrics |= figures | self.meter.step(count, shares[0].seconds, shares[0].waited)
        metrics |= {"dropped_steps": float(self.progress.dropped), "share_done": self.share_done()}
        for tracker in self.trackers:
            tracker.log(self.progress.step, self.stage.name, metrics)

    # -- validation --------------------------------------------------------------------------------------------

    def _validate(self) -> None:
        """Judge the weights; keep them aside where they are the best so far."""
        self.alive()
        self.root.eval()
        torch.manual_seed(self.train.seed)
        with torch.no_grad(), autocast(self.device, self.train.dtype), gathered():
            figures = exchange(self.stage.validate())[0]  # who rounds otherwise must not decide otherwise
            self.alive()
            seen = getattr(self.stage, "samples", dict)() | self.pictures if self.trackers else {}
        for tracker in self.trackers:
            tracker.log(self.progress.step, self.stage.name, {f"val/{k}": v for k, v in figures.items()})
            tracker.show(self.progress.step, self.stage.name, seen)
        figure = figures[self.stage.metric]
        figure = figure if math.isfinite(figure) else math.inf
        if figure < self.progress.best or not self.progress.best_step:
            self.progress.best, self.progress.best_step = figure, self.progress.step
            best = state.best_folder(self.folder, self.progress.step)
            state.write_checkpoint(best, self._weights(), {"progress": self.progress.plain()})
        self.root.train()

    # -- state -------------------------------------------------------------------------------------------------

    def _weights(self) -> dict[str, Tensor]:
        """What training changes, by name; frozen parameters (a whole LLM, say) are not worth a checkpoint."""
        frozen = {name for name, p in self.root.named_parameters(remove_duplicate=False) if not p.requires_grad}
        kept = {name: value for name, value in self.root.state_dict().items() if name not in frozen}
        return {f"weights/{name.removeprefix('parts.')}": value.detach() for name, value in kept.items()}

    def _tensors(self) -> dict[str, Tensor]:
        """All that a checkpoint holds."""
        adam = {
            f"adam/{name.removeprefix('parts.')}/{key}": value
            for name, parameter in self.root.named_parameters()
            if parameter.requires_grad
            for key, value in self.optimizer.state[parameter].items()
        }
        return self._weights() | adam

    def save(self) -> None:
        note = {"stage": self.stage.name, "inputs": self.inputs, "progress": self.progress.plain()}
        state.write_checkpoint(state.step_folder(self.folder, self.progress.step), self._tensors(), note)
        state.keep_last(self.folder, self.progress.step, self.train.keep_checkpoints)
        self.last_save, self.saved = time.monotonic(), self.progress.step

    def resume(self) -> None:
        """Take up an unfinished run; without checkpoints this is a fresh start."""
        found = state.newest_good(self.folder)
        if found is None:
            return
        path, note = found
        try:
            progress, inputs = Progress.from_plain(note["progress"]), dict(note["inputs"])
        except (ValueError, KeyError, TypeError, OverflowError) as error:
            raise InputError(
                f"{path}: is not what ira train wrote ({error}); delete it and run the same again"
            ) from None
        if changed := [name for name, digest in self.inputs.items() if inputs.get(name, digest) != digest]:
            raise InputError(
                f"{path}: was trained with another {changed[0]}; delete {self.folder} to train {self.stage.name} "
                "again, or give another run_dir"
            )
        state.read_checkpoint(path, self._tensors())
        self.progress, self.saved = progress, progress.step


def micro_batches(stage: Stage) -> int:
    """Micro-batches of a step: `accumulation`, or the next number that gives every process as many."""
    wanted = stage.settings.accumulation
    shared = -(-wanted // world()) * world()
    if shared != wanted and rank() == 0:
        warn(
            f"{stage.name}: accumulation {wanted} is shared out over {world()} processes, so a step takes {shared} "
            "micro-batches"
        )
    return shared
