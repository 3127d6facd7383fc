"""IRA's own codec: waveform [B, 1, N] at 24 kHz to tokens [B, K, T] at 75 Hz and back, small enough to ship.

The first books are those of a vocoder (ira/audio/vocoder.py) and know no phase; alone they are spoken by it. The other
books say what it left out: log-mel and waveform -> causal ConvNeXt -> residual quantizer, which begins with what the
first books say -> causal ConvNeXt -> real coefficients -> inverse modified discrete cosine transform. Frame-wise
synthesis follows Vocos (Siuzdak 2023). Everything is causal in frames; a sample is final three frames after its own.
"""

from __future__ import annotations

import hashlib
from typing import Any, cast

import torch
from torch import Tensor, nn
from torch.nn import functional as F

from ira.audio.codec import Tokens, check_codes, check_frames, pad_to_frames
from ira.audio.convnext import KERNEL, ConvNeXt
from ira.audio.pitch import track
from ira.audio.quantizer import Quantized, ResidualQuantizer
from ira.audio.streaming import CHUNK_FRAMES, Stream, decode_all
from ira.audio.synthesis import HOP, OVERLAP, WINDOW, CosineHead, overlap_halves
from ira.audio.vocoder import Vocoder, VocoderStream
from ira.audio.waveform import SAMPLE_RATE, LogMel
from ira.config import CompactConfig
from ira.errors import InputError

QUIET = 1e-3  # rms against which the encoder hears the waveform of a quiet window


class CompactCodec(nn.Module):
    """The `Codec` protocol over the network above; trainable, saved by `ira.checkpoint`.

    `codebooks` is how many `encode` returns unless told otherwise; it may be lowered to any prefix.
    """

    always_copied = True  # by many processes that train it
    sample_rate = SAMPLE_RATE
    hop = HOP
    frame_rate = SAMPLE_RATE / HOP

    def __init__(self, config: CompactConfig) -> None:
        super().__init__()
        self.config = config
        self.codebooks, self.codebook_size = config.codebooks, config.codebook_size
        width, books = config.width, config.codebooks - config.vocoder_books
        self.vocoder = Vocoder(config)
        self.told = nn.Linear(width, width, bias=False)  # what the vocoder's books say, in the terms of the others
        self.mel = LogMel(config.mel_bins, SAMPLE_RATE, WINDOW, HOP)
        self.encoder_in = nn.Linear(config.mel_bins, width)
        self.wave_in = nn.Linear(WINDOW, width, bias=False)
        self.encoder = ConvNeXt(width, config.encoder_layers)
        self.encoder_norm = nn.LayerNorm(width)
        self.quantizer = ResidualQuantizer(width, books, config.codebook_size, config.code_dim)
        self.decoder = ConvNeXt(width, config.decoder_layers)
        self.decoder_norm = nn.LayerNorm(width)
        self.head = CosineHead(width)

    @property
    def last_layer(self) -> nn.Parameter:
        """Where losses of the output are weighed against one another."""
        return cast(nn.Parameter, self.head.weight)

    def hparams(self) -> dict[str, Any]:
        return {"config": self.config.model_dump()}

    @classmethod
    def from_hparams(cls, hparams: dict[str, Any]) -> CompactCodec:
        return cls(CompactConfig(**hparams["config"]))

    def code_vectors(self) -> list[Tensor]:
        books = [vectors for part in (self.vocoder, self) for vectors in part.quantizer.all_vectors()]
        return books[: self.codebooks]

    def fingerprint(self) -> str:
        """Name and hash of the weights that decide its tokens; what turns them into sound may be trained further."""
        digest = hashlib.sha256()
        for name, tensor in sorted(self._hearing().items()):
            digest.update(name.encode() + tensor.detach().float().cpu().numpy().tobytes())
        return f"compact-24khz:{digest.hexdigest()[:8]}:k{self.codebooks}"

    def _hearing(self) -> dict[str, Tensor]:
        """The weights on which the tokens of the first `codebooks` books depend."""
        own = self if self.codebooks > self.config.vocoder_books else self.vocoder
        return {
            name: tensor
            for name, tensor in own.state_dict().items()
            if any(part in name for part in ("encoder", "wave_in", "told", "quantizer")) and not name.endswith(".use")
        }

    # -- the network -------------------------------------------------------------------------------------------

    def latent(self, waveform: Tensor) -> Tensor:
        """waveform [B, 1, N] -> latent [B, T, C], T = ceil(N / 320)."""
        hidden = self.encoder_in(self.mel(waveform).transpose(1, 2)) + self.wave_in(_windows(waveform))
        return self.encoder_norm(self.encoder(hidden))

    def first_said(self, waveform: Tensor) -> tuple[Tensor, Tensor]:
        """waveform [B, 1, N] -> codes of the vocoder's books [B, K, T] and what they tell the others [B, T, C]."""
        with torch.no_grad():
            latent = self.vocoder.latent(waveform, track(waveform)).float()
            with torch.autocast(latent.device.type, enabled=False):
                first = self.vocoder.quantizer(latent)
        return first.codes, self.told(first.latent).float()

    def synthesise(self, latent: Tensor, extra: int = OVERLAP) -> Tensor:
        """latent [B, T, C] -> waveform [B, 1, (T + extra - 3) * 320].

        A sample needs the three frames after its own; `extra` = 3 empty ones stand in for them where audio ends.
        """
        return self.head(self.decoder_norm(self.decoder(F.pad(latent, (0, 0, 0, extra)))))

    def forward(self, waveform: Tensor, codebooks: Tensor | None = None) -> tuple[Tensor, Quantized]:
        """Training pass of the books after the vocoder's, of which each row has at least one.

        Args:
            waveform: [B, 1, N], N a multiple of 320.
            codebooks: [B] how many books each row uses, the vocoder's counted.

        Returns:
            reconstruction [B, 1, N] and the quantizer's output. The vocoder learns by itself.
        """
        latent, (_, told) = self.latent(waveform).float(), self.first_said(waveform)
        with torch.autocast(latent.device.type, enabled=False):
            left = None if codebooks is None else (codebooks - self.config.vocoder_books).clamp(min=1)
            quantized = self.quantizer(latent - told, left)
        return self.synthesise(told + quantized.latent), quantized

    # -- the protocol ------------------------------------------------------------------------------------------

    @torch.no_grad()
    def encode(self, waveform: Tensor, samples: Tensor | None = None, codebooks: int | None = None) -> Tokens:
        """waveform [B, 1, N] -> tokens; long audio goes chunk by chunk, with the context that makes it seamless.

        In fp32 whatever the autocast: a token is a decision.
        """
        books = self._check_codebooks(codebooks)
        waveform, frames = pad_to_frames(waveform, samples, HOP)
        total = waveform.shape[-1] // HOP
        context = OVERLAP + (KERNEL - 1) * self.config.encoder_layers
        pieces = []
        for start in range(0, total, CHUNK_FRAMES):
            first = max(0, start - context)
            with torch.autocast(waveform.device.type, enabled=False):
                codes = self._codes(waveform[..., first * HOP : (start + CHUNK_FRAMES) * HOP], books)
                pieces.append(codes[:, :books, start - first :])
        inside = torch.arange(total, device=waveform.device) < frames[:, None, None]
        return Tokens(torch.cat(pieces, -1) * inside, frames)

    def _codes(self, waveform: Tensor, books: int) -> Tensor:
        """[B, K', T]: of the vocoder's books, and of the others where they are asked for."""
        codes, told = self.first_said(waveform)
        if books <= self.config.vocoder_books:
            return codes
        return torch.cat([codes, self.quantizer(self.latent(waveform) - told).codes], dim=1)

    @torch.no_grad()
    def decode(self, codes: Tensor, frames: Tensor | None = None) -> Tensor:
        """codes [B, K', T] -> waveform [B, 1, T * 320] in fp32; rows end in silence past their frames."""
        check_codes(codes, self.config.codebooks, self.codebook_size)
        codes = codes.to(self.encoder_in.weight.device)
        frames = check_frames(codes, frames)
        with torch.autocast(codes.device.type, enabled=False):
            waveform = decode_all(self.rows_stream(*codes.shape[:2]), codes, frames)
        inside = torch.arange(waveform.shape[-1], device=codes.device) < HOP * frames[:, None, None]
        return waveform * inside

    def stream(self) -> CompactDecoderStream:
        """A fresh decoder of one utterance that takes its codes piece by piece."""
        return CompactDecoderStream(self)

    def rows_stream(self, rows: int, books: int) -> Stream:
        """The decoder of so many rows and books."""
        return VocoderStream(self.vocoder, rows) if books <= self.config.vocoder_books else WaveformStream(self, rows)

    def latent_of(self, codes: Tensor) -> Tensor:
        """Codes [B, K', T] of more than the vocoder's books -> [B, T, C]."""
        own = self.config.vocoder_books
        return self.told(self.vocoder.quantizer.decode(codes[:, :own])) + self.quantizer.decode(codes[:, own:])

    def _check_codebooks(self, codebooks: int | None) -> int:
        books = self.codebooks if codebooks is None else codebooks
        if not 1 <= books <= self.config.codebooks:
            raise InputError(f"{books} codebooks; this codec has 1..{self.config.codebooks}; ask for one of those")
        return books


class CompactDecoderStream:
    """One utterance decoded as its codes come: all pushes and `finish` joined equal `decode` of the whole.

    Three frames are held back, since a sample is final three frames after its own.
    """

    def __init__(self, codec: CompactCodec) -> None:
        self._codec, self._finished = codec, False
        self._rows: Stream | None = None

    def push(self, codes: Tensor) -> Tensor:
        """[1, K', t] codes -> [1, 1, n * hop] samples.

        Raises:
            InputError: codes out of range, or a stream that is finished.
        """
        if self._finished:
            raise InputError("codes pushed after finish; a stream serves one utterance; start another")
        check_codes(codes, self._codec.config.codebooks, self._codec.codebook_size)
        return self._push(codes.to(self._codec.encoder_in.weight.device), False)

    def finish(self) -> Tensor:
        """The end of the utterance -> [1, 1, n * hop]: what was held back."""
        self._finished = True
        weight = self._codec.encoder_in.weight
        if self._rows is None:
            return weight.new_zeros(1, 1, 0)
        books = 1 if isinstance(self._rows, VocoderStream) else self._codec.config.codebooks
        return self._push(torch.zeros(1, books, 0, dtype=torch.long, device=weight.device), True)

    @torch.no_grad()
    def _push(self, codes: Tensor, last: bool) -> Tensor:
        self._rows = self._rows or self._codec.rows_stream(*codes.shape[:2])
        inside = torch.ones(1, codes.shape[-1], dtype=torch.bool, device=codes.device)
        with torch.autocast(codes.device.type, enabled=False):
            return self._rows.push(codes, inside, last)


class WaveformStream:
    """A `Stream` of codes of more than the vocoder's books, for B `rows`."""

    def __init__(self, codec: CompactCodec, rows: int) -> None:
        self.codec, self.past, self.unsaid = codec, codec.decoder.silence(rows), OVERLAP - 1
        self.window = codec.head.weight.new_zeros(rows, 0, 2 * HOP)  # the last one, whose second half is to come

    def push(self, codes: Tensor, inside: Tensor, last: bool = False) -> Tensor:
        latent = self.codec.latent_of(codes) * inside[..., None]
        hidden = self.codec.decoder.step(F.pad(latent, (0, 0, 0, OVERLAP * int(last))), self.past)
        skipped = min(self.unsaid, hidden.shape[1])  # the decoder has heard two frames more than it speaks of
        self.unsaid -= skipped
        windows = self.codec.head.windows(self.codec.decoder_norm(hidden[:, skipped:]))
        joined = torch.cat([self.window, windows], dim=1)
        self.window = joined[:, -1:]
        return overlap_halves(joined)


def _windows(waveform: Tensor) -> Tensor:
    """waveform [B, 1, N] -> [B, T, 1280]: of each frame the samples that end with it, brought to one level."""
    padded = F.pad(waveform[:, 0].float(), (WINDOW - HOP, -waveform.shape[-1] % HOP))
    windows = padded.unfold(1, WINDOW, HOP)
    return windows / (windows.square().mean(-1, keepdim=True).sqrt() + QUIET)
