from __future__ import annotations

from pathlib import Path

import pytest
import torch

from ira.audio.waveform import load_audio
from ira.inference import demo
from ira.inference.answering import ListenRow
from ira.inference.pipeline import Pipeline
from ira.inference.spoken import Spoken


def test_the_demo_leaves_speech_a_reply_and_its_picture(
    tiny_model_folder: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
):
    pipeline = Pipeline.from_folder(tiny_model_folder, "cpu")
    steps: list[str] = []
    heard: list[ListenRow] = []
    real = Pipeline.listen_batch
    monkeypatch.setattr(Pipeline, "listen_batch", lambda self, rows, n: heard.extend(rows) or real(self, rows, n))
    made = demo.run_demo(pipeline, tmp_path / "demo", steps.append)
    names = ["spoken.wav", "question.wav", "reply.wav", "reply.png"]
    assert [path.name for path in made.files] == names and all(path.is_file() for path in made.files)
    assert list(made.took) == steps and len(steps) == 4
    assert made.heard and made.answer
    # What was listened to is what the files hold, and nothing of the sentences is in the prompts.
    for row, name in zip(heard, names, strict=False):
        written = load_audio(tmp_path / "demo" / name)
        assert isinstance(row.audio, torch.Tensor) and torch.allclose(written, row.audio.clamp(-1, 1), atol=1e-4)
        assert "wind" not in (row.prompt or "") and "france" not in (row.prompt or "")


def test_a_reply_with_a_fault_and_an_answer_without_words_are_reported(
    tiny_model_folder: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
):
    pipeline = Pipeline.from_folder(tiny_model_folder, "cpu")
    monkeypatch.setattr(Pipeline, "listen_batch", lambda self, rows, n: ["...", "?!"])
    monkeypatch.setattr(Spoken, "remark", "after 3 attempts it is silent for 2.0 s")
    made = demo.run_demo(pipeline, tmp_path, lambda step: None)
    line = made.files[tmp_path / "reply.wav"]
    assert made.answer == "?!" and "no words to speak" in line and "i have no words for that." in line
    assert line.endswith("after 3 attempts it is silent for 2.0 s")
