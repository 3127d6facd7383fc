"""Run folders in, one HTML page that compares them out: charts, tables, configuration differences, samples.

The page needs no network and no other file. Its charts are drawn by the script in `plot.html`, from at most
`2 x BUCKETS` points a line; the tables hold figures of every step.
"""

from __future__ import annotations

import base64
import json
import math
import re
from collections.abc import Sequence
from dataclasses import dataclass, field
from html import escape
from pathlib import Path
from typing import Any

from ira.checkpoint import write_aside
from ira.console import warn
from ira.errors import InputError

BUCKETS = 400  # a chart is some 400 pixels wide
SAMPLE_BYTES = 10_000_000  # of all sounds and pictures in a page, as they stand in it
KINDS = {".png": "image/png", ".wav": "audio/wav"}
NOT_FIGURES = {"time", "stage", "step", "share_done"}
MACHINE = ("lr", "grad_norm", "dropped_steps", "tokens_per_second", "data_wait", "memory_gb", "share_of_peak")

Series = dict[int, float | None]


@dataclass
class Record:
    """What a run has written: figures by (stage, name) and step, the configuration as dotted keys."""

    name: str
    folder: Path
    series: dict[tuple[str, str], Series] = field(default_factory=dict)
    config: dict[str, str] = field(default_factory=dict)
    damaged: int = 0


def plot(folders: Sequence[str | Path], out: str | Path) -> Path:
    """Write the page that compares `folders`, each the folder of a run, to `out`.

    Raises:
        InputError: a folder holds no figures, or the page cannot be written.
    """
    paths = list(dict.fromkeys(Path(folder) for folder in folders))
    short = [path.resolve().name for path in paths]
    unique = len(set(short)) == len(short)
    records = [read_run(path, name if unique else str(path)) for path, name in zip(paths, short, strict=True)]
    for record in records:
        if record.damaged:
            warn(f"{record.folder / 'metrics.jsonl'}: {record.damaged} damaged lines are left out")
    with write_aside(out) as aside:
        aside.write_text(page(records), encoding="utf-8")
    return Path(out)


# -- reading -----------------------------------------------------------------------------------------------------


def read_run(folder: Path, name: str) -> Record:
    """The figures of a run; where a step stands twice, the later line counts. Damaged lines are counted."""
    record, path = Record(name, folder), folder / "metrics.jsonl"
    try:
        with open(path, "rb") as file:
            for line in file:
                _take(record, line)
    except OSError as error:
        raise InputError(f"{path}: cannot be read ({error.strerror}); give the run_dir of a training") from None
    if not record.series:
        lines = f"{record.damaged} damaged lines" if record.damaged else "nothing"
        raise InputError(f"{path}: holds no figures ({lines}); wait for the run's first step, or leave it out")
    record.config = _read_config(folder / "config.json")
    return record


def _take(record: Record, line: bytes) -> None:
    if not line.strip():
        return
    try:
        found = json.loads(line)
    except (ValueError, RecursionError):
        found = None
    found = found if isinstance(found, dict) else {}
    stage, step = found.get("stage"), found.get("step")
    if not isinstance(stage, str) or type(step) is not int or not 0 <= step < 2**53:
        record.damaged += 1
        return
    for name, value in found.items():
        if name not in NOT_FIGURES and (value is None or type(value) in (int, float)):
            record.series.setdefault((stage, name), {})[step] = _finite(value)


def _finite(value: int | float | None) -> float | None:
    try:
        return float(value) if value is not None and math.isfinite(value) else None
    except OverflowError:  # a whole number beyond the range of floats
        return None


def _read_config(path: Path) -> dict[str, str]:
    """Dotted keys and their values as text; nothing where there is no configuration that can be read."""
    try:
        return _flat(json.loads(path.read_text(encoding="utf-8")), "")
    except (OSError, ValueError, RecursionError):
        return {}


def _flat(value: Any, dotted: str) -> dict[str, str]:
    if isinstance(value, dict):
        return {k: v for name, inner in value.items() for k, v in _flat(inner, f"{dotted}.{name}".strip(".")).items()}
    return {dotted: json.dumps(value, ensure_ascii=False)}


# -- the page ----------------------------------------------------------------------------------------------------


def page(records: Sequence[Record]) -> str:
    """The HTML text."""
    stages = list(dict.fromkeys(stage for record in records for stage, _ in record.series))
    media, left_out = _embed([file for record in records for file in _latest(record, stages)])
    charts = [chart for number, stage in enumerate(stages) for chart in _charts(records, stage, f"charts{number}")]
    data = {"runs": [record.name for record in records], "charts": charts}
    sections = [_section(records, stage, f"charts{number}", media) for number, stage in enumerate(stages)]
    parts = {
        "TITLE": escape(", ".join(record.name for record in records)),
        "NOTES": _notes(records, left_out),
        "LEGEND": "\n  ".join(_legend(number, record.name) for number, record in enumerate(records)),
        "STAGES": "\n".join(sections),
        "CONFIG": _differences(records),
        "DATA": json.dumps(data, allow_nan=False, separators=(",", ":")).replace("<", "\\u003c"),
    }
    template = Path(__file__).with_suffix(".html").read_text(encoding="utf-8")
    return re.sub(r"<!--([A-Z]+)-->", lambda found: parts[found[1]], template)  # once: what is put in stays as it is


def _notes(records: Sequence[Record], left_out: int) -> str:
    notes = [f"{r.name}: {r.damaged} damaged lines of metrics.jsonl are left out." for r in records if r.damaged]
    if left_out:
        notes.append(f"{left_out} samples are left out to keep the page small; they lie in RUN/samples.")
    return "\n".join(f'<p class="note">{escape(note)}</p>' for note in notes)


def _legend(number: int, name: str) -> str:
    dashed = " dashed" if number >= 8 else ""
    swatch = f'<span class="swatch{dashed}" style="border-color: var(--run{number % 8})"></span>'
    return f'<label><input type="checkbox" data-run="{number}" checked> {swatch} {escape(name)}</label>'


def _section(records: Sequence[Record], stage: str, place: str, media: dict[Path, str]) -> str:
    """A stage: where the script puts its charts, its table, and what it sounded and looked like at last."""
    samples = "".join(_samples(record, stage, media) for record in records)
    return (
        f'<h2>{escape(stage)}</h2>\n<div class="charts" id="{place}"></div>\n'
        f"<details><summary>Figures of {escape(stage)}</summary>\n{_table(records, stage)}</details>\n{samples}"
    )


def _names(records: Sequence[Record], stage: str) -> list[str]:
    """Figures of a stage: the loss, validation, the stage's own, and last what every stage has."""
    names = dict.fromkeys(name for record in records for of, name in record.series if of == stage)

    def rank(name: str) -> tuple[int, int]:
        kind = 0 if name == "loss" else 1 if name.startswith("val/") else 3 if name in MACHINE else 2
        return kind, MACHINE.index(name) if name in MACHINE else 0

    return sorted(names, key=rank)


def _charts(records: Sequence[Record], stage: str, place: str) -> list[dict[str, Any]]:
    return [
        {
            "stage": stage,
            "metric": name,
            "place": place,
            "series": [_points(record.series.get((stage, name))) for record in records],
        }
        for name in _names(records, stage)
    ]


def _points(series: Series | None) -> tuple[list[int], list[float | None]] | None:
    """Steps and values of a line, thinned out: of each bucket of steps the lowest and the highest stay."""
    if not series or all(value is None for value in series.values()):
        return None
    points = sorted(series.items())
    size = -(-len(points) // BUCKETS)
    if size > 2:
        buckets = [points[start : start + size] for start in range(0, len(points), size)]
        points = [point for bucket in buckets for point in _extremes(bucket)]
    return [step for step, _ in points], [None if value is None else float(f"{value:.5g}") for _, value in points]


def _extremes(bucket: list[tuple[int, float | None]]) -> list[tuple[int, float | None]]:
    known = [(value, step) for step, value in bucket if value is not None]
    if not known:
        return bucket[:1]
    return [(step, value) for step, value in sorted({(step, value) for value, step in (min(known), max(known))})]


def _table(records: Sequence[Record], stage: str) -> str:
    rows = ["<tr><th>figure</th><th>run</th><th>last</th><th>lowest</th><th>highest</th></tr>"]
    for name in _names(records, stage):
        for record in records:
            known = {s: v for s, v in sorted(record.series.get((stage, name), {}).items()) if v is not None}
            if known:
                steps = (max(known), min(known, key=known.__getitem__), max(known, key=known.__getitem__))
                cells = "".join(f'<td class="number">{known[s]:.5g} <span class="soft">@{s}</span></td>' for s in steps)
                rows.append(f"<tr><td>{escape(name)}</td><td>{escape(record.name)}</td>{cells}</tr>")
    return '<div class="scroll"><table>\n' + "\n".join(rows) + "\n</table></div>\n"


def _differences(records: Sequence[Record]) -> str:
    """A table of the settings in which the runs differ; nothing for a single run."""
    if len(records) < 2:
        return ""
    keys = dict.fromkeys(key for record in records for key in record.config if key != "run_dir")
    told = {key: [record.config.get(key, "-") for record in records] for key in keys}
    rows = ["".join(f"<td>{escape(cell)}</td>" for cell in (key, *row)) for key, row in told.items() if len({*row}) > 1]
    head = "".join(f"<th>{escape(name)}</th>" for name in ("setting", *(record.name for record in records)))
    missing = ", ".join(record.name for record in records if not record.config)
    note = f'<p class="note">No configuration that can be read: {escape(missing)}.</p>' if missing else ""
    if not rows:
        return f'<h2>Configuration</h2>\n{note}<p class="note">The runs do not differ.</p>'
    table = f"<tr>{head}</tr>" + "".join(f"\n<tr>{row}</tr>" for row in rows)
    return f'<h2>Configuration</h2>\n{note}<div class="scroll"><table>\n{table}\n</table></div>'


# -- samples -----------------------------------------------------------------------------------------------------


def _newest(record: Record, stage: str) -> tuple[int, list[Path]]:
    """The last step that has samples, and their files; -1 where there are none."""
    if not re.fullmatch(r"\w[\w-]*", stage):
        return -1, []
    folders = (record.folder / "samples" / stage).glob("step-*")
    steps = {int(found[1]): path for path in folders if (found := re.fullmatch(r"step-(\d{1,12})", path.name))}
    if not steps:
        return -1, []
    files = (path for path in steps[max(steps)].glob("[!.]*") if path.suffix in KINDS and path.is_file())
    return max(steps), sorted(files, key=lambda path: path.stem)  # a sound before its picture


def _latest(record: Record, stages: Sequence[str]) -> list[Path]:
    return [path for stage in stages for path in _newest(record, stage)[1]]


def _embed(files: Sequence[Path]) -> tuple[dict[Path, str], int]:
    """Files as data: addresses, the small ones first, while there is room; and how many had none."""
    found, room, sizes = {}, SAMPLE_BYTES, {path: path.stat().st_size for path in files}
    for path in sorted(files, key=sizes.__getitem__):
        if 4 * sizes[path] // 3 + 100 <= room:
            text = base64.b64encode(path.read_bytes()).decode("ascii")
            found[path] = f"data:{KINDS[path.suffix]};base64,{text}"
            room -= len(found[path])
    return found, len(files) - len(found)


def _samples(record: Record, stage: str, media: dict[Path, str]) -> str:
    step, files = _newest(record, stage)
    shown = [_sample(path.stem, media[path]) for path in files if path in media]
    if not shown:
        return ""
    title = f"<h3>{escape(record.name)}, samples of step {step}</h3>"
    return f'{title}\n<div class="samples">\n' + "\n".join(shown) + "\n</div>\n"


def _sample(name: str, address: str) -> str:
    of, shown = escape(name, quote=True), f'<audio controls preload="metadata" src="{address}"></audio>'
    if address.startswith("data:image"):
        shown = f'<img alt="{of}" src="{address}">'
    return f"<figure><figcaption>{of}</figcaption>{shown}</figure>"
