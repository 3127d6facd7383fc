"""Splits: the corpus' own, or by a hash that does not move and keeps speakers apart."""

from __future__ import annotations

from pathlib import Path

from ira.data.importers.corpus import Recording
from ira.data.importers.splits import assign


def recordings(speakers, sentences=3, split=""):
    return [
        Recording(f"{speaker}-{at}.wav", Path("x.wav"), f"text {at}", f"s{speaker}" if speaker else "", split=split)
        for speaker in speakers
        for at in range(sentences)
    ]


def by_split(placed):
    return {split: [r for r in placed if r.split == split] for split in ("train", "val", "test")}


def test_a_twentieth_of_the_speakers_is_held_out_for_each_and_none_is_in_two():
    placed, rule = assign(recordings(range(1, 101)))
    speakers = {split: {r.speaker for r in found} for split, found in by_split(placed).items()}
    assert {split: len(found) for split, found in speakers.items()} == {"train": 90, "val": 5, "test": 5}
    assert len(set.union(*speakers.values())) == 100 and "speaker" in rule


def test_the_split_of_a_speaker_does_not_depend_on_the_order_of_the_recordings():
    forward, backward = assign(recordings(range(1, 31)))[0], assign(recordings(range(1, 31))[::-1])[0]
    assert {r.name: r.split for r in forward} == {r.name: r.split for r in backward}


def test_three_speakers_give_one_to_each_split_and_two_are_split_by_sentence():
    assert {len({r.speaker for r in found}) for found in by_split(assign(recordings([1, 2, 3]))[0]).values()} == {1}
    placed, rule = assign(recordings([1, 2], sentences=20))
    texts = [{r.text for r in found} for found in by_split(placed).values()]
    assert sum(map(len, texts)) == 20 and all(texts) and "speakers known: 2" in rule


def test_recordings_without_speaker_are_placed_by_their_sentence():
    placed, _ = assign(recordings([0], sentences=100))
    assert {split: len(found) for split, found in by_split(placed).items()} == {"train": 90, "val": 5, "test": 5}


def test_the_splits_of_the_corpus_stay():
    placed, rule = assign([*recordings([1], split="test"), *recordings([2], split="train")])
    assert {r.speaker: r.split for r in placed} == {"s1": "test", "s2": "train"} and "own" in rule


def test_two_sentences_are_too_few_to_hold_any_out():
    assert {r.split for r in assign(recordings([1], sentences=2))[0]} == {"train"}
