from __future__ import annotations

import pytest

from ira.data.text import normalize
from ira.errors import InputError
from ira.inference.sentences import (
    CLAUSE_PAUSE,
    LONGEST_PIECE,
    PARAGRAPH_PAUSE,
    SENTENCE_PAUSE,
    Cut,
    cut_as_it_comes,
    cut_text,
    paragraphs,
    sentences,
)


def texts(text: str, language: str = "en", longest: int = LONGEST_PIECE) -> list[str]:
    return [cut.text for cut in cut_text(text, language, longest)]


@pytest.mark.parametrize(
    ("language", "text"),
    [
        ("en", "Dr. Smith met Mr. J. R. Jones at St. Mary's."),
        ("en", "It costs 3.5 dollars, e.g. on Monday, i.e. today."),
        ("en", "He saw No. 5 and Fig. 3 approx. twice."),
        ("en", "The U.S. Navy came at 5 p.m. sharp."),
        ("en", "He won (cf. Fig. 2 of that book) at last."),
        ("de", "Das gilt z. B. für Hunde, z.B. Pudel, d. h. Tiere."),
        ("de", "Am 3. Mai kam Prof. Dr. Meier mit Hrn. Schulz."),
        ("nl", "Dhr. Jansen en mevr. de Vries, d.w.z. beiden, bijv. Anna."),
        ("fr", "Il a 3.5 francs."),
    ],
)
def test_the_full_stop_of_an_abbreviation_or_a_number_ends_no_sentence(language: str, text: str):
    assert sentences(text, language) == [text]


def test_sentences_end_at_stops_questions_cries_and_ellipses_with_their_quotes():
    text = 'He said: "Stop!" Then he left... "Why?" So am I. Bring tea, milk etc. Then go.'
    assert sentences(text) == [
        'He said: "Stop!"',
        "Then he left...",
        '"Why?"',
        "So am I.",
        "Bring tea, milk etc.",
        "Then go.",
    ]


def test_what_goes_on_in_lower_case_is_one_sentence_unless_all_of_the_text_is_lower_case():
    assert len(sentences('"Really?" he asked.')) == 1
    assert sentences("it rains. it pours. bring tea etc. and go.") == [
        "it rains.",
        "it pours.",
        "bring tea etc. and go.",
    ]


def test_paragraphs_are_runs_of_lines_between_blank_ones():
    assert paragraphs("a\nb\n \n\r\n c\n") == ["a b", " c"]
    assert paragraphs(" \n\n") == []


def test_short_sentences_are_spoken_with_a_neighbour_and_longer_ones_alone():
    assert texts("Hello there. How are you?") == ["hello there. how are you?"]
    long = "This is a sentence of well over sixty characters, which can stand alone."
    assert texts(f"{long} {long} Yes. {long}") == [long.lower(), f"{long.lower()} yes.", long.lower()]


def test_a_sentence_that_is_too_long_is_cut_at_commas_then_at_spaces_then_anywhere():
    assert texts("one two, three four five six", longest=12) == ["one two,", "three four", "five six"]
    assert texts("a" * 25, longest=10) == ["a" * 10, "a" * 10, "a" * 5]


def test_pauses_grow_from_clauses_to_sentences_to_paragraphs():
    long = "The sun was low above the fields and nobody in the village spoke a word at all,"
    cuts = cut_text(f"{long} {long} {long} he said. {long} he said.\n\nThe end of it all, told by those who saw it.")
    pauses = [cut.pause for cut in cuts]
    assert pauses == [CLAUSE_PAUSE, SENTENCE_PAUSE, PARAGRAPH_PAUSE, PARAGRAPH_PAUSE]
    assert CLAUSE_PAUSE < SENTENCE_PAUSE < PARAGRAPH_PAUSE


def test_nothing_is_joined_across_paragraphs():
    assert texts("Title\n\nYes.") == ["title", "yes."]


@pytest.mark.parametrize("text", ["", "...", "?! - :", "'", "\n\n"])
def test_text_without_a_letter_makes_no_piece(text: str):
    assert cut_text(text) == []


def test_what_says_nothing_between_two_pieces_falls_away_and_leaves_its_pause():
    long = "The sun was low above the fields and nobody in the village spoke."
    assert cut_text(f"{long}\n\n* * *\n\n{long}".replace("*", "-"))[0].pause == PARAGRAPH_PAUSE
    assert texts(f"{long}\n\n- - -\n\nYes.") == [long.lower(), "yes."]


def test_no_word_is_lost_and_no_piece_is_longer_than_the_longest():
    text = "The 3 kings of Orient, tired; they came from afar! Why? " * 30 + "x" * 400 + ", well-known end"
    pieces = texts(text)
    assert max(map(len, pieces)) <= LONGEST_PIECE
    assert "".join("".join(pieces).split()) == "".join(normalize(text).split())


def test_a_character_that_cannot_be_spoken_is_named_and_a_very_short_text_is_one_piece():
    with pytest.raises(InputError, match="语"):
        cut_text("Good day. 语.")
    assert texts("Yes.") == ["yes."] and texts("A") == ["a"]


@pytest.mark.parametrize(
    "text", ["." * 50_000, ". " * 4_000, "\n" * 50_000, "a.b." * 10_000, '"' * 50_000, " \n" * 9_000]
)
def test_hostile_punctuation_takes_no_time(text: str):
    assert len(cut_text(text)) < 1_000


WRITTEN = [
    "One two three. " * 12,
    "Yes. He said so on Mon. \"Really?\" she asked. 'No!' And then Dr. Smith came at 5 p.m. sharp. Why? Who.",
    "no capital here. none there. it goes on for quite a while, and then some more words. NASA came late to it.",
    "hello there. my friend etc. goes on. Now.",
    "First paragraph, one sentence.\n\nSecond one. It has two, of which this is longer than sixty characters.\n \n3.",
    "\r\n\r\nA line.\r\n\r\nAnother... and so on.\r",
    "A first sentence that is longer than sixty characters, so it stands alone. Well, "
    + "and so it went on " * 14
    + ".",
    "- - -\n\nA. ... -\n\n...\n\nThe end of it all.\n",
    "",
    " \n",
]


@pytest.mark.parametrize("text", WRITTEN)
@pytest.mark.parametrize("size", [1, 2, 3, 7, 1000])
def test_a_text_that_comes_in_bits_is_cut_as_it_is_whole(text, size):
    bits = [text[start : start + size] for start in range(0, len(text), size)]
    assert list(cut_as_it_comes(bits)) == cut_text(text)


@pytest.mark.parametrize("text", WRITTEN)
def test_a_piece_stays_whatever_comes_after_it(text):
    for end in range(0, len(text), 5):
        early: list[Cut] = []
        for cut in cut_as_it_comes(told(text[:end], early)):
            early.append(cut)
        assert early[: early.index(None)] == cut_text(text)[: early.index(None)]  # type: ignore[arg-type]


def told(bit: str, given: list):
    """The text so far, then a mark among what was given: what came before it did not wait for the end."""
    yield bit
    given.append(None)


def test_a_piece_leaves_when_the_sentence_after_it_has_ended():
    text = "The first sentence is longer than sixty characters, and so it is alone. " * 3
    read: list[str] = []

    def words():
        for word in text.split(" "):
            read.append(word)
            yield f"{word} "

    first = next(cut_as_it_comes(words()))
    assert first == cut_text(text)[0] and len(read) == 2 * len(text.split()) // 3 + 1
