"""Decoding: a slow loop without a cache says what greedy gives; seeds, bounds, ends and guidance do what they say."""

from __future__ import annotations

import pytest
import torch
from torch import Tensor, nn

from ira.audio.delay import delay
from ira.config import SpeechConfig
from ira.models.decode import Generated, Sampling, _draw, generate
from ira.models.speech_lm import DecodeState, Memory, SpeechLM

K, V, VOCAB, P = 3, 11, 20, 6
GREEDY = Sampling(temperature=0, guidance=1.0)
FREE = Sampling(temperature=1.0, top_k=V + 1, guidance=1.0, repetition_share=2.0)  # nothing but the softmax


def make_model(max_steps: int = 64) -> SpeechLM:
    torch.manual_seed(5)
    config = SpeechConfig(layers=2, width=32, heads=4, max_steps=max_steps, text_layers=1)
    model = SpeechLM(config, codebooks=K, codebook_size=V, text_vocab=VOCAB, voice_dim=P).eval()
    for child in model.modules():  # decided enough that rounding never chooses a token
        if isinstance(child, nn.Linear):
            nn.init.normal_(child.weight, std=1.2 * child.in_features**-0.5)
        elif isinstance(child, nn.Embedding):
            nn.init.normal_(child.weight)
    return model


@pytest.fixture
def model() -> SpeechLM:
    return make_model()


def some_text(B: int) -> tuple[Tensor, Tensor]:
    text = torch.randint(1, VOCAB, (B, 6), generator=torch.Generator().manual_seed(3))
    return text, torch.arange(B) % 4 + 3


def conditions(model: SpeechLM, B: int) -> tuple[Memory, Memory]:
    voice = nn.functional.normalize(torch.randn(B, P, generator=torch.Generator().manual_seed(4)), dim=-1)
    return model.condition(*some_text(B), voice), model.condition(None, None, voice)


def rows_of(memory: Memory, rows: list[int]) -> Memory:
    return Memory(memory.vectors[rows], memory.mask[rows])


def assert_same(row: Generated, i: int, other: Generated, j: int) -> None:
    T = int(row.frames[i])
    assert T == int(other.frames[j]) and bool(row.finished[i]) == bool(other.finished[j])
    assert torch.equal(row.codes[i, :, :T], other.codes[j, :, :T])


@torch.no_grad()
def slow_greedy(model: SpeechLM, memory: Memory, null: Memory, bound: int, guidance: float) -> tuple[Tensor, int, bool]:
    """One row, no cache: every step reads everything again and takes the likeliest codes."""
    codes, end, finished = torch.zeros(1, K, bound + K, dtype=torch.long), bound, False
    for step in range(bound + K - 1):
        size = step + 1
        told, untold = (model(codes[:, :, :size], torch.tensor([min(end, size)]), m).logits[0] for m in (memory, null))
        logits = untold + guidance * (told - untold)
        if step < end and int(logits[0, step].argmax()) == V:
            end, finished = step, True
        for k in range(K):
            if 0 <= step - k < end:
                codes[0, k, step - k] = logits[k, step - k, :V].argmax()
    return codes[0, :, :end], end, finished


@pytest.mark.parametrize("guidance", [1.0, 2.5])
def test_greedy_is_the_slow_loop_without_a_cache(model, guidance):
    rows, bounds = 16, torch.arange(16) % 5 + 8
    memory, null = conditions(model, rows)
    made = generate(model, memory, null, bounds, [0] * rows, Sampling(temperature=0, guidance=guidance))
    for row in range(rows):
        one = (rows_of(memory, [row]), rows_of(null, [row]))
        codes, end, finished = slow_greedy(model, *one, int(bounds[row]), guidance)
        assert int(made.frames[row]) == end and bool(made.finished[row]) == finished, row
        assert torch.equal(made.codes[row, :, :end], codes), row
    assert made.finished.any() and not made.finished.all()  # both ways to end were compared


def test_a_seed_decides_what_is_said(model):
    memory, null = conditions(model, 2)
    bounds = torch.tensor([12, 12])
    once = generate(model, memory, null, bounds, [5, 6])
    torch.manual_seed(99)  # the global generator has no part in it
    again = generate(model, memory, null, bounds, [5, 6])
    assert torch.equal(once.codes, again.codes) and torch.equal(once.frames, again.frames)
    others = generate(model, rows_of(memory, [0] * 8), None, torch.full((8,), 12), list(range(8)), FREE)
    assert len({str(others.codes[i].tolist()) for i in range(8)}) == 8


def test_a_row_does_not_depend_on_its_neighbours_or_on_the_size_of_the_batch(model):
    memory, null = conditions(model, 6)
    bounds, seeds = torch.tensor([12, 3, 20, 9, 12, 1]), [11, 12, 13, 14, 15, 16]
    together = generate(model, memory, null, bounds, seeds)
    for row in range(6):
        one = (rows_of(memory, [row]), rows_of(null, [row]))
        assert_same(generate(model, *one, bounds[row : row + 1], [seeds[row]]), 0, together, row)
    order = [4, 0, 2]
    some = generate(model, rows_of(memory, order), rows_of(null, order), bounds[order], [seeds[i] for i in order])
    for place, row in enumerate(order):
        assert_same(some, place, together, row)


def test_bounds_are_kept_and_codes_stay_in_range(model):
    memory, null = conditions(model, 8)
    bounds = torch.tensor([0, 1, 2, 5, 9, 14, 20, 25])
    made = generate(model, memory, null, bounds, list(range(8)), Sampling(temperature=2.0))
    assert (made.frames <= bounds).all()
    assert torch.equal(made.frames[~made.finished], bounds[~made.finished])
    assert made.codes.shape == (8, K, int(made.frames.max()))
    assert made.codes.min() >= 0 and made.codes.max() < V
    inside = torch.arange(made.codes.shape[-1]) < made.frames[:, None, None]
    assert made.codes.masked_select(~inside).eq(0).all()


def test_no_row_grows_beyond_what_the_model_reads():
    model = make_model(max_steps=12)
    memory, _ = conditions(model, 1)
    script(model, ends=[99])
    made = generate(model, memory, None, torch.tensor([500]), [0], GREEDY)
    assert made.frames.tolist() == [12 - K] and made.finished.tolist() == [False]
    assert make_model(max_steps=12)(made.codes, made.frames, memory).logits.shape[2] == 12 - K + 1  # it can be read


def script(model: SpeechLM, ends: list[int]) -> list[Tensor]:
    """Let `model` predict (5 step + 3 book) mod V, and in row r the end at step ends[r]; return what it is fed.

    Every other book wants to end always, which must never be let.
    """
    fed: list[Tensor] = []

    def step(tokens: Tensor, state: DecodeState) -> Tensor:
        now, rows = len(fed), len(tokens)
        logits = torch.zeros(rows, K, V + 1)
        for k in range(K):
            logits[:, k, (5 * now + 3 * k) % V] = 50.0
        logits[:, 1:, V] = 99.0
        logits[[row for row in range(rows) if ends[row % len(ends)] == now], 0, V] = 99.0
        fed.append(tokens.clone())
        return logits

    model.step = step  # type: ignore[method-assign]
    return fed


def test_the_end_stops_a_row_and_what_the_model_is_fed_is_the_delay_of_what_it_says(model):
    ends, bounds = [4, 0, 99, 6, 7], torch.tensor([10, 10, 8, 6, 10])
    memory, _ = conditions(model, 5)
    fed = script(model, ends)
    made = generate(model, memory, None, bounds, [0] * 5, GREEDY)
    assert made.frames.tolist() == [4, 0, 8, 6, 7]
    assert made.finished.tolist() == [True, True, False, False, True]  # at the bound it is too late to end
    for row, T in enumerate(made.frames.tolist()):
        want = [[(5 * (t + k) + 3 * k) % V for t in range(T)] for k in range(K)]
        assert made.codes[row, :, :T].tolist() == want
        assert made.codes[row, :, T:].eq(0).all()
    assert torch.equal(torch.stack(fed, 2), delay(made.codes, made.frames, V)[:, :, : len(fed)])
    assert len(fed) == 8 + K - 1  # the last code of the longest row, and not a step more


def test_decoding_stops_as_soon_as_every_row_has_ended(model):
    memory, _ = conditions(model, 2)
    fed = script(model, [3, 5])
    made = generate(model, memory, None, torch.tensor([40, 40]), [0, 0])
    assert made.frames.tolist() == [3, 5] and made.finished.all()
    assert len(fed) == 5 + K - 1


def test_progress_counts_finished_frames_up_to_the_last(model):
    memory, _ = conditions(model, 2)
    script(model, [3, 99])
    heard: list[int] = []
    generate(model, memory, None, torch.tensor([9, 7]), [0, 0], GREEDY, on_frame=heard.append)
    assert heard == [1, 2, 3, 4, 5, 6, 7]


def test_guidance_of_one_is_no_guidance_and_more_is_something_else(model):
    memory, null = conditions(model, 3)
    bounds, seeds = torch.tensor([12, 12, 12]), [1, 2, 3]
    without = generate(model, memory, None, bounds, seeds, Sampling(guidance=3.0))
    one = generate(model, memory, null, bounds, seeds, Sampling(guidance=1.0))
    assert torch.equal(one.codes, without.codes) and torch.equal(one.frames, without.frames)
    more = generate(model, memory, null, bounds, seeds, Sampling(guidance=3.0))
    assert str(more.codes.tolist()) != str(one.codes.tolist())


def test_guidance_of_zero_is_the_null_condition_alone(model):
    memory, null = conditions(model, 3)
    bounds, seeds = torch.tensor([12, 12, 12]), [1, 2, 3]
    zero = generate(model, memory, null, bounds, seeds, Sampling(guidance=0.0))
    unconditioned = generate(model, null, None, bounds, seeds, Sampling(guidance=1.0))
    assert torch.equal(zero.codes, unconditioned.codes)


@torch.no_grad()
@pytest.mark.parametrize(("temperature", "top_k"), [(1.0, V + 1), (0.5, V + 1), (1.0, 3)])
def test_tokens_are_drawn_as_often_as_the_softmax_says(temperature, top_k):
    draws, logits = 4000, torch.randn(1, K, V + 1, generator=torch.Generator().manual_seed(1))
    wanted = logits[0] / temperature
    wanted[1:, V] = -torch.inf
    wanted = wanted.masked_fill(wanted < wanted.topk(top_k).values[:, -1:], -torch.inf).softmax(-1)
    generators = [torch.Generator().manual_seed(seed) for seed in range(draws)]
    sampling = FREE.model_copy(update={"temperature": temperature, "top_k": top_k})
    past = torch.full((draws, K, 1), V + 1)
    drawn = _draw(logits.expand(draws, -1, -1), past, generators, sampling, eos=V)
    found = nn.functional.one_hot(drawn, V + 1).float().mean(0)
    assert (found - wanted).abs().max() < 0.04  # five standard deviations of 4000 draws
    assert found[wanted == 0].eq(0).all()


@torch.no_grad()
def test_a_token_that_fills_the_window_is_drawn_anew(model):
    """A coin that shows heads again only if both draws do; a token of another book or before the window counts not."""
    draws = 4000
    logits = torch.full((draws, K, V + 1), -30.0)
    logits[..., 4] = logits[..., 7] = 0.0
    past = torch.full((draws, K, 12), 1)
    past[:, 0, -3:], past[:, 1, :6], past[:, 2, -2:] = 4, 4, 4
    generators = [torch.Generator().manual_seed(seed) for seed in range(draws)]
    sampling = Sampling(temperature=1.0, repetition_window=6, repetition_share=0.5)
    fours = (_draw(logits, past, generators, sampling, eos=V) == 4).float().mean(0)
    torch.testing.assert_close(fours, torch.tensor([0.25, 0.5, 0.5]), atol=0.04, rtol=0)


@torch.no_grad()
def test_the_new_draw_reaches_beyond_the_top():
    draws, logits = 2000, torch.zeros(2000, K, V + 1)
    logits[..., 4] = 1.0
    generators = [torch.Generator().manual_seed(seed) for seed in range(draws)]
    sampling = Sampling(temperature=1.0, top_k=1)
    fresh = _draw(logits, torch.full((draws, K, 10), V + 1), generators, sampling, eos=V)
    assert fresh.eq(4).all()
    again = _draw(logits, torch.full((draws, K, 10), 4), generators, sampling, eos=V)
    assert len(again[:, 0].unique()) == V + 1 and len(again[:, 1].unique()) == V  # only book 0 may end


def test_a_bound_and_a_seed_for_each_row_are_wanted(model):
    memory, _ = conditions(model, 2)
    for bounds, seeds in ((torch.tensor([3, 3]), [1]), (torch.tensor([3]), [1, 2])):
        with pytest.raises(ValueError, match="for 2 rows"):
            generate(model, memory, None, bounds, seeds)


@pytest.mark.parametrize(
    "wrong", [{"temperature": -1}, {"top_k": 0}, {"repetition_window": 0}, {"repetition_share": 0}, {"guidance": -1}]
)
def test_settings_that_mean_nothing_are_refused(wrong):
    with pytest.raises(ValueError, match=next(iter(wrong))):
        Sampling(**wrong)
