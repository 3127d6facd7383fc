"""Stage `codec`: recordings in, a compact codec out.

Reconstruction alone: multi-scale mel distance plus the quantizer's losses, with quantizer dropout so that any prefix
of the codebooks decodes (Zeghidour et al. 2021).
"""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import dataclass
from functools import cache

import torch
from torch import Tensor, nn

from ira.audio.compact import HOP, CompactCodec
from ira.audio.waveform import SAMPLE_RATE, load_audio
from ira.config import CodecStage
from ira.console import warn
from ira.data.batches import SamplerState
from ira.data.manifest import Row
from ira.errors import InputError
from ira.training.loop import StepLoss
from ira.training.losses import MultiScaleMel

CROPS_PER_FILE = 4  # a file costs more to open than to crop
COMMITMENT = 0.25
VALIDATION_CROPS = 32
MAX_SECONDS = 600.0  # a longer recording would fill the memory to give four crops


@dataclass
class CodecTraining:
    """The stage: trains `codec` on random crops of `rows`, judged on fixed crops of `held_out`."""

    codec: CompactCodec
    rows: list[Row]
    held_out: list[Row]
    settings: CodecStage
    device: torch.device
    name: str = "codec"
    metric: str = "mel_distance"

    def __post_init__(self) -> None:
        self.mel = MultiScaleMel().to(self.device)
        self.samples = max(int(self.settings.crop_seconds * SAMPLE_RATE) // HOP, 1) * HOP
        self.rows = [row for row in self.rows if row.audio]
        if not self.rows:
            raise InputError("codec stage: no row has an audio file; name a manifest with recordings in data.train")
        held_out = [row for row in self.held_out if row.audio][:VALIDATION_CROPS]
        self.judged = crops(held_out or self.rows[:4], self.samples, 1, torch.Generator().manual_seed(0))

    def modules(self) -> dict[str, nn.Module]:
        return {"codec": self.codec}

    def batches(self, state: SamplerState) -> Iterator[tuple[Tensor, SamplerState]]:
        """Waveform crops [B, 1, N]; the order and the crops follow from (seed, epoch, cursor) alone."""
        files = max(round(self.settings.batch_seconds / self.settings.crop_seconds) // CROPS_PER_FILE, 1)
        while True:
            order = torch.randperm(len(self.rows), generator=_generator(state.seed, state.epoch, -1)).tolist()
            while state.cursor < len(order):
                chosen = [self.rows[i] for i in order[state.cursor : state.cursor + files]]
                generator = _generator(state.seed, state.epoch, state.cursor)
                state = SamplerState(state.seed, state.epoch, state.cursor + files)
                yield random_gain(crops(chosen, self.samples, CROPS_PER_FILE, generator), generator), state
            state = SamplerState(state.seed, state.epoch + 1, 0)

    def loss(self, batch: Tensor, share_done: float) -> StepLoss:
        waveform = batch.to(self.device)
        books = self._dropped_books(len(waveform)).to(self.device)
        made, quantized = self.codec(waveform, books)
        mel = self.mel(made, waveform)
        loss = self.settings.mel_weight * mel + quantized.codebook_loss + COMMITMENT * quantized.commitment_loss
        metrics = {"mel": float(mel.detach()), "codebook": float(quantized.codebook_loss.detach())}
        return StepLoss(loss, waveform.shape[0] * waveform.shape[-1] // HOP, metrics)

    def _dropped_books(self, batch: int) -> Tensor:
        """Half of the rows use every codebook, the others a random number of them: [B]."""
        books = self.codec.config.codebooks
        return torch.where(torch.rand(batch) < 0.5, books, torch.randint(1, books + 1, (batch,)))

    def validate(self) -> dict[str, float]:
        """Mel distance of held-out crops with all codebooks and with half, and the share of codes in use."""
        waveform = self.judged.to(self.device)
        books = self.codec.config.codebooks
        tokens, half = self.codec.encode(waveform, codebooks=books), max(books // 2, 1)
        return {
            "mel_distance": float(self.mel(self.codec.decode(tokens.codes), waveform)),
            "mel_distance_half": float(self.mel(self.codec.decode(tokens.codes[:, :half]), waveform)),
            "code_usage": _usage(tokens.codes, self.codec.codebook_size),
        }


def crops(rows: list[Row], samples: int, each: int, generator: torch.Generator) -> Tensor:
    """`each` random crops of every recording [B, 1, samples]; a short one is padded with silence.

    A recording that cannot be read is left out and named once; training goes on.
    """
    pieces = []
    for row in rows:
        try:
            waveform = load_audio(row.audio, max_seconds=MAX_SECONDS)  # type: ignore[arg-type]
        except InputError as error:
            _say_once(f"{error}; left out of training")
            continue
        waveform = nn.functional.pad(waveform, (0, max(samples - waveform.shape[-1], 0)))
        starts = torch.randint(0, waveform.shape[-1] - samples + 1, (each,), generator=generator)
        pieces += [waveform[:, start : start + samples] for start in starts.tolist()]
    if not pieces:
        raise InputError(f"{rows[0].audio}: none of {len(rows)} recordings can be read; run ira validate")
    return torch.stack(pieces)


@cache
def _say_once(message: str) -> None:
    warn(message)


def random_gain(waveform: Tensor, generator: torch.Generator) -> Tensor:
    """Each crop [1, N] of the batch louder or softer by -12 to +6 dB, never past full scale."""
    decibels = torch.rand(len(waveform), 1, 1, generator=generator) * 18 - 12
    room = 1 / waveform.abs().amax(dim=-1, keepdim=True).clamp(min=1e-4)
    return waveform * torch.minimum(10 ** (decibels / 20), room)


def _generator(seed: int, epoch: int, cursor: int) -> torch.Generator:
    return torch.Generator().manual_seed(hash((seed, epoch, cursor)) % 2**63)


def _usage(codes: Tensor, codebook_size: int) -> float:
    """Mean over codebooks of exp(entropy) / number of distinct values possible in this many frames."""
    shares = []
    for book in codes.transpose(0, 1).flatten(1):
        counts = torch.bincount(book).float()
        share = counts[counts > 0] / counts.sum()
        shares.append(float((-(share * share.log()).sum()).exp()) / min(book.numel(), codebook_size))
    return sum(shares) / len(shares)
