"""A recorded step draws what the plain one draws: nothing that changes from step to step is written into it."""

from __future__ import annotations

import copy
import gc
import weakref
from collections.abc import Callable
from typing import Any

import pytest
import torch
from torch import Tensor, nn
from torch.utils._python_dispatch import TorchDispatchMode
from torch.utils._pytree import tree_leaves

from ira.config import SpeechConfig
from ira.errors import InputError
from ira.models.decode import Decoding, Generated
from ira.models.recorded import Made, with_recorded_step
from ira.models.sampling import Sampling
from ira.models.speech_lm import SpeechLM

RECORDED: list[int] = []
FORBIDDEN = (torch.ops.aten._local_scalar_dense.default, torch.ops.aten.nonzero.default)


class Tape(TorchDispatchMode):
    """Writes down every operation with the tensors that it was on."""

    def __init__(self) -> None:
        super().__init__()
        self.done: list[tuple[Any, Any, Any, Any]] = []

    def __torch_dispatch__(self, func: Any, types: Any, args: Any = (), kwargs: Any = None) -> Any:
        assert func not in FORBIDDEN, f"{func} waits for the device, which a recording cannot"
        made = func(*args, **(kwargs or {}))
        self.done.append((func, args, kwargs or {}, made))
        return made


def taped(run: Callable[[], Made]) -> Callable[[], Made]:
    """As a CUDA graph does: the same operations on the same memory, and numbers that are no tensors as they were."""
    RECORDED.append(1)
    with Tape() as tape:
        made = run()

    def replay() -> Made:
        for func, args, kwargs, before in tape.done:
            for old, new in zip(tree_leaves(before), tree_leaves(func(*args, **kwargs)), strict=True):
                if isinstance(old, Tensor) and old.data_ptr() != new.data_ptr():
                    old.copy_(new)
        return made

    return replay


def speech_lm(window: int | None) -> SpeechLM:
    torch.manual_seed(0)
    config = SpeechConfig(layers=2, width=32, heads=2, max_steps=40, text_layers=1, longest_stay=4, window=window)
    model = SpeechLM(config, codebooks=2, codebook_size=11, text_vocab=20, voice_dim=6, languages=["en"]).eval()
    for child in model.modules():  # loud enough that a key too many or in another place is heard in what is drawn
        if isinstance(child, nn.Linear):
            nn.init.normal_(child.weight, std=1.2 * child.in_features**-0.5)
        elif isinstance(child, nn.Embedding):
            nn.init.normal_(child.weight)
    return model


@torch.no_grad()
def drawn(model: SpeechLM, seeds: list[int], guidance: float) -> Generated:
    rows = len(seeds)
    text = torch.arange(1, 1 + 7 * rows).remainder(19).add(1).view(rows, 7)
    voices = nn.functional.normalize(torch.randn(rows, 6, generator=torch.Generator().manual_seed(1)), dim=-1)
    memory = model.condition(
        text, torch.tensor([7, 5][:rows]), voices.to(model.null_text.dtype), torch.zeros(rows, dtype=torch.long)
    )
    untold = model.condition(None, None, None, batch=rows) if guidance != 1 else None
    sampling = Sampling(guidance=guidance)
    return Decoding(model, memory, untold, torch.full((rows,), 24), seeds, sampling).run()


@pytest.mark.parametrize("window", [None, 8])
@pytest.mark.parametrize("dtype", [torch.float32, torch.bfloat16])
@pytest.mark.parametrize(("seeds", "guidance"), [([3], 1.0), ([3, 4], 2.0)])
def test_a_recorded_step_draws_the_same_codes_past_its_window(
    window: int | None, dtype: torch.dtype, seeds: list[int], guidance: float
):
    plain = speech_lm(window).to(dtype)
    fast = with_recorded_step(copy.deepcopy(plain), taped)
    RECORDED.clear()
    for shift in (0, 10):  # another decoding is recorded anew
        made = [drawn(each, [seed + shift for seed in seeds], guidance) for each in (plain, fast)]
        assert int(made[0].frames.max()) > 8
        assert torch.equal(made[0].codes, made[1].codes) and torch.equal(made[0].path, made[1].path)
        torch.testing.assert_close(made[0].entropy, made[1].entropy, atol=1e-4, rtol=1e-4)
    assert len(RECORDED) == 2 if len(seeds) == 1 else len(RECORDED) > 2  # rows that are left alone: another shape


@torch.no_grad()
def test_what_was_recorded_goes_with_its_decoding():
    model = with_recorded_step(speech_lm(None), taped)
    decoding = Decoding(model, model.condition(None, None, None), None, torch.tensor([8]), [0], Sampling())
    decoding.advance()
    left = weakref.ref(decoding.state)
    gc.disable()
    try:
        del decoding
        assert left() is None
    finally:
        gc.enable()


def test_a_step_too_many_is_refused_as_without():
    fast: Any = with_recorded_step(speech_lm(None), taped)
    with torch.no_grad():
        memory = fast.condition(None, None, None)
        state = fast.start(memory, 40)
        state.caches[0].length = 40
    with pytest.raises(InputError, match="41 steps of audio; the model reads 40"):
        fast.step(torch.zeros(1, 2, dtype=torch.long), state, None)
