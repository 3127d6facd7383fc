"""What a verb of the command line has to say in; lines on stdout and stderr, and an exit code, out."""

from __future__ import annotations

from collections.abc import Callable, Iterable, Iterator, Sequence
from contextlib import contextmanager
from typing import TYPE_CHECKING, Any

import typer
from typer._click.exceptions import UsageError
from typer.core import TyperGroup

from ira.errors import InputError

if TYPE_CHECKING:
    from ira.inference.batch import Done


class Verbs(TyperGroup):
    """Turns input that cannot be used, and wrong options, into one line on stderr and exit code 2."""

    def invoke(self, ctx: Any) -> Any:
        try:
            return super().invoke(ctx)
        except InputError as error:
            message = " ".join(str(error).split())
        except UsageError as error:
            path = error.ctx.command_path if error.ctx else ctx.command_path
            message = f"{error.format_message().rstrip('.')}; see {path} --help"
        warn(message)
        raise typer.Exit(2)


def warn(message: str) -> None:
    """One line to the user, on stderr."""
    typer.echo(f"ira: {message}", err=True)


def print_table(rows: Sequence[tuple[Any, Any]]) -> None:
    """Names and values in two columns, on stdout."""
    width = max(len(str(name)) for name, _ in rows)
    for name, value in rows:
        typer.echo(f"{name!s:<{width}}  {value}")


def report_rows(done: Iterable[Done]) -> int:
    """The files written on stdout, what went wrong on stderr; 1 where a row failed, else 0."""
    failed = total = 0
    for row in done:
        total, failed = total + 1, failed + row.failed
        if row.message:
            warn(f"{row.name}: {row.message}")
        if row.file:
            typer.echo(row.file)
    if failed:
        warn(f"{failed} of {total} rows failed")
    return 1 if failed else 0


@contextmanager
def progress(what: str) -> Iterator[Callable[[int], None]]:
    """A line on stderr, on a terminal only, that counts."""
    from rich.console import Console

    with Console(stderr=True).status(f"{what} ...") as status:
        yield lambda done: status.update(f"{what} ... {done}")
