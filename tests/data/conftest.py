"""A small split folder and a codec that tells loudness, for the tests of preparation."""

from __future__ import annotations

import importlib
import json
from pathlib import Path

import pytest
import torch

from ira.audio.waveform import save_audio
from ira.data import prepare as preparing


@pytest.fixture
def loudness(monkeypatch):
    """The fake codec's class, importable by worker processes, and shards of four rows."""
    monkeypatch.syspath_prepend(str(Path(__file__).parent))
    monkeypatch.setattr(preparing, "ROWS_PER_SHARD", 4)
    return importlib.import_module("fake_codec").LoudnessCodec


@pytest.fixture
def split(tmp_path):
    """train/ with eleven recordings of different lengths and three rows that cannot be used."""
    rows = []
    for i in range(11):
        sound = torch.rand(1, 800 + 397 * (7 * i % 11), generator=torch.Generator().manual_seed(i))
        save_audio(tmp_path / "train" / "audio_files" / f"{i}.wav", 0.5 * sound)
        rows.append({"audio_file": f"audio_files/{i}.wav", "text": f"Number {i}", "speaker_id": i % 3, "f0": 100 + i})
    rows[1]["text"] = ""
    rows[2].update(description="a low voice", language="en", instruction="q", response="r", emotion="sad")
    (tmp_path / "train" / "audio_files" / "bad.wav").write_bytes(b"not audio")
    rows.insert(3, {"audio_file": "audio_files/bad.wav", "text": "broken"})
    rows.insert(5, {"audio_file": "audio_files/4.wav", "text": "snow ☃"})
    rows.insert(7, {"audio_file": "audio_files/none.wav", "text": "gone"})
    rows.append({"text": "no sound"})
    (tmp_path / "train" / "train.json").write_text(json.dumps(rows))
    return tmp_path / "train"
