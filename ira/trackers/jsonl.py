"""Figures in, RUN/metrics.jsonl out; sounds and pictures in, RUN/samples/STAGE/step-000123/NAME.wav and .png out."""

from __future__ import annotations

import json
import math
import os
import re
import time
from collections.abc import Callable
from contextlib import suppress
from pathlib import Path

from ira.errors import InputError
from ira.trackers.base import Picture, Samples, Sound


class JsonlTracker:
    """One line a call: {"time": seconds, "stage", "step", NAME: value...}. NaN and infinity become null.

    A run that resumes appends; where a step stands twice, the later line counts.
    """

    def __init__(self, run_dir: Path) -> None:
        self.path, self.samples = run_dir / "metrics.jsonl", run_dir / "samples"
        try:
            _drop_half_line(self.path)
            self.file = open(self.path, "a", encoding="utf-8")
        except OSError as error:
            raise _unwritable(self.path, error) from error

    def log(self, step: int, stage: str, metrics: dict[str, float]) -> None:
        values = {name: value if math.isfinite(value) else None for name, value in metrics.items()}
        line = {"time": round(time.time(), 3), "stage": stage, "step": step, **values}
        try:
            self.file.write(json.dumps(line, allow_nan=False) + "\n")
            self.file.flush()
        except OSError as error:
            raise _unwritable(self.path, error) from error

    def show(self, step: int, stage: str, samples: Samples) -> None:
        """Sounds and pictures as files that other tools open; the values of a histogram are not kept."""
        folder = self.samples / stage / f"step-{step:06d}"
        for name, sample in samples.items():
            plain = re.sub(r"[^\w.-]+", "-", name).strip(".-") or "sample"
            if isinstance(sample, Sound):
                _write(folder / f"{plain}.wav", lambda path, sound=sample: _write_sound(path, sound))
            elif isinstance(sample, Picture):
                _write(folder / f"{plain}.png", lambda path, picture=sample: _write_picture(path, picture))

    def close(self) -> None:
        self.file.close()


def _write(path: Path, write: Callable[[Path], None]) -> None:
    """Aside and renamed: whoever looks into the folder meanwhile finds whole files."""
    aside = path.with_name(f".{path.name}")
    try:
        path.parent.mkdir(parents=True, exist_ok=True)
        write(aside)
        os.replace(aside, path)
    except (OSError, RuntimeError) as error:  # libsndfile's errors are runtime errors
        with suppress(OSError):
            aside.unlink(missing_ok=True)
        raise _unwritable(path, error) from error


def _write_sound(path: Path, sound: Sound) -> None:
    import soundfile

    soundfile.write(path, sound.samples(), sound.rate, subtype="PCM_16", format="WAV")


def _write_picture(path: Path, picture: Picture) -> None:
    from matplotlib.image import imsave

    imsave(path, picture.array(), format="png")


def _unwritable(path: Path, error: Exception) -> InputError:
    return InputError(f"{path}: cannot be written ({error}); make room, or set run_dir elsewhere, and start again")


def _drop_half_line(path: Path) -> None:
    """A killed run may leave an unfinished last line; the next one would be glued to it."""
    if path.exists():
        os.truncate(path, path.read_bytes().rfind(b"\n") + 1)
