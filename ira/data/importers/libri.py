"""A LibriTTS, LibriTTS-R or LibriSpeech folder in; its recordings out."""

from __future__ import annotations

from pathlib import Path

from ira.data.importers.corpus import Corpus, Recording, find_root, known, read_lines, read_text

URLS = {
    "LibriTTS": "https://www.openslr.org/60/",
    "LibriTTS-R": "https://www.openslr.org/141/",
    "LibriSpeech": "https://www.openslr.org/12/",
}
_SPLITS = {"train": "train", "dev": "val", "test": "test"}


def read(folder: Path) -> Corpus:
    """Any of the parts `train-clean-100`, `dev-other`, `test-clean` ..., each PART/SPEAKER/CHAPTER/.

    There, LibriTTS has SPEAKER_CHAPTER_PARAGRAPH_SENTENCE.wav with `.normalized.txt` (the text) and `.original.txt`;
    LibriSpeech has SPEAKER-CHAPTER-NUMBER.flac and SPEAKER-CHAPTER.trans.txt, one `ID TEXT` a line in capitals. Train,
    dev and test keep their places and share no speaker; gender comes from SPEAKERS.txt or speakers.tsv. The three
    number their readers alike, so that one reader is one speaker in all. Layout: README files at URLS.
    """
    root = find_root(
        folder, lambda path: bool(_parts(path)), "a part of LibriTTS or LibriSpeech, train-clean-100/ say,"
    )
    genders, transcripts = _genders(root), _transcripts(root)
    restored = root.name.lower().replace("-", "_").startswith("libritts_r")
    name = "LibriSpeech" if transcripts else "LibriTTS-R" if restored else "LibriTTS"
    sounds = sorted({*transcripts, *(path for part in _parts(root) for path in _sounds(part))})
    recordings = [_recording(path, root, genders, transcripts) for path in sounds]
    return Corpus(name, "CC BY 4.0", URLS[name], recordings)


def _parts(root: Path) -> list[Path]:
    found = (path for path in root.iterdir() if path.name.partition("-")[0] in _SPLITS and "-" in path.name)
    return sorted(path for path in found if path.is_dir() and any(path.glob("*/*/*")))


def _sounds(part: Path) -> set[Path]:
    """Recordings, and those of LibriTTS that have a text only: they are missing, and shall be named."""
    texts = (path.with_name(path.name.replace(".normalized.txt", ".wav")) for path in part.glob("*/*/*.normalized.txt"))
    return {*part.glob("*/*/*.wav"), *part.glob("*/*/*.flac"), *texts}


def _transcripts(root: Path) -> dict[Path, str]:
    """Recording -> text, of all lines in LibriSpeech's tables."""
    files = [path for part in _parts(root) for path in part.glob("*/*/*.trans.txt")]
    lines = ((path, line.strip().partition(" ")) for path in files for line in read_lines(path))
    return {path.with_name(f"{name}.flac"): text.strip() for path, (name, _, text) in lines if name}


def _recording(path: Path, root: Path, genders: dict[str, str], transcripts: dict[Path, str]) -> Recording:
    part, speaker = path.relative_to(root).parts[:2]
    text, original = transcripts.get(path, ""), ""
    if path.suffix == ".wav":
        text, original = (read_text(path.with_suffix(f".{kind}.txt")) for kind in ("normalized", "original"))
    columns = known(language="en", gender=genders.get(speaker), original=original if original != text else "")
    name, split = path.relative_to(root / part).as_posix(), _SPLITS[part.partition("-")[0]]
    return Recording(name, path, text, f"libri-{speaker}", part, split, columns)


def _genders(root: Path) -> dict[str, str]:
    """Reader -> female or male, from `19 | F | train-clean-100 | ...` or the same with tabs; names may hold a `|`."""
    tables = {"SPEAKERS.txt": "|", "SPEAKERS.TXT": "|", "speakers.tsv": "\t"}
    found: dict[str, str] = {}
    for name, separator in tables.items():
        if (root / name).is_file():
            rows = (line.split(separator) for line in read_lines(root / name) if not line.startswith(";"))
            found |= {row[0].strip(): row[1].strip() for row in rows if len(row) > 1}
    words = {"F": "female", "M": "male"}
    return {reader: words[sign] for reader, sign in found.items() if sign in words}
