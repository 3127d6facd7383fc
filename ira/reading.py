"""A file from outside in; its text, or the JSON or YAML in a text, out: never unbounded, never half understood."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

import yaml

from ira.errors import InputError

LONGEST_TEXT, LONGEST_YAML = 1 << 24, 1 << 16  # bytes, of which PyYAML reads less than a megabyte in ten seconds


def read_text(path: Path, most: int = LONGEST_TEXT) -> str:
    """UTF-8 text, with or without a byte-order mark.

    Raises:
        OSError: the file cannot be read.
        ValueError: it is not UTF-8, or longer than `most` bytes, of which no more are read.
    """
    with open(path, "rb") as file:
        content = file.read(most + 1)
    if len(content) > most:
        raise ValueError(f"longer than {most} bytes")
    try:
        return content.decode("utf-8-sig")
    except UnicodeDecodeError as error:
        raise ValueError(f"not UTF-8 text: byte {error.start} is {content[error.start]:#04x}") from None


def parse_json(text: str) -> Any:
    """The value of a JSON text.

    Raises:
        ValueError: not JSON; or what parsers do not agree on: a key given twice, NaN, infinity, thousands of brackets.
    """
    try:
        return json.loads(text, object_pairs_hook=_each_key_once, parse_constant=_refuse)
    except RecursionError:
        raise ValueError("brackets within brackets, too deep to read") from None


def _each_key_once(pairs: list[tuple[str, Any]]) -> dict[str, Any]:
    made = dict(pairs)
    if len(made) < len(pairs):
        twice = next(key for number, (key, _) in enumerate(pairs) if key in dict(pairs[:number]))
        raise ValueError(f"key {twice[:40]!r} is given twice")
    return made


def _refuse(word: str) -> None:
    raise ValueError(f"{word} is not JSON")


def read_yaml(path: Path) -> tuple[dict[str, Any], list[str]]:
    """The mapping in a YAML file, and a line for each key given twice.

    Raises:
        InputError: not a file of a mapping in YAML.
    """
    try:
        text = read_text(path, LONGEST_YAML)
    except (OSError, ValueError) as error:
        raise InputError(f"{path}: cannot be read ({error}); give a YAML file such as configs/tiny.yaml") from None
    try:
        raw, twice = parse_yaml(text)
    except ValueError as error:
        raise InputError(f"{path}: not valid YAML ({error}); correct it") from None
    raw = {} if raw is None else raw
    if not isinstance(raw, dict):
        raise InputError(f"{path}: holds a {type(raw).__name__}, a mapping of sections is wanted")
    return raw, twice


def parse_yaml(text: str) -> tuple[Any, list[str]]:
    """The value of a YAML text, and a line for each key given twice: plain YAML keeps the last one without a word.

    Raises:
        ValueError: not YAML, or a value that is none (the 30th of February); or it has aliases.
    """
    try:
        loader = _Loader(text)
        node = loader.get_single_node()
        return None if node is None else loader.construct_document(node), _given_twice(node, "")
    except RecursionError:
        raise ValueError("brackets within brackets, too deep to read") from None
    except (yaml.YAMLError, ValueError, OverflowError, TypeError, AttributeError) as error:
        raise ValueError(" ".join(str(error).split())[:200]) from None


class _Loader(yaml.SafeLoader):
    """Without aliases: ten lines of them, each of the one before, spell out more than any memory holds."""

    def compose_node(self, parent: yaml.Node | None, index: int) -> yaml.Node | None:
        if self.check_event(yaml.AliasEvent):
            raise yaml.YAMLError("aliases (*name) are not read, write the value out")
        return super().compose_node(parent, index)


def _given_twice(node: yaml.Node | None, dotted: str) -> list[str]:
    if isinstance(node, yaml.SequenceNode):
        return [line for number, item in enumerate(node.value) for line in _given_twice(item, f"{dotted}.{number}")]
    if not isinstance(node, yaml.MappingNode):
        return []
    found, seen = [], set()
    for key, value in node.value:
        name = f"{dotted}.{key.value}".removeprefix(".")
        if name in seen:
            found.append(f"{name} is given twice (line {key.start_mark.line + 1}), keep one")
        seen.add(name)
        found += _given_twice(value, name)
    return found
