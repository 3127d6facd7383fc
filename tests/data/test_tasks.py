from __future__ import annotations

from typing import Any

import pytest

from ira.data.tasks import SETTLED, TASKS, Task, edit_distance, prompts_of, score, tasks_of

GENDER = Task("gender", "", "a man", ("a man", "a woman"))
ORDER = {"size": "small", "milkAmount": "a bit of soy milk", "roast": "dark roast", "coffeeDrink": "coffee"}


def told(text: str = "", language: str = "en", **columns: Any) -> dict[str, str]:
    """The tasks of a row and their answers; of a command, by its slot."""
    return {task.about or task.name: task.answer for task in tasks_of(text, columns, language)}


@pytest.mark.parametrize(
    "text, columns, language, tasks",
    [
        ("Good day.", {}, "en", {"transcription": "Good day.", "language": "English"}),
        ("Guten Tag.", {}, "de-AT", {"transcription": "Guten Tag.", "language": "German"}),
        ("Bonjour.", {}, "fr", {}),
        ("...", {}, "en", {}),
        ("", {"gender": "female"}, "nl", {"gender": "a woman", "language": "Dutch"}),
    ],
)
def test_a_row_poses_what_it_has_the_answer_to(text: str, columns: dict, language: str, tasks: dict):
    assert told(text, language, **columns) == tasks


def test_a_question_knows_several_answers_and_writes_the_first():
    question = tasks_of("What is the capital of France?", {"answer": "Paris|the city of light"}, "en")[1]
    assert (question.name, question.answer, question.accepted) == ("question", "Paris", ("the city of light",))
    assert told("", answer="Paris") == {} and "question" not in told("Paris?", answer="|")


def test_an_order_poses_a_task_for_each_slot_and_no_question():
    tasks = tasks_of("", {"slots": ORDER | {"toppingKind": "nuts", "roast": None}, "answer": "an order"}, "en")
    assert [(task.about, task.answer) for task in tasks[:-1]] == [
        ("size", "small"),
        ("coffeeDrink", "coffee"),
        ("milkAmount", "a bit of soy milk"),
        ("toppingKind", "nuts"),
    ]
    assert all(task.answer in task.choices for task in tasks[:3]) and tasks[3].choices == ()
    assert tasks[3].prompt.startswith("Which topping kind is wanted?")


@pytest.mark.parametrize(
    "text", ["Z A N E", "34 Elm Street", "zero three five one", "M-A-R-K, please", "four oh seven"]
)
def test_spelled_names_and_digits_are_spelling(text: str):
    assert told(text)["spelling"] == text


@pytest.mark.parametrize("text", ["I have a cat", "one of two", "plan A or B works"])
def test_a_single_letter_is_no_spelling(text: str):
    assert "spelling" not in told(text)


@pytest.mark.parametrize(
    "age, gender, answers",
    [
        (6, "male", {"age": "a child"}),
        (13.0, "female", {"age": "a child"}),
        ("15", "male", {}),
        ("teens", "male", {}),
        ("22", "male", {"gender": "a man", "age": "an adult"}),
        ("50-70", "f", {"gender": "a woman", "age": "an adult"}),
        ("adult", "female", {"gender": "a woman", "age": "an adult"}),
        (None, "male", {"gender": "a man"}),
        (30, "prefer not to say", {"age": "an adult"}),
    ],
)
def test_grown_voices_alone_have_a_gender(age: object, gender: str, answers: dict):
    tasks = told("Hello.", age=age, gender=gender)
    assert {name: tasks[name] for name in tasks if name in ("gender", "age")} == answers


def test_neutral_is_asked_of_acted_sets_alone():
    assert told("Hello.", emotion="sad")["emotion"] == "sad"
    assert "emotion" not in told("Hello.", emotion="neutral") and "emotion" not in told("Hello.", emotion="curious")
    assert told("Hello.", emotion="neutral", truncated=False)["emotion"] == "neutral"


def test_tasks_come_in_order_and_each_right_answer_has_full_marks():
    columns = {"gender": "male", "age": 40, "emotion": "sad", "slots": ORDER}
    tasks = tasks_of("A B C", columns, "en") + tasks_of("Why?", {"answer": "so"}, "en")[1:2]
    assert {task.name for task in tasks} == set(TASKS) > SETTLED
    numbers = [TASKS.index(task.name) for task in tasks[:-1]]
    assert numbers == sorted(numbers)
    for task in tasks:
        assert score(task, task.answer) == 1 and score(task, "") == 0
        assert [score(task, choice) for choice in task.choices if choice != task.answer] == [0] * max(
            0, len(task.choices) - 1
        )


@pytest.mark.parametrize(
    "said, points",
    [("A man.", 1), ("It is the voice of a man", 1), ("a woman", 0), ("a man or a woman", 0), ("manly", 0), ("", 0)],
)
def test_a_closed_answer_names_the_one_choice_and_no_other(said: str, points: float):
    assert score(GENDER, said) == points


@pytest.mark.parametrize(
    "slot, said, points",
    [
        ("coffeeDrink", "A coffee, please", 1),
        ("coffeeDrink", "iced coffee", 0),
        ("milkAmount", "bit of soy milk", 1),
        ("milkAmount", "milk: a bit of soy milk", 1),
        ("milkAmount", "a little bit of soy milk", 0),
        ("milkAmount", "soy milk", 0),
        ("roast", "Dark.", 1),
        ("roast", "the dark roast", 1),
        ("roast", "light, not dark", 0),
        ("size", "small or medium", 0),
    ],
)
def test_the_longest_choice_is_the_one_that_is_named(slot: str, said: str, points: float):
    (task,) = [task for task in tasks_of("", {"slots": ORDER}, "en") if task.about == slot]
    assert score(task, said) == points


@pytest.mark.parametrize(
    "said, points", [("It is Paris.", 1), ("paris", 1), ("The Lyon-Paris line", 1), ("Parisian", 0), ("7", 1)]
)
def test_an_open_answer_holds_the_words(said: str, points: float):
    assert score(Task("question", "", "Paris", accepted=("seven",)), said) == points


@pytest.mark.parametrize(
    "said, points",
    [("one two three four", 1), ("One, two - 3 four!", 1), ("one two four", 0.75), ("x " * 20, 0), ("", 0)],
)
def test_a_transcription_loses_by_its_word_errors(said: str, points: float):
    assert score(Task("transcription", "", "One two, three four."), said) == points


@pytest.mark.parametrize("said, points", [("M A R K 4 0 7", 1), ("mark four oh seven", 1), ("Mar 407", 1 - 1 / 7)])
def test_spelling_is_read_as_letters_and_digits(said: str, points: float):
    assert score(Task("spelling", "", "M A R K 407"), said) == pytest.approx(points)


@pytest.mark.parametrize("a, b, steps", [("", "abc", 3), ("kitten", "sitting", 3), ("abc", "abc", 0), ("abc", "", 3)])
def test_edit_distance_by_hand(a: str, b: str, steps: int):
    assert edit_distance(a, b) == edit_distance(b, a) == steps


@pytest.mark.parametrize("name", TASKS)
def test_a_task_has_several_wordings_and_the_first_is_posed(name: str):
    wordings = prompts_of(name)
    assert len(set(wordings)) == len(wordings) >= 2 and not any("{" in prompt for prompt in wordings)
    if name == "question":
        assert wordings[0] == "Answer in a few words:" == tasks_of("Why?", {"answer": "so"}, "en")[1].prompt
