"""A language folder of Common Voice in; its recordings out."""

from __future__ import annotations

import re
from pathlib import Path

from ira.data.importers.corpus import Corpus, Recording, find_root, known, read_lines
from ira.errors import InputError

URL = "https://commonvoice.mozilla.org/datasets"
_SPLITS = {"train": "train", "dev": "val", "test": "test"}
_GENDERS = {"male_masculine": "male", "female_feminine": "female"}
_DECADES = {"teens": 1, "twenties": 2, "thirties": 3, "forties": 4, "fourties": 4, "fifties": 5, "sixties": 6}
_DECADES |= {"seventies": 7, "eighties": 8, "nineties": 9}


def read(folder: Path) -> Corpus:
    """One language, `cv-corpus-VERSION/LANG/`: `train.tsv`, `dev.tsv`, `test.tsv` and `clips/*.mp3`.

    The splits are kept; where they hold no row, as in small languages, `validated.tsv` is read and split by speaker.
    Columns: client_id, path, sentence, age, gender, accents (`accent` in older releases), locale; others are left.
    Tables are tab separated and nothing in them is quoted. Layout: https://github.com/common-voice/cv-dataset
    """
    root = find_root(folder, _is_language, "a language of Common Voice (train.tsv or validated.tsv beside clips/)")
    own = [recording for part in _SPLITS for recording in _table(root, part)]
    return Corpus(f"Common Voice {root.name}", "CC0-1.0", URL, own or _table(root, "validated"))


def _is_language(path: Path) -> bool:
    tables = (path / f"{name}.tsv" for name in (*_SPLITS, "validated"))
    return (path / "clips").is_dir() and any(table.is_file() for table in tables)


def _table(root: Path, part: str) -> list[Recording]:
    path = root / f"{part}.tsv"
    if not path.is_file():
        return []
    header, *lines = (line.rstrip("\r") for line in read_lines(path))
    names = header.split("\t")
    if absent := [name for name in ("client_id", "path", "sentence") if name not in names]:
        raise InputError(f"{path}: column {absent[0]} is wanted, {', '.join(names)[:160]} was found; unpack it again")
    rows = (dict(zip(names, line.split("\t"), strict=False)) for line in lines if line.strip())
    return [_recording(row, root, part) for row in rows]


def _recording(row: dict[str, str], root: Path, part: str) -> Recording:
    clip = row.get("path", "").strip()
    clip += "" if clip.endswith(".mp3") else ".mp3"  # the first releases left it out
    speaker = row["client_id"][:32]  # 128 digits; a quarter of them is as unique
    columns = known(
        language=row.get("locale") or root.name,
        gender=_GENDERS.get(row.get("gender", ""), row.get("gender")),
        age=_years(row.get("age", "")),
        accent=re.split(r"[,|]", row.get("accents") or row.get("accent") or "")[0].strip(),
    )
    name = f"commonvoice-{speaker}" if speaker else ""
    return Recording(
        clip, root / "clips" / clip, row.get("sentence", "").strip(), name, part, _SPLITS.get(part, ""), columns
    )


def _years(words: str) -> str:
    """`twenties` as `20-29`, the form that captions are made from."""
    decade = _DECADES.get(words.strip().lower())
    return f"{max(13, 10 * decade)}-{10 * decade + 9}" if decade else words.strip()
