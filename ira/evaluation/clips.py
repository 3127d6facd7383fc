"""Manifests in; the clips that a suite measures, spread evenly over all rows that suit it, out."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path

from ira.data.batches import spread
from ira.data.manifest import Row, read_manifest
from ira.errors import InputError

DEFAULT_MANIFESTS = ("data/test", "data/val")
LOSSLESS = (".flac", ".wav")


@dataclass(frozen=True)
class Clips:
    """The rows chosen; `unsuited` rows lack what the suite needs, `refused` ones cannot be used at all."""

    rows: list[Row]
    unsuited: int
    refused: int


def default_manifests() -> list[str]:
    """The first of data/test and data/val that is there.

    Raises:
        InputError: neither is.
    """
    for path in DEFAULT_MANIFESTS:
        if Path(path).exists():
            return [path]
    raise InputError(f"no manifest was given, and there is no {' or '.join(DEFAULT_MANIFESTS)}; give MANIFEST")


def choose(suite: str, manifests: Sequence[str], count: int) -> Clips:
    """At most `count` clips that suit the suite.

    Raises:
        InputError: a manifest that is not there, or no row that suits.
    """
    rows: list[Row] = []
    refused = 0
    for path in manifests:
        found, problems = read_manifest(path)
        rows += found
        refused += sum(not problem.is_note for problem in problems)
    suited = [row for row in rows if _suits(suite, row)]
    if not suited:
        raise InputError(f"{', '.join(manifests)}: no row for {suite}; {WANTED[suite]}; give another MANIFEST")
    return Clips(spread(suited, count), len(rows) - len(suited), refused)


WANTED = {
    "codec": "recordings in .flac or .wav are wanted: a lossy one is no reference",
    "voice": "recordings are wanted",
    "speak": "English recordings with their text are wanted: that is what the recogniser knows",
    "listen": "recordings with their text are wanted",
}


def _suits(suite: str, row: Row) -> bool:
    if row.audio is None:
        return False
    if suite == "codec":
        return row.audio.suffix.lower() in LOSSLESS
    if suite == "speak":
        return bool(row.text.strip()) and row.language.partition("-")[0] == "en"
    return suite == "voice" or bool(row.text.strip())
