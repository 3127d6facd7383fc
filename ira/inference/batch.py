"""ROWS.jsonl and a pipeline in; sound files or answers, and a word on every row, out."""

from __future__ import annotations

import json
from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import TypeVar

from ira.audio.waveform import save_audio
from ira.checkpoint import write_aside
from ira.errors import InputError
from ira.inference.pipeline import Pipeline
from ira.inference.rows import read_listen_rows, read_speak_rows
from ira.inference.speak_report import SpeakReport

TOGETHER = 8  # rows that go through the model at once
Row = TypeVar("Row")
Result = TypeVar("Result")


@dataclass(frozen=True)
class Done:
    """What became of the row `name`: the file written, if any, and what the user is to know, if anything."""

    name: str
    file: Path | None = None
    message: str = ""
    failed: bool = False


def speak_rows(
    pipeline: Pipeline,
    batch: Path,
    out: Path,
    progress: Callable[[int], None] | None = None,
    report: Path | None = None,
) -> Iterator[Done]:
    """Write OUT/ID.wav for every row that can be spoken; each file is there when its row is reported.

    `report` is a page about all rows, written once all are done.

    Raises:
        InputError: the rows file cannot be read, or OUT or the page cannot be written.
    """
    rows = read_speak_rows(batch)
    page = SpeakReport(pipeline) if report else None
    for name, given, spoken in _in_groups(rows, lambda part: pipeline.speak_batch(part, progress)):
        if page:
            page.add(name, given, spoken)
        if isinstance(spoken, InputError):
            yield Done(name, message=str(spoken), failed=True)
            continue
        path = out / f"{name}.wav"
        save_audio(path, spoken.waveform, spoken.sample_rate)
        yield Done(name, path, spoken.remark)
    if page and report:
        page.write(report)


def listen_rows(
    pipeline: Pipeline, batch: Path, out: Path, progress: Callable[[int], None] | None = None
) -> Iterator[Done]:
    """Write {"id", "answer"} to OUT for every row that can be answered, in their order, once all are done.

    Raises:
        InputError: the rows file cannot be read, or OUT cannot be written.
    """
    lines: list[str] = []
    for name, _, answer in _in_groups(read_listen_rows(batch), pipeline.listen_batch):
        if isinstance(answer, InputError):
            yield Done(name, message=str(answer), failed=True)
            continue
        lines.append(json.dumps({"id": name, "answer": answer}, ensure_ascii=False) + "\n")
        if progress:
            progress(len(lines))
        yield Done(name)
    with write_aside(out) as aside:
        aside.write_text("".join(lines), encoding="utf-8")


def _in_groups(
    rows: Sequence[tuple[str, Row | InputError]], run: Callable[[list[Row]], Sequence[Result]]
) -> Iterator[tuple[str, Row | None, Result | InputError]]:
    """(id, row, result) of every row, in order; `run` gets the good rows of eight, bad ones keep their error."""
    for start in range(0, len(rows), TOGETHER):
        part = rows[start : start + TOGETHER]
        results = iter(run([row for _, row in part if not isinstance(row, InputError)]))
        for name, row in part:
            yield (name, None, row) if isinstance(row, InputError) else (name, row, next(results))
