from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any

import pytest
import torch
from torch import Tensor

from ira.inference import speaking
from ira.inference.faults import Fault
from ira.inference.speaking import ATTEMPTS, SEEDS, SPOKEN_TOGETHER, Piece, SaidPiece, cpu_threads, say
from ira.models.sampling import Sampling

VOICE = torch.nn.functional.normalize(torch.arange(16.0), dim=0)
MODEL: Any = torch.nn.Linear(1, 1)  # is asked for nothing but its device


class NoiseCodec:
    """75 frames a second; a frame of codes is 320 samples of noise, or of nothing where its first code is 0."""

    sample_rate, frame_rate, hop, codebooks, codebook_size = 24_000, 75.0, 320, 2, 1024

    def decode(self, codes: Tensor, frames: Tensor | None = None) -> Tensor:
        noise = 0.1 * torch.randn(1, 1, codes.shape[-1] * 320, generator=torch.Generator().manual_seed(0))
        return noise * (codes[:, :1].repeat_interleave(320, dim=-1) > 0)


CODEC: Any = NoiseCodec()


@dataclass
class Script:
    """Stands for the model: what it says for a seed, and the seeds of every batch that it was asked for."""

    said: dict[int, SaidPiece]
    batches: list[list[int]]

    def __call__(self, model: Any, pieces: Sequence[Piece], *rest: Any) -> list[SaidPiece]:
        self.batches.append([piece.seed for piece in pieces])
        return [self.said.get(piece.seed, said(seed=piece.seed)) for piece in pieces]


@pytest.fixture
def script(monkeypatch: pytest.MonkeyPatch) -> Script:
    made = Script({}, [])
    monkeypatch.setattr(speaking, "_decode", made)
    return made


def said(seconds: float = 1.0, finished: bool = True, seed: int = 0, silent: float = 0.0) -> SaidPiece:
    codes = torch.randint(1, 1024, (2, int(seconds * 75)), generator=torch.Generator().manual_seed(seed % SEEDS))
    codes[:, 20 : 20 + int(silent * 75)] = 0
    return SaidPiece(codes, finished)


def piece(seed: int, text: str = "good day to you") -> Piece:
    return Piece(text, VOICE, seed)


def kinds(one: SaidPiece) -> list[str]:
    return [fault.kind for fault in one.faults]


def test_good_pieces_are_said_once_with_their_sound(script: Script):
    one, two = say(MODEL, CODEC, [piece(1), piece(2)])
    assert script.batches == [[1, 2]]
    assert (one.attempts, one.faults, one.waveform.shape) == (1, [], (1, 24_000))
    assert one.decoding > 0 and one.sounding > 0 and not torch.equal(one.codes, two.codes)


def test_only_what_has_a_fault_is_said_again_with_seeds_that_no_other_text_has(script: Script):
    script.said = {7: said(finished=False), SEEDS + 6: said(1.5), 6: said(2.0, silent=1.2), 20: said(0.0)}
    script.said |= {SEEDS + 7: said(finished=False), SEEDS + 20: said(0.0), 2 * SEEDS + 20: said(0.0)}
    made = say(MODEL, CODEC, [piece(7), piece(6), piece(20), piece(3)])
    assert script.batches == [[7, 6, 20, 3], [SEEDS + 7, SEEDS + 6, SEEDS + 20], [2 * SEEDS + 7, 2 * SEEDS + 20]]
    assert [one.attempts for one in made] == [3, 2, 3, 1]
    assert [kinds(one) for one in made] == [[], [], ["empty"], []]
    assert made[1].codes.shape[-1] == 112
    assert speaking.PIECE_STEP == ATTEMPTS * SEEDS


def test_where_every_attempt_fails_the_best_one_is_kept(script: Script):
    script.said = {0: said(2.0, finished=False, silent=1.2), SEEDS: said(2.0, silent=1.2), 2 * SEEDS: said(0.0)}
    (best,) = say(MODEL, CODEC, [piece(0)])
    assert (kinds(best), best.finished, best.attempts) == (["silence"], True, ATTEMPTS)
    script.said = {seed: said(1.0 + seed / SEEDS / 10, finished=False) for seed in (0, SEEDS, 2 * SEEDS)}
    (first,) = say(MODEL, CODEC, [piece(0)])
    assert first.codes.shape[-1] == 75 and kinds(first) == ["endless"]  # alike: the earliest
    assert first.faults == [Fault("endless", "did not end within 1.0 s")]


def test_greedy_decoding_is_not_repeated_as_it_would_say_the_same(script: Script):
    script.said = {0: said(finished=False)}
    (one,) = say(MODEL, CODEC, [piece(0)], Sampling(temperature=0))
    assert script.batches == [[0]] and one.attempts == 1


def test_long_texts_are_spoken_a_few_pieces_at_a_time_and_come_back_in_order(script: Script):
    pieces = [piece(seed, "good day" if seed % 2 else "good night to you all") for seed in range(19)]
    made = say(MODEL, CODEC, pieces)
    assert [len(batch) for batch in script.batches] == [SPOKEN_TOGETHER, SPOKEN_TOGETHER, 3]
    assert all(torch.equal(made[i].codes, said(seed=i).codes) for i in range(19))
    assert script.batches[0] == list(range(1, 17, 2))  # of like length together
    assert say(MODEL, CODEC, []) == []


def test_thread_count_is_lowered_inside_and_restored_even_after_an_error():
    before = torch.get_num_threads()
    torch.set_num_threads(2)
    try:
        with pytest.raises(RuntimeError), cpu_threads(1):
            assert torch.get_num_threads() == 1
            raise RuntimeError
        assert torch.get_num_threads() == 2
        with cpu_threads(8):
            assert torch.get_num_threads() == 2
    finally:
        torch.set_num_threads(before)
