"""Short forms become the words that are said for them, and what only looks like one stays."""

from __future__ import annotations

import pytest

from ira.data.abbreviations import expand
from ira.data.text import normalize


@pytest.mark.parametrize(
    "language, written, said",
    [
        ("en", "Dr. Smith met Mr. Jones, i.e. the mayor.", "doctor smith met mister jones, that is the mayor."),
        ("en", "No. 5 is 3 km away, 1 km by air.", "number five is three kilometers away, one kilometer by air."),
        ("en", "apples, pears, etc.", "apples, pears, et cetera."),
        ("en", 'He sold "apples, pears, etc."', 'he sold "apples, pears, et cetera."'),
        ("en", "On Main St., in St. Louis, on Main St.", "on main street, in saint louis, on main street."),
        ("en", "1,000,000 km", "one million kilometers"),
        ("en", "$3.50 and £1.01", "three dollars, fifty cents and one pound, one penny"),
        ("de", "Z.B. 2,50 € für 2 kg.", "zum beispiel zwei euro und fünfzig cent für zwei kilogramm."),
        (
            "nl",
            "Dhr. Jansen betaalt € 3,50, bijv. nu.",
            "de heer jansen betaalt drie euro, vijftig cent, bijvoorbeeld nu.",
        ),
    ],
)
def test_short_forms_are_read_out(language: str, written: str, said: str):
    assert normalize(written, language) == said


@pytest.mark.parametrize("text", ["the dr who", "a.m.r. x.dr.y", "mist. vs", "5 kmh", "str. is not english", "nor. 5"])
def test_what_only_looks_like_a_short_form_stays(text: str):
    assert expand(text, "en") == text


def test_a_long_text_of_full_stops_takes_no_time():
    text = "dr." * 20_000 + "1 " * 20_000 + "9." * 20_000
    assert len(expand(text, "en")) >= len(text)
