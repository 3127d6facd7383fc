"""What is known of a recording in; the tasks that it can pose a listener, and how well an answer solves one, out.

What was said settles some tasks, so that a reader of the text could solve them too; the others need the voice.
"""

from __future__ import annotations

import re
import unicodedata
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass
from itertools import product
from typing import Any

from ira.data.voices import LANGUAGES

SETTLED = frozenset({"transcription", "question", "command", "spelling"})
TASKS = ("transcription", "question", "command", "spelling", "gender", "age", "emotion", "language")
_SPOKEN = {code: LANGUAGES[code] for code in ("en", "de", "nl")}
_GENDERS = {"a man": ("male", "m", "man"), "a woman": ("female", "f", "woman")}
_AGES = {
    "a child": ("child", "kid", "boy", "girl"),
    "an adult": ("adult", "young", "middle-aged", "old", "older", "elderly")
    + ("twenties", "thirties", "forties", "fourties", "fifties", "sixties", "seventies", "eighties", "nineties"),
}
_CHILD_BELOW, _ADULT_FROM = 14, 18  # years; between them a voice is neither
_EMOTIONS = ("angry", "bored", "disgusted", "fearful", "happy", "neutral", "sad")
# What a voice tells beside the words, and all that may be answered of it.
TRAITS = {
    "gender": tuple(_GENDERS),
    "age": tuple(_AGES),
    "emotion": _EMOTIONS,
    "language": tuple(_SPOKEN.values()),
}
_AMOUNTS = ("", "some ", "a bit of ", "a little bit of ", "a lot of ", "lots of ")
_MILKS = ("milk", "whole milk", "skim milk", "soy milk", "almond milk", "cream")
_SUGARS = ("sugar", "brown sugar", "sweetener")
# What may be ordered in a slot, and how it is asked for.
_SLOTS = {
    "size": ("small", "medium", "large", "eight ounce", "twelve ounce", "sixteen ounce", "twenty ounce"),
    "coffeeDrink": ("coffee", "iced coffee", "drip coffee", "house coffee", "espresso", "americano")
    + ("latte", "cappuccino", "mocha", "iced mocha"),
    "roast": ("light roast", "medium roast", "dark roast"),
    "numberOfShots": ("single shot", "double shot", "triple shot"),
    "milkAmount": tuple(amount + milk for milk, amount in product(_MILKS, _AMOUNTS)),
    "sugarAmount": tuple(amount + sugar for sugar, amount in product(_SUGARS, _AMOUNTS)),
}
_ASKED = {
    "size": "Which size is ordered?",
    "coffeeDrink": "Which drink is ordered?",
    "roast": "Which roast is ordered?",
    "numberOfShots": "How many shots are ordered?",
    "milkAmount": "What milk or cream is ordered, and how much?",
    "sugarAmount": "What sugar or sweetener is ordered, and how much?",
}
_PROMPTS = {
    "transcription": (
        "Repeat the following word for word:",
        "Write down exactly what is said:",
        "Transcribe this:",
        "What are the exact words here?",
    ),
    "question": (
        "Answer in a few words:",
        "Give a short answer to this question:",
        "Answer this question briefly:",
        "Reply with the answer only:",
    ),
    "command": (
        "{} Answer in a few words:",
        "{} Answer from this order:",
        "Here is an order. {}",
        "Listen to the order. {}",
    ),
    "spelling": (
        "Write down the letters and digits that are said:",
        "Which letters and numbers are spelled here?",
        "Note the spelling and the numbers:",
    ),
    "gender": (
        "Is a man or a woman speaking?",
        "Who is speaking, a man or a woman?",
        "Say whether this is the voice of a man or a woman:",
    ),
    "age": (
        "Is a child or an adult speaking?",
        "Who is speaking, a child or an adult?",
        "Say whether this is the voice of a child or an adult:",
    ),
    "emotion": (
        "How does the speaker sound: angry, bored, disgusted, fearful, happy, neutral or sad?",
        "Which emotion is in the voice: angry, bored, disgusted, fearful, happy, neutral or sad?",
    ),
    "language": (
        "Which language is spoken: English, German or Dutch?",
        "Is this English, German or Dutch?",
        "Name the language, English, German or Dutch:",
    ),
}
_NUMBERS = "zero one two three four five six seven eight nine ten eleven twelve thirteen fourteen fifteen sixteen"
_FIGURES = {word: str(i) for i, word in enumerate(f"{_NUMBERS} seventeen eighteen nineteen twenty".split())}
_SINGLE = r"(?:[^\W_]|oh|" + "|".join(_NUMBERS.split()[:10]) + ")"
_SPELLED = re.compile(rf"[0-9]|\b{_SINGLE}(?:[ ,.-]+{_SINGLE}){{2,}}\b", re.IGNORECASE)


@dataclass(frozen=True)
class Task:
    """One thing to be found out of a recording.

    Attributes:
        prompt: plain words; the sound, or the text in its place, follows after one blank.
        answer: what is to be answered, short, as an LLM would write it.
        choices: all answers that there are, `answer` among them; () where any may come.
        accepted: other answers to an open question that are as good.
        about: the slot that a command's task is about.
    """

    name: str
    prompt: str
    answer: str
    choices: tuple[str, ...] = ()
    accepted: tuple[str, ...] = ()
    about: str = ""


def tasks_of(text: str, columns: Mapping[str, Any], language: str) -> list[Task]:
    """Every task that a row can pose, in the order of `TASKS`; commands have one for each slot.

    Args:
        text: the transcript as it is written, "" where it is not known.
        columns: of the manifest's row: `answer` ("Paris|in Paris": the first is the one to write), `slots` (name to
            value), `gender`, `age`, `emotion`; each may be absent.
        language: code such as en or de-AT.
    """
    spoken = _SPOKEN.get(language.lower().partition("-")[0], "")
    slots = columns.get("slots")
    slots = slots if isinstance(slots, Mapping) else {}
    tasks = [_task("transcription", text.strip())] if spoken and _words(text) else []
    tasks += _questions(text, columns.get("answer")) if not slots else _commands(slots)
    tasks += [_task("spelling", text.strip())] if _SPELLED.search(text) else []
    tasks += _voices(columns)
    # A language that nobody wrote down is taken for English: of a row that says nothing else it is not asked.
    return tasks + ([_task("language", spoken, TRAITS["language"])] if spoken and tasks else [])


def prompts_of(name: str, about: str = "") -> tuple[str, ...]:
    """The wordings of a task; the first is the one that is evaluated, training may take any.

    Args:
        about: of a command, the slot that is asked for.
    """
    words = re.sub(r"(?<=[a-z])(?=[A-Z])|_", " ", about).lower()
    return tuple(
        prompt.replace("{}", _ASKED.get(about, f"Which {words or 'item'} is wanted?")) for prompt in _PROMPTS[name]
    )


def score(task: Task, said: str) -> float:
    """How well an answer solves its task, from 0 to 1.

    A transcription has 1 less its word error rate, a spelling 1 less the error rate of its letters and digits, at least
    0. A closed answer is right if it names the answer and no other choice, but for one that is part of it ("milk: whole
    milk"); an open one if it holds the answer's words.
    """
    if task.name == "transcription":
        return _alike(_words(task.answer), _words(said))
    if task.name == "spelling":
        return _alike(_characters(task.answer), _characters(said))
    if task.choices:
        named = _named(task.choices, said)
        others = {choice for choice in named if not _holds(_bare(task.answer), _bare(choice))}
        return float(task.answer in named and not others)
    return float(any(_holds(_words(said), _words(answer)) for answer in (task.answer, *task.accepted)))


def edit_distance(truth: Sequence[object], other: Sequence[object]) -> int:
    """How many items are to be put in, left out or changed to come from one sequence to the other."""
    above = list(range(len(other) + 1))
    for i, wanted in enumerate(truth, 1):
        line = [i]
        for j, given in enumerate(other, 1):
            line.append(min(above[j] + 1, line[-1] + 1, above[j - 1] + (wanted != given)))
        above = line
    return above[-1]


def _task(
    name: str, answer: str, choices: tuple[str, ...] = (), accepted: tuple[str, ...] = (), about: str = ""
) -> Task:
    return Task(name, prompts_of(name, about)[0], answer, choices, accepted, about)


def _questions(text: str, answer: Any) -> list[Task]:
    answers = [one.strip() for one in answer.split("|")] if isinstance(answer, str) else []
    answers = [one for one in answers if _words(one)]
    return [_task("question", answers[0], accepted=tuple(answers[1:]))] if answers and text.strip() else []


def _commands(slots: Mapping[str, Any]) -> Iterator[Task]:
    """The known slots in their order, then the others by name; a value that is not among a slot's own makes it open."""
    filled = {str(name): str(value).strip() for name, value in slots.items() if value is not None}
    for name in [*(name for name in _SLOTS if name in filled), *sorted(set(filled) - set(_SLOTS))]:
        choices = _SLOTS.get(name, ())
        if _words(filled[name]):
            yield _task("command", filled[name], choices if filled[name] in choices else (), about=name)


def _voices(columns: Mapping[str, Any]) -> list[Task]:
    """Gender, age and emotion; the voices of a boy and a girl are not to be told apart.

    Readers are neutral from end to end, which takes no ears to say: neutral is asked of sets alone that were acted, and
    those say of every clip whether it was `truncated`.
    """
    gender, age, emotion = (str(columns.get(name) or "").strip().lower() for name in ("gender", "age", "emotion"))
    who = next((who for who, words in _GENDERS.items() if gender in words), "")
    grown = _age(age)
    felt = emotion in _EMOTIONS and (emotion != "neutral" or "truncated" in columns)
    tasks = [_task("gender", who, TRAITS["gender"])] if who and grown in ("", "an adult") else []
    tasks += [_task("age", grown, TRAITS["age"])] if grown in _AGES else []
    return tasks + ([_task("emotion", emotion, TRAITS["emotion"])] if felt else [])


def _age(told: str) -> str:
    """Of years, a range of them (its middle) or a word: a key of `_AGES`, "between", or "" where it says nothing."""
    years = [float(number) for number in re.findall(r"\d{1,3}(?:\.\d+)?", told)][:2]
    if not years:
        return next(
            (age for age, words in _AGES.items() if told in words), "between" if told.startswith("teen") else ""
        )
    middle = sum(years) / len(years)
    return "a child" if middle < _CHILD_BELOW else "an adult" if middle >= _ADULT_FROM else "between"


def _words(text: str) -> list[str]:
    """Lower-case words of letters, figures and apostrophes, small numbers in figures."""
    plain = unicodedata.normalize("NFKC", text).lower().replace("’", "'")
    words = (word.strip("'") for word in re.findall(r"[^\W_]+(?:'[^\W_]+)*", plain))
    return [_FIGURES[word] if word in _FIGURES else word for word in words]


def _characters(text: str) -> str:
    """Letters and digits alone; "oh" beside single ones is the digit."""
    return "".join("0" if word == "oh" else word for word in _words(text))


def _alike(truth: Sequence[str], other: Sequence[str]) -> float:
    return max(0.0, 1 - edit_distance(truth, other) / len(truth)) if truth else 0.0


def _holds(words: Sequence[str], some: Sequence[str]) -> bool:
    """Whether `some` stand in `words`, one after another."""
    return any(list(words[i : i + len(some)]) == list(some) for i in range(len(words) - len(some) + 1))


def _named(choices: Sequence[str], said: str) -> set[str]:
    """The choices that are named; "iced coffee" does not name "coffee" too.

    Articles may be left out, and so may the last word that all choices share ("dark" for "dark roast").
    """
    short = {choice: _bare(choice) for choice in choices}
    if len({words[-1] for words in short.values()}) == 1 and all(len(words) > 1 for words in short.values()):
        short = {choice: words[:-1] for choice, words in short.items()}
    words, named = _words(said), set()
    for choice in sorted(short, key=lambda choice: -len(short[choice])):
        size = len(short[choice])
        for i in range(len(words) - size + 1):
            if words[i : i + size] == short[choice]:
                words[i : i + size] = [""] * size  # no part of it names another choice
                named.add(choice)
    return named


def _bare(choice: str) -> list[str]:
    words = _words(choice)
    return words[1:] if len(words) > 1 and words[0] in ("a", "an", "the") else words
