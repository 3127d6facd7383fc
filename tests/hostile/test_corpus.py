"""Every committed file before the code that reads its kind."""

from __future__ import annotations

import shutil
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest

from ira.audio.waveform import load_audio
from ira.checkpoint import load_model
from ira.config_file import load_config
from ira.data.manifest import read_manifest
from ira.data.validate import validate
from ira.errors import InputError
from ira.inference.rows import read_listen_rows, read_speak_rows
from ira.inference.voice_file import load_voice
from ira.models.speech_lm import SpeechLM

CORPUS = Path(__file__).parent / "corpus"
READERS: dict[str, Callable[[Path], Any]] = {
    "sound": load_audio,
    "config": load_config,
    "voice": lambda path: load_voice(path, "a" * 64),
    "part": lambda path: load_model(SpeechLM, path, path.stem),
}
FILES = sorted(path for kind in READERS for path in (CORPUS / kind).iterdir() if path.suffix != ".json")


@pytest.mark.parametrize("path", FILES, ids=lambda path: f"{path.parent.name}-{path.stem}")
def test_a_file_is_refused_unless_it_is_called_usable(
    path: Path, survive: Callable[..., str], tmp_path: Path, monkeypatch: pytest.MonkeyPatch
):
    monkeypatch.chdir(tmp_path)
    line = survive(path.name, lambda: READERS[path.parent.name](path))
    assert (line == "") == path.name.startswith("usable"), line
    assert not line or path.stem in line
    assert list(tmp_path.iterdir()) == []  # no trap was sprung


def test_of_the_rows_the_good_one_is_kept_and_each_other_has_its_line(survive: Callable[..., str]):
    for read, name in ((read_speak_rows, "speak"), (read_listen_rows, "listen")):
        found: list[Any] = []
        assert (
            survive(
                name, lambda read=read, name=name, found=found: found.extend(read(CORPUS / "rows" / f"{name}.jsonl"))
            )
            == ""
        )
        assert found[-1][0] == "usable" and not isinstance(found[-1][1], InputError)
        assert sum(isinstance(row, InputError) for _, row in found) > 3
        assert all(
            one.isprintable() for name, row in found for one in (name, str(row) if isinstance(row, InputError) else "")
        )


@pytest.mark.parametrize("path", sorted((CORPUS / "manifest").glob("*.json*")), ids=lambda path: path.name)
def test_of_a_manifest_the_good_rows_are_kept_and_each_other_has_its_problem(
    path: Path, survive: Callable[..., str], tmp_path: Path
):
    folder = Path(shutil.copytree(path.parent, tmp_path / "copy"))
    report: list[Any] = []
    line = survive(path.name, lambda: report.append(validate([folder / path.name])))
    if not line:
        survive(path.name, lambda: read_manifest(folder / path.name))
        assert (report[0].unusable == 0) == path.name.startswith("usable")
        kept = path.name in ("escapes.json", "values.jsonl") or path.name.startswith("usable")
        assert (report[0].rows > 0) == kept
        assert all("root:" not in problem.message for problem in report[0].problems)  # nothing of /etc/passwd
