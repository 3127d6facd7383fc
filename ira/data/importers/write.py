"""A corpus in; `OUT/SPLIT/SPLIT.json` with its recordings beside it, where each came from, and what was refused, out.

    OUT/
      import.json           corpus, licence, rule of the splits, rows and hours of each, every refused recording and why
      train/
        train.json          the manifest, sorted by name, one row a line
        source.json         corpus, licence as the corpus states it, where it is found
        audio_files/...     hard links to the corpus, or copies

Nothing in the corpus is changed. What is there already is kept, so a killed import goes on where it was.
"""

from __future__ import annotations

import dataclasses
import importlib
import io
import json
import os
import secrets
import shutil
import subprocess
from collections import Counter, defaultdict, deque
from collections.abc import Callable, Iterator, Sequence
from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass, field
from pathlib import Path, PurePosixPath
from typing import Any

import soundfile

from ira.audio.waveform import WRITE_FORMATS
from ira.checkpoint import write_aside
from ira.data.importers.corpus import Corpus, Recording
from ira.data.importers.splits import assign
from ira.data.text import normalize
from ira.errors import InputError

KINDS = {
    "ljspeech": "ljspeech",
    "libritts": "libri",
    "librispeech": "libri",
    "vctk": "vctk",
    "commonvoice": "mozilla",
    "hf": "hugging_face",
    "texts": "texts",
}
SPLITS = ("train", "val", "test")
_SUFFIXES = {
    "WAV": ".wav",
    "WAVEX": ".wav",
    "RF64": ".wav",
    "FLAC": ".flac",
    "OGG": ".ogg",
    "MP3": ".mp3",
    "MPEG": ".mp3",
}
_AHEAD = 32  # recordings
_LONGEST_SECONDS = 3600.0  # what a recording may last to be read at all


@dataclass
class Report:
    """What was imported: rows and seconds of each split, how files were placed, and (name, why) of the refused."""

    corpus: str
    licence: str
    url: str
    rule: str = ""
    remarks: tuple[str, ...] = ()
    rows: Counter[str] = field(default_factory=Counter)
    seconds: defaultdict[str, float] = field(default_factory=lambda: defaultdict(float))
    files: Counter[str] = field(default_factory=Counter)
    refused: list[tuple[str, str]] = field(default_factory=list)

    def as_dict(self) -> dict[str, Any]:
        """What OUT/import.json holds; the same for the same corpus, whatever was there before."""
        splits = {
            split: {"rows": self.rows[split], "hours": round(self.seconds[split] / 3600, 4)}
            for split in sorted(self.rows)
        }
        refused = [{"recording": name, "why": why} for name, why in self.refused]
        facts = {"corpus": self.corpus, "licence": self.licence, "url": self.url, "split": self.rule}
        return {**facts, "remarks": list(self.remarks), "splits": splits, "refused": refused}


def import_corpus(
    kind: str,
    folder: str | Path,
    out: str | Path,
    *,
    splits: Sequence[str] = (),
    copy: bool = False,
    language: str = "",
    voices: int = 1,
    seen: Callable[[int, int], None] = lambda done, total: None,
) -> Report:
    """Write manifests of the corpus in `folder`, one of KINDS, under `out`; a bad recording is named and left out.

    `splits` keeps only those named: train, val, test, or parts under the corpus' own names. `copy` makes copies where
    hard links would do. `language` stands where the corpus states none. `voices` say each text of `texts`. `seen` hears
    recordings done, and of how many.

    Raises:
        InputError: not a corpus of this kind, nothing usable in it, or `out` is inside it or holds another corpus.
    """
    folder, out = Path(folder), Path(out)
    if kind not in KINDS:
        raise InputError(f"{kind!r}: no such kind of corpus; choose one of {', '.join(KINDS)}")
    if _is_inside(out, folder):
        raise InputError(f"{out}: lies in the corpus {folder}, which is left as it is; choose a folder outside")
    given = {"language": language, "voices": voices} if kind == "texts" else {}
    corpus: Corpus = importlib.import_module(f"ira.data.importers.{KINDS[kind]}").read(folder, **given)
    report = Report(corpus.name, corpus.licence or "not stated", corpus.url or "not stated", remarks=corpus.remarks)
    wanted = _wanted(_usable(corpus.recordings, language, splits, report), splits, report)
    for split in {recording.split for recording in wanted}:
        _check_place(out / split, corpus.name)
    rows: dict[str, list[dict[str, Any]]] = {}
    for done, recording in enumerate(_opened(wanted)):
        seen(done, len(wanted))
        row = _place(recording, out / recording.split, copy, report)
        rows.setdefault(recording.split, []).extend([row] if row else [])
    seen(len(wanted), len(wanted))
    _write(rows, out, report)
    return report


def _is_inside(path: Path, folder: Path) -> bool:
    return folder.resolve() in (path.resolve(), *path.resolve().parents)


def _usable(recordings: list[Recording], language: str, splits: Sequence[str], report: Report) -> list[Recording]:
    """Sorted by name (of one name the first), with the language filled in, without those that cannot be used."""
    usable: dict[str, Recording] = {}
    for recording in sorted(recordings, key=lambda recording: (recording.part, recording.name)):
        columns = {**({"language": language} if language else {}), **recording.columns}
        flaw = _flaw(recording, columns.get("language", "en")) or ("named twice" if recording.name in usable else "")
        asked = not splits or not recording.split or {recording.split, recording.part} & {*splits}
        if flaw and asked:
            report.refused.append((_shown(recording.name), flaw))
        elif not flaw:
            usable[recording.name] = dataclasses.replace(recording, columns=columns)
    return list(usable.values())


def _flaw(recording: Recording, language: str) -> str:
    """Why the recording cannot be used, as far as can be told without opening it; "" where it can."""
    place = PurePosixPath(recording.name)
    if place.is_absolute() or ".." in place.parts or not recording.name.isprintable() or "\\" in recording.name:
        return "its name leads elsewhere or cannot be written"
    if isinstance(recording.sound, Path) and not recording.sound.is_file():
        return "the file is not there"
    if not recording.text:
        return "no text"
    try:
        return "" if normalize(recording.text, language) else "no text that can be spoken"
    except InputError as error:
        return str(error).partition("; ")[0]


def _shown(name: str) -> str:
    """A name that does no harm on a terminal."""
    return name if name.isprintable() and len(name) <= 160 else repr(name[:160])


def _wanted(recordings: list[Recording], splits: Sequence[str], report: Report) -> list[Recording]:
    """Those of the named splits or parts, each with its split; the order stays."""
    if not recordings:
        reason = f" (the first: {': '.join(report.refused[0])})" if report.refused else ""
        raise InputError(f"{report.corpus}: no recording of it can be used{reason}; see that it was unpacked in full")
    placed, report.rule = assign(recordings)
    names = {*SPLITS, *(recording.part for recording in placed if recording.part)}
    if unknown := [name for name in splits if name not in names]:
        raise InputError(f"{unknown[0]!r}: no such split; this corpus has {', '.join(sorted(names))}")
    wanted = [recording for recording in placed if not splits or {recording.split, recording.part} & {*splits}]
    if not wanted:
        raise InputError(f"{', '.join(splits)}: no recording there; this corpus has {', '.join(sorted(names))}")
    return wanted


def _check_place(folder: Path, corpus: str) -> None:
    """A split folder may be new, unfinished, or hold the same corpus."""
    source = folder / "source.json"
    try:
        there = json.loads(source.read_text(encoding="utf-8"))["corpus"] if source.is_file() else ""
    except (OSError, ValueError, KeyError, TypeError):
        there = "something else"
    manifests = [folder / f"{folder.name}{suffix}" for suffix in (".json", ".jsonl")]
    other = there or next((path.name for path in manifests if path.exists()), "")
    if other and other != corpus:
        raise InputError(f"{folder}: holds {other}, {corpus} would replace it; give each corpus a folder of its own")
    if not there:  # before the first recording, so that two corpora cannot mix
        with write_aside(source) as aside:
            aside.write_text(json.dumps({"corpus": corpus}) + "\n", encoding="utf-8")


def _opened(recordings: list[Recording]) -> Iterator[Recording]:
    """The recordings in order, those whose sound must first be made or read ahead of their turn, by many threads."""
    with ThreadPoolExecutor(thread_name_prefix="sound") as pool:
        waiting: deque[Recording] = deque()
        for recording in recordings:
            sound = recording.sound
            ahead = (
                recording
                if isinstance(sound, Path)
                else dataclasses.replace(recording, sound=pool.submit(sound).result)
            )
            waiting.append(ahead)
            if len(waiting) > _AHEAD:
                yield waiting.popleft()
        yield from waiting


def _place(recording: Recording, folder: Path, copy: bool, report: Report) -> dict[str, Any] | None:
    """The recording under `folder`/audio_files and its row; None where it cannot be read as sound."""
    try:
        given = recording.sound if isinstance(recording.sound, Path) else recording.sound()
        seconds, suffix = _header(given)
    except (OSError, ValueError, RuntimeError, subprocess.SubprocessError) as error:
        report.refused.append((recording.name, f"cannot be read as sound ({' '.join(str(error).split())[-160:]})"))
        return None
    name = f"audio_files/{recording.name}{'' if isinstance(given, Path) else suffix}"
    report.files[_put(given, folder / name, copy)] += 1
    report.rows[recording.split] += 1
    report.seconds[recording.split] += seconds
    speaker = {"speaker": recording.speaker} if recording.speaker else {}
    return {"audio_file": name, "text": recording.text, **speaker, "duration": round(seconds, 4), **recording.columns}


def _header(sound: Path | bytes) -> tuple[float, str]:
    """Seconds and the suffix of the format, from the first bytes; ValueError where it is too short or too long."""
    info = soundfile.info(str(sound) if isinstance(sound, Path) else io.BytesIO(sound))
    if not 0 < info.duration <= _LONGEST_SECONDS:
        raise ValueError(f"it lasts {info.duration:g} s")
    if info.format not in _SUFFIXES:
        raise ValueError(f"{info.format} is none of {' '.join(WRITE_FORMATS)}")
    return info.duration, _SUFFIXES[info.format]


def _put(sound: Path | bytes, target: Path, copy: bool) -> str:
    """Bring the file to `target`: kept (it is there, with as many bytes), linked or copied."""
    size = sound.stat().st_size if isinstance(sound, Path) else len(sound)
    if target.is_file() and target.stat().st_size == size:
        linked = isinstance(sound, Path) and target.samefile(sound)
        if not (copy and linked):
            return "kept"
    if isinstance(sound, Path) and not copy and _link(sound, target):
        return "linked"
    with write_aside(target) as aside:
        if isinstance(sound, Path):
            shutil.copyfile(sound, aside)
        else:
            aside.write_bytes(sound)
    return "copied"


def _link(source: Path, target: Path) -> bool:
    """False where the file system, or the owner of the corpus, does not allow it."""
    aside = target.with_name(f".{secrets.token_hex(4)}{target.suffix}")
    try:
        target.parent.mkdir(parents=True, exist_ok=True)
        os.link(source.resolve(), aside)  # resolved: a link to a link would stop at the first
        os.replace(aside, target)
    except OSError:
        return False
    finally:
        aside.unlink(missing_ok=True)
    return True


def _write(rows: dict[str, list[dict[str, Any]]], out: Path, report: Report) -> None:
    """The manifests, their sources, and the report, which stands once all is there."""
    if not report.rows:
        raise InputError(f"{report.corpus}: no recording could be read; the first: {': '.join(report.refused[0])}")
    facts = {"corpus": report.corpus, "licence": report.licence, "url": report.url, "split": report.rule}
    for split, found in rows.items():
        lines = ",\n".join(json.dumps(row, ensure_ascii=False) for row in found)
        for path, text in _files(out / split, f"[\n{lines}\n]\n", facts):
            with write_aside(path) as aside:
                aside.write_text(text, encoding="utf-8")
    with write_aside(out / "import.json") as aside:
        aside.write_text(json.dumps(report.as_dict(), indent=1, ensure_ascii=False) + "\n", encoding="utf-8")


def _files(folder: Path, manifest: str, facts: dict[str, str]) -> Iterator[tuple[Path, str]]:
    yield folder / f"{folder.name}.json", manifest
    yield folder / "source.json", json.dumps(facts, indent=1, ensure_ascii=False) + "\n"
