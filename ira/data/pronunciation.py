"""Speakable text and its language in, the tokens that the SpeechLM speaks out: phones for English words, letters else.

English spelling says little about sound, and a few hours of speech cannot teach it: words of the CMU Pronouncing
Dictionary (its first pronunciation, secondary stress counted as primary) become ARPAbet phones. Words that it does not
have stay letters, as do German and Dutch, whose spelling is close to their sound.
"""

from __future__ import annotations

import gzip
import re
import unicodedata
import zlib
from functools import cache
from pathlib import Path

from ira.data.text import ALPHABET, CharTokenizer

DICTIONARY = Path(__file__).parent / "pronunciations" / "en.txt.gz"
VOWELS = ("AA", "AE", "AH", "AO", "AW", "AY", "EH", "ER", "EY", "IH", "IY", "OW", "OY", "UH", "UW")
CONSONANTS = tuple("B CH D DH F G HH JH K L M N NG P R S SH T TH V W Y Z ZH".split())
PHONES = (*CONSONANTS, *(f"{vowel}{stress}" for vowel in VOWELS for stress in (0, 1)))
SPELLED = 0.05  # of the words in training stay letters, so that words outside the dictionary can be read at all
_HISSING, _VOICELESS = ("S", "Z", "SH", "ZH", "CH", "JH"), ("P", "T", "K", "F", "TH")


class SpeechTokenizer:
    """Ids of `CharTokenizer` for letters and signs, phones after them. A text begins with a space and ends with `end`.

    The first space is where a recording's opening silence belongs, the end id where its closing silence does.
    """

    pad, end = CharTokenizer.pad, CharTokenizer.end

    def __init__(self) -> None:
        self._characters = CharTokenizer()
        self._phones = {phone: self._characters.vocab_size + i for i, phone in enumerate(PHONES)}
        self.vocab_size = self._characters.vocab_size + len(PHONES)

    def encode(self, text: str, language: str, *, spelled: float = 0.0) -> list[int]:
        """Ids of normalised text.

        Args:
            spelled: this share of the words, always the same ones of a text, stays letters.

        Raises:
            InputError: a character outside the alphabet.
        """
        ids = self._characters.encode(" ")[:-1]
        for place, part in enumerate(re.findall(r"[a-zà-öø-ÿ']+|.", text, re.DOTALL)):
            keeps = spelled and zlib.crc32(f"{place}{text}".encode()) / 2**32 < spelled
            phones = pronounce(part) if language.startswith("en") and not keeps else None
            ids += [self._phones[phone] for phone in phones] if phones else self._characters.encode(part)[:-1]
        return [*ids, self.end]

    def symbols(self, ids: list[int]) -> list[str]:
        """What each id stands for: a character, a phone, "" for the end and for padding."""
        first = self._characters.vocab_size
        return [PHONES[i - first] if i >= first else ALPHABET[i - 2] if i > self.end else "" for i in ids]


def pronounce(word: str) -> tuple[str, ...] | None:
    """Phones of a lower-case English word, None where the dictionary does not have it; "'s" is added by rule."""
    word = "".join(c for c in unicodedata.normalize("NFD", word) if not unicodedata.combining(c))
    found = _dictionary().get(word) or _dictionary().get(word.strip("'"))
    if found is not None:
        return tuple(found.split())
    if word.endswith("'s") and (base := _dictionary().get(word[:-2])):
        last = base.rsplit(" ", 1)[-1]
        return (*base.split(), *(("IH0", "Z") if last in _HISSING else ("S",) if last in _VOICELESS else ("Z",)))
    return None


@cache
def _dictionary() -> dict[str, str]:
    """Word to its phones, separated by spaces; 125,000 words, read once."""
    lines = gzip.decompress(DICTIONARY.read_bytes()).decode().splitlines()
    return dict(line.split(" ", 1) for line in lines)
