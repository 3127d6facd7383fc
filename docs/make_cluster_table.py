"""The formula of `ira.training.estimate` in, the table of `docs/cluster.md` out.

python docs/make_cluster_table.py            writes the table into the page
python docs/make_cluster_table.py --check    exit code 1 where the table is out of date
"""

from __future__ import annotations

import sys
from pathlib import Path

from ira.config import Config, StageName
from ira.config_file import load_config
from ira.training.dry_run import operations
from ira.training.estimate import Batch, expected_batch, stage_memory
from ira.training.parts import Parts, build_parts

ROOT = Path(__file__).resolve().parents[1]
PAGE = Path(__file__).with_name("cluster.md")
START, END = "<!-- table: docs/make_cluster_table.py -->\n", "<!-- end of table -->\n"
SECONDS = 8.0  # of a recording
STAGES: tuple[StageName, ...] = ("voice", "speech", "align", "reinforce")
WAYS = (("ddp", False), ("ddp", True), ("fsdp", False), ("fsdp", True))
RATE, SHARE = 312e12, 0.4  # operations a second of an A100 in bf16, and what training reaches of it
HEAD = """| Stage | Micro-batch | 1 process | again | 8, `ddp` | again | 8, `fsdp` | again | Days on one A100 |
|---|---|---|---|---|---|---|---|---|
"""


def table() -> str:
    config = load_config(ROOT / "configs" / "train_config.yaml")
    parts = build_parts(config)
    return HEAD + "".join(_row(config, name, parts) for name in STAGES)


def page() -> str:
    """The page with its table made anew."""
    before, _, rest = PAGE.read_text(encoding="utf-8").partition(START)
    return before + START + table() + END + rest.partition(END)[2]


def _row(config: Config, name: StageName, parts: Parts) -> str:
    batch = expected_batch(config, name, SECONDS)
    alone = [_memory(config, name, parts, batch, "ddp", again, 1) for again in (False, True)]
    eight = [_memory(config, name, parts, batch, way, again, 8) for way, again in WAYS]
    settings = getattr(config.train, name)
    work = operations(config, name, parts, batch) * settings.steps * settings.accumulation
    days = work / (RATE * SHARE) / 86_400
    cells = (f"`{name}`", f"{batch.rows} x {batch.frames / 75:g} s", *alone, *eight, f"{days:.1f}")
    return f"| {' | '.join(cells)} |\n"


def _memory(config: Config, name: StageName, parts: Parts, batch: Batch, way: str, again: bool, processes: int) -> str:
    train = config.train.model_copy(update={"parallel": way, "activation_checkpointing": again})
    chosen = config.model_copy(update={"train": train})
    return f"{stage_memory(chosen, name, parts, batch, processes, cuda=True).peak / 1e9:.1f}"


if __name__ == "__main__":
    made = page()
    if "--check" in sys.argv[1:]:
        sys.exit(PAGE.read_text(encoding="utf-8") != made)
    PAGE.write_text(made, encoding="utf-8")
