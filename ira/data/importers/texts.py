"""A list of texts in; recordings of them in many synthetic voices out: as much speech as one wants, for ears.

flite and espeak-ng, Debian packages of those names, do the speaking. A text belongs to one split and so does a voice:
what is held out is heard from voices and in words that training never met.
"""

from __future__ import annotations

import hashlib
import json
import shutil
import subprocess
import tempfile
from dataclasses import dataclass
from functools import partial
from pathlib import Path
from typing import Any

from ira.data.importers.corpus import Corpus, Recording, read_lines
from ira.data.importers.splits import by_hash
from ira.errors import InputError

_SLOWEST_SECONDS = 60.0  # for one text
_ACCENTS = {
    "en": ("en-us", "en-gb", "en-gb-scotland", "en-gb-x-rp", "en-029"),
    "de": ("de",),
    "nl": ("nl",),
}
_WOMEN, _MEN = ("f1", "f2", "f3", "f4", "f5", "steph"), ("m1", "m2", "m3", "m4", "m5", "m6", "m7")
# Mean pitch in Hz and stretch of durations: what flite takes to make several voices of one.
_TURNS = ((None, 1.0), (0.85, 1.15), (1.2, 0.9))
_FLITE = {"kal16": ("male", 105), "awb": ("male", 130), "rms": ("male", 95), "slt": ("female", 170)}


@dataclass(frozen=True)
class SyntheticVoice:
    """A voice of an installed program: its name, and the command that speaks, less text and file."""

    name: str
    gender: str
    accent: str
    command: tuple[str, ...]

    def say(self, text: str) -> bytes:
        """A WAV file of the text; RuntimeError where the program fails."""
        with tempfile.TemporaryDirectory() as folder:
            out = Path(folder) / "said.wav"
            given = ("-w", str(out), "--", text) if self.command[0] == "espeak-ng" else ("-o", str(out), "-t", text)
            done = subprocess.run(
                [*self.command, *given], capture_output=True, timeout=_SLOWEST_SECONDS, stdin=subprocess.DEVNULL
            )
            if done.returncode or not out.is_file():
                raise RuntimeError(f"{self.name} failed: {done.stderr.decode(errors='replace')[-120:]}")
            return out.read_bytes()


def read(path: Path, language: str = "", voices: int = 1) -> Corpus:
    """One text a line, or JSON lines with `text` and columns of their own; each said by so many `voices` of its split.

    Raises:
        InputError: no such file, no line in it that can be read, or no program that speaks its language.
    """
    rows = _rows(path, language or "en")
    texts = by_hash({row["text"] for row in rows})
    spoken = {name: voices_of(name) for name in {row["language"] for row in rows}}
    recordings = [
        _recording(row, voice, texts[row["text"]])
        for row in rows
        for voice in _chosen(row["text"], spoken[row["language"]][texts[row["text"]]], voices)
    ]
    remark = "voices and texts of the splits are different ones"
    return Corpus(f"{path.stem}, spoken", "that of the texts; made by flite and espeak-ng", "", recordings, (remark,))


def voices_of(language: str) -> dict[str, list[SyntheticVoice]]:
    """The voices of the installed programs that speak a language, by split; held out by name, the same every time."""
    if language not in _ACCENTS:
        raise InputError(f"{language!r}: no voices are known for it; give texts in {', '.join(_ACCENTS)}")
    found = [*(_flite_voices() if language == "en" else []), *_espeak_voices(language)]
    if not found:
        raise InputError("flite and espeak-ng are not installed, they do the speaking; apt install flite espeak-ng")
    held = by_hash({voice.name for voice in found})
    return {split: [voice for voice in found if held[voice.name] == split] for split in ("train", "val", "test")}


def _flite_voices() -> list[SyntheticVoice]:
    if not shutil.which("flite"):
        return []
    return [
        SyntheticVoice(f"flite-{name}-{number}", gender, "en-gb-scotland" if name == "awb" else "en-us", command)
        for name, (gender, hertz) in _FLITE.items()
        for number, (pitch, stretch) in enumerate(_TURNS)
        for command in [("flite", "-voice", name, *_settings(hertz, pitch, stretch))]
    ]


def _settings(hertz: int, pitch: float | None, stretch: float) -> tuple[str, ...]:
    if pitch is None:
        return ()
    return ("--setf", f"int_f0_target_mean={hertz * pitch:.0f}", "--setf", f"duration_stretch={stretch}")


def _espeak_voices(language: str) -> list[SyntheticVoice]:
    if not shutil.which("espeak-ng"):
        return []
    return [
        SyntheticVoice(f"espeak-{accent}-{variant}", gender, accent, ("espeak-ng", "-v", f"{accent}+{variant}"))
        for accent in _ACCENTS[language]
        for gender, variants in (("female", _WOMEN), ("male", _MEN))
        for variant in variants
    ]


def _rows(path: Path, language: str) -> list[dict[str, Any]]:
    if not path.is_file():
        raise InputError(f"{path}: no such file; give a list of texts, one a line, or JSON lines with text")
    lines = [(number, line.strip()) for number, line in enumerate(read_lines(path), 1)]
    rows = [_row(line, path, number) for number, line in lines if line]
    if not rows:
        raise InputError(f"{path}: no line has text; give one text a line")
    return [{"language": language, **row} for row in rows]


def _row(line: str, path: Path, number: int) -> dict[str, Any]:
    if path.suffix != ".jsonl":
        return {"text": line}
    try:
        row = json.loads(line)
    except ValueError:
        row = None
    if not isinstance(row, dict) or not isinstance(row.get("text"), str):
        raise InputError(f'{path}, line {number}: no JSON object with "text"; correct the line or leave it out')
    return row


def _chosen(text: str, voices: list[SyntheticVoice], count: int) -> list[SyntheticVoice]:
    """`count` of the voices, those whose names with the text have the smallest hashes."""
    return sorted(voices, key=lambda voice: _hash(f"{voice.name} {text}"))[:count]


def _recording(row: dict[str, Any], voice: SyntheticVoice, split: str) -> Recording:
    text = row["text"]
    columns = {name: value for name, value in row.items() if name not in ("text", "split", "speaker")}
    columns = {"gender": voice.gender, "accent": voice.accent, **columns}
    name = f"{voice.name}/{_hash(text)[:16]}"
    return Recording(name, partial(voice.say, text), text, voice.name, split=split, columns=columns)


def _hash(text: str) -> str:
    return hashlib.sha256(text.encode("utf-8", "surrogatepass")).hexdigest()
