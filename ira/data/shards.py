"""Codec tokens on disk in, `Example`s out.

A shard folder holds, for every 256 rows of the manifests, `codes-00000.u16` (uint16, [frames of all rows, K]),
`index-00000.jsonl` (a line for each row that could be used) and `shard-00000.json` (what it was made of, and the rows
refused); and for the whole `meta.json` (fingerprint, codebooks, frame rate) and `report.json` (every refused row and
why). `shard-*.json` is written last: a shard without it does not count. Where n machines made the shards, the folder
holds n such folders, `part-0000-of-0016` and so on: part i has the shards whose number leaves i when divided by n.
"""

from __future__ import annotations

import hashlib
import json
import re
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


def language_of(example: Example) -> str:
    """Two letters; English where the manifest does not say."""
    return example.language.lower().partition("-")[0] or "en"


class TokenShards:
    """A finished shard folder as a sequence of `Example`s; codes stay on disk until they are asked for.

    `folders` are the parts it was made in, or itself alone; the order of the rows is the same either way.

    Raises:
        InputError: not a shard folder, not finished, damaged, made with another codec or tokenizer than `expect`, or
            a part is missing or was made of other rows than the rest.
    """

    def __init__(self, folder: str | Path, expect: Fingerprint | None = None) -> None:
        self.folder = Path(folder)
        try:
            self._read(expect)
        except InputError:
            raise
        except (OSError, ValueError, KeyError, TypeError, RecursionError) as error:
            raise InputError(f"{self.folder}: is damaged ({str(error)[:100]}); run ira prepare again") from None

    def _read(self, expect: Fingerprint | None) -> None:
        self.folders, self.meta = _open_parts(self.folder)
        self.fingerprint = Fingerprint(**self.meta["fingerprint"])
        if expect and expect != self.fingerprint:
            raise InputError(mismatch(self.folder, self.fingerprint, expect))
        self.codebooks: int = self.meta["codebooks"]
        self.frame_rate: float = self.meta["frame_rate"]
        self._codes: dict[int, np.ndarray] = {}
        self._lines: list[bytes] = []
        self._places: list[tuple[int, int, int]] = []  # shard, offset, frames
        for number in range(self.meta["shards"]):
            self._open(self.folders[number % len(self.folders)], number)
        self.lengths = np.array([frames for _, _, frames in self._places], dtype=np.int64)

    def __len__(self) -> int:
        return len(self._lines)

    def __getitem__(self, i: int) -> Example:
        shard, offset, frames = self._places[i]
        entry = json.loads(self._lines[i])
        codes = torch.from_numpy(self._codes[shard][offset : offset + frames].astype(np.int64).T.copy())
        if int(codes.max()) >= self.meta.get("codebook_size", 2**16):
            path = shard_file(self.folders[shard % len(self.folders)], "codes", shard)
            raise InputError(f"{path}: holds codes that the codec does not have; run ira prepare again")
        words = {column: entry[column] for column in INDEX_COLUMNS}
        return Example(codes=codes, frames=frames, text=entry["text"], extra=entry["extra"], **words)

    def _open(self, folder: Path, number: int) -> None:
        if not shard_file(folder, "shard", number).is_file():
            count = self.meta["shards"]
            raise InputError(f"{folder}: shard {number} of {count} is missing; run ira prepare again to finish it")
        content = shard_file(folder, "index", number).read_bytes()
        hashes = json.loads(shard_file(folder, "shard", number).read_bytes()).get("sha256", {})
        if hashlib.sha256(content).hexdigest() != hashes.get("index", hashlib.sha256(content).hexdigest()):
            raise InputError(f"{shard_file(folder, 'index', number)}: is damaged; run ira prepare again")
        lines = content.splitlines()
        for line in lines:
            entry = json.loads(line)
            self._places.append((number, entry["offset"], entry["frames"]))
        self._lines += lines
        total = self._places[-1][1] + self._places[-1][2] if lines else 0
        path = shard_file(folder, "codes", number)
        if path.stat().st_size != total * self.codebooks * 2:
            raise InputError(f"{path}: {path.stat().st_size} bytes, not {total} frames; run ira prepare again")
        if total:
            self._codes[number] = np.memmap(path, dtype="<u2", mode="r", shape=(total, self.codebooks))


def part_folder(folder: Path, part: int, parts: int) -> Path:
    """Where part number `part` (from 0) of `parts` lives; a folder made by one machine has no parts."""
    return folder if parts == 1 else folder / f"part-{part:04d}-of-{parts:04d}"


def count_parts(folder: Path) -> int | None:
    """Of how many parts the folder is; 1 where one machine made it, None where nothing is there.

    Raises:
        InputError: parts of one count beside parts of another.
    """
    if (folder / "meta.json").exists():
        return 1
    names = [re.fullmatch(r"part-\d{4,}-of-(\d{4,})", path.parent.name) for path in folder.glob("part-*/meta.json")]
    counts = sorted({int(name[1]) for name in names if name})
    if len(counts) > 1:
        raise InputError(f"{folder}: holds parts of {counts[0]} and of {counts[1]}; remove those that are not meant")
    return counts[0] if counts else None


def _open_parts(folder: Path) -> tuple[list[Path], dict[str, Any]]:
    """The folders of all parts in order, and what their `meta.json` agree on."""
    parts = count_parts(folder) or 1
    folders = [part_folder(folder, part, parts) for part in range(parts)]
    missing = [
        f"{part}/{parts}" for part, path in enumerate(folders) if parts > 1 and not (path / "meta.json").exists()
    ]
    if missing:
        names = ", ".join(missing[:5]) + (f" and {len(missing) - 5} more" if len(missing) > 5 else "")
        raise InputError(f"{folder}: missing part {names}; run ira prepare --shard {missing[0]}, or put it there")
    metas = [read_meta(path) for path in folders]
    if parts == 1 and "part" in metas[0]:
        raise InputError(f"{folder}: is part {metas[0]['part']} of a folder; open the folder that holds all parts")
    for part, meta in enumerate(metas):
        there, wanted = Fingerprint(**meta["fingerprint"]), Fingerprint(**metas[0]["fingerprint"])
        if there != wanted:
            raise InputError(mismatch(folders[part], there, wanted))
        if meta.get("plan") != metas[0].get("plan"):
            name = f"{part}/{parts}"
            raise InputError(
                f"{folder}: part {name} is of other rows than part 0; run ira prepare --shard {name} again"
            )
    return folders, metas[0]


def read_meta(folder: Path) -> dict[str, Any]:
    """`meta.json` of a shard folder, or an InputError that says what is wrong with the folder."""
    try:
        meta = json.loads((folder / "meta.json").read_bytes())
    except (OSError, ValueError) as error:
        raise InputError(f"{folder}: not a shard folder ({error}); make one with ira prepare") from None
    if not isinstance(meta, dict) or meta.get("format") != FORMAT:
        raise InputError(f"{folder}: shards of an unknown format, {FORMAT} is wanted; prepare a new folder")
    return meta


def split_folder(shards: str | Path, codec: str, split: str) -> Path:
    """Where training looks for the tokens of a split: each codec's (by fingerprint) have a folder of their own."""
    return Path(shards) / codec.replace(":", "-") / split


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
