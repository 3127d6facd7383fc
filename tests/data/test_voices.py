"""Voices in words and tags."""

from __future__ import annotations

import itertools

import pytest
import torch

from ira.data.shards import Example
from ira.data.voices import alternatives, attributes, captions, tag_overlap, with_measures


def voice(description: str = "", emotion: str = "", language: str = "en", **extra) -> Example:
    return Example(torch.zeros(1, 1).long(), 1, "", "", description, language, "", "", emotion, extra)


def test_known_and_measured_attributes_become_captions_after_the_own_description():
    made = captions(voice("My uncle.", gender="male", f0_median_hz=105.0, words_per_second=2.0))
    assert made[0] == "My uncle."
    assert "a man with a low voice speaking slowly" in made and "a deep male voice" in made
    young = captions(voice(gender="female", age="24", f0_median_hz=230, words_per_second=4.5))
    assert "a young woman, high voice, fast" in young
    assert "A young woman speaks English fast, with a high voice." in young


@pytest.mark.parametrize(
    ("gender", "age", "hz", "pitch"),
    [
        ("male", 30, 90, "very low"),
        ("male", 30, 100, "low"),
        ("male", 30, 135, "medium"),
        ("male", 30, 170, "high"),
        ("male", 30, 180, "very high"),
        ("female", 30, 140, "very low"),
        ("female", 30, 150, "low"),
        ("female", 30, 180, "medium"),
        ("female", 30, 240, "high"),
        ("male", 7, 180, "very low"),
        ("female", 7, 300, "very high"),
        (None, None, 165, "medium"),
    ],
)
def test_pitch_is_relative_to_who_speaks(gender, age, hz, pitch):
    assert attributes(voice(gender=gender, age=age, f0_median_hz=hz))["pitch"] == pitch


@pytest.mark.parametrize(
    ("age", "tag"),
    [(6, "child"), ("15", "teenage"), ("24", "young"), (40, "middle-aged"), ("50-70", "older"), ("adult", None)]
    + [("", None), (None, None), (True, None), (900, None), ("Teenager", "teenage")],
)
def test_ages_are_binned(age, tag):
    assert attributes(voice(age=age)).get("age") == tag


def test_an_accent_is_named_beside_the_language_unless_it_is_a_kind_of_it():
    hindi = captions(voice(gender="female", accent="Hindi"))
    assert "a woman speaking English with a Hindi accent" in hindi
    assert "a man speaking Flemish Dutch" in captions(voice(gender="male", language="nl", accent="Flemish Dutch"))
    assert attributes(voice(accent="English (mostly US)"))["accent"] == "English"


def test_children_are_girls_and_boys_and_emotions_are_heard():
    made = captions(voice(gender="female", age=8, emotion="angry"))
    assert "a girl who sounds angry" in made and "an angry voice" in made
    assert not any("woman" in caption or "female" in caption for caption in made)


def test_nothing_is_said_of_what_is_not_known():
    assert attributes(voice(language="xx")) == {} and captions(voice(language="xx")) == []
    assert attributes(voice(f0_median_hz=None, words_per_second="3", gender="prefer not to say", age=None)) == {
        "language": "English"
    }
    assert attributes(voice(f0_median_hz=float("nan"), words_per_second=0)) == {"language": "English"}


def test_captions_never_repeat_are_well_spaced_and_always_the_same():
    genders, ages, pitches = ("male", "female", None), (6, 15, 24, 70, None), (90, 160, 300, None)
    for gender, age, hz, pace in itertools.product(genders, ages, pitches, (1, 3, 6, None)):
        example = voice("", "sad", gender=gender, age=age, f0_median_hz=hz, words_per_second=pace, accent="Hindi")
        made = captions(example)
        assert made == captions(example) and len(set(made)) == len(made) >= 4
        for caption in made:
            assert caption == " ".join(caption.split()) and "None" not in caption
            assert " a older" not in f" {caption}" and " a angry" not in f" {caption}"


def test_overlap_is_one_for_equal_tags_zero_for_different_ones_and_symmetric():
    tags = [
        attributes(voice(gender=gender, age=age, f0_median_hz=hz, language=language))
        for gender, age, hz, language in [
            ("male", 30, 100, "en"), ("female", 70, 240, "de"), ("male", 30, 130, "en"), (None, None, None, "en"),
        ]
    ]  # fmt: skip
    for a, b in itertools.product(tags, tags):
        assert 0 <= tag_overlap(a, b) <= 1 and tag_overlap(a, b) == tag_overlap(b, a)
        assert (tag_overlap(a, b) == 1) == (a == b)
    assert tag_overlap({"gender": "male", "pitch": "very low"}, {"gender": "female", "pitch": "very high"}) == 0
    assert tag_overlap({}, {}) == 0 == tag_overlap({}, tags[0])


def test_overlap_by_hand():
    low, medium = {"gender": "male", "pitch": "low"}, {"gender": "male", "pitch": "medium"}
    assert tag_overlap(low, medium) == 0.875
    assert tag_overlap(low, {"gender": "male"}) == 0.5
    assert tag_overlap(low, {**low, "language": "English", "pace": "fast"}) == 0.5


def test_noise_and_room_are_told_in_simple_words():
    made = captions(voice(gender="male", f0_median_hz=130, snr_db=15.0, reverberation_seconds=0.6))
    assert "a noisy recording of a man" in made and "a man in a room with an echo" in made
    assert made[-1].endswith("The recording is noisy and made in a room with an echo.")
    assert attributes(voice(snr_db=50.0, reverberation_seconds=0.1)) == {
        "language": "English",
        "noise": "clean",
        "reverberation": "dry",
    }


def test_alternatives_differ_in_one_thing_and_say_which_is_right():
    scales = alternatives(attributes(voice(gender="female", age=30, f0_median_hz=230, words_per_second=2.0)))
    assert scales["gender"] == (["a man", "a woman"], 1)
    options, right = scales["pitch"]
    assert options[right] == "a woman with a high voice" and options[0] == "a woman with a very low voice"
    assert scales["pace"][1] == 0 and "noise" not in scales
    child = alternatives(attributes(voice(gender="male", age=8, f0_median_hz=230)))
    assert child["gender"][0] == ["a boy", "a girl"] and child["pitch"][0][2] == "a boy with a medium voice"
    assert alternatives({}) == {}


def test_the_manifest_has_the_last_word_over_what_was_measured():
    measures = {"f0_median_hz": 100.0, "active_seconds": 2.0, "syllables_per_second": 9.0}
    both = with_measures({"f0_median_hz": 200.0, "age": None}, measures, "one two three four five six")
    assert both["f0_median_hz"] == 200.0 and both["words_per_second"] == 3.0
    assert attributes(voice(**with_measures({}, measures, "")))["pace"] == "fast"
