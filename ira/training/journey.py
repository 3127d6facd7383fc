"""A configuration in, a model folder out: the stages in order, each with the weights of the one before.

RUN/config.json holds what was asked, RUN/metrics.jsonl every figure, RUN/STAGE the checkpoints that resume a stage, and
RUN/model the model so far: `ira speak --model RUN/model` works as soon as the speech stage has ended.
"""

from __future__ import annotations

import json
from pathlib import Path

from ira.checkpoint import weights_hash, write_aside
from ira.config import STAGES, Config, StageName
from ira.config_file import check_config
from ira.console import warn
from ira.errors import InputError
from ira.models.bundle import read_model_card, write_card
from ira.processes import first_does, joined, rank
from ira.reading import parse_json, read_text
from ira.runtime import pick_device, pick_threads, run_folder, seed_everything
from ira.trackers.base import Tracker
from ira.trackers.make import make_trackers
from ira.training.builders import BUILDERS, Run
from ira.training.loop import fit

SHAPED_BY: dict[StageName, str] = {"voice": "voice", "speech": "speech", "align": "adapter"}  # stage: section
BUILT_ON: dict[StageName, tuple[str, ...]] = {  # parts of the model folder that a stage starts from
    "codec": (),
    "voice": ("codec",),
    "speech": ("codec", "voice"),
    "align": ("codec", "speech_lm"),
    "reinforce": ("codec", "speech_lm", "adapter"),
}


def train(config: Config, only: StageName | None = None) -> Path:
    """Run the stages of `config` (or `only` one) and return the model folder. Finished stages are not run again.

    Under torchrun every process calls it.

    Raises:
        InputError: a stage's predecessor is missing, data or weights do not fit; says which and what to do.
        SystemExit: the process was asked to end; the run has been saved.
    """
    with joined(pick_device(config.device)) as device:
        run = Run(config, run_folder(config.run_dir), device)
        pick_threads(config.train.threads)
        first_does(lambda: _open_run(run))
        log = config.log
        trackers = make_trackers(log.trackers, run.folder, log.wandb_project) if rank() == 0 else []
        try:
            names: list[StageName] = [only] if only else config.train.stages
            for name in names:
                _run_stage(run, name, trackers)
        finally:
            for tracker in trackers:
                tracker.close()
    return run.model


def _open_run(run: Run) -> None:
    run_folder(run.model)
    _same_parts(run)
    with write_aside(run.folder / "config.json") as aside:
        aside.write_text(run.config.model_dump_json(indent=2) + "\n", encoding="utf-8")
    write_card(run.model, run.config)


def _same_parts(run: Run) -> None:
    """Refuse to go on with other parts than those of the stages that are done.

    Where the compact codec started from and how long an answer may be are free to change.
    """
    if not (run.model / "model.json").is_file() or not any(
        (run.folder / name / "done.json").exists() for name in STAGES
    ):
        return
    card, free = read_model_card(run.model), {"codec": {"path"} if run.config.codec.kind == "compact" else set()}
    free["llm"] = {"max_new_tokens"}
    before = _config_before(run)
    done = [name for stage, name in SHAPED_BY.items() if (run.folder / stage / "done.json").exists()]
    shapes = [(name, getattr(before, name)) for name in done]
    for name, there in [("codec", card.codec), ("llm", card.llm), *shapes]:
        wanted = getattr(run.config, name)
        old, new = there.model_dump(exclude=free.get(name)), wanted.model_dump(exclude=free.get(name))
        for key in (key for key in old if old[key] != new[key]):
            raise InputError(
                f"{run.folder}: stages are done with {name}.{key} {old[key]!r}, the configuration has {new[key]!r}; "
                "give another run_dir"
            )


def _config_before(run: Run) -> Config:
    """What the run was asked for the last time."""
    try:
        return check_config(parse_json(read_text(run.folder / "config.json")))
    except (OSError, ValueError):
        return run.config  # lost, or of an older version: nothing to compare with


def _run_stage(run: Run, name: StageName, trackers: list[Tracker]) -> None:
    """Train and publish one stage, unless it is done."""
    if name == "codec" and run.config.codec.kind != "compact" and not run.config.train.codec.finetune:
        _say("codec: EnCodec comes trained; the stage is passed over")
        return
    done = run.folder / name / "done.json"
    if done.exists():
        _check_inputs(run, name, _read_done(done))
        _say(f"{name}: done, not run again; give another run_dir to train anew")
        return
    seed_everything(run.config.train.seed)
    stage, publish = BUILDERS[name](run)
    inputs = _inputs(run, name)
    fit(stage, run.config.train, run_folder(run.folder / name), run.device, trackers, inputs)
    publish()
    first_does(lambda: _write_done(done, inputs))


def _inputs(run: Run, name: StageName) -> dict[str, str]:
    """Hashes of the weights that the stage is built on."""
    there = [part for part in BUILT_ON[name] if (run.model / f"{part}.json").is_file()]
    return {part: weights_hash(run.model, part) for part in there}


def _check_inputs(run: Run, name: StageName, then: dict[str, str]) -> None:
    changed = [part for part, digest in _inputs(run, name).items() if then.get(part, digest) != digest]
    if changed:
        raise InputError(
            f"{run.folder / name}: was trained with another {changed[0]} than that of {run.model}; delete it to train "
            f"{name} again, or give another run_dir"
        )


def _read_done(path: Path) -> dict[str, str]:
    try:
        return dict(json.loads(path.read_text(encoding="utf-8")))
    except (OSError, ValueError, TypeError, RecursionError):
        raise InputError(
            f"{path}: cannot be read; delete it, and the stage is published again from its checkpoints"
        ) from None


def _write_done(path: Path, inputs: dict[str, str]) -> None:
    with write_aside(path) as aside:
        aside.write_text(json.dumps(inputs, indent=1) + "\n", encoding="utf-8")


def _say(message: str) -> None:
    if rank() == 0:
        warn(message)
