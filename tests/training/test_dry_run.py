"""What a training would take: said for the full scale without loading it, measured where it can be, nothing written."""

from __future__ import annotations

import importlib.util
import json
from pathlib import Path

import pytest
import torch
from typer.testing import CliRunner

from ira.audio.waveform import save_audio
from ira.cli.app import app
from ira.config import Config
from ira.config_file import check_config, load_config
from ira.training import dry_run
from ira.training.estimate import expected_batch, stage_memory
from ira.training.parts import build_parts

ROOT = Path(__file__).parents[2]
FULL = ROOT / "configs" / "train_config.yaml"


def everything(folder: Path) -> dict[str, tuple[int, bytes]]:
    return {
        str(path.relative_to(folder)): (path.stat().st_mtime_ns, path.read_bytes() if path.is_file() else b"")
        for path in sorted(folder.rglob("*"))
    }


def test_the_full_scale_is_planned_without_its_llm_and_nothing_is_written(tmp_path: Path, monkeypatch):
    monkeypatch.chdir(tmp_path)
    monkeypatch.setattr("ira.training.parts.llm_at_hand", lambda name: None)
    monkeypatch.setattr(dry_run, "matrix_rate", lambda device, dtype: 1e12)
    result = CliRunner().invoke(app, ["train", "--config", str(FULL), "--dry-run"])
    assert result.exit_code == 0, result.output
    assert "llm       1711.4 M" in result.stdout and "155.1 M trained" in result.stdout
    assert "at least: operations by the matrix rate; " in result.stdout and "runs/full/speech" in result.stdout
    assert "SmolLM2-1.7B-Instruct is not on this machine; its shape is" in result.stderr
    assert list(tmp_path.iterdir()) == []


def test_processes_share_out_what_fsdp_cuts_and_nothing_else():
    config = load_config(FULL, ["train.parallel=fsdp"])
    parts, batch = build_parts(config), expected_batch(config, "speech", 8.0)
    one, eight = (stage_memory(config, "speech", parts, batch, n) for n in (1, 8))
    assert (one.gradients, one.optimizer) == (8 * eight.gradients, 8 * eight.optimizer)
    assert one.kept == eight.kept and eight.weights > one.weights / 8  # codec and voice encoder stay whole


def test_moments_are_those_of_adapter_and_lora_alone_where_the_llm_is_frozen():
    config = load_config(FULL)
    parts = build_parts(config)
    said = stage_memory(config, "align", parts, expected_batch(config, "align", 8.0))
    count = parts.sizes(config.llm.lora.r)
    assert said.optimizer == 8 * (count["adapter"] + count["lora"])
    assert said.weights == 4 * (count["adapter"] + count["lora"] + count["speech"]) + 2 * count["llm"]


@pytest.fixture
def run(tmp_path: Path, tiny_model_folder: Path, tiny_llm_folder: Path) -> Config:
    """A run whose model and token shards are there."""
    from ira.data.prepare import prepare
    from ira.data.text import CharTokenizer
    from ira.models.bundle import bundled_codec, read_model_card

    card = read_model_card(tiny_model_folder)
    codec = bundled_codec(tiny_model_folder, torch.device("cpu"))
    shards = tmp_path / "shards" / codec.fingerprint().replace(":", "-")
    for split in ("train", "val"):
        rows = [{"audio_file": f"{i}.wav", "text": "ab cd", "speaker_id": i % 2} for i in range(4)]
        for i in range(4):
            save_audio(tmp_path / split / f"{i}.wav", torch.sin(torch.arange(14_400) / (9 + i))[None] / 3)
        (tmp_path / split / f"{split}.json").write_text(json.dumps(rows))
        prepare([str(tmp_path / split)], shards / split, codec, CharTokenizer(), workers=1, max_seconds=5.0)
    (tmp_path / "run").mkdir()
    (tmp_path / "run" / "model").symlink_to(tiny_model_folder)
    voice = {"mel_bins": 40, "hidden": 32, "dim": 16, "layers": 1, "heads": 2, "text_hidden": 32, "text_layers": 1}
    stage = {"steps": 100, "accumulation": 2, "batch_seconds": 2.0}
    return check_config(
        {
            "run_dir": str(tmp_path / "run"),
            "device": "cpu",
            "codec": card.codec.model_dump(),
            "voice": voice,
            "speech": {"layers": 2, "width": 32, "heads": 2, "max_steps": 400, "text_layers": 1},
            "adapter": {"layers": 1, "queries": 4, "window_seconds": 1.0, "width": 32, "heads": 2, "mix_layers": 2},
            "llm": {"name": str(tiny_llm_folder)},
            "data": {"train": [str(tmp_path / "train")], "val": [str(tmp_path / "val")], "max_seconds": 5.0}
            | {"shards": str(tmp_path / "shards")},
            "train": {name: stage for name in ("codec", "voice", "speech", "align")},
        }
    )


def test_stages_whose_inputs_are_there_are_measured_and_leave_no_trace(run: Config, tmp_path: Path):
    before = everything(tmp_path)
    plan = dry_run.forecast(run, ["codec", "voice", "speech", "align", "reinforce"], torch.device("cpu"))
    assert everything(tmp_path) == before
    measured = {stage.name: stage.measured for stage in plan.stages}
    assert measured == {"codec": True, "voice": True, "speech": True, "align": True, "reinforce": False}
    assert plan.stages[4].note == "the align stage has not run"
    assert all(stage.seconds > 0 for stage in plan.stages)
    places = {folder.what: folder.size for folder in plan.folders}
    assert places["token shards"] == pytest.approx(8 * 0.6 * 75 * 2 * 2, rel=0.01)


def test_too_small_a_disk_is_said(run: Config, tmp_path: Path, monkeypatch):
    config = tmp_path / "config.yaml"
    config.write_text(run.model_dump_json())
    monkeypatch.setattr(dry_run, "rehearse", lambda *given: (0.5, "measured"))
    monkeypatch.setattr(dry_run.shutil, "disk_usage", lambda path: type("Disk", (), {"free": 1000})())
    result = CliRunner().invoke(
        app, ["train", "--config", str(config), "--stage", "speech", "--dry-run", "--json", str(tmp_path / "plan.json")]
    )
    assert result.exit_code == 0 and "are free; make room" in result.stderr
    figures = json.loads((tmp_path / "plan.json").read_text())["metrics"]
    assert figures["stages"]["speech"]["seconds"] == pytest.approx(100 * 2 * 0.5)


def test_the_table_of_the_cluster_page_is_what_the_formula_says():
    path = ROOT / "docs" / "make_cluster_table.py"
    spec = importlib.util.spec_from_file_location(path.stem, path)
    assert spec and spec.loader
    maker = importlib.util.module_from_spec(spec)
    spec.loader.exec_module(maker)
    assert maker.page() == maker.PAGE.read_text(encoding="utf-8"), "run python docs/make_cluster_table.py"
