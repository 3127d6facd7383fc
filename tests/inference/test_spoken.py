from __future__ import annotations

import torch

from ira.inference.faults import Fault
from ira.inference.speaking import Piece, SaidPiece
from ira.inference.spoken import Spoken, beginning


def spoken(*told: list[str], attempts: int = 3) -> Spoken:
    """A piece for each list of faults."""
    codes = torch.zeros(2, 75, dtype=torch.long)
    pieces = [
        (
            Piece("one two three and so on for long", torch.ones(1), 0),
            SaidPiece(codes, True, faults=[Fault("loop", t) for t in one]),
        )
        for one in told
    ]
    return Spoken(torch.zeros(1, 12_000), codes, True, attempts, "text", 24_000, pieces)


def test_good_speech_has_nothing_to_remark():
    assert spoken([], []).faults == [] and spoken([], []).remark == "" and spoken([]).seconds == 0.5


def test_a_fault_names_its_piece_where_there_are_several():
    assert spoken(["repeats itself"]).remark == "after 3 attempts it repeats itself; try another seed"
    assert spoken([], ["repeats itself"], attempts=1).faults == [
        "piece 2 of 2 ('one two three and so on') repeats itself"
    ]


def test_of_many_faults_three_are_told_and_the_rest_counted():
    remark = spoken(*[["f"]] * 5).remark
    assert remark.count(" f") == 3 and "and 2 more; try" in remark and "\n" not in remark


def test_the_beginning_of_a_text_ends_with_a_whole_word():
    assert beginning("one two three", 20) == "one two three"
    assert beginning("one two three", 7) == "one two"
    assert beginning("one two three", 9) == "one two"
    assert beginning("abcdefgh", 3) == "abc"
