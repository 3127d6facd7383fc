"""Written short forms in, the words that are said for them out: titles, Latin, and units after a number.

A form that may also be a word or a sentence's end is only replaced where its full stop or a number tells it apart.
"""

from __future__ import annotations

import re
from functools import cache

# With the full stop: "dr. who" but not "dr who" (a word of its own in a lower-cased text).
_STOPPED = {
    "en": {
        "mr": "mister", "mrs": "missus", "ms": "miz", "dr": "doctor", "prof": "professor", "jr": "junior",
        "sr": "senior", "st": "saint", "rev": "reverend", "hon": "honorable", "gen": "general", "col": "colonel",
        "capt": "captain", "lt": "lieutenant", "sgt": "sergeant", "e.g": "for example", "i.e": "that is",
        "etc": "et cetera", "vs": "versus", "approx": "approximately", "dept": "department",
    },
    "de": {
        "dr": "doktor", "prof": "professor", "hr": "herr", "fr": "frau", "z.b": "zum beispiel", "z. b": "zum beispiel",
        "d.h": "das heißt", "d. h": "das heißt", "u.a": "unter anderem", "usw": "und so weiter",
        "bzw": "beziehungsweise", "ca": "circa", "evtl": "eventuell", "vgl": "vergleiche", "ggf": "gegebenenfalls",
        "inkl": "inklusive", "str": "straße",
    },
    "nl": {
        "dr": "dokter", "prof": "professor", "dhr": "de heer", "mevr": "mevrouw", "mw": "mevrouw", "drs": "doctorandus",
        "ir": "ingenieur", "bijv": "bijvoorbeeld", "bv": "bijvoorbeeld", "d.w.z": "dat wil zeggen", "enz": "enzovoort",
        "o.a": "onder andere", "ca": "circa", "m.b.t": "met betrekking tot", "i.p.v": "in plaats van",
    },
}  # fmt: skip
_STREET = re.compile(r"""\bst(?=\.["')]*$)|\bst\.(?=[,;:!?])""")
_NUMBERED = {"en": ("no", "number"), "de": ("nr", "nummer"), "nl": ("nr", "nummer")}
# After a number, singular and plural; the others are too short to be told from words.
_UNITS = {
    "en": {
        "km": ("kilometer", "kilometers"), "cm": ("centimeter", "centimeters"), "mm": ("millimeter", "millimeters"),
        "kg": ("kilogram", "kilograms"), "mg": ("milligram", "milligrams"), "ml": ("milliliter", "milliliters"),
        "ft": ("foot", "feet"), "lb": ("pound", "pounds"), "lbs": ("pounds", "pounds"), "oz": ("ounce", "ounces"),
        "mph": ("mile per hour", "miles per hour"), "khz": ("kilohertz", "kilohertz"), "hz": ("hertz", "hertz"),
    },
    "de": {
        "km": ("kilometer",) * 2, "cm": ("zentimeter",) * 2, "mm": ("millimeter",) * 2, "kg": ("kilogramm",) * 2,
        "mg": ("milligramm",) * 2, "ml": ("milliliter",) * 2, "khz": ("kilohertz",) * 2, "hz": ("hertz",) * 2,
    },
    "nl": {
        "km": ("kilometer",) * 2, "cm": ("centimeter",) * 2, "mm": ("millimeter",) * 2, "kg": ("kilogram",) * 2,
        "mg": ("milligram",) * 2, "ml": ("milliliter",) * 2, "khz": ("kilohertz",) * 2, "hz": ("hertz",) * 2,
    },
}  # fmt: skip


def expand(text: str, language: str) -> str:
    """Lower-case text with its short forms as words (en, de, nl); figures are left for whoever reads numbers.

    A full stop that also ends the text, or what stands in quotes, stays. A street has no name after it, a saint has.
    """
    stopped, units, numbered = _patterns(language)
    text = numbered.sub(lambda m: f"{_NUMBERED[language][1]} ", text)
    text = _STREET.sub("street", text) if language == "en" else text
    text = stopped.sub(lambda m: _STOPPED[language][m[1]] + m[2], text)
    return units.sub(lambda m: f"{m[1]} {_UNITS[language][m[2]][m[1] != '1']}", text)


@cache
def _patterns(language: str) -> tuple[re.Pattern[str], re.Pattern[str], re.Pattern[str]]:
    def one_of(names: dict) -> str:
        return "|".join(re.escape(name) for name in sorted(names, key=len, reverse=True))

    return (
        re.compile(rf"(?<![\w.])({one_of(_STOPPED[language])})(?:(?=\.[\"')]*$)|\.(?![\w.]))(\.?)"),
        re.compile(rf"(?<![\d.,])((?:\d{{1,9}}[.,]){{0,4}}\d{{1,9}}) ?({one_of(_UNITS[language])})\b"),
        re.compile(rf"\b{_NUMBERED[language][0]}\. ?(?=\d)"),
    )
