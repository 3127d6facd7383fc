"""A stage in, trained weights out: the only loop in IRA.

A stage says what it trains (`modules`), what it reads (`batches`), what it minimises (`loss`) and how it is judged
(`validate`). The loop owns everything else: precision, accumulation, schedule, clipping, checkpoints, resume, logs.
Reinforcement learning fits as it is: its batches are rollouts of the current policy.
"""

from __future__ import annotations

import math
import time
from collections.abc import Iterator, Sequence
from dataclasses import asdict, dataclass, field
from pathlib import Path
from typing import Any, Protocol

import torch
from torch import Tensor, nn

from ira.checkpoint import load_state, save_state
from ira.config import StageConfig, TrainConfig
from ira.data.batches import SamplerState
from ira.errors import InputError
from ira.runtime import Tracker, autocast

BETAS = (0.9, 0.95)
LONGEST_WARMUP = 0.1  # share of the run
FLOOR = 0.1  # the schedule ends at this share of the peak learning rate
BAD_STEPS = 20  # this many non-finite steps in a row end the run


@dataclass
class StepLoss:
    """A batch's mean loss, how many tokens (or frames, clips) it is the mean of, and figures to log."""

    loss: Tensor
    count: int
    metrics: dict[str, float] = field(default_factory=dict)


class Stage(Protocol):
    """What the loop asks of a stage. `metric` names the validation figure picking the best weights; smaller wins."""

    name: str
    metric: str

    @property
    def settings(self) -> StageConfig: ...

    def modules(self) -> dict[str, nn.Module]:
        """What is trained, by name. A module's `lr_scale` multiplies its learning rate and spares it weight decay."""
        ...

    def batches(self, state: SamplerState) -> Iterator[tuple[Any, SamplerState]]:
        """Batches from `state` on, each with the state after it; endless.

        A state that does not move says that what follows cannot be made again (the rest of a collection of rollouts):
        nothing is saved there.
        """
        ...

    def loss(self, batch: Any, share_done: float) -> StepLoss:
        """The loss of one batch; `share_done` in 0..1 is how far the run is, for what fades in or out."""
        ...

    def validate(self) -> dict[str, float]: ...


@dataclass
class Progress:
    """Everything about a run that is not a weight: what resume needs beside the tensors."""

    step: int = 0
    seconds: float = 0.0
    best: float = math.inf
    bad_steps: int = 0
    sampler: SamplerState = field(default_factory=lambda: SamplerState(0, 0, 0))

    def plain(self) -> dict[str, Any]:
        return asdict(self)

    @classmethod
    def from_plain(cls, state: dict[str, Any]) -> Progress:
        return cls(**{**state, "sampler": SamplerState(**state["sampler"])})


def fit(stage: Stage, train: TrainConfig, folder: Path, device: torch.device, trackers: Sequence[Tracker]) -> Progress:
    """Train `stage` to its last step or minute; its modules end with their best weights.

    `folder` keeps state.pt (for resume) and best.pt. A folder of an unfinished run is taken up where it stopped.

    Raises:
        InputError: the loss was not finite for 20 steps on end, or the folder belongs to another shape of run.
    """
    trainer = _Trainer(stage, train, folder, device, trackers)
    trainer.resume()
    trainer.run()
    return trainer.progress


class _Trainer:
    """One run of one stage: the state that the methods of the loop share."""

    def __init__(
        self, stage: Stage, train: TrainConfig, folder: Path, device: torch.device, trackers: Sequence[Tracker]
    ) -> None:
        self.stage, self.train, self.folder, self.device, self.trackers = stage, train, folder, device, trackers
        self.modules = stage.modules()
        self.parameters = [p for m in self.modules.values() for p in m.parameters() if p.requires_grad]
        self.optimizer = torch.optim.AdamW(parameter_groups(self.modules, stage.settings), betas=BETAS, eps=1e-8)
        self.progress = Progress(sampler=SamplerState(train.seed, 0, 0))
        self.between = True  # a resume from here reads the batches that follow
        self.last_save = time.monotonic()

    def run(self) -> None:
        batches = self.stage.batches(self.progress.sampler)
        self._train_mode(True)
        while not self._finished():
            started = time.monotonic()
            metrics = self._step(batches)
            self.progress.seconds += time.monotonic() - started
            self._log(metrics, time.monotonic() - started)
            if self.progress.step % self.stage.settings.validate_every == 0:
                self._validate()
            if self.between and time.monotonic() - self.last_save > 60 * self.train.checkpoint_minutes:
                self.save()
        if self.progress.step % self.stage.settings.validate_every:
            self._validate()
        self.save()
        self._load_best()
        self._train_mode(False)

    def share_done(self) -> float:
        """How far the run is, in steps or in minutes, whichever ends first."""
        by_steps = self.progress.step / self.stage.settings.steps
        minutes = self.train.max_minutes
        return min(1.0, max(by_steps, self.progress.seconds / (60 * minutes) if minutes else 0.0))

    def _finished(self) -> bool:
        return self.share_done() >= 1.0

    def _step(self, batches: Iterator[tuple[Any, SamplerState]]) -> dict[str, float]:
        """One optimizer step over `accumulation` batches, weighed by their tokens."""
        total, summed, metrics = 0, 0.0, dict[str, float]()
        for _ in range(self.stage.settings.accumulation):
            batch = self._next(batches)
            with autocast(self.device, self.train.dtype):
                step_loss = self.stage.loss(batch, self.share_done())
            (step_loss.loss * step_loss.count).backward()
            total, summed = total + step_loss.count, summed + float(step_loss.loss.detach()) * step_loss.count
            metrics.update(step_loss.metrics)
        metrics |= self._update(max(total, 1))
        return {"loss": summed / max(total, 1), "tokens": float(total), **metrics}

    def _next(self, batches: Iterator[tuple[Any, SamplerState]]) -> Any:
        """The next batch, made in the precision of the loss: a rollout's log-probabilities are compared with it."""
        with autocast(self.device, self.train.dtype):  # apart from the loss's, whose cached casts carry gradients
            batch, state = next(batches)
        self.between = state != self.progress.sampler
        self.progress.sampler = state
        return batch

    def _update(self, total: int) -> dict[str, float]:
        """Divide the summed gradient by its tokens, clip, step; a non-finite gradient is dropped and counted."""
        self.progress.step += 1
        rate = schedule(self.share_done(), self.progress.step, self.stage.settings)
        for group in self.optimizer.param_groups:
            group["lr"] = rate * group["lr_scale"]
        for parameter in self.parameters:
            if parameter.grad is not None:
                parameter.grad.div_(total)
        norm = float(nn.utils.clip_grad_norm_(self.parameters, self.train.clip_grad))
        self.progress.bad_steps = 0 if math.isfinite(norm) else self.progress.bad_steps + 1
        if math.isfinite(norm):
            self.optimizer.step()
        elif self.progress.bad_steps >= BAD_STEPS:
            raise InputError(
                f"{self.stage.name}: {BAD_STEPS} steps without a finite gradient; lower train.{self.stage.name}.lr"
            )
        self.optimizer.zero_grad(set_to_none=True)
        return {"lr": rate, "grad_norm": norm, "dropped_steps": float(self.progress.bad_steps)}

    def _log(self, metrics: dict[str, float], seconds: float) -> None:
        metrics["tokens_per_second"] = metrics.pop("tokens") / max(seconds, 1e-9)
        metrics["share_done"] = self.share_done()
        for tracker in self.trackers:
            tracker.log(self.progress.step, self.stage.name, metrics)

    def _validate(self) -> None:
        """Judge the weights; keep them aside where they are the best so far."""
        self._train_mode(False)
        with torch.no_grad(), autocast(self.device, self.train.dtype):
            figures = self.stage.validate()
        for tracker in self.trackers:
            tracker.log(self.progress.step, self.stage.name, {f"val/{k}": v for k, v in figures.items()})
        figure = figures[self.stage.metric]
        figure = figure if math.isfinite(figure) else math.inf
        if figure < self.progress.best or not (self.folder / "best.pt").exists():
            self.progress.best = figure
            save_state(self.folder / "best.pt", self._weights())
        self._train_mode(True)

    def _weights(self) -> dict[str, Any]:
        return {name: _trained_state(module) for name, module in self.modules.items()}

    def save(self) -> None:
        """Write the whole state aside and rename it."""
        save_state(
            self.folder / "state.pt",
            {
                "weights": self._weights(),
                "optimizer": self.optimizer.state_dict(),
                "progress": self.progress.plain(),
                "rng": torch.get_rng_state(),
                "device_rng": torch.cuda.get_rng_state_all() if torch.cuda.is_available() else [],
            },
        )
        self.last_save = time.monotonic()

    def resume(self) -> None:
        """Take up an unfinished run; without state.pt this is a fresh start."""
        if not (self.folder / "state.pt").exists():
            return
        state = load_state(self.folder / "state.pt")
        self._fill(state["weights"], self.folder / "state.pt")
        self.optimizer.load_state_dict(state["optimizer"])
        self.progress = Progress.from_plain(state["progress"])
        torch.set_rng_state(state["rng"])
        if len(state["device_rng"]) == torch.cuda.device_count():
            torch.cuda.set_rng_state_all(state["device_rng"])

    def _load_best(self) -> None:
        self._fill(load_state(self.folder / "best.pt"), self.folder / "best.pt")

    def _fill(self, weights: dict[str, Any], path: Path) -> None:
        try:
            for name, module in self.modules.items():
                _load_trained(module, weights[name])
        except (KeyError, RuntimeError) as error:
            raise InputError(f"{path}: is of another model ({str(error)[:120]}); use another run_dir") from None

    def _train_mode(self, on: bool) -> None:
        for module in self.modules.values():
            module.train(on)


def schedule(share_done: float, step: int, settings: StageConfig) -> float:
    """Learning rate: linear warm-up in steps, then cosine over the share of the run that is done, to a tenth.

    The warm-up is never more than a tenth of the run: one of a minute is to reach its peak too.
    """
    warm = min(1.0, max(step / max(settings.warmup_steps, 1), share_done / LONGEST_WARMUP))
    cosine = 0.5 * (1 + math.cos(math.pi * min(share_done, 1.0)))
    return settings.lr * warm * (FLOOR + (1 - FLOOR) * cosine)


def parameter_groups(modules: dict[str, nn.Module], settings: StageConfig) -> list[dict[str, Any]]:
    """Optimizer groups: matrices decay, vectors do not; a module's own `lr_scale` is kept in its groups."""
    groups = []
    for module in modules.values():
        scale = float(getattr(module, "lr_scale", 1.0))
        trained = [p for p in module.parameters() if p.requires_grad]
        decay = settings.weight_decay if scale == 1.0 else 0.0
        for matrices, weight_decay in ((True, decay), (False, 0.0)):
            chosen = [p for p in trained if (p.ndim >= 2) is matrices]
            if chosen:
                groups.append(
                    {"params": chosen, "weight_decay": weight_decay, "lr_scale": scale, "lr": settings.lr * scale}
                )
    return groups


def _trained_state(module: nn.Module) -> dict[str, Tensor]:
    """Copies of what training changes; frozen parameters (a whole LLM, say) are not worth a checkpoint."""
    frozen = {name for name, p in module.named_parameters(remove_duplicate=False) if not p.requires_grad}
    return {name: value.detach().clone() for name, value in module.state_dict().items() if name not in frozen}


def _load_trained(module: nn.Module, state: dict[str, Tensor]) -> None:
    frozen = {name for name, p in module.named_parameters(remove_duplicate=False) if not p.requires_grad}
    own = {name: value for name, value in module.state_dict().items() if name not in frozen}
    if own.keys() != state.keys():
        raise KeyError(f"parameters differ: {sorted(own.keys() ^ state.keys())[:3]}")
    with torch.no_grad():
        for name, parameter in own.items():
            if parameter.shape != state[name].shape:
                raise RuntimeError(f"{name} is {list(state[name].shape)}, {list(parameter.shape)} is wanted")
            parameter.copy_(state[name])
