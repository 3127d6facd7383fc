from __future__ import annotations

import pytest
import typer
from typer.testing import CliRunner

from ira.console import Verbs, print_table, progress
from ira.errors import InputError

app = typer.Typer(cls=Verbs, rich_markup_mode=None)


@app.command()
def fail(message: str, count: int = 1) -> None:
    raise InputError(message)


@app.command()
def other() -> None:
    raise RuntimeError("a defect of ours")


@pytest.mark.parametrize(
    "args", [["fail", "two\nlines"], ["fail"], ["fail", "x", "--count", "y"], ["fial"], ["fail", "x", "-z"]]
)
def test_bad_input_and_wrong_options_are_one_line_and_exit_code_two(args: list[str]):
    result = CliRunner().invoke(app, args)
    assert result.exit_code == 2
    assert result.stdout == ""
    assert len(result.stderr.splitlines()) == 1 and result.stderr.startswith("ira: ")


def test_a_defect_is_not_hidden():
    result = CliRunner().invoke(app, ["other"])
    assert isinstance(result.exception, RuntimeError)


def test_a_table_has_its_values_below_one_another(capsys: pytest.CaptureFixture[str]):
    print_table([("a", 1), ("longer", "two")])
    assert capsys.readouterr().out == "a       1\nlonger  two\n"


def test_progress_leaves_stdout_alone(capsys: pytest.CaptureFixture[str]):
    with progress("working") as count:
        count(3)
    assert capsys.readouterr().out == ""
