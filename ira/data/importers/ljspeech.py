"""An LJSpeech folder in; its recordings out."""

from __future__ import annotations

from pathlib import Path

from ira.data.importers.corpus import Corpus, Recording, find_root, known, read_lines

URL = "https://keithito.com/LJ-Speech-Dataset/"


def read(folder: Path) -> Corpus:
    """LJSpeech 1.1: `metadata.csv` (ID|transcription|normalized transcription, nothing quoted) and `wavs/ID.wav`.

    One speaker, no splits. The text is the normalized transcription, in which numbers are words; the first one is kept
    in `original` where it differs. Layout: the corpus' README, at URL.
    """
    root = find_root(folder, lambda path: (path / "metadata.csv").is_file(), "LJSpeech's metadata.csv beside wavs/")
    lines = [line.strip("\r") for line in read_lines(root / "metadata.csv") if line.strip()]
    return Corpus("LJSpeech", "public domain", URL, [_recording(line, root) for line in lines])


def _recording(line: str, root: Path) -> Recording:
    name, original, normalized = (*(field.strip() for field in line.split("|", 2)), "", "")[:3]
    text = normalized or original
    columns = known(language="en", original=original if original != text else "")
    return Recording(f"{name}.wav", root / "wavs" / f"{name}.wav", text, "ljspeech", columns=columns)
