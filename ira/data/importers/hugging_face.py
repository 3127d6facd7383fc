"""A folder of the Hugging Face library `datasets` in; its recordings out, with the sound read when it is wanted."""

from __future__ import annotations

import re
from collections.abc import Callable, Iterator
from functools import partial
from pathlib import Path
from typing import Any

from ira.data.importers.corpus import Corpus, Recording, find_root, known
from ira.errors import InputError

_SPLITS = {"train": "train", "validation": "val", "valid": "val", "val": "val", "dev": "val", "eval": "val"}
_SPLITS["test"] = "test"
# Our column, and what it is called in public data sets, the likeliest first.
_NAMES = {
    "text": ("text", "sentence", "transcription", "transcript", "normalized_text", "text_normalized"),
    "speaker": ("speaker", "speaker_id", "client_id", "reader_id"),
    "language": ("language", "locale", "lang"),
    "gender": ("gender", "sex"),
    "age": ("age",),
    "accent": ("accent", "accents"),
    "emotion": ("emotion",),
    "description": ("description", "text_description"),
}
# Some columns of a split, as something that gives rows (dicts) in order.
_Part = Callable[[list[str]], Any]


def read(folder: Path) -> Corpus:
    """What `save_to_disk` wrote (one data set or a dict of splits), or a folder with parquet files as on the Hub.

    The audio column holds {bytes, path}: https://huggingface.co/docs/datasets/about_dataset_features#audio-feature.
    The bytes stay as they are, nothing is decoded. Splits keep their places; a single one is split by speaker. Parquet
    files belong to the split that their name (`train-00000-of-00003.parquet`) or folder says.

    Raises:
        InputError: `datasets` is not installed, the folder is of another kind, or has no column for audio or text.
    """
    root = find_root(folder, lambda path: bool(_kind(path)), "dataset_dict.json, dataset_info.json or a .parquet file")
    parts = _parquet_parts(root) if _kind(root) == "parquet" else _saved_parts(root)
    features, info = next(iter(parts.values()))([]).features, next(iter(parts.values()))([]).info
    audio, columns = _audio_column(features, root), _columns(features, root)
    places = dict.fromkeys(parts, "") if len(parts) == 1 else {part: _split(part) for part in parts}
    used = {part: open_part for part, open_part in parts.items() if len(parts) == 1 or places[part]}
    name = info.dataset_name if info.dataset_name not in (None, "parquet") else root.resolve().name
    recordings = [
        Recording(f"{part}/{number:08d}", sound, split=places[part], part=part, **_said(row, columns, features, name))
        for part, open_part in used.items()
        for number, (row, sound) in enumerate(_rows(open_part, audio, list(columns.values()), root))
    ]
    remarks = tuple(f"{part}: neither train nor validation nor test, left out" for part in parts if part not in used)
    return Corpus(name, info.license or "", info.homepage or "", recordings, remarks)


def _kind(path: Path) -> str:
    if (path / "dataset_dict.json").is_file():
        return "dict"
    if (path / "dataset_info.json").is_file() and (path / "state.json").is_file():
        return "one"
    return "parquet" if _parquet_files(path) else ""


def _parquet_files(root: Path) -> list[Path]:
    return sorted([*root.glob("*.parquet"), *root.glob("*/*.parquet")])


def _library() -> Any:
    try:
        import datasets  # type: ignore[import-not-found]
    except ImportError:
        raise InputError("the package datasets is not installed; run pip install 'ira[hf]'") from None
    return datasets


def _saved_parts(root: Path) -> dict[str, _Part]:
    """Splits of what `save_to_disk` wrote, memory mapped."""
    try:
        saved = _library().load_from_disk(str(root))
    except (OSError, ValueError, KeyError, TypeError) as error:
        raise InputError(f"{root}: cannot be read ({' '.join(str(error).split())[:160]}); save it again") from None
    parts = {"all": saved} if _kind(root) == "one" else dict(saved)
    return {name: partial(_select, part) for name, part in sorted(parts.items())}


def _parquet_parts(root: Path) -> dict[str, _Part]:
    """Splits of a folder with parquet files, read as a stream so that no copy is made in a cache."""
    files: dict[str, list[str]] = {}
    for path in _parquet_files(root):
        named = [word for word in (path.name, path.parent.name) if _split(word)]
        name = re.match(r"[A-Za-z]+", named[0])[0] if named else "train"  # type: ignore[index]
        files.setdefault(name.lower(), []).append(str(path))
    return {name: partial(_stream, paths) for name, paths in sorted(files.items())}


def _select(part: Any, columns: list[str]) -> Any:
    return _undecoded(part.select_columns(columns) if columns else part)


def _stream(paths: list[str], columns: list[str]) -> Any:
    """Only the named columns leave the files; all, where none is named."""
    try:
        given = {"columns": columns} if columns else {}
        return _undecoded(_library().load_dataset("parquet", data_files=paths, split="train", streaming=True, **given))
    except (OSError, ValueError) as error:
        message = " ".join(str(error).split())[:160]
        raise InputError(f"{paths[0]}: cannot be read as parquet ({message}); download it again") from None


def _undecoded(part: Any) -> Any:
    """Sound as {bytes, path}: decoding would want torchcodec."""
    audio = _library().Audio
    for name, feature in (part.features or {}).items():
        part = part.cast_column(name, audio(decode=False)) if isinstance(feature, audio) else part
    return part


def _audio_column(features: Any, root: Path) -> str:
    audio = _library().Audio
    found = [name for name, feature in features.items() if isinstance(feature, audio)]
    found += [name for name in ("audio", "speech", "wav") if isinstance(features.get(name), dict)]
    if not found:
        names = ", ".join(features)[:160]
        raise InputError(f"{root}: a column of sound {{bytes, path}} is wanted, {names} was found; give another folder")
    return found[0]


def _columns(features: Any, root: Path) -> dict[str, str]:
    """Our name -> theirs, of the columns that are there."""
    there = {ours: [name for name in names if name in features] for ours, names in _NAMES.items()}
    if not there["text"]:
        wanted, names = ", ".join(_NAMES["text"]), ", ".join(features)[:160]
        raise InputError(f"{root}: a column {wanted} is wanted, {names} was found; rename the one with the transcripts")
    return {ours: names[0] for ours, names in there.items() if names}


def _split(name: str) -> str:
    """train, val or test from `train`, `train.clean.100`, `validation-00000-of-00001.parquet`; "" for other names."""
    word = re.match(r"[A-Za-z]+", name)
    return _SPLITS.get(word[0].lower(), "") if word else ""


def _rows(open_part: _Part, audio: str, columns: list[str], root: Path) -> Iterator[tuple[dict[str, Any], Any]]:
    """Every row without its sound, and a function that reads the sound.

    The sounds are asked for in the order of the rows, so that files of many gigabytes are read through once.
    """
    sounds: list[Iterator[tuple[int, dict[str, Any]]]] = []

    def sound_of(wanted: int) -> bytes:
        if not sounds:
            sounds.append(enumerate(open_part([audio])))
        return _bytes(next((row[audio] for number, row in sounds[0] if number == wanted), None), root)

    for number, row in enumerate(open_part(columns)):
        yield row, partial(sound_of, number)


def _bytes(sound: dict[str, Any] | None, root: Path) -> bytes:
    """The file that a row holds, or that it names: in the data set's own folder, as it may come from anywhere."""
    sound = sound or {}
    if sound.get("bytes") is None and sound.get("path"):
        path = (root / sound["path"]).resolve()
        if root.resolve() not in path.parents or not path.is_file():
            raise ValueError(f"{sound['path']} is no file of the data set")
        return path.read_bytes()
    return sound.get("bytes") or b""


def _said(row: dict[str, Any], columns: dict[str, str], features: Any, corpus: str) -> dict[str, Any]:
    """What the row says of its recording, under our names; numbers that stand for classes become their names."""
    said: dict[str, Any] = {}
    for ours, theirs in columns.items():
        value = row[theirs]
        is_class = hasattr(features[theirs], "int2str") and isinstance(value, int) and value >= 0
        said[ours] = features[theirs].int2str(value) if is_class else value
    text, speaker = said.pop("text"), said.pop("speaker", None)
    plain = {name: value for name, value in said.items() if isinstance(value, (str, int) if name == "age" else str)}
    named = f"{corpus}-{speaker}" if speaker not in (None, "") else ""
    return {"text": text.strip() if isinstance(text, str) else "", "speaker": named, "columns": known(**plain)}
