"""Figures and samples in, a Weights & Biases run out, online or offline; needs the extra `wandb`.

RUN/wandb.json keeps the run's id, so that a training that was stopped goes on in the same W&B run. Without a key on
this machine the run is kept offline in RUN/wandb, for `wandb sync` to send later; WANDB_MODE has the last word.
"""

from __future__ import annotations

import json
import netrc
import os
import re
import secrets
from pathlib import Path
from typing import Any
from urllib.parse import urlparse

from ira.errors import InputError
from ira.trackers.base import Histogram, Picture, Samples, Sound

KEYS = ("WANDB_API_KEY", "WANDB_IDENTITY_TOKEN_FILE")


class WandbTracker:
    """Figures and samples named STAGE/NAME over STAGE/step.

    Raises:
        InputError: the package is missing, the service refuses the run, or RUN/wandb.json is damaged.
    """

    def __init__(self, run_dir: Path, project: str) -> None:
        try:
            import wandb  # pyright: ignore[reportMissingImports]  (an extra)
        except ImportError:
            raise InputError(
                "wandb is not installed; run pip install -e '.[wandb]' in the clone, or drop it from log.trackers"
            ) from None
        self.wandb, self.stages = wandb, set[str]()
        given = {"id": kept_id(run_dir / "wandb.json"), "resume": "allow", "mode": mode_without_key()}
        try:
            self.run = wandb.init(
                project=project, name=run_dir.name, dir=str(run_dir), config=_config(run_dir / "config.json"), **given
            )
        except wandb.Error as error:
            words = " ".join(str(error).split())[:200]
            raise InputError(f"wandb: {words}; set WANDB_MODE=offline, or drop wandb from log.trackers") from error

    def log(self, step: int, stage: str, metrics: dict[str, float]) -> None:
        self._log(step, stage, metrics)

    def show(self, step: int, stage: str, samples: Samples) -> None:
        shown = {name: self._media(sample) for name, sample in samples.items()}
        if found := {name: media for name, media in shown.items() if media is not None}:
            self._log(step, stage, found)

    def close(self) -> None:
        self.run.finish()

    def _log(self, step: int, stage: str, values: dict[str, Any]) -> None:
        if stage not in self.stages:  # every stage counts from 0, the service's own step may only grow
            self.run.define_metric(f"{stage}/*", step_metric=f"{stage}/step")
            self.stages.add(stage)
        self.run.log({f"{stage}/step": step, **{f"{stage}/{name}": value for name, value in values.items()}})

    def _media(self, sample: Sound | Picture | Histogram) -> Any:
        if isinstance(sample, Sound):
            return self.wandb.Audio(sample.samples(), sample_rate=sample.rate)
        if isinstance(sample, Picture):
            return self.wandb.Image(sample.array())
        values = sample.finite()
        return self.wandb.Histogram(values) if len(values) else None


def kept_id(path: Path) -> str:
    """The W&B id of this run folder: the one in `path`, or a new one that is written there."""
    try:
        if not path.exists():
            aside = path.with_name(f".{path.name}")
            aside.write_text(json.dumps({"id": secrets.token_hex(4)}) + "\n", encoding="utf-8")
            os.replace(aside, path)
        kept = json.loads(path.read_text(encoding="utf-8"))
    except OSError as error:
        raise InputError(f"{path}: cannot be used ({error.strerror}); set run_dir elsewhere") from error
    except (ValueError, RecursionError):
        kept = None
    found = kept.get("id") if isinstance(kept, dict) else None
    if not isinstance(found, str) or not re.fullmatch(r"[\w-]{1,64}", found):
        raise InputError(f"{path}: holds no W&B run id; delete it, and the run goes on under a new one")
    return found


def mode_without_key() -> str | None:
    """`offline` where W&B would stop to ask for a key; None leaves the mode to its own settings."""
    if os.environ.get("WANDB_MODE") or any(os.environ.get(key) for key in KEYS):
        return None
    host = urlparse(os.environ.get("WANDB_BASE_URL") or "https://api.wandb.ai").hostname or ""
    try:
        return None if netrc.netrc(os.environ.get("NETRC")).authenticators(host) else "offline"
    except (OSError, netrc.NetrcParseError):
        return "offline"


def _config(path: Path) -> dict[str, Any] | None:
    """What was asked of the run, for the service's own comparison."""
    return json.loads(path.read_text(encoding="utf-8")) if path.is_file() else None
