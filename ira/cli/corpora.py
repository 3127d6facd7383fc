"""The verb that brings public corpora in."""

from __future__ import annotations

from pathlib import Path
from typing import TYPE_CHECKING, Annotated

import typer

from ira.cli.options import app
from ira.console import print_table, time_left, warn

if TYPE_CHECKING:
    from ira.data.importers.write import Report

# More lines than this would hide the rest; all of them are in import.json.
_SHOWN = 20


@app.command("import")
def import_corpus(
    kind: Annotated[
        str, typer.Argument(metavar="KIND", help="ljspeech, libritts, librispeech, vctk, commonvoice, hf, texts")
    ],
    folder: Annotated[Path, typer.Argument(metavar="FOLDER", help="where the corpus was unpacked, or a list of texts")],
    out: Annotated[Path, typer.Option(help="data folder to make: train/, val/, test/ with their manifests")],
    splits: Annotated[
        str, typer.Option(metavar="NAMES", help="only these: train, val, test, or the corpus' own parts, with commas")
    ] = "",
    link: Annotated[bool, typer.Option("--link/--copy", help="hard links where they can be made, or copies")] = True,
    language: Annotated[str, typer.Option(help="code such as de, where the corpus does not state it")] = "",
    voices: Annotated[int, typer.Option(min=1, help="texts: how many synthetic voices say each")] = 1,
) -> None:
    """Manifests of a public corpus, its recordings beside them; resumes, and names every recording left out.

    \b
    Examples:
      ira import ljspeech LJSpeech-1.1 --out data/ljspeech
      ira import libritts LibriTTS --out data/libritts --splits train-clean-100,val
      ira import commonvoice cv-corpus-17.0-2024-03-15/nl --out data/dutch
      ira import hf my_dataset --out data/mine --copy --language de
      ira import texts questions.txt --out data/synthetic --voices 3
    """
    from ira.data.importers.write import SPLITS
    from ira.data.importers.write import import_corpus as bring_in

    names = [name.strip() for name in splits.split(",") if name.strip()]
    with time_left(f"importing {folder.name}") as seen:
        report = bring_in(kind, folder, out, splits=names, copy=not link, language=language, voices=voices, seen=seen)
    for name, why in report.refused[:_SHOWN]:
        warn(f"{name}: {why}; left out")
    if len(report.refused) > _SHOWN:
        warn(f"{len(report.refused) - _SHOWN} more left out; {out / 'import.json'} names them")
    for remark in report.remarks:
        warn(remark)
    print_table(
        [
            ("corpus", report.corpus),
            ("licence", report.licence),
            ("splits", report.rule),
            *((out / split, _size(report, split)) for split in SPLITS if split in report.rows),
            ("refused", len(report.refused)),
            ("files", ", ".join(f"{count} {how}" for how, count in report.files.items())),
        ]
    )


def _size(report: Report, split: str) -> str:
    return f"{report.rows[split]} rows, {report.seconds[split] / 3600:.2f} h"
