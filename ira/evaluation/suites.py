"""A pipeline and clips in; what a suite finds out: `codec`, `voice`, `speak`, `control` or `listen`.

Every figure but those of speed follows from the weights and the clips: the seed of a clip is the number of its row. A
clip that cannot be used is counted under `refused` and in no other figure. Many processes share the clips and all hold
the figures, which are those of a single one, whatever number of cores it has.
"""

from __future__ import annotations

from collections.abc import Callable, Sequence
from pathlib import Path

import torch

from ira.data.manifest import Row
from ira.evaluation import metrics
from ira.evaluation.clips import Clips, choose
from ira.evaluation.codec import bandwidths, measure_codec
from ira.evaluation.control import measure_control
from ira.evaluation.listen import measure_listen
from ira.evaluation.report import Found, Metrics
from ira.evaluation.shares import Advance
from ira.evaluation.speak import measure_speak
from ira.evaluation.voice import measure_voice
from ira.inference.pipeline import Pipeline
from ira.inference.speaking import cpu_threads
from ira.processes import agreed

PACKAGES = {"codec": ("pystoi", "pesq"), "speak": ("jiwer", "pocketsphinx")}
# How many clips are taken where nobody says: control speaks each sentence ten times.
COUNTS = {"codec": 60, "voice": 60, "speak": 60, "control": 6, "listen": 60}


def evaluate(
    suite: str,
    pipeline: Callable[[], Pipeline],
    manifests: Sequence[str],
    count: int | None,
    advance: Advance,
    keep: Path | None = None,
    speed: bool = False,
) -> Found:
    """What one suite finds, or all of them, whose figures are named SUITE/NAME.

    Args:
        pipeline: opens the model, after what is wanted has been found to be there.
        count: of clips, at most; None is the suite's own.
        advance: called with the number of clips done.
        keep: a folder for what `speak` and `control` say.
        speed: time the codec too, beside EnCodec.

    Raises:
        InputError: a package of the extra is missing, a manifest is not there, or no row suits a suite.
    """
    names = list(COUNTS) if suite == "all" else [suite]

    def find() -> tuple[dict[str, Clips], Pipeline]:
        for package in [package for name in names for package in PACKAGES.get(name, ())]:
            metrics.package(package)
        return {name: choose(name, manifests, count or COUNTS[name]) for name in names}, pipeline()

    clips, model = agreed(find)
    found = {name: _measure(name, model, clips[name], advance, keep, speed) for name in names}
    if suite != "all":
        return found[suite]
    return Found(
        {f"{name}/{figure}": value for name, one in found.items() for figure, value in one.figures.items()},
        [{"suite": name, **group} for name, one in found.items() for group in one.groups],
        [{"suite": name, **sentence} for name, one in found.items() for sentence in one.sentences],
    )


def _measure(suite: str, pipeline: Pipeline, clips: Clips, advance: Advance, keep: Path | None, speed: bool) -> Found:
    """What the suite finds after the counts: clips measured, rows refused, rows that do not suit."""
    with torch.no_grad(), cpu_threads(1):  # a sum is rounded by how many threads share it
        if suite in SPEAKING:
            measured, found = SPEAKING[suite](pipeline, clips.rows, advance, keep)
        elif suite == "listen":
            measured, found = measure_listen(pipeline, clips.rows, advance)
        else:
            measured, figures = SUITES[suite](pipeline, clips.rows, advance)
            found = Found(figures | _speed(pipeline, clips.rows) if speed and suite == "codec" else figures)
    refused = clips.refused + len(clips.rows) - measured
    counts: Metrics = {"clips": measured, "refused": refused, "unsuited": clips.unsuited}
    return Found(counts | found.figures, found.groups, found.sentences)


def _speed(pipeline: Pipeline, rows: list[Row]) -> Metrics:
    """At 6 kbps, or the next lower bandwidth that the codec offers and EnCodec too."""
    from ira.evaluation.speed import measure_speed  # transformers' EnCodec takes seconds to import

    codec = pipeline.parts.codec
    common = {kbps: books for kbps, books in bandwidths(codec).items() if 1.5 <= kbps <= 6}
    kbps = max(common, default=0)
    return measure_speed(codec, rows, kbps, common[kbps], pipeline.parts.device) if common else {}


SUITES: dict[str, Callable[[Pipeline, list[Row], Advance], tuple[int, Metrics]]] = {
    "codec": measure_codec,
    "voice": measure_voice,
}
SPEAKING: dict[str, Callable[[Pipeline, list[Row], Advance, Path | None], tuple[int, Found]]] = {
    "speak": measure_speak,
    "control": measure_control,
}
