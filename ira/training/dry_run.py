"""A configuration in, what training it would take and leave behind on this machine out; nothing is written.

Seconds come from real micro-batches where a stage finds what it reads (`ira.training.rehearsal`), else from operations
divided by the machine's matrix rate, which no training reaches: a lower bound.

    operations a position = 2 x elements a pass forwards, 2 backwards to the input, 2 to the weights where they learn
"""

from __future__ import annotations

import os
import shutil
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import torch

from ira.config import FRAME_RATE, Config, StageName
from ira.data.batches import spread
from ira.errors import InputError
from ira.training.estimate import Batch, Memory, expected_batch, stage_memory
from ira.training.meter import matrix_rate
from ira.training.parts import Parts, build_parts
from ira.training.rehearsal import rehearse

LOOKED_AT = 200  # recordings whose length is read, evenly spread
USUAL_SECONDS = 8.0  # of a recording, where there is none to look at
ROOM = 0.9  # of the free memory is what a rehearsal may take


@dataclass
class StageForecast:
    """One stage: elements, bytes, seconds."""

    name: StageName
    trained: int
    total: int
    memory: Memory
    batch: Batch
    steps: int
    seconds: float
    measured: bool
    note: str = ""


@dataclass
class Folder:
    """A place that is written to: bytes expected there, bytes free on its disk."""

    what: str
    path: Path
    size: float
    free: float = field(init=False)

    def __post_init__(self) -> None:
        there = next(place for place in (self.path, *self.path.absolute().parents) if place.exists())
        self.free = float(shutil.disk_usage(there).free)


@dataclass
class Forecast:
    """All stages of a configuration, every place it writes to, and what had to be assumed."""

    stages: list[StageForecast]
    folders: list[Folder]
    parameters: dict[str, int]
    notes: list[str]
    device: str
    processes: int

    def plain(self) -> dict[str, Any]:
        """For `--json`: bytes, seconds, elements."""
        stages = {
            s.name: {
                "parameters_trained": s.trained,
                "parameters": s.total,
                "memory": {**vars(s.memory), "peak": s.memory.peak},
                "batch": vars(s.batch),
                "steps": s.steps,
                "seconds": s.seconds,
                "seconds_measured": s.measured,
            }
            for s in self.stages
        }
        folders = [{**vars(f), "path": str(f.path)} for f in self.folders]
        return {"parameters": self.parameters, "stages": stages, "writes": folders, "processes": self.processes}


def forecast(config: Config, names: list[StageName], device: torch.device, processes: int = 1) -> Forecast:
    """What the stages `names` would take on each of `processes` of this machine's kind."""
    parts, notes = build_parts(config), []
    seconds, hours = _recordings(config)
    if seconds is None:
        notes.append(f"no recordings to look at: {USUAL_SECONDS:g} s each are assumed")
    stages = []
    for name in names:
        if (Path(config.run_dir) / name / "done.json").exists():
            notes.append(f"{name}: done, not run again")
            continue
        if name == "codec" and config.train.codec.finetune:
            notes.append("codec: fine-tuning of EnCodec is not estimated")
        if name in ("align", "reinforce") and parts.llm is None or name == "codec" and config.codec.kind != "compact":
            continue
        batch = expected_batch(config, name, min(seconds or USUAL_SECONDS, config.data.max_seconds))
        stages.append(_stage(config, name, parts, batch, device, processes))
    folders = _folders(config, stages, parts, hours)
    count = parts.sizes(config.llm.lora.r)
    return Forecast(stages, folders, count, notes + parts.notes, str(device), processes)


def _stage(
    config: Config, name: StageName, parts: Parts, batch: Batch, device: torch.device, processes: int
) -> StageForecast:
    memory = stage_memory(config, name, parts, batch, processes, device.type == "cuda")
    settings = getattr(config.train, name)
    each = -(-settings.accumulation // processes)
    found, note = None, "does not fit the memory that is free"
    if stage_memory(config, name, parts, batch).peak < ROOM * free_memory(device):
        found, note = rehearse(config, name, device)
    if found is None:
        found_seconds = operations(config, name, parts, batch) / matrix_rate(device, config.train.dtype)
    else:
        found_seconds = found
    trained = round(memory.optimizer / 8) * (processes if config.train.parallel == "fsdp" else 1)
    total = sum(size for part, size in parts.sizes(config.llm.lora.r).items() if part in USED[name])
    limit = 60 * config.train.max_minutes if config.train.max_minutes else float("inf")
    took = min(settings.steps * each * found_seconds, limit)
    return StageForecast(name, trained, total, memory, batch, settings.steps, took, found is not None, note)


USED: dict[StageName, tuple[str, ...]] = {
    "codec": ("codec",),
    "voice": ("voice", "codec"),
    "speech": ("speech", "codec", "voice"),
    "align": ("speech", "adapter", "llm", "lora"),
    "reinforce": ("speech", "adapter", "llm", "lora"),
}


def operations(config: Config, name: StageName, parts: Parts, batch: Batch) -> float:
    """Operations of a micro-batch: matrices alone, attention over the sequence left out."""
    count, sound = parts.sizes(config.llm.lora.r), batch.rows * batch.frames
    text, again = batch.rows * batch.characters, 8 / 6 if config.train.activation_checkpointing else 1.0
    if name == "codec":
        return 6.0 * count["codec"] * sound
    if name == "voice":
        return 6.0 * again * count["voice"] * 2 * sound / 4 + 2.0 * count["codec"] * 2 * sound
    if name == "speech":
        reader = config.speech.text_layers / (config.speech.text_layers + 1.5 * config.speech.layers)
        return 6.0 * again * count["speech"] * ((1 - reader) * sound + reader * text)
    windows = -(-batch.frames // round(config.adapter.window_seconds * FRAME_RATE))
    queries = batch.rows * windows * config.adapter.queries
    read = batch.rows * (batch.prompt + batch.answer) + queries
    student = (4.0 * again * count["llm"] + 6.0 * again * count["lora"]) * read
    if name == "reinforce":
        rounds = 4 * config.train.reinforce.epochs  # micro-batches that share one collection: answers, twice judged
        return student + 2.0 * 4 * count["llm"] * read * 4 / rounds
    teacher = 2.0 * count["llm"] * (batch.rows * (batch.prompt + batch.answer) + text / 4)
    return student + teacher + 2.0 * count["speech"] * sound + 6.0 * again * count["adapter"] * queries


def free_memory(device: torch.device) -> float:
    """Bytes that can still be taken; where the machine does not say, none."""
    if device.type == "cuda":
        return float(torch.cuda.mem_get_info(device)[0])
    try:
        return float(os.sysconf("SC_AVPHYS_PAGES") * os.sysconf("SC_PAGE_SIZE"))
    except (AttributeError, ValueError, OSError):
        return 0.0


def _folders(config: Config, stages: list[StageForecast], parts: Parts, hours: float | None) -> list[Folder]:
    """Checkpoints hold weights and two moments, the best ones weights alone; the one that is written stands beside."""
    kept, run, count = config.train.keep_checkpoints, Path(config.run_dir), parts.sizes(config.llm.lora.r)
    written = [Folder(f"checkpoints of {s.name}", run / s.name, (12 + 4) * s.trained * (kept + 1)) for s in stages]
    own = sum(count[part] for part in ("codec", "voice", "speech", "adapter", "lora") if part in count)
    own -= count["codec"] if config.codec.kind == "encodec" else 0
    own += count["llm"] if config.llm.fresh else 0
    written.append(Folder("model", run / "model", 2.0 * own))
    if hours is not None:
        copies = 1 + config.data.augment.copies
        size = hours * 3600 * FRAME_RATE * 2 * config.codec.codebooks * copies
        written.append(Folder("token shards", Path(config.data.shards), size))
    return written


def _recordings(config: Config) -> tuple[float | None, float | None]:
    """Seconds of a recording, and hours of all: a sample of those that the manifests name."""
    import soundfile

    from ira.data.manifest import read_manifest

    rows = []
    for path in [*config.data.train, *config.data.val]:
        try:
            rows += read_manifest(path)[0]
        except InputError:
            continue
    found = []
    for row in spread(rows, LOOKED_AT):
        try:
            found.append(float(soundfile.info(str(row.audio)).duration))
        except (RuntimeError, OSError):
            continue
    if not found:
        return None, None
    mean = sum(found) / len(found)
    return mean, mean * len(rows) / 3600
