"""The modules of a stage in; the same modules with layers that forget what they computed until backward needs it, out.

Activation checkpointing (Chen et al. 2016): a transformer layer keeps its input alone and runs forward a second time
in the backward pass. About a third more time, a fraction of the memory; `ira.training.estimate` says how much.
"""

from __future__ import annotations

from torch import nn
from torch.distributed._composable.checkpoint_activation import checkpoint

from ira.training.parallel import stacked_layers


def recompute_layers(root: nn.Module) -> None:
    """Let every transformer layer inside compute its activations again in backward, with the same random numbers.

    Names of parameters stay, so checkpoints fit with and without. Without gradients nothing changes. Comes before the
    weights are cut up, so that these are gathered again when a layer is run again.
    """
    for layer in stacked_layers(root):
        if checkpoint.state(layer) is None:  # type: ignore[attr-defined]
            checkpoint(layer)
