"""A number of kills in; whether killed trainings end with the very bytes of one that was left alone, out.

    python scripts/kill_train.py
    python scripts/kill_train.py --stages speech reinforce --kills 50 --seed 7
    python scripts/kill_train.py --processes 2 --kills 5

Trains every stage of a tiny journey in peace, then each again and again with SIGKILL at random moments, with a
checkpoint after every step. A run that comes to its end is compared (model folder, checkpoints, tokens, samples,
figures) and begun anew. Attempts are forked from a process that has imported everything, so that kills meet the work.
With `--processes 2` torchrun starts them, and one of the two is killed. Exit code 1 where anything differs. Posix only;
takes minutes.
"""

from __future__ import annotations

import argparse
import json
import multiprocessing
import os
import random
import shutil
import signal
import subprocess
import sys
import tempfile
import time
from collections import Counter
from collections.abc import Callable
from contextlib import suppress
from functools import partial
from pathlib import Path
from typing import Any, Protocol

import peft  # noqa: F401  before the fork, as everything that a stage imports on its way
import torch
from tokenizers import Tokenizer, models, pre_tokenizers
from transformers import LlamaForCausalLM, PreTrainedTokenizerFast  # noqa: F401

from ira.audio.waveform import SAMPLE_RATE, save_audio
from ira.config import STAGES, Config, StageName
from ira.config_file import check_config
from ira.training.journey import train

ANYWHERE = 0.25  # of the kills come at any moment; the others once a step has been made
PHASES = ("starting", "training", "checkpoint", "publishing")
# Figures of the machine: everything else has to come out the same.
CLOCK = ("time", "seconds", "tokens_per_second", "data_wait", "memory_gb", "share_of_peak")
LONGEST_END = 120  # seconds that a job may take to notice that one of its processes is gone


class Attempt(Protocol):
    """A stage at work, in one process or several."""

    def kill_after(self, ready: Callable[[], bool], seconds: float, chance: random.Random) -> bool: ...

    def join(self) -> int: ...


def main() -> int:
    parser = argparse.ArgumentParser(description=(__doc__ or "").partition("\n")[0])
    parser.add_argument("--kills", type=int, default=20, help="of each stage")
    parser.add_argument("--stages", nargs="+", choices=STAGES, default=list(STAGES))
    parser.add_argument("--steps", type=int, default=8)
    parser.add_argument("--processes", type=int, choices=(1, 2), default=1)
    parser.add_argument("--seed", type=int, default=0)
    parser.add_argument("--work", type=Path, help=argparse.SUPPRESS)  # one process of many: train here, and no more
    given = parser.parse_args()
    os.environ["TOKENIZERS_PARALLELISM"] = "false"
    torch.set_num_threads(1)
    if given.work:
        train_here(given.work, given.stages[0], given.steps)
        return 0
    with tempfile.TemporaryDirectory() as name:
        place = Path(name)
        record(place / "data" / "train", 8, 0)
        record(place / "data" / "val", 4, 2)
        make_tokenizer(place / "tokenizer")
        return show({stage: kill_stage(place, stage, given) for stage in leave_alone(place, given)})


def leave_alone(place: Path, given: argparse.Namespace) -> list[StageName]:
    """Every stage up to the last that is asked for, with the state before and after it; gives those asked for."""
    last = max(STAGES.index(stage) for stage in given.stages)
    for stage in STAGES[: last + 1]:
        copy(place / "work", place / "before" / stage)
        begun = time.monotonic()
        if start(place, stage, given).join():
            raise SystemExit(f"{stage} fails without being killed:\n{(place / 'log.txt').read_text()[-3000:]}")
        seconds = time.monotonic() - begun
        (place / f"{stage}.seconds").write_text(json.dumps([seconds, time.time() - times_logged(place, stage)[0]]))
        copy(place / "work", place / "after" / stage)
        print(f"{stage}: left alone {seconds:.1f} s", flush=True)
    return [stage for stage in STAGES if stage in given.stages]


def kill_stage(place: Path, stage: StageName, given: argparse.Namespace) -> Counter[str]:
    """Kill the stage `given.kills` times, and compare whenever it ends: how often what happened."""
    chance, tally = random.Random(f"{given.seed} {stage}"), Counter[str]()
    whole, at_work = json.loads((place / f"{stage}.seconds").read_text())
    copy(place / "before" / stage, place / "work")
    while tally["kills"] < given.kills or not tally["compared"]:
        lines = steps_logged(place, stage)
        attempt = start(place, stage, given)
        anywhere = chance.random() < ANYWHERE
        ready = partial(is_at_work, place, stage, len(lines), anywhere)
        seconds = chance.uniform(0, whole if anywhere else at_work)
        if tally["kills"] < given.kills and attempt.kill_after(ready, seconds, chance):
            met = phase(place, stage, given.steps, lines)
            tally.update(["kills", met])
            print(
                f"{stage}: kill {tally['kills']} met {met}, {len(steps_logged(place, stage))} steps logged", flush=True
            )
            continue
        failed = attempt.join()
        wrong = ["it failed: " + (place / "log.txt").read_text()[-2000:]] if failed else differences(place, stage)
        tally["compared"] += 1
        tally["different"] += bool(wrong)
        for line in wrong:
            print(f"{stage}: after {tally['kills']} kills: {line}", flush=True)
        copy(place / "before" / stage, place / "work")
    return tally


def show(tallies: dict[StageName, Counter[str]]) -> int:
    """The table, and the exit code."""
    names = ("kills", *PHASES, "compared", "different")
    print("".join(f"{name:>12}" for name in ("stage", *names)))
    for stage, tally in tallies.items():
        print(f"{stage:>12}" + "".join(f"{tally[name]:>12}" for name in names))
    different = sum(tally["different"] for tally in tallies.values())
    print("every byte as if left alone" if not different else f"{different} runs differ")
    return 1 if different else 0


# -- one attempt -------------------------------------------------------------------------------------------------------


def start(place: Path, stage: StageName, given: argparse.Namespace) -> Attempt:
    return Fork(place, stage, given.steps) if given.processes == 1 else Job(place, stage, given)


class Fork:
    """One process, forked from this one."""

    def __init__(self, place: Path, stage: StageName, steps: int) -> None:
        context = multiprocessing.get_context("fork")
        self.process = context.Process(target=train_here, args=(place, stage, steps))
        self.process.start()

    def kill_after(self, ready: Callable[[], bool], seconds: float, chance: random.Random) -> bool:
        """Whether the kill met a process that was still at work."""
        while self.process.is_alive() and not ready():
            time.sleep(0.002)
        self.process.join(seconds)
        self.process.kill()
        self.process.join()
        return self.process.exitcode == -signal.SIGKILL

    def join(self) -> int:
        self.process.join()
        return self.process.exitcode or 0


class Job:
    """Two processes of torchrun; each says when it has imported everything."""

    def __init__(self, place: Path, stage: StageName, given: argparse.Namespace) -> None:
        self.pids = place / "pids"
        shutil.rmtree(self.pids, ignore_errors=True)
        self.pids.mkdir()
        words = [sys.executable, "-m", "torch.distributed.run", "--standalone", "--nproc-per-node", "2", __file__]
        words += ["--work", place, "--stages", stage, "--steps", given.steps]
        with open(place / "log.txt", "a") as log:
            self.job = subprocess.Popen([*map(str, words)], stdout=log, stderr=log, start_new_session=True)
        while len(list(self.pids.glob("*"))) < 2 and self.job.poll() is None:
            time.sleep(0.02)

    def kill_after(self, ready: Callable[[], bool], seconds: float, chance: random.Random) -> bool:
        """Whether the kill of one of the two met a job at work, which then has to end by itself."""
        while self.job.poll() is None and not ready():
            time.sleep(0.002)
        try:
            self.job.wait(seconds)
            return False
        except subprocess.TimeoutExpired:
            with suppress(ProcessLookupError):  # it ended just now
                os.kill(int(chance.choice(sorted(self.pids.glob("*"))).name), signal.SIGKILL)
        return self.job.wait(LONGEST_END) != 0

    def join(self) -> int:
        return self.job.wait()


def train_here(place: Path, stage: StageName, steps: int) -> None:
    with open(place / "log.txt", "a") as log:
        os.dup2(log.fileno(), 1)
        os.dup2(log.fileno(), 2)
    if "RANK" in os.environ:
        (place / "pids" / str(os.getpid())).touch()
    train(configure(place, steps), stage)


# -- what it left behind -----------------------------------------------------------------------------------------------


def phase(place: Path, stage: StageName, steps: int, before: list[int]) -> str:
    """What the kill met, by what it left."""
    folder, logged = place / "work" / "run" / stage, steps_logged(place, stage)
    if any(folder.glob(".*.partial")):
        return "checkpoint"
    if (folder / f"step-{steps:08d}").exists():
        return "publishing"
    return "training" if len(logged) > len(before) else "starting"


def is_at_work(place: Path, stage: StageName, lines: int, anywhere: bool) -> bool:
    """Whether the clock of a kill may run: at once, or once a step has been logged."""
    return anywhere or len(steps_logged(place, stage)) > lines


def times_logged(place: Path, stage: StageName) -> list[float]:
    lines = (place / "work" / "run" / "metrics.jsonl").read_text().splitlines()
    return [line["time"] for line in map(json.loads, lines) if line["stage"] == stage]


def steps_logged(place: Path, stage: StageName) -> list[int]:
    path = place / "work" / "run" / "metrics.jsonl"
    lines = path.read_text().splitlines() if path.exists() else []
    return [line["step"] for line in map(whole_line, lines) if line.get("stage") == stage and "loss" in line]


def whole_line(line: str) -> dict[str, Any]:
    try:
        return json.loads(line)
    except ValueError:  # the last one, cut by the kill
        return {}


def differences(place: Path, stage: StageName) -> list[str]:
    """What is not as in the run that was left alone."""
    wanted, found = (contents(place / name) for name in (f"after/{stage}", "work"))
    names = sorted(name for name in wanted.keys() | found.keys() if wanted.get(name) != found.get(name))
    return [f"{name} differs" if name in wanted and name in found else f"{name} is there once" for name in names]


def contents(folder: Path) -> dict[str, Any]:
    """Every file by its name: bytes, or the figures of one that also holds the machine's."""
    found: dict[str, Any] = {}
    for path in sorted(folder.rglob("*")):
        name = str(path.relative_to(folder))
        if path.name == "metrics.jsonl":  # where a step stands twice, the later line counts
            lines = map(json.loads, path.read_text().splitlines())
            found |= {f"{name} {x['stage']} {x['step']} {'loss' in x}": without_clock(x) for x in lines}
        elif path.name == "state.json":
            note = json.loads(path.read_text())
            found[name] = {"inputs": note.get("inputs"), "progress": without_clock(note["progress"])}
        elif path.name.startswith("shard-") and path.suffix == ".safetensors":
            found[name] = header_and_bytes(path)
        elif path.is_file() and not path.name.startswith("."):  # hidden: cut off while it was written
            found[name] = path.read_bytes()
    return found


def header_and_bytes(path: Path) -> tuple[dict[str, Any], bytes]:
    """Of a safetensors file, whose header has its keys in another order in every process."""
    data = path.read_bytes()
    size = int.from_bytes(data[:8], "little")
    header = json.loads(data[8 : 8 + size])
    notes = {name: json.loads(note) if note[:1] == "{" else note for name, note in header["__metadata__"].items()}
    return {**header, "__metadata__": notes}, data[8 + size :]


def without_clock(figures: dict[str, Any]) -> dict[str, Any]:
    return {name: value for name, value in figures.items() if name not in CLOCK}


def copy(source: Path, target: Path) -> None:
    shutil.rmtree(target, ignore_errors=True)
    if source.exists():
        shutil.copytree(source, target)
    target.mkdir(parents=True, exist_ok=True)


# -- a tiny journey ----------------------------------------------------------------------------------------------------


def record(folder: Path, count: int, first: int) -> None:
    """A split folder with `count` recordings of tones by two speakers."""
    rows = []
    for i in range(count):
        moments = torch.arange(int((0.4 + 0.05 * (i % 4)) * SAMPLE_RATE)) / SAMPLE_RATE
        pitch = (140, 260)[i % 2] + 5 * i
        wave = sum(torch.sin(2 * torch.pi * pitch * h * moments) / h for h in (1, 2, 3))
        save_audio(folder / "audio_files" / f"{i}.wav", 0.2 * wave[None])  # type: ignore[index]
        gender = ("male", "female")[i % 2]
        row = {"audio_file": f"audio_files/{i}.wav", "text": "ab cd ef gh"[: 2 + i % 5], "speaker_id": first + i % 2}
        rows.append(row | {"gender": gender, "description": f"a {gender} tone"})
    (folder / f"{folder.name}.json").write_text(json.dumps(rows))


def make_tokenizer(folder: Path) -> None:
    """Bytes, and the words that ChatML is made of."""
    signs = ["<|endoftext|>", "<|im_start|>", "<|im_end|>"]
    vocabulary = {sign: i for i, sign in enumerate([*signs, *sorted(pre_tokenizers.ByteLevel.alphabet())])}
    core = Tokenizer(models.BPE(vocab=vocabulary, merges=[]))
    core.pre_tokenizer = pre_tokenizers.ByteLevel(add_prefix_space=False)  # type: ignore[assignment]
    special = {"bos_token": signs[1], "eos_token": signs[2], "pad_token": signs[2], "unk_token": signs[0]}
    PreTrainedTokenizerFast(tokenizer_object=core, **special).save_pretrained(folder)


def configure(place: Path, steps: int) -> Config:
    """Every part as small as it goes, dropout on, an LLM from scratch, a checkpoint after every step."""
    shared = {"steps": steps, "warmup_steps": 2, "validate_every": 3}
    stage = shared | {"batch_seconds": 2.0, "accumulation": 2}
    return check_config(
        {
            "run_dir": str(place / "work" / "run"),
            "device": "cpu",
            "codec": {
                "bandwidth_kbps": 1.5,
                "compact": {"width": 16, "encoder_layers": 1, "decoder_layers": 1, "mel_bins": 20, "codebooks": 3}
                | {"codebook_size": 16, "code_dim": 4},
            },
            "voice": {"mel_bins": 20, "hidden": 16, "dim": 8, "layers": 1, "heads": 2, "text_hidden": 16}
            | {"text_layers": 1, "crop_seconds": 0.3},
            "speech": {"layers": 2, "width": 16, "heads": 2, "max_steps": 400, "text_layers": 1}
            | {"codebook_weights": [2, 1]},
            "adapter": {"layers": 1, "queries": 2, "window_seconds": 1.0, "width": 16, "heads": 2, "mix_layers": 2},
            "llm": {"name": str(place / "tokenizer"), "lora": {"r": 2, "alpha": 4, "dropout": 0.1}, "max_new_tokens": 4}
            | {"fresh": {"hidden": 16, "layers": 2, "heads": 2, "intermediate": 32}},
            "data": {"train": [str(place / "data" / "train")], "val": [str(place / "data" / "val")]}
            | {"shards": str(place / "work" / "shards"), "max_seconds": 5.0},
            "train": {
                **{name: stage for name in ("codec", "voice", "speech")},
                "align": stage | {"teacher_responses": 4, "response_tokens": 6},
                "reinforce": shared | {"rollouts": 4, "epochs": 1, "response_tokens": 4},
                "checkpoint_minutes": 1e-9,
                "threads": 1,
            },
            "log": {"trackers": []},
        }
    )


if __name__ == "__main__":
    sys.exit(main())
