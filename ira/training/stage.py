"""What a stage gives to the loop.

A stage says what it trains (`modules`), what it reads (`plan`, `load`), what it minimises (`loss`) and how it is judged
(`validate`). Reinforcement learning fits as it is: its plan holds rollouts of the current policy.
"""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import dataclass, field
from typing import Any, Protocol

from torch import Tensor, nn

from ira.config import StageConfig
from ira.data.batches import SamplerState


@dataclass
class StepLoss:
    """A batch's mean loss, how many tokens (or frames, clips) it is the mean of, and figures to log."""

    loss: Tensor
    count: int
    metrics: dict[str, float] = field(default_factory=dict)


class Stage(Protocol):
    """What the loop asks of a stage. `metric` names the validation figure picking the best weights; smaller wins.

    A stage may also have `samples() -> Samples`, sounds and pictures that the first process shows after validation, and
    `after_step(kept: bool)`, what happens to the weights beside the optimizer, alike on every process.
    """

    name: str
    metric: str

    @property
    def settings(self) -> StageConfig: ...

    def modules(self) -> dict[str, nn.Module]:
        """What is trained, by name. A module's `lr_scale` multiplies its learning rate and spares it weight decay."""
        ...

    def plan(self, state: SamplerState) -> Iterator[tuple[Any, SamplerState]]:
        """What each micro-batch from `state` on is made of, with the state after it; endless, and cheap.

        Every process goes through the whole plan and loads its share. A state that does not move says that what follows
        cannot be made again (the rest of a collection of rollouts): nothing is saved there.
        """
        ...

    def load(self, key: Any) -> Any:
        """The micro-batch that the plan calls `key`."""
        ...

    def loss(self, batch: Any, share_done: float) -> StepLoss:
        """The loss of one micro-batch; `share_done` in 0..1 is how far the run is, for what fades in or out."""
        ...

    def validate(self) -> dict[str, float]:
        """Figures over held-out data, the same on every process."""
        ...
