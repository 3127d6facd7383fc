from __future__ import annotations

import time

import pytest
import torch

from ira.bench.timing import Spread, Work, in_turns, seconds_of, spread

CPU = torch.device("cpu")


def test_median_and_quartiles_by_hand():
    assert spread([5.0, 1.0, 4.0, 2.0, 3.0]) == Spread(3.0, 2.0, 4.0)
    assert spread([1.0, 2.0]) == Spread(1.5, 1.25, 1.75)
    assert spread([7.0]) == Spread(7.0, 7.0, 7.0)


def test_the_quartiles_of_a_rate_stand_in_order():
    assert Spread(2.0, 1.0, 4.0).of(lambda seconds: 8 / seconds) == Spread(4.0, 2.0, 8.0)


def test_works_warm_up_and_then_take_turns_each_prepared_before():
    log: list[str] = []
    works = {name: Work(lambda n=name: log.append(n), lambda n=name: log.append(f"to {n}")) for name in "ab"}
    timed = in_turns(works, CPU, 2)
    assert [one for one in log if len(one) == 1] == ["a", "b", "a", "b", "a", "b"]
    assert log[:2] == ["to a", "a"] and log.count("to b") == 3
    assert set(timed) == {"a", "b"} and timed["a"].megabytes is None


def test_preparing_is_not_timed():
    assert seconds_of(Work(lambda: None, lambda: time.sleep(0.05)), CPU) < 0.04
    assert seconds_of(Work(lambda: time.sleep(0.05)), CPU) == pytest.approx(0.05, abs=0.04)
