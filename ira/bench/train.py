"""A SpeechLM in; frames a second of its training step and the share of the machine's matrix rate that this is, beside
the same step of MusicgenForCausalLM, out.

A step is forward, loss, backward and AdamW, in the precision of training (weights in fp32, products in bf16). Ours also
encodes its text and learns the pointer; the peer is given what cross-attention sees.
"""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass
from typing import Any

import torch
from torch import Tensor, nn
from torch.utils.flop_counter import FlopCounterMode, sdpa_flop_count

from ira.audio.delay import delay
from ira.bench.peers import musicgen
from ira.bench.sizes import TEXT, Sizes
from ira.bench.timing import MILLI, Figures, Timed, Work, in_turns, memory_figures
from ira.config import SpeechStage
from ira.models.compiled import compile_layers
from ira.models.speech_lm import SpeechLM
from ira.runtime import autocast
from ira.training.losses import advance_loss, codec_cross_entropy
from ira.training.meter import matrix_rate
from ira.training.optimization import make_optimizer
from ira.training.parallel import stacked_layers

DTYPE = "bf16"


def _attention(query: Any, keys: Any, values: Any, *_: Any, **__: Any) -> int:
    return sdpa_flop_count(query, keys, values)


def _attention_backward(_grad: Any, query: Any, keys: Any, values: Any, *_: Any, **__: Any) -> int:
    return 2 * sdpa_flop_count(query, keys, values)


_FUSED = torch.ops.aten  # attention on a CPU, which torch's counter does not know
CPU_ATTENTION = {
    _FUSED._scaled_dot_product_flash_attention_for_cpu: _attention,
    _FUSED._scaled_dot_product_flash_attention_for_cpu_backward: _attention_backward,
}


@dataclass(frozen=True)
class Rows:
    """What a step learns from: codes [B, K, T], text [B, L], voices [B, P], walks [B, T]."""

    codes: Tensor
    text: Tensor
    voices: Tensor
    walks: Tensor

    @property
    def frames(self) -> Tensor:
        return torch.full((len(self.codes),), self.codes.shape[-1], device=self.codes.device)


def measure_train(model: SpeechLM, rows: int, frames: int, sizes: Sizes) -> Figures:
    """Frames a second and share of the matrix rate of both, in turns on the same codes."""
    device = model.null_text.device
    batch = random_rows(model, rows, frames)
    steps = {
        "ours": our_step(model.train().requires_grad_(True), batch, device),
        "musicgen": peer_step(musicgen(model).train(), batch, device),
    }
    operations = {name: count_operations(step) for name, step in steps.items()}
    if sizes.compiled:  # only now: what ran under the counter first would never be compiled
        compile_layers(stacked_layers(model), device)
    timed = in_turns({name: Work(step) for name, step in steps.items()}, device, sizes.repeats)
    return _figures(timed, operations, rows * frames, matrix_rate(device, DTYPE))


def _figures(timed: dict[str, Timed], operations: dict[str, int], frames: int, rate: float) -> Figures:
    found: Figures = {"matrix_gflops": rate / 1e9}
    for name, one in timed.items():
        amount = operations[name]
        found[f"{name}_step_ms"] = one.seconds.of(lambda s: s * MILLI)
        found[f"{name}_tokens_per_second"] = one.seconds.of(lambda s: frames / s)
        found[f"{name}_share_of_matrix_rate"] = one.seconds.of(lambda s, amount=amount: amount / s / rate)
    speedup = timed["musicgen"].seconds.median / timed["ours"].seconds.median
    return found | {"speedup": speedup} | memory_figures(timed)


def random_rows(model: SpeechLM, rows: int, frames: int) -> Rows:
    """Codes by chance, and a pointer that goes through the text evenly."""
    device, generator = model.null_text.device, torch.Generator().manual_seed(0)
    codes = torch.randint(model.codebook_size, (rows, model.codebooks, frames), generator=generator)
    text = torch.randint(1, model.text_vocab, (rows, TEXT), generator=generator)
    voices = nn.functional.normalize(torch.randn(rows, model.voice_dim, generator=generator), dim=-1)
    walks = (torch.arange(frames) * TEXT // frames).expand(rows, -1)
    return Rows(*(one.to(device) for one in (codes, text, voices, walks)))


def our_step(model: SpeechLM, batch: Rows, device: torch.device) -> Callable[[], None]:
    """As the stage `speech` takes it, every row with text and voice."""
    settings, frames = SpeechStage(), batch.frames
    lengths, language = torch.full_like(frames, TEXT), torch.zeros_like(frames)
    weights = torch.ones(model.codebooks, device=device) / model.codebooks

    def loss() -> Tensor:
        memory = model.condition(batch.text, lengths, batch.voices, language)
        out = model(batch.codes, frames, memory, batch.walks)
        said = codec_cross_entropy(out.logits, batch.codes, frames, weights, settings.eos_weight)
        return said + settings.advance_weight * advance_loss(out.advance, batch.walks, frames, settings.eos_weight)

    return _step(model, loss, device)


def peer_step(peer: Any, batch: Rows, device: torch.device) -> Callable[[], None]:
    """The same delayed codes at as many positions, its own loss, the same optimizer.

    What cross-attention sees wants a gradient, as that of an encoder would.
    """
    rows, books, _ = batch.codes.shape
    blank = peer.config.vocab_size
    steps = delay(batch.codes, batch.frames, blank - 1).clamp(max=blank)
    memory = torch.randn(rows, 1 + TEXT, peer.config.hidden_size, device=device, requires_grad=True)
    labels = steps.roll(-1, -1).transpose(1, 2)
    labels = labels.masked_fill(labels >= blank, -100)
    ids = steps.reshape(rows * books, -1)
    return _step(peer, lambda: peer(ids, encoder_hidden_states=memory, labels=labels, use_cache=False).loss, device)


def _step(model: nn.Module, loss: Callable[[], Tensor], device: torch.device) -> Callable[[], None]:
    optimizer = make_optimizer({"model": model}, SpeechStage())

    def step() -> None:
        optimizer.zero_grad()
        with autocast(device, DTYPE):
            found = loss()
        found.backward()
        optimizer.step()

    return step


def count_operations(step: Callable[[], None]) -> int:
    """Of the matrix products and of attention in one step, two for each multiplication with its sum."""
    with FlopCounterMode(display=False, custom_mapping=CPU_ATTENTION) as counter:
        step()
    return counter.get_total_flops()
