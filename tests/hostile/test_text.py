"""Words of any script and no script at all: what is normalised, described, named, and shown to the user."""

from __future__ import annotations

import json
from typing import Any

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from ira.data.text import ALPHABET, CharTokenizer, normalize
from ira.errors import LONGEST, InputError, one_line
from ira.inference.sentences import LONGEST_PIECE, cut_text
from ira.reading import parse_json, parse_yaml

steady = settings(derandomize=True, database=None, deadline=None, max_examples=150)
ODD = [
    "\u202e",
    "\u200d",
    "\u0301" * 50,
    "\U0001f600",
    "\0",
    "\x1b[2J",
    "\ud800",
    "９９",
    "٣",
    "Ⅷ",
    "½",
    "ﬁ",
    "İ",
    "1" * 90,
]
words = st.text(max_size=60) | st.lists(st.sampled_from([*ODD, "a", " ", "7", ".", ",", "-", "$", "1.5", ":"])).map(
    "".join
)
values = st.recursive(
    st.none() | st.booleans() | st.integers() | st.floats() | words,
    lambda inner: st.lists(inner, max_size=4) | st.dictionaries(words, inner, max_size=4),
    max_leaves=8,
)


@steady
@given(words, st.sampled_from(["en", "de", "nl", "fr", "", "\0"]) | words)
def test_any_text_is_speakable_or_refused_in_one_line(text: str, language: str):
    kept = normalize(text, language, strict=False)
    assert set(kept) <= set(ALPHABET) and CharTokenizer().encode(kept)
    assert all(len(cut.text) <= LONGEST_PIECE for cut in cut_text(kept, language))
    try:
        assert set(normalize(text, language)) <= set(ALPHABET)
    except InputError as error:
        assert str(error).isprintable()


@pytest.mark.parametrize("text", ["1" * 20_000, "1,000" * 4_000, "a" * 200_000, "- " * 50_000, "\u0301" * 50_000, "1:1" * 5_000, "$1" * 5_000, "." * 50_000])  # fmt: skip  # noqa: E501
def test_a_text_of_many_pages_takes_seconds_not_hours(survive: Any, text: str):
    for language in ("en", "de"):
        survive(text[:9], lambda language=language: normalize(text, language, strict=False))


@steady
@given(words)
def test_whatever_is_given_is_shown_in_one_line_that_moves_no_cursor(text: str):
    shown = one_line(text)
    assert shown.isprintable() and one_line(shown) == shown
    assert str(InputError(f"{text}: bad; mend it")).isprintable()
    shown.encode()  # no half of a surrogate pair is left


def test_a_long_message_keeps_its_start_and_its_remedy():
    line = str(InputError(f"start {'x' * 100_000}; mend it"))
    assert line.startswith("start") and line.endswith("mend it") and len(line) < LONGEST + 10


@steady
@given(values)
def test_json_and_yaml_of_any_value_are_read_or_refused(value: Any):
    text = json.dumps(value)
    for parse in (parse_json, parse_yaml):
        try:
            parse(text)
        except ValueError as error:
            assert len(str(error)) < 400


@steady
@given(words)
def test_text_that_is_no_json_is_refused(text: str):
    for parse in (parse_json, parse_yaml):
        try:
            parse(text)
        except ValueError as error:
            assert len(str(error)) < 400


@pytest.mark.parametrize("text", ['{"a": 1, "a": 2}', '[{"b": {"a": 1, "a": 1}}]', "NaN", "[-Infinity]", "[" * 100_000])
def test_what_parsers_do_not_agree_on_is_refused(text: str):
    with pytest.raises(ValueError):
        parse_json(text)
