"""A SpeechLM and a memory in, sampled codec tokens [B, K, T] out.

Every row has its own random generator, so a row's speech depends on its seed and never on its neighbours. A row ends
when its pointer leaves the last text token, and is no longer computed once half of the rows have ended.
"""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass

import torch
from torch import Tensor

from ira.audio.delay import special_ids, undelay
from ira.models.blocks import length_mask
from ira.models.pointer import Pointer, Walker
from ira.models.sampling import Sampling, draw, entropy
from ira.models.speech_lm import Memory, SpeechLM


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


class Decoding:
    """Rows at work, a step at a time: each call of `advance` draws one code of every book. See `generate`."""

    def __init__(
        self,
        model: SpeechLM,
        memory: Memory,
        null_memory: Memory | None,
        max_frames: Tensor,
        seeds: list[int],
        sampling: Sampling,
        pace: Tensor | None = None,
    ) -> None:
        rows, device = len(memory.vectors), memory.vectors.device
        if not len(max_frames) == len(seeds) == rows:
            raise ValueError(f"{len(max_frames)} bounds and {len(seeds)} seeds for {rows} rows")
        pace = torch.ones(rows) if pace is None else pace
        self.model, self.sampling, self.step = model, sampling, 0
        self.guided = null_memory is not None and sampling.guidance != 1.0
        self.frames = max_frames.to(device).clamp(max=model.config.max_steps - model.codebooks)
        self.limit = int(self.frames.max())
        self.generators = [torch.Generator(device=device).manual_seed(seed) for seed in seeds]
        joined = _join(memory, null_memory) if self.guided and null_memory is not None else memory
        self.state = model.start(joined, self.limit + model.codebooks - 1)
        self.rows = torch.arange(rows, device=device)  # those at work, of which state, walker and generators are
        _, bos, _ = special_ids(model.codebook_size)
        self.steps = torch.full((rows, model.codebooks, self.limit + model.codebooks), bos, device=device)
        self.finished = torch.zeros(rows, dtype=torch.bool, device=device)
        self.walker = Walker(memory.lengths, model.config.longest_stay, pace.to(device))
        self.path = torch.zeros(rows, self.limit, dtype=torch.long, device=device)
        self.entropy = torch.zeros(rows, self.limit, device=device)

    @property
    def complete(self) -> int:
        """Frames whose every book stands; a row has no more than its own."""
        return max(self.step + 1 - self.model.codebooks, 0)

    @property
    def done(self) -> bool:
        return self.step >= self.limit + self.model.codebooks - 1 or bool((self.complete >= self.frames).all())

    @torch.inference_mode()  # of several hundred small operations each costs less than under no_grad
    def advance(self) -> None:
        """One step of the model for all rows."""
        step, rows, (eos, _, _) = self.step, self.rows, special_ids(self.model.codebook_size)
        logits, leaving = self._logits(self.steps[rows, :, step])
        logits[:, 0, eos].masked_fill_(~self.walker.at_end, -torch.inf)
        past = self.steps[rows, :, max(0, step + 1 - self.sampling.repetition_window) : step + 1]
        drawn = draw(logits, past, self.generators, self.sampling, eos)
        if step < self.limit:
            self.path[rows, step] = self.walker.pointer.place[:, 0]
            self.entropy[rows, step] = entropy(logits[:, 0], self.sampling.temperature)
        self._end(drawn[:, 0] == eos, self.walker.advance(leaving))
        self.steps[rows, :, step + 1] = _place(drawn, step, self.frames[rows], self.model.codebook_size)
        self.step = step + 1

    def _end(self, says_end: Tensor, leaves: Tensor) -> None:
        """Rows at work that say their end have ended before this frame, those that leave their last token after it."""
        frames, finished = self.frames[self.rows], self.finished[self.rows]
        says_end = says_end & ~finished & (self.step < frames)
        leaves = leaves & ~finished & ~says_end & (self.step + 1 <= frames)
        frames = torch.where(says_end, self.step, torch.where(leaves, self.step + 1, frames))
        self.frames = self.frames.index_copy(0, self.rows, frames)
        self.finished = self.finished.index_copy(0, self.rows, finished | says_end | leaves)

    def _retire(self) -> None:
        """Rows whose frames are complete leave once they are half of those at work, since caches are copied for it."""
        goes_on = self.complete < self.frames[self.rows]
        kept = goes_on.nonzero()[:, 0]
        if 0 < len(kept) <= len(goes_on) // 2:
            self.rows, self.generators = self.rows[kept], [self.generators[i] for i in kept.tolist()]
            self.walker.keep(kept)
            self.state = self.state.keep(torch.cat([kept, kept + len(goes_on)]) if self.guided else kept)

    def _logits(self, tokens: Tensor) -> tuple[Tensor, Tensor]:
        """Logits [B, K, V + 1], moved away from those without text where guided, and the advance [B] of those with."""
        pointer = self.walker.pointer
        if not self.guided:
            logits, leaving = self.model.step(tokens, self.state, pointer)
            return logits.float(), leaving
        none = torch.zeros_like(pointer.place)
        both = Pointer(torch.cat([pointer.place, none]), torch.cat([pointer.stay, none]))
        logits, leaving = self.model.step(tokens.repeat(2, 1), self.state, both)
        told, untold = logits.float().chunk(2)
        return untold + self.sampling.guidance * (told - untold), leaving.chunk(2)[0]

    def drawn(self, first: int, end: int) -> Tensor:
        """Codes [B, K, end - first] of complete frames; 0 past a row's end."""
        steps = self.steps[:, :, first + 1 : end + self.model.codebooks]
        inside = torch.arange(first, end, device=self.frames.device) < self.frames[:, None]
        return torch.where(inside[:, None], undelay(steps, end - first), 0)

    @torch.no_grad()
    def run(self, on_frame: Callable[[int], None] | None = None) -> Generated:
        """To the end of every row; `on_frame` is called with the number of complete frames."""
        while not self.done:
            self.advance()
            self._retire()
            if on_frame is not None and self.complete:
                on_frame(self.complete)
        size = int(self.frames.max())
        inside = length_mask(self.frames, size).cpu()
        path, nats = (torch.where(inside, values[:, :size].cpu(), 0) for values in (self.path, self.entropy))
        # Clones: what came out of inference mode cannot be learned from.
        return Generated(self.drawn(0, size), self.frames.clone(), self.finished.clone(), path, nats)


@torch.no_grad()
def generate(
    model: SpeechLM,
    memory: Memory,
    null_memory: Memory | None,
    max_frames: Tensor,
    seeds: list[int],
    sampling: Sampling | None = None,
    on_frame: Callable[[int], None] | None = None,
    pace: Tensor | None = None,
) -> Generated:
    """Sample until every row has ended or reached its bound.

    Args:
        memory: conditions of B rows; null_memory: rows to be guided away from, or None.
        max_frames: [B] bound of each row; what the model can read at most bounds it too.
        seeds: B seeds.
        on_frame: called with the number of finished frames, for progress.
        pace: [B] how fast each row speaks, 1 where it is None.
    """
    return Decoding(model, memory, null_memory, max_frames, seeds, sampling or Sampling(), pace).run(on_frame)


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
