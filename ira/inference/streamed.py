"""Pieces of text in, their sound out while it is still being decoded: a small part first, then larger ones."""

from __future__ import annotations

from collections.abc import Iterable, Iterator

import torch
from torch import Tensor

from ira.audio.codec import Codec
from ira.inference.speaking import Piece, begin, cpu_threads
from ira.models.sampling import Sampling
from ira.models.speech_lm import SpeechLM

FIRST_FRAMES, MOST_FRAMES, GROWTH = 4, 32, 2  # of codes that are turned into sound together


def stream(model: SpeechLM, codec: Codec, pieces: Iterable[Piece], sampling: Sampling) -> Iterator[Tensor]:
    """Parts [1, n] of the speech; of each piece together what one decoding of it says, and its pause before the next.

    Each piece is said once: what has been heard cannot be taken back. A piece is asked for when the one before it has
    been said.
    """
    pause = 0.0
    for number, piece in enumerate(pieces):
        if number:
            yield torch.zeros(1, int(pause * codec.sample_rate))
        yield from _stream_piece(model, codec, piece, sampling)
        pause = piece.pause


def _stream_piece(model: SpeechLM, codec: Codec, piece: Piece, sampling: Sampling) -> Iterator[Tensor]:
    with cpu_threads(1):
        decoding, _ = begin(model, [piece], codec.frame_rate, sampling)
    sound, sent, size = codec.stream(), 0, FIRST_FRAMES
    while not decoding.done:
        with cpu_threads(1):
            decoding.advance()
        ready = min(decoding.complete, int(decoding.frames[0]))
        if ready - sent >= size or (decoding.done and ready > sent):
            yield from _heard(sound.push(decoding.drawn(sent, ready)))
            sent, size = ready, min(size * GROWTH, MOST_FRAMES)
    yield from _heard(sound.finish())


def _heard(part: Tensor) -> Iterator[Tensor]:
    if part.shape[-1]:
        yield part[0].cpu()
