"""Clips with their transcripts in, what judges make of the speech that a model makes of those out."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any

from torch import Tensor

from ira.data.manifest import Row
from ira.data.text import normalize
from ira.evaluation import metrics
from ira.evaluation.judges import nearest_own_voice, open_recogniser, recognise, voice_statistics
from ira.evaluation.report import Metrics
from ira.evaluation.shares import Advance, recordings, shared
from ira.inference.pipeline import Pipeline, SpeakRow, Spoken

SPOKEN_TOGETHER = 8
SOUNDS = ("recording", "codec", "spoken")


@dataclass(frozen=True)
class Judged:
    """One clip: `heard` and `voices` (`voice_statistics`) are of the recording, of what the codec makes, and spoken."""

    row: Row
    heard: dict[str, str]
    voices: dict[str, Tensor]
    finished: bool
    length_ratio: float


def measure_speak(pipeline: Pipeline, rows: list[Row], advance: Advance) -> tuple[int, Metrics]:
    """Each transcript said in the voice of its recording, beside the recording and what the codec makes of it."""
    recogniser = open_recogniser()

    def work(few: Sequence[Row]) -> list[Judged]:
        return [_judge(pipeline, recogniser, *said) for said in _spoken(pipeline, few)]

    judged = shared(rows, SPOKEN_TOGETHER, work, advance)
    return len(judged), _figures(judged)


def _spoken(pipeline: Pipeline, rows: Sequence[Row]) -> list[tuple[Row, Tensor, Spoken]]:
    """Rows with their recording and what the model says, all at a time, but for those that are refused."""
    read = recordings(rows)
    said = pipeline.speak_batch([SpeakRow(row.text, row.audio, row.number, row.language) for row, _ in read])
    pairs = zip(read, said, strict=True)
    return [(row, recording, spoken) for (row, recording), spoken in pairs if isinstance(spoken, Spoken)]


def _judge(pipeline: Pipeline, recogniser: Any, row: Row, recording: Tensor, spoken: Spoken) -> Judged:
    sounds = {"recording": recording, "codec": pipeline.resynth(recording), "spoken": spoken.waveform}
    return Judged(
        row,
        {name: recognise(recogniser, sound) for name, sound in sounds.items()},
        {name: voice_statistics(sound) for name, sound in sounds.items()},
        spoken.finished,
        spoken.seconds * pipeline.parts.codec.sample_rate / recording.shape[-1],
    )


def _figures(judged: list[Judged]) -> Metrics:
    truths = [normalize(one.row.text, one.row.language) for one in judged]
    speakers = [one.row.speaker for one in judged]
    heard = {name: [one.heard[name] for one in judged] for name in SOUNDS}
    voices = {name: [one.voices[name] for one in judged] for name in SOUNDS}
    told = {name: nearest_own_voice(voices[name], voices["recording"], speakers) for name in SOUNDS}
    return {
        **{f"cer_{name}": metrics.cer(truths, texts) for name, texts in heard.items()},
        "runaway": metrics.mean([not one.finished for one in judged]),
        "length_ratio": metrics.mean([one.length_ratio for one in judged]),
        "similarity_clips": len(told["spoken"]),
        "similarity_chance": 1 / len(set(speakers) - {""}) if told["spoken"] else None,
        **{f"similarity_{name}": metrics.mean(right) for name, right in told.items()},
    }
