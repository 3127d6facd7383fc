"""SpeechLM: training's forward is decoding's step; padding, neighbours, the future and dropped text do not pass.

The pointer: where it stands is where the model looks; what is far from it is not seen.
"""

from __future__ import annotations

from pathlib import Path

import pytest
import torch
from torch import Tensor, nn

from ira.audio.delay import delay, undelay
from ira.checkpoint import load_model, save_model
from ira.config import SpeechConfig
from ira.errors import InputError
from ira.models.pointer import Pointer, walked
from ira.models.speech_lm import Memory, SpeechLM, sinusoids

K, V, VOCAB, P = 3, 11, 20, 6
SIZES = {"codebooks": K, "codebook_size": V, "text_vocab": VOCAB, "voice_dim": P, "languages": ["de", "en"]}
CONFIG = SpeechConfig(
    layers=3, width=32, heads=4, max_steps=64, text_layers=2, longest_stay=4, codebook_weights=[1, 1, 1]
)


def make_model(**changes) -> SpeechLM:
    torch.manual_seed(0)
    model = SpeechLM(CONFIG.model_copy(update=changes), **SIZES).eval()
    for child in model.modules():  # wide enough that whatever can matter matters visibly
        if isinstance(child, nn.Linear):
            nn.init.normal_(child.weight, std=1.2 * child.in_features**-0.5)
        elif isinstance(child, nn.Embedding):
            nn.init.normal_(child.weight)
    return model


@pytest.fixture
def model() -> SpeechLM:
    return make_model()


def some_codes(B: int, T: int, seed: int = 0) -> Tensor:
    return torch.randint(0, V, (B, K, T), generator=torch.Generator().manual_seed(seed))


def some_text(B: int, L: int, seed: int = 0) -> Tensor:
    return torch.randint(1, VOCAB, (B, L), generator=torch.Generator().manual_seed(seed))


def voices(B: int, seed: int = 0) -> Tensor:
    generator = torch.Generator().manual_seed(seed)
    return nn.functional.normalize(torch.randn(B, P, generator=generator), dim=-1)


def full(B: int, size: int) -> Tensor:
    return torch.full((B,), size)


def tongues(B: int) -> Tensor:
    return torch.arange(B) % 2


def conditions(model: SpeechLM, B: int, L: int = 5) -> Memory:
    return model.condition(some_text(B, L), full(B, L), voices(B), tongues(B))


def evenly(frames: Tensor, lengths: Tensor, T: int) -> Tensor:
    """A walk [B, T] through every text at an even pace; nonsense where no frame or no text is."""
    at = torch.arange(T)
    walk = at * lengths[:, None] // frames[:, None].clamp(min=1)
    return torch.where((at < frames[:, None]) & (lengths > 0)[:, None], walk, 9)


def close(got: Tensor, want: Tensor) -> None:
    torch.testing.assert_close(got, want, atol=2e-5, rtol=1e-4)


def changed(one: Tensor, other: Tensor) -> Tensor:
    """Where the last axis differs by more than rounding."""
    return (one - other).abs().amax(-1) > 1e-4


# -- one path ------------------------------------------------------------------------------------------------------


@pytest.mark.parametrize("window", [None, 4, 30])
@torch.no_grad()
def test_forward_and_step_give_the_same_along_a_walk_and_in_the_steps_after_it(window):
    """Rows of several lengths, one of which has no text; the last K - 1 steps finish the books that run behind."""
    model, B, T = make_model(window=window), 4, 9
    codes, frames, lengths = some_codes(B, T), torch.tensor([9, 4, 0, 7]), torch.tensor([5, 2, 3, 0])
    memory = model.condition(some_text(B, 5), lengths, voices(B), tongues(B))
    walk, steps = evenly(frames, lengths, T), delay(codes, frames, V)
    pointer = walked(walk, frames, lengths, T + K, CONFIG.longest_stay)
    state, made = model.start(memory, T + K), []
    for s in range(T + K):
        now = Pointer(pointer.place[:, s : s + 1], pointer.stay[:, s : s + 1])
        made.append(model.step(steps[:, :, s], state, now))
    out = model(codes, frames, memory, walk)
    logits, advance = torch.stack([one for one, _ in made], dim=2), torch.stack([one for _, one in made], dim=1)
    assert logits.shape == (B, K, T + K, V + 1) and advance.shape == (B, T + K)
    close(undelay(logits, T + 1), out.logits)
    close(advance[:, : T + 1], out.advance)


@torch.no_grad()
def test_logits_have_a_place_for_every_frame_and_the_end(model):
    out = model(some_codes(2, 7), full(2, 7), conditions(model, 2), evenly(full(2, 7), full(2, 5), 7))
    assert out.logits.shape == (2, K, 8, V + 1) and out.advance.shape == (2, 8) and out.attention is None
    assert out.advance.dtype == torch.float32


# -- the pointer ---------------------------------------------------------------------------------------------------


def slowly_walked(walk: list[int], frames: int, length: int, steps: int, longest: int) -> list[tuple[int, int]]:
    found: list[tuple[int, int]] = []
    for step in range(steps):
        if length == 0:
            found.append((0, 0))
            continue
        place = walk[step] if step < frames else length - 1
        stays = found and found[-1][0] == place
        found.append((place, min(found[-1][1] + 1, longest) if stays else 1))
    return found


def test_the_pointer_of_every_step_is_that_of_a_slow_loop():
    walk = torch.tensor(
        [[0, 0, 1, 2, 2, 2, 2, 2], [0, 1, 2, 7, 7, 7, 7, 7], [9, 9, 3, 9, 9, 9, 9, 9], [0] * 8, [5] * 8]
    )
    frames, lengths = torch.tensor([8, 3, 8, 8, 0]), torch.tensor([3, 4, 0, 1, 2])
    for longest in (3, 100):
        found = walked(walk, frames, lengths, 11, longest)
        for row in range(5):
            wanted = slowly_walked(walk[row].tolist(), int(frames[row]), int(lengths[row]), 11, longest)
            got = list(zip(found.place[row].tolist(), found.stay[row].tolist(), strict=True))
            assert got == wanted, (row, longest)


@torch.no_grad()
def test_the_model_looks_at_the_pointer_and_hardly_beyond_three_tokens_from_it(model):
    T, L = 9, 16
    codes, memory = some_codes(2, T), model.condition(some_text(2, L), torch.tensor([L, 8]), voices(2), tongues(2))
    walk = torch.stack([torch.arange(T) + 4, torch.arange(T).clamp(max=7)])
    seen = model(codes, torch.tensor([T, 8]), memory, walk, look=True).attention
    assert seen.shape == (2, T + 1, L) and (seen >= 0).all() and (seen.sum(-1) <= 1 + 1e-5).all()
    place = walked(walk, torch.tensor([T, 8]), memory.lengths, T + 1, 4).place
    far = (torch.arange(L) - place[..., None]).abs() > 3
    assert seen.masked_fill(~far, 0).sum(-1).max() < 0.01 < seen.masked_fill(far, 0).sum(-1).mean()
    assert seen[1, :, 8:].eq(0).all()  # past the text


@torch.no_grad()
@pytest.mark.parametrize("text_layers, heard", [(0, False), (2, True)])
def test_a_token_far_from_the_pointer_is_heard_through_the_text_encoder_alone(text_layers, heard):
    """Every layer, every book and the advance: the prior rules all of them, or the far token would be heard."""
    model, text, walk = make_model(text_layers=text_layers), some_text(1, 16), torch.full((1, 6), 2)
    far, under = text.clone(), text.clone()
    far[0, 12], under[0, 2] = text[0, 12] % (VOCAB - 1) + 1, text[0, 2] % (VOCAB - 1) + 1

    def told(ids: Tensor) -> tuple[Tensor, Tensor]:
        out = model(some_codes(1, 6), full(1, 6), model.condition(ids, full(1, 16), voices(1), tongues(1)), walk)
        return out.logits[:, :, :4], out.advance[:, :6]  # of frames whose every book stands before the end

    (logits, advance), (other, moves), (third, thirds) = told(text), told(far), told(under)
    assert changed(other, logits).all() == heard and changed(other, logits).any() == heard
    assert ((moves - advance).abs() > 1e-4).all() == heard
    assert (other - logits).abs().mean() < 0.5 * (third - logits).abs().mean()
    assert changed(third, logits).all() and ((thirds - advance).abs() > 1e-4).all()


@torch.no_grad()
def test_attention_that_is_shown_is_what_the_middle_layer_attends_with(model):
    """Softmax of query times key and the prior over voice and text, by hand; averaged over heads."""
    codes, memory, walk = some_codes(1, 6), conditions(model, 1), torch.tensor([[0, 1, 1, 2, 3, 4]])
    layer, found = model.layers[model.shown_layer], []
    layer.cross_norm.register_forward_hook(lambda _, __, query: found.append(query))
    shown = model(codes, full(1, 6), memory, walk, look=True).attention
    assert model.shown_layer == 1 and torch.equal(found[0], found[1])
    query = layer.cross_attention.q(found[0]).unflatten(-1, (4, 8))
    key = layer.cross_attention.k(memory.vectors).unflatten(-1, (4, 8))
    scores = torch.einsum("bshc,blhc->bhsl", query, key)[:, :, :7] / 8**0.5
    place = torch.tensor([0, 1, 1, 2, 3, 4, 4])
    away = (torch.arange(5) - place[:, None]) / CONFIG.pointer_width
    prior = torch.cat([torch.zeros(7, 1), (-0.5 * away**2).clamp(min=-30)], 1)
    close(shown, (scores + prior).softmax(-1).mean(1)[..., 1:])


@torch.no_grad()
def test_how_long_the_pointer_has_stayed_is_heard_up_to_the_longest_stay(model):
    codes, memory = some_codes(1, 8), conditions(model, 1)
    one, other = torch.tensor([[0, 0, 0, 1, 1, 1, 1, 1]]), torch.tensor([[0, 0, 1, 1, 1, 1, 1, 1]])
    before, after = (model(codes, full(1, 8), memory, walk).advance[0] for walk in (one, other))
    assert ((before - after).abs() > 1e-4).tolist() == [False, False] + [True] * 7
    model.stay_embed.weight[CONFIG.longest_stay] += 1.0
    reached = model(codes, full(1, 8), memory, one).advance[0]
    assert ((before - reached).abs() > 1e-4).tolist() == [False] * 6 + [True] * 3


# -- padding and neighbours ----------------------------------------------------------------------------------------


@torch.no_grad()
def test_padding_and_batch_neighbours_change_no_logit_no_advance_and_no_look(model):
    codes, frames = some_codes(4, 9), torch.tensor([9, 4, 1, 0])
    text, lengths = some_text(4, 6), torch.tensor([2, 6, 3, 1])
    walk = evenly(frames, lengths, 9)
    together = model(codes, frames, model.condition(text, lengths, voices(4), tongues(4)), walk, look=True)
    for row, (T, L) in enumerate(zip(frames.tolist(), lengths.tolist(), strict=True)):
        one = slice(row, row + 1)
        memory = model.condition(text[one, :L], lengths[one], voices(4)[one], tongues(4)[one])
        alone = model(codes[one, :, :T], frames[one], memory, walk[one, :T], look=True)
        close(together.logits[one, :, : T + 1], alone.logits)
        close(together.advance[one, : T + 1], alone.advance)
        close(together.attention[one, : T + 1, :L], alone.attention)


@torch.no_grad()
def test_what_lies_in_the_padding_is_not_read(model):
    codes, frames, text, lengths = some_codes(3, 9), torch.tensor([9, 4, 9]), some_text(3, 6), torch.tensor([6, 3, 0])
    walk = evenly(frames, lengths, 9)
    other_codes, other_text, other_walk = codes.clone(), text.clone(), walk.clone()
    other_codes[1, :, 4:] = (codes[1, :, 4:] + 1) % V
    other_text[1, 3:] = text[1, 3:] % (VOCAB - 1) + 1
    other_walk[1, 4:], other_walk[2] = 1, torch.arange(9)
    other_text[2] = 3
    before = model(codes, frames, model.condition(text, lengths, voices(3), tongues(3)), walk)
    after = model(other_codes, frames, model.condition(other_text, lengths, voices(3), tongues(3)), other_walk)
    close(after.logits, before.logits)
    close(after.advance, before.advance)
    close(model.states(other_codes, frames, [0, 2]), model.states(codes, frames, [0, 2]))


@torch.no_grad()
def test_states_of_a_row_do_not_depend_on_its_padding_or_neighbours(model):
    codes, frames = some_codes(3, 8), torch.tensor([8, 5, 1])
    together = model.states(codes, frames, [1, 2])
    assert together.shape == (3, 2, 8, CONFIG.width)
    for row, T in enumerate(frames.tolist()):
        alone = model.states(codes[row : row + 1, :, :T], frames[row : row + 1], [1, 2])
        close(together[row : row + 1, :, :T], alone)


@torch.no_grad()
def test_a_state_sees_its_window_and_in_every_layer_that_of_what_it_sees():
    model, codes, frames = make_model(window=3), some_codes(1, 20), full(1, 20)
    other_codes = codes.clone()
    other_codes[:, :, 0] = (codes[:, :, 0] + 1) % V  # read in steps 1 to K
    before, after = model.states(codes, frames, [0, 2]), model.states(other_codes, frames, [0, 2])
    changed = (before != after).any(-1)[0]  # [layers, T], frame t stands at step t + K
    assert changed[0].nonzero().flatten().tolist() == list(range(0, 3))
    assert changed[1].nonzero().flatten().tolist() == list(range(0, 7))


# -- causality -----------------------------------------------------------------------------------------------------


@torch.no_grad()
def test_a_logit_sees_the_past_of_the_delay_pattern_and_all_of_it(model):
    """Book k at frame t stands at step k + t; by then code t' of book j was read where t' + j + 1 <= k + t."""
    T = 5
    codes, memory, walk = some_codes(1, T), conditions(model, 1), torch.tensor([[0, 0, 1, 2, 2]])
    before = model(codes, full(1, T), memory, walk)
    at = torch.arange(T + 1)
    step = torch.arange(K)[:, None] + at
    for j in range(K):
        for t in range(T):
            other = codes.clone()
            other[0, j, t] = (codes[0, j, t] + 1) % V
            after = model(other, full(1, T), memory, walk)
            assert torch.equal(changed(after.logits, before.logits)[0], step >= t + j + 1), (j, t)
            assert torch.equal((after.advance - before.advance).abs()[0] > 1e-4, at >= t + j + 1), (j, t)


def test_a_logit_has_no_gradient_from_later_steps(model, monkeypatch):
    codes, memory, walk = some_codes(1, 6), conditions(model, 1), torch.tensor([[0, 0, 1, 2, 3, 4]])
    pointer = walked(walk, full(1, 6), full(1, 5), 6 + K, CONFIG.longest_stay)
    embedded = model._enter(delay(codes, full(1, 6), V), pointer, memory, model._told(memory)).detach().requires_grad_()
    monkeypatch.setattr(model, "_enter", lambda *given: embedded)
    out = model(codes, full(1, 6), memory, walk)
    for step, value in [(k + t, out.logits[0, k, t, 3]) for k, t in [(0, 0), (0, 4), (2, 0), (1, 3), (2, 6)]] + [
        (t, out.advance[0, t]) for t in (0, 3, 6)
    ]:
        (gradient,) = torch.autograd.grad(value, embedded, retain_graph=True)
        size = gradient[0].abs().amax(-1)
        assert (size[: step + 1] > 0).all() and size[step + 1 :].eq(0).all(), step


@torch.no_grad()
def test_a_step_sees_the_walk_up_to_itself_and_no_further(model):
    """A walk that leaves the other at frame t is not known before: neither to the codes nor to the advance."""
    T, lengths = 5, full(1, 9)
    codes, memory, walk = some_codes(1, T), conditions(model, 1, L=9), torch.arange(5)[None]
    before = model(codes, full(1, T), memory, walk)
    at = torch.arange(T + 1)
    for t in range(T):
        other = torch.where(torch.arange(T) >= t, lengths[:, None] - 1 - t % 2, walk)
        after = model(codes, full(1, T), memory, other)
        seen = torch.arange(K)[:, None] + at >= t
        assert torch.equal(changed(after.logits, before.logits)[0], seen), t
        assert torch.equal((after.advance - before.advance).abs()[0] > 1e-4, at >= t), t


@torch.no_grad()
def test_the_state_of_a_frame_has_read_every_book_of_it_and_no_book_beyond_the_delay(model):
    T = 6
    codes = some_codes(1, T)
    before = model.states(codes, full(1, T), [2])
    for j in range(K):
        for t in range(T):
            other = codes.clone()
            other[0, j, t] = (codes[0, j, t] + 1) % V
            reached = changed(model.states(other, full(1, T), [2]), before)[0, 0]
            assert torch.equal(reached, torch.arange(T) >= t + j + 1 - K), (j, t)


# -- conditions ----------------------------------------------------------------------------------------------------


def test_no_text_and_no_voice_can_reach_the_states(model):
    codes, frames = some_codes(2, 6), torch.tensor([6, 4])
    states = model.states(codes, frames, [0, 1, 2])
    states.square().sum().backward()
    outside = ("text_embed", "language_embed", "text_layers", "voice_in", "memory_norm", "advance")
    for name, parameter in model.named_parameters():
        if name.startswith(outside):
            assert parameter.grad is None, name
    assert model.null_text.grad is not None and model.null_text.grad.abs().max() > 0
    with torch.no_grad():
        for name, parameter in model.named_parameters():
            if name.startswith(outside):
                parameter.add_(1.0)
        close(model.states(codes, frames, [0, 1, 2]), states.detach())


@torch.no_grad()
def test_states_are_those_of_the_null_condition_whatever_layers_are_asked_for(model):
    codes, frames = some_codes(2, 6), full(2, 6)
    every = model.states(codes, frames, [0, 1, 2])
    assert torch.equal(model.states(codes, frames, [2, 0]), every[:, [2, 0]])
    found = []
    handle = model.norm.register_forward_pre_hook(lambda _, given: found.append(given[0]))
    model(codes, frames, model.condition(None, None, None, batch=2))
    handle.remove()
    close(every[:, 2], found[0][:, K:])
    assert changed(every[:, 0], every[:, 2]).all()


@torch.no_grad()
@pytest.mark.parametrize("what", ["text", "voice", "language", "length", "order", "no text", "no voice"])
def test_every_condition_matters_at_every_frame(model, what):
    codes, text, voice, english = some_codes(1, 6), some_text(1, 5), voices(1), torch.tensor([1])
    given = {
        "text": (some_text(1, 5, seed=1), full(1, 5), voice, english),
        "voice": (text, full(1, 5), voices(1, seed=1), english),
        "language": (text, full(1, 5), voice, torch.tensor([0])),
        "length": (text, full(1, 4), voice, english),
        "order": (text.flip(1), full(1, 5), voice, english),
        "no text": (None, None, voice),
        "no voice": (text, full(1, 5), None, english),
    }[what]
    walk = evenly(full(1, 6), full(1, 4), 6)
    before = model(codes, full(1, 6), model.condition(text, full(1, 5), voice, english), walk)
    after = model(codes, full(1, 6), model.condition(*given), walk)
    assert changed(after.logits, before.logits).all()
    assert ((after.advance - before.advance).abs() > 1e-4).all()


@torch.no_grad()
def test_a_dropped_row_is_a_row_without_that_condition_and_the_others_stay(model):
    codes, frames, text, voice = some_codes(2, 6), full(2, 6), some_text(2, 5), voices(2)
    lengths, first, tongue = full(2, 5), torch.tensor([True, False]), tongues(2)
    walk = evenly(frames, lengths, 6)

    def told(*given: Tensor | None, **drops: Tensor) -> Tensor:
        return model(codes, frames, model.condition(*given, **drops), walk).logits

    whole = told(text, lengths, voice, tongue)
    no_text = told(text, lengths, voice, tongue, drop_text=first)
    close(no_text[0], told(None, None, voice)[0])
    close(no_text[1], whole[1])
    no_voice = told(text, lengths, voice, tongue, drop_voice=first)
    close(no_voice[0], told(text, lengths, None, tongue)[0])
    close(no_voice[1], whole[1])
    empty = told(text, torch.tensor([0, 5]), voice, tongue)
    close(empty[0], no_text[0])
    assert changed(no_text[0], whole[0]).all() and changed(no_voice[0], whole[0]).all()
    memory = model.condition(text, lengths, voice, tongue, drop_text=first)
    assert memory.lengths.tolist() == [0, 5] and model.condition(None, None, voice).lengths.tolist() == [0, 0]


@torch.no_grad()
def test_texts_without_a_single_character_are_the_null_condition(model):
    nothing = model.condition(torch.zeros(2, 0, dtype=torch.long), torch.zeros(2, dtype=torch.long), voices(2))
    null = model.condition(None, None, voices(2))
    assert torch.equal(nothing.vectors, null.vectors) and torch.equal(nothing.mask, null.mask)


@torch.no_grad()
def test_the_memory_is_the_voice_and_then_the_text(model):
    memory = model.condition(some_text(2, 4), torch.tensor([4, 2]), voices(2), tongues(2))
    assert memory.vectors.shape == (2, 5, CONFIG.width) and memory.lengths.tolist() == [4, 2]
    assert memory.mask.tolist() == [[True] * 5, [True, True, True, False, False]]
    other = model.condition(some_text(2, 4), torch.tensor([4, 2]), voices(2, seed=1), tongues(2))
    assert changed(memory.vectors, other.vectors).tolist() == [[True, False, False, False, False]] * 2
    assert model.condition(None, None, None, batch=3).vectors.shape == (3, 2, CONFIG.width)


@torch.no_grad()
def test_a_place_in_the_text_is_seen_even_where_every_character_is_the_same(model):
    vectors = model.condition(torch.full((1, 5), 7), full(1, 5), None, tongues(1)).vectors[0, 1:]
    places = sinusoids(torch.arange(5), CONFIG.width)
    close(vectors - vectors[0], places - places[0])


@pytest.mark.parametrize("given", [(None, None, tongues(1)), (full(1, 4), None, None)], ids=["length", "language"])
def test_text_without_lengths_or_language_is_refused(model, given):
    with pytest.raises(ValueError, match="text without text_lengths or language"):
        model.condition(some_text(1, 4), *given)


# -- hidden codes --------------------------------------------------------------------------------------------------


@torch.no_grad()
def test_codes_at_hidden_steps_are_not_read_and_all_others_are(model):
    T = 5
    codes, memory, walk = some_codes(2, T), conditions(model, 2), evenly(full(2, T), full(2, 5), T)
    hide = torch.zeros(2, T + K, dtype=torch.bool)
    hide[0, [1, 3, 4, 7]] = True
    before = model(codes, full(2, T), memory, walk, hide=hide).logits
    for j in range(K):
        for t in range(T):
            other = codes.clone()
            other[:, j, t] = (codes[:, j, t] + 1) % V
            seen = changed(model(other, full(2, T), memory, walk, hide=hide).logits, before).flatten(1).any(1)
            assert seen.tolist() == [not hide[0, t + j + 1], True], (j, t)


@torch.no_grad()
def test_nothing_is_hidden_where_none_is_asked_for_and_a_hidden_step_is_heard_as_one(model):
    codes, memory, walk = some_codes(1, 5), conditions(model, 1), evenly(full(1, 5), full(1, 5), 5)
    hide = torch.zeros(1, 5 + K, dtype=torch.bool)
    plain = model(codes, full(1, 5), memory, walk).logits
    assert torch.equal(model(codes, full(1, 5), memory, walk, hide=hide).logits, plain)
    hide[0, 2] = True
    moved = changed(model(codes, full(1, 5), memory, walk, hide=hide).logits, plain)[0]
    assert torch.equal(moved, torch.arange(K)[:, None] + torch.arange(6) >= 2)


# -- limits, learning, saving --------------------------------------------------------------------------------------


@torch.no_grad()
def test_more_steps_than_the_model_reads_are_refused(model):
    memory = model.condition(None, None, None)
    most = CONFIG.max_steps - K
    assert model(some_codes(1, most), full(1, most), memory).logits.shape[2] == most + 1
    for refused in (
        lambda: model(some_codes(1, most + 1), full(1, most + 1), memory),
        lambda: model.states(some_codes(1, most + 1), full(1, most + 1), [0]),
        lambda: model.start(memory, CONFIG.max_steps + 1),
    ):
        with pytest.raises(InputError, match="65 steps of audio; the model reads 64"):
            refused()


def test_codes_of_another_number_of_codebooks_are_refused(model):
    codes = torch.zeros(1, K + 1, 4, dtype=torch.long)
    for refused in (
        lambda: model(codes, full(1, 4), model.condition(None, None, None)),
        lambda: model.states(codes, full(1, 4), [0]),
    ):
        with pytest.raises(InputError, match="codes of 4 codebooks; the SpeechLM reads 3"):
            refused()


def test_every_parameter_learns(model):
    drop, walk = torch.tensor([True, False]), evenly(full(2, 6), full(2, 5), 6)
    memory = model.condition(some_text(2, 5), full(2, 5), voices(2), tongues(2), drop_text=drop)
    out = model(some_codes(2, 6), full(2, 6), memory, walk)
    loss = out.logits.square().sum() + out.advance.square().sum()
    (loss + model.condition(None, None, None).vectors.square().sum()).backward()
    for name, parameter in model.named_parameters():
        assert parameter.grad is not None and parameter.grad.abs().max() > 0, name


def test_hparams_build_the_same_model_again_and_weights_come_back(model, tmp_path: Path):
    again = SpeechLM.from_hparams(model.hparams())
    assert again.hparams() == model.hparams() and again.config == CONFIG and again.languages == ["de", "en"]
    save_model(tmp_path, "speech_lm", model)
    loaded = load_model(SpeechLM, tmp_path, "speech_lm")
    walk = evenly(full(1, 5), full(1, 5), 5)
    with torch.no_grad():
        want = model(some_codes(1, 5), full(1, 5), conditions(model, 1), walk).logits
        assert torch.equal(loaded(some_codes(1, 5), full(1, 5), conditions(loaded, 1), walk).logits, want)


def test_a_new_model_starts_near_the_uniform_guess():
    torch.manual_seed(0)
    fresh = SpeechLM(CONFIG, **SIZES)
    logits = fresh(some_codes(2, 8), full(2, 8), conditions(fresh, 2), evenly(full(2, 8), full(2, 5), 8)).logits
    assert logits.log_softmax(-1).mean().item() == pytest.approx(-torch.log(torch.tensor(V + 1.0)).item(), abs=0.1)
    assert (fresh.null_text - fresh.null_voice).abs().mean() > 0.1


def test_codes_that_sound_alike_start_alike_and_the_special_ones_stay(model):
    torch.manual_seed(0)
    fresh = SpeechLM(CONFIG, **SIZES)
    tables = [parameter for name, parameter in fresh.named_parameters() if name.startswith("embed.")]
    before = [table[V:].clone() for table in tables]
    vectors = torch.randn(V, 4)
    vectors[1] = vectors[0] + 0.01 * torch.randn(4)
    fresh.start_from([vectors] * K)
    heads = fresh.heads.weight.view(K, V + 1, -1)
    for table in (*(table[:V] for table in tables), *heads[:, :V]):
        gaps = torch.cdist(table.detach(), table.detach())
        assert gaps[0, 1] < 0.8 * gaps[0, 2:].min()
    assert all(torch.equal(table[V:], kept) for table, kept in zip(tables, before, strict=True))


def test_sinusoids_are_the_published_ones():
    found = sinusoids(torch.arange(3), 4)
    by_hand = [[0.0, 0.0, 1.0, 1.0], [0.841471, 0.0099998, 0.540302, 0.99995], [0.909297, 0.0199987, -0.416147, 0.9998]]
    torch.testing.assert_close(found, torch.tensor(by_hand), atol=1e-6, rtol=1e-5)
