"""Run by torchrun: every stage of a finished run once more, each from the very weights that it started from there."""

from __future__ import annotations

import shutil
import sys
from pathlib import Path

import torch

from ira.config import STAGES, Config
from ira.processes import first_does, joined
from ira.training.journey import train


def again(config: Config, out: Path, stage: str, parallel: str) -> None:
    run = out / f"{stage}-{parallel}"
    first_does(lambda: shutil.copytree(config.run_dir, run, ignore=shutil.ignore_patterns(stage, "metrics.jsonl")))
    settings = config.train.model_copy(update={"parallel": parallel})
    train(config.model_copy(update={"run_dir": str(run), "train": settings}), stage)  # type: ignore[arg-type]


if __name__ == "__main__":
    torch.set_num_threads(1)
    config = Config.model_validate_json(Path(sys.argv[1]).read_text(encoding="utf-8"))
    with joined(torch.device("cpu")):
        for stage in STAGES:
            for parallel in ("ddp", "fsdp"):
                again(config, Path(sys.argv[2]), stage, parallel)
