"""Two processes share the clips of every suite and give the figures of one."""

from __future__ import annotations

import importlib.util
import json
import os
import subprocess
import sys
from pathlib import Path
from types import ModuleType

import pytest

SCRIPT = Path(__file__).parent / "two_at_a_time.py"


@pytest.fixture(scope="module")
def script() -> ModuleType:
    spec = importlib.util.spec_from_file_location(SCRIPT.stem, SCRIPT)
    assert spec and spec.loader
    module = importlib.util.module_from_spec(spec)
    spec.loader.exec_module(module)
    return module


@pytest.fixture(scope="module")
def alone(
    script: ModuleType, manifest: Path, tiny_model_folder: Path, tmp_path_factory: pytest.TempPathFactory
) -> Path:
    """What a single process left behind."""
    folder = tmp_path_factory.mktemp("alone")
    assert script.measure(manifest, tiny_model_folder, folder) == 0
    return folder


@pytest.fixture(scope="module")
def two(manifest: Path, tiny_model_folder: Path, tmp_path_factory: pytest.TempPathFactory) -> Path:
    """What two processes left behind, with what they printed in stdout.txt."""
    folder = tmp_path_factory.mktemp("two")
    command = [
        sys.executable,
        "-m",
        "torch.distributed.run",
        "--standalone",
        "--nproc-per-node",
        "2",
        str(SCRIPT),
    ]
    done = subprocess.run(
        [*command, str(manifest), str(tiny_model_folder), str(folder)],
        env=os.environ | {"OMP_NUM_THREADS": "2"},  # what it has is not what it computes with
        capture_output=True,
        text=True,
        timeout=480,
    )
    assert done.returncode == 0, done.stderr[-3000:]
    (folder / "stdout.txt").write_text(done.stdout)
    return folder


def read(path: Path) -> dict:
    return json.loads(path.read_text())


def test_two_processes_give_exactly_the_figures_of_one(two: Path, alone: Path):
    assert read(two / "figures.json") == read(alone / "figures.json")
    assert read(two / "figures.json")["metrics"]["speak/clips"] == 4


def test_the_figures_are_printed_once(two: Path):
    figures, _, groups = (two / "stdout.txt").read_text().partition("\n\n")
    names = [line.split()[0] for line in figures.splitlines()]
    assert groups.count("transcription") == 1
    assert names == list(read(two / "figures.json")["metrics"])


def test_the_clips_are_shared_out(two: Path, alone: Path):
    assert read(alone / "rank-0.json")["recognised"] == 4 * 3
    assert [read(two / f"rank-{rank}.json")["recognised"] for rank in (0, 1)] == [2 * 3, 2 * 3]


def test_where_one_process_cannot_do_its_share_every_process_says_so(two: Path, alone: Path):
    for file in (two / "rank-0.json", two / "rank-1.json", alone / "rank-0.json"):
        assert read(file)["refused"] == "1 is not wanted"
