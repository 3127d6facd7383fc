"""Sound that is still being made in, to a file or down a pipe as it comes."""

from __future__ import annotations

import sys
import time
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from itertools import chain, islice
from pathlib import Path
from typing import TYPE_CHECKING

import numpy as np
import soundfile
import typer

from ira.errors import InputError

if TYPE_CHECKING:
    from torch import Tensor

    from ira.inference.pipeline import Pipeline

_UNKNOWN = (0xFFFFFFFF).to_bytes(4, "little")  # length of a WAV file that nobody knows yet


def write_live(parts: Iterator[Tensor], rate: int, out: Path | None) -> None:
    """Write parts [1, n] as they come, to `out` or as a WAV file to stdout, and tell how soon the first was there.

    Raises:
        InputError: stdout is a terminal.
    """
    started, samples = time.monotonic(), 0
    head = list(islice(parts, 1))  # what cannot be spoken is refused here, before OUT is touched
    first = time.monotonic() - started
    with _sink(rate, out) as write:
        for part in chain(head, parts):
            write((part[0].clamp(-1, 1) * 32767).short().numpy())
            samples += part.shape[-1]
    took = time.monotonic() - started
    typer.echo(f"first sound after {first:.2f} s; {samples / rate:.1f} s of speech in {took:.1f} s", err=True)


def respond_live(
    pipeline: Pipeline, audio: str, prompt: str | None, out: Path, voice: str | None, seed: int, language: str
) -> str:
    """Speak an answer to `out` sentence by sentence, the first before the rest is found; the whole answer."""
    bits: list[str] = []

    def found() -> Iterator[str]:
        for bit in pipeline.listen_stream(audio, prompt):
            bits.append(bit)
            yield bit

    parts = pipeline.speak_stream(found(), voice, seed, language, strict=False)
    write_live(parts, pipeline.parts.codec.sample_rate, out)
    return "".join(bits)


@contextmanager
def _sink(rate: int, out: Path | None) -> Iterator[Callable[[np.ndarray], None]]:
    if out is not None:
        with soundfile.SoundFile(str(out), "w", rate, 1) as file:
            yield lambda samples: (file.write(samples), file.flush())  # type: ignore[func-returns-value]
        return
    if sys.stdout.isatty():
        raise InputError("--stream without --out writes sound to stdout, a terminal; pipe it: ... --stream | aplay")
    pipe = sys.stdout.buffer
    pipe.write(b"RIFF" + _UNKNOWN + b"WAVEfmt " + _format(rate) + b"data" + _UNKNOWN)
    yield lambda samples: (pipe.write(samples.astype("<i2").tobytes()), pipe.flush())  # type: ignore[func-returns-value]


def _format(rate: int) -> bytes:
    """The `fmt ` chunk of 16-bit mono PCM, with its length."""
    numbers = ((16, 4), (1, 2), (1, 2), (rate, 4), (2 * rate, 4), (2, 2), (16, 2))
    return b"".join(number.to_bytes(size, "little") for number, size in numbers)
