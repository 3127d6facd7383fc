from __future__ import annotations

import importlib.util
import json
from pathlib import Path
from types import ModuleType
from xml.etree import ElementTree

import pytest
from typer.testing import CliRunner, Result

from ira.cli.app import app

ROOT = Path(__file__).parents[2]


def ira(*args: object) -> Result:
    return CliRunner().invoke(app, [str(arg) for arg in args])


@pytest.fixture(scope="module")
def measured(tiny_model_folder: Path, tmp_path_factory: pytest.TempPathFactory) -> tuple[Result, Path]:
    """All benchmarks, tiny and once; that they run is what is tested, not how fast."""
    path = tmp_path_factory.mktemp("bench") / "figures.json"
    result = ira("bench", "all", "--quick", "--json", path, "--model", tiny_model_folder, "--device", "cpu")
    assert result.exit_code == 0, result.stderr or result.exception
    return result, path


def test_the_record_names_machine_model_and_commit(measured: tuple[Result, Path]):
    record = json.loads(measured[1].read_text())
    assert list(record)[:4] == ["suite", "model", "device", "commit"]
    assert (record["suite"], record["device"], record["quick"], record["repeats"]) == ("all", "cpu", True, 1)
    assert {"name", "host", "cores", "load", "torch", "transformers"} <= set(record["machine"])


def test_every_suite_gives_ours_its_peer_its_spread_and_its_memory(measured: tuple[Result, Path]):
    figures = json.loads(measured[1].read_text())["metrics"]
    wanted = ["codec/encode_ours_times_real_time", "codec/encode_encodec_times_real_time", "codec/stream_8_frames"]
    wanted += [f"decode/{size}_{dtype}_batch1@4/ours_ms" for size in ("own", "full") for dtype in ("fp32", "bf16")]
    wanted += ["decode/own_fp32_batch2@4/musicgen_ms", "decode/full_fp32_batch1@8/floor_ms"]
    wanted += ["train/own_batch2x12/ours_tokens_per_second", "train/full_batch2x12/musicgen_share_of_matrix_rate"]
    wanted += ["stream/first_sound_seconds", "stream/real_time_factor", "stream/answer_seconds"]
    assert [one for one in wanted if not any(name.startswith(one) for name in figures)] == []
    assert all(figures[f"{suite}/peak_mb"] > 0 for suite in ("codec", "decode", "train", "stream"))
    for name in (name for name in figures if f"{name}_low" in figures):
        assert figures[f"{name}_low"] <= figures[name] <= figures[f"{name}_high"], name


def test_results_go_to_stdout_and_progress_with_the_time_left_to_stderr(measured: tuple[Result, Path]):
    result, _ = measured
    assert "decode/own_fp32_batch1@4/ours_ms" in result.stdout and "codec" not in result.stdout.split("\n")[0]
    lines = [line for line in result.stderr.splitlines() if " of " in line]
    assert lines[0].startswith("1 of ") and all("s left" in line for line in lines[1:])


def test_an_unknown_benchmark_is_refused_in_one_line():
    result = ira("bench", "codecs")
    assert result.exit_code == 2 and len(result.stderr.splitlines()) == 1 and "'codecs'" in result.stderr


def writer() -> ModuleType:
    spec = importlib.util.spec_from_file_location("make_performance", ROOT / "docs" / "make_performance.py")
    assert spec is not None and spec.loader is not None
    made = importlib.util.module_from_spec(spec)
    spec.loader.exec_module(made)
    return made


def test_the_page_takes_figures_between_its_markers_and_draws_the_curve(tmp_path: Path, measured: tuple[Result, Path]):
    record = json.loads(measured[1].read_text()) | {"quick": False}
    script = writer()
    page = script.filled(script.PAGE.read_text(encoding="utf-8"), [record])
    assert page.count(script.BEGIN) == page.count(script.END) == 1
    assert "| `full_fp32_batch1@4/ours_ms` |" in page and record["machine"]["name"] in page
    assert script.filled(page, [record]) == page
    script.draw([record], tmp_path / "growth.svg")
    assert ElementTree.parse(tmp_path / "growth.svg").getroot().tag.endswith("svg")


def test_figures_of_a_quick_run_are_not_published(measured: tuple[Result, Path]):
    with pytest.raises(SystemExit, match="--quick"):
        writer().read([measured[1]])
