"""Recordings in; the split of each out, and how it was found: the corpus' own, or by a hash, the same every time."""

from __future__ import annotations

import dataclasses
import hashlib
from collections.abc import Sequence

from ira.data.importers.corpus import Recording

HELD_OUT = 0.05  # of the speakers for val, and as many for test
_ENOUGH = 3  # speakers, so that each split can have one


def assign(recordings: Sequence[Recording]) -> tuple[list[Recording], str]:
    """The recordings, each in train, val or test, and the rule in words.

    Where the corpus has no splits, speakers are put in the order of their SHA-256; the first twentieth (one at least)
    is the test split, the next one val, so that no speaker is in two. With fewer than three speakers the same is done
    with sentences: those of val and test are then new, the voices are not.
    """
    if all(recording.split for recording in recordings):
        return list(recordings), "the corpus' own splits"
    speakers = {recording.speaker for recording in recordings if recording.speaker}
    by_speaker = len(speakers) >= _ENOUGH
    keys = [(by_speaker and recording.speaker) or recording.text for recording in recordings]
    places = by_hash(set(keys))
    placed = [
        recording if recording.split else dataclasses.replace(recording, split=places[key])
        for recording, key in zip(recordings, keys, strict=True)
    ]
    if by_speaker:
        return placed, "by a hash of the speaker; no speaker is in two splits"
    return placed, f"by a hash of the sentence; speakers known: {len(speakers)}, and the splits share them"


def by_hash(keys: set[str]) -> dict[str, str]:
    """The split of each key: in the order of their SHA-256 the first twentieth is test, the next one val."""
    ranked = sorted(keys, key=lambda key: hashlib.sha256(key.encode("utf-8", "surrogatepass")).digest())
    held = max(1, round(HELD_OUT * len(ranked))) if len(ranked) >= _ENOUGH else 0
    return {key: "test" if at < held else "val" if at < 2 * held else "train" for at, key in enumerate(ranked)}
