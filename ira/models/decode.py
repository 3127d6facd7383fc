"""A SpeechLM and a memory in, sampled codec tokens [B, K, T] out.

Every row has its own random generator, so a row's speech depends on its seed and never on its neighbours. A row ends
when its pointer leaves the last text token; it can neither skip a token nor go back to one.
"""

from __future__ import annotations

import math
from collections.abc import Callable
from dataclasses import dataclass

import torch
from pydantic import Field
from torch import Tensor

from ira.audio.delay import special_ids, undelay
from ira.config import Section
from ira.models.speech_lm import DecodeState, Memory, Pointer, SpeechLM

STILL_THERE = math.exp(-1)  # chance to be at a token still, below which the pointer leaves it


class Sampling(Section):
    """How tokens are drawn. `guidance` above 1 is classifier-free guidance against the null text (Ho, Salimans 2022).

    `repetition_window` and `repetition_share` are the repetition-aware sampling of VALL-E 2 (Chen et al. 2024): where
    the drawn token fills that share of the last window of its book, it is drawn again without top-k. Temperature 0
    takes the likeliest token, always. `pace` multiplies the rate at which the pointer leaves its token: 2 is fast.
    """

    temperature: float = Field(default=0.8, ge=0)
    top_k: int = Field(default=80, gt=0)
    guidance: float = Field(default=1.5, ge=0)
    repetition_window: int = Field(default=10, gt=0)
    repetition_share: float = Field(default=0.5, gt=0)
    pace: float = Field(default=1.0, gt=0)


@dataclass
class Generated:
    """What was drawn for each row.

    codes: [B, K, T], 0 past a row's end; frames: [B]; finished: [B], True where it ended before the bound.
    path: [B, T], the text token that each frame says; entropy: [B, T] fp32, nats, of what book 0 was drawn from.
    """

    codes: Tensor
    frames: Tensor
    finished: Tensor
    path: Tensor
    entropy: Tensor


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
    """Sample until every row has ended or reached its bound.

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
    walker = Walker(memory.lengths, model.config.longest_stay, sampling.pace)
    path, entropy = torch.zeros(rows, limit, dtype=torch.long), torch.zeros(rows, limit)
    for step in range(limit + books - 1):
        logits, advance = _logits(model, steps[:, :, step], state, walker.pointer, guided, sampling.guidance)
        logits[:, 0, eos].masked_fill_(~walker.at_end, -torch.inf)
        drawn = _draw(logits, steps[:, :, : step + 1], generators, sampling, eos)
        if step < limit:
            path[:, step] = walker.pointer.place[:, 0]
            entropy[:, step] = _entropy(logits[:, 0], sampling.temperature)
        says_end = (drawn[:, 0] == eos) & ~finished & (step < frames)
        frames = torch.where(says_end, step, frames)
        leaves = walker.advance(advance) & ~finished & ~says_end & (step + 1 <= frames)
        frames = torch.where(leaves, step + 1, frames)
        finished = finished | says_end | leaves
        steps[:, :, step + 1] = _place(drawn, step, frames, model.codebook_size)
        complete = step + 2 - books  # frames whose last book stands now
        if on_frame is not None and complete > 0:
            on_frame(complete)
        if bool((complete >= frames).all()):
            break
    size = int(frames.max())
    codes = undelay(steps[:, :, 1:], size)
    inside = torch.arange(size, device=frames.device) < frames[:, None]
    path, entropy = (torch.where(inside.cpu(), values[:, :size], 0) for values in (path, entropy))
    return Generated(torch.where(inside[:, None], codes, 0), frames, finished, path, entropy)


class Walker:
    """Moves the pointer of every row: it leaves a token when the hazards to leave have added up to one.

    Where every frame is as likely as the next, that is the mean duration; where one frame is nearly certain, it is that
    frame. Sampling each step instead would make durations as rough as coin tosses, and the median of durations, which
    are skewed, makes speech too fast.
    """

    def __init__(self, lengths: Tensor, longest_stay: int, pace: float) -> None:
        self.told, self.last = lengths > 0, (lengths - 1).clamp(min=0)
        self.longest, self.pace = longest_stay, pace
        self.pointer = Pointer(torch.zeros_like(lengths)[:, None], self.told.long()[:, None])
        self.stays = torch.ones(lengths.shape, device=lengths.device)

    @property
    def at_end(self) -> Tensor:
        """[B] whether the row's pointer stands at the last token, or has no text to walk through."""
        return self.pointer.place[:, 0] >= self.last

    def advance(self, logits: Tensor) -> Tensor:
        """Logits [B] of leaving after this frame -> [B] bool, True where the last token was left."""
        self.stays = self.stays * torch.sigmoid(-logits) ** self.pace
        stay = self.pointer.stay[:, 0]
        leaves = self.told & ((self.stays < STILL_THERE) | (stay >= self.longest))
        ended = leaves & self.at_end
        moves = leaves & ~ended
        self.stays = torch.where(leaves, 1.0, self.stays)
        place = self.pointer.place[:, 0] + moves
        stay = torch.where(moves, 1, (stay + self.told).clamp(max=self.longest))
        self.pointer = Pointer(place[:, None], stay[:, None])
        return ended


def _logits(
    model: SpeechLM, tokens: Tensor, state: DecodeState, pointer: Pointer, guided: bool, guidance: float
) -> tuple[Tensor, Tensor]:
    """Logits [B, K, V + 1], moved away from those without text where guided, and the advance [B] of those with it."""
    if not guided:
        logits, advance = model.step(tokens, state, pointer)
        return logits.float(), advance
    none = torch.zeros_like(pointer.place)
    both = Pointer(torch.cat([pointer.place, none]), torch.cat([pointer.stay, none]))
    logits, advance = model.step(tokens.repeat(2, 1), state, both)
    told, untold = logits.float().chunk(2)
    return untold + guidance * (told - untold), advance.chunk(2)[0]


def _entropy(logits: Tensor, temperature: float) -> Tensor:
    """Nats of the distribution behind logits [B, V + 1] at a temperature; 0 where the likeliest is always taken."""
    if temperature == 0:
        return torch.zeros(len(logits))
    chances = (logits / temperature).softmax(-1)
    return -(chances * chances.clamp(min=1e-20).log()).sum(-1).cpu()


def frame_bound(text_lengths: Tensor, frame_rate: float) -> Tensor:
    """The most frames that a text of so many tokens [B] may take: a second, and one for every six (slow speech)."""
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
    lengths = torch.cat([memory.lengths, null.lengths])
    return Memory(torch.cat([p[0] for p in parts]), torch.cat([p[1] for p in parts]), lengths)


def _pad_mask(mask: Tensor, missing: int) -> Tensor:
    return torch.nn.functional.pad(mask, (0, missing), value=False)
