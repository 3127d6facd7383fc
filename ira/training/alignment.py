"""Token shards with text in, which text token each frame says out: what the SpeechLM's pointer learns from.

A hidden Markov model whose states are the tokens of the text, in their order, and whose emissions are the codec's
codes. It is fitted by Viterbi training from evenly spread texts (Juang and Rabiner 1990), as recognisers are started:
count which codes each token goes with, find the likeliest walk through every text, count again. Discrete emissions
make it a matter of seconds, and being a model of the sound given the token it does not let silence swallow a text, as
a network that scores tokens given the sound does.
"""

from __future__ import annotations

from collections.abc import Sequence
from typing import NamedTuple

import numpy as np

from ira.data.pronunciation import SPELLED, SpeechTokenizer
from ira.data.shards import Example, language_of

FITTED_ON = 1000  # rows, at most
WIDTHS = (0.05, 0.05, 0.1, 0.1, 0.1, 0.25, 0.25, 0.25)  # a round each: of the prior on the diagonal of time and text
BOOK_WEIGHTS = (1.0, 0.7, 0.4, 0.2)  # later books say less about what is spoken
TOGETHER = 32  # rows whose walks are found at once
FAR_FROM_IT = -1e4  # score of what is padding
SMOOTHING = 100.0  # frames that every token is taken to have had of every book's usual codes


class Spoken(NamedTuple):
    """A recording and its text: codes [K, T], ids of `SpeechTokenizer`, language as two letters."""

    codes: np.ndarray
    ids: Sequence[int]
    language: str


class WalkModel:
    """Emission scores of each book [classes, V]: log-probability of a code at a token against that of the code at all.

    A token has a class for each language; signs, spaces and the end are all the class of pauses.
    """

    def __init__(self, tokenizer: SpeechTokenizer, languages: Sequence[str]) -> None:
        self.tokenizer, self.languages = tokenizer, list(languages)
        self.classes = np.arange(tokenizer.vocab_size)
        silent = [i for i, symbol in enumerate(tokenizer.symbols(self.classes.tolist())) if not symbol.isalnum()]
        self.classes[silent] = tokenizer.end
        self.scores: list[np.ndarray] = []

    def walks(self, spoken: Sequence[Spoken], width: float = WIDTHS[-1]) -> list[np.ndarray]:
        """The token of each frame [T] of several recordings, from the first to the last without a skip.

        Where there are more tokens than frames, each frame takes its place on the diagonal.
        """
        scores = [self._scores(one, width) for one in spoken]
        sizes, lengths = ([score.shape[axis] for score in scores] for axis in (0, 1))
        padded = np.full((len(scores), max(sizes), max(lengths)), FAR_FROM_IT, dtype=np.float32)
        for row, score in zip(padded, scores, strict=True):
            row[: score.shape[0], : score.shape[1]] = score
        return likeliest_walks(padded, np.array(sizes), np.array(lengths))

    def fit(self, examples: Sequence[Example], codebook_size: int) -> None:
        """Learn the emissions from examples with text."""
        ordered = [self._spoken(one) for one in sorted(examples, key=lambda one: one.frames)]
        walks = [np.arange(one.codes.shape[1]) * len(one.ids) // one.codes.shape[1] for one in ordered]
        for width in WIDTHS:
            self._count(ordered, walks, codebook_size)
            walks = [
                walk
                for start in range(0, len(ordered), TOGETHER)
                for walk in self.walks(ordered[start : start + TOGETHER], width)
            ]
        self._count(ordered, walks, codebook_size)

    def _spoken(self, example: Example) -> Spoken:
        language = language_of(example)
        return Spoken(example.codes.numpy(), self.tokenizer.encode(example.text, language, spelled=SPELLED), language)

    def _scores(self, one: Spoken, width: float) -> np.ndarray:
        """[T, L] of frames at tokens: how well the codes fit, and the prior on the diagonal."""
        size, length = one.codes.shape[1], len(one.ids)
        diagonal = np.arange(size)[:, None] / size - np.arange(length) / length
        scores = (-0.5 * (diagonal / width) ** 2).astype(np.float32)
        rows = self._rows(one.ids, one.language)
        for weight, table, row in zip(BOOK_WEIGHTS, self.scores, one.codes, strict=False):
            scores += weight * table[rows][:, row].T
        return scores

    def _count(self, spoken: Sequence[Spoken], walks: list[np.ndarray], codebook_size: int) -> None:
        classes = len(self.languages) * len(self.classes)
        counts = np.zeros((len(BOOK_WEIGHTS), classes * codebook_size), dtype=np.float32)
        for one, walk in zip(spoken, walks, strict=True):
            rows = self._rows(one.ids, one.language)[walk]
            for book, row in zip(counts, one.codes, strict=False):
                book += np.bincount(rows * codebook_size + row, minlength=len(book))
        self.scores = [_emissions(book.reshape(classes, codebook_size)) for book in counts]

    def _rows(self, ids: Sequence[int], language: str) -> np.ndarray:
        return self.classes[list(ids)] + self.languages.index(language) * len(self.classes)


def _emissions(counts: np.ndarray) -> np.ndarray:
    """Counts [classes, V] -> smoothed log-probability ratios of the same shape."""
    usual = (counts.sum(0) + 1) / (counts.sum() + counts.shape[1])
    smooth = (counts + SMOOTHING * usual) / (counts.sum(1, keepdims=True) + SMOOTHING)
    return np.log(smooth / usual).astype(np.float32)


def likeliest_walks(scores: np.ndarray, sizes: np.ndarray, lengths: np.ndarray) -> list[np.ndarray]:
    """Scores [B, T, L] of frames at tokens -> the token of each frame of each row, monotonic and without a skip.

    The alignment search of Glow-TTS (Kim et al. 2020), all rows at once.

    Args:
        sizes, lengths: [B], frames and tokens of each row.
    """
    batch, size, length = scores.shape
    rows = np.arange(batch)
    best = np.full((batch, length), -np.inf, dtype=np.float32)
    best[:, 0] = scores[:, 0, 0]
    moved = np.full_like(best, -np.inf)
    came = np.zeros((size, batch, length), dtype=bool)
    for t in range(1, size):
        moved[:, 1:] = best[:, :-1]
        np.greater(moved, best, out=came[t])
        best = np.maximum(best, moved) + scores[:, t]
    walk = np.zeros((batch, size), dtype=np.int64)
    place = lengths - 1
    for t in range(size - 1, -1, -1):
        walk[:, t] = place
        place = place - (came[t, rows, place] & (t < sizes))
    crowded = lengths > sizes
    return [np.arange(n) * lengths[row] // n if crowded[row] else walk[row, :n] for row, n in enumerate(sizes.tolist())]
