"""Figures and samples in, TensorBoard event files in RUN/tensorboard out; needs the extra `tb`."""

from __future__ import annotations

from pathlib import Path

from ira.errors import InputError
from ira.trackers.base import Picture, Samples, Sound


class TensorboardTracker:
    """Scalars, sounds, pictures and histograms, each named STAGE/NAME."""

    def __init__(self, run_dir: Path) -> None:
        try:
            from torch.utils.tensorboard import SummaryWriter
        except ImportError:
            raise InputError(
                "tensorboard is not installed; run pip install -e '.[tb]' in the clone, or drop it from log.trackers"
            ) from None
        self.writer = SummaryWriter(run_dir / "tensorboard")

    def log(self, step: int, stage: str, metrics: dict[str, float]) -> None:
        for name, value in metrics.items():
            self.writer.add_scalar(f"{stage}/{name}", value, step)

    def show(self, step: int, stage: str, samples: Samples) -> None:
        for name, sample in samples.items():
            tag = f"{stage}/{name}"
            if isinstance(sample, Sound):
                self.writer.add_audio(tag, sample.samples()[None], step, sample.rate)
            elif isinstance(sample, Picture):
                self.writer.add_image(tag, sample.array(), step, dataformats="HWC")
            elif len(values := sample.finite()):
                self.writer.add_histogram(tag, values, step)
        self.writer.flush()

    def close(self) -> None:
        self.writer.close()
