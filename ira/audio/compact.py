"""IRA's own codec: waveform [B, 1, N] at 24 kHz to tokens [B, K, T] at 75 Hz and back, small enough to ship.

log-mel and waveform -> causal ConvNeXt -> factorised residual quantizer -> causal ConvNeXt -> real coefficients ->
inverse modified discrete cosine transform. Frame-wise synthesis follows Vocos (Siuzdak 2023); 8-dimensional
L2-normalised codes follow the Descript audio codec (Kumar et al. 2023). Everything is causal in frames, and a sample
is final three frames after its own.
"""

from __future__ import annotations

import hashlib
from typing import Any, NamedTuple, cast

import torch
from torch import Tensor, nn
from torch.nn import functional as F

from ira.audio.codec import Tokens, check_codes, check_frames, pad_to_frames
from ira.audio.synthesis import HOP, OVERLAP, WINDOW, CosineHead, FourierHead
from ira.audio.waveform import SAMPLE_RATE, LogMel
from ira.config import CompactConfig
from ira.errors import InputError

KERNEL = 7
CHUNK_FRAMES = 1500  # 20 s: what one pass over long audio holds in memory
QUIET = 1e-3  # rms against which the encoder hears the waveform of a quiet window
KEPT_POINTS = 256  # of a batch
USE_RATE, DEAD = 0.02, 0.02  # a code starts at 1 and falls to 0.02 in 200 batches without a pick


class ConvNeXtBlock(nn.Module):
    """Causal depthwise convolution, layer norm, inverted bottleneck (Liu et al. 2022); [B, T, C] -> [B, T, C]."""

    def __init__(self, width: int) -> None:
        super().__init__()
        self.depthwise = nn.Conv1d(width, width, KERNEL, groups=width)
        self.norm = nn.LayerNorm(width)
        self.up = nn.Linear(width, 3 * width)
        self.down = nn.Linear(3 * width, width)
        self.scale = nn.Parameter(torch.full((width,), 0.1))

    def forward(self, x: Tensor) -> Tensor:
        y = self.depthwise(F.pad(x.transpose(1, 2), (KERNEL - 1, 0))).transpose(1, 2)
        return x + self.scale * self.down(F.gelu(self.up(self.norm(y))))


class Quantized(NamedTuple):
    """What the quantizer returns: latent [B, T, C], codes [B, K, T], and two losses (scalars)."""

    latent: Tensor
    codes: Tensor
    codebook_loss: Tensor
    commitment_loss: Tensor


class Seen(NamedTuple):
    """What a batch said about the codes: how often each was picked [K, V], and some of its points [K, P, C]."""

    picks: Tensor
    points: Tensor


class ResidualQuantizer(nn.Module):
    """Residual vector quantizer with factorised, L2-normalised codes; any prefix of the books decodes."""

    use: Tensor

    def __init__(self, width: int, codebooks: int, codebook_size: int, code_dim: int) -> None:
        super().__init__()
        self.project_in = nn.ModuleList(nn.Linear(width, code_dim) for _ in range(codebooks))
        self.project_out = nn.ModuleList(nn.Linear(code_dim, width) for _ in range(codebooks))
        self.books = nn.ParameterList(nn.Parameter(torch.randn(codebook_size, code_dim)) for _ in range(codebooks))
        self.register_buffer("use", torch.ones(codebooks, codebook_size))  # running count of picks in a batch
        self.seen: list[Seen] = []  # since the last `revive`, while training

    def forward(self, latent: Tensor, codebooks: Tensor | None = None) -> Quantized:
        """Quantize latent [B, T, C] in fp32; `codebooks` [B] limits how many books each row uses (training)."""
        residual, total = latent, torch.zeros_like(latent)
        codes, losses, points = [], [], []
        for k in range(len(self.books)):
            used = 1.0 if codebooks is None else (codebooks > k).to(latent.dtype)[:, None, None]
            point = self.project_in[k](residual)
            index = self._nearest(point, k)
            code = F.embedding(index, self.books[k])
            losses.append(torch.stack([_gap(code, point.detach(), used), _gap(point, code.detach(), used)]))
            quantized = self.project_out[k](point + (code - point).detach()) * used
            residual, total = residual - quantized, total + quantized
            codes.append(index)
            points.append(point.detach())
        if self.training:
            self.seen.append(self._look(codes, points))
        codebook_loss, commitment_loss = torch.stack(losses).sum(0)
        return Quantized(total, torch.stack(codes, 1), codebook_loss, commitment_loss)

    def _nearest(self, point: Tensor, k: int) -> Tensor:
        """Index of the code with the largest cosine; L2-normalised nearest neighbour."""
        return (F.normalize(point, dim=-1) @ F.normalize(self.books[k], dim=-1).T).argmax(-1)

    def _look(self, codes: list[Tensor], points: list[Tensor]) -> Seen:
        size = self.use.shape[1]
        picks = torch.stack([torch.bincount(index.flatten(), minlength=size) for index in codes])
        return Seen(picks.cpu(), torch.stack([evenly(point.flatten(0, 1), KEPT_POINTS) for point in points]).cpu())

    @torch.no_grad()
    def revive(self, seen: list[Seen]) -> None:
        """Move codes that no frame has picked for some 200 steps to points of the batches that were seen.

        Apart from the forward pass, so that many processes can do it alike, with what all of them saw.
        """
        picks = torch.stack([each.picks for each in seen]).float().mean(0).to(self.use)
        points = torch.cat([each.points for each in seen], dim=1).to(self.use)
        self.use += USE_RATE * (picks - self.use)
        for k, dead in enumerate(self.use < DEAD):
            if count := int(dead.sum()):
                self.books[k][dead] = evenly(points[k], count).to(self.books[k].dtype)
        self.use[self.use < DEAD] = 1.0

    def vectors(self, k: int) -> Tensor:
        """What each code of book k adds to the latent: [V, C]."""
        return self.project_out[k](self.books[k])

    def decode(self, codes: Tensor) -> Tensor:
        """codes [B, K', T] -> latent [B, T, C], for any prefix K' of the books."""
        parts = [self.project_out[k](F.embedding(codes[:, k], self.books[k])) for k in range(codes.shape[1])]
        return torch.stack(parts).sum(0)


def evenly(rows: Tensor, count: int) -> Tensor:
    """`count` of the rows, from first to last; some of them twice where there are fewer."""
    return rows[torch.arange(count, device=rows.device) * len(rows) // count]


def _gap(moving: Tensor, fixed: Tensor, used: Tensor | float) -> Tensor:
    return ((moving - fixed).square() * used).mean()


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
        width = config.width
        self.mel = LogMel(config.mel_bins, SAMPLE_RATE, WINDOW, HOP)
        self.encoder_in = nn.Linear(config.mel_bins, width)
        self.wave_in = nn.Linear(WINDOW, width, bias=False) if config.transform == "cosine" else None
        self.encoder = nn.Sequential(*(ConvNeXtBlock(width) for _ in range(config.encoder_layers)))
        self.encoder_norm = nn.LayerNorm(width)
        self.quantizer = ResidualQuantizer(width, config.codebooks, config.codebook_size, config.code_dim)
        self.decoder = nn.Sequential(*(ConvNeXtBlock(width) for _ in range(config.decoder_layers)))
        self.decoder_norm = nn.LayerNorm(width)
        self.head = CosineHead(width) if config.transform == "cosine" else FourierHead(width)

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
        return [self.quantizer.vectors(k) for k in range(self.codebooks)]

    def fingerprint(self) -> str:
        """Name and hash of the weights: tokens of one fingerprint can be read by no other."""
        digest = hashlib.sha256()
        for name, tensor in sorted(self.state_dict().items()):
            digest.update(name.encode() + tensor.detach().float().cpu().numpy().tobytes())
        return f"compact-24khz:{digest.hexdigest()[:8]}:k{self.codebooks}"

    # -- the network -------------------------------------------------------------------------------------------

    def latent(self, waveform: Tensor) -> Tensor:
        """waveform [B, 1, N] -> latent [B, T, C], T = ceil(N / 320)."""
        hidden = self.encoder_in(self.mel(waveform).transpose(1, 2))
        if self.wave_in is not None:
            hidden = hidden + self.wave_in(_windows(waveform))
        return self.encoder_norm(self.encoder(hidden))

    def synthesise(self, latent: Tensor, extra: int = OVERLAP) -> Tensor:
        """latent [B, T, C] -> waveform [B, 1, (T + extra - 3) * 320].

        A sample needs the three frames after its own; `extra` = 3 empty ones stand in for them where audio ends.
        """
        return self.head(self.decoder_norm(self.decoder(F.pad(latent, (0, 0, 0, extra)))))

    def forward(self, waveform: Tensor, codebooks: Tensor | None = None) -> tuple[Tensor, Quantized]:
        """Training pass: waveform [B, 1, N], N a multiple of 320 -> (reconstruction [B, 1, N], quantizer output)."""
        latent = self.latent(waveform)
        with torch.autocast(latent.device.type, enabled=False):
            quantized = self.quantizer(latent.float(), codebooks)
        return self.synthesise(quantized.latent), quantized

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
                latent = self.latent(waveform[..., first * HOP : (start + CHUNK_FRAMES) * HOP])[:, start - first :]
                pieces.append(self.quantizer(latent).codes[:, :books])
        inside = torch.arange(total, device=waveform.device) < frames[:, None, None]
        return Tokens(torch.cat(pieces, -1) * inside, frames)

    @torch.no_grad()
    def decode(self, codes: Tensor, frames: Tensor | None = None) -> Tensor:
        """codes [B, K', T] -> waveform [B, 1, T * 320] in fp32; rows end in silence past their frames."""
        check_codes(codes, self.config.codebooks, self.codebook_size)
        codes = codes.to(self.encoder_in.weight.device)
        frames, total = check_frames(codes, frames), codes.shape[-1]
        context = (KERNEL - 1) * self.config.decoder_layers
        pieces = []
        for start in range(0, total, CHUNK_FRAMES):
            first, end = max(0, start - context), min(total, start + CHUNK_FRAMES + OVERLAP)
            inside = torch.arange(first, end, device=codes.device) < frames[:, None]
            missing = min(total, start + CHUNK_FRAMES) + OVERLAP - end
            with torch.autocast(codes.device.type, enabled=False):
                latent = self.quantizer.decode(codes[..., first:end]) * inside[..., None]
                pieces.append(self.synthesise(latent, missing)[..., (start - first) * HOP :])
        inside = torch.arange(total * HOP, device=codes.device) < HOP * frames[:, None, None]
        return torch.cat(pieces, -1) * inside

    def _check_codebooks(self, codebooks: int | None) -> int:
        books = self.codebooks if codebooks is None else codebooks
        if not 1 <= books <= self.config.codebooks:
            raise InputError(f"{books} codebooks; this codec has 1..{self.config.codebooks}; ask for one of those")
        return books


def _windows(waveform: Tensor) -> Tensor:
    """waveform [B, 1, N] -> [B, T, 1280]: of each frame the samples that end with it, brought to one level."""
    padded = F.pad(waveform[:, 0].float(), (WINDOW - HOP, -waveform.shape[-1] % HOP))
    windows = padded.unfold(1, WINDOW, HOP)
    return windows / (windows.square().mean(-1, keepdim=True).sqrt() + QUIET)
