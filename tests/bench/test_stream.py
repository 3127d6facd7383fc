from __future__ import annotations

import time
from collections.abc import Iterator

import pytest
import torch
from torch import Tensor

from ira.bench.stream import Heard, hear


def test_gaps_and_silence_by_hand():
    heard = Heard(came=[1.0, 2.0, 5.0, 5.5], lasts=[2.0, 1.0, 1.0, 0.5])
    assert heard.gaps == [1.0, 3.0, 0.5]
    assert heard.silence == 1.0  # the first two last until 4


def test_parts_are_timed_as_they_come():
    def parts() -> Iterator[Tensor]:
        yield torch.zeros(1, 100)
        time.sleep(0.05)
        yield torch.zeros(1, 50)

    heard = hear(parts(), 100, time.perf_counter())
    assert heard.lasts == [1.0, 0.5]
    assert heard.gaps[0] == pytest.approx(0.05, abs=0.04) and heard.came[0] < 0.04
