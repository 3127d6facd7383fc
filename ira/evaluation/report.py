"""What a suite found in; tables on stdout, a JSON file of the figures and a file with one line a sentence out."""

from __future__ import annotations

import csv
import itertools
import json
import subprocess
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import typer

from ira.checkpoint import write_aside
from ira.console import print_table
from ira.errors import InputError

Metrics = dict[str, float | int | None]
SENTENCE_FILES = (".csv", ".jsonl")


@dataclass(frozen=True)
class Found:
    """`figures` of a suite; `groups`: the same for a part of the clips each; `sentences`: one object a clip."""

    figures: Metrics
    groups: list[dict[str, Any]] = field(default_factory=list)
    sentences: list[dict[str, Any]] = field(default_factory=list)


def show(found: Found) -> None:
    """One line a figure, a dash where there was nothing to measure; below them tables of the groups."""
    print_table([(name, _shown(value)) for name, value in found.figures.items()])
    for columns, groups in itertools.groupby(found.groups, key=list):
        _print_lines([columns, *([_shown(value) for value in group.values()] for group in groups)])


def _print_lines(lines: list[list[str]]) -> None:
    """A blank line, then cells in columns, the first line above them all."""
    widths = [max(len(line[i]) for line in lines) for i in range(len(lines[0]))]
    typer.echo()
    for line in lines:
        typer.echo("  ".join(f"{cell:<{width}}" for cell, width in zip(line, widths, strict=True)).rstrip())


def write_report(path: Path, suite: str, model: str, device: str, found: Found) -> None:
    """The figures with what they belong to; a file that is there already is replaced at once or not at all."""
    record = {"suite": suite, "model": model, "device": device, "commit": commit(), "metrics": found.figures}
    record |= {"groups": found.groups} if found.groups else {}
    with write_aside(path) as aside:
        aside.write_text(json.dumps(record, indent=1) + "\n", encoding="utf-8")


def check_sentence_file(path: Path | None) -> None:
    """Refuse a name that says no format, before any work.

    Raises:
        InputError: the suffix is neither .csv nor .jsonl.
    """
    if path and path.suffix.lower() not in SENTENCE_FILES:
        raise InputError(f"--sentences {path}: one of {' and '.join(SENTENCE_FILES)} is wanted; rename it")


def write_sentences(path: Path, sentences: list[dict[str, Any]]) -> None:
    """One line a sentence: JSON, or CSV with a head; a list stands in one cell, its parts apart by spaces."""
    with write_aside(path) as aside, aside.open("w", encoding="utf-8", newline="") as file:
        if path.suffix.lower() == ".jsonl":
            file.writelines(json.dumps(sentence, ensure_ascii=False) + "\n" for sentence in sentences)
            return
        table = csv.DictWriter(file, list(dict.fromkeys(name for sentence in sentences for name in sentence)))
        table.writeheader()
        table.writerows({name: _cell(value) for name, value in sentence.items()} for sentence in sentences)


def commit() -> str | None:
    """The commit of this code, None where it is not in a git checkout."""
    try:
        found = subprocess.run(
            ["git", "rev-parse", "--short", "HEAD"], cwd=Path(__file__).parent, capture_output=True, text=True
        )
    except OSError:
        return None
    return found.stdout.strip() or None


def _cell(value: Any) -> Any:
    """Text that a spreadsheet would take for a formula begins with an apostrophe."""
    told = " ".join(map(str, value)) if isinstance(value, list) else value
    return f"'{told}" if isinstance(told, str) and told.startswith(("=", "+", "-", "@", "\t", "\r")) else told


def _shown(value: Any) -> str:
    if value is None:
        return "-"
    if isinstance(value, tuple):  # what was found, and the ends of its interval
        found, low, high = value
        return f"{found:.2f} ({low:.2f} to {high:.2f})"
    return f"{value:.4f}" if isinstance(value, float) else str(value)
