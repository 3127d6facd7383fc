"""A codec in; seconds of sound encoded and decoded in a second, beside transformers' EncodecModel, out."""

from __future__ import annotations

from typing import Any

import torch
from torch import Tensor

from ira.audio.codec import Codec
from ira.bench.peers import encodec
from ira.bench.sizes import Sizes
from ira.bench.timing import Figures, Timed, Work, in_turns, memory_figures


def measure_codec(codec: Codec, sizes: Sizes, device: torch.device) -> Figures:
    """Times real time of both, at the peer's bandwidth that has the codec's number of codebooks or the nearest.

    `stream` decodes in chunks of so many frames with the state carried over; EncodecModel cannot, so it has no peer.
    """
    sound = _noise(int(sizes.sound_seconds * codec.sample_rate), device)
    peer = encodec(sizes.quick, device)
    with torch.no_grad():
        works = _works(codec, peer, sound, sizes.chunks)
        timed = in_turns(works, device, sizes.repeats)
    seconds = sound.shape[-1] / codec.sample_rate
    return {"seconds_of_sound": seconds} | _figures(timed, seconds)


def _works(codec: Codec, peer: Any, sound: Tensor, chunks: tuple[int, ...]) -> dict[str, Work]:
    """Whole and in chunks, from the same sound at the same number of codebooks where both have it."""
    kbps = min(peer.config.target_bandwidths, key=lambda one: abs(_books(peer, one) - codec.codebooks))
    codes = codec.encode(sound).codes
    theirs = peer.encode(sound, bandwidth=kbps)
    works = {
        "encode_ours": Work(lambda: codec.encode(sound)),
        "encode_encodec": Work(lambda: peer.encode(sound, bandwidth=kbps)),
        "decode_ours": Work(lambda: codec.decode(codes)),
        "decode_encodec": Work(lambda: peer.decode(theirs.audio_codes, theirs.audio_scales)),
    }
    return works | {f"stream_{size}_frames": Work(lambda size=size: _stream(codec, codes, size)) for size in chunks}


def _books(peer: Any, kbps: float) -> int:
    return peer.quantizer.get_num_quantizers_for_bandwidth(kbps)


def _stream(codec: Codec, codes: Tensor, size: int) -> Tensor:
    stream = codec.stream()
    return torch.cat([*(stream.push(chunk) for chunk in codes.split(size, dim=-1)), stream.finish()], dim=-1)


def _noise(samples: int, device: torch.device) -> Tensor:
    """[1, 1, N]: no codec is faster or slower for what it hears."""
    generator = torch.Generator().manual_seed(0)
    return (torch.rand(1, 1, samples, generator=generator) - 0.5).to(device)


def _figures(timed: dict[str, Timed], seconds: float) -> Figures:
    found: Figures = {f"{name}_times_real_time": one.seconds.of(lambda s: seconds / s) for name, one in timed.items()}
    for what in ("encode", "decode"):
        ours, theirs = (timed[f"{what}_{whose}"] for whose in ("ours", "encodec"))
        found[f"{what}_speedup"] = theirs.seconds.median / ours.seconds.median
    return found | memory_figures(timed)
