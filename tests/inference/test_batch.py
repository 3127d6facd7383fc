from __future__ import annotations

import json
from collections.abc import Sequence
from dataclasses import replace
from pathlib import Path

import pytest
import torch

from ira.audio.waveform import load_audio, save_audio
from ira.inference.batch import listen_rows, speak_rows
from ira.inference.faults import Fault
from ira.inference.pipeline import Pipeline


@pytest.fixture(scope="module")
def pipeline(tiny_model_folder: Path) -> Pipeline:
    return Pipeline.from_folder(tiny_model_folder, "cpu")


def write(path: Path, rows: Sequence[object]) -> Path:
    path.write_text("".join(json.dumps(row) + "\n" for row in rows), encoding="utf-8")
    return path


def test_every_good_row_is_spoken_as_alone_and_every_bad_one_is_named(pipeline: Pipeline, tmp_path: Path):
    rows = [{"id": f"r{i}", "text": "hello", "seed": i} for i in range(9)]  # more than one group
    rows[2] = {"id": "bad", "text": "..."}
    rows[8] = {"id": "../up", "text": "hello"}
    done = list(speak_rows(pipeline, write(tmp_path / "rows.jsonl", rows), tmp_path / "out" / "deep"))
    assert [row.name for row in done if row.failed] == ["bad", "line 9"]
    assert all(row.message for row in done if row.failed)
    files = sorted(path.name for path in (tmp_path / "out" / "deep").iterdir())
    assert files == ["r0.wav", "r1.wav", "r3.wav", "r4.wav", "r5.wav", "r6.wav", "r7.wav"]
    alone = pipeline.speak("hello", seed=7).waveform
    assert torch.allclose(load_audio(tmp_path / "out" / "deep" / "r7.wav"), alone.clamp(-1, 1), atol=1e-4)


def test_speech_with_a_fault_is_written_and_the_fault_told(
    pipeline: Pipeline, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
):
    from ira.inference import pipeline as module

    real, fault = module.say, Fault("endless", "did not end within 1.0 s")
    monkeypatch.setattr(module, "say", lambda *given: [replace(s, faults=[fault]) for s in real(*given)])
    rows = write(tmp_path / "rows.jsonl", [{"id": "a", "text": "hello"}])
    (done,) = speak_rows(pipeline, rows, tmp_path)
    assert done.file == tmp_path / "a.wav" and (tmp_path / "a.wav").is_file()
    assert not done.failed and "did not end" in done.message


def test_a_report_has_a_section_for_every_row_and_its_reason_where_there_is_no_speech(
    pipeline: Pipeline, tmp_path: Path
):
    rows = [
        {"id": "one", "text": "hello"},
        {"id": "two", "text": "\u8bed"},
        {"id": "three", "text": "bye", "seed": "x"},
    ]
    done = list(
        speak_rows(pipeline, write(tmp_path / "rows.jsonl", rows), tmp_path, report=tmp_path / "new" / "page.html")
    )
    page = (tmp_path / "new" / "page.html").read_text(encoding="utf-8")
    assert [row.failed for row in done] == [False, True, True]
    assert page.count("<section>") == 3 and page.count("<audio") == 1
    assert "cannot be spoken" in page and "whole number is wanted" in page


def test_answers_are_written_in_order_and_bad_rows_left_out_and_named(pipeline: Pipeline, tmp_path: Path):
    save_audio(tmp_path / "one.wav", torch.randn(1, 20_000, generator=torch.Generator().manual_seed(0)) / 9)
    one = str(tmp_path / "one.wav")
    rows = [
        {"id": "a", "audio": one},
        {"id": "b", "audio": [one, "one.wav"], "prompt": "compare"},
        {"id": "c", "audio": "absent.wav"},
        {"id": "d", "audio": None, "prompt": "hello"},
        {"id": "e", "audio": None},
    ]
    seen: list[int] = []
    out = tmp_path / "answers.jsonl"
    done = list(listen_rows(pipeline, write(tmp_path / "rows.jsonl", rows), out, seen.append))
    assert [row.name for row in done if row.failed] == ["c", "e"]
    assert [json.loads(line) for line in out.read_text(encoding="utf-8").split("\n") if line] == [
        {"id": "a", "answer": pipeline.listen(one)},
        {"id": "b", "answer": pipeline.listen([one, one], "compare")},
        {"id": "d", "answer": pipeline.listen(None, "hello")},
    ]
    assert seen == [1, 2, 3]
