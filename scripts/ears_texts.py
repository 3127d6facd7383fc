"""Texts for ears to learn from, as JSON lines: questions with short answers, orders with slots, numbers, sentences.

    python scripts/ears_texts.py texts.jsonl
    ira import texts texts.jsonl --voices 2 --out data/spoken

The same seed writes the same lines. `answer` holds what counts as right, apart by |; `slots` what an order fills.
"""

from __future__ import annotations

import json
from collections.abc import Iterator
from itertools import permutations
from pathlib import Path
from random import Random
from typing import Annotated, Any

import typer

CAPITALS = {
    **{"France": "Paris", "Germany": "Berlin", "Italy": "Rome", "Spain": "Madrid", "England": "London"},
    **{"Japan": "Tokyo", "China": "Beijing", "Russia": "Moscow", "Egypt": "Cairo", "Greece": "Athens"},
    **{"Austria": "Vienna", "Portugal": "Lisbon", "Ireland": "Dublin", "Norway": "Oslo", "Sweden": "Stockholm"},
    **{"Denmark": "Copenhagen", "Finland": "Helsinki", "Poland": "Warsaw", "Hungary": "Budapest", "Turkey": "Ankara"},
    **{"India": "New Delhi|Delhi", "Canada": "Ottawa", "Mexico": "Mexico City", "Brazil": "Brasilia", "Cuba": "Havana"},
    **{"Kenya": "Nairobi", "Peru": "Lima", "Chile": "Santiago", "Thailand": "Bangkok", "Iran": "Tehran"},
    **{"Iraq": "Baghdad", "Belgium": "Brussels", "Scotland": "Edinburgh"},
}
OPPOSITES = {
    **{"hot": "cold", "big": "small", "up": "down", "left": "right", "day": "night", "black": "white", "good": "bad"},
    **{"happy": "sad", "fast": "slow", "old": "young|new", "open": "closed|close", "high": "low", "hard": "soft|easy"},
    **{"light": "dark|heavy", "love": "hate", "rich": "poor", "strong": "weak", "early": "late", "full": "empty"},
    **{"dry": "wet", "clean": "dirty", "loud": "quiet", "near": "far", "long": "short", "win": "lose", "buy": "sell"},
    **{"push": "pull", "first": "last", "true": "false", "thick": "thin", "deep": "shallow", "wide": "narrow"},
}
COLOURS = {
    **{"grass": "green", "snow": "white", "blood": "red", "coal": "black", "milk": "white", "banana": "yellow"},
    **{"lemon": "yellow", "sun": "yellow", "sky": "blue", "sea": "blue", "tomato": "red", "orange": "orange"},
    **{"leaf": "green", "night": "black", "chocolate": "brown", "strawberry": "red", "carrot": "orange"},
    **{"cherry": "red", "elephant": "gray|grey", "raven": "black"},
}
LEGS = {
    **{"dog": "four|4", "cat": "four|4", "horse": "four|4", "cow": "four|4", "spider": "eight|8", "bird": "two|2"},
    **{"man": "two|2", "chicken": "two|2", "snake": "no|zero|none", "sheep": "four|4", "lion": "four|4"},
    **{"tiger": "four|4", "duck": "two|2"},
}
SOUNDS = {
    **{"dog": "bark|woof", "cat": "meow", "cow": "moo", "duck": "quack", "lion": "roar", "sheep": "baa|bleat"},
    **{"horse": "neigh|whinny", "pig": "oink", "bee": "buzz", "snake": "hiss", "wolf": "howl"},
    **{"frog": "croak|ribbit"},
}
ASKED = (
    (
        CAPITALS,
        ("What is the capital of {}?", "Which city is the capital of {}?", "Tell me the capital of {}.")
        + ("{} has which capital?", "What do you call the capital city of {}?"),
    ),
    (
        OPPOSITES,
        ("What is the opposite of {}?", "Which word is the opposite of {}?", "Tell me the opposite of {}.")
        + ("What is not {} but the opposite?",),
    ),
    (COLOURS, ("What colour is the {}?", "Which colour does the {} have?", "Tell me the colour of the {}.")),
    (LEGS, ("How many legs does a {} have?", "Tell me how many legs a {} has.", "A {} has how many legs?")),
)
HEARD = ("What sound does a {} make?", "Which sound do you hear from a {}?", "Tell me the sound of a {}.")
ROUNDS = {
    "day": "Monday Tuesday Wednesday Thursday Friday Saturday Sunday".split(),
    "month": "January February March April May June July August September October November December".split(),
}
AFTER = ("Which {} comes after {}?", "What {} follows {}?", "Tell me the {} after {}.")
BEFORE = ("Which {} comes before {}?", "Tell me the {} before {}.")
BY_SIZE = "ant mouse cat dog sheep horse elephant whale".split()
SUMS = ("What is {} plus {}?", "How much is {} and {}?", "Add {} and {}.")
NUMBERS = (
    "zero one two three four five six seven eight nine ten eleven twelve thirteen fourteen fifteen sixteen seventeen "
    "eighteen"
).split()

AMOUNTS = ("", "some ", "a bit of ", "a little bit of ", "a lot of ", "lots of ")
SIZES = ["small", "medium", "large", "eight ounce", "twelve ounce", "sixteen ounce", "twenty ounce"]
SHOTS, ROASTS = ["single shot", "double shot", "triple shot"], ["light roast", "medium roast", "dark roast"]
DRINKS = ["coffee", "iced coffee", "drip coffee", "house coffee", "espresso", "americano", "latte", "cappuccino"]
DRINKS += ["mocha", "iced mocha"]
MILKS = ("milk", "whole milk", "skim milk", "soy milk", "almond milk", "cream")
SUGARS = ("sugar", "brown sugar", "sweetener")
ORDERED = ("Can I get a", "I would like a", "Please give me a", "Could you make me a", "I want a", "Make me a")
ORDERED += ("Get me a", "May I have a", "I'll take a", "Give me a")

NAMES = (
    "Anna Mark Peter Laura Simon Julia David Emma Oscar Lucy Frank Helen Robert Alice Martin Clara Thomas Maria Daniel "
    "Sophie"
).split()
LETTERS = "ABCDEFGHIJKLMNOPQRSTUVWXYZ"

SAID = ("", "", "", "I think ", "They said that ", "We know that ", "It is true that ", "Do you know if ", "Perhaps ")
SAID += ("He told me that ",)
WHO = (
    "the man,the woman,my brother,my sister,the teacher,our neighbour,the doctor,the old king,a young girl,the boy,the "
    "farmer,the captain,the driver,her mother,his father,the children,the students,the workers,my friend,the police,a "
    "stranger,the soldier,the baker,the king,the queen,the cook,the president,the company,the government,the team,the "
    "dog,the cat,the horse,the bird"
).split(",")
DID = (
    "saw,found,bought,sold,lost,opened,closed,painted,cleaned,broke,carried,followed,wanted,remembered,forgot,visited,"
    "liked,watched,built,left,took,brought,needed,loved,heard,described,used,kept,moved,held"
).split(",")
WHAT = (
    "the house,a red car,the old book,a new phone,the window,the door,a letter,the picture,some bread,"
    "the garden,a small boat,the bridge,the river,the city,a green bottle,the money,the key,"
    "a white horse,the table,two chairs,the kitchen,a long road,the mountain,the station,the train,"
    "an apple,the water,the fire,a black dog,the newspaper,the music,the school,a big tree,the market,"
    "a glass of milk,a cup of coffee,the answer,the question,the box,the paper"
).split(",")
WHEN = (
    "yesterday,today,last night,in the morning,every day,on Monday,on Friday,in the summer,in the winter,after dinner,"
    "before noon,at the end of the day,last year,in March,a long time ago,two days ago,near the church,in Paris,in "
    "London,behind the hill,by the sea,in the village,with great care,for the first time,without a word,again and "
    "again,very slowly,at once,in the evening,for three years"
).split(",")

Row = dict[str, Any]


def questions(random: Random) -> Iterator[Row]:
    """Every question there is, each in every wording."""
    for answers, wordings in ASKED:
        yield from _asked(answers, wordings)
    for kind, ring in ROUNDS.items():
        for i, one in enumerate(ring):
            for step, wordings in ((1, AFTER), (-1, BEFORE)):
                for wording in wordings:
                    yield {"text": wording.format(kind, one), "answer": ring[(i + step) % len(ring)]}
    yield from _asked(SOUNDS, HEARD)
    for one, other in permutations(BY_SIZE, 2):
        bigger = max(one, other, key=BY_SIZE.index)
        yield {"text": f"Which is bigger, {_a(one)} or {_a(other)}?", "answer": bigger}
    for a in range(1, 10):
        for b in range(1, 10):
            wording = random.choice(SUMS)
            yield {"text": wording.format(NUMBERS[a], NUMBERS[b]), "answer": f"{a + b}|{NUMBERS[a + b]}"}


def _asked(answers: dict[str, str], wordings: tuple[str, ...]) -> Iterator[Row]:
    return ({"text": words.format(about), "answer": one} for about, one in answers.items() for words in wordings)


def _a(noun: str) -> str:
    return f"{'an' if noun[0] in 'aei' else 'a'} {noun}"


def order(random: Random) -> Row:
    """A drink, and some of what else can be said about one."""
    slots: dict[str, str] = {}
    for slot, values, share in (("size", SIZES, 0.7), ("numberOfShots", SHOTS, 0.4), ("roast", ROASTS, 0.4)):
        if random.random() < share:
            slots[slot] = random.choice(values)
    slots["coffeeDrink"] = random.choice(DRINKS)
    head = " ".join([random.choice(ORDERED), *slots.values()])
    for slot, things, share in (("milkAmount", MILKS, 0.6), ("sugarAmount", SUGARS, 0.5)):
        if random.random() < share:
            slots[slot] = random.choice([amount + thing for thing in things for amount in AMOUNTS])
    added = [slots[slot] for slot in ("milkAmount", "sugarAmount") if slot in slots]
    text = f"{head} with {' and '.join(added)}" if added else head
    for vowel in ("eight", "iced", "espresso", "americano"):
        text = text.replace(f" a {vowel}", f" an {vowel}")
    return {"text": text + random.choice([".", ", please."]), "slots": slots}


def number(random: Random) -> Row:
    """Digits, a name or a word of letters, one by one."""
    kind = random.random()
    if kind < 0.5:
        return {"text": " ".join(random.choice(NUMBERS[:10]) for _ in range(random.randint(3, 7)))}
    word = random.choice(NAMES) if kind < 0.8 else "".join(random.choice(LETTERS) for _ in range(random.randint(3, 6)))
    return {"text": " ".join(word.upper())}


def sentence(random: Random) -> Row:
    """Who did what, and mostly when or where."""
    text = f"{random.choice(SAID)}{random.choice(WHO)} {random.choice(DID)} {random.choice(WHAT)}"
    text += f" {random.choice(WHEN)}" if random.random() < 0.8 else ""
    return {"text": f"{text[0].upper()}{text[1:]}."}


def main(
    out: Annotated[Path, typer.Argument(metavar="FILE.jsonl")],
    orders: Annotated[int, typer.Option(help="how many orders of coffee")] = 1500,
    numbers: Annotated[int, typer.Option(help="how many numbers and spelled words")] = 500,
    sentences: Annotated[int, typer.Option(help="how many other sentences")] = 3000,
    seed: int = 5,
) -> None:
    """Write the texts; see the head of this file."""
    random = Random(seed)
    rows = list(questions(random))
    for make, count in ((order, orders), (number, numbers), (sentence, sentences)):
        rows += [make(random) for _ in range(count)]
    distinct = {row["text"]: row | {"language": "en"} for row in rows}
    out.write_text("".join(json.dumps(row) + "\n" for row in distinct.values()), encoding="utf-8")
    typer.echo(f"{out}: {len(distinct)} texts")


if __name__ == "__main__":
    typer.run(main)
