from __future__ import annotations

from typing import Any

import pytest
import torch

from ira.inference.faults import find_faults, longest_stay, looping_seconds, unexplained_silence, weight

RATE, FRAMES = 24_000, 75.0
TEXT = "the quick brown fox jumps over the lazy dog"  # 35 letters: 2.5 s at the pace of a reader
SYMBOLS = [" ", *TEXT, ""]


def noise(seconds: float) -> torch.Tensor:
    return 0.1 * torch.randn(1, int(seconds * RATE), generator=torch.Generator().manual_seed(0))


def quiet(seconds: float) -> torch.Tensor:
    return torch.zeros(1, int(seconds * RATE))


def tokens(seconds: float, seed: int = 0) -> torch.Tensor:
    """Book 0 of something that does not repeat: [T]."""
    return torch.randint(1024, (int(seconds * FRAMES),), generator=torch.Generator().manual_seed(seed))


def kinds(**changes: Any) -> list[str]:
    """What is wrong with a good piece of 2.5 s after `changes`."""
    codes = changes.pop("codes", torch.stack([tokens(2.5)] * 2))
    frames = codes.shape[-1]
    good = {
        "text": TEXT,
        "codes": codes,
        "finished": True,
        "path": (torch.arange(frames) * len(SYMBOLS) // max(1, frames)),
        "symbols": SYMBOLS,
        "waveform": noise(frames / FRAMES),
        "frame_rate": FRAMES,
        "rate": RATE,
    }
    return [fault.kind for fault in find_faults(**{**good, **changes})]


def test_good_speech_has_no_fault_with_a_path_and_without_one():
    assert kinds() == []
    assert kinds(path=torch.zeros(0, dtype=torch.long), symbols=[]) == []


def test_what_did_not_end_is_said_first():
    assert kinds(finished=False) == ["endless"]
    assert kinds(finished=False, waveform=torch.cat([noise(0.5), quiet(2.0)], dim=-1)) == ["endless", "silence"]


@pytest.mark.parametrize("waveform", [quiet(2.5), quiet(0.0), torch.full((1, 2_400), float("nan"))])
def test_a_piece_without_sound_is_empty_and_nothing_else(waveform: torch.Tensor):
    assert kinds(waveform=waveform) == ["empty"]
    assert kinds(codes=torch.zeros(2, 0, dtype=torch.long), waveform=quiet(0.0)) == ["empty"]


@pytest.mark.parametrize("period", [1, 7, 30, 70])
def test_a_run_of_tokens_said_again_and_again_is_a_loop(period: int):
    run = tokens(1.0)[:period].repeat(-(-150 // period))[:230]
    looped = torch.cat([tokens(0.5, 1), run, tokens(0.3, 2)])
    assert looping_seconds(looped, FRAMES) == pytest.approx(len(run) / FRAMES, abs=0.25)
    assert "loop" in kinds(codes=torch.stack([looped] * 2))


def test_a_loop_with_some_other_tokens_in_it_is_one_all_the_same():
    looped = tokens(1.0)[:20].repeat(8)
    looped[::15] = 1
    assert looping_seconds(looped, FRAMES) > 1.5


def test_said_twice_a_held_vowel_and_silence_are_no_loops():
    twice = torch.cat([tokens(0.5, 1), tokens(0.5, 1), tokens(1.0, 2)])
    held = torch.cat([tokens(1.0), torch.full((30,), 7), tokens(1.0, 1)])
    assert looping_seconds(twice, FRAMES) == looping_seconds(held, FRAMES) == 0
    still = torch.cat([tokens(1.0), torch.full((75,), 7), tokens(1.0, 1)])
    assert looping_seconds(still, FRAMES) > 0
    assert looping_seconds(still, FRAMES, torch.arange(225) // 75 != 1) == 0
    assert looping_seconds(tokens(0.0), FRAMES) == 0


@pytest.mark.parametrize(
    ("text", "sounds", "silent"),
    [
        ("yes no", [noise(0.5), quiet(0.9), noise(0.5)], 0),
        ("yes no", [noise(0.5), quiet(1.3), noise(0.5)], 1.3),
        ("yes, no", [noise(0.5), quiet(1.3), noise(0.5)], 0),
        ("yes, no", [noise(0.5), quiet(1.4), noise(0.5), quiet(1.2), noise(0.5)], 1.2),
        ("yes, no", [noise(0.5), quiet(1.8), noise(0.5)], 1.8),
        ("yes no...", [noise(0.5), quiet(1.3), noise(0.5)], 1.3),  # a stop at the end explains nothing before it
        ("yes", [quiet(0.8), noise(0.5), quiet(0.8)], 0),
        ("yes", [quiet(1.4), noise(0.5)], 1.4),
        ("yes", [noise(0.5), quiet(2.5)], 2.5),
    ],
)
def test_silence_counts_where_no_mark_of_the_text_explains_it(text: str, sounds: list[torch.Tensor], silent: float):
    assert unexplained_silence(text, torch.cat(sounds, dim=-1), RATE) == pytest.approx(silent, abs=0.041)


def test_a_path_that_stays_on_one_sound_is_noticed():
    path = torch.arange(187) * len(SYMBOLS) // 187
    stuck = torch.cat([path[:50], path[50].repeat(100), path[50:]])
    assert longest_stay(stuck, SYMBOLS)[1] == pytest.approx(104, abs=2)
    codes = torch.stack([tokens(len(stuck) / FRAMES)] * 2)
    assert kinds(codes=codes, path=stuck) == ["lingers"]
    waits = torch.cat([torch.zeros(100, dtype=torch.long), path])  # on the space before the text
    assert longest_stay(waits, SYMBOLS)[1] < 10


@pytest.mark.parametrize(("seconds", "wrong"), [(0.8, True), (1.6, False), (7.5, False), (9.0, True)])
def test_a_length_that_no_reader_needs_is_a_fault(seconds: float, wrong: bool):
    assert kinds(codes=torch.stack([tokens(seconds)] * 2)) == (["length"] if wrong else [])


def test_faults_say_how_much_and_weigh_by_how_bad_they_are():
    empty = find_faults("a", torch.zeros(2, 0, dtype=torch.long), True, torch.zeros(0), [], quiet(0), FRAMES, RATE)
    codes = torch.stack([tokens(2.5)] * 2)
    sound = torch.cat([noise(1.0), quiet(1.2), noise(0.5)], dim=-1)
    silent = find_faults(TEXT, codes, True, torch.zeros(0), [], sound, FRAMES, RATE)
    assert silent[0].told == "is silent for 1.2 s"
    assert weight(empty) > weight(silent) > weight([]) == 0
