"""Words to phones by the dictionary that is shipped, letters for everything else; what is not speakable is refused."""

from __future__ import annotations

import re
from pathlib import Path

import pytest

from ira.data.pronunciation import DICTIONARY, PHONES, SPELLED, SpeechTokenizer, _dictionary, pronounce
from ira.data.text import ALPHABET, CharTokenizer, normalize
from ira.errors import InputError

PROJECT = Path(__file__).parents[2] / "pyproject.toml"
TOKENIZER = SpeechTokenizer()


def said(text: str, language: str = "en", **how: float) -> list[str]:
    """Symbols without the opening space and the end."""
    symbols = TOKENIZER.symbols(TOKENIZER.encode(text, language, **how))
    assert symbols[0] == " " and symbols[-1] == ""
    return symbols[1:-1]


def test_english_words_are_phones_and_signs_stay():
    assert said("the cat, a fox!") == [
        *"DH AH0".split(),
        " ",
        *"K AE1 T".split(),
        ",",
        " ",
        "AH0",
        " ",
        *"F AA1 K S !".split(),
    ]
    assert said("hello", "en-us") == said("hello") == "HH AH0 L OW1".split()


def test_a_word_with_an_apostrophe_is_one_word():
    assert said("i'm") == ["AY1", "M"] and said("can't") == "K AE1 N T".split()
    assert said("'cat'") == said("cat")  # quotes


@pytest.mark.parametrize(
    "word, base, ending",
    [
        ("speech's", "speech", ["IH0", "Z"]),
        ("box's", "box", ["IH0", "Z"]),
        ("fact's", "fact", ["S"]),
        ("mississippi's", "mississippi", ["Z"]),
        ("fork's", "fork", ["S"]),
    ],
)
def test_an_s_is_added_by_the_sound_before_it(word: str, base: str, ending: list[str], monkeypatch: pytest.MonkeyPatch):
    known = {base: _dictionary()[base]}  # some words have their own entry with 's
    monkeypatch.setattr("ira.data.pronunciation._dictionary", lambda: known)
    assert said(word) == [*known[base].split(), *ending]
    assert pronounce("blarfen's") is None


def test_words_outside_the_dictionary_and_other_languages_stay_letters():
    assert said("blarfen") == list("blarfen") and pronounce("blarfen") is None
    assert said("blarfen cat") == [*"blarfen", " ", "K", "AE1", "T"]
    assert said("der hund sagt schön weiß", "de") == list("der hund sagt schön weiß")
    assert said("de kat zegt één", "nl") == list("de kat zegt één")
    assert said("cat", "de") == list("cat") and said("cat", "") == list("cat")


def test_every_id_says_what_it_stands_for_and_is_within_the_vocabulary():
    assert TOKENIZER.vocab_size == CharTokenizer().vocab_size + len(PHONES) == len(ALPHABET) + 2 + len(PHONES)
    symbols = TOKENIZER.symbols(list(range(TOKENIZER.vocab_size)))
    assert symbols == ["", "", *ALPHABET, *PHONES] and len(set(symbols)) == TOKENIZER.vocab_size - 1
    for text, language in (('the quick brown fox; "jumps" (over) a dog\'s - box?', "en"), (ALPHABET, "de"), ("", "en")):
        ids = TOKENIZER.encode(text, language)
        assert max(ids) < TOKENIZER.vocab_size and ids[-1] == TOKENIZER.end and TOKENIZER.pad not in ids
    assert TOKENIZER.encode("", "en") == [*CharTokenizer().encode(" ")]


def test_letters_keep_the_ids_of_the_characters():
    text = normalize("Schöne Grüße, Herr Weiß!", "de")
    assert TOKENIZER.encode(text, "de") == CharTokenizer().encode(" " + text)


def test_the_same_words_of_a_text_stay_letters_every_time():
    text = "the cat and the dog and the fox " * 40
    spelled = said(text, spelled=SPELLED)
    assert spelled == said(text, spelled=SPELLED) != said(text) == said(text, spelled=0.0)
    share = sum(symbol.islower() for symbol in said(text, spelled=0.3)) / sum(map(str.isalpha, text))
    assert share == pytest.approx(0.3, abs=0.1)
    assert said(text, spelled=1.0) == list(text)
    assert said("the cat", spelled=0.5) != said("the cat", spelled=1.0) or said("a cat", spelled=0.5) != list("a cat")


@pytest.mark.parametrize(
    "text, named",
    [
        ("the Cat", "C"),
        ("cat 5", "5"),
        ("cat\n", "n"),
        ("cat\x00dog", "x00"),
        ("кот", "к"),
        ("cat 🙂", "🙂"),
        ("tab\tbed", "t"),
    ],
)
@pytest.mark.parametrize("language", ["en", "de"])
def test_what_is_not_speakable_is_refused_by_name(text: str, named: str, language: str):
    with pytest.raises(InputError, match="not in the alphabet; normalize the text first") as caught:
        TOKENIZER.encode(text, language)
    assert named in str(caught.value).partition(" is not")[0]


def test_a_long_text_of_quotes_takes_no_time():
    assert said("'" * 200_000) == ["'"] * 200_000


def test_every_pronunciation_of_the_dictionary_is_made_of_known_phones():
    words = _dictionary()
    assert len(words) > 100_000
    assert {phone for phones in words.values() for phone in phones.split()} == set(PHONES)
    assert not [word for word in words if set(word) - set(ALPHABET) or " " in word]


def test_the_dictionary_is_shipped_with_its_licence():
    licence = (DICTIONARY.parent / "LICENSE").read_text()
    assert "Carnegie Mellon University" in licence and "Redistributions of source code must retain" in licence
    kept = re.search(r"^\[tool.setuptools.package-data\]\nira = \[(.*)\]$", PROJECT.read_text(), flags=re.MULTILINE)
    assert kept is not None
    found = {path for pattern in re.findall(r'"([^"]+)"', kept[1]) for path in (PROJECT.parent / "ira").glob(pattern)}
    assert {DICTIONARY, DICTIONARY.parent / "LICENSE"} <= found


def test_an_accent_on_an_english_word_does_not_cut_it_in_two():
    assert said("naïve café") == said("naive cafe") and "EY1" in said("café")
    assert said("über", "de") == list("über")
