"""The texts that the ears are given to learn from: what they say they ask is what their words ask."""

from __future__ import annotations

import importlib.util
import json
import re
from pathlib import Path
from typing import Any

import pytest
from typer.testing import CliRunner

from ira.data.tasks import tasks_of
from ira.data.text import normalize

SCRIPT = Path(__file__).resolve().parents[2] / "scripts" / "ears_texts.py"


@pytest.fixture(scope="module")
def rows(tmp_path_factory: pytest.TempPathFactory) -> list[dict[str, Any]]:
    return [json.loads(line) for line in written(tmp_path_factory.mktemp("texts"), "--seed", "3").splitlines()]


def written(folder: Path, *options: str) -> str:
    import typer

    spec = importlib.util.spec_from_file_location("ears_texts", SCRIPT)
    assert spec and spec.loader
    module = importlib.util.module_from_spec(spec)
    spec.loader.exec_module(module)
    app = typer.Typer()
    app.command()(module.main)
    few = ["--orders", "60", "--numbers", "30", "--sentences", "40", *options]
    done = CliRunner().invoke(app, [str(folder / "texts.jsonl"), *few])
    assert done.exit_code == 0, done.output
    return (folder / "texts.jsonl").read_text(encoding="utf-8")


def test_the_same_seed_writes_the_same_lines_and_another_others(tmp_path: Path):
    first = written(tmp_path, "--seed", "1")
    assert written(tmp_path, "--seed", "1") == first != written(tmp_path, "--seed", "2")


def test_no_text_comes_twice_and_all_can_be_spoken(rows: list[dict[str, Any]]):
    texts = [row["text"] for row in rows]
    assert len(set(texts)) == len(texts)
    for text in texts:
        normalize(text, "en")


def test_an_order_says_each_of_its_slots(rows: list[dict[str, Any]]):
    orders = [row for row in rows if "slots" in row]
    assert len(orders) > 50 and all(value in row["text"] for row in orders for value in row["slots"].values())


def test_no_article_stands_before_the_wrong_sound(rows: list[dict[str, Any]]):
    assert not [row["text"] for row in rows if re.search(r"\ba [aeiou]", row["text"])]


def test_each_kind_poses_the_task_that_it_is_meant_for(rows: list[dict[str, Any]]):
    posed = [(row, {task.name for task in tasks_of(row["text"], row, "en")}) for row in rows]
    assert all(("question" in names) == ("answer" in row) for row, names in posed)
    assert all(("command" in names) == ("slots" in row) for row, names in posed)
    assert sum("spelling" in names for _, names in posed) >= 25
