from __future__ import annotations

import sys

import pytest
import torch

from ira.errors import InputError
from ira.evaluation import metrics


def speech_like(seed: int = 0) -> torch.Tensor:
    """Two seconds of noise in bursts, as syllables are: [1, N]."""
    time = torch.arange(48_000) / 24_000
    noise = torch.randn(len(time), generator=torch.Generator().manual_seed(seed))
    return (0.2 * noise * torch.sin(6.2832 * 3 * time).clamp(min=0))[None]


def test_texts_are_compared_by_their_letters():
    assert metrics.letters("It’s  Two-fold, SHE said!") == "it's two fold she said"
    assert metrics.letters("?! 12") == ""


def test_character_errors_are_counted_over_all_texts():
    assert metrics.error_share(["abcd", "ef"], ["abxd", "ef"]) == pytest.approx(1 / 6)
    assert metrics.error_share(["Abcd!"], ["abcd"]) == 0
    assert metrics.error_share(["abcd", "..."], ["", "noise"]) == 1
    assert metrics.error_share(["?"], ["a"]) is None
    assert metrics.character_errors("ab", "abcd") == metrics.character_errors("abcd", "ab") == 2


def test_the_interval_of_a_difference_holds_it_and_is_wide_where_texts_differ():
    characters = [10] * 40
    assert metrics.difference_interval([3] * 40, [1] * 40, characters) == pytest.approx((0.2, 0.2))
    interval = metrics.difference_interval([4, 0] * 20, [0] * 40, characters)
    assert interval is not None and 0.1 < interval[0] < 0.2 < interval[1] < 0.3
    assert metrics.difference_interval([], [], []) is None


def test_weights_are_heard_in_a_mean():
    assert metrics.weighted_mean([1.0, 0.0], [1, 3]) == 0.25 and metrics.weighted_mean([], []) is None


def test_recall_counts_the_right_column_among_the_most_similar():
    similarity = torch.tensor([[0.9, 0.1, 0.0], [0.5, 0.4, 0.1], [0.9, 0.8, 0.1]])
    assert metrics.recall_at_k(similarity, [0, 1, 2], 1) == pytest.approx(1 / 3)
    assert metrics.recall_at_k(similarity, [0, 1, 2], 2) == pytest.approx(2 / 3)
    assert metrics.recall_at_k(torch.zeros(2, 3), [0, 1], 1) == 0, "an encoder that tells nothing apart finds nothing"
    assert metrics.recall_at_k(torch.zeros(0, 3), [], 1) is None


def test_ranking_area_and_equal_error_by_hand():
    assert metrics.ranking_area([0.9, 0.4], [0.5, 0.1]) == 0.75
    assert metrics.ranking_area([0.5], [0.5]) == 0.5
    assert metrics.equal_error_rate([0.9, 0.8], [0.2, 0.1]) == 0
    assert metrics.equal_error_rate([0.9, 0.4], [0.5, 0.1]) == 0.5
    assert metrics.ranking_area([], [0.1]) is None and metrics.equal_error_rate([0.1], []) is None


def test_gap_closed_stands_between_floor_and_ceiling():
    assert metrics.gap_closed(-2.0, -3.0, -1.0) == 0.5
    assert metrics.gap_closed(-2.0, -1.0, -3.0) is None
    assert metrics.gap_closed(None, -1.0, 0.0) is None


def test_a_mean_of_nothing_is_none():
    assert metrics.mean([]) is None and metrics.mean([1.0, 2.0]) == 1.5


def test_a_copy_scores_best_and_noise_worse():
    clean = speech_like()
    noisy = clean + 0.2 * torch.randn(clean.shape, generator=torch.Generator().manual_seed(1))
    assert metrics.stoi(clean, clean) > 0.999 > 0.98 > metrics.stoi(clean, noisy)
    best, worse = metrics.pesq(clean, clean), metrics.pesq(clean, noisy)
    assert best is not None and worse is not None and best > 4.5 > worse
    assert metrics.mel_distance(clean, clean) == 0 < metrics.mel_distance(clean, noisy)


def test_silence_has_no_pesq():
    assert metrics.pesq(torch.zeros(1, 48_000), torch.zeros(1, 48_000)) is None


def test_a_missing_package_is_named_with_its_remedy(monkeypatch: pytest.MonkeyPatch):
    monkeypatch.setitem(sys.modules, "jiwer", None)
    with pytest.raises(InputError, match=r"jiwer is not installed.*pip install -e '\.\[eval\]'"):
        metrics.error_share(["a"], ["a"])
