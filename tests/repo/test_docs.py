"""The pages in docs/ agree with the code: keys, defaults, parameter counts, file names, links, examples."""

from __future__ import annotations

import importlib.util
import json
import re
from pathlib import Path
from types import ModuleType
from xml.etree import ElementTree

import pytest

from ira.config import Config

ROOT = Path(__file__).parents[2]
DOCS = ROOT / "docs"
PAGES = sorted(DOCS.glob("*.md"))
EXPECTED = {"architecture", "cluster", "configuration", "data", "decisions", "log", "training", "voices"}


def ids(path: Path) -> str:
    return path.name


def module(path: Path) -> ModuleType:
    """A Python file outside any package."""
    spec = importlib.util.spec_from_file_location(path.stem, path)
    assert spec is not None and spec.loader is not None
    made = importlib.util.module_from_spec(spec)
    spec.loader.exec_module(made)
    return made


def text(path: Path) -> str:
    return path.read_text(encoding="utf-8")


def blocks(path: Path, language: str) -> list[str]:
    """Fenced code blocks of one language."""
    return re.findall(rf"^```{language}\n(.*?)^```", text(path), flags=re.MULTILINE | re.DOTALL)


def names(section: type) -> set[str]:
    """Dotted names of all sections and keys."""
    parts = module(DOCS / "make_configuration.py").sections(section)
    return {f"{name}.{key}".removeprefix(".") for name, part in parts for key in part.model_fields}


def test_every_page_is_there():
    assert {page.stem for page in PAGES} >= EXPECTED


def test_the_configuration_page_is_what_the_script_writes():
    writer = module(DOCS / "make_configuration.py")
    assert writer.page() == text(DOCS / "configuration.md"), "run python docs/make_configuration.py"


def test_the_configuration_page_explains_every_key():
    rows = re.findall(r"^\| `([\w.]+)` \|(.*)\|$", text(DOCS / "configuration.md"), flags=re.MULTILINE)
    explained = {key: cells.rsplit("|", 1)[-1].strip() for key, cells in rows if cells.count("|") == 3}
    sections = {key.rpartition(".")[0] for key in names(Config)}
    assert names(Config) - sections <= set(explained)
    assert not [key for key, meaning in explained.items() if not meaning]


def test_the_stated_parameter_counts_are_those_that_are_tested():
    stated = module(ROOT / "tests" / "test_shipped_configs.py").STATED
    rows = re.findall(r"^\| `(\w+)` \|((?: [\d.]+ \|){6})$", text(DOCS / "configuration.md"), flags=re.MULTILINE)
    shown = {name: [float(cell) for cell in cells.split("|") if cell.strip()] for name, cells in rows}
    order = ("codec", "voice", "speech", "adapter", "llm", "lora")
    assert shown == {name: [counts[part] for part in order] for name, counts in stated.items()}


@pytest.mark.parametrize("page", PAGES, ids=ids)
def test_every_key_that_a_page_names_exists(page: Path):
    known = names(Config)
    tops = "|".join(sorted({key.split(".")[0] for key in known if "." in key}))
    named = set(re.findall(rf"(?<![\w/.*])((?:{tops})(?:\.[a-z_]+)+)(?![\w/*.]*\()", text(page)))
    files = {"json", "safetensors", "md", "pt", "jsonl"}
    unknown = {name for name in named if name not in known and name.rsplit(".", 1)[-1] not in files}
    assert unknown == set()


@pytest.mark.parametrize("page", PAGES, ids=ids)
def test_every_file_and_module_that_a_page_names_exists(page: Path):
    paths = re.findall(r"`((?:ira|configs|tests|docs|benchmarks)/[\w/.-]+\.\w+)(?:::\w+)?`", text(page))
    missing = [path for path in paths if "NAME" not in path and not (ROOT / path).exists()]
    modules = re.findall(r"`(ira(?:\.[a-z_]+)+)`", text(page))
    for name in modules:
        place = ROOT.joinpath(*name.split("."))
        missing += [] if place.is_dir() or place.with_suffix(".py").is_file() else [name]
    assert missing == []


@pytest.mark.parametrize("page", PAGES, ids=ids)
def test_every_link_leads_somewhere(page: Path):
    targets = re.findall(r"\]\((?!https?://)([^)#]*)#?[^)]*\)", text(page))
    assert [target for target in targets if target and not (DOCS / target).exists()] == []


@pytest.mark.parametrize("page", PAGES, ids=ids)
def test_every_json_example_is_json(page: Path):
    for block in blocks(page, "json"):
        json.loads(block)


def test_the_picture_is_whole():
    picture = ElementTree.parse(DOCS / "architecture.svg").getroot()
    assert picture.tag.endswith("svg") and "architecture.svg" in text(DOCS / "architecture.md")
    words = " ".join(picture.itertext())
    assert all(part in words for part in ("SpeechLM", "Codec", "Adapter", "LLM", "Voice encoder"))
