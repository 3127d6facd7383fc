"""SpeechLM: training's forward is decoding's step; padding, neighbours, the future and dropped text do not pass."""

from __future__ import annotations

from pathlib import Path

import pytest
import torch
from torch import Tensor, nn

from ira.audio.delay import delay, undelay
from ira.checkpoint import load_model, save_model
from ira.config import SpeechConfig
from ira.errors import InputError
from ira.models.speech_lm import Memory, SpeechLM, sinusoids

K, V, VOCAB, P = 3, 11, 20, 6
CONFIG = SpeechConfig(layers=3, width=32, heads=4, max_steps=64, text_layers=2, codebook_weights=[1, 1, 1])


@pytest.fixture
def model() -> SpeechLM:
    torch.manual_seed(0)
    model = SpeechLM(CONFIG, codebooks=K, codebook_size=V, text_vocab=VOCAB, voice_dim=P).eval()
    for child in model.modules():  # wide enough that whatever can matter matters visibly
        if isinstance(child, nn.Linear):
            nn.init.normal_(child.weight, std=1.2 * child.in_features**-0.5)
        elif isinstance(child, nn.Embedding):
            nn.init.normal_(child.weight)
    return model


def some_codes(B: int, T: int, seed: int = 0) -> Tensor:
    return torch.randint(0, V, (B, K, T), generator=torch.Generator().manual_seed(seed))


def some_text(B: int, L: int, seed: int = 0) -> Tensor:
    return torch.randint(1, VOCAB, (B, L), generator=torch.Generator().manual_seed(seed))


def voices(B: int, seed: int = 0) -> Tensor:
    generator = torch.Generator().manual_seed(seed)
    return nn.functional.normalize(torch.randn(B, P, generator=generator), dim=-1)


def full(B: int, size: int) -> Tensor:
    return torch.full((B,), size)


def conditions(model: SpeechLM, B: int, L: int = 5) -> Memory:
    return model.condition(some_text(B, L), full(B, L), voices(B))


def close(got: Tensor, want: Tensor) -> None:
    torch.testing.assert_close(got, want, atol=2e-5, rtol=1e-4)


def changed(one: Tensor, other: Tensor) -> Tensor:
    """Where the last axis differs by more than rounding."""
    return (one - other).abs().amax(-1) > 1e-4


# -- one path ------------------------------------------------------------------------------------------------------


@torch.no_grad()
def test_forward_and_step_give_the_same_logits_at_every_position(model):
    B, T = 3, 9
    codes, frames = some_codes(B, T), torch.tensor([9, 4, 0])
    memory = model.condition(some_text(B, 5), torch.tensor([5, 2, 0]), voices(B))
    steps = delay(codes, frames, V)
    state = model.start(memory, steps.shape[-1])
    logits = torch.stack([model.step(steps[:, :, s], state) for s in range(steps.shape[-1])], dim=2)
    assert logits.shape == (B, K, T + K, V + 1)
    close(undelay(logits, T + 1), model(codes, frames, memory).logits)


@torch.no_grad()
def test_logits_have_a_place_for_every_frame_and_the_end(model):
    out = model(some_codes(2, 7), full(2, 7), conditions(model, 2))
    assert out.logits.shape == (2, K, 8, V + 1) and out.alignment is None


# -- padding and neighbours ----------------------------------------------------------------------------------------


@torch.no_grad()
def test_padding_and_batch_neighbours_change_no_logit_and_no_alignment(model):
    codes, frames = some_codes(4, 9), torch.tensor([9, 4, 1, 0])
    text, lengths = some_text(4, 6), torch.tensor([2, 6, 3, 1])
    together = model(codes, frames, model.condition(text, lengths, voices(4)), align=True)
    for row, (T, L) in enumerate(zip(frames.tolist(), lengths.tolist(), strict=True)):
        one = slice(row, row + 1)
        memory = model.condition(text[one, :L], lengths[one], voices(4)[one])
        alone = model(codes[one, :, :T], frames[one], memory, align=True)
        close(together.logits[one, :, : T + 1], alone.logits)
        close(together.alignment[one, : T + 1, :L], alone.alignment)


@torch.no_grad()
def test_what_lies_in_the_padding_is_not_read(model):
    codes, frames, text, lengths = some_codes(2, 9), torch.tensor([9, 4]), some_text(2, 6), torch.tensor([6, 3])
    other_codes, other_text = codes.clone(), text.clone()
    other_codes[1, :, 4:] = (codes[1, :, 4:] + 1) % V
    other_text[1, 3:] = text[1, 3:] % (VOCAB - 1) + 1
    before = model(codes, frames, model.condition(text, lengths, voices(2))).logits
    close(model(other_codes, frames, model.condition(other_text, lengths, voices(2))).logits, before)
    close(model.states(other_codes, frames, [0, 2]), model.states(codes, frames, [0, 2]))


@torch.no_grad()
def test_states_of_a_row_do_not_depend_on_its_padding_or_neighbours(model):
    codes, frames = some_codes(3, 8), torch.tensor([8, 5, 1])
    together = model.states(codes, frames, [1, 2])
    assert together.shape == (3, 2, 8, CONFIG.width)
    for row, T in enumerate(frames.tolist()):
        alone = model.states(codes[row : row + 1, :, :T], frames[row : row + 1], [1, 2])
        close(together[row : row + 1, :, :T], alone)


# -- causality -----------------------------------------------------------------------------------------------------


@torch.no_grad()
def test_a_logit_sees_the_past_of_the_delay_pattern_and_all_of_it(model):
    """Book k at frame t stands at step k + t; by then code t' of book j was read where t' + j + 1 <= k + t."""
    T = 5
    codes, memory = some_codes(1, T), conditions(model, 1)
    before = model(codes, full(1, T), memory).logits
    step = torch.arange(K)[:, None] + torch.arange(T + 1)
    for j in range(K):
        for t in range(T):
            other = codes.clone()
            other[0, j, t] = (codes[0, j, t] + 1) % V
            assert torch.equal(changed(model(other, full(1, T), memory).logits, before)[0], step >= t + j + 1), (j, t)


def test_a_logit_has_no_gradient_from_later_steps(model, monkeypatch):
    codes, memory = some_codes(1, 6), conditions(model, 1)
    embedded = model._embed(delay(codes, full(1, 6), V)).detach().requires_grad_()
    monkeypatch.setattr(model, "_embed", lambda steps: embedded)
    logits = model(codes, full(1, 6), memory).logits
    for k, t in [(0, 0), (0, 4), (2, 0), (1, 3), (2, 6)]:
        (gradient,) = torch.autograd.grad(logits[0, k, t, 3], embedded, retain_graph=True)
        size = gradient[0].abs().amax(-1)
        assert (size[: k + t + 1] > 0).all() and size[k + t + 1 :].eq(0).all(), (k, t)


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
    outside = ("text_embed", "text_layers", "voice_in", "memory_norm")
    for name, parameter in model.named_parameters():
        if name.startswith(outside):
            assert parameter.grad is None, name
    assert model.null_text.grad is not None and model.null_text.grad.abs().max() > 0
    with torch.no_grad():
        for name, parameter in model.named_parameters():
            if name.startswith(outside):
                parameter.add_(1.0)
        assert torch.equal(model.states(codes, frames, [0, 1, 2]), states)


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
@pytest.mark.parametrize("what", ["text", "voice", "length", "order", "no text", "no voice"])
def test_every_condition_matters_at_every_frame(model, what):
    codes, text, voice = some_codes(1, 6), some_text(1, 5), voices(1)
    given = {
        "text": (some_text(1, 5, seed=1), full(1, 5), voice),
        "voice": (text, full(1, 5), voices(1, seed=1)),
        "length": (text, full(1, 4), voice),
        "order": (text.flip(1), full(1, 5), voice),
        "no text": (None, None, voice),
        "no voice": (text, full(1, 5), None),
    }[what]
    before = model(codes, full(1, 6), model.condition(text, full(1, 5), voice)).logits
    assert changed(model(codes, full(1, 6), model.condition(*given)).logits, before).all()


@torch.no_grad()
def test_a_dropped_row_is_a_row_without_that_condition_and_the_others_stay(model):
    codes, frames, text, voice = some_codes(2, 6), full(2, 6), some_text(2, 5), voices(2)
    lengths, first = full(2, 5), torch.tensor([True, False])
    whole = model(codes, frames, model.condition(text, lengths, voice)).logits

    def told(*given: Tensor | None) -> Tensor:
        return model(codes, frames, model.condition(*given)).logits

    no_text = model(codes, frames, model.condition(text, lengths, voice, drop_text=first)).logits
    close(no_text[0], told(None, None, voice)[0])
    close(no_text[1], whole[1])
    no_voice = model(codes, frames, model.condition(text, lengths, voice, drop_voice=first)).logits
    close(no_voice[0], told(text, lengths, None)[0])
    close(no_voice[1], whole[1])
    empty = told(text, torch.tensor([0, 5]), voice)
    close(empty[0], no_text[0])
    assert changed(no_text[0], whole[0]).all() and changed(no_voice[0], whole[0]).all()


@torch.no_grad()
def test_texts_without_a_single_character_are_the_null_condition(model):
    nothing = model.condition(torch.zeros(2, 0, dtype=torch.long), torch.zeros(2, dtype=torch.long), voices(2))
    null = model.condition(None, None, voices(2))
    assert torch.equal(nothing.vectors, null.vectors) and torch.equal(nothing.mask, null.mask)


@torch.no_grad()
def test_the_memory_is_the_voice_and_then_the_text(model):
    memory = model.condition(some_text(2, 4), torch.tensor([4, 2]), voices(2))
    assert memory.vectors.shape == (2, 5, CONFIG.width)
    assert memory.mask.tolist() == [[True] * 5, [True, True, True, False, False]]
    other = model.condition(some_text(2, 4), torch.tensor([4, 2]), voices(2, seed=1))
    assert changed(memory.vectors, other.vectors).tolist() == [[True, False, False, False, False]] * 2
    assert model.condition(None, None, None, batch=3).vectors.shape == (3, 2, CONFIG.width)


@torch.no_grad()
def test_a_place_in_the_text_is_seen_even_where_every_character_is_the_same(model):
    vectors = model.condition(torch.full((1, 5), 7), full(1, 5), None).vectors[0, 1:]
    places = sinusoids(torch.arange(5), CONFIG.width)
    close(vectors - vectors[0], places - places[0])


def test_text_without_lengths_is_refused(model):
    with pytest.raises(ValueError, match="text_lengths"):
        model.condition(some_text(1, 4), None, None)


# -- alignment and prior -------------------------------------------------------------------------------------------


@torch.no_grad()
def test_alignment_is_minus_infinity_at_text_padding_and_finite_elsewhere(model):
    memory = model.condition(some_text(3, 6), torch.tensor([6, 2, 0]), voices(3))
    for prior in (None, torch.zeros(3, 8, 6)):
        alignment = model(some_codes(3, 7), full(3, 7), memory, align=True, prior=prior).alignment
        assert alignment.shape == (3, 8, 6)
        assert torch.equal(alignment.isneginf(), ~memory.mask[:, None, 1:].expand(3, 8, 6))
        assert alignment[memory.mask[:, None, 1:].expand(3, 8, 6)].isfinite().all()


@torch.no_grad()
def test_alignment_is_what_the_guided_layer_attends_with(model):
    """Softmax of query times key over voice and text, by hand, from the layer's own inputs; averaged over heads."""
    codes, memory, found = some_codes(1, 6), conditions(model, 1), []
    layer = model.layers[model.guided_layer]
    layer.cross_norm.register_forward_hook(lambda _, __, query: found.append(query))
    alignment = model(codes, full(1, 6), memory, align=True).alignment
    query = layer.cross_attention.q(found[0]).unflatten(-1, (4, 8))
    key = layer.cross_attention.k(memory.vectors[:, 1:]).unflatten(-1, (4, 8))
    close(alignment, (torch.einsum("bshc,blhc->bsl", query, key) / 8**0.5 / 4)[:, :7])


@torch.no_grad()
def test_a_prior_of_zero_changes_nothing_and_another_moves_alignment_and_logits(model):
    codes, memory = some_codes(2, 6), conditions(model, 2)
    plain = model(codes, full(2, 6), memory, align=True)
    zero = model(codes, full(2, 6), memory, prior=torch.zeros(2, 7, 5), align=True)
    close(zero.logits, plain.logits)
    close(zero.alignment, plain.alignment)
    wanted = torch.arange(7) * 5 // 7  # frame t listens to character 5 t / 7
    prior = torch.full((2, 7, 5), -100.0).scatter(2, wanted.expand(2, 7)[..., None], 0.0)
    guided = model(codes, full(2, 6), memory, prior=prior, align=True)
    assert torch.equal(guided.alignment.argmax(-1), wanted.expand(2, 7))
    assert changed(guided.logits, plain.logits).all()


@torch.no_grad()
def test_a_prior_rules_every_layer_and_every_book(model):
    """Where it shuts the text out, another text gives the same logits; only the voice is left to listen to."""
    codes, shut = some_codes(1, 6), torch.full((1, 7, 5), -1e4)
    one = model(codes, full(1, 6), conditions(model, 1), prior=shut).logits
    other = model.condition(some_text(1, 5, seed=1), full(1, 5), voices(1))
    close(model(codes, full(1, 6), other, prior=shut).logits, one)
    assert changed(model(codes, full(1, 6), other).logits, one).all()


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
    memory = model.condition(some_text(2, 5), full(2, 5), voices(2), drop_text=torch.tensor([True, False]))
    loss = model(some_codes(2, 6), full(2, 6), memory).logits.square().sum()
    (loss + model.condition(None, None, None).vectors.square().sum()).backward()
    for name, parameter in model.named_parameters():
        assert parameter.grad is not None and parameter.grad.abs().max() > 0, name


def test_hparams_build_the_same_model_again_and_weights_come_back(model, tmp_path: Path):
    again = SpeechLM.from_hparams(model.hparams())
    assert again.hparams() == model.hparams() and again.config == CONFIG
    save_model(tmp_path, "speech_lm", model)
    loaded = load_model(SpeechLM, tmp_path, "speech_lm")
    with torch.no_grad():
        want = model(some_codes(1, 5), full(1, 5), conditions(model, 1)).logits
        assert torch.equal(loaded(some_codes(1, 5), full(1, 5), conditions(loaded, 1)).logits, want)


def test_a_new_model_starts_near_the_uniform_guess():
    torch.manual_seed(0)
    fresh = SpeechLM(CONFIG, codebooks=K, codebook_size=V, text_vocab=VOCAB, voice_dim=P)
    logits = fresh(some_codes(2, 8), full(2, 8), conditions(fresh, 2)).logits
    assert logits.log_softmax(-1).mean().item() == pytest.approx(-torch.log(torch.tensor(V + 1.0)).item(), abs=0.1)
    assert (fresh.null_text - fresh.null_voice).abs().mean() > 0.1


def test_sinusoids_are_the_published_ones():
    found = sinusoids(torch.arange(3), 4)
    by_hand = [[0.0, 0.0, 1.0, 1.0], [0.841471, 0.0099998, 0.540302, 0.99995], [0.909297, 0.0199987, -0.416147, 0.9998]]
    torch.testing.assert_close(found, torch.tensor(by_hand), atol=1e-6, rtol=1e-5)
