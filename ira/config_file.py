"""YAML and dotted overrides in, one checked `Config` out.

Every mistake is reported at once with its dotted path and the nearest valid name.
"""

from __future__ import annotations

import difflib
import reprlib
import types
from collections.abc import Sequence
from pathlib import Path
from typing import Any, Union, get_args, get_origin

from pydantic import BaseModel, ValidationError

from ira.config import Config
from ira.errors import InputError
from ira.reading import parse_yaml, read_yaml


def load_config(path: str | Path, overrides: list[str] | None = None) -> Config:
    """Read `path` (YAML), apply `section.key=value` overrides, check everything.

    Raises:
        InputError: one message that lists every mistake, each with its dotted path.
    """
    raw, twice = read_yaml(Path(path))
    for item in overrides or []:
        _apply_override(raw, item)
    return check_config(raw, f"{path} with {' '.join(overrides)}" if overrides else str(path), twice)


def check_config(raw: dict[str, Any], source: str = "config", mistakes: Sequence[str] = ()) -> Config:
    """Validate a plain dict; `source` names it in messages, `mistakes` are those already found in it."""
    lines = list(mistakes)
    try:
        config = Config.model_validate(raw)
        if not lines:
            return config
    except ValidationError as error:
        lines += [_explain(e["loc"], e["msg"], e["type"], e.get("input")) for e in error.errors()]
    raise InputError(f"{source}: {len(lines)} mistake(s): " + "; ".join(lines))


def _apply_override(raw: dict[str, Any], item: str) -> None:
    dotted, equals, value = item.partition("=")
    if not equals or not dotted:
        raise InputError(f"override {item!r}: write section.key=value, for example train.seed=1")
    try:
        parsed, twice = parse_yaml(value)
    except ValueError:
        raise InputError(f"override {item!r}: the value is not valid YAML; quote it") from None
    if twice:
        raise InputError(f"override {item!r}: {twice[0]}")
    *parents, leaf = dotted.split(".")
    for name in parents:
        raw[name] = child = {} if raw.get(name) is None else raw[name]
        if not isinstance(child, dict):
            raise InputError(f"override {item!r}: {name} is a value, not a section")
        raw = child
    raw[leaf] = parsed


def _explain(loc: tuple[int | str, ...], message: str, kind: str, given: Any) -> str:
    dotted = ".".join(str(part) for part in loc) or "(top)"
    if kind == "extra_forbidden":
        near = difflib.get_close_matches(str(loc[-1]), _names_at(loc[:-1]), n=1, cutoff=0.4)
        return f"{dotted} is unknown" + (f", did you mean {near[0]}?" if near else "")
    try:
        shown = "" if isinstance(given, (dict, BaseModel)) else f" (given {reprlib.repr(given)})"
    except ValueError:  # Python does not print whole numbers of more than 4300 digits
        shown = " (given a number of thousands of digits)"
    return f"{dotted}: {message.removeprefix('Value error, ')}{shown}"


def _names_at(loc: tuple[int | str, ...]) -> list[str]:
    """Field names of the section at a dotted place, for the nearest valid name."""
    section: type[BaseModel] = Config
    for part in loc:
        field = section.model_fields.get(str(part))
        inner = _section_of(field.annotation) if field else None
        if inner is None:
            return []
        section = inner
    return list(section.model_fields)


def _section_of(annotation: Any) -> type[BaseModel] | None:
    options = get_args(annotation) if get_origin(annotation) in (Union, types.UnionType) else (annotation,)
    return next((o for o in options if isinstance(o, type) and issubclass(o, BaseModel)), None)
