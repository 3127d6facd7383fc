"""`ira import` as it is used: a table on stdout, the refused on stderr, one line and exit code 2 for another folder."""

from __future__ import annotations

from pathlib import Path

import numpy as np
import pytest
import soundfile
from typer.testing import CliRunner, Result

from ira.cli.app import app


def ira(*args: object) -> Result:
    return CliRunner().invoke(app, [str(arg) for arg in args])


@pytest.fixture
def corpus(tmp_path: Path) -> Path:
    root = tmp_path / "LJSpeech-1.1"
    (root / "wavs").mkdir(parents=True)
    lines = [f"LJ001-{number:04}|number {number}|number {number}" for number in range(24)]
    (root / "metadata.csv").write_text("\n".join([*lines, "LJ002-0001||"]) + "\n", encoding="utf-8")
    for number in range(24):
        noise = 0.1 * np.random.default_rng(number).standard_normal(22_050)
        soundfile.write(root / "wavs" / f"LJ001-{number:04}.wav", noise, 22_050)
    return root


def test_an_imported_corpus_passes_validation(corpus: Path, tmp_path: Path):
    result = ira("import", "ljspeech", corpus, "--out", tmp_path / "data")
    assert result.exit_code == 0, result.stderr or result.exception
    table = dict(line.split(maxsplit=1) for line in result.stdout.splitlines())
    assert table[str(tmp_path / "data" / "train")].startswith("22 rows") and table["refused"] == "1"
    assert "LJ002-0001.wav: the file is not there; left out" in result.stderr
    splits = [tmp_path / "data" / split for split in ("train", "val", "test")]
    checked = ira("validate", *splits)
    assert checked.exit_code == 0, checked.stdout


def test_splits_and_copies_are_asked_for_by_options(corpus: Path, tmp_path: Path):
    result = ira("import", "ljspeech", corpus, "--out", tmp_path / "data", "--splits", "val, test", "--copy")
    assert result.exit_code == 0, result.stderr
    assert {path.name for path in (tmp_path / "data").iterdir()} == {"val", "test", "import.json"}
    assert "copied" in result.stdout and "linked" not in result.stdout


def test_many_refused_recordings_do_not_flood_the_terminal(corpus: Path, tmp_path: Path):
    missing = "".join(f"LJ003-{number:04}|gone|gone\n" for number in range(60))
    (corpus / "metadata.csv").write_text("LJ001-0000|here|here\n" + missing, encoding="utf-8")
    result = ira("import", "ljspeech", corpus, "--out", tmp_path / "data")
    lines = result.stderr.splitlines()
    assert result.exit_code == 0 and len(lines) == 21 and "import.json names them" in lines[-1]


def test_a_wrong_folder_is_one_line(tmp_path: Path):
    (tmp_path / "empty").mkdir()
    for kind in ("ljspeech", "libritts", "librispeech", "vctk", "commonvoice", "hf"):
        result = ira("import", kind, tmp_path / "empty", "--out", tmp_path / "data")
        assert result.exit_code == 2 and len(result.stderr.splitlines()) == 1
        assert "is wanted, nothing was found" in result.stderr
