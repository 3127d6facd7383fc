"""A text as it was written in, what is decoded at a time out: normalised pieces with the pause after each.

Sentences are told apart in the written text, where capitals and the full stops of abbreviations still stand.
"""

from __future__ import annotations

import re
import textwrap
from collections.abc import Iterable, Iterator
from dataclasses import dataclass, replace

from ira.data.text import normalize

LONGEST_PIECE = 180  # characters: about the longest sentence of the usual corpora, 12 s
SHORT = 60  # characters; a sentence alone has less to take its melody from, and is spoken with its neighbour
# Seconds of silence after a clause that had to be cut off its sentence, after a sentence, after a paragraph.
CLAUSE_PAUSE, SENTENCE_PAUSE, PARAGRAPH_PAUSE = 0.15, 0.35, 0.75

_CLOSING, _OPENING = "\"'”’“»«)]}*_", "\"'“‘„«»([{*_¿¡"
# A full stop after these ends no sentence, whatever follows.
_NEVER = {
    "en": "mr mrs ms messrs mx dr prof st mt gen col maj capt cpt lt sgt cmdr rev hon gov sen rep pres fr vs viz cf "
    "approx ca al esp incl",
    "de": "hr hrn fr frl dr prof dipl ing hl bzw ca evtl ggf inkl exkl zzgl vgl sog gegr geb gest str nr abs art bd "
    "kap st mio mrd tel allg bes insb max min",
    "nl": "dhr mevr mw mej dr drs prof ir ing mr bc st ca bijv bv vb resp incl excl max min vgl nr tel gem zgn ev dwz",
}
# After these it may end one: a capital letter tells, where the text has any.
_MAYBE = {
    "en": "etc jr sr inc ltd co corp dept est ave blvd rd a.m p.m jan feb mar apr jun jul aug sep sept oct nov dec",
    "de": "usw etc jh jhd jan feb mrz apr jun jul aug sep sept okt nov dez",
    "nl": "enz etc jan feb mrt apr jun jul aug sep sept okt nov dec",
}
_BEFORE_NUMBERS = {
    "no",
    "nos",
    "nr",
    "vol",
    "fig",
    "figs",
    "p",
    "pp",
    "ch",
    "sec",
    "art",
    "eq",
    "s",
    "bd",
    "abs",
    "blz",
}
_WORDS = {language: (set(_NEVER[language].split()), set(_MAYBE[language].split())) for language in _NEVER}


@dataclass(frozen=True)
class Cut:
    """Normalised text that is decoded at once, and the seconds of silence after it where more follows."""

    text: str
    pause: float


def cut_text(text: str, language: str = "en", longest: int = LONGEST_PIECE, *, strict: bool = True) -> list[Cut]:
    """Pieces of at most `longest` characters: sentences, short ones joined to a neighbour of their paragraph.

    A sentence that is too long is cut at commas, then at spaces, then anywhere. What says nothing falls away.

    Raises:
        InputError: a character that cannot be spoken, if strict; else it becomes a space.
    """
    return _joined(_parts(text, language.lower().partition("-")[0], longest, strict), longest)


def cut_as_it_comes(
    bits: Iterable[str], language: str = "en", longest: int = LONGEST_PIECE, *, strict: bool = True
) -> Iterator[Cut]:
    """What `cut_text` makes of all the bits joined, each piece as soon as no text to come can change it.

    That is when the sentence after it, or its paragraph, has ended.
    """
    text, given = "", 0
    for bit in bits:
        text += bit
        *ended, last = paragraphs(text) or [""]
        for paragraph in ended:
            yield from cut_text(paragraph, language, longest, strict=strict)[given:]
            given = 0
        text = last + text[len(text.rstrip()) :]
        sure = _sure(text, language.lower().partition("-")[0], longest, strict)
        yield from sure[given:]
        given = max(given, len(sure))
    yield from cut_text(text, language, longest, strict=strict)[given:]


def _sure(text: str, language: str, longest: int, strict: bool) -> list[Cut]:
    """The pieces of a paragraph that goes on, but for the last, which the next sentence may join."""
    words = text.split() if text[-1:].isspace() else text.split()[:-1]  # the last may be half a word
    read = " ".join(words)
    if not any(character.isupper() for character in read):
        return []  # one capital, and sentences end elsewhere
    ended = sentences(read, language)[:-1]
    return _joined((cut for one in ended for cut in _clauses(one, language, longest, strict)), longest)[:-1]


def _joined(parts: Iterable[Cut], longest: int) -> list[Cut]:
    pieces: list[Cut] = []
    for cut in parts:
        last = pieces[-1] if pieces else None
        if not any(character.isalpha() for character in cut.text):
            pieces[-1:] = [replace(last, pause=max(last.pause, cut.pause))] if last else []
        elif last and _belongs(last, cut, longest):
            pieces[-1] = Cut(f"{last.text} {cut.text}", cut.pause)
        else:
            pieces.append(cut)
    return pieces


def _belongs(last: Cut, cut: Cut, longest: int) -> bool:
    """Clauses of one sentence are spoken together as far as they fit, sentences where one of them is short."""
    if len(last.text) + 1 + len(cut.text) > longest or last.pause >= PARAGRAPH_PAUSE:
        return False
    return last.pause < SENTENCE_PAUSE or min(len(last.text), 2 * len(cut.text)) < SHORT


def _parts(text: str, language: str, longest: int, strict: bool) -> Iterator[Cut]:
    for paragraph in paragraphs(text):
        parts = [cut for one in sentences(paragraph, language) for cut in _clauses(one, language, longest, strict)]
        if parts:
            yield from parts[:-1]
            yield replace(parts[-1], pause=PARAGRAPH_PAUSE)


def _clauses(sentence: str, language: str, longest: int, strict: bool) -> list[Cut]:
    spoken = normalize(sentence, language, strict=strict)
    if len(spoken) <= longest:
        return [Cut(spoken, SENTENCE_PAUSE)]
    clauses = re.split(r"(?<=[,;:])\s+", spoken)
    parts = [part for clause in clauses for part in textwrap.wrap(clause, longest, break_on_hyphens=False)]
    return [*(Cut(part, CLAUSE_PAUSE) for part in parts[:-1]), Cut(parts[-1], SENTENCE_PAUSE)]


def paragraphs(text: str) -> list[str]:
    """Runs of lines between blank ones, each on one line."""
    found: list[list[str]] = [[]]
    for line in text.splitlines():
        if line.strip():
            found[-1].append(line)
        else:
            found.append([])
    return [" ".join(lines) for lines in found if lines]


def sentences(paragraph: str, language: str = "en") -> list[str]:
    """Cut after . ! ? and … where they end a sentence: not within "3.5", "Dr. Smith", "e.g. this" or "z. B. das"."""
    words = paragraph.split()
    cased = any(character.isupper() for character in paragraph)
    found: list[list[str]] = [[]]
    for word, after in zip(words, [*words[1:], ""], strict=True):
        found[-1].append(word)
        if after and _ends(word, after, language, cased):
            found.append([])
    return [" ".join(one) for one in found if one]


def _ends(word: str, after: str, language: str, cased: bool) -> bool:
    """Whether a sentence ends with `word`. Where it is doubtful it goes on: a wrong cut is heard, a missing one not."""
    core = word.rstrip(_CLOSING)
    if not core.endswith((".", "!", "?", "…")):
        return False
    if cased and after.lstrip(_OPENING)[:1].islower():
        return False
    if core.endswith(("!", "?", "…", "..")):
        return True
    return not _abbreviated(core[:-1].lstrip(_OPENING).lower(), after, language, cased)


def _abbreviated(stem: str, after: str, language: str, cased: bool) -> bool:
    """Whether the full stop after `stem`, in lower case, belongs to it."""
    never, maybe = _WORDS.get(language, (set[str](), set[str]()))
    if stem in maybe:
        return not cased
    if len(stem) == 1 and stem.isalpha():
        return (language, stem) != ("en", "i")  # an initial, or half of "z. B."; "so am I." is none
    dotted = "." in stem and all(part.isalpha() and len(part) <= 3 for part in stem.split("."))
    ordinal = language == "de" and stem.isdigit() and len(stem) <= 2
    return stem in never or dotted or ordinal or (stem in _BEFORE_NUMBERS and after[:1].isdigit())
