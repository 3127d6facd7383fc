from __future__ import annotations

import csv
import json
import subprocess
from pathlib import Path

import pytest

from ira.errors import InputError
from ira.evaluation.report import Found, check_sentence_file, commit, show, write_report, write_sentences


def test_figures_are_shown_one_a_line_and_nothing_measured_as_a_dash(capsys: pytest.CaptureFixture[str]):
    show(Found({"clips": 3, "stoi": 0.91236, "pesq": None}))
    assert capsys.readouterr().out.splitlines() == ["clips  3", "stoi   0.9124", "pesq   -"]


def test_the_file_says_what_the_figures_belong_to(tmp_path: Path):
    write_report(tmp_path / "new" / "figures.json", "codec", "embedded", "cpu", Found({"clips": 3, "pesq": None}))
    record = json.loads((tmp_path / "new" / "figures.json").read_text())
    assert set(record) == {"suite", "model", "device", "commit", "metrics"}
    assert record["suite"] == "codec" and record["metrics"] == {"clips": 3, "pesq": None}


def test_groups_are_a_table_below_and_a_list_in_the_file(tmp_path: Path, capsys: pytest.CaptureFixture[str]):
    found = Found(
        {"clips": 12}, [{"group": "voice a", "clips": 5, "cer": 0.5}, {"group": "b", "clips": 7, "cer": None}]
    )
    show(found)
    lines = capsys.readouterr().out.splitlines()
    assert lines[2:] == ["group    clips  cer", "voice a  5      0.5000", "b        7      -"]
    write_report(tmp_path / "figures.json", "speak", "embedded", "cpu", found)
    assert json.loads((tmp_path / "figures.json").read_text())["groups"] == found.groups


def test_each_sentence_is_a_line_of_the_file(tmp_path: Path):
    sentences = [{"text": 'say "ja",\nplease', "faults": ["loop", "length"], "cer": None}, {"text": "ü", "pitch": 2}]
    write_sentences(tmp_path / "a.jsonl", sentences)
    assert [json.loads(line) for line in (tmp_path / "a.jsonl").read_text("utf-8").splitlines()] == sentences
    write_sentences(tmp_path / "a.csv", sentences)
    with (tmp_path / "a.csv").open(encoding="utf-8", newline="") as file:
        rows = list(csv.DictReader(file))
    assert rows[0] == {"text": 'say "ja",\nplease', "faults": "loop length", "cer": "", "pitch": ""}
    assert rows[1]["text"] == "ü" and rows[1]["pitch"] == "2"


def test_another_format_is_refused():
    check_sentence_file(Path("a.CSV"))
    with pytest.raises(InputError, match=r"a\.txt: one of \.csv and \.jsonl"):
        check_sentence_file(Path("a.txt"))


def test_without_git_there_is_no_commit(monkeypatch: pytest.MonkeyPatch):
    def missing(*_: object, **__: object) -> None:
        raise FileNotFoundError

    monkeypatch.setattr(subprocess, "run", missing)
    assert commit() is None
