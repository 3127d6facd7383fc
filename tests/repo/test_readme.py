"""README.md in; each of its commands run as it stands, on the embedded weights and a folder of made-up recordings."""

from __future__ import annotations

import json
import os
import re
import shlex
import subprocess
import sys
from pathlib import Path

import pytest
import torch

from ira.audio.waveform import SAMPLE_RATE, save_audio

ROOT = Path(__file__).resolve().parents[2]
README = (ROOT / "README.md").read_text(encoding="utf-8")
BLOCKS = re.findall(r"```(\w+)\n(.*?)```", README, re.DOTALL)
SHELL = [line.partition(" #")[0].strip() for kind, block in BLOCKS if kind == "bash" for line in block.splitlines()]
IRA = [line for line in SHELL if line.startswith(("ira ", "torchrun "))]
# What makes a training command of the README a short one; nothing else about it is changed.
SHORT = ["train.max_minutes=0.01", "train.align.teacher_responses=1", "train.reinforce.rollouts=4"]
SHORT += ["train.align.batch_seconds=4", "train.speech.batch_seconds=4", "train.codec.batch_seconds=4"]
SHORT += ["train.voice.batch_seconds=12", "train.align.response_tokens=4", "train.reinforce.response_tokens=4"]


@pytest.fixture(scope="module")
def newcomer(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A folder with all that the README's commands name: recordings, rows, a split each to train and to judge."""
    home = tmp_path_factory.mktemp("newcomer")
    for name in ("configs", "ira", "main.py"):
        (home / name).symlink_to(ROOT / name)
    for name in ("reference", "recording", "question"):
        save_audio(home / f"{name}.wav", _tone(3, 1.5))
    lines = [f"LJ001-000{number}|A tone.|A tone.\n" for number in range(1, 5)]
    for line in lines:
        save_audio(home / "LJSpeech-1.1" / "wavs" / f"{line.partition('|')[0]}.wav", _tone(1, 1.0))
    (home / "LJSpeech-1.1" / "metadata.csv").write_text("".join(lines), encoding="utf-8")
    (home / "rows.jsonl").write_text('{"id": "one", "text": "Yes.", "seed": 1}\n', encoding="utf-8")
    for split in ("train", "val"):
        rows = []
        for number in range(4):
            save_audio(home / f"data/{split}/audio_files/{number}.wav", _tone(number, 1.0))
            rows.append({"audio_file": f"audio_files/{number}.wav", "text": "A tone.", "speaker_id": number})
        (home / f"data/{split}/{split}.json").write_text(json.dumps(rows), encoding="utf-8")
    return home


def _tone(number: int, seconds: float) -> torch.Tensor:
    time = torch.arange(int(seconds * SAMPLE_RATE)) / SAMPLE_RATE
    wobble = 1 + 0.5 * torch.sin(2 * torch.pi * 3 * time)
    return 0.2 * wobble * torch.sin(2 * torch.pi * (120 + 40 * number) * time)


def _run(command: list[str], home: Path) -> str:
    environment = {**os.environ, "OMP_WAIT_POLICY": "PASSIVE"}
    done = subprocess.run(command, cwd=home, capture_output=True, text=True, timeout=400, env=environment)
    assert done.returncode == 0, f"{command}: {done.stderr[-2000:]}"
    return done.stdout


def test_the_readme_has_the_commands_that_are_checked_here() -> None:
    verbs = {"speak", "voice", "listen", "respond", "resynth", "validate", "train", "import", "plot"}
    assert {line.split()[1] for line in IRA} >= verbs and any(line.startswith("torchrun") for line in IRA)


def test_every_command_of_the_readme_runs(newcomer: Path) -> None:
    for line in IRA:
        words = shlex.split(line)
        if words[1] == "train" or words[0] == "torchrun":
            words += SHORT
        if words[0] == "torchrun":
            words += ["train.stages=[codec,voice]"]  # the others are run on two processes by tests of their own
        _run([str(Path(sys.executable).with_name(words[0])), *words[1:]], newcomer)
    for made in (
        "hello.wav",
        "anna.voice",
        "reply.wav",
        "copy.wav",
        "it_works.wav",
        "ljspeech/import.json",
        "plot.html",
    ):
        assert (newcomer / made).stat().st_size > 0


def test_the_python_of_the_readme_runs(newcomer: Path) -> None:
    code = next(block for kind, block in BLOCKS if kind == "python")
    _run([sys.executable, "-c", code], newcomer)
    assert (newcomer / "output.wav").stat().st_size > 0


def test_make_knows_the_two_commands() -> None:
    for target in ("demo", "test"):
        planned = subprocess.run(["make", "-n", target], cwd=ROOT, capture_output=True, text=True, timeout=60)
        assert planned.returncode == 0 and planned.stdout.strip(), planned.stderr


def test_every_link_of_the_readme_leads_somewhere() -> None:
    links = [link for link in re.findall(r"\]\(([^)#]+)\)", README) if "://" not in link]
    assert links
    for link in links:
        assert (ROOT / link).exists(), link
