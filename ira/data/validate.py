"""Manifests in; a report out: what is in them, what is wrong with which row, and what to do about each finding.

What keeps a row from being used is found as preparation would find it: every text is normalised, every recording
decoded. Notes are about rows that are used all the same, but may teach something false or fool a held-out score.
"""

from __future__ import annotations

import dataclasses
import hashlib
import math
from collections import Counter
from collections.abc import Callable, Iterable, Iterator, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
import soundfile

from ira.audio.waveform import SAMPLE_RATE, load_audio
from ira.data.manifest import Problem, Row, find_manifest, read_manifest, row_problem
from ira.data.text import normalize
from ira.errors import InputError

FORMAT = 1
# Characters of normalised text a second of recording. Of 8,465 clips of read sentences, commands and spelled names in
# English, German and Dutch, 98.7 % lie between; 0.1, 1, 50, 99 and 99.9 % of them lie below 1.7, 2.9, 11.9, 20.0, 24.1.
CHARACTERS_PER_SECOND = (3.0, 25.0)
# RMS in dB below full scale (a sine at full scale has -3 dB). The quietest of 3,033 such clips has -40.
SILENT_DBFS = -55.0
# A limiter or a lossy codec touches full scale now and then (in none of those clips for more than 0.04 % of the
# samples); a microphone that was overdriven stays there.
FULL_SCALE, CLIPPED_SHARE = 0.999, 0.001
# A claimed duration may be off by this many seconds, and this share of the true one.
_DURATION_SLACK = (0.1, 0.05)
# Recordings above this rate are measured at it, so that an hour of them fits in memory.
_FASTEST = 48_000
_FLOOR_DBFS = -120.0

Spread = dict[str, float]


@dataclass(frozen=True)
class Report:
    """What `validate` found: `rows` can be used; a problem that is no note is about a row that cannot.

    A spread is least, p5, median, p95 and most, over the rows that can be used; None where there was nothing to
    measure. `rates` are Hz as the files say, `loudness` is RMS in dBFS of the mono sound, `pace` is characters of
    normalised text a second, `clipped` the share of all samples at full scale.
    """

    manifests: list[str]
    rows: int
    hours: float
    speakers: int
    languages: dict[str, int]
    splits: dict[str, int]
    rates: dict[str, int]
    channels: dict[str, int]
    seconds: Spread | None
    loudness: Spread | None
    pace: Spread | None
    clipped: float | None
    problems: list[Problem]

    @property
    def unusable(self) -> int:
        """Rows that cannot be used; a manifest that cannot be read counts as one."""
        return len({(problem.source, problem.row) for problem in self.problems if not problem.is_note})

    @property
    def kinds(self) -> dict[str, int]:
        """How many findings of each kind: what cannot be used first, then the most frequent."""
        counts = Counter((problem.is_note, problem.kind) for problem in self.problems)
        return {kind: counts[note, kind] for note, kind in sorted(counts, key=lambda key: (key[0], -counts[key], key))}

    def as_dict(self) -> dict[str, Any]:
        """The report as plain JSON values."""
        problems = [{**dataclasses.asdict(problem), "note": problem.is_note} for problem in self.problems]
        figures = {**vars(self), "problems": problems}
        return {"format": FORMAT, **figures, "kinds": self.kinds, "unusable": self.unusable}


@dataclass(frozen=True)
class _Sound:
    """Measures of a recording; `digest` stands for the bytes of its file."""

    seconds: float
    rate: int
    channels: int
    loudness: float
    samples: int
    clipped: int
    digest: bytes


@dataclass(frozen=True)
class _Facts:
    """A row that can be used; `text` stands for its normalised text, `seconds` are None where nobody knows."""

    row: Row
    text: bytes
    characters: int
    seconds: float | None
    sound: _Sound | None


def validate(
    paths: Sequence[str | Path],
    *,
    check_audio: bool = True,
    tell: Callable[[int, int], None] = lambda done, total: None,
) -> Report:
    """Read the manifests as `prepare` would, measure them, and compare their rows with each other.

    Without `check_audio` no recording is opened, and the hours are those that the `duration` columns claim. `tell`
    hears after each row how many of how many are done. No sound is kept: memory grows by about 2 KB a row.

    Raises:
        InputError: there is no manifest at one of the paths.
    """
    rows, problems = _read(paths)
    facts: list[_Facts] = []
    for done, row in enumerate(rows, start=1):
        found = _examine(row, check_audio)
        if isinstance(found, Problem):
            problems.append(found)
        else:
            facts.append(found)
        tell(done, len(rows))
    problems += [note for each in facts for note in _notes(each)]
    problems += [*_duplicates(facts), *_divided_speakers(facts)]
    return _report([str(path) for path in paths], facts, problems)


def _read(paths: Sequence[str | Path]) -> tuple[list[Row], list[Problem]]:
    rows: list[Row] = []
    problems: list[Problem] = []
    for path in paths:
        found, faults = read_manifest(path)
        if not found and not faults:
            source = str(find_manifest(Path(path)))
            faults = [Problem(source, None, "no_rows", "holds no rows", "fill it or leave it out")]
        rows += found
        problems += faults
    return rows, problems


def _examine(row: Row, check_audio: bool) -> _Facts | Problem:
    """What is known of the row, or what would keep it from being used."""
    kind = "unspeakable_text"
    try:
        text = normalize(row.text, row.language)
        kind = "bad_audio"
        sound = _listen(row.audio) if check_audio and row.audio else None
    except InputError as error:
        return row_problem(row, kind, error)
    digest = hashlib.blake2b(text.encode(), digest_size=16).digest()
    return _Facts(row, digest, len(text), sound.seconds if sound else row.duration, sound)


def _listen(path: Path) -> _Sound:
    """Decode and measure a recording.

    Raises:
        InputError: it cannot be decoded.
    """
    try:
        with soundfile.SoundFile(path) as file:
            rate, channels = file.samplerate, file.channels
    except (soundfile.SoundFileError, OSError, ValueError, TypeError):
        rate, channels = SAMPLE_RATE, 1  # what is wrong with it, the loader says
    measured = max(1, min(rate, _FASTEST))
    wave = load_audio(path, measured)[0].numpy()
    power = float(np.dot(wave, wave)) / len(wave)
    loudness = max(_FLOOR_DBFS, 10 * math.log10(power)) if power else _FLOOR_DBFS
    clipped = int(np.count_nonzero(np.abs(wave) >= FULL_SCALE))
    return _Sound(len(wave) / measured, rate, channels, loudness, len(wave), clipped, _digest(path))


def _digest(path: Path) -> bytes:
    digest = hashlib.blake2b(digest_size=16)
    with path.open("rb") as file:
        while piece := file.read(2**20):
            digest.update(piece)
    return digest.digest()


def _note(row: Row, kind: str, message: str, remedy: str) -> Problem:
    return Problem(str(row.source), row.number, kind, message, remedy)


def _notes(facts: _Facts) -> Iterator[Problem]:
    """What is odd about one row by itself."""
    row, sound, (slowest, fastest) = facts.row, facts.sound, CHARACTERS_PER_SECOND
    if facts.characters and facts.seconds:
        pace = facts.characters / facts.seconds
        words = f"{facts.characters} characters in {facts.seconds:.2f} s, {pace:.1f} a second"
        if pace > fastest:
            yield _note(row, "text_too_long", words, "look whether the recording was cut or the text is another's")
        if pace < slowest:
            yield _note(row, "text_too_short", words, "cut the silence, or look whether words are missing in the text")
    if sound is None:
        return
    if sound.loudness < SILENT_DBFS:
        yield _note(row, "silent", f"loudness is {sound.loudness:.0f} dBFS", "record it again or drop the row")
    if sound.clipped > CLIPPED_SHARE * sound.samples:
        share = f"{sound.clipped / sound.samples:.1%} of the samples are at full scale"
        yield _note(row, "clipped", share, "take a less loud original or drop the row")
    absolute, relative = _DURATION_SLACK
    if row.duration is not None and abs(row.duration - sound.seconds) > absolute + relative * sound.seconds:
        words = f"duration says {row.duration:g} s, the recording has {sound.seconds:.2f} s"
        yield _note(row, "duration_differs", words, "look whether it was cut; correct or drop the column")


def _duplicates(facts: Iterable[_Facts]) -> Iterator[Problem]:
    """Every later row that repeats an earlier one's recording, text by the same speaker, or id."""
    sounds: dict[bytes, Row] = {}
    texts: dict[tuple[bytes, str], Row] = {}
    ids: dict[tuple[Path, str], Row] = {}
    for each in facts:
        row = each.row
        if each.sound and (first := sounds.setdefault(each.sound.digest, row)) is not row:
            yield _same_sound(row, first)
        elif each.characters and row.speaker and (first := texts.setdefault((each.text, row.speaker), row)) is not row:
            words = f"the same text by the same speaker as {_place(first, row)}"
            yield _note(row, "duplicate_text", words, "keep the better take, unless repetition is wanted")
        name = row.extra.get("id")
        if name is not None and (first := ids.setdefault((row.source, str(name)), row)) is not row:
            yield _note(row, "duplicate_id", f"id {name!r} is also that of row {first.number}", "make ids unique")


def _same_sound(row: Row, first: Row) -> Problem:
    if row.split == first.split:
        return _note(row, "duplicate_audio", f"the same recording as {_place(first, row)}", "keep one of the rows")
    words = f"the same recording, here in split {row.split!r}, is in {first.split!r} as {_place(first, row)}"
    return _note(row, "audio_in_splits", words, "keep it in one split, or held-out scores are of what was learnt")


def _place(first: Row, row: Row) -> str:
    return f"row {first.number}" + (f" of {first.source}" if first.source != row.source else "")


def _divided_speakers(facts: Iterable[_Facts]) -> Iterator[Problem]:
    """One note for each speaker of several splits, at the first row outside the split that was met first."""
    counts: dict[str, Counter[str]] = {}
    second: dict[str, Row] = {}
    for row in (each.row for each in facts if each.row.speaker):
        splits = counts.setdefault(row.speaker, Counter())
        splits[row.split] += 1
        if len(splits) > 1:
            second.setdefault(row.speaker, row)
    for speaker, row in second.items():
        where = ", ".join(f"{split!r} ({rows} rows)" for split, rows in counts[speaker].items())
        words = f"speaker {speaker!r} is in splits {where}"
        yield _note(row, "speaker_in_splits", words, "move the speaker to one split to test on unheard voices")


def _report(manifests: list[str], facts: list[_Facts], problems: list[Problem]) -> Report:
    rows = [each.row for each in facts]
    seconds = [each.seconds for each in facts if each.seconds is not None]
    sounds = [each.sound for each in facts if each.sound]
    samples = sum(sound.samples for sound in sounds)
    return Report(
        manifests=manifests,
        rows=len(rows),
        hours=sum(seconds) / 3600,
        speakers=len({row.speaker for row in rows if row.speaker}),
        languages=_counts(row.language for row in rows),
        splits=_counts(row.split for row in rows),
        rates=_counts(sound.rate for sound in sounds),
        channels=_counts(sound.channels for sound in sounds),
        seconds=_spread(seconds),
        loudness=_spread([sound.loudness for sound in sounds]),
        pace=_spread([each.characters / each.seconds for each in facts if each.characters and each.seconds]),
        clipped=sum(sound.clipped for sound in sounds) / samples if samples else None,
        problems=problems,
    )


def _counts(values: Iterable[object]) -> dict[str, int]:
    """How often each value comes, the most frequent first."""
    return {str(value): count for value, count in Counter(values).most_common()}


def _spread(values: list[float]) -> Spread | None:
    if not values:
        return None
    names = ("least", "p5", "median", "p95", "most")
    return {
        name: round(float(cut), 2) for name, cut in zip(names, np.percentile(values, [0, 5, 50, 95, 100]), strict=True)
    }
