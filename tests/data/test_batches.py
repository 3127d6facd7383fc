"""The plan of an epoch, its state, and padding."""

from __future__ import annotations

import itertools

import numpy as np
import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st

from ira.config import WHOLE_FRAMES
from ira.data.batches import WHOLE_TOKENS, SamplerState, batches, collate, plan_epoch, spread
from ira.data.pronunciation import SpeechTokenizer
from ira.data.shards import Example
from ira.errors import InputError


def speech_lengths(count: int) -> np.ndarray:
    """Frames of `count` utterances: log-normal around four seconds."""
    return np.clip(np.exp(np.random.default_rng(1).normal(5.7, 0.5, count)), 30, 1500).astype(int)


@settings(max_examples=100, deadline=None)
@given(
    st.lists(st.integers(1, 400), min_size=1, max_size=200), st.integers(1, 600), st.integers(0, 5), st.integers(0, 5)
)
def test_every_index_comes_exactly_once_and_no_batch_is_too_large(lengths, most, seed, epoch):
    plan = plan_epoch(lengths, most, seed, epoch)
    assert sorted(itertools.chain(*plan)) == list(range(len(lengths)))
    assert all(len(batch) == 1 or len(batch) * max(lengths[i] for i in batch) <= most for batch in plan)


def test_less_than_five_percent_is_padding():
    lengths = speech_lengths(5000)
    plan = plan_epoch(lengths, 120 * 75, 0, 0)
    padded = sum(len(batch) * lengths[batch].max() for batch in plan)
    assert 1 - lengths.sum() / padded < 0.05
    assert lengths.sum() / (len(plan) * 120 * 75) > 0.85


def test_the_plan_is_a_function_of_its_arguments_and_epochs_differ():
    lengths = speech_lengths(500)
    assert plan_epoch(lengths, 9000, 3, 2) == plan_epoch(lengths.tolist(), 9000, 3, 2)
    others = [plan_epoch(lengths, 9000, seed, epoch) for seed, epoch in ((3, 3), (4, 2), (2, 3))]
    assert all(plan_epoch(lengths, 9000, 3, 2) != other for other in others)


def test_short_and_long_batches_are_mixed():
    lengths = speech_lengths(3000)
    longest = [lengths[batch].max() for batch in plan_epoch(lengths, 9000, 0, 0)]
    assert np.abs(np.corrcoef(np.arange(len(longest)), longest)[0, 1]) < 0.3


def test_from_any_state_the_stream_goes_on_as_it_would_have():
    lengths = speech_lengths(120)
    whole = list(itertools.islice(batches(lengths, 3000, SamplerState(5, 0, 0)), 60))
    assert {state.epoch for _, state in whole} >= {0, 1, 2}
    for k in (0, 7, 31, 58):
        rest = list(itertools.islice(batches(lengths, 3000, whole[k][1]), 60 - k - 1))
        assert rest == whole[k + 1 :]


def test_each_epoch_of_the_stream_holds_everything_once():
    lengths = speech_lengths(80)
    stream = batches(lengths, 3000, SamplerState(0, 4, 0))
    seen = list(itertools.takewhile(lambda step: step[1].epoch == 4, stream))
    last = next(batches(lengths, 3000, seen[-1][1]))
    assert last[1] == SamplerState(0, 5, 0)
    assert sorted(i for batch, _ in [*seen, last] for i in batch) == list(range(80))


def test_nothing_to_sample_from_is_refused():
    with pytest.raises(InputError, match="0 examples"):
        plan_epoch([], 100, 0, 0)
    with pytest.raises(InputError, match="shortest of 0 frames"):
        plan_epoch([5, 0], 100, 0, 0)


def example(frames: int, text: str, language: str) -> Example:
    return Example(torch.randint(1, 9, (2, frames)), frames, text, "", "", language, "", "", "")


def test_collate_pads_with_zeros_and_keeps_every_value():
    tokenizer = SpeechTokenizer()
    examples = [example(3, "hello", "de"), example(5, "", "en"), example(1, "a cat", "en")]
    batch = collate(examples, tokenizer)
    assert batch.codes.shape == (3, 2, WHOLE_FRAMES) and batch.codes.dtype == torch.int64
    assert batch.text.shape == (3, WHOLE_TOKENS)
    assert batch.frames.tolist() == [3, 5, 1] and batch.text_lengths.tolist() == [7, 2, 7]
    for i, one in enumerate(examples):
        assert torch.equal(batch.codes[i, :, : one.frames], one.codes)
        assert not batch.codes[i, :, one.frames :].any() and not batch.text[i, batch.text_lengths[i] :].any()
        ids = tokenizer.encode(one.text, one.language)
        assert batch.text[i, : batch.text_lengths[i]].tolist() == ids
    assert tokenizer.symbols(batch.text[2, :7].tolist()) == [" ", "AH0", " ", "K", "AE1", "T", ""]
    assert batch.examples == examples


@pytest.mark.parametrize("frames, whole", [(1, 1), (WHOLE_FRAMES, 1), (WHOLE_FRAMES + 1, 2)])
def test_collate_rounds_lengths_up_so_that_few_shapes_come(frames: int, whole: int):
    batch = collate(
        [example(frames, "a" * (WHOLE_TOKENS - 2 if whole == 1 else WHOLE_TOKENS), "de")], SpeechTokenizer()
    )
    assert batch.codes.shape[2] == whole * WHOLE_FRAMES and batch.text.shape[1] == whole * WHOLE_TOKENS


def test_collate_leaves_some_words_of_a_text_letters_the_same_ones_every_time():
    one = example(9, "the cat and the dog and the fox " * 30, "en")
    batch = collate([one], SpeechTokenizer(), spelled=0.05)
    symbols = SpeechTokenizer().symbols(batch.text[0].tolist())
    share = sum(symbol.islower() for symbol in symbols) / sum(map(str.isalpha, one.text))
    assert 0.01 < share < 0.12
    assert torch.equal(collate([one, example(3, "a", "en")], SpeechTokenizer(), spelled=0.05).text[0], batch.text[0])


def test_a_language_with_its_region_or_none_is_read_as_the_language_or_english():
    batch = collate([example(3, "cat", ""), example(3, "cat", "EN-gb"), example(3, "cat", "en")], SpeechTokenizer())
    assert torch.equal(batch.text[0], batch.text[2]) and torch.equal(batch.text[1], batch.text[2])


def test_what_is_judged_is_spread_over_the_whole_held_out_set():
    assert spread(range(10), 4) == [0, 2, 5, 7] and spread(range(3), 8) == [0, 1, 2] and spread([], 8) == []
    assert len(set(spread(range(69), 48))) == 48  # as many as were asked for, not every second one
