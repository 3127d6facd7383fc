"""Spoken text and its ids."""

from __future__ import annotations

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from ira.data.text import ALPHABET, CharTokenizer, normalize
from ira.errors import InputError


@pytest.mark.parametrize(
    ("language", "written", "spoken"),
    [
        ("en", "It’s  “fine” — really…", 'it\'s "fine" - really...'),
        ("en", "  A\tB\nC\u200b\u00ad d ", "a b c d"),
        ("en", "Straße, Größe!", "straße, größe!"),
        ("en", "Dvořák’s café", "dvorák's café"),
        ("en", "in 1984, 2010 and 2005", "in nineteen eighty-four, twenty ten and two thousand and five"),
        ("en", "1,234.50", "one thousand two hundred and thirty-four point five zero"),
        ("en", "the 21st of 3", "the twenty-first of three"),
        ("en", "call 0612345678", "call zero six one two three four five six seven eight"),
        ("en", "12345678", "one two three four five six seven eight"),
        ("en", "at 7:30 it is -3°", "at seven thirty it is minus three degrees"),
        ("en", "$3 & £1 + 50%", "three dollars and one pound plus fifty percent"),
        ("en", "4K x2", "four k x two"),
        ("en", "10-15", "ten-fifteen"),
        ("de", "Anfang 2001 verkauft .", "anfang zweitausendeins verkauft."),
        ("de", "1.234,5 €", "eintausendzweihundertvierunddreißig komma fünf euro"),
        ("de", "„Zitat“ »auch«", '"zitat" "auch"'),
        ("nl", "de 3e keer 21", "de derde keer eenentwintig"),
        ("de-AT", "5", "fünf"),
        ("fr", "Ça va, œuvre", "ça va, oeuvre"),
        ("en", "", ""),
    ],
)
def test_text_is_written_as_it_is_spoken(language, written, spoken):
    assert normalize(written, language) == spoken


@pytest.mark.parametrize(
    ("language", "written", "named"),
    [
        ("en", "hi 😀", "GRINNING FACE"),
        ("en", "привет", "CYRILLIC SMALL LETTER PE"),
        ("fr", "5 francs", "write the number in words"),
        ("en", "a\x00b", "x00"),
        ("en", "**bold**", "ASTERISK"),
        ("en", "\ud800", "ud800"),
    ],
)
def test_a_character_that_cannot_be_spoken_is_named_or_left_out_if_asked(language, written, named):
    with pytest.raises(InputError, match=named):
        normalize(written, language)
    assert set(normalize(written, language, strict=False)) <= set(ALPHABET)


def test_leaving_out_keeps_the_rest():
    assert normalize("**Well** 😀, ok!", strict=False) == "well, ok!"


@settings(max_examples=200, deadline=None)
@given(st.text(max_size=40), st.sampled_from(["en", "de", "nl", "fr"]))
def test_any_text_at_all_becomes_speakable_once_and_for_all(written, language):
    spoken = normalize(written, language, strict=False)
    assert set(spoken) <= set(ALPHABET)
    assert normalize(spoken, language) == spoken
    tokenizer = CharTokenizer()
    assert tokenizer.decode(tokenizer.encode(spoken)) == spoken


def test_ids_end_with_the_end_and_padding_is_left_out():
    tokenizer = CharTokenizer()
    ids = tokenizer.encode("hi")
    assert ids[-1] == tokenizer.end and tokenizer.encode("") == [tokenizer.end]
    assert tokenizer.decode([*ids, 0, 0]) == "hi" and tokenizer.decode([*ids, *ids]) == "hi"
    every = tokenizer.encode(ALPHABET)
    assert sorted(every) == list(range(1, tokenizer.vocab_size))


def test_encoding_refuses_a_character_outside_the_alphabet_by_name():
    with pytest.raises(InputError, match="'H'"):
        CharTokenizer().encode("Hi")


def test_the_fingerprint_follows_the_alphabet(monkeypatch):
    before = CharTokenizer().fingerprint()
    assert before == CharTokenizer().fingerprint()
    monkeypatch.setattr("ira.data.text.ALPHABET", ALPHABET + "ž")
    assert CharTokenizer().fingerprint() != before


@pytest.mark.parametrize("groups", [5, 120, 5000])
def test_figures_of_any_length_are_read(groups: int):
    for language, mark in (("en", ","), ("de", ".")):
        assert normalize("1" + f"{mark}111" * groups, language)
