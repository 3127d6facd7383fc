"""Pieces of text with voices and seeds in, their codec tokens and sound out; pieces of like length together.

A piece has its own seed and a bound on its length; one with a fault is said again, and the best attempt is kept.
"""

from __future__ import annotations

import time
from collections.abc import Callable, Iterator, Sequence
from contextlib import contextmanager
from dataclasses import dataclass, field, replace

import torch
from torch import Tensor

from ira.audio.codec import Codec
from ira.data.pronunciation import SpeechTokenizer
from ira.inference.faults import Fault, find_faults, weight
from ira.models.decode import Decoding, frame_bound
from ira.models.sampling import Sampling
from ira.models.speech_lm import SpeechLM

SPOKEN_TOGETHER = 8  # pieces in one batch: the time of two or three alone, and bounded memory
ATTEMPTS = 3  # at most, where something is wrong with what was said
# A text's seed is below 2^31; its pieces and their further attempts draw from seeds that no other text begins with.
SEEDS = 2**31
PIECE_STEP = ATTEMPTS * SEEDS


@dataclass(frozen=True)
class Piece:
    """What one decoding says: normalised text in a language and a voice [P]; `pause` seconds of silence follow it.

    pace: 1 is as the voice was learned, 2 about twice as fast.
    """

    text: str
    voice: Tensor
    seed: int
    language: str = "en"
    pause: float = 0.0
    pace: float = 1.0


def _no_places() -> Tensor:
    return torch.zeros(0, dtype=torch.long)


@dataclass(frozen=True)
class SaidPiece:
    """What came of a piece; of several attempts the best.

    codes: [K, T]; finished: it ended by itself, with at least one frame; attempts: 1 to `ATTEMPTS`.
    path: [T] text token of each frame; entropy: [T] of book 0's distribution, in nats; symbols: the text tokens.
    waveform: [1, N]; faults: what is still wrong with it.
    decoding, sounding: seconds of computing for tokens and for sound, all attempts together.
    """

    codes: Tensor
    finished: bool
    attempts: int = 1
    path: Tensor = field(default_factory=_no_places)
    entropy: Tensor = field(default_factory=lambda: torch.zeros(0))
    symbols: list[str] = field(default_factory=list)
    waveform: Tensor = field(default_factory=lambda: torch.zeros(1, 0))
    faults: list[Fault] = field(default_factory=list)
    decoding: float = 0.0
    sounding: float = 0.0


def say(
    model: SpeechLM,
    codec: Codec,
    pieces: Sequence[Piece],
    sampling: Sampling | None = None,
    on_frame: Callable[[int], None] | None = None,
) -> list[SaidPiece]:
    """Speak every piece; those with a fault are said again with another seed, `ATTEMPTS` times at most.

    A piece's speech follows from its text, voice, language and seed, not from the others. `on_frame` gets the count of
    frames in the batch at work.
    """
    said = _say_once(model, codec, pieces, sampling, on_frame)
    for attempt in range(1, 1 if sampling and sampling.temperature == 0 else ATTEMPTS):
        again = [i for i, piece in enumerate(said) if piece.faults]
        seeded = [replace(pieces[i], seed=pieces[i].seed + attempt * SEEDS) for i in again]
        for i, piece in zip(again, _say_once(model, codec, seeded, sampling, on_frame), strict=True):
            said[i] = _better(said[i], piece)
    return said


def _better(before: SaidPiece, now: SaidPiece) -> SaidPiece:
    """The one with the lighter faults, the earlier where they are alike, with the attempts and the time of both."""
    return replace(
        now if weight(now.faults) < weight(before.faults) else before,
        attempts=before.attempts + now.attempts,
        decoding=before.decoding + now.decoding,
        sounding=before.sounding + now.sounding,
    )


def _say_once(
    model: SpeechLM,
    codec: Codec,
    pieces: Sequence[Piece],
    sampling: Sampling | None,
    on_frame: Callable[[int], None] | None,
) -> list[SaidPiece]:
    said: dict[int, SaidPiece] = {}
    device = next(model.parameters()).device
    order = sorted(range(len(pieces)), key=lambda i: len(pieces[i].text))
    for start in range(0, len(order), SPOKEN_TOGETHER):
        chosen = order[start : start + SPOKEN_TOGETHER]
        started = time.monotonic()
        together = _decode(model, [pieces[i] for i in chosen], codec.frame_rate, sampling, on_frame)
        took = (time.monotonic() - started) / max(1, sum(piece.codes.shape[-1] for piece in together))
        for i, piece in zip(chosen, together, strict=True):
            said[i] = _sounded(codec, pieces[i], replace(piece, decoding=took * piece.codes.shape[-1]), device)
    return [said[i] for i in range(len(pieces))]


@torch.no_grad()
def _sounded(codec: Codec, piece: Piece, said: SaidPiece, device: torch.device) -> SaidPiece:
    """With its waveform and its faults. Each alone: what is heard must not depend on the neighbours' length."""
    started = time.monotonic()
    sound = said.waveform
    if said.codes.shape[-1]:
        sound = codec.decode(said.codes[None].to(device))[0].cpu()
    faults = find_faults(
        piece.text,
        said.codes,
        said.finished,
        said.path,
        said.symbols,
        sound,
        codec.frame_rate,
        codec.sample_rate,
        piece.pace,
    )
    return replace(said, waveform=sound, faults=faults, sounding=time.monotonic() - started)


def _decode(
    model: SpeechLM,
    pieces: Sequence[Piece],
    frame_rate: float,
    sampling: Sampling | None,
    on_frame: Callable[[int], None] | None,
) -> list[SaidPiece]:
    with cpu_threads(1):
        decoding, symbols = begin(model, pieces, frame_rate, sampling)
        spoken = decoding.run(on_frame)
    codes, path, entropy = spoken.codes.cpu(), spoken.path.cpu(), spoken.entropy.cpu()
    return [
        SaidPiece(
            codes[i, :, :frames],
            bool(spoken.finished[i]) and frames > 0,
            path=path[i, :frames],
            entropy=entropy[i, :frames],
            symbols=symbols[i],
        )
        for i, frames in enumerate(spoken.frames.tolist())
    ]


@torch.no_grad()
def begin(
    model: SpeechLM, pieces: Sequence[Piece], frame_rate: float, sampling: Sampling | None
) -> tuple[Decoding, list[list[str]]]:
    """Pieces ready to be decoded together, and the symbols of each one's text tokens."""
    device, tokenizer = model.null_text.device, SpeechTokenizer()
    ids = [tokenizer.encode(piece.text, piece.language) for piece in pieces]
    lengths = torch.tensor([len(row) for row in ids], device=device)
    text = torch.nn.utils.rnn.pad_sequence([torch.tensor(row) for row in ids], batch_first=True).to(device)
    language = torch.tensor([model.languages.index(piece.language) for piece in pieces], device=device)
    voices = torch.stack([piece.voice for piece in pieces]).to(device)
    told = model.condition(text, lengths, voices, language)
    untold = model.condition(None, None, None, batch=len(pieces))  # guidance is away from no text and no voice
    pace, seeds = torch.tensor([piece.pace for piece in pieces], device=device), [piece.seed for piece in pieces]
    bounds = (frame_bound(lengths, frame_rate) / pace.clamp(max=1.0)).long()
    decoding = Decoding(model, told, untold, bounds, seeds, sampling or Sampling(), pace)
    return decoding, [tokenizer.symbols(row) for row in ids]


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
