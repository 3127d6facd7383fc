"""What speaking gives: the sound, the pieces it was made of, what is wrong with it, and how long it took."""

from __future__ import annotations

from dataclasses import dataclass, field

from torch import Tensor

from ira.audio.waveform import SAMPLE_RATE
from ira.errors import InputError
from ira.inference.speaking import Piece, SaidPiece

FAULTS_TOLD = 3  # of a long text's pieces, in the line to the user


class NoSound(InputError):
    """The text, the voice and the language were good, and yet the model said nothing."""


@dataclass(frozen=True)
class Spoken:
    """waveform: [1, N] at `sample_rate`; codes: [K, T], the pieces of a long text without the pauses between them.

    finished: the model ended every piece by itself; attempts: the most that a piece took; text: as spoken.
    pieces: each with its text, and `starts` the second of `waveform` at which it begins.
    took: seconds of computing for "text", "voice", "decoding" and "sound".
    """

    waveform: Tensor
    codes: Tensor
    finished: bool
    attempts: int
    text: str
    sample_rate: int = SAMPLE_RATE
    pieces: list[tuple[Piece, SaidPiece]] = field(default_factory=list)
    starts: list[float] = field(default_factory=list)
    took: dict[str, float] = field(default_factory=dict)

    @property
    def seconds(self) -> float:
        return self.waveform.shape[-1] / self.sample_rate

    @property
    def faults(self) -> list[str]:
        """What is still wrong after the last attempt: "piece 2 of 7 ('and then') is silent for 2.1 s"."""
        named = [
            f"piece {number} of {len(self.pieces)} ({beginning(piece.text)!r})" if len(self.pieces) > 1 else "it"
            for number, (piece, _) in enumerate(self.pieces, 1)
        ]
        return [
            f"{name} {fault.told}" for name, (_, said) in zip(named, self.pieces, strict=True) for fault in said.faults
        ]

    @property
    def remark(self) -> str:
        """A line to the user where something is wrong with the speech, else ""."""
        told = self.faults[:FAULTS_TOLD]
        more = [f"and {len(self.faults) - len(told)} more"] if len(self.faults) > len(told) else []
        tries = f"{self.attempts} attempts" if self.attempts > 1 else "one attempt"
        return f"after {tries} {', '.join(told + more)}; try another seed" if told else ""


def beginning(text: str, most: int = 24) -> str:
    """The first words of a text, at most `most` characters."""
    return text if len(text) <= most else text[: most + 1].rpartition(" ")[0] or text[:most]
