"""Written text in, speakable lower-case text out; speakable text in, character ids out, and back.

Speakable text holds the characters of `ALPHABET` and nothing else: numbers and signs are words, foreign accents fall
back to their base letter, and what cannot be spoken (an emoji, another script) is refused by name or left out.
"""

from __future__ import annotations

import hashlib
import re
import unicodedata

from num2words import num2words

from ira.data.abbreviations import expand
from ira.errors import InputError

ALPHABET = " abcdefghijklmnopqrstuvwxyzäöüßàáâçèéêëìíîïñòóôùúû.,!?'\"-:;()"

_UNIFIED = str.maketrans(
    {quote: '"' for quote in "„“”‟«»‹›"}
    | {apostrophe: "'" for apostrophe in "‘’‚‛ʻʼʹ′`´"}
    | {dash: "-" for dash in "‐‑‒–—―−"}
    | {"[": "(", "]": ")", "{": "(", "}": ")", "/": " ", "ÿ": "y", "æ": "ae", "œ": "oe", "ø": "o", "ł": "l", "đ": "d"}
)
_SIGNS = {
    "en": {"%": "percent", "&": "and", "+": "plus", "=": "equals", "@": "at", "°": "degrees"},
    "de": {"%": "Prozent", "&": "und", "+": "plus", "=": "gleich", "@": "at", "°": "Grad"},
    "nl": {"%": "procent", "&": "en", "+": "plus", "=": "is", "@": "apenstaartje", "°": "graden"},
}
_MONEY = {"$": "dollar", "€": "euro", "£": "pound"}
_CURRENCY = {"$": "USD", "€": "EUR", "£": "GBP"}
_POINT = {"en": "point", "de": "Komma", "nl": "komma"}
_MINUS = {"en": "minus", "de": "minus", "nl": "min"}
# English writes 1,234.5 where German and Dutch write 1.234,5.
_NUMBER = {
    "en": r"(?:[0-9]{1,3}(?:,[0-9]{3}){1,4}(?![0-9])|[0-9]+)(?:\.[0-9]+)?",
    "de": r"(?:[0-9]{1,3}(?:\.[0-9]{3}){1,4}(?![0-9])|[0-9]+)(?:,[0-9]+)?",
}
_NUMBER["nl"] = _NUMBER["de"]
_ORDINAL = {"en": r"([0-9]{1,6})(?:st|nd|rd|th)\b", "nl": r"([0-9]{1,6})(?:ste|de|e)\b"}
# A longer run of digits is a telephone number or a code, and is read digit by digit.
_LONGEST_NUMBER = 6


def normalize(text: str, language: str = "en", *, strict: bool = True) -> str:
    """Text as it is spoken: NFKC, lower case, plain quotes and dashes, single spaces, numbers in words (en, de, nl).

    With `strict=False` (an LLM's reply, say) what cannot be spoken becomes a space.

    Raises:
        InputError: names the first character that cannot be spoken, if strict.
    """
    language = language.lower().partition("-")[0]
    unified = unicodedata.normalize("NFKC", text.translate(_UNIFIED)).lower().translate(_UNIFIED)
    if language in _NUMBER:
        unified = _read_out(expand(unified, language), language)
    spoken = "".join(_spoken(character, language, strict) for character in unified.lower())
    return re.sub(r" +([.,!?;:)])", r"\1", " ".join(spoken.split()))


class CharTokenizer:
    """Characters of `ALPHABET` to ids: 0 is padding, 1 ends the text, characters follow from 2."""

    pad, end, _first = 0, 1, 2

    def __init__(self) -> None:
        self._ids = {character: self._first + i for i, character in enumerate(ALPHABET)}
        self.vocab_size = self._first + len(ALPHABET)

    def encode(self, text: str) -> list[int]:
        """Ids of normalised text, the end id last.

        Raises:
            InputError: a character outside the alphabet.
        """
        try:
            return [*(self._ids[character] for character in text), self.end]
        except KeyError as error:
            raise InputError(f"character {error} is not in the alphabet; normalize the text first") from None

    def decode(self, ids: list[int]) -> str:
        """Text of ids up to the end id; padding is left out."""
        kept = ids[: ids.index(self.end)] if self.end in ids else ids
        return "".join(ALPHABET[i - self._first] for i in kept if i != self.pad)

    def fingerprint(self) -> str:
        """Name and short hash of the alphabet; two tokenizers with one fingerprint give the same ids."""
        return f"chars-{hashlib.sha256(ALPHABET.encode()).hexdigest()[:12]}"


def _read_out(text: str, language: str) -> str:
    """Numbers, and the signs that go with them, as words, apart from the letters beside them."""
    number = _NUMBER[language]
    if not re.search(rf"[0-9{re.escape(''.join(_SIGNS['en']))}$€£]", text):
        return text
    cents = r"([0-9]{1,9})[.,]([0-9]{2})(?![0-9.,]*[0-9])"
    text = re.sub(rf"([$€£])\s?{cents}", lambda m: _amount(m[1], m[2], m[3], language), text)
    text = re.sub(rf"(?<![0-9.,]){cents}\s?([$€£])", lambda m: _amount(m[3], m[1], m[2], language), text)
    text = re.sub(rf"([$€£])\s?({number})", lambda m: f"{m[2]} {_money(m[1], m[2], language)}", text)
    # Not from within a number: a long one would be tried at each digit, to its end.
    text = re.sub(rf"(?<![0-9])({number})\s?([$€£])", lambda m: f"{m[1]} {_money(m[2], m[1], language)}", text)
    text = re.sub(r"(?<=[0-9]):(?=[0-9])", " ", text)
    text = re.sub(r"(?<![\w)-])-(?=[0-9])", f"{_MINUS[language]} ", text)
    if language in _ORDINAL:
        text = re.sub(_ORDINAL[language], lambda m: f" {num2words(int(m[1]), lang=language, to='ordinal')} ", text)
    text = re.sub(r"(?<=[^\W\d_])(?=[0-9])|(?<=[0-9])(?=[^\W\d_])", " ", text)
    text = re.sub(number, lambda m: _number_words(m[0], language), text)
    for sign, word in _SIGNS[language].items():
        text = text.replace(sign, f" {word} ")
    return text


def _number_words(written: str, language: str) -> str:
    """One written number as words: "1,200.5" -> "one thousand two hundred point five"."""
    group, point = (",", ".") if language == "en" else (".", ",")
    whole, _, decimals = written.partition(point)
    digits = whole.replace(group, "")
    if (len(digits) > _LONGEST_NUMBER and digits == whole) or (len(digits) > 1 and digits[0] == "0"):
        words = " ".join(num2words(int(digit), lang=language) for digit in digits)
    else:
        year = digits == whole and not decimals and 1100 <= int(digits) < 2100
        words = num2words(int(digits), lang=language, to="year" if year else "cardinal").replace(",", "")
    if decimals:
        words += f" {_POINT[language]} " + " ".join(num2words(int(digit), lang=language) for digit in decimals)
    return words


def _amount(sign: str, whole: str, hundredths: str, language: str) -> str:
    """ "$3.50" -> " three dollars, fifty cents ", apart from the letters beside it."""
    words = num2words(float(f"{whole}.{hundredths}"), lang=language, to="currency", currency=_CURRENCY[sign])
    return f" {words.replace(' sterling', '')} "


def _money(sign: str, amount: str, language: str) -> str:
    return _MONEY[sign] + ("s" if language == "en" and amount != "1" else "")


def _spoken(character: str, language: str, strict: bool) -> str:
    """The character itself, its base letter, or a space; zero-width characters and loose accents vanish."""
    if character in ALPHABET:
        return character
    if character.isspace():
        return " "
    if unicodedata.category(character) in ("Cf", "Mn"):
        return ""
    base = unicodedata.normalize("NFD", character)[0]
    if base in ALPHABET and base.isalpha():
        return base
    if not strict:
        return " "
    name = unicodedata.name(character, "no name")
    remedy = "write the number in words" if character.isdigit() else "replace or remove it"
    raise InputError(f"{character!r} ({name}) cannot be spoken in {language!r}; {remedy}")
