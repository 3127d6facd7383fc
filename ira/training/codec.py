"""Stage `codec`: recordings in, a compact codec out, or a released EnCodec that has heard them.

Reconstruction (spectra with and without phases, samples) and the quantizer's losses, with quantizer dropout so that any
prefix of the codebooks decodes (Zeghidour et al. 2021). For the last `adversarial_share` of the run discriminators
judge the sound too.
"""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import dataclass
from functools import cache
from pathlib import Path

import torch
from torch import Tensor, nn

from ira.audio.compact import CompactCodec
from ira.audio.quantizer import Quantized
from ira.audio.synthesis import HOP
from ira.audio.vocoder import Vocoder
from ira.audio.waveform import SAMPLE_RATE, load_audio
from ira.config import CodecStage
from ira.console import warn
from ira.data.batches import SamplerState
from ira.data.manifest import Row
from ira.errors import InputError
from ira.processes import in_order, rank, world
from ira.trackers.base import Samples
from ira.training.adversary import Discriminators, balanced
from ira.training.finetune import TrainableEncodec
from ira.training.losses import MultiScaleMel
from ira.training.reconstruction import Reconstruction
from ira.training.samples import sound_and_spectrogram
from ira.training.stage import StepLoss

CROPS_PER_FILE = 4  # a file costs more to open than to crop
COMMITMENT = 0.25
PITCH = 5.0  # weight of the vocoder's pitch error
ADVERSARIAL = 0.5  # norm of the discriminators' gradient at the last layer by that of the reconstruction
RAMP = 0.2  # share of the adversary's time until it counts as much
VALIDATION_CROPS = 32
SHOWN = 3  # of them as samples
MAX_SECONDS = 600.0  # a longer recording would fill the memory to give four crops
INT16 = 32768.0


@dataclass
class CodecTraining:
    """The stage: trains `codec` on random crops of `rows`, judged on fixed crops of `held_out`."""

    codec: CompactCodec | TrainableEncodec
    rows: list[Row]
    held_out: list[Row]
    settings: CodecStage
    device: torch.device
    name: str = "codec"
    metric: str = "mel_distance"

    def __post_init__(self) -> None:
        self.mel, self.reconstruction = MultiScaleMel().to(self.device), Reconstruction().to(self.device)
        self.discriminators = Discriminators().to(self.device) if self.settings.adversarial_share else None
        self.recordings = Recordings(self.settings.cache_gb)
        self.crop_samples = max(int(self.settings.crop_seconds * SAMPLE_RATE) // HOP, 1) * HOP
        self.files = max(round(self.settings.batch_seconds / self.settings.crop_seconds) // CROPS_PER_FILE, 1)
        self.rows = [row for row in self.rows if row.audio]
        if not self.rows:
            raise InputError("codec stage: no row has an audio file; name a manifest with recordings in data.train")
        held_out = [row for row in self.held_out if row.audio][:VALIDATION_CROPS]
        judged, generator = held_out or self.rows[:4], torch.Generator().manual_seed(0)
        heard = crops(Recordings(), judged, self.crop_samples, 1, generator)
        if not heard:
            raise InputError(f"{judged[0].audio}: none of {len(judged)} held-out recordings can be read")
        self.judged = torch.stack(heard)

    def modules(self) -> dict[str, nn.Module]:
        """Only the codec is published; the discriminators are part of the run."""
        return {"codec": self.codec, **({"discriminators": self.discriminators} if self.discriminators else {})}

    def plan(self, state: SamplerState) -> Iterator[tuple[tuple[int, int, int], SamplerState]]:
        """(seed, epoch, first file) of every batch: all that its crops follow from."""
        while True:
            while state.cursor < len(self.rows):
                key = (state.seed, state.epoch, state.cursor)
                state = SamplerState(state.seed, state.epoch, state.cursor + self.files)
                yield key, state
            state = SamplerState(state.seed, state.epoch + 1, 0)

    def load(self, key: tuple[int, int, int]) -> Tensor:
        """Waveform crops [B, 1, N]. Where no file of the batch can be read, those that follow it stand in."""
        seed, epoch, cursor = key
        order = torch.randperm(len(self.rows), generator=_generator(seed, epoch, -1)).tolist()
        own, others = order[cursor : cursor + self.files], order[cursor + self.files :] + order[:cursor]
        generator = _generator(*key)
        for chosen in [own, *(others[start : start + self.files] for start in range(0, len(others), self.files))]:
            rows = [self.rows[i] for i in chosen]
            if made := crops(self.recordings, rows, self.crop_samples, CROPS_PER_FILE, generator):
                return random_gain(torch.stack(made), generator)
        raise InputError(f"codec stage: none of {len(self.rows)} recordings can be read; run ira validate")

    def loss(self, batch: Tensor, share_done: float) -> StepLoss:
        """The gradient is made at the codec's output and carried back by a loss of that slope, not of that value."""
        waveform = batch.to(self.device)
        books = self._dropped_books(len(waveform), self.codec.config.codebooks).to(self.device)
        made, quantized = self.codec(waveform, books)
        output = made.detach().requires_grad_()
        losses = self.reconstruction(output, waveform)
        weighted = sum(self._weights()[name] * loss for name, loss in losses.items())
        metrics = {name: float(loss.detach()) for name, loss in losses.items()}
        (gradient,) = torch.autograd.grad(torch.as_tensor(weighted), output)
        own = made.new_zeros(())
        if self.discriminators and share_done >= 1 - self.settings.adversarial_share:
            adversary, own, heard = self.discriminators(output, waveform)
            share = ADVERSARIAL * self._ramp(share_done)
            gradient = balanced(made, self.codec.last_layer, gradient, adversary, share)
            metrics |= {name: float(loss.detach()) for name, loss in heard.items()}
        slope = (made * gradient).sum()
        loss = torch.as_tensor(weighted).detach() + slope - slope.detach() + _quantizer_loss(quantized) + own
        if isinstance(self.codec, CompactCodec):
            vocoder, heard = self._vocoder_loss(self.codec.vocoder, waveform)
            loss, metrics = loss + vocoder, metrics | heard
        metrics["codebook"] = float(quantized.codebook_loss.detach())
        return StepLoss(loss, waveform.shape[0] * waveform.shape[-1] // HOP, metrics)

    def _vocoder_loss(self, vocoder: Vocoder, waveform: Tensor) -> tuple[Tensor, dict[str, float]]:
        """Its own books' loss, in which no phase counts, and what to log of it."""
        books = self._dropped_books(len(waveform), self.codec.config.vocoder_books).to(self.device)
        said = vocoder(waveform, books)
        losses = self.reconstruction(said.made, waveform)
        settings = self.settings
        loss = settings.mel_weight * losses["mel"] + settings.magnitude_weight * losses["magnitude"]
        metrics = {"vocoder_mel": float(losses["mel"].detach()), "pitch_error": float(said.pitch_error.detach())}
        return loss + PITCH * said.pitch_error + _quantizer_loss(said.quantized), metrics

    def _weights(self) -> dict[str, float]:
        settings = self.settings
        return {
            "mel": settings.mel_weight,
            "magnitude": settings.magnitude_weight,
            "phase": settings.phase_weight,
            "waveform": settings.waveform_weight,
        }

    def after_step(self, kept: bool) -> None:
        """Revive dead codes with what all processes saw; a step that was dropped has nothing to say."""
        if not isinstance(self.codec, CompactCodec):
            return
        for quantizer in (self.codec.vocoder.quantizer, self.codec.quantizer):
            seen = in_order({number * world() + rank(): each for number, each in enumerate(quantizer.seen)})
            quantizer.seen.clear()
            if kept:
                quantizer.revive(seen)

    def _ramp(self, share_done: float) -> float:
        """0 to 1 over the first part of the adversary's time: discriminators that know nothing only disturb."""
        ours = self.settings.adversarial_share
        return min(1.0, (share_done - (1 - ours)) / (RAMP * ours))

    @staticmethod
    def _dropped_books(batch: int, books: int) -> Tensor:
        """Half of the rows use every codebook, the others a random number of them: [B]."""
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
            "code_usage_least": min(_usage(book[:, None], self.codec.codebook_size) for book in tokens.codes.unbind(1)),
        }

    @torch.no_grad()
    def samples(self) -> Samples:
        """Held-out crops and what the codec makes of them, to hear and to see."""
        waveform, found = self.judged[:SHOWN].to(self.device), Samples()
        pairs = {"original": waveform, "copy": self.codec.decode(self.codec.encode(waveform).codes)}
        for clip in range(len(waveform)):
            for kind, sound in pairs.items():
                found |= sound_and_spectrogram(f"clip{clip + 1}-{kind}", sound[clip, 0], SAMPLE_RATE, HOP)
        return found


class Recordings:
    """Reads files at 16 bits and keeps the first `gigabytes` of them, which are decoded once."""

    def __init__(self, gigabytes: float = 0.0) -> None:
        self.left = gigabytes * 1e9
        self.kept: dict[Path, Tensor] = {}

    def read(self, path: Path) -> Tensor:
        """The waveform [1, N] of a file of at most MAX_SECONDS."""
        sound = self.kept.get(path)
        if sound is None:
            sound = (load_audio(path, max_seconds=MAX_SECONDS) * INT16).round().clamp(-INT16, INT16 - 1).short()
            if sound.nbytes <= self.left:
                self.kept[path], self.left = sound, self.left - sound.nbytes
        return sound / INT16


def crops(recordings: Recordings, rows: list[Row], samples: int, each: int, generator: torch.Generator) -> list[Tensor]:
    """`each` random crops [1, samples] of every recording; a short one is padded with silence.

    A recording that cannot be read is left out and named once; training goes on.
    """
    pieces = []
    for row in rows:
        try:
            waveform = recordings.read(row.audio)  # type: ignore[arg-type]
        except InputError as error:
            _say_once(f"{error}; left out of training")
            continue
        waveform = nn.functional.pad(waveform, (0, max(samples - waveform.shape[-1], 0)))
        starts = torch.randint(0, waveform.shape[-1] - samples + 1, (each,), generator=generator)
        pieces += [waveform[:, start : start + samples] for start in starts.tolist()]
    return pieces


def _quantizer_loss(quantized: Quantized) -> Tensor:
    return quantized.codebook_loss + COMMITMENT * quantized.commitment_loss


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
