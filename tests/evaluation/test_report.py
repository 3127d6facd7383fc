from __future__ import annotations

import json
import subprocess
from pathlib import Path

import pytest

from ira.evaluation.report import commit, show, write_report


def test_figures_are_shown_one_a_line_and_nothing_measured_as_a_dash(capsys: pytest.CaptureFixture[str]):
    show({"clips": 3, "stoi": 0.91236, "pesq": None})
    assert capsys.readouterr().out.splitlines() == ["clips  3", "stoi   0.9124", "pesq   -"]


def test_the_file_says_what_the_figures_belong_to(tmp_path: Path):
    write_report(tmp_path / "new" / "figures.json", "codec", "embedded", "cpu", {"clips": 3, "pesq": None})
    record = json.loads((tmp_path / "new" / "figures.json").read_text())
    assert set(record) == {"suite", "model", "device", "commit", "metrics"}
    assert record["suite"] == "codec" and record["metrics"] == {"clips": 3, "pesq": None}


def test_without_git_there_is_no_commit(monkeypatch: pytest.MonkeyPatch):
    def missing(*_: object, **__: object) -> None:
        raise FileNotFoundError

    monkeypatch.setattr(subprocess, "run", missing)
    assert commit() is None
