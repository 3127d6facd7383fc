"""Decoding: a slow loop without a cache says what greedy gives; seeds, bounds, ends, pace and guidance are kept."""

from __future__ import annotations

import math

import pytest
import torch
from torch import Tensor, nn

from ira.audio.delay import delay, undelay
from ira.config import SpeechConfig
from ira.models.decode import Decoding, Generated, frame_bound, generate
from ira.models.pointer import Pointer, Walker, walked
from ira.models.sampling import Sampling, draw
from ira.models.speech_lm import DecodeState, Memory, SpeechLM

K, V, VOCAB, P = 3, 11, 20, 6
GREEDY = Sampling(temperature=0, guidance=1.0)
FREE = Sampling(temperature=1.0, top_k=V + 1, guidance=1.0, repetition_share=2.0)  # nothing but the softmax


def make_model(max_steps: int = 64, window: int | None = None) -> SpeechLM:
    torch.manual_seed(5)
    config = SpeechConfig(
        layers=2, width=32, heads=4, max_steps=max_steps, text_layers=1, longest_stay=4, window=window
    )
    sizes = {"codebooks": K, "codebook_size": V, "text_vocab": VOCAB, "voice_dim": P, "languages": ["de", "en"]}
    model = SpeechLM(config, **sizes).eval()
    for child in model.modules():  # decided enough that rounding never chooses a token
        if isinstance(child, nn.Linear):
            nn.init.normal_(child.weight, std=1.2 * child.in_features**-0.5)
        elif isinstance(child, nn.Embedding):
            nn.init.normal_(child.weight)
    return model


@pytest.fixture
def model() -> SpeechLM:
    return make_model()


@pytest.fixture
def all_rows_stay(monkeypatch: pytest.MonkeyPatch) -> None:
    """For tests that look at every row at every step."""
    monkeypatch.setattr(Decoding, "_retire", lambda self: None)


def some_text(B: int) -> tuple[Tensor, Tensor]:
    text = torch.randint(1, VOCAB, (B, 6), generator=torch.Generator().manual_seed(3))
    return text, torch.arange(B) % 4 + 3


def conditions(model: SpeechLM, B: int) -> tuple[Memory, Memory]:
    """Texts of 3 to 6 tokens, and the same voices without a text."""
    voice = nn.functional.normalize(torch.randn(B, P, generator=torch.Generator().manual_seed(4)), dim=-1)
    return model.condition(*some_text(B), voice, torch.arange(B) % 2), model.condition(None, None, voice)


def rows_of(memory: Memory, rows: list[int]) -> Memory:
    return Memory(memory.vectors[rows], memory.mask[rows], memory.lengths[rows])


def assert_same(row: Generated, i: int, other: Generated, j: int) -> None:
    T = int(row.frames[i])
    assert T == int(other.frames[j]) and bool(row.finished[i]) == bool(other.finished[j])
    assert torch.equal(row.codes[i, :, :T], other.codes[j, :, :T])
    assert torch.equal(row.path[i, :T], other.path[j, :T])
    torch.testing.assert_close(row.entropy[i, :T], other.entropy[j, :T], atol=1e-4, rtol=1e-4)


@torch.no_grad()
def slow_greedy(
    model: SpeechLM, memory: Memory, null: Memory, bound: int, guidance: float, pace: float
) -> tuple[Tensor, list[int], int, bool]:
    """One row, no cache: every step reads everything again, takes the likeliest codes and moves when it is time."""
    codes, walk = torch.zeros(1, K, bound + K, dtype=torch.long), torch.zeros(1, bound + K, dtype=torch.long)
    end, finished, place, stay, still = bound, False, 0, 1, torch.tensor(1.0)
    last = int(memory.lengths[0]) - 1
    for step in range(bound + K - 1):
        size = step + 1
        walk[0, step] = place
        given = codes[:, :, :size], torch.tensor([min(end, size)])
        told, untold = (model(*given, m, walk[:, :size]) for m in (memory, null))
        logits = (untold.logits + guidance * (told.logits - untold.logits))[0]
        if step < end and place == last and int(logits[0, step].argmax()) == V:
            end, finished = step, True
        for k in range(K):
            if 0 <= step - k < end:
                codes[0, k, step - k] = logits[k, step - k, :V].argmax()
        still = still * torch.sigmoid(-told.advance[0, step]) ** pace
        if still < math.exp(-1) or stay == model.config.longest_stay:
            if place == last and not finished and step + 1 <= end:
                end, finished = step + 1, True
            place, stay, still = (
                (place, stay, torch.tensor(1.0)) if place == last else (place + 1, 0, torch.tensor(1.0))
            )
        stay = min(stay + 1, model.config.longest_stay)
    return codes[0, :, :end], walk[0, :end].tolist(), end, finished


@pytest.mark.parametrize("guidance, pace, window", [(1.0, 1.0, None), (2.5, 0.6, None), (2.5, 0.6, 4)])
def test_greedy_is_the_slow_loop_without_a_cache(guidance, pace, window):
    model, rows, bounds = make_model(window=window), 12, torch.arange(12) % 5 + 6
    memory, null = conditions(model, rows)
    sampling = Sampling(temperature=0, guidance=guidance)
    made = generate(model, memory, null, bounds, [0] * rows, sampling, pace=torch.full((rows,), pace))
    for row in range(rows):
        one = (rows_of(memory, [row]), rows_of(null, [row]))
        codes, path, end, finished = slow_greedy(model, *one, int(bounds[row]), guidance, pace)
        assert int(made.frames[row]) == end and bool(made.finished[row]) == finished, row
        for k in range(K):  # a bound may cut a text off anywhere, and then codes that run behind it are not defined
            size = end if finished else end - k
            assert torch.equal(made.codes[row, k, :size], codes[k, :size]), row
        assert made.path[row, :end].tolist() == path, row
    assert made.finished.any() and not made.finished.all()  # both ways to end were compared
    assert made.entropy.eq(0).all()  # nothing was drawn


@pytest.mark.parametrize("guidance", [1.0, 2.5])
def test_rows_that_have_ended_are_no_longer_computed_and_change_nothing(model, monkeypatch, guidance):
    bounds, seeds = torch.tensor([24, 4, 24, 5, 24, 6, 7, 8]), list(range(8))
    bounds[[0, 2]] = 12
    memory, null = conditions(model, 8)
    step, computed = model.step, []
    monkeypatch.setattr(model, "step", lambda tokens, *rest: (computed.append(len(tokens)), step(tokens, *rest))[1])
    made = generate(model, memory, null, bounds, seeds, Sampling(guidance=guidance))
    rows = 1 if guidance == 1.0 else 2
    assert computed[0] == 8 * rows and computed[-1] <= 2 * rows
    assert len(set(computed)) > 2 and sorted(computed, reverse=True) == computed
    for row in range(8):
        one = (rows_of(memory, [row]), rows_of(null, [row]))
        alone = generate(model, *one, bounds[row : row + 1], [row], Sampling(guidance=guidance))
        assert_same(made, row, alone, 0)


# -- the pointer ---------------------------------------------------------------------------------------------------


@torch.no_grad()
def test_a_pair_with_and_without_text_steps_as_both_do_alone(model):
    """Guided logits along a walk, and the advance of the row with text, are those of training's forward."""
    B, T, frames = 3, 6, torch.tensor([6, 3, 5])
    memory, null = conditions(model, B)
    codes = torch.randint(0, V, (B, K, T), generator=torch.Generator().manual_seed(0))
    walk = torch.arange(T).expand(B, T).clamp(max=2)
    pointer = walked(walk, frames, memory.lengths, T + K, model.config.longest_stay)
    bounds = torch.full((B,), T + 1)
    decoding, made = Decoding(model, memory, null, bounds, [0] * B, Sampling(guidance=2.5)), []
    for s in range(T + K):
        decoding.walker.pointer = Pointer(pointer.place[:, s : s + 1], pointer.stay[:, s : s + 1])
        made.append(decoding._logits(delay(codes, frames, V)[:, :, s]))
    told, untold = model(codes, frames, memory, walk), model(codes, frames, null)
    logits = undelay(torch.stack([one for one, _ in made], dim=2), T + 1)
    torch.testing.assert_close(logits, untold.logits + 2.5 * (told.logits - untold.logits), atol=1e-4, rtol=1e-4)
    advance = torch.stack([one for _, one in made], dim=1)[:, : T + 1]
    torch.testing.assert_close(advance, told.advance, atol=2e-5, rtol=1e-4)


@pytest.mark.usefixtures("all_rows_stay")
@torch.no_grad()
def test_what_was_spoken_reads_again_as_it_was_spoken(model):
    """Training's forward over codes and path stands where decoding stood, and gives its logits and its advances."""
    memory, _ = conditions(model, 8)
    model.advance.bias.fill_(-1.0)
    seen, own = [], model.step
    model.step = lambda tokens, state, pointer: seen.append((pointer, *own(tokens, state, pointer))) or seen[-1][1:]  # type: ignore[method-assign]
    made = generate(model, memory, None, torch.full((8,), 14), list(range(8)), FREE)
    out = model(made.codes, made.frames, memory, made.path)
    pointer = walked(made.path, made.frames, memory.lengths, len(seen), model.config.longest_stay)
    place, stay = (torch.cat([getattr(p, name) for p, _, _ in seen], 1) for name in ("place", "stay"))
    logits, advance = torch.stack([one for _, one, _ in seen], 2), torch.stack([one for _, _, one in seen], 1)
    assert made.finished.sum() > 3
    for row, T in enumerate(made.frames.tolist()):
        steps = T + K - 1 if made.finished[row] else T
        assert torch.equal(place[row, :steps], pointer.place[row, :steps])
        assert torch.equal(stay[row, :steps], pointer.stay[row, :steps])
        torch.testing.assert_close(advance[row, :T], out.advance[row, :T], atol=2e-5, rtol=1e-4)
        for k in range(K if made.finished[row] else 1):
            wanted = out.logits[row, k, :T, :V]
            torch.testing.assert_close(logits[row, k, k : k + T, :V], wanted, atol=1e-4, rtol=1e-4)


def stays(chances: list[float], lengths: list[int], longest: int, pace: float) -> list[list[int]]:
    """Frames of each token where the chance to leave is the same at every frame, until the last is left."""
    walker = Walker(torch.tensor(lengths), longest, torch.tensor(pace))
    found = [[0] * max(length, 1) for length in lengths]
    running = set(range(len(lengths)))
    for _ in range(200):
        for row in running:
            found[row][int(walker.pointer.place[row, 0])] += 1
        running -= set(walker.advance(torch.tensor(chances).logit()).nonzero()[:, 0].tolist())
    return found


def test_a_token_is_left_at_the_mean_of_its_learned_duration_and_pace_two_halves_it():
    """Still there after n frames: (1 - h)^n; the first n where that is less than 1/e."""
    assert stays([0.1, 0.02, 0.9], [3, 2, 2], 1000, 1.0) == [[10, 10, 10], [50, 50], [1, 1]]
    assert stays([0.1, 0.02, 0.9], [3, 2, 2], 1000, 2.0) == [[5, 5, 5], [25, 25], [1, 1]]
    assert stays([0.1, 0.02, 0.9], [3, 2, 2], 1000, 0.5) == [[19, 19, 19], [99, 99], [1, 1]]


def test_the_longest_stay_forces_the_pointer_on():
    assert stays([1e-9, 0.1], [3, 2], 5, 1.0) == [[5, 5, 5], [5, 5]]


def test_the_pointer_never_skips_never_goes_back_and_ends_from_the_last_token_alone():
    lengths = torch.tensor([5, 1, 3, 0])
    walker, generator = Walker(lengths, 6, torch.tensor(1.0)), torch.Generator().manual_seed(0)
    before, count = walker.pointer.place, torch.zeros(4)
    assert before.eq(0).all() and walker.pointer.stay[:, 0].tolist() == [1, 1, 1, 0]
    for _ in range(40):
        at_end = walker.at_end
        ended = walker.advance(torch.randn(4, generator=generator) * 3)
        moved = walker.pointer.place - before
        assert ((moved == 0) | (moved == 1)).all() and (walker.pointer.place[:, 0] <= (lengths - 1).clamp(min=0)).all()
        assert at_end[ended].all() and not ended[3] and moved[ended].eq(0).all()
        assert walker.pointer.stay[moved == 1].eq(1).all() and walker.pointer.stay[3] == 0
        assert at_end.tolist() == (before[:, 0] >= lengths - 1).tolist()
        before, count = walker.pointer.place, count + ended
    assert (count[:3] > 0).all()


def paced(model: SpeechLM, durations: list[list[int]], wants_end: bool = False) -> list[Tensor]:
    """Let the pointer of row r stay `durations[r]` frames at its tokens; the end is always wanted, or never."""
    fed: list[Tensor] = []
    leave = [[sum(row[: i + 1]) - 1 for i in range(len(row))] for row in durations]

    def step(tokens: Tensor, state: DecodeState, pointer: Pointer) -> tuple[Tensor, Tensor]:
        now, logits = len(fed), torch.zeros(len(tokens), K, V + 1)
        logits[..., now % V] = 50.0
        logits[..., V] = 99.0 if wants_end else -99.0
        fed.append(tokens.clone())
        return logits, torch.tensor([50.0 if now in row else -50.0 for row in leave])

    model.step = step  # type: ignore[method-assign]
    return fed


DURATIONS = [[2, 1, 3], [1, 1, 1, 4], [2, 1, 1, 1, 1], [3, 3, 3, 3, 3, 3]]


@pytest.mark.usefixtures("all_rows_stay")
def test_a_row_ends_when_its_pointer_leaves_it_and_its_path_says_where_it_stood(model):
    model.config = model.config.model_copy(update={"longest_stay": 90})
    memory, _ = conditions(model, 4)
    fed = paced(model, DURATIONS)
    made = generate(model, memory, None, torch.tensor([20, 20, 6, 12]), [0] * 4, GREEDY)
    assert made.frames.tolist() == [6, 7, 6, 12]
    assert made.finished.tolist() == [True, True, True, False]  # the third ends just at its bound
    for row, T in enumerate(made.frames.tolist()):
        whole = [place for place, frames in enumerate(DURATIONS[row]) for _ in range(frames)]
        assert made.path[row].tolist() == whole[:T] + [0] * (12 - T)
    assert torch.equal(torch.stack(fed, 2), delay(made.codes, made.frames, V)[:, :, : len(fed)])


@pytest.mark.usefixtures("all_rows_stay")
def test_the_end_is_drawn_at_the_last_token_alone(model):
    memory, _ = conditions(model, 4)
    paced(model, DURATIONS, wants_end=True)
    made = generate(model, memory, None, torch.full((4,), 20), [0] * 4, FREE)
    assert made.frames.tolist() == [sum(row[:-1]) for row in DURATIONS] and made.finished.all()


def test_the_pointer_of_a_guided_row_moves_as_the_text_says(model):
    """The advance of the row without text counts for nothing."""
    memory, null = conditions(model, 2)
    paced(model, [[2, 1, 3], [1, 1, 1, 3], [1, 1, 1], [1, 1, 1, 1]])
    made = generate(model, memory, null, torch.tensor([20, 20]), [0] * 2, Sampling(temperature=0, guidance=2.0))
    assert made.path.tolist() == [[0, 0, 1, 2, 2, 2], [0, 1, 2, 3, 3, 3]]


@pytest.mark.parametrize("guidance", [1.0, 2.0])
def test_paths_are_monotonic_and_empty_past_the_end_and_entropies_those_of_a_distribution(model, guidance):
    memory, null = conditions(model, 8)
    made = generate(model, memory, null, torch.arange(8) * 3, list(range(8)), Sampling(guidance=guidance))
    assert made.path.shape == made.entropy.shape == (8, int(made.frames.max()))
    assert made.path.dtype == torch.int64 and made.entropy.dtype == torch.float32 and made.entropy.isfinite().all()
    for path, entropy, T, length in zip(made.path, made.entropy, made.frames.tolist(), memory.lengths, strict=True):
        moved = path[1:T] - path[: max(T - 1, 0)]
        assert ((moved == 0) | (moved == 1)).all() and path[:1].eq(0).all() and path.max() < length
        assert path[T:].eq(0).all() and entropy[T:].eq(0).all()
        assert (entropy[:T] > 0).all() and (entropy[:T] <= torch.tensor(V + 1.0).log() + 1e-5).all()


def test_entropy_is_that_of_book_0_as_it_is_drawn_without_the_end_where_that_may_not_come(model):
    memory, _ = conditions(model, 1)
    paced(model, [[1, 1, 9]] * 16)
    step = model.step

    def three(tokens: Tensor, state: DecodeState, pointer: Pointer) -> tuple[Tensor, Tensor]:
        logits, advance = step(tokens, state, pointer)
        logits = torch.full_like(logits, -torch.inf)
        logits[:, 0, [3, V]], logits[:, 0, 4], logits[:, 1:, 0] = 0.0, 0.8, 0.0
        return logits, advance

    model.step = three  # type: ignore[method-assign]
    sampling = FREE.model_copy(update={"temperature": 0.8})
    made = generate(model, rows_of(memory, [0] * 16), None, torch.full((16,), 3), list(range(16)), sampling)
    within, last = (torch.tensor(row).softmax(0) for row in ([0.0, 1.0], [0.0, 1.0, 0.0]))
    wanted = [float(-(chances * chances.log()).sum()) for chances in (within, within, last)]
    going_on = made.frames == 3
    assert 4 < going_on.sum() < 16 and (made.frames[~going_on] == 2).all()
    for row in range(16):
        assert made.entropy[row].tolist() == pytest.approx(wanted if going_on[row] else [*wanted[:2], 0.0])


def test_a_text_may_take_a_second_and_one_for_every_six_tokens():
    assert frame_bound(torch.tensor([0, 6, 15]), 75.0).tolist() == [75, 150, 262]


# -- seeds and neighbours ------------------------------------------------------------------------------------------


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
    _, memory = conditions(model, 1)
    script(model, ends=[99])
    made = generate(model, memory, None, torch.tensor([500]), [0], GREEDY)
    assert made.frames.tolist() == [12 - K] and made.finished.tolist() == [False]
    assert make_model(max_steps=12)(made.codes, made.frames, memory).logits.shape[2] == 12 - K + 1  # it can be read


def script(model: SpeechLM, ends: list[int]) -> list[Tensor]:
    """Let `model` predict (5 step + 3 book) mod V, and in row r the end at step ends[r]; return what it is fed.

    Every other book wants to end always, and the pointer to leave, which must never be let where no text is.
    """
    fed: list[Tensor] = []

    def step(tokens: Tensor, state: DecodeState, pointer: Pointer) -> tuple[Tensor, Tensor]:
        now, rows = len(fed), len(tokens)
        logits = torch.zeros(rows, K, V + 1)
        for k in range(K):
            logits[:, k, (5 * now + 3 * k) % V] = 50.0
        logits[:, 1:, V] = 99.0
        logits[[row for row in range(rows) if ends[row % len(ends)] == now], 0, V] = 99.0
        fed.append(tokens.clone())
        return logits, torch.full((rows,), 50.0)

    model.step = step  # type: ignore[method-assign]
    return fed


@pytest.mark.usefixtures("all_rows_stay")
def test_the_end_stops_a_row_and_what_the_model_is_fed_is_the_delay_of_what_it_says(model):
    ends, bounds = [4, 0, 99, 6, 7], torch.tensor([10, 10, 8, 6, 10])
    _, memory = conditions(model, 5)
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


@pytest.mark.usefixtures("all_rows_stay")
def test_decoding_stops_as_soon_as_every_row_has_ended(model):
    _, memory = conditions(model, 2)
    fed = script(model, [3, 5])
    made = generate(model, memory, None, torch.tensor([40, 40]), [0, 0])
    assert made.frames.tolist() == [3, 5] and made.finished.all()
    assert len(fed) == 5 + K - 1


def test_progress_counts_finished_frames_up_to_the_last(model):
    _, memory = conditions(model, 2)
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


def test_guidance_of_zero_draws_from_the_null_condition_alone(model):
    """Until one of them ends: without text there is no pointer, and the end may come at any time."""
    memory, null = conditions(model, 6)
    bounds, seeds = torch.full((6,), 12), list(range(6))
    zero = generate(model, memory, null, bounds, seeds, FREE.model_copy(update={"guidance": 0.0}))
    alone = generate(model, null, None, bounds, seeds, FREE)
    compared = torch.minimum(zero.frames, alone.frames).tolist()
    for row, size in enumerate(compared):
        assert all(
            torch.equal(zero.codes[row, k, : size - k], alone.codes[row, k, : size - k]) for k in range(K) if k < size
        )
    assert max(compared) > 4


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
    drawn = draw(logits.expand(draws, -1, -1), past, generators, sampling, eos=V)
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
    fours = (draw(logits, past, generators, sampling, eos=V) == 4).float().mean(0)
    torch.testing.assert_close(fours, torch.tensor([0.25, 0.5, 0.5]), atol=0.04, rtol=0)


@torch.no_grad()
def test_the_new_draw_reaches_beyond_the_top():
    draws, logits = 2000, torch.zeros(2000, K, V + 1)
    logits[..., 4] = 1.0
    generators = [torch.Generator().manual_seed(seed) for seed in range(draws)]
    sampling = Sampling(temperature=1.0, top_k=1)
    fresh = draw(logits, torch.full((draws, K, 10), V + 1), generators, sampling, eos=V)
    assert fresh.eq(4).all()
    again = draw(logits, torch.full((draws, K, 10), 4), generators, sampling, eos=V)
    assert len(again[:, 0].unique()) == V + 1 and len(again[:, 1].unique()) == V  # only book 0 may end


def test_a_bound_and_a_seed_for_each_row_are_wanted(model):
    memory, _ = conditions(model, 2)
    for bounds, seeds in ((torch.tensor([3, 3]), [1]), (torch.tensor([3]), [1, 2])):
        with pytest.raises(ValueError, match="for 2 rows"):
            generate(model, memory, None, bounds, seeds)


@pytest.mark.parametrize(
    "wrong",
    [
        {"temperature": -1},
        {"top_k": 0},
        {"repetition_window": 0},
        {"repetition_share": 0},
        {"guidance": -1},
    ],
)
def test_settings_that_mean_nothing_are_refused(wrong):
    with pytest.raises(ValueError, match=next(iter(wrong))):
        Sampling(**wrong)
