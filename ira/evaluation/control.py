"""Sentences in; how often a voice in words is obeyed, measured on the signal of what is spoken, out.

No network judges. A man is told from a woman by the median pitch; of a low and a high voice, and of slow and fast
speech, two renderings of the same sentence are compared. Half would be right by chance in each.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from ira.audio.waveform import SAMPLE_RATE, save_audio
from ira.data.manifest import Row
from ira.evaluation import metrics
from ira.evaluation.judges import median_pitch
from ira.evaluation.report import Found, Metrics
from ira.evaluation.shares import Advance, shared
from ira.inference.loudness import FRAME_SECONDS, active
from ira.inference.pipeline import Pipeline, SpeakRow
from ira.inference.spoken import NoSound, Spoken

BETWEEN_HZ = 165.0  # between the usual ranges of men, about 85 to 155, and of women, about 165 to 255
CHANCE = 0.5
PEOPLE = ("man", "woman")
MANNERS = {
    "plain": "a {}",
    "low": "a {} with a low voice",
    "high": "a {} with a high voice",
    "slow": "a {} speaking slowly",
    "fast": "a {} speaking fast",
}
DESCRIPTIONS = {(who, manner): words.format(who) for who in PEOPLE for manner, words in MANNERS.items()}


@dataclass(frozen=True)
class Rendered:
    """A sentence as one description has it: median pitch in Hz and seconds of speech; None and 0.0 of no sound."""

    who: str
    manner: str
    pitch: float | None
    seconds: float
    wav: str = ""


def measure_control(
    pipeline: Pipeline, rows: list[Row], advance: Advance, keep: Path | None = None
) -> tuple[int, Found]:
    """Every sentence in each of the ten `DESCRIPTIONS`, with the same seed.

    A rendering without a pitch or without sound counts as not obeyed.
    """

    def work(few: Sequence[Row]) -> list[tuple[Row, list[Rendered]]]:
        return [(row, said) for row in few if (said := _render(pipeline, row, keep))]

    rendered = shared(rows, 1, work, advance)
    return len(rendered), Found(_figures([said for _, said in rendered]), sentences=_sentences(rendered))


def _render(pipeline: Pipeline, row: Row, keep: Path | None) -> list[Rendered]:
    """The sentence in all descriptions; nothing where it cannot be spoken."""
    said = pipeline.speak_batch(
        [SpeakRow(row.text, words, row.number, row.language) for words in DESCRIPTIONS.values()]
    )
    if not all(isinstance(one, (Spoken, NoSound)) for one in said):
        return []
    return [_measure(row, *way, one, keep) for way, one in zip(DESCRIPTIONS, said, strict=True)]


def _measure(row: Row, who: str, manner: str, said: Any, keep: Path | None) -> Rendered:
    if not isinstance(said, Spoken):
        return Rendered(who, manner, None, 0.0)
    wav = keep / f"control-{row.number:05}-{who}-{manner}.wav" if keep else None
    if wav:
        save_audio(wav, said.waveform)
    seconds = float(active(said.waveform, SAMPLE_RATE).sum()) * FRAME_SECONDS
    return Rendered(who, manner, median_pitch(said.waveform), seconds, str(wav or ""))


def _figures(rendered: list[list[Rendered]]) -> Metrics:
    """The share obeyed of each kind, `_clips` how many were judged, and the share of each person."""
    obeyed: dict[str, list[bool]] = {}
    for said in rendered:
        way = {(one.who, one.manner): one for one in said}
        for who in PEOPLE:
            obeyed.setdefault(f"gender_{who}", []).append(_is(who, way[who, "plain"]))
            obeyed.setdefault(f"pitch_{who}", []).append(_lower(way[who, "low"], way[who, "high"]))
            obeyed.setdefault(f"pace_{who}", []).append(_longer(way[who, "slow"], way[who, "fast"]))
    figures: Metrics = {}
    for kind in ("gender", "pitch", "pace"):
        both = [right for who in PEOPLE for right in obeyed.get(f"{kind}_{who}", [])]
        figures |= {kind: metrics.mean(both), f"{kind}_clips": len(both), f"{kind}_chance": CHANCE}
        figures |= {f"{kind}_{who}": metrics.mean(obeyed.get(f"{kind}_{who}", [])) for who in PEOPLE}
    return figures


def _is(who: str, one: Rendered) -> bool:
    return one.pitch is not None and (one.pitch < BETWEEN_HZ) == (who == "man")


def _lower(one: Rendered, other: Rendered) -> bool:
    return one.pitch is not None and other.pitch is not None and one.pitch < other.pitch


def _longer(one: Rendered, other: Rendered) -> bool:
    return other.seconds > 0 and one.seconds > other.seconds


def _sentences(rendered: list[tuple[Row, list[Rendered]]]) -> list[dict[str, Any]]:
    return [
        {
            "manifest": str(row.source),
            "row": row.number,
            "text": row.text,
            "description": DESCRIPTIONS[one.who, one.manner],
            "pitch_hz": one.pitch,
            "speech_seconds": round(one.seconds, 3),
            "wav": one.wav,
        }
        for row, said in rendered
        for one in said
    ]
