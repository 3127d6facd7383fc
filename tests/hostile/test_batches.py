"""Manifests through validate and prepare, a model at work on altered weights, and every verb of the command line."""

from __future__ import annotations

import hashlib
import importlib
import json
import os
import shutil
import subprocess
import sys
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest
from safetensors.torch import load_file, save_file
from typer.testing import CliRunner, Result

from ira.cli.app import app
from ira.data.prepare import prepare
from ira.data.text import CharTokenizer
from ira.data.validate import validate
from ira.inference.pipeline import Pipeline

Survive = Callable[..., str]
CORPUS = Path(__file__).parent / "corpus"


def ira(*args: object) -> Result:
    """The verb's result: whatever it was given, no traceback, and nothing that moves the cursor on stderr."""
    result = CliRunner().invoke(app, [str(arg) for arg in args])
    assert result.exception is None or isinstance(result.exception, SystemExit), repr(result.exception)
    assert result.exit_code in (0, 1, 2) and "Traceback" not in result.output
    assert all(line.isprintable() for line in result.stderr.split("\n"))
    if result.exit_code == 2:
        assert len(result.stderr.splitlines()) == 1 and result.stderr.startswith("ira: ") and result.stdout == ""
    return result


@pytest.fixture
def home(tmp_path: Path, sounds: dict[str, bytes]) -> Path:
    (tmp_path / "a.wav").write_bytes(sounds[".wav"])
    return tmp_path


def test_a_hostile_manifest_is_validated_row_by_row(manifest_texts: list[str], home: Path, survive: Survive):
    for number, text in enumerate(manifest_texts):
        path = home / ("a.json" if number % 7 else "a.jsonl")
        path.write_bytes(text.encode("utf-8", errors="surrogateescape"))
        name = f"{number} {text[:300]}"
        report: list[Any] = []
        if not survive(name, lambda path=path, report=report: report.append(validate([path], check_audio=False))):
            survive(name, lambda report=report: json.dumps(report[0].as_dict(), allow_nan=False).encode())


def test_a_hostile_manifest_is_prepared_row_by_row(
    manifest_texts: list[str], home: Path, survive: Survive, monkeypatch: pytest.MonkeyPatch
):
    monkeypatch.syspath_prepend(str(Path(__file__).parents[1] / "data"))
    codec = importlib.import_module("fake_codec").LoudnessCodec()
    kept = 0
    for number, text in enumerate(manifest_texts[::6]):
        row = '{"audio_file": "a.wav", "text": "good"}'
        whole = text.rstrip().removesuffix("]") + f", {row}]" if text.startswith("[{") else f"[{row}]"
        (home / "a.json").write_bytes(whole.encode("utf-8", errors="surrogateescape"))
        out = home / str(number)
        line = survive(
            f"{number} {text[:300]}",
            lambda out=out: prepare([home / "a.json"], out, codec, CharTokenizer(), progress=False),
        )
        kept += not line
        assert not line or "could be used" in line
    assert kept > len(manifest_texts) / 12


@pytest.mark.parametrize("scale", [1e30, 1e38, 0.0])
def test_a_model_of_absurd_weights_speaks_or_says_why_not(
    tiny_model_folder: Path, home: Path, survive: Survive, scale: float
):
    folder = Path(shutil.copytree(tiny_model_folder, home / "model"))
    for name in ("speech_lm", "voice", "codec", "adapter"):
        path = folder / f"{name}.safetensors"
        tensors = {key: (value.float() * scale).clamp(-3e38, 3e38) for key, value in load_file(path).items()}
        save_file(tensors, path)
        card = json.loads(path.with_suffix(".json").read_text())
        card["sha256"] = hashlib.sha256(path.read_bytes()).hexdigest()
        path.with_suffix(".json").write_text(json.dumps(card))
    pipeline = Pipeline.from_folder(folder, "cpu")
    survive("speak", lambda: pipeline.speak("hi"), 30)
    survive("voice", lambda: pipeline.voice_of(str(home / "a.wav")))
    survive("resynth", lambda: pipeline.resynth(str(home / "a.wav")))
    survive("listen", lambda: pipeline.listen(str(home / "a.wav")), 30)


# -- the command line --------------------------------------------------------------------------------------------


@pytest.mark.parametrize("name", ["claims-a-month.flac", "one-nan.wav", "text-called-wav.wav", "no-samples.wav"])
def test_every_verb_that_takes_a_sound_refuses_a_hostile_one(tiny_model_folder: Path, home: Path, name: str):
    sound, model = CORPUS / "sound" / name, ("--model", tiny_model_folder, "--device", "cpu")
    for args in (
        ("resynth", sound, "--out", home / "o.wav"),
        ("voice", sound, "--save", home / "o.voice"),
        ("speak", "hi", "--voice", sound, "--out", home / "o.wav"),
        ("respond", sound, "--out", home / "o.wav"),
        ("listen", sound),
    ):
        result = ira(*args, *model)
        assert result.exit_code == 2 and name in result.stderr, args[0]
    assert {path.name for path in home.iterdir()} == {"a.wav"}


@pytest.mark.parametrize("text", ["\x1b[2J", "\0", "\udcff", "\u202e", "", "\n", "语", "🙂", "--", "9" * 5000])
def test_odd_words_are_spoken_or_refused(tiny_model_folder: Path, home: Path, text: str):
    model = ("--model", tiny_model_folder, "--device", "cpu")
    ira("speak", "--out", home / "o.wav", *model, "--voice", text, "--", "hi")
    ira("speak", "--out", home / f"{text[:9]}.wav", *model, "--voice", home / text[:300], "--", text[:40])
    ira("voice", "--save", home / "o.voice", *model, "--", text)
    assert ira("listen", *model, "--", home / text).exit_code == 2
    assert ira("speak", "hi", "--language", text, "--model", home / text).exit_code == 2
    for verb in ("validate", "prepare", "train", "eval", text):
        assert ira(verb, "--", text).exit_code == 2
    assert ira("train", "--config", text, "--stage", text).exit_code == 2
    assert ira("train", "--config", CORPUS / "config" / "usable-odd-run-dir.yaml", f"{text}={text}").exit_code == 2


def test_a_batch_of_hostile_rows_reports_each_and_goes_on(tiny_model_folder: Path, home: Path):
    model = ("--model", tiny_model_folder, "--device", "cpu")
    spoken = ira("speak", "--batch", CORPUS / "rows" / "speak.jsonl", "--out", home / "out", *model)
    assert spoken.exit_code == 1 and "rows failed" in spoken.stderr
    assert (home / "out" / "usable.wav").is_file() and not (home / "a").exists()
    answers = home / "answers.jsonl"
    heard = ira("listen", "--batch", CORPUS / "rows" / "listen.jsonl", "--out", answers, *model)
    assert heard.exit_code == 1 and "rows failed" in heard.stderr
    assert "usable" in [json.loads(line)["id"] for line in answers.read_text().splitlines()]


def test_hostile_manifests_are_reported_and_the_good_rows_prepared(tiny_model_folder: Path, home: Path):
    folder = Path(shutil.copytree(CORPUS / "manifest", home / "manifest"))
    model = ("--model", tiny_model_folder, "--device", "cpu")
    for name in ("escapes.json", "values.jsonl"):
        assert ira("validate", folder / name, "--json", home / "report.json").exit_code == 1
        assert json.loads((home / "report.json").read_text())["metrics"]["rows"] >= 1
        prepared = ira("prepare", folder / name, "--out", home / name, *model)
        assert prepared.exit_code in (0, 1) and "refused" in prepared.stdout and "row" in prepared.stderr
    for name in ("utf-16.json", "deep.json", "half.json", "an-object.json", "pickle-called-json.json"):
        assert ira("validate", folder / name).exit_code in (1, 2)
        assert ira("prepare", folder / name, "--out", home / name, *model).exit_code == 2


@pytest.mark.parametrize("name", ["billion-laughs", "runs-a-command", "a-billion-layers", "deep", "utf-16"])
def test_verbs_that_take_a_configuration_refuse_a_hostile_one(home: Path, name: str, monkeypatch: pytest.MonkeyPatch):
    monkeypatch.chdir(home)
    config = CORPUS / "config" / f"{name}.yaml"
    assert ira("train", "--config", config).exit_code == 2
    assert ira("prepare", "x", "--out", home / "o", "--config", config).exit_code == 2
    assert not (home / "sprung").exists()


def test_a_name_that_is_not_utf_8_reaches_the_program_and_comes_back_in_one_line(home: Path):
    name = os.fsencode(home) + b"/\xff\x1b[2J"
    code = "from ira.cli.app import app; app()"
    done = subprocess.run([sys.executable, "-c", code, "validate", name], capture_output=True)
    assert done.returncode == 2 and done.stderr.count(b"\n") == 1 and b"\x1b" not in done.stderr
