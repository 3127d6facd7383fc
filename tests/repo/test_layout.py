"""The house keeps its shape: small files, plain folders, nothing unpickled, layers that import downwards."""

from __future__ import annotations

import ast
from collections.abc import Iterator
from pathlib import Path

import pytest

ROOT = Path(__file__).parents[2]
PRODUCT = sorted((ROOT / "ira").rglob("*.py"))
SOURCES = [*PRODUCT, ROOT / "main.py"]
TESTS = sorted((ROOT / "tests").rglob("*.py"))


def ids(path: Path) -> str:
    return str(path.relative_to(ROOT))


def tree(path: Path) -> ast.Module:
    return ast.parse(path.read_text(encoding="utf-8"), filename=str(path))


def imported(path: Path) -> set[str]:
    """Top names of every import, wherever it stands in the file."""
    found = set()
    for node in ast.walk(tree(path)):
        if isinstance(node, ast.Import):
            found |= {alias.name.split(".")[0] for alias in node.names}
        elif isinstance(node, ast.ImportFrom) and node.module:
            found.add(node.module.split(".")[0])
    return found


def calls(path: Path) -> Iterator[tuple[str, ast.Call]]:
    for node in ast.walk(tree(path)):
        if isinstance(node, ast.Call):
            yield ast.unparse(node.func), node


def test_there_is_something_to_look_at():
    assert len(PRODUCT) > 10 and len(TESTS) > 10


@pytest.mark.parametrize("path", [p for p in PRODUCT if p.name == "__init__.py"], ids=ids)
def test_a_folder_opens_with_a_docstring_and_nothing_else(path: Path):
    body = tree(path).body
    assert ast.get_docstring(tree(path))
    rest = [ast.unparse(node) for node in body[1:]]
    allowed = path == ROOT / "ira" / "__init__.py" and len(rest) == 1 and rest[0].startswith("__version__ = ")
    assert not rest or allowed


def test_every_folder_with_code_is_a_package():
    assert {p.parent for p in PRODUCT} == {p.parent for p in PRODUCT if p.name == "__init__.py"}


@pytest.mark.parametrize("path", SOURCES, ids=ids)
def test_a_file_says_what_goes_in_and_out_and_stays_short(path: Path):
    assert ast.get_docstring(tree(path))
    assert len(path.read_text(encoding="utf-8").splitlines()) <= 400


@pytest.mark.parametrize("path", SOURCES, ids=ids)
def test_nothing_from_outside_is_unpickled_and_no_foreign_code_is_run(path: Path):
    for name, call in calls(path):
        given = {keyword.arg: ast.unparse(keyword.value) for keyword in call.keywords}
        assert given.get("trust_remote_code", "False") == "False"
        if name == "torch.load":
            assert given.get("weights_only") == "True"
        if name in ("np.load", "numpy.load"):
            assert given.get("allow_pickle", "False") == "False"
        assert name not in ("eval", "exec", "yaml.load", "yaml.unsafe_load", "yaml.full_load")


@pytest.mark.parametrize("path", SOURCES, ids=ids)
def test_pickle_stays_where_it_cannot_meet_a_file(path: Path):
    allowed = {
        "ira/checkpoint.py": {"pickle.UnpicklingError"},  # the error that weights-only loading raises
        "ira/data/workers.py": {"pickle.dumps", "pickle.loads"},  # to its own worker processes, never to disk
    }
    used = {ast.unparse(node) for node in ast.walk(tree(path)) if isinstance(node, ast.Attribute)}
    assert {name for name in used if name.startswith("pickle.")} <= allowed.get(ids(path), set())
    assert not {"dill", "joblib", "marshal", "shelve", "cloudpickle"} & imported(path)
    assert "pickle" not in imported(path) or ids(path) in allowed


@pytest.mark.parametrize("path", SOURCES, ids=ids)
def test_a_name_says_what_a_file_is_for(path: Path):
    assert not any(word in path.stem for word in ("util", "helper", "common", "manager", "wrapper", "misc"))


def test_tests_stand_where_their_subject_stands():
    subjects = {p.relative_to(ROOT / "ira").with_suffix("") for p in PRODUCT}
    folders = {subject.parent for subject in subjects}
    beside = {Path("parity"), Path("hostile"), Path("repo"), Path("training/ranks")}  # about more than one file
    assert {p.relative_to(ROOT / "tests").parent for p in TESTS} <= folders | beside
    assert not [p for p in TESTS if p.name == "__init__.py"]


@pytest.mark.parametrize("path", [p for p in TESTS if p.name.startswith("test_")], ids=ids)
def test_every_test_file_can_fail(path: Path):
    source = path.read_text(encoding="utf-8")
    assert "assert" in source or "pytest.raises" in source
