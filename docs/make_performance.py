"""Files of `ira bench WHAT --json FILE` in; the figures of `docs/performance.md` and `docs/growth.svg` out.

    python docs/make_performance.py figures.json [MORE.json ...]

Files of several machines stand one after another. Those of `--quick` are refused: their times mean little.
"""

from __future__ import annotations

import json
import re
import sys
from collections.abc import Sequence
from pathlib import Path
from typing import Any

PAGE = Path(__file__).with_name("performance.md")
PICTURE = Path(__file__).with_name("growth.svg")
BEGIN, END = "<!-- figures: written by docs/make_performance.py -->", "<!-- end of figures -->"
POINT = re.compile(r"decode/(\w+)_(\w+)_batch1@(\d+)/(ours|musicgen)_ms")

COLOURS = {"fp32": "C0", "bf16": "C1", "fp16": "C4", "int8": "C2", "int4": "C3"}


def read(paths: Sequence[Path]) -> list[dict[str, Any]]:
    """Records, their figures named SUITE/NAME."""
    records = [json.loads(path.read_text(encoding="utf-8")) for path in paths]
    for path, record in zip(paths, records, strict=True):
        if record["quick"]:
            sys.exit(f"{path}: figures of --quick; run ira bench without it")
        if record["suite"] != "all":
            record["metrics"] = {f"{record['suite']}/{name}": value for name, value in record["metrics"].items()}
    return records


def filled(page: str, records: list[dict[str, Any]]) -> str:
    """The page with these figures between its markers."""
    before, after = page.split(BEGIN)[0], page.split(END)[1]
    picture = f"![Milliseconds a frame as speech grows]({PICTURE.name})\n\n" if any(map(curves, records)) else ""
    return f"{before}{BEGIN}\n\n{picture}{''.join(map(_section, records))}{END}{after}"


def _section(record: dict[str, Any]) -> str:
    """A record as Markdown: where it was measured, then a table for each suite."""
    machine, metrics = record["machine"], record["metrics"]
    told = [
        f"`ira bench {record['suite']}{' --compile' if record['compiled'] else ''}`",
        *(f"{name} {record[name]}" for name in ("model", "device", "commit")),
    ]
    told += [f"{record['repeats']} repeats", f"torch {machine['torch']}", f"transformers {machine['transformers']}"]
    told += [] if machine["load"] is None else [f"load {machine['load']} before and {machine['load_after']} after"]
    text = f"### {machine['name']}, {machine['cores']} cores\n\n{', '.join(told)}.\n\n"
    for suite in dict.fromkeys(name.split("/")[0] for name in metrics):
        own = {name.removeprefix(f"{suite}/"): value for name, value in metrics.items() if name.startswith(f"{suite}/")}
        text += f"| {suite} | median | quartiles |\n|---|---|---|\n" + "".join(_rows(own)) + "\n"
    return text


def _rows(metrics: dict[str, float | None]) -> list[str]:
    ends = {f"{name}{end}" for name in metrics for end in ("_low", "_high") if f"{name}_low" in metrics}
    rows = []
    for name in (name for name in metrics if name not in ends):
        low, high = metrics.get(f"{name}_low"), metrics.get(f"{name}_high")
        between = f"{_number(low)} to {_number(high)}" if f"{name}_low" in metrics else ""
        rows.append(f"| `{name}` | {_number(metrics[name])} | {between} |\n")
    return rows


def _number(value: float | None) -> str:
    return "-" if value is None else f"{value:.4g}"


def curves(record: dict[str, Any]) -> dict[str, list[tuple[int, float]]]:
    """Milliseconds a frame at each frame, by size, precision and whose loop it is."""
    found: dict[str, list[tuple[int, float]]] = {}
    for name, value in record["metrics"].items():
        if match := POINT.fullmatch(name):
            size, dtype, frame, whose = match.groups()
            found.setdefault(f"{size} {dtype} {whose}", []).append((int(frame), value))
    return {name: sorted(points) for name, points in found.items()}


def _panel(record: dict[str, Any], name: str) -> str:
    """Title of the panel where this curve is drawn: machines are not to be compared, so each has its own."""
    return name.split()[0] + (", ours compiled" if record["compiled"] else "") + f"\n{record['machine']['name']}"


def draw(records: list[dict[str, Any]], path: Path) -> None:
    """The growth curves of every record; the same figures give the same file."""
    import matplotlib

    matplotlib.use("Agg")
    matplotlib.rcParams["svg.hashsalt"] = "ira"
    import matplotlib.pyplot as plt

    drawn = [record for record in records if curves(record)]
    titles = list(dict.fromkeys(_panel(record, name) for record in drawn for name in curves(record)))
    high = (len(titles) + 1) // 2
    size = (9, 4.5 * high)
    figure, panels = plt.subplots(high, min(2, len(titles)), figsize=size, layout="constrained", squeeze=False)
    for record in drawn:
        for name, points in curves(record).items():
            _, precision, whose = name.split()
            style = dict(color=COLOURS[precision], linestyle="--" if whose == "musicgen" else "-", marker="o")
            axes = panels.flat[titles.index(_panel(record, name))]
            axes.plot(*zip(*points, strict=True), label=f"{precision} {whose}", **style)
    for title, axes in zip(titles, panels.flat, strict=False):
        axes.set(xscale="log", yscale="log", xlabel="frame", ylabel="milliseconds a frame", title=title)
        axes.grid(alpha=0.3)
        axes.legend(fontsize="small", ncols=2)
    figure.savefig(path, metadata={"Date": None})
    plt.close(figure)


if __name__ == "__main__":
    if len(sys.argv) < 2:
        sys.exit(__doc__)
    given = read([Path(path) for path in sys.argv[1:]])
    if any(map(curves, given)):
        draw(given, PICTURE)
    PAGE.write_text(filled(PAGE.read_text(encoding="utf-8"), given), encoding="utf-8")
