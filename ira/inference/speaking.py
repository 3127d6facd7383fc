"""Normalised text, voices and seeds in, codec tokens out: long text in pieces, pieces of like length together.

A piece has its own seed and a bound on its length; one that does not end by itself is tried once more.
"""

from __future__ import annotations

import re
import textwrap
from collections.abc import Callable, Iterator, Sequence
from contextlib import contextmanager
from dataclasses import dataclass, replace

import torch
from torch import Tensor

from ira.data.text import CharTokenizer
from ira.models.decode import Sampling, frame_bound, generate
from ira.models.speech_lm import SpeechLM

LONGEST_PIECE = 180  # characters: about the longest sentence of the usual corpora, 12 s
SPOKEN_TOGETHER = 8  # pieces in one batch: the time of two or three alone, and bounded memory
# A text's seed is below 2^31; its pieces and their second attempts draw from seeds that no other text begins with.
SEEDS = 2**31
PIECE_STEP = 2 * SEEDS


@dataclass(frozen=True)
class Piece:
    """What one decoding says: normalised text in a voice [P]."""

    text: str
    voice: Tensor
    seed: int


@dataclass(frozen=True)
class SaidPiece:
    """codes: [K, T]; finished: it ended by itself, with at least one frame; attempts: 1 or 2."""

    codes: Tensor
    finished: bool
    attempts: int


def cut_text(text: str, longest: int = LONGEST_PIECE) -> list[str]:
    """Cut at sentence ends, where a sentence is too long at commas, then at spaces; pieces that say nothing fall away.

    Neighbours are joined again as far as they fit: a lone "yes." is spoken worse than one with its sentence.
    """
    pieces: list[str] = []
    for part in _parts(text, longest):
        if pieces and len(pieces[-1]) + 1 + len(part) <= longest:
            pieces[-1] += " " + part
        else:
            pieces.append(part)
    return [piece for piece in pieces if any(character.isalpha() for character in piece)]


def _parts(text: str, longest: int) -> Iterator[str]:
    for sentence in re.split(r"(?<=[.!?])\s+", text):
        if len(sentence) <= longest:
            yield sentence
            continue
        for clause in re.split(r"(?<=[,;:])\s+", sentence):
            yield from textwrap.wrap(clause, longest, break_on_hyphens=False)


def say(
    model: SpeechLM,
    pieces: Sequence[Piece],
    frame_rate: float,
    sampling: Sampling | None = None,
    on_frame: Callable[[int], None] | None = None,
) -> list[SaidPiece]:
    """Speak every piece; those that did not end get one more attempt with another seed.

    A piece's tokens follow from its text, voice and seed, not from the others. `on_frame` gets the count of frames in
    the batch at work.
    """
    said = _say_once(model, pieces, frame_rate, sampling, on_frame)
    again = [i for i, piece in enumerate(said) if not piece.finished]
    second = [replace(pieces[i], seed=pieces[i].seed + SEEDS) for i in again]
    for i, piece in zip(again, _say_once(model, second, frame_rate, sampling, on_frame), strict=True):
        kept = piece if piece.finished or not said[i].codes.shape[-1] else said[i]
        said[i] = replace(kept, attempts=2)
    return said


def _say_once(
    model: SpeechLM,
    pieces: Sequence[Piece],
    frame_rate: float,
    sampling: Sampling | None,
    on_frame: Callable[[int], None] | None,
) -> list[SaidPiece]:
    said: dict[int, SaidPiece] = {}
    order = sorted(range(len(pieces)), key=lambda i: len(pieces[i].text))
    for start in range(0, len(order), SPOKEN_TOGETHER):
        chosen = order[start : start + SPOKEN_TOGETHER]
        together = _decode(model, [pieces[i] for i in chosen], frame_rate, sampling, on_frame)
        said.update(zip(chosen, together, strict=True))
    return [said[i] for i in range(len(pieces))]


@torch.no_grad()
def _decode(
    model: SpeechLM,
    pieces: Sequence[Piece],
    frame_rate: float,
    sampling: Sampling | None,
    on_frame: Callable[[int], None] | None,
) -> list[SaidPiece]:
    device = model.null_text.device
    ids = [torch.tensor(CharTokenizer().encode(piece.text)) for piece in pieces]
    lengths = torch.tensor([len(row) for row in ids], device=device)
    text = torch.nn.utils.rnn.pad_sequence(ids, batch_first=True).to(device)
    voices = torch.stack([piece.voice for piece in pieces]).to(device)
    seeds = [piece.seed for piece in pieces]
    with cpu_threads(1):
        told, untold = model.condition(text, lengths, voices), model.condition(None, None, voices)
        spoken = generate(model, told, untold, frame_bound(lengths, frame_rate), seeds, sampling, on_frame)
    rows = zip(spoken.codes, spoken.frames.tolist(), spoken.finished.tolist(), strict=True)
    return [SaidPiece(codes[:, :frames].cpu(), bool(ended) and frames > 0, 1) for codes, frames, ended in rows]


@contextmanager
def cpu_threads(most: int) -> Iterator[None]:
    """Inside, torch computes with at most `most` CPU threads; afterwards with as many as before.

    A step of decoding is many small products. Threads that wait for one another at each of them made it 25 times
    slower on a busy machine of two cores.
    """
    before = torch.get_num_threads()
    torch.set_num_threads(min(most, before))
    try:
        yield
    finally:
        torch.set_num_threads(before)
