"""A VCTK folder in; its recordings out."""

from __future__ import annotations

import re
from pathlib import Path
from typing import Any

from ira.data.importers.corpus import Corpus, Recording, find_root, known, read_lines, read_text

URL = "https://datashare.ed.ac.uk/handle/10283/3443"
_FOLDERS = ("wav48_silence_trimmed", "wav48")  # 0.92, and 0.80 before it
_GENDERS = {"F": "female", "M": "male"}


def read(folder: Path) -> Corpus:
    """VCTK 0.92: `wav48_silence_trimmed/p225/p225_001_mic1.flac`, `txt/p225/p225_001.txt`, `speaker-info.txt`.

    The second microphone heard the same sentences, so the first is read, and `_mic2` only where there is no `_mic1`.
    Speaker p315 has no texts. VCTK 0.80 (`wav48/p225/p225_001.wav`, speakers without the p in speaker-info.txt) is read
    too. No splits; many sentences are read by all. Layout: README.txt of the corpus, at URL.
    """
    root = find_root(folder, lambda path: _sound_folder(path) is not None, "VCTK's wav48_silence_trimmed/ beside txt/")
    speakers = _speakers(root / "speaker-info.txt")
    sounds = _sound_folder(root)
    assert sounds is not None  # what find_root has asked
    licence = "CC BY 4.0" if sounds.name == _FOLDERS[0] else "ODC-By 1.0"
    return Corpus("VCTK", licence, URL, [_recording(path, root, speakers) for path in _chosen(sounds, root / "txt")])


def _sound_folder(root: Path) -> Path | None:
    return next((root / name for name in _FOLDERS if (root / name).is_dir()), None)


def _chosen(sounds: Path, texts: Path) -> list[Path]:
    """One file a sentence: the first microphone where it is there; a text without a recording is missing its first."""
    found: dict[str, Path] = {}
    for path in sorted([*sounds.glob("*/*.flac"), *sounds.glob("*/*.wav")], reverse=True):
        found[_sentence(path)] = path  # in this order _mic1 comes last and stays
    suffix = "_mic1.flac" if sounds.name == _FOLDERS[0] else ".wav"
    for path in texts.glob("*/*.txt"):
        found.setdefault(path.stem, sounds / path.parent.name / f"{path.stem}{suffix}")
    return sorted(found.values())


def _sentence(path: Path) -> str:
    return re.sub(r"_mic\d+$", "", path.stem)


def _recording(path: Path, root: Path, speakers: dict[str, dict[str, Any]]) -> Recording:
    speaker = path.parent.name
    text = read_text(root / "txt" / speaker / f"{_sentence(path)}.txt")
    columns = {"language": "en", **speakers.get(speaker, speakers.get(speaker.removeprefix("p"), {}))}
    return Recording(f"{speaker}/{path.name}", path, text, f"vctk-{speaker}", columns=columns)


def _speakers(path: Path) -> dict[str, dict[str, Any]]:
    """Speaker -> age, gender, accent, region from rows such as `p225  23  F    English    Southern  England`.

    The columns are as wide as they like, only the last (region) may hold spaces, and remarks stand in brackets.
    """
    rows = [re.sub(r"\(.*?\)", "", line).split() for line in (read_lines(path) if path.is_file() else [])]
    return {row[0]: _person(row) for row in rows if len(row) > 3 and row[2] in _GENDERS}


def _person(row: list[str]) -> dict[str, Any]:
    age, gender, accent, region = *row[1:4], " ".join(row[4:])
    spaced = re.sub(r"(?<=[a-z])(?=[A-Z])", " ", accent)  # NorthernIrish
    years = int(age) if age.isdecimal() else None
    return known(gender=_GENDERS[gender], age=years, accent="" if accent == "Unknown" else spaced, region=region)
