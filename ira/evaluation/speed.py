"""A codec in; how fast it encodes and decodes beside transformers' EncodecModel, on one machine in one run, out.

EncodecModel has the shape of the released 24 kHz model and random weights, which take as long as trained ones.
"""

from __future__ import annotations

import time
from collections.abc import Callable, Sequence
from typing import Any, cast

import torch
from torch import Tensor
from transformers import EncodecConfig, EncodecModel

from ira.audio.codec import Codec
from ira.audio.waveform import SAMPLE_RATE
from ira.data.manifest import Row
from ira.evaluation.report import Metrics
from ira.evaluation.shares import recordings

SECONDS, TRIES = 5.0, 3


def measure_speed(codec: Codec, rows: Sequence[Row], kbps: float, books: int, device: torch.device) -> Metrics:
    """Seconds of sound that are encoded and decoded in a second at a bandwidth that both codecs offer; best of three.

    Args:
        rows: the beginning of their recordings, five seconds, is the sound.
        books: codebooks of the codec at `kbps`.
    """
    sound = _sound(rows)[None].to(device)
    codes = codec.encode(sound, codebooks=books).codes
    encodec = cast(Any, EncodecModel(EncodecConfig())).eval().to(device)
    theirs = encodec.encode(sound, bandwidth=kbps)
    times = {
        "encode": lambda: codec.encode(sound, codebooks=books),
        "encode_encodec": lambda: encodec.encode(sound, bandwidth=kbps),
        "decode": lambda: codec.decode(codes),
        "decode_encodec": lambda: encodec.decode(theirs.audio_codes, theirs.audio_scales),
    }
    seconds = sound.shape[-1] / SAMPLE_RATE
    return {f"{name}_times_real_time": seconds / _best(work, device) for name, work in times.items()}


def _sound(rows: Sequence[Row]) -> Tensor:
    """[1, N], five seconds at most."""
    wanted, found = int(SECONDS * SAMPLE_RATE), []
    for row in rows:
        found += [recording for _, recording in recordings([row])]
        if sum(clip.shape[-1] for clip in found) >= wanted:
            break
    return torch.cat(found, dim=-1)[:, :wanted]


def _best(work: Callable[[], object], device: torch.device) -> float:
    """Seconds of the fastest of the tries, after one that is not counted."""
    work()
    took = []
    for _ in range(TRIES):
        _wait(device)
        started = time.perf_counter()
        work()
        _wait(device)
        took.append(time.perf_counter() - started)
    return min(took)


def _wait(device: torch.device) -> None:
    """Until the device has done what it was given."""
    if device.type == "cuda":
        torch.cuda.synchronize(device)
