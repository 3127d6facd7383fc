from __future__ import annotations

from pathlib import Path

import pytest
import torch

from ira.checkpoint import load_model
from ira.data.text import normalize
from ira.inference import speaking
from ira.inference.speaking import LONGEST_PIECE, SEEDS, Piece, cpu_threads, cut_text, say
from ira.models.decode import frame_bound
from ira.models.speech_lm import SpeechLM

VOICE = torch.nn.functional.normalize(torch.arange(16.0), dim=0)


@pytest.fixture(scope="module")
def speech_lm(tiny_model_folder: Path) -> SpeechLM:
    return load_model(SpeechLM, tiny_model_folder, "speech_lm")


def piece(text: str = "good day", seed: int = 0) -> Piece:
    return Piece(text, VOICE, seed)


def test_short_text_is_one_piece_as_it_stands():
    assert cut_text("hello there. how are you?") == ["hello there. how are you?"]


def test_long_text_is_cut_at_sentence_ends_and_neighbours_are_joined_while_they_fit():
    assert cut_text("aa bb. cc dd! ee ff? gg.", longest=14) == ["aa bb. cc dd!", "ee ff? gg."]


def test_a_sentence_that_is_too_long_is_cut_at_commas_then_at_spaces_then_anywhere():
    assert cut_text("one two, three four five six", longest=12) == ["one two,", "three four", "five six"]
    assert cut_text("a" * 25, longest=10) == ["a" * 10, "a" * 10, "a" * 5]


@pytest.mark.parametrize("text", ["", "...", "?! - :", "'"])
def test_text_without_a_letter_makes_no_piece(text: str):
    assert cut_text(text) == []


def test_no_word_is_lost_and_no_piece_is_longer_than_the_longest():
    text = normalize("The 3 kings of Orient, tired; they came from afar! Why? " * 30 + "x" * 400 + ", well-known end")
    pieces = cut_text(text)
    assert max(map(len, pieces)) <= LONGEST_PIECE
    assert "".join("".join(pieces).split()) == "".join(text.split())


def test_a_piece_is_said_the_same_alone_and_among_others(speech_lm: SpeechLM):
    pieces = [piece("good day", 1), piece("a much longer sentence than that", 2), piece("no", 3), piece("good day", 4)]
    together = say(speech_lm, pieces, 75.0)
    for one, among in zip(pieces, together, strict=True):
        assert torch.equal(say(speech_lm, [one], 75.0)[0].codes, among.codes)
    assert not torch.equal(together[0].codes, together[3].codes)


def test_more_pieces_than_one_batch_holds_come_back_in_their_order(speech_lm: SpeechLM):
    pieces = [piece("good day" if seed % 2 else "no", seed) for seed in range(11)]
    together = say(speech_lm, pieces, 75.0)
    assert [torch.equal(say(speech_lm, [pieces[i]], 75.0)[0].codes, together[i].codes) for i in (0, 5, 10)] == [
        True
    ] * 3


def test_a_piece_that_does_not_end_is_tried_once_more_with_a_seed_of_its_own(
    speech_lm: SpeechLM, monkeypatch: pytest.MonkeyPatch
):
    real, seen = speaking.generate, []

    def never_ends(model, told, untold, bound, seeds, *rest):
        seen.append(list(seeds))
        made = real(model, told, untold, bound, seeds, *rest)
        made.finished[:] = torch.tensor([seed in (7, SEEDS + 6) for seed in seeds])
        return made

    monkeypatch.setattr(speaking, "generate", never_ends)
    first, second, third = say(speech_lm, [piece("no", 7), piece("good day", 6), piece("good night", 20)], 75.0)
    assert seen == [[7, 6, 20], [SEEDS + 6, SEEDS + 20]]
    assert (first.finished, first.attempts) == (True, 1)
    assert (second.finished, second.attempts) == (True, 2)
    assert (third.finished, third.attempts) == (False, 2)  # bounded: no third attempt


def test_speech_is_never_longer_than_its_text_allows(speech_lm: SpeechLM):
    endless = SpeechLM.from_hparams(speech_lm.hparams()).eval()
    endless.load_state_dict(speech_lm.state_dict())
    heads = endless.heads.weight.data.unflatten(0, (endless.codebooks, -1))
    with torch.no_grad():  # ends only by chance, about once in 65 steps; the bound of "no" is 112
        heads.zero_()
    for said in say(endless, [piece("no", seed) for seed in range(8)], 75.0):
        assert said.codes.shape[-1] <= int(frame_bound(torch.tensor([3]), 75.0)[0])


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
