"""What the ears have to spell and to name, against sums by hand."""

from __future__ import annotations

from itertools import product

import pytest
import torch

from ira.data.text import CharTokenizer
from ira.training.ctc import ctc, hidden_spans, likeliest, named, spelled, words_of


def collapsed(path: tuple[int, ...]) -> list[int]:
    """Repeats and blanks left out, one by one."""
    return [symbol for i, symbol in enumerate(path) if symbol and (i == 0 or path[i - 1] != symbol)]


def test_the_loss_sums_over_every_way_to_place_the_symbols():
    logits = torch.randn(2, 4, 3, generator=torch.Generator().manual_seed(1))
    lengths, targets = torch.tensor([4, 3]), [[1, 2], [2]]
    wanted = []
    for row, size, target in zip(logits, lengths.tolist(), targets, strict=True):
        chances = row.softmax(-1)
        ways = [path for path in product(range(3), repeat=size) if collapsed(path) == target]
        total = sum(float(torch.stack([chances[t, s] for t, s in enumerate(path)]).prod()) for path in ways)
        wanted.append(-torch.tensor(total).log() / len(target))
    assert float(ctc(logits, lengths, targets)) == pytest.approx(float(torch.stack(wanted).mean()), rel=1e-4)


def test_rows_without_symbols_or_without_room_for_them_count_for_nothing():
    logits = torch.randn(3, 4, 3, generator=torch.Generator().manual_seed(2), requires_grad=True)
    lengths = torch.tensor([4, 4, 2])
    alone = ctc(logits[:1], lengths[:1], [[1]])
    together = ctc(logits, lengths, [[1], [], [1, 2, 1]])
    torch.testing.assert_close(together, alone)
    together.backward()
    assert logits.grad is not None and logits.grad[0].any() and not logits.grad[1:].any()
    assert float(ctc(logits, lengths, [[], [], []]).detach()) == 0


def test_the_likeliest_symbols_leave_out_blanks_repeats_and_the_padding():
    path = torch.tensor([[1, 1, 0, 1, 2, 2], [0, 2, 0, 0, 1, 1]])
    logits = torch.nn.functional.one_hot(path, 3).float()
    assert likeliest(logits, torch.tensor([6, 4])) == [[1, 1, 2], [2]]


def test_what_is_not_heard_is_not_to_be_spelled():
    tokenizer = CharTokenizer()
    assert words_of("  “Don’t,” she said - twice!  ") == "Don't she said twice"
    assert tokenizer.decode(spelled("don't, she said.", tokenizer)) == "don't she said"
    assert spelled("", tokenizer) == []


def test_each_word_is_named_as_it_stands_within_a_sentence():
    class Tokenizer:
        def __call__(self, text: str, add_special_tokens: bool):
            assert not add_special_tokens
            return type("Found", (), {"input_ids": text.split(" ")})

    assert named("Yes, it is.", Tokenizer()) == ["", "Yes", "it", "is"]
    assert named("...", Tokenizer()) == []


def test_a_little_of_each_row_is_hidden_and_nothing_past_its_end():
    torch.manual_seed(0)
    hidden = hidden_spans(torch.tensor([100, 20, 0] * 50), 100)
    share = hidden.float().sum(1)
    assert 2 < float(share[::3].mean()) < 14 and float(share[::3].max()) <= 18
    assert not hidden[1::3, 20:].any() and not hidden[2::3].any()
