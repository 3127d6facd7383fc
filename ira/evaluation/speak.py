"""Clips with their transcripts in, what judges make of the speech that a model makes of those out."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import torch
from torch import Tensor

from ira.audio.waveform import SAMPLE_RATE, save_audio
from ira.data.manifest import Row
from ira.data.text import normalize
from ira.evaluation import metrics
from ira.evaluation.clips import is_english, others_of
from ira.evaluation.judges import VoiceStatistics, nearest_voices, open_recogniser, recognise, voice_statistics
from ira.evaluation.report import Found, Metrics
from ira.evaluation.shares import Advance, recordings, shared
from ira.inference.loudness import FRAME_SECONDS, active
from ira.inference.pipeline import Pipeline, SpeakRow
from ira.inference.speaking import SPOKEN_TOGETHER
from ira.inference.spoken import NoSound, Spoken

SOUNDS = ("recording", "codec", "spoken")
REFERENCES = 8  # further recordings by which the judge knows a voice
LEAST_SOUND = 0.2  # seconds of speech; with less a clip is empty
LEAST_GROUP = 5  # clips; of fewer no share is worth printing


@dataclass(frozen=True)
class Judged:
    """One clip: `heard`, `voices` and `seconds` of speech in the recording, in what the codec makes of it, and spoken.

    ended: False where no end came within the bound; faults: kinds of those that remained; length: in all, in seconds.
    """

    row: Row
    truth: str
    heard: dict[str, str]
    voices: dict[str, VoiceStatistics]
    seconds: dict[str, float]
    ended: bool
    faults: list[str]
    attempts: int
    length: float
    length_ratio: float
    wav: str = ""

    @property
    def empty(self) -> bool:
        return self.seconds["spoken"] < LEAST_SOUND

    def rate(self, name: str) -> float | None:
        """Characters a second of speech."""
        return len(metrics.letters(self.truth)) / self.seconds[name] if self.seconds[name] >= LEAST_SOUND else None


def measure_speak(pipeline: Pipeline, rows: list[Row], advance: Advance, keep: Path | None = None) -> tuple[int, Found]:
    """Each transcript said in the voice of its recording, beside the recording and what the codec makes of it.

    Args:
        keep: what is spoken is left in this folder, one file a row.
    """
    recogniser = open_recogniser()

    def work(few: Sequence[Row]) -> list[Judged]:
        return [_judge(pipeline, recogniser, keep, *said) for said in _spoken(pipeline, few)]

    judged = shared(rows, SPOKEN_TOGETHER, work, advance)
    others = shared(others_of([one.row for one in judged], REFERENCES), SPOKEN_TOGETHER, _references)
    return len(judged), _found(judged, others)


def _spoken(pipeline: Pipeline, rows: Sequence[Row]) -> list[tuple[Row, Tensor, Spoken | None]]:
    """Rows with their recording and what the model says, all at a time, but for those that are refused."""
    read = recordings(rows)
    said = pipeline.speak_batch([SpeakRow(row.text, row.audio, row.number, row.language) for row, _ in read])
    pairs = zip(read, said, strict=True)
    return [
        (row, recording, spoken if isinstance(spoken, Spoken) else None)
        for (row, recording), spoken in pairs
        if isinstance(spoken, (Spoken, NoSound))
    ]


def _judge(
    pipeline: Pipeline, recogniser: Any, keep: Path | None, row: Row, recording: Tensor, spoken: Spoken | None
) -> Judged:
    sound = spoken.waveform if spoken else torch.zeros(1, 0)
    sounds = {"recording": recording, "codec": pipeline.resynth(recording), "spoken": sound}
    faults = [fault.kind for _, piece in spoken.pieces for fault in piece.faults] if spoken else ["empty"]
    wav = keep / f"{row.source.parent.name}-{row.source.stem}-{row.number:05}.wav" if keep and spoken else None
    if wav:
        save_audio(wav, sound)
    return Judged(
        row,
        normalize(row.text, row.language, strict=False),
        {name: recognise(recogniser, sounds[name]) if is_english(row) else "" for name in SOUNDS},
        {name: voice_statistics(sounds[name]) for name in SOUNDS},
        {name: float(active(sounds[name], SAMPLE_RATE).sum()) * FRAME_SECONDS for name in SOUNDS},
        spoken.finished if spoken else True,
        faults,
        spoken.attempts if spoken else 1,
        sound.shape[-1] / SAMPLE_RATE,
        sound.shape[-1] / recording.shape[-1],
        str(wav or ""),
    )


def _references(rows: Sequence[Row]) -> list[tuple[str, VoiceStatistics]]:
    return [(row.speaker, voice_statistics(recording)) for row, recording in recordings(rows)]


def _found(judged: list[Judged], others: list[tuple[str, VoiceStatistics]]) -> Found:
    speakers = [one.row.speaker for one in judged]
    voices = {name: [one.voices[name] for one in judged] for name in SOUNDS}
    nearest = {name: nearest_voices(voices[name], voices["recording"], speakers, others) for name in SOUNDS}
    # What the codec takes from every voice is no fault of whoever speaks through it.
    nearest |= {f"{name}_among_copies": nearest_voices(voices[name], voices["codec"], speakers) for name in SOUNDS[1:]}
    sentences = [_sentence(one, {name: told[i] for name, told in nearest.items()}) for i, one in enumerate(judged)]
    figures: Metrics = {
        "voices": len(set(speakers) - {""}),
        **_errors(judged, sentences),
        **_manners(judged),
        **_similarity(sentences),
        "similarity_chance": 1 / len(set(speakers) - {""}) if any(nearest["spoken"]) else None,
    }
    return Found(figures, _groups(sentences), sentences)


def _errors(judged: list[Judged], sentences: list[dict[str, Any]]) -> Metrics:
    """Character error rates over English rows, and how many points speaking adds to the codec, with its interval."""
    english = [i for i, sentence in enumerate(sentences) if sentence["cer_spoken"] is not None]
    truths = [judged[i].truth for i in english]
    heard = {name: [judged[i].heard[name] for i in english] for name in SOUNDS}
    shares = {name: metrics.error_share(truths, texts) for name, texts in heard.items()}
    errors = {
        name: [metrics.character_errors(*pair) for pair in zip(truths, heard[name], strict=True)] for name in SOUNDS
    }
    interval = metrics.difference_interval(
        errors["spoken"], errors["codec"], [len(metrics.letters(truth)) for truth in truths]
    )
    points = [100 * bound for bound in interval] if interval else [None, None]
    spoken, codec = shares["spoken"], shares["codec"]
    return {
        "cer_clips": len(english),
        **{f"cer_{name}": share for name, share in shares.items()},
        "cer_added_points": None if spoken is None or codec is None else 100 * (spoken - codec),
        "cer_added_low": points[0],
        "cer_added_high": points[1],
    }


def _manners(judged: list[Judged]) -> Metrics:
    """How it was said: whether it ended, whether anything came, what faults remained, and how fast."""
    rates = {name: [rate for one in judged if (rate := one.rate(name)) is not None] for name in SOUNDS}
    return {
        "runaway": metrics.mean([not one.ended for one in judged]),
        "empty": metrics.mean([one.empty for one in judged]),
        "faulty": metrics.mean([bool(one.faults) for one in judged]),
        "attempts": metrics.mean([one.attempts for one in judged]),
        "length_ratio": metrics.mean([one.length_ratio for one in judged]),
        "characters_per_second_recording": metrics.mean(rates["recording"]),
        "characters_per_second_spoken": metrics.mean(rates["spoken"]),
    }


def _similarity(sentences: list[dict[str, Any]]) -> Metrics:
    """How often the own voice is nearer than every other: among the recordings, and among the codec's copies of them.

    `similarity_clips`: those whose voice has another recording here.
    """
    figures: Metrics = {"similarity_clips": sum(sentence["nearest_recording"] is not None for sentence in sentences)}
    for name in (*SOUNDS, *(f"{name}_among_copies" for name in SOUNDS[1:])):
        known = [sentence for sentence in sentences if sentence[f"nearest_{name}"] is not None]
        right = [sentence[f"nearest_{name}"] == sentence["voice"] for sentence in known]
        figures[f"similarity_{name}"] = metrics.mean(right)
    return figures


def _sentence(one: Judged, nearest: dict[str, str | None]) -> dict[str, Any]:
    """All that is known of one clip, for other tools."""
    counts = is_english(one.row) and bool(metrics.letters(one.truth))
    rates = {name: metrics.error_share([one.truth], [one.heard[name]]) if counts else None for name in SOUNDS}
    return {
        "manifest": str(one.row.source),
        "row": one.row.number,
        "voice": one.row.speaker,
        "language": one.row.language,
        "text": one.row.text,
        "characters": len(metrics.letters(one.truth)),
        **{f"heard_{name}": one.heard[name] if counts else None for name in SOUNDS},
        **{f"cer_{name}": rate for name, rate in rates.items()},
        "seconds": round(one.length, 3),
        "length_ratio": one.length_ratio,
        "characters_per_second": one.rate("spoken"),
        "runaway": not one.ended,
        "empty": one.empty,
        "faults": one.faults,
        "attempts": one.attempts,
        **{f"nearest_{name}": told for name, told in nearest.items()},
        "wav": one.wav,
    }


def _groups(sentences: list[dict[str, Any]]) -> list[dict[str, Any]]:
    """The main figures of each language and each voice with at least five clips."""
    found = []
    for kind in ("language", "voice"):
        for value in sorted({sentence[kind] for sentence in sentences} - {""}):
            few = [sentence for sentence in sentences if sentence[kind] == value]
            if len(few) >= LEAST_GROUP:
                found.append({"group": f"{kind} {value}", "clips": len(few), **_group(few)})
    return found


def _group(few: list[dict[str, Any]]) -> Metrics:
    """Error rates are weighted by the letters of each text, as those of all clips are."""
    english = [sentence for sentence in few if sentence["cer_spoken"] is not None]
    sizes = [sentence["characters"] for sentence in english]
    rates = {
        f"cer_{name}": metrics.weighted_mean([sentence[f"cer_{name}"] for sentence in english], sizes)
        for name in SOUNDS
    }
    shares = {name: metrics.mean([bool(sentence[name]) for sentence in few]) for name in ("runaway", "empty", "faults")}
    return {**rates, **shares, "similarity_spoken": _similarity(few)["similarity_spoken"]}
