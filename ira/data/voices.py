"""What is known and measured of a recording in; the voice in words, and as tags to compare voices by, out.

Known: gender, age, accent, emotion, language. Measured: `f0_median_hz` (read relative to gender and age),
`words_per_second` or `syllables_per_second`, `snr_db`, `reverberation_seconds`. Nothing is guessed: what is absent is
not spoken of.
"""

from __future__ import annotations

import math
import re
from typing import Any

from ira.data.shards import Example

LANGUAGES = {"en": "English", "de": "German", "nl": "Dutch", "fr": "French", "es": "Spanish", "it": "Italian"}
ORDERED = {
    "age": ("child", "teenage", "young", "middle-aged", "older"),
    "pitch": ("very low", "low", "medium", "high", "very high"),
    "pace": ("slow", "medium", "fast"),
    "noise": ("noisy", "slightly noisy", "clean"),
    "reverberation": ("dry", "roomy", "echoing"),
}
# Edges of very low | low | medium | high | very high pitch in Hz; the inner two are about the thirds of reading voices.
_PITCH_EDGES = {
    "child": (190, 215, 255, 285),
    "male": (100, 120, 150, 180),
    "female": (145, 170, 210, 245),
    "": (110, 140, 195, 240),
}
# Edges of slow | medium | fast in words, or in syllables, a second of speech without its pauses.
_PACE_EDGES, _SYLLABLE_EDGES = (2.8, 3.8), (3.8, 5.2)
_NOISE_EDGES = (30, 38)  # of noisy | slightly noisy | clean as the signal-to-noise ratio in dB
_REVERBERATION_EDGES = (0.17, 0.3)  # of dry | roomy | echoing in seconds
_AGE_EDGES = ((13, "child"), (18, "teenage"), (36, "young"), (56, "middle-aged"), (150, "older"))
_GENDERS = {"male": "male", "m": "male", "man": "male", "female": "female", "f": "female", "woman": "female"}
_AGE_WORDS = {"child": "child", "teenager": "teenage", "young": "young", "old": "older", "older": "older"}
_NOUNS = {
    "child": {"male": "boy", "female": "girl", "": "child"},
    "teenage": {"male": "teenage boy", "female": "teenage girl", "": "teenager"},
    "": {"male": "man", "female": "woman", "": "person"},
}
GROWN = ("young", "middle-aged", "older")  # ages whose voices are a man's or a woman's
_PACE_ADVERBS = {"slow": "slowly", "medium": "at a normal pace", "fast": "fast"}
_PACE_ADJECTIVES = {"slow": "slow", "medium": "steady", "fast": "fast"}
_PLACES = {"dry": "close to the microphone", "roomy": "in a room", "echoing": "in a room with an echo"}
_EMOTIONS = ("neutral", "happy", "sad", "angry", "fearful", "bored", "disgusted", "surprised")


def attributes(example: Example) -> dict[str, str]:
    """Tags of the recording, only those that are known: gender, age, accent, emotion, language, pitch, pace, noise and
    reverberation.
    """
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
        "pace": _bin(extra.get("words_per_second"), _PACE_EDGES, ORDERED["pace"])
        or _bin(extra.get("syllables_per_second"), _SYLLABLE_EDGES, ORDERED["pace"]),
        "noise": _bin(extra.get("snr_db"), _NOISE_EDGES, ORDERED["noise"]),
        "reverberation": _bin(extra.get("reverberation_seconds"), _REVERBERATION_EDGES, ORDERED["reverberation"]),
    }
    return {name: tag for name, tag in tags.items() if tag}


def with_measures(extra: dict[str, Any], measures: dict[str, Any], text: str) -> dict[str, Any]:
    """The columns of a row and what was measured of its sound; where both speak, the columns win.

    The pace is that of the words where there are any, else of the syllables that were heard.
    """
    both = measures | {name: value for name, value in extra.items() if value is not None}
    if text and "words_per_second" not in both and both.get("active_seconds"):
        both["words_per_second"] = round(len(text.split()) / both["active_seconds"], 3)
    return both


def captions(example: Example) -> list[str]:
    """The recording's own description first, then the known tags in plain English, each caption once.

    The same example always gives the same list; training draws from it.
    """
    tags = attributes(example)
    made = [example.description, *_by_sound(tags), *_by_person(tags), *_by_place(tags), *_in_full(tags)]
    return list(dict.fromkeys(caption.strip() for caption in made if caption.strip()))


def alternatives(tags: dict[str, str]) -> dict[str, tuple[list[str], int]]:
    """For each known tag of a closed scale, the captions that tell its values apart, and which of them is right.

    All else in the captions is the same: "a man with a very low voice", ..., "a man with a very high voice".
    """
    grown = tags.get("age") not in _NOUNS
    who = _who({name: tag for name, tag in tags.items() if name == "gender" or (name == "age" and not grown)})
    scales = {
        "gender": {g: _who({**tags, "age": "" if grown else tags["age"], "gender": g}) for g in ("male", "female")},
        "age": {age: _who({**tags, "age": age}) for age in ORDERED["age"]},
        "pitch": {pitch: f"{who} with a {pitch} voice" for pitch in ORDERED["pitch"]},
        "pace": {pace: f"{who} speaking {adverb}" for pace, adverb in _PACE_ADVERBS.items()},
        "emotion": {emotion: _sounding(who, emotion) for emotion in _EMOTIONS},
        "noise": {noise: f"a {noise} recording of {who}" for noise in ORDERED["noise"]},
        "reverberation": {place: f"{who} {words}" for place, words in _PLACES.items()},
    }
    known = {name: scale for name, scale in scales.items() if tags.get(name) in scale}
    return {name: (list(scale.values()), list(scale).index(tags[name])) for name, scale in known.items()}


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
    gendered = f"{tags['gender']} voice" if "gender" in tags and tags.get("age") != "child" else "voice"
    made = [who if len(tags) > 1 else ""]
    if pitch and pace:
        made.append(f"{who} with a {pitch} voice speaking {_PACE_ADVERBS[pace]}")
        made.append(f"{who}, {pitch} voice, {_PACE_ADJECTIVES[pace]}")
    if pitch:
        made.append(f"{who} with a {pitch} voice")
        made.append(f"{who}, {pitch} voice")
        made.append(f"a {pitch} {gendered}")
        made += [f"a deep {gendered}"] if pitch.endswith("low") and tags.get("gender") == "male" else []
    if pace:
        made.append(f"{who} speaking {_PACE_ADVERBS[pace]}")
        made.append(f"{who}, {_PACE_ADJECTIVES[pace]}")
        made.append(f"{_PACE_ADJECTIVES[pace]} speech by {who}")
    return made


def _by_person(tags: dict[str, str]) -> list[str]:
    """Language, accent and mood: "a woman speaking English with a Hindi accent", "a man who sounds angry"."""
    who, emotion = _who(tags), tags.get("emotion")
    made = [f"{who} speaking {_tongue(tags)}"] if _tongue(tags) else []
    made += [_sounding(who, emotion)] if emotion else []
    made += [f"{_article(emotion)} {emotion} voice"] if emotion and emotion != "neutral" else []
    return made


def _by_place(tags: dict[str, str]) -> list[str]:
    """Noise and reverberation: "a noisy recording of a man", "a woman in a room with an echo"."""
    who, noise, place = _who(tags), tags.get("noise"), _PLACES.get(tags.get("reverberation", ""))
    made = [f"a {noise} recording of {who}"] if noise else []
    made += [f"{who} {place}"] if place else []
    made += [f"a {noise} recording of {who} {place}"] if noise and place else []
    return made


def _sounding(who: str, emotion: str) -> str:
    return f"{who} speaking in a neutral tone" if emotion == "neutral" else f"{who} who sounds {emotion}"


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
    sentence = f"{says[0].upper()}{says[1:]}, with {with_what}."
    place, noise = _PLACES.get(tags.get("reverberation", ""), ""), tags.get("noise")
    heard = f"The recording is {noise}" + (f" and made {place}." if place else ".") if noise else ""
    return [sentence, f"{sentence} {heard}"] if heard else [sentence]


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


def _bin(value: Any, edges: tuple[float, ...], names: tuple[str, ...]) -> str:
    if not isinstance(value, (int, float)) or isinstance(value, bool) or not 0 < value < math.inf:
        return ""
    return names[sum(value >= edge for edge in edges)]
