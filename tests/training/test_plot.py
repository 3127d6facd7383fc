"""The page holds what the runs wrote, all of it in one file, and survives what it should not have been given."""

from __future__ import annotations

import base64
import json
import re
import shutil
import subprocess
from html.parser import HTMLParser
from pathlib import Path
from typing import Any

import pytest
import torch

from ira.errors import InputError
from ira.trackers.base import Picture, Sound
from ira.trackers.jsonl import JsonlTracker
from ira.training import plot as module
from ira.training.plot import plot, read_run

VOID = {"meta", "input", "img", "br"}


class Page(HTMLParser):
    """Every tag with its attributes, the text of each script, and whether tags close as they open."""

    def __init__(self, path: Path) -> None:
        super().__init__()
        self.tags: list[tuple[str, dict[str, str | None]]] = []
        self.scripts: list[str] = []
        self.words: list[str] = []
        self.open: list[str] = []
        self.feed(path.read_text(encoding="utf-8"))
        assert not self.open

    def handle_starttag(self, tag: str, attrs: list[tuple[str, str | None]]) -> None:
        self.tags.append((tag, dict(attrs)))
        if tag not in VOID:
            self.open.append(tag)

    def handle_endtag(self, tag: str) -> None:
        assert self.open.pop() == tag

    def handle_data(self, data: str) -> None:
        (self.scripts if self.open[-1:] == ["script"] else self.words).append(data)

    @property
    def data(self) -> Any:
        return json.loads(self.scripts[0])

    def line(self, stage: str, metric: str, run: int = 0) -> Any:
        (chart,) = [c for c in self.data["charts"] if (c["stage"], c["metric"]) == (stage, metric)]
        return chart["series"][run]

    def count(self, tag: str) -> int:
        return sum(name == tag for name, _ in self.tags)


def write_run(folder: Path, lines: list[Any], config: dict | None = None) -> Path:
    folder.mkdir(parents=True)
    text = "".join((line if isinstance(line, str) else json.dumps(line)) + "\n" for line in lines)
    (folder / "metrics.jsonl").write_text(text)
    if config is not None:
        (folder / "config.json").write_text(json.dumps(config))
    return folder


def figures(stage: str, step: int, **values: float | None) -> dict[str, Any]:
    return {"time": 1.5, "stage": stage, "step": step, **values}


def test_runs_are_laid_over_one_another_a_chart_for_each_stage_and_figure(tmp_path: Path):
    one = [figures("codec", 1, loss=4.0, lr=0.1, share_done=0.5), figures("codec", 2, loss=None, lr=0.2)]
    two = [figures("codec", 1, loss=3.0, **{"val/mel": 2.0}), figures("voice", 1, loss=1.0)]
    runs = [write_run(tmp_path / "one", one), write_run(tmp_path / "two", two)]
    found = Page(plot(runs, tmp_path / "page.html"))
    assert found.data["runs"] == ["one", "two"]
    drawn = [(chart["stage"], chart["metric"]) for chart in found.data["charts"]]
    assert drawn == [("codec", "loss"), ("codec", "val/mel"), ("codec", "lr"), ("voice", "loss")]
    assert found.line("codec", "loss") == [[1, 2], [4.0, None]]
    assert found.line("codec", "loss", run=1) == [[1], [3.0]]
    assert found.line("codec", "val/mel") is None and found.line("voice", "loss") is None
    places = {attributes.get("id") for _, attributes in found.tags}
    assert {chart["place"] for chart in found.data["charts"]} == {"charts0", "charts1"} <= places
    assert sum("data-run" in attributes for _, attributes in found.tags) == 2


def test_the_page_asks_nothing_of_the_network(tmp_path: Path):
    run = write_run(tmp_path / "run", [figures("codec", 1, loss=1.0)])
    path = plot([run], tmp_path / "page.html")
    addresses = [a[key] for _, a in Page(path).tags for key in ("src", "href") if key in a]
    assert not addresses
    text = path.read_text()
    assert set(re.findall(r"https?://[^\"' ]+", text)) == {"http://www.w3.org/2000/svg"}  # a name, not an address
    assert "import(" not in text and "fetch(" not in text and "url(" not in text
    assert "prefers-color-scheme: dark" in text and "<!--" not in text.replace("<!doctype", "")


@pytest.mark.skipif(not shutil.which("node"), reason="node checks the grammar of the script")
def test_the_script_of_the_page_is_a_program(tmp_path: Path):
    run = write_run(tmp_path / "run", [figures("codec", 1, loss=1.0)])
    (tmp_path / "page.js").write_text(Page(plot([run], tmp_path / "page.html")).scripts[1])
    subprocess.run(["node", "--check", str(tmp_path / "page.js")], check=True, timeout=60)


def test_the_later_line_of_a_step_counts_and_damaged_ones_are_counted(tmp_path: Path, capsys):
    damaged = ["{", "[1]", '{"stage": "codec"}', '{"stage": "codec", "step": true, "loss": 1}', "[" * 100_000, "\x00"]
    damaged += ['{"stage": "codec", "step": -1, "loss": 1}', '{"stage": 3, "step": 1, "loss": 1}']
    sound = [figures("codec", 1, loss=9.0), "", figures("codec", 2, loss=2.0), figures("codec", 1, loss=1.0)]
    odd = ['{"stage": "codec", "step": 3, "loss": NaN, "words": "no figure", "flag": true}']
    odd += ['{"stage": "codec", "step": 4, "loss": 1' + "0" * 400 + "}"]
    run = write_run(tmp_path / "run", [*sound, *damaged, *odd])
    with open(run / "metrics.jsonl", "ab") as file:
        file.write(b'\xff\xfe{"stage"')
    record = read_run(run, "run")
    assert record.damaged == len(damaged) + 1
    assert record.series == {("codec", "loss"): {1: 1.0, 2: 2.0, 3: None, 4: None}}
    page = Page(plot([run], tmp_path / "page.html"))
    assert page.line("codec", "loss") == [[1, 2, 3, 4], [1.0, 2.0, None, None]]
    assert "run: 9 damaged lines of metrics.jsonl are left out." in page.words
    assert capsys.readouterr().err == f"ira: {run / 'metrics.jsonl'}: 9 damaged lines are left out\n"


def test_a_long_run_is_thinned_out_and_keeps_its_peaks(tmp_path: Path):
    lines = [figures("codec", step, loss=1.0 + step % 7 / 10) for step in range(1, 5001)]
    lines[3210]["loss"], lines[1234]["loss"] = 99.0, -99.0
    found = Page(plot([write_run(tmp_path / "run", lines)], tmp_path / "page.html"))
    steps, values = found.line("codec", "loss")
    assert len(steps) == len(values) <= 2 * module.BUCKETS and steps == sorted(set(steps))
    assert values[steps.index(3211)] == 99.0 and values[steps.index(1235)] == -99.0
    assert {"99 ", "-99 ", "@3211", "@1235", "@5000"} <= set(found.words)


def test_settings_that_differ_are_told_and_the_place_of_a_run_is_not(tmp_path: Path):
    line = [figures("codec", 1, loss=1.0)]
    one = write_run(tmp_path / "one", line, {"run_dir": "a", "train": {"seed": 1, "dtype": "bf16"}})
    two = write_run(tmp_path / "two", line, {"run_dir": "b", "train": {"seed": 2, "dtype": "bf16"}, "new": [1]})
    words = Page(plot([one, two], tmp_path / "page.html")).words
    at = words.index("train.seed")
    assert words[at : at + 3] == ["train.seed", "1", "2"]
    assert words[words.index("new") + 1 :][:2] == ["-", "[1]"]
    assert "train.dtype" not in words and "run_dir" not in words
    (two / "config.json").write_text("{")
    assert "No configuration that can be read: two." in Page(plot([one, two], tmp_path / "page.html")).words


def with_samples(folder: Path, steps: tuple[int, ...]) -> Path:
    folder.mkdir()
    tracker = JsonlTracker(folder)
    tracker.log(1, "codec", {"loss": 1.0})
    for step in steps:
        tone = torch.sin(torch.arange(2400) / 10) * step / 1000
        pixels = torch.full((8, 8, 3), step % 256, dtype=torch.uint8)
        tracker.show(step, "codec", {"copy": Sound(tone, 24_000), "copy-mel": Picture(pixels)})
    tracker.close()
    return folder


def test_the_latest_sounds_and_pictures_are_in_the_page(tmp_path: Path):
    run = with_samples(tmp_path / "run", (900, 1_000_000, 50))
    found = Page(plot([run], tmp_path / "page.html"))
    latest = run / "samples" / "codec" / "step-1000000"
    for tag, kind, name in (("audio", "audio/wav", "copy.wav"), ("img", "image/png", "copy-mel.png")):
        (address,) = [attributes["src"] for of, attributes in found.tags if of == tag]
        head, _, text = (address or "").partition(",")
        assert head == f"data:{kind};base64" and base64.b64decode(text) == (latest / name).read_bytes()
    assert "run, samples of step 1000000" in found.words


def test_samples_that_would_make_the_page_too_large_are_left_out_and_counted(tmp_path: Path, monkeypatch):
    runs = [with_samples(tmp_path / name, (1,)) for name in ("one", "two")]
    monkeypatch.setattr(module, "SAMPLE_BYTES", 7500)  # one of the two sounds of 4.9 kB, and the pictures
    found = Page(plot(runs, tmp_path / "page.html"))
    assert (found.count("img"), found.count("audio")) == (2, 1)
    assert "1 samples are left out to keep the page small; they lie in RUN/samples." in found.words


def test_no_name_becomes_a_part_of_the_page(tmp_path: Path):
    evil = "</script><b onclick='x'>&<!--DATA-->"
    run = write_run(tmp_path / "<i>run", [figures(evil, 1, **{evil: 1.0}), figures("../..", 1, loss=1.0)], {evil: 1})
    other = write_run(tmp_path / "other", [figures("codec", 1, loss=1.0)])
    found = Page(plot([run, other], tmp_path / "page.html"))
    assert not {"b", "i"} & {tag for tag, _ in found.tags}
    assert found.data["charts"][0]["metric"] == evil and len(found.scripts) == 2


def test_runs_of_one_name_are_told_apart_and_one_given_twice_is_one(tmp_path: Path):
    line = [figures("codec", 1, loss=1.0)]
    runs = [write_run(tmp_path / name / "run", line) for name in ("a", "b")]
    assert Page(plot([*runs, runs[0]], tmp_path / "page.html")).data["runs"] == [str(run) for run in runs]


def test_a_run_that_is_not_there_or_empty_is_one_line_with_the_remedy(tmp_path: Path):
    with pytest.raises(InputError, match=r"nothing/metrics.jsonl: cannot be read .*; give the run_dir of a training"):
        plot([tmp_path / "nothing"], tmp_path / "page.html")
    empty = write_run(tmp_path / "empty", ["{"])
    with pytest.raises(InputError, match=r"holds no figures \(1 damaged lines\); wait"):
        plot([empty], tmp_path / "page.html")
    assert not (tmp_path / "page.html").exists()
    good = write_run(tmp_path / "good", [figures("codec", 1, loss=1.0)])
    with pytest.raises(InputError, match="cannot be written"):
        plot([good], empty / "metrics.jsonl" / "page.html")
