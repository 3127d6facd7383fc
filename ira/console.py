"""What a verb of the command line has to say in; lines on stdout and stderr, and an exit code, out."""

from __future__ import annotations

import io
import os
import sys
import time
from collections.abc import Callable, Iterable, Iterator, Sequence
from contextlib import contextmanager
from typing import TYPE_CHECKING, Any

import typer
from typer._click.exceptions import UsageError
from typer.core import TyperGroup

from ira.errors import InputError, one_line

if TYPE_CHECKING:
    from ira.inference.batch import Done


# Seconds that other processes keep a failure to themselves: where the first one fails alike, torchrun has ended them by
# then, and one line stands instead of one for each.
TOLD_BY_THE_FIRST = 5.0


class Verbs(TyperGroup):
    """Turns input that cannot be used, and wrong options, into one line on stderr and exit code 2."""

    def invoke(self, ctx: Any) -> Any:
        if isinstance(sys.stdout, io.TextIOWrapper):
            sys.stdout.reconfigure(errors="surrogateescape")  # a file name that is not UTF-8 is printed as it is
        try:
            return super().invoke(ctx)
        except InputError as error:
            message = str(error)
        except BrokenPipeError:
            raise  # whoever read our output has gone; click ends quietly
        except (OSError, MemoryError) as error:  # of the machine: the disk is full, a name too long, memory too small
            message = (
                f"{str(error) or type(error).__name__}; check the paths given, the room on the disk and the memory"
            )
        except UsageError as error:
            path = error.ctx.command_path if error.ctx else ctx.command_path
            message = f"{error.format_message().rstrip('.')}; see {path} --help"
        except RuntimeError as error:
            if not _other_process() or "closed by peer" not in str(error) and "reset by peer" not in str(error):
                raise
            message = "another process ended; what it said tells why"
        if other := _other_process():
            time.sleep(TOLD_BY_THE_FIRST)
            message = f"process {other}: {message}"
        warn(message)
        raise typer.Exit(2)


def _other_process() -> int:
    """This process's number where torchrun started it and it is not the first, else 0."""
    return int(os.environ.get("RANK", "0"))


def say(result: object) -> None:
    """A verb's result, on stdout; of many processes the first one says it."""
    if not _other_process():
        typer.echo(result)


def warn(message: str) -> None:
    """One line to the user, on stderr."""
    typer.echo(f"ira: {one_line(message)}", err=True)


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
    """A line on stderr, on a terminal only, that counts; of many processes the first one shows it."""
    from rich.console import Console

    with Console(stderr=True, quiet=_other_process() > 0).status(f"{what} ...") as status:
        yield lambda done: status.update(f"{what} ... {done}")


@contextmanager
def time_left(what: str) -> Iterator[Callable[[int, int], None]]:
    """A bar on stderr, on a terminal only, that takes (done, of how many) and says how long the rest will take."""
    from rich.console import Console
    from rich.progress import BarColumn, MofNCompleteColumn, Progress, TextColumn, TimeRemainingColumn

    console = Console(stderr=True)
    columns = (TextColumn("{task.description}"), BarColumn(), MofNCompleteColumn(), TimeRemainingColumn())
    with Progress(*columns, console=console, disable=not console.is_terminal, transient=True) as bar:
        task = bar.add_task(what, total=None)
        yield lambda done, total: bar.update(task, completed=done, total=total)
