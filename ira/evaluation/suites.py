"""A pipeline and clips in; the figures of a suite out: `codec`, `voice`, `speak` or `listen`.

Every figure follows from the weights and the clips: the seed of a clip is the number of its row. A clip that cannot be
used is counted under `refused` and in no other figure. Many processes share the clips and all hold the figures, which
are those of a single one, whatever number of cores it has.
"""

from __future__ import annotations

from collections.abc import Callable, Sequence

import torch

from ira.data.manifest import Row
from ira.evaluation import metrics
from ira.evaluation.clips import Clips, choose
from ira.evaluation.codec import measure_codec
from ira.evaluation.listen import measure_listen
from ira.evaluation.report import Metrics
from ira.evaluation.shares import Advance
from ira.evaluation.speak import measure_speak
from ira.evaluation.voice import measure_voice
from ira.inference.pipeline import Pipeline
from ira.inference.speaking import cpu_threads
from ira.processes import agreed

PACKAGES = {"codec": ("pystoi", "pesq"), "voice": (), "speak": ("jiwer", "pocketsphinx"), "listen": ("jiwer",)}


def evaluate(
    suite: str, pipeline: Callable[[], Pipeline], manifests: Sequence[str], count: int, advance: Advance
) -> Metrics:
    """The figures of one suite, or of all of them under SUITE/NAME.

    Args:
        pipeline: opens the model, after what is wanted has been found to be there.
        advance: called with the number of clips done.

    Raises:
        InputError: a package of the extra is missing, a manifest is not there, or no row suits a suite.
    """
    names = list(SUITES) if suite == "all" else [suite]

    def find() -> tuple[dict[str, Clips], Pipeline]:
        for package in [package for name in names for package in PACKAGES[name]]:
            metrics.package(package)
        return {name: choose(name, manifests, count) for name in names}, pipeline()

    clips, model = agreed(find)
    found = {name: _measure(name, model, clips[name], advance) for name in names}
    if suite != "all":
        return found[suite]
    return {f"{name}/{figure}": value for name, figures in found.items() for figure, value in figures.items()}


def _measure(suite: str, pipeline: Pipeline, clips: Clips, advance: Advance) -> Metrics:
    """The suite's figures after the counts: clips measured, rows refused, rows that do not suit."""
    with torch.no_grad(), cpu_threads(1):  # a sum is rounded by how many threads share it
        measured, figures = SUITES[suite](pipeline, clips.rows, advance)
    refused = clips.refused + len(clips.rows) - measured
    return {"clips": measured, "refused": refused, "unsuited": clips.unsuited, **figures}


SUITES: dict[str, Callable[[Pipeline, list[Row], Advance], tuple[int, Metrics]]] = {
    "codec": measure_codec,
    "voice": measure_voice,
    "speak": measure_speak,
    "listen": measure_listen,
}
