"""Manifests in; the clips that a suite measures, spread evenly over the rows that suit it, out.

Listening is measured by tasks, of which a row poses several: its clips are spread over those, rare ones too.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path

from ira.data.batches import spread
from ira.data.manifest import Row, read_manifest
from ira.data.tasks import TASKS, Task, tasks_of
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
    pick = spread_over_tasks if suite == "listen" else spread
    chosen = [row for rows, share in zip(found, shares, strict=True) for row in pick(rows, share)]
    return Clips(chosen, unsuited, refused)


def posed_by(row: Row) -> list[Task]:
    """The tasks that a recording poses."""
    return tasks_of(row.text.strip(), {"emotion": row.emotion, **row.extra}, row.language)


def spread_over_tasks(rows: Sequence[Row], count: int) -> list[Row]:
    """`count` of the rows in their order, such that each task has its share of them, or all rows that pose it.

    Texts that a man and a woman say count as one task more, and come in pairs.
    """
    posing = {i: {task.name: task.answer for task in posed_by(row)} for i, row in enumerate(rows)}
    kinds = [[(i,) for i, tasks in posing.items() if name in tasks] for name in TASKS]
    kinds = sorted((kind for kind in [*kinds, _pairs(rows, posing)] if kind), key=len)
    chosen: set[int] = set()
    share = -(-count // len(kinds)) if kinds else 0
    for kind in kinds:
        missing = min(share - sum(chosen.issuperset(some) * len(some) for some in kind), count - len(chosen))
        left = [some for some in kind if not chosen.issuperset(some)]
        chosen.update(i for some in spread(left, max(missing // len(kind[0]), 0)) for i in some)
    left = [i for i in range(len(rows)) if i not in chosen]
    chosen.update(spread(left, max(count - len(chosen), 0)))
    return [rows[i] for i in sorted(chosen)]


def _pairs(rows: Sequence[Row], posing: Mapping[int, Mapping[str, str]]) -> list[tuple[int, ...]]:
    """Two rows with one text each, the first of a man and the first of a woman that say it."""
    said: dict[str, dict[str, int]] = {}
    for i, tasks in posing.items():
        if "gender" in tasks and rows[i].text.strip():
            said.setdefault(rows[i].text.strip(), {}).setdefault(tasks["gender"], i)
    return [tuple(both.values()) for both in said.values() if len(both) == 2]


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
    "listen": "recordings are wanted with their text, or with what is known of the voice",
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
    if suite == "listen":
        return bool(posed_by(row))
    return suite == "voice" or bool(row.text.strip())
