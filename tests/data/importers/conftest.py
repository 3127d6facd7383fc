"""What the tests of the importers share: sounds of a fraction of a second, and what came out, read as training does."""

from __future__ import annotations

from collections.abc import Callable
from pathlib import Path

import numpy as np
import pytest
import soundfile

from ira.audio.waveform import load_audio
from ira.data.importers.write import Report, import_corpus
from ira.data.manifest import Row, read_manifest
from ira.data.text import normalize

RATE = 24_000


@pytest.fixture
def sound() -> Callable[[Path], Path]:
    """Writes a tenth of a second of noise in the format of the suffix, and names the file."""

    def write(path: Path) -> Path:
        path.parent.mkdir(parents=True, exist_ok=True)
        noise = 0.1 * np.random.default_rng(len(path.name)).standard_normal(RATE // 10)
        kinds = {".mp3": ("MP3", "MPEG_LAYER_III"), ".flac": ("FLAC", "PCM_16"), ".wav": ("WAV", "PCM_16")}
        container, subtype = kinds[path.suffix]
        soundfile.write(path, noise, RATE, subtype=subtype, format=container)
        return path

    return write


@pytest.fixture
def bring_in(tmp_path: Path) -> Callable[..., tuple[Report, dict[str, list[Row]]]]:
    """Imports into tmp_path/out; the report, and the rows of each split, all of which must be usable."""

    def bring(kind: str, folder: Path, **options) -> tuple[Report, dict[str, list[Row]]]:
        out = tmp_path / "out"
        report = import_corpus(kind, folder, out, **options)
        rows = {}
        for split in sorted(report.rows):
            rows[split], problems = read_manifest(out / split)
            assert problems == []
            assert all(normalize(row.text, row.language) and load_audio(row.audio).numel() for row in rows[split])
            assert len(rows[split]) == report.rows[split]
        return report, rows

    return bring
