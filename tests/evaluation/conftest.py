"""Held-out recordings for the suites."""

from __future__ import annotations

import json
from pathlib import Path

import pytest
import torch

from ira.audio.waveform import save_audio


@pytest.fixture(scope="session")
def manifest(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """Two clips of each of two speakers, a broken recording and a row whose file is not there."""
    folder = tmp_path_factory.mktemp("held-out")
    rows = []
    for number, (speaker, gender, hertz) in enumerate(
        [("a", "male", 110), ("a", "male", 115), ("b", "female", 220), ("b", "female", 230)]
    ):
        time = torch.arange(24_000) / 24_000
        noise = torch.randn(len(time), generator=torch.Generator().manual_seed(number))
        beat = torch.sin(6.2832 * 3 * time).clamp(min=0.05)
        save_audio(folder / f"{number}.wav", 0.3 * beat * (torch.sin(6.2832 * hertz * time).sign() + 0.3 * noise))
        known = {"speaker": speaker, "gender": gender, "description": f"voice {speaker}"}
        rows.append({"audio_file": f"{number}.wav", "text": ["one", "two", "three", "four"][number], **known})
    (folder / "broken.wav").write_bytes(b"not a sound")
    rows += [{"audio_file": "broken.wav", "text": "five"}, {"audio_file": "gone.wav", "text": "six"}]
    (folder / "test.json").write_text(json.dumps(rows))
    return folder / "test.json"
