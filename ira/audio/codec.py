"""Waveform in, codec tokens out, and back: what every codec promises, and the one place that chooses a codec.

A codec turns [B, 1, N] samples into [B, K, T] codes and any first K' codebooks of those back into [B, 1, T * hop]
samples. A row's result never depends on its padding or its neighbours, and long audio takes bounded memory.
"""

from __future__ import annotations

from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Protocol

import torch
from torch import Tensor
from torch.nn import functional as F

from ira.errors import InputError

if TYPE_CHECKING:
    from ira.config import CodecConfig


RELEASED_ENCODEC = "facebook/encodec_24khz"


@dataclass
class Tokens:
    """Codec tokens of a batch. codes: [B, K, T] int64, 0 past a row's end; frames: [B] int64, valid frames of a row."""

    codes: Tensor
    frames: Tensor


class DecoderStream(Protocol):
    """Decodes one utterance as its codes come; some samples wait for codes after their own."""

    def push(self, codes: Tensor) -> Tensor:
        """[1, K', t] codes -> [1, 1, n * hop] samples that are final now."""
        ...

    def finish(self) -> Tensor:
        """The end of the utterance -> [1, 1, n * hop] samples that were held back."""
        ...


class Codec(Protocol):
    """What the rest of the system knows of a codec.

    `codebooks` is how many are used where a call does not say; `frame_rate` is frames a second; `hop` is samples a
    frame. `frames` of a row is ceil(samples / hop).
    """

    sample_rate: int
    frame_rate: float
    hop: int
    codebooks: int
    codebook_size: int

    def encode(self, waveform: Tensor, samples: Tensor | None = None, codebooks: int | None = None) -> Tokens:
        """[B, 1, N] samples in [-1, 1] (`samples` [B]: valid ones of each row) -> codes [B, K, T]."""
        ...

    def decode(self, codes: Tensor, frames: Tensor | None = None) -> Tensor:
        """[B, K', T] codes, any prefix of the codebooks -> [B, 1, T * hop] samples, 0 past a row's frames."""
        ...

    def stream(self) -> DecoderStream:
        """A fresh decoder of one utterance that takes its codes piece by piece; its samples are those of `decode`."""
        ...

    def code_vectors(self) -> list[Tensor]:
        """What each code of each of `codebooks` stands for in the codec's own latent space: [V, C] a codebook."""
        ...

    def fingerprint(self) -> str:
        """Kind, short hash of the weights, codebooks: equal where the tokens are interchangeable."""
        ...


def pad_to_frames(waveform: Tensor, samples: Tensor | None, hop: int) -> tuple[Tensor, Tensor]:
    """Zero each row past its samples and pad to whole frames: [B, 1, N] -> ([B, 1, T * hop], frames [B]).

    Raises:
        InputError: a waveform that is not [B, 1, N] with N > 0, or `samples` that do not fit it.
    """
    if waveform.dim() != 3 or waveform.shape[1] != 1 or 0 in waveform.shape:
        raise InputError(f"waveform of shape {list(waveform.shape)}; [batch, 1, samples] is wanted; mix down to mono")
    B, _, N = waveform.shape
    if samples is None:
        samples = torch.full((B,), N, device=waveform.device)
    samples = samples.to(waveform.device, torch.long)
    if samples.shape != (B,) or samples.min() < 0 or samples.max() > N:
        raise InputError(f"samples {samples.tolist()} for {B} rows of {N}; give one length in 0..{N} for each row")
    past_end = torch.arange(N, device=waveform.device) >= samples[:, None]
    padded = F.pad(waveform.masked_fill(past_end[:, None], 0.0), (0, -N % hop))
    return padded, (samples + hop - 1) // hop


def check_codes(codes: Tensor, codebooks: int, codebook_size: int) -> None:
    """Refuse codes that no decoder of `codebooks` x `codebook_size` entries can read."""
    if codes.dim() != 3 or 0 in codes.shape or codes.is_floating_point():
        raise InputError(f"codes {list(codes.shape)} {codes.dtype}; integers [batch, codebooks, frames] are wanted")
    if codes.shape[1] > codebooks:
        raise InputError(f"codes of {codes.shape[1]} codebooks; the codec has {codebooks}; drop the last ones")
    low, high = int(codes.min()), int(codes.max())
    if low < 0 or high >= codebook_size:
        raise InputError(f"codes span {low}..{high}; 0..{codebook_size - 1} is wanted; remove special tokens first")


def check_frames(codes: Tensor, frames: Tensor | None) -> Tensor:
    """Valid frames [B] of codes [B, K, T] on their device; all of them where nothing is said."""
    B, _, T = codes.shape
    if frames is None:
        return torch.full((B,), T, device=codes.device)
    if frames.shape != (B,) or frames.min() < 0 or frames.max() > T:
        raise InputError(f"frames {frames.tolist()} for {B} rows of {T}; give one length in 0..{T} for each row")
    return frames.to(codes.device, torch.long)


def load_codec(config: CodecConfig, folder: Path | None = None) -> Codec:
    """The codec of `config`: the one that was trained into `folder`, else EnCodec from its hub id or folder, or the
    compact one at its path.

    Raises:
        InputError: the weights are not there or not of this kind.
    """
    if config.kind == "encodec":
        from ira.audio.encodec import EncodecCodec

        own = folder / "encodec" if folder is not None else None
        path = own if own is not None and own.is_dir() else config.path or RELEASED_ENCODEC
        return EncodecCodec.from_pretrained(path, config.bandwidth_kbps)
    return _load_compact(config, folder)


def _load_compact(config: CodecConfig, folder: Path | None) -> Codec:
    own = folder if folder is not None and (folder / "codec.json").is_file() else None
    home = own or (Path(config.path) if config.path else folder)  # the path is only where a run's own codec began
    if home is None:
        raise InputError("codec kind compact without weights; a model folder is wanted; set codec.path or give --model")
    from ira.audio.compact import CompactCodec
    from ira.checkpoint import load_model

    codec = load_model(CompactCodec, home, "codec")
    if config.codebooks > codec.codebooks:
        raise InputError(
            f"{home}: the codec has {codec.codebooks} codebooks; {config.bandwidth_kbps} kbps is {config.codebooks}; "
            "lower codec.bandwidth_kbps"
        )
    codec.codebooks = config.codebooks
    return codec
