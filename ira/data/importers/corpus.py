"""What every reader of a corpus gives: the recordings with what the corpus says of them, and its licence."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

from ira.errors import InputError


@dataclass(frozen=True)
class Recording:
    """One recording of a corpus; nothing about it has been checked yet.

    `name` is its place under audio_files/, such as `19/198/19_198_000000_000000.wav`; where `sound` gives the bytes of
    a file, the suffix is added once they are known. `part` is the corpus' own name for where it stands, `split` is
    train, val, test, or "" where the corpus leaves that open. `columns` go into the manifest unchanged.
    """

    name: str
    sound: Path | Callable[[], bytes]
    text: str
    speaker: str = ""
    part: str = ""
    split: str = ""
    columns: dict[str, Any] = field(default_factory=dict)


@dataclass(frozen=True)
class Corpus:
    """A corpus and the terms it is given under, in its own words; "" where it states none.

    `remarks` say what of it was passed over as a whole.
    """

    name: str
    licence: str
    url: str
    recordings: list[Recording]
    remarks: tuple[str, ...] = ()


def find_root(folder: Path, holds: Callable[[Path], bool], wanted: str) -> Path:
    """`folder`, or the one folder directly in it, of which `holds` is true: archives often unpack one level deeper.

    Raises:
        InputError: none or several of them; names `wanted` and what is there instead.
    """
    if not folder.is_dir():
        raise InputError(f"{folder}: no such folder; give the folder that the corpus was unpacked into")
    try:
        if holds(folder):
            return folder
        inside = sorted(folder.iterdir())
        found = [path for path in inside if path.is_dir() and holds(path)]
    except OSError as error:
        raise InputError(f"{folder}: cannot be read ({error.strerror}); see that you may read all of it") from None
    if len(found) == 1:
        return found[0]
    if found:
        raise InputError(f"{folder}: holds {', '.join(path.name for path in found[:5])}; give one of them")
    names = ", ".join(path.name + "/" * path.is_dir() for path in inside[:8]) or "nothing"
    more = f" and {len(inside) - 8} more" if len(inside) > 8 else ""
    raise InputError(f"{folder}: {wanted} is wanted, {names}{more} was found; give the folder of the unpacked corpus")


def read_text(path: Path) -> str:
    """A text file as one line; "" where there is none. Broken UTF-8 leaves a sign that is refused later."""
    try:
        return " ".join(path.read_text(encoding="utf-8-sig", errors="replace").split())
    except OSError:
        return ""


def read_lines(path: Path) -> list[str]:
    """Lines of a table, broken at newlines only: sentences may hold other signs that Python takes for line ends."""
    try:
        return path.read_text(encoding="utf-8-sig", errors="replace").split("\n")
    except OSError as error:
        raise InputError(f"{path}: cannot be read ({error.strerror}); unpack the corpus again") from None


def known(**columns: Any) -> dict[str, Any]:
    """The columns that say something."""
    return {name: value for name, value in columns.items() if value not in ("", None)}
