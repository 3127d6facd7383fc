"""A configuration in; the seconds that a micro-batch of a stage takes on this machine, where it can be tried, out.

The stage is built as training builds it, on links to what an earlier one left, in a folder that is deleted again. At
most two token shards are looked at, and the teacher writes no answers: a first look is worth a minute, not an hour.
"""

from __future__ import annotations

import json
import os
import tempfile
import time
from pathlib import Path

import torch

from ira.config import Config, DataConfig, StageName
from ira.data.batches import SamplerState
from ira.data.shards import TokenShards, shard_file
from ira.errors import InputError
from ira.models.llm import llm_at_hand
from ira.runtime import autocast, seed_everything
from ira.training.builders import BUILDERS, Run
from ira.training.parallel import Root
from ira.training.recompute import recompute_layers

SHARDS = 2
LONGEST = 20.0  # seconds of trying; at least one micro-batch after the first
MOST = 3  # micro-batches after the first
NEEDS: dict[StageName, tuple[str, ...]] = {
    "codec": (),
    "voice": (),
    "speech": ("voice",),
    "align": ("speech_lm",),
    "reinforce": ("speech_lm", "adapter"),
}


def rehearse(config: Config, name: StageName, device: torch.device) -> tuple[float | None, str]:
    """Seconds of a micro-batch with its share of what is collected before, or None and what is missing."""
    if missing := _missing(config, name):
        return None, missing
    with tempfile.TemporaryDirectory(prefix="ira-dry-run-") as aside:
        try:
            run = Run(_linked(config, name, Path(aside)), Path(aside) / "run", device)
            seed_everything(config.train.seed)
            return _time(run, name), "measured"
        except InputError as error:
            return None, str(error)


def _missing(config: Config, name: StageName) -> str:
    """What the stage would have to wait for, in words, or nothing."""
    model = Path(config.run_dir) / "model"
    if name == "codec":
        return "" if any(Path(path).exists() for path in config.data.train) else "data.train is not there"
    if config.codec.kind == "encodec" and llm_at_hand(config.codec.path or "facebook/encodec_24khz") is None:
        return "EnCodec is not on this machine"
    if config.codec.kind == "compact" and not config.codec.path and not (model / "codec.json").is_file():
        return "the codec stage has not run"
    if absent := [part for part in NEEDS[name] if not (model / f"{part}.json").is_file()]:
        return f"{model} has no {absent[0]} yet"
    if name == "reinforce" and not (model.parent / "align" / "lora.json").is_file():
        return "the align stage has not run"
    if name in ("align", "reinforce") and (config.llm.fresh or llm_at_hand(config.llm.name) is None):
        return f"{config.llm.name} is not on this machine"
    found = list(Path(config.data.shards).glob(f"{config.codec.kind}*/train"))
    return "" if found else f"{config.data.shards} has no token shards yet"


def _linked(config: Config, name: StageName, aside: Path) -> Config:
    """The configuration of a run in `aside` that reads what the true one left; what it writes stays there."""
    (aside / "run").mkdir()
    for folder in (Path(config.run_dir) / "model", Path(config.run_dir) / "align"):
        _link(folder, aside / "run" / folder.name)
    if name == "codec":
        return config
    for split in Path(config.data.shards).glob(f"{config.codec.kind}*/*"):
        _link_shards(split, aside / "shards" / split.parent.name / split.name)
    data = DataConfig(train=[], val=[], shards=str(aside / "shards"), max_seconds=config.data.max_seconds)
    # with the LLM from the first step: that takes more
    align = config.train.align.model_copy(update={"teacher_responses": 0, "hearing_share": 0.0})
    return config.model_copy(update={"data": data, "train": config.train.model_copy(update={"align": align})})


def _link(there: Path, here: Path) -> None:
    here.mkdir(parents=True, exist_ok=True)
    for file in there.glob("*"):
        if file.is_file():
            os.symlink(file.resolve(), here / file.name)


def _link_shards(there: Path, here: Path) -> None:
    """A folder that holds the first shards of another."""
    try:
        shards = TokenShards(there)
    except InputError:
        return
    here.mkdir(parents=True)
    count = min(shards.meta["shards"], SHARDS)
    for number in range(count):
        for kind in ("shard", "index", "codes"):
            file = shard_file(shards.folders[number % len(shards.folders)], kind, number)
            if file.is_file():
                os.symlink(file.resolve(), here / file.name)
    meta = {key: value for key, value in shards.meta.items() if key not in ("part", "parts")}
    (here / "meta.json").write_text(json.dumps(meta | {"shards": count}))


def _time(run: Run, name: StageName) -> float:
    """Build, take one micro-batch to warm up, then a few more by the clock."""
    train, device = run.config.train, run.device
    stage, _ = BUILDERS[name](run)
    root = Root(stage.modules()).train()
    if train.activation_checkpointing:
        recompute_layers(root)
    state = SamplerState(train.seed, 0, 0)
    plan, began = stage.plan(state), time.monotonic()
    with autocast(device, train.dtype):
        drawn = [next(plan)]
        while drawn[-1][1] == state:  # a round of rollouts serves several
            drawn.append(next(plan))
    collected = (time.monotonic() - began) / len(drawn)
    spent, keys = [], [key for key, _ in drawn]
    while len(spent) < 2 or (len(spent) <= MOST and sum(spent) < LONGEST):
        began = time.monotonic()
        batch = stage.load(keys[len(spent)] if len(spent) < len(keys) else next(plan)[0])
        with autocast(device, train.dtype):
            found = stage.loss(batch, 0.0)
        found.loss.backward()
        if device.type == "cuda":
            torch.cuda.synchronize(device)
        spent.append(time.monotonic() - began)
    return collected + sum(spent[1:]) / (len(spent) - 1)
