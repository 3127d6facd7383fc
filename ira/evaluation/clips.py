"""Manifests in; the clips that a suite measures, spread evenly over the rows that suit it, out."""

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
    """At most `count` clips that suit the suite, as many of each manifest while it has them.

    Raises:
        InputError: a manifest that is not there, or no row that suits.
    """
    found, refused, unsuited = [], 0, 0
    for path in manifests:
        rows, problems = read_manifest(path)
        refused += sum(not problem.is_note for problem in problems)
        found.append([row for row in rows if _suits(suite, row)])
        unsuited += len(rows) - len(found[-1])
    if not any(found):
        raise InputError(f"{', '.join(manifests)}: no row for {suite}; {WANTED[suite]}; give another MANIFEST")
    shares = _shares([len(rows) for rows in found], count)
    chosen = [row for rows, share in zip(found, shares, strict=True) for row in spread(rows, share)]
    return Clips(chosen, unsuited, refused)


def others_of(rows: Sequence[Row], most: int) -> list[Row]:
    """Up to `most` further recordings of each speaker of the rows, from the same manifests."""
    taken = {(row.source, row.number) for row in rows}
    speakers = {row.speaker for row in rows if row.speaker}
    by_speaker: dict[str, list[Row]] = {}
    for source in dict.fromkeys(row.source for row in rows):
        for row in read_manifest(source)[0]:
            if row.audio and row.speaker in speakers and (row.source, row.number) not in taken:
                by_speaker.setdefault(row.speaker, []).append(row)
    return [row for few in by_speaker.values() for row in spread(few, most)]


def _shares(sizes: Sequence[int], count: int) -> list[int]:
    """How many of each, alike, at most its size, `count` together where there are as many."""
    shares = [0] * len(sizes)
    left = min(count, sum(sizes))
    for done, i in enumerate(sorted(range(len(sizes)), key=lambda i: sizes[i])):
        waiting = len(sizes) - done
        shares[i] = min(sizes[i], -(-left // waiting))
        left -= shares[i]
    return shares


WANTED = {
    "codec": "recordings in .flac or .wav are wanted: a lossy one is no reference",
    "voice": "recordings are wanted",
    "speak": "recordings with their text are wanted",
    "control": "English text is wanted: the descriptions are English",
    "listen": "recordings with their text are wanted",
}


def is_english(row: Row) -> bool:
    return row.language.partition("-")[0] == "en"


def _suits(suite: str, row: Row) -> bool:
    if suite == "control":
        return bool(row.text.strip()) and is_english(row)
    if row.audio is None:
        return False
    if suite == "codec":
        return row.audio.suffix.lower() in LOSSLESS
    return suite == "voice" or bool(row.text.strip())
