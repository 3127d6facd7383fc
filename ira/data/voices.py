"""What is known and measured of a recording in; the voice in words, and as tags to compare voices by, out.

Known: gender, age, accent, emotion, language. Measured: `f0_median_hz` (read relative to gender and age) and
`words_per_second`, where the manifest has them. Nothing is guessed: what is absent is not spoken of.
"""

from __future__ import annotations

import math
import re
from typing import Any

from ira.data.shards import Example

LANGUAGES = {"en": "English", "de": "German", "nl": "Dutch", "fr": "French", "es": "Spanish", "it": "Italian"}
ORDERED = {
    "age": ("child", "teenage", "young", "middle-aged", "older"),
    "pitch": ("low", "medium", "high"),
    "pace": ("slow", "medium", "fast"),
}
# Edges of low | medium | high pitch in Hz: about the thirds of reading voices of each kind.
_PITCH_EDGES = {"child": (215, 255), "male": (120, 150), "female": (170, 210), "": (140, 195)}
# Edges of slow | medium | fast in words a second of speech without its pauses.
_PACE_EDGES = (2.8, 3.8)
_AGE_EDGES = ((13, "child"), (18, "teenage"), (36, "young"), (56, "middle-aged"), (150, "older"))
_GENDERS = {"male": "male", "m": "male", "man": "male", "female": "female", "f": "female", "woman": "female"}
_AGE_WORDS = {"child": "child", "teenager": "teenage", "young": "young", "old": "older", "older": "older"}
_NOUNS = {
    "child": {"male": "boy", "female": "girl", "": "child"},
    "teenage": {"male": "teenage boy", "female": "teenage girl", "": "teenager"},
    "": {"male": "man", "female": "woman", "": "person"},
}
_PACE_ADVERBS = {"slow": "slowly", "medium": "at a normal pace", "fast": "fast"}
_PACE_ADJECTIVES = {"slow": "slow", "medium": "steady", "fast": "fast"}


def attributes(example: Example) -> dict[str, str]:
    """Tags of the recording: gender, age, accent, emotion, language, pitch, pace; only those that are known."""
    extra = example.extra
    gender = _GENDERS.get(_word(extra.get("gender")), "")
    age = _age(extra.get("age"))
    tags = {
        "gender": gender,
        "age": age,
        "accent": re.sub(r"\s*\(.*?\)", "", str(extra.get("accent") or "")).strip(),
        "emotion": _word(example.emotion),
        "language": LANGUAGES.get(example.language.partition("-")[0], ""),
        "pitch": _bin(extra.get("f0_median_hz"), _PITCH_EDGES["child" if age == "child" else gender], ORDERED["pitch"]),
        "pace": _bin(extra.get("words_per_second"), _PACE_EDGES, ORDERED["pace"]),
    }
    return {name: tag for name, tag in tags.items() if tag}


def captions(example: Example) -> list[str]:
    """The recording's own description first, then the known tags in plain English, each caption once.

    The same example always gives the same list; training draws from it.
    """
    tags = attributes(example)
    made = [example.description, *_by_sound(tags), *_by_person(tags), *_in_full(tags)]
    return list(dict.fromkeys(caption.strip() for caption in made if caption.strip()))


def tag_overlap(a: dict[str, str], b: dict[str, str]) -> float:
    """How much two recordings' tags agree: 0 (nothing) to 1 (the same tags), symmetric.

    The agreement summed over the tags of both, divided by the number of tags that either has; neighbours on an
    ordered scale (low and medium pitch) agree in part.
    """
    names = set(a) | set(b)
    return sum(_agreement(name, a[name], b[name]) for name in set(a) & set(b)) / len(names) if names else 0.0


def _agreement(name: str, a: str, b: str) -> float:
    scale = ORDERED.get(name, ())
    if a in scale and b in scale:
        return 1.0 - abs(scale.index(a) - scale.index(b)) / (len(scale) - 1)
    return float(a.lower() == b.lower())


def _by_sound(tags: dict[str, str]) -> list[str]:
    """Who, how high, how fast: "a man with a low voice speaking slowly", "a young woman, high voice, fast"."""
    who, pitch, pace = _who(tags), tags.get("pitch"), tags.get("pace")
    voice = f"{pitch}-pitched" if pitch == "medium" else pitch
    gendered = f"{tags['gender']} voice" if "gender" in tags and tags.get("age") != "child" else "voice"
    made = [who if len(tags) > 1 else ""]
    if pitch and pace:
        made.append(f"{who} with a {voice} voice speaking {_PACE_ADVERBS[pace]}")
        made.append(f"{who}, {voice} voice, {_PACE_ADJECTIVES[pace]}")
    if pitch:
        made.append(f"{who} with a {voice} voice")
        made.append(f"a {voice} {gendered}")
        made += [f"a deep {gendered}"] if (pitch, tags.get("gender")) == ("low", "male") else []
    if pace:
        made.append(f"{who} speaking {_PACE_ADVERBS[pace]}")
        made.append(f"{_PACE_ADJECTIVES[pace]} speech by {who}")
    return made


def _by_person(tags: dict[str, str]) -> list[str]:
    """Language, accent and mood: "a woman speaking English with a Hindi accent", "a man who sounds angry"."""
    who, emotion = _who(tags), tags.get("emotion")
    made = [f"{who} speaking {_tongue(tags)}"] if _tongue(tags) else []
    if emotion and emotion != "neutral":
        made.append(f"{who} who sounds {emotion}")
        made.append(f"{_article(emotion)} {emotion} voice")
    elif emotion:
        made.append(f"{who} speaking in a neutral tone")
    return made


def _in_full(tags: dict[str, str]) -> list[str]:
    """One sentence with all that is known."""
    pitch, pace, emotion = tags.get("pitch"), tags.get("pace"), tags.get("emotion")
    says = f"{_who(tags)} speaks {_tongue(tags)}".rstrip()
    says += f" {_PACE_ADVERBS[pace]}" if pace else ""
    voice = [f"{pitch} voice"] if pitch else []
    tone = [f"{_article(emotion)} {emotion} tone"] if emotion else []
    if not voice and not tone:
        return []
    with_what = " and ".join([*(f"a {words}" for words in voice), *tone])
    return [f"{says[0].upper()}{says[1:]}, with {with_what}."]


def _who(tags: dict[str, str]) -> str:
    """ "a young woman", "an older man", "a boy", "a person": gender and age as a noun with its article."""
    age, gender = tags.get("age", ""), tags.get("gender", "")
    noun = _NOUNS.get(age, _NOUNS[""])[gender]
    named = noun if age in _NOUNS or age not in ORDERED["age"] else f"{age} {noun}"
    return f"{_article(named)} {named}"


def _tongue(tags: dict[str, str]) -> str:
    """ "US English" where the accent is a kind of the language, else "English with a Hindi accent"."""
    language, accent = tags.get("language", ""), tags.get("accent", "")
    if not language or not accent:
        return language
    return accent if accent.endswith(language) else f"{language} with {_article(accent)} {accent} accent"


def _article(word: str) -> str:
    # "US" and "European" begin with a vowel letter but not with a vowel.
    return "an" if word[:1].lower() in "aeio" or (word[:1].lower() == "u" and word[:2] not in ("US", "UK")) else "a"


def _word(value: Any) -> str:
    return value.strip().lower() if isinstance(value, str) else ""


def _age(value: Any) -> str:
    """Bin of a number, a range ("50-70": its middle) or a word; "" where it says nothing."""
    if _word(value) in _AGE_WORDS:
        return _AGE_WORDS[_word(value)]
    years = [int(digits) for digits in re.findall(r"\d{1,3}", str(value))] if isinstance(value, (int, str)) else []
    if not years or isinstance(value, bool):
        return ""
    middle = sum(years[:2]) / len(years[:2])
    return next((name for edge, name in _AGE_EDGES if middle < edge), "")


def _bin(value: Any, edges: tuple[float, float], names: tuple[str, ...]) -> str:
    if not isinstance(value, (int, float)) or isinstance(value, bool) or not 0 < value < math.inf:
        return ""
    return names[sum(value >= edge for edge in edges)]
