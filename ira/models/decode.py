"""A SpeechLM and a memory in, sampled codec tokens [B, K, T] out.

Every row has its own random generator, so a row's speech depends on its seed and never on its neighbours.
"""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass

import torch
from pydantic import Field
from torch import Tensor

from ira.audio.delay import special_ids, undelay
from ira.config import Section
from ira.models.speech_lm import Memory, SpeechLM


class Sampling(Section):
    """How tokens are drawn. `guidance` above 1 is classifier-free guidance against the null text (Ho, Salimans 2022).

    `repetition_window` and `repetition_share` are the repetition-aware sampling of VALL-E 2 (Chen et al. 2024): where
    the drawn token fills that share of the last window of its book, it is drawn again without top-k. Temperature 0
    takes the likeliest token, always.
    """

    temperature: float = Field(default=0.8, ge=0)
    top_k: int = Field(default=80, gt=0)
    guidance: float = Field(default=1.5, ge=0)
    repetition_window: int = Field(default=10, gt=0)
    repetition_share: float = Field(default=0.5, gt=0)


@dataclass
class Generated:
    """codes [B, K, T] (0 past a row's end), frames [B], and finished [B]: True where EOS came before the bound."""

    codes: Tensor
    frames: Tensor
    finished: Tensor


@torch.no_grad()
def generate(
    model: SpeechLM,
    memory: Memory,
    null_memory: Memory | None,
    max_frames: Tensor,
    seeds: list[int],
    sampling: Sampling | None = None,
    on_frame: Callable[[int], None] | None = None,
) -> Generated:
    """Sample until every row has said EOS or reached its bound.

    Args:
        memory: conditions of B rows; null_memory: the same rows with the text dropped, or None for no guidance.
        max_frames: [B] bound of each row; what the model can read at most bounds it too.
        seeds: B seeds.
        on_frame: called with the number of finished frames, for progress.
    """
    sampling = sampling or Sampling()
    guided = null_memory is not None and sampling.guidance != 1.0
    joined = _join(memory, null_memory) if guided and null_memory is not None else memory
    rows, books = len(memory.vectors), model.codebooks
    eos, bos, _ = special_ids(model.codebook_size)
    if not len(max_frames) == len(seeds) == rows:
        raise ValueError(f"{len(max_frames)} bounds and {len(seeds)} seeds for {rows} rows")
    device = memory.vectors.device
    frames = max_frames.to(device).clamp(max=model.config.max_steps - books)
    limit = int(frames.max())
    generators = [torch.Generator(device=device).manual_seed(seed) for seed in seeds]
    state = model.start(joined, limit + books - 1)
    steps = torch.full((rows, books, limit + books), bos, device=device)
    finished = torch.zeros(rows, dtype=torch.bool, device=device)
    for step in range(limit + books - 1):
        tokens = steps[:, :, step]
        logits = model.step(tokens.repeat(2, 1) if guided else tokens, state).float()
        if guided:
            told, untold = logits.chunk(2)
            logits = untold + sampling.guidance * (told - untold)
        drawn = _draw(logits, steps[:, :, : step + 1], generators, sampling, eos)
        ended = (drawn[:, 0] == eos) & ~finished & (step < frames)
        frames, finished = torch.where(ended, step, frames), finished | ended
        steps[:, :, step + 1] = _place(drawn, step, frames, model.codebook_size)
        complete = step + 2 - books  # frames whose last book stands now
        if on_frame is not None and complete > 0:
            on_frame(complete)
        if bool((complete >= frames).all()):
            break
    size = int(frames.max())
    codes = undelay(steps[:, :, 1:], size)
    inside = torch.arange(size, device=frames.device) < frames[:, None, None]
    return Generated(torch.where(inside, codes, 0), frames, finished)


def frame_bound(text_lengths: Tensor, frame_rate: float) -> Tensor:
    """The most frames a text [B] may take: one second, and a second for every six characters (slow speech)."""
    return ((1.0 + text_lengths / 6.0) * frame_rate).long()


def _place(drawn: Tensor, step: int, frames: Tensor, codebook_size: int) -> Tensor:
    """What stands at position step + 1: the drawn codes where they belong to a frame, else BOS, EOS or PAD."""
    eos, bos, pad = special_ids(codebook_size)
    frame = step - torch.arange(drawn.shape[1], device=drawn.device)
    ends = frames[:, None]
    placed = torch.where(frame < ends, drawn, torch.where(frame == ends, eos, pad))
    return torch.where(frame < 0, bos, placed)


def _draw(logits: Tensor, past: Tensor, generators: list[torch.Generator], sampling: Sampling, eos: int) -> Tensor:
    """One token for each row and book [B, K] from logits [B, K, V + 1]; only book 0 may end."""
    logits = logits.clone()
    logits[:, 1:, eos] = -torch.inf
    if sampling.temperature == 0:
        return logits.argmax(-1)
    logits = logits / sampling.temperature
    # Two draws a step, wanted or not: how much randomness a row has used must not depend on what it drew.
    noise, fresh = torch.stack([_gumbel(torch.Size((2, *logits.shape[1:])), g) for g in generators], dim=1)
    top = logits.topk(min(sampling.top_k, logits.shape[-1]), dim=-1).values[..., -1:]
    drawn = (logits.masked_fill(logits < top, -torch.inf) + noise).argmax(-1)
    window = past[:, :, -sampling.repetition_window :]
    share = (window == drawn[..., None]).float().sum(-1) / sampling.repetition_window
    return torch.where(share >= sampling.repetition_share, (logits + fresh).argmax(-1), drawn)


def _gumbel(shape: torch.Size, generator: torch.Generator) -> Tensor:
    """Gumbel noise: the argmax of logits plus it is a sample of their softmax."""
    uniform = torch.rand(shape, generator=generator, device=generator.device)
    return -torch.log(-torch.log(uniform.clamp(1e-9, 1 - 1e-7)))


def _join(memory: Memory, null: Memory) -> Memory:
    """Both conditions as one batch of 2B, the shorter memory padded."""
    length = max(memory.vectors.shape[1], null.vectors.shape[1])
    parts = []
    for one in (memory, null):
        missing = length - one.vectors.shape[1]
        parts.append((torch.nn.functional.pad(one.vectors, (0, 0, 0, missing)), _pad_mask(one.mask, missing)))
    return Memory(torch.cat([p[0] for p in parts]), torch.cat([p[1] for p in parts]))


def _pad_mask(mask: Tensor, missing: int) -> Tensor:
    return torch.nn.functional.pad(mask, (0, missing), value=False)
