"""What was decoded for a piece of text in, what is wrong with it out: pure functions on tokens, path and sound.

Thresholds lie outside real speech. In 69 held-out recordings (the embedded codec, 75 frames a second) no stretch of
0.6 s agreed in more than 76 % of its frames with what stood before it, and all were read at 6 to 16 letters a second.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass

import torch
from torch import Tensor

from ira.inference.loudness import FRAME_SECONDS, active

# How bad each is; of several attempts the one with the smallest sum is kept. Half a word is better than none.
WEIGHTS = {"empty": 100, "endless": 20, "loop": 8, "silence": 4, "lingers": 3, "length": 2}
LOOP_SECONDS, LOOP_SHARE, LONGEST_LOOP = 0.6, 0.85, 1.0
LONGEST_STAY = 0.9  # seconds on one sound of the text; a drawn-out vowel takes half of that
PLAIN_SILENCE, MARKED_SILENCE = 1.0, 1.6  # seconds: what readers do anywhere, and where the text has a mark
EDGE_SILENCE = 1.0  # before the first word and after the last
FASTEST, SLOWEST = 25.0, 5.0  # letters a second
SHORT_SECONDS, SLACK_SECONDS = 0.12, 1.0  # the least that a word takes, and what silence may add
MARKS = ".,!?;:-()"


@dataclass(frozen=True)
class Fault:
    """kind: a key of `WEIGHTS`; told: "is silent for 2.1 s", what a user reads after the name of the piece."""

    kind: str
    told: str


def weight(faults: Sequence[Fault]) -> int:
    """How bad they are together; 0 where there are none."""
    return sum(WEIGHTS[fault.kind] for fault in faults)


def find_faults(
    text: str,
    codes: Tensor,
    finished: bool,
    path: Tensor,
    symbols: list[str],
    waveform: Tensor,
    frame_rate: float,
    rate: int,
    pace: float = 1.0,
) -> list[Fault]:
    """All that is wrong with one piece, the worst first.

    Args:
        text: normalised; codes: [K, T]; finished: the model ended it by itself.
        path: [T] text token of each frame, and the tokens' `symbols`; both empty where they are not known.
        waveform: [1, N] at `rate` Hz.
        pace: how fast it was to be said; pauses and sounds are judged as at pace 1.
    """
    if not codes.shape[-1] or not bool(active(waveform, rate).any()):
        return [Fault("empty", "holds no sound")]
    seconds, frame_rate = codes.shape[-1] / frame_rate, frame_rate / pace
    found = [] if finished else [Fault("endless", f"did not end within {seconds:.1f} s")]
    if (repeated := looping_seconds(codes[0], frame_rate, _speaking(waveform, rate, codes.shape[-1]))) > 0:
        found.append(Fault("loop", f"repeats itself for {repeated:.1f} s"))
    if (silent := unexplained_silence(text, waveform, int(rate / pace))) > 0:
        found.append(Fault("silence", f"is silent for {silent:.1f} s"))
    symbol, stay = longest_stay(path, symbols)
    if stay > LONGEST_STAY * frame_rate:
        found.append(Fault("lingers", f"stays on {symbol!r} for {stay / frame_rate:.1f} s"))
    return found + _length(text, seconds * pace)


def looping_seconds(tokens: Tensor, frame_rate: float, speaking: Tensor | None = None) -> float:
    """How long book 0's tokens [T] say the same run of up to one second again and again; 0.0 where they do not.

    A run of p tokens repeats where 85 % of a stretch, as long as two runs and 0.6 s, agree with the tokens p before
    them. Silence, where `speaking` [T] is False, is no repetition: its tokens are alike by nature.
    """
    worst = 0
    for period in range(1, int(LONGEST_LOOP * frame_rate) + 1):
        window = max(int(LOOP_SECONDS * frame_rate), 2 * period)
        if len(tokens) < period + window:
            continue
        same = tokens[period:] == tokens[:-period]
        same = same if speaking is None else same & speaking[period:]
        alike = same.float().unfold(0, window, 1).mean(-1) >= LOOP_SHARE
        if bool(alike.any()):
            inside = torch.nn.functional.pad(alike, (window - 1, window - 1)).unfold(0, window, 1).any(-1)
            worst = max(worst, int((same & inside).sum()) + period)
    return worst / frame_rate


def unexplained_silence(text: str, waveform: Tensor, rate: int) -> float:
    """Seconds of the longest silence in a waveform [1, N] that the text's marks do not explain; 0.0 where none is.

    As many of the longest pauses as there are marks within the text may last 1.6 s, the others 1.0 s.
    """
    speaking = active(waveform, rate)
    places = speaking.nonzero().flatten()
    if not len(places):
        return waveform.shape[-1] / rate
    edges = [int(places[0]), len(speaking) - 1 - int(places[-1])]
    gaps = sorted((places[1:] - places[:-1] - 1).tolist(), reverse=True)
    marks = sum(character in MARKS for character in text.rstrip(f"{MARKS} '\""))
    bounds = [MARKED_SILENCE] * marks + [PLAIN_SILENCE] * len(gaps)
    limits = [*zip(edges, [EDGE_SILENCE] * 2, strict=True), *zip(gaps, bounds, strict=False)]
    return max((gap * FRAME_SECONDS for gap, most in limits if gap * FRAME_SECONDS > most), default=0.0)


def longest_stay(path: Tensor, symbols: list[str]) -> tuple[str, int]:
    """The letter or phone of the text on which a path [T] stays longest, and the frames it does; ("", 0) without one.

    Spaces, marks and the text's end may be long: silence is judged by the sound.
    """
    places, stays = torch.unique_consecutive(path, return_counts=True)
    sounds = [
        (int(stay), symbols[place])
        for place, stay in zip(places.tolist(), stays.tolist(), strict=True)
        if place < len(symbols) and any(character.isalpha() for character in symbols[place])
    ]
    stay, symbol = max(sounds, default=(0, ""))
    return symbol, stay


def _length(text: str, seconds: float) -> list[Fault]:
    letters = sum(character.isalpha() for character in text)
    least, most = max(SHORT_SECONDS, letters / FASTEST), SLACK_SECONDS + letters / SLOWEST
    if least <= seconds <= most:
        return []
    return [Fault("length", f"takes {seconds:.1f} s, {least:.1f} to {most:.1f} s are likely")]


def _speaking(waveform: Tensor, rate: int, frames: int) -> Tensor:
    """Which of `frames` codec frames hold speech [T]."""
    heard = active(waveform, rate)
    places = torch.arange(frames) * len(heard) // frames
    return heard[places]
