"""Codec tokens on disk in, `Example`s out.

A shard folder holds, for every 256 rows of the manifests, `codes-00000.u16` (uint16, [frames of all rows, K]),
`index-00000.jsonl` (a line for each row that could be used) and `shard-00000.json` (what it was made of, and the rows
refused); and for the whole `meta.json` (fingerprint, codebooks, frame rate) and `report.json` (every refused row and
why). `shard-*.json` is written last: a shard without it does not count.
"""

from __future__ import annotations

import json
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import numpy as np
import torch
from torch import Tensor

from ira.errors import InputError

FORMAT = 1
INDEX_COLUMNS = ("speaker", "speaker_id", "description", "language", "instruction", "response", "emotion")


@dataclass(frozen=True)
class Fingerprint:
    """Which codec and which tokenizer the shards were made with."""

    codec: str
    tokenizer: str


@dataclass
class Example:
    """One recording as tokens: codes [K, T] int64, and the words about it ("" where absent)."""

    codes: Tensor
    frames: int
    text: str
    speaker: str
    description: str
    language: str
    instruction: str
    response: str
    emotion: str
    extra: dict[str, Any] = field(default_factory=dict)
    speaker_id: int | None = None


class TokenShards:
    """A finished shard folder as a sequence of `Example`s; codes stay on disk until they are asked for.

    Raises:
        InputError: not a shard folder, not finished, damaged, or made with another codec or tokenizer than `expect`.
    """

    def __init__(self, folder: str | Path, expect: Fingerprint | None = None) -> None:
        self.folder = Path(folder)
        self.meta = read_meta(self.folder)
        self.fingerprint = Fingerprint(**self.meta["fingerprint"])
        if expect and expect != self.fingerprint:
            raise InputError(mismatch(self.folder, self.fingerprint, expect))
        self.codebooks: int = self.meta["codebooks"]
        self.frame_rate: float = self.meta["frame_rate"]
        self._codes: dict[int, np.ndarray] = {}
        self._lines: list[bytes] = []
        self._places: list[tuple[int, int, int]] = []  # shard, offset, frames
        for number in range(self.meta["shards"]):
            self._open(number)
        self.lengths = np.array([frames for _, _, frames in self._places], dtype=np.int64)

    def __len__(self) -> int:
        return len(self._lines)

    def __getitem__(self, i: int) -> Example:
        shard, offset, frames = self._places[i]
        entry = json.loads(self._lines[i])
        codes = torch.from_numpy(self._codes[shard][offset : offset + frames].astype(np.int64).T.copy())
        words = {column: entry[column] for column in INDEX_COLUMNS}
        return Example(codes=codes, frames=frames, text=entry["text"], extra=entry["extra"], **words)

    def _open(self, number: int) -> None:
        if not shard_file(self.folder, "shard", number).is_file():
            count = self.meta["shards"]
            raise InputError(f"{self.folder}: shard {number} of {count} is missing; run ira prepare again to finish it")
        lines = shard_file(self.folder, "index", number).read_bytes().splitlines()
        for line in lines:
            entry = json.loads(line)
            self._places.append((number, entry["offset"], entry["frames"]))
        self._lines += lines
        total = self._places[-1][1] + self._places[-1][2] if lines else 0
        path = shard_file(self.folder, "codes", number)
        if path.stat().st_size != total * self.codebooks * 2:
            raise InputError(f"{path}: {path.stat().st_size} bytes, not {total} frames; run ira prepare again")
        if total:
            self._codes[number] = np.memmap(path, dtype="<u2", mode="r", shape=(total, self.codebooks))


def read_meta(folder: Path) -> dict[str, Any]:
    """`meta.json` of a shard folder, or an InputError that says what is wrong with the folder."""
    try:
        meta = json.loads((folder / "meta.json").read_bytes())
    except (OSError, ValueError) as error:
        raise InputError(f"{folder}: not a shard folder ({error}); make one with ira prepare") from None
    if not isinstance(meta, dict) or meta.get("format") != FORMAT:
        raise InputError(f"{folder}: shards of an unknown format, {FORMAT} is wanted; prepare a new folder")
    return meta


def mismatch(folder: Path, there: Fingerprint, wanted: Fingerprint) -> str:
    """What is wrong with `folder`, with both names of each part that differs."""
    parts = [
        f"{name} {getattr(there, name)}, {getattr(wanted, name)} is wanted"
        for name in ("codec", "tokenizer")
        if getattr(there, name) != getattr(wanted, name)
    ]
    return f"{folder}: made with {' and '.join(parts)}; run ira prepare into another folder"


def shard_file(folder: Path, name: str, number: int) -> Path:
    """Path of the codes, index or shard file with that number."""
    suffix = {"codes": "u16", "index": "jsonl", "shard": "json"}[name]
    return folder / f"{name}-{number:05d}.{suffix}"
