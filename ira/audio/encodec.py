"""EnCodec 24 kHz behind the codec protocol: waveform [B, 1, N] in, codes [B, K, T] out, and back.

The layers are those of transformers' `EncodecModel` (Défossez et al. 2022, "High Fidelity Neural Audio Compression",
arXiv 2210.13438); how they are walked is ours. `CausalStack` carries each layer's left context from one piece of the
signal to the next, so audio of any length takes the memory of one piece and has no seam, and speech can be played
while it is generated. The released weights (facebook/encodec_24khz) are Meta's, under Meta's terms; IRA does not
ship them: naming their hub id downloads them to the user's own cache.
"""

from __future__ import annotations

import hashlib
import math
from collections.abc import Iterable
from pathlib import Path
from typing import Any, cast

import torch
from torch import Tensor, nn
from torch.nn import functional as F
from torch.nn.utils import parametrize
from transformers import EncodecConfig, EncodecModel, PreTrainedConfig
from transformers.models.encodec.modeling_encodec import (
    EncodecConv1d,
    EncodecConvTranspose1d,
    EncodecLSTM,
    EncodecResnetBlock,
    EncodecVectorQuantization,
)

from ira.audio.codec import Tokens, check_codes, check_frames, pad_to_frames
from ira.errors import InputError

# Frames of all rows together that run through the layers at once: 10 s of audio, some 300 MB in the full-size model.
CHUNK_FRAMES = 750
# What the layers can be walked with; the 48 kHz stereo model differs in nearly all of these.
_WANTED = {
    "sampling_rate": 24_000,
    "audio_channels": 1,
    "normalize": False,
    "chunk_length_s": None,
    "norm_type": "weight_norm",
    "use_causal_conv": True,
    "trim_right_ratio": 1.0,
    "pad_mode": "reflect",
}
# Buffers that only codebook training reads: they do not change a token, so they are no part of the fingerprint.
_TRAINING_ONLY = ("codebook.inited", "codebook.cluster_size", "codebook.embed_avg")


class EncodecCodec(nn.Module):
    """EnCodec 24 kHz. Takes the `model` over: it is frozen and its weight norm is folded away.

    `bandwidth_kbps` (1.5, 3, 6, 12, 24 = 2, 4, 8, 16, 32 codebooks) is what `encode` uses where a call does not say;
    any prefix of all codebooks may be asked for per call. Always in the weights' dtype, whatever the autocast: a
    rounded latent is another token.
    """

    def __init__(self, model: EncodecModel, bandwidth_kbps: float = 6.0, chunk_frames: int = CHUNK_FRAMES) -> None:
        super().__init__()
        _check_config(model.config, "this model")
        self.sample_rate = int(model.config.sampling_rate)
        self.hop = int(model.config.hop_length)
        self.frame_rate = self.sample_rate / self.hop
        self.codebook_size = int(model.config.codebook_size)
        self.codebooks = _codebooks_at(model.config, bandwidth_kbps)
        self.max_codebooks = len(model.quantizer.layers)
        self.chunk_frames = chunk_frames
        self._weights_hash = _hash_weights(model)
        self.model = _fold_weight_norm(model).eval().requires_grad_(False)

    @classmethod
    def from_pretrained(cls, path: str | Path, bandwidth_kbps: float = 6.0) -> EncodecCodec:
        """Load `path`, a hub id or a folder that `EncodecModel.save_pretrained` wrote (safetensors only).

        Raises:
            InputError: nothing there, another kind of model, incomplete weights, or a bandwidth it does not have.
        """
        return cls(load_encodec(str(path)), bandwidth_kbps)

    @torch.no_grad()
    def encode(self, waveform: Tensor, samples: Tensor | None = None, codebooks: int | None = None) -> Tokens:
        """[B, 1, N] samples, `samples` [B] valid ones of each row -> codes [B, K, T] of the first `codebooks`.

        Rows are zero-padded to whole frames, so no layer adds padding of its own at the end.
        """
        K = self._check_codebooks(codebooks)
        padded, frames = pad_to_frames(waveform.to(self._like()), samples, self.hop)
        stack = CausalStack(self.model.encoder.layers, self.hop, frames)
        pieces = padded.split(self._piece(len(padded), stack.lead) * self.hop, dim=-1)
        codes = torch.cat([self._quantize(stack.push(piece), K) for piece in pieces], dim=-1)
        past_end = torch.arange(codes.shape[-1], device=codes.device) >= frames[:, None]
        return Tokens(codes.masked_fill(past_end[:, None], 0), frames)

    @torch.no_grad()
    def decode(self, codes: Tensor, frames: Tensor | None = None) -> Tensor:
        """[B, K', T] codes of the first K' codebooks, `frames` [B] valid ones -> [B, 1, T * hop], 0 past a row's."""
        check_codes(codes, self.max_codebooks, self.codebook_size)
        codes = codes.to(self._like().device)
        frames = check_frames(codes, frames)
        stack = CausalStack(self.model.decoder.layers, 1, frames)
        pieces = codes.split(self._piece(len(codes), stack.lead), dim=-1)
        waveform = torch.cat([stack.push(self._latents(piece)) for piece in pieces], dim=-1)
        past_end = torch.arange(waveform.shape[-1], device=codes.device) >= frames[:, None] * self.hop
        return waveform.masked_fill_(past_end[:, None], 0.0)

    def stream(self) -> EncodecDecoderStream:
        """A fresh decoder of one utterance that takes its codes piece by piece."""
        return EncodecDecoderStream(self)

    def code_vectors(self) -> list[Tensor]:
        layers = list(self.model.quantizer.layers)[: self.codebooks]
        return [cast(EncodecVectorQuantization, layer).codebook.embed.detach() for layer in layers]

    def fingerprint(self) -> str:
        """Like "encodec-24khz:1f2e3d4c:k8": equal where the tokens are interchangeable, on every machine."""
        return f"encodec-24khz:{self._weights_hash[:8]}:k{self.codebooks}"

    def _like(self) -> Tensor:
        return next(self.model.parameters())

    def _piece(self, rows: int, lead: int) -> int:
        return max(lead, self.chunk_frames // rows)

    def _check_codebooks(self, codebooks: int | None) -> int:
        K = self.codebooks if codebooks is None else codebooks
        if not 1 <= K <= self.max_codebooks:
            raise InputError(f"{K} codebooks; EnCodec has 1..{self.max_codebooks}; ask for one of those")
        return K

    def _quantize(self, latents: Tensor, K: int) -> Tensor:
        """Residual quantization: [B, C, T] latents -> [B, K, T] indices of the nearest entries."""
        indices = []
        with torch.autocast(latents.device.type, enabled=False):
            for layer in cast(list[EncodecVectorQuantization], list(self.model.quantizer.layers)[:K]):
                indices.append(layer.encode(latents))
                latents = latents - layer.decode(indices[-1])
        return torch.stack(indices, dim=1)

    def _latents(self, codes: Tensor) -> Tensor:
        return self.model.quantizer.decode(codes.transpose(0, 1))


class EncodecDecoderStream:
    """One utterance decoded as its codes come: all pushes and `finish` joined equal `decode` of the whole.

    EnCodec mirrors the first frames to pad its start, so the first sound depends on the first 7 frames: pushes return
    nothing until those are there (0.1 s), and from then on 320 samples for every frame at once.
    """

    def __init__(self, codec: EncodecCodec) -> None:
        self._codec = codec
        self._stack = CausalStack(codec.model.decoder.layers, 1)
        self._held: list[Tensor] = []
        self._finished = False

    @torch.no_grad()
    def push(self, codes: Tensor) -> Tensor:
        """[1, K', t] codes -> [1, 1, n * hop] samples; n is t, save at the start (see the class).

        Raises:
            InputError: codes out of range, or a stream that is finished.
        """
        if self._finished:
            raise InputError("codes pushed after finish; a stream serves one utterance; start another")
        check_codes(codes, self._codec.max_codebooks, self._codec.codebook_size)
        self._held.append(self._codec._latents(codes.to(self._codec._like().device)))
        held = sum(piece.shape[-1] for piece in self._held)
        return self._release() if self._stack.started or held >= self._stack.lead else self._nothing()

    @torch.no_grad()
    def finish(self) -> Tensor:
        """The end of the utterance -> [1, 1, n * hop]: what an utterance below 7 frames still holds, else nothing."""
        self._finished = True
        return self._release() if self._held else self._nothing()

    def _release(self) -> Tensor:
        latents, self._held = torch.cat(self._held, dim=-1), []
        return self._stack.push(latents)

    def _nothing(self) -> Tensor:
        return self._codec._like().new_zeros(1, 1, 0)


class CausalStack:
    """EnCodec's encoder or decoder layers over a signal that comes in pieces; the pieces' outputs join to the whole's.

    `rate` is steps a frame at the input (hop for the encoder, 1 for the decoder); every piece holds whole frames.
    The first piece holds at least `lead` frames unless it is all there is: reflect padding mirrors that far. `frames`
    [B] are the valid ones of each row; what lies past them is never mirrored into a row's start.
    """

    def __init__(self, layers: Iterable[nn.Module], rate: int, frames: Tensor | None = None) -> None:
        self._layers = list(layers)
        self._rate = rate
        self._frames = frames
        self._context: dict[nn.Module, Tensor] = {}
        self._memory: dict[nn.Module, tuple[Tensor, Tensor]] = {}
        self._piece_frames = 0
        self.lead = _lead_frames(self._layers, rate)

    @property
    def started(self) -> bool:
        """Whether a first piece has gone through."""
        return self._piece_frames > 0

    def push(self, x: Tensor) -> Tensor:
        """[B, C, t * rate] -> [B, C', t * rate'], the outputs of this piece."""
        self._piece_frames = x.shape[-1] // self._rate
        with torch.autocast(x.device.type, enabled=False):
            for layer in self._layers:
                x = self._advance(layer, x)
        return x

    def _advance(self, layer: nn.Module, x: Tensor) -> Tensor:
        if isinstance(layer, EncodecConv1d):
            return self._convolve(layer, x)
        if isinstance(layer, EncodecConvTranspose1d):
            return self._upsample(layer, x)
        if isinstance(layer, EncodecLSTM):
            return self._recur(layer, x)
        if isinstance(layer, EncodecResnetBlock):
            return self._advance(layer.shortcut, x) + self._through(layer.block, x)
        return layer(x)  # ELU and Identity look at one step only

    def _through(self, layers: Iterable[nn.Module], x: Tensor) -> Tensor:
        for layer in layers:
            x = self._advance(layer, x)
        return x

    def _convolve(self, layer: EncodecConv1d, x: Tensor) -> Tensor:
        """A convolution whose left padding is the end of the piece before."""
        pad = _left_padding(layer)
        if pad == 0:
            return layer.conv(x)
        left = self._context[layer] if layer in self._context else self._mirror(x, pad)
        x = torch.cat([left, x], dim=-1)
        self._context[layer] = x[..., -pad:].clone()  # a view would keep the whole piece alive
        return layer.conv(x)

    def _mirror(self, x: Tensor, pad: int) -> Tensor:
        """Reflect padding of a signal's start: steps pad..1; a step that a row does not have counts as 0."""
        head = F.pad(x[..., 1 : pad + 1], (0, max(0, pad + 1 - x.shape[-1])))
        if self._frames is not None:
            steps = self._frames * (x.shape[-1] // self._piece_frames)
            past_end = torch.arange(1, pad + 1, device=x.device) >= steps[:, None]
            head = head.masked_fill(past_end[:, None], 0.0)
        return head.flip(-1)

    def _upsample(self, layer: EncodecConvTranspose1d, x: Tensor) -> Tensor:
        """A transposed convolution cut at its right end; each output step reads this input and `back` before it."""
        kernel, stride = cast(nn.ConvTranspose1d, layer.conv).kernel_size[0], _stride(layer)
        back = math.ceil(kernel / stride) - 1
        left = self._context[layer] if layer in self._context else x.new_zeros(*x.shape[:-1], back)
        x = torch.cat([left, x], dim=-1)
        self._context[layer] = x[..., x.shape[-1] - back :].clone()
        return layer.conv(x)[..., back * stride : x.shape[-1] * stride]

    def _recur(self, layer: EncodecLSTM, x: Tensor) -> Tensor:
        steps = x.permute(2, 0, 1)
        out, self._memory[layer] = layer.lstm(steps, self._memory.get(layer))
        return (out + steps).permute(1, 2, 0)


def _left_padding(layer: EncodecConv1d) -> int:
    conv = cast(nn.Conv1d, layer.conv)
    return (conv.kernel_size[0] - 1) * conv.dilation[0] + 1 - conv.stride[0]


def _stride(layer: EncodecConv1d | EncodecConvTranspose1d) -> int:
    return cast(nn.Conv1d, layer.conv).stride[0]


def _lead_frames(layers: list[nn.Module], rate: int) -> int:
    """Frames after which every layer has the steps that its reflect padding mirrors; `rate` is steps a frame."""
    lead = 1
    for layer in layers:
        pads = [_left_padding(inner) for inner in layer.modules() if isinstance(inner, EncodecConv1d)]
        lead = max([lead, *(math.ceil((pad + 1) / rate) for pad in pads)])
        if isinstance(layer, EncodecConv1d):
            rate //= _stride(layer)
        elif isinstance(layer, EncodecConvTranspose1d):
            rate *= _stride(layer)
    return lead


def _codebooks_at(config: EncodecConfig, bandwidth_kbps: float) -> int:
    """Codebooks that make up a bandwidth: one is log2(size) bits, `frame_rate` times a second."""
    if bandwidth_kbps not in config.target_bandwidths:
        offered = ", ".join(f"{kbps:g}" for kbps in config.target_bandwidths)
        raise InputError(f"bandwidth {bandwidth_kbps} kbps; this EnCodec offers {offered}; choose one of those")
    return int(bandwidth_kbps * 1000 // (math.log2(config.codebook_size) * config.frame_rate))


def _fold_weight_norm(model: EncodecModel) -> EncodecModel:
    """Weights instead of directions and norms: the same function, without computing the weights at every call."""
    for layer in list(model.modules()):
        if parametrize.is_parametrized(layer):
            parametrize.remove_parametrizations(layer, "weight")
    return model


def _hash_weights(model: EncodecModel) -> str:
    """sha256 of names, shapes and values, before folding: arithmetic could round differently on another machine."""
    digest = hashlib.sha256()
    for name, value in sorted(model.state_dict().items()):
        if not name.endswith(_TRAINING_ONLY):
            digest.update(f"{name} {tuple(value.shape)} ".encode())
            digest.update(value.detach().cpu().contiguous().numpy())
    return digest.hexdigest()


def load_encodec(path: str) -> EncodecModel:
    """The model itself, as it was saved.

    Raises:
        InputError: see `EncodecCodec.from_pretrained`.
    """
    _check_place(path)
    remedy = "give a folder with config.json and model.safetensors, or a hub id such as facebook/encodec_24khz"
    try:
        raw, _ = PreTrainedConfig.get_config_dict(path)
        _check_kind(raw, path)
        model, report = cast(Any, EncodecModel).from_pretrained(
            path, dtype=torch.float32, use_safetensors=True, output_loading_info=True
        )
    except InputError:
        raise
    except Exception as error:  # transformers, safetensors and the hub each raise their own
        reason = " ".join(str(error).split())[:160]
        raise InputError(f"{path}: not loaded as EnCodec ({type(error).__name__}: {reason}); {remedy}") from None
    if report["missing_keys"]:
        missing = sorted(report["missing_keys"])
        raise InputError(f"{path}: {len(missing)} weights are missing, first {missing[0]}; {remedy}")
    return model


def _check_place(path: str) -> None:
    """A path that is plainly a place on disk must be a folder: the hub would be asked for it otherwise."""
    local = path.startswith(("/", ".", "~")) or path.count("/") > 1 or Path(path).exists()
    if local and not Path(path).is_dir():
        raise InputError(f"{path}: no such folder; an EnCodec model folder or a hub id is wanted; check codec.path")


def _check_kind(raw: dict, path: str) -> None:
    kind = raw.get("model_type")
    if kind != "encodec":
        raise InputError(f"{path}: holds a model of type {kind}; encodec is wanted; check codec.path")
    _check_config(EncodecConfig.from_dict(raw), path)


def _check_config(config: EncodecConfig, path: str) -> None:
    wrong = {name: getattr(config, name) for name, want in _WANTED.items() if getattr(config, name) != want}
    if wrong:
        given = ", ".join(f"{name} {value}" for name, value in wrong.items())
        wanted = ", ".join(f"{name} {_WANTED[name]}" for name in wrong)
        raise InputError(f"{path}: EnCodec with {given}; {wanted} is wanted; use the 24 kHz mono model")
