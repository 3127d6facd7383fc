"""The compact codec: the protocol, causality, and that padding, neighbours and chunks change nothing."""

from __future__ import annotations

from pathlib import Path

import pytest
import torch

from ira.audio import compact, streaming
from ira.audio.compact import CompactCodec
from ira.audio.pitch import track
from ira.audio.synthesis import HOP
from ira.checkpoint import load_model, save_model
from ira.config import CompactConfig
from ira.errors import InputError
from ira.training.losses import MultiScaleMel

SMALL = CompactConfig(
    width=16, encoder_layers=2, decoder_layers=2, mel_bins=20, codebooks=4, codebook_size=32, code_dim=4
)


@pytest.fixture
def codec() -> CompactCodec:
    torch.manual_seed(0)
    codec = CompactCodec(SMALL).eval()
    for name, parameter in codec.named_parameters():
        if name.endswith(".scale"):  # they start small; here the context of a frame is to matter
            torch.nn.init.constant_(parameter, 1.0)
    spread_codes(codec)
    return codec


@torch.no_grad()
def spread_codes(codec: CompactCodec) -> None:
    """Centre what the encoder sees and says of noise; else one entry would be the nearest to every frame."""
    sound = noise(1, 1, 200 * HOP, seed=5)
    for part in (codec.vocoder, codec):
        enter, bins = part.encoder_in, part.mel.filters.shape[0]
        enter.weight.mul_(4)
        enter.bias.copy_(-enter.weight[:, :bins] @ part.mel(sound)[0].mean(-1))
        latent = codec.latent(sound) if part is codec else codec.vocoder.latent(sound, track(sound))
        part.encoder_norm.bias.sub_(latent[0].mean(0))
        for project in part.quantizer.project_in:
            torch.nn.init.zeros_(project.bias)  # type: ignore[arg-type]


def noise(*shape: int, seed: int = 0) -> torch.Tensor:
    return 0.3 * torch.randn(*shape, generator=torch.Generator().manual_seed(seed))


def some_codes(B: int, K: int, T: int, seed: int = 0) -> torch.Tensor:
    return torch.randint(0, 32, (B, K, T), generator=torch.Generator().manual_seed(seed))


def test_it_says_what_it_is_and_the_untrained_codes_are_spread(codec):
    assert (codec.sample_rate, codec.hop, codec.frame_rate) == (24_000, 320, 75.0)
    assert (codec.codebooks, codec.codebook_size) == (4, 32)
    codes = codec.encode(noise(1, 1, 100 * HOP)).codes
    assert min(len(book.unique()) for book in codes[0]) > 8  # or equal codes would say little


@pytest.mark.parametrize(("samples", "frames"), [(1, 1), (HOP, 1), (HOP + 1, 2), (10 * HOP - 1, 10)])
def test_tokens_and_waveforms_have_the_shapes_of_the_protocol(codec, samples, frames):
    tokens = codec.encode(noise(2, 1, samples))
    assert tokens.codes.shape == (2, 4, frames) and tokens.codes.dtype == torch.int64
    assert tokens.frames.tolist() == [frames, frames]
    assert 0 <= tokens.codes.min() and tokens.codes.max() < 32
    waveform = codec.decode(tokens.codes)
    assert waveform.shape == (2, 1, frames * HOP) and waveform.isfinite().all()


def test_a_row_is_encoded_the_same_alone_and_in_a_batch_whatever_lies_past_its_end(codec):
    samples = torch.tensor([1, HOP, HOP + 1, 6 * HOP + 1, 20 * HOP - 7, 31 * HOP, 0])
    batch = noise(len(samples), 1, 31 * HOP)
    together = codec.encode(batch, samples)
    assert together.frames.tolist() == [1, 1, 2, 7, 20, 31, 0]
    for row, (n, T) in enumerate(zip(samples.tolist(), together.frames.tolist(), strict=True)):
        assert together.codes[row, :, T:].eq(0).all()
        if T:
            alone = codec.encode(batch[row : row + 1, :, :n])
            assert torch.equal(together.codes[row, :, :T], alone.codes[0]), f"row of {n} samples"


def test_a_row_is_decoded_the_same_alone_and_in_a_batch_whatever_lies_past_its_end(codec):
    frames = torch.tensor([0, 1, 2, 7, 20, 31])
    codes = some_codes(len(frames), 4, 31)
    together = codec.decode(codes, frames)
    for row, T in enumerate(frames.tolist()):
        assert together[row, :, T * HOP :].eq(0).all()
        if T:
            alone = codec.decode(codes[row : row + 1, :, :T])
            assert alone.abs().max() > 1e-3
            torch.testing.assert_close(together[row, :, : T * HOP], alone[0], atol=1e-5, rtol=1e-4)


@pytest.mark.parametrize("books", [2, 4])
@pytest.mark.parametrize("chunk", [1, 2, 7, 20])
def test_chunk_by_chunk_equals_the_whole(codec, monkeypatch, chunk, books):
    waveform, samples = noise(2, 1, 41 * HOP - 5), torch.tensor([41 * HOP - 5, 22 * HOP])
    codec.codebooks = books
    tokens = codec.encode(waveform, samples)
    whole = codec.decode(tokens.codes, tokens.frames)
    monkeypatch.setattr(compact, "CHUNK_FRAMES", chunk)
    monkeypatch.setattr(streaming, "CHUNK_FRAMES", chunk)
    assert torch.equal(codec.encode(waveform, samples).codes, tokens.codes)
    torch.testing.assert_close(codec.decode(tokens.codes, tokens.frames), whole, atol=1e-5, rtol=1e-4)


@pytest.mark.parametrize("frame", [0, 3, 9])
def test_a_frames_latent_has_no_gradient_from_later_samples(codec, frame):
    waveform = noise(1, 1, 12 * HOP).requires_grad_()
    (codec.latent(waveform)[0, frame] * torch.arange(16.0)).sum().backward()
    assert waveform.grad is not None
    gradient = waveform.grad[0, 0]
    assert gradient[(frame + 1) * HOP :].eq(0).all()
    assert gradient[frame * HOP : (frame + 1) * HOP].abs().max() > 0


def test_codes_of_the_past_do_not_change_with_the_future(codec):
    one, other = noise(1, 1, 20 * HOP), noise(1, 1, 20 * HOP, seed=1)
    other[..., : 12 * HOP] = one[..., : 12 * HOP]
    assert torch.equal(codec.encode(one).codes[..., :12], codec.encode(other).codes[..., :12])
    assert not torch.equal(codec.encode(one).codes[..., 12:], codec.encode(other).codes[..., 12:])


@pytest.mark.parametrize("sample", [200, 5 * HOP + 200])
def test_a_sample_has_no_gradient_from_frames_more_than_three_after_its_own(codec, sample):
    latent = codec.quantizer.decode(some_codes(1, 2, 12)).detach().requires_grad_()
    codec.synthesise(latent)[0, 0, sample].backward()
    assert latent.grad is not None
    gradient, last = latent.grad[0].abs().amax(-1), sample // HOP + 3
    assert gradient[last + 1 :].eq(0).all()
    assert gradient[last] > 0


@pytest.mark.parametrize("books", [2, 4])
def test_decoded_samples_are_final_three_frames_after_their_own(codec, books):
    codes = some_codes(1, books, 20)
    other = codes.clone()
    other[..., 11:] = (other[..., 11:] + 5) % 32
    one, two = codec.decode(codes), codec.decode(other)
    torch.testing.assert_close(one[..., : 8 * HOP], two[..., : 8 * HOP], atol=1e-6, rtol=0)
    assert (one - two)[..., 8 * HOP : 9 * HOP].abs().max() > 1e-4


@pytest.mark.parametrize("books", [1, 2, 3])
def test_fewer_codebooks_are_the_first_of_all_and_decode(codec, books):
    waveform = noise(1, 1, 30 * HOP)
    every, fewer = codec.encode(waveform), codec.encode(waveform, codebooks=books)
    assert torch.equal(fewer.codes, every.codes[:, :books])
    heard = codec.decode(fewer.codes)
    assert heard.shape == (1, 1, 30 * HOP)
    assert (heard - codec.decode(every.codes)).abs().max() > 1e-3
    codec.codebooks = books
    assert torch.equal(codec.encode(waveform).codes, fewer.codes)


def test_the_quantizers_latent_is_what_its_codes_decode_to(codec):
    latent = codec.latent(noise(1, 1, 30 * HOP))
    whole = codec.quantizer(latent)
    torch.testing.assert_close(codec.quantizer.decode(whole.codes), whole.latent, atol=1e-5, rtol=1e-4)
    limited = codec.quantizer(latent.expand(2, -1, -1), torch.tensor([1, 2]))
    torch.testing.assert_close(codec.quantizer.decode(whole.codes[:, :1])[0], limited.latent[0], atol=1e-5, rtol=1e-4)
    torch.testing.assert_close(limited.latent[1:], whole.latent)


@torch.no_grad()
def test_a_code_is_the_entry_with_the_largest_cosine_to_what_the_books_before_left_over(codec):
    quantizer = codec.quantizer
    left = codec.latent(noise(1, 1, 5 * HOP))
    codes = quantizer(left).codes[0]
    for k, book in enumerate(quantizer.books):
        point = quantizer.project_in[k](left)[0]
        for t in range(5):
            cosines = [float(torch.cosine_similarity(point[t], entry, dim=0)) for entry in book]
            assert codes[k, t] == max(range(32), key=cosines.__getitem__), (k, t)
        left = left - quantizer.project_out[k](book[codes[k]])


def test_the_training_pass_is_what_encoding_and_decoding_give(codec):
    waveform = noise(2, 1, 20 * HOP)
    made, quantized = codec(waveform)
    tokens = codec.encode(waveform)
    assert torch.equal(quantized.codes, tokens.codes[:, 2:])
    torch.testing.assert_close(made, codec.decode(tokens.codes), atol=1e-5, rtol=1e-4)


def test_under_autocast_the_tokens_are_those_of_full_precision(codec):
    waveform = noise(1, 1, 100 * HOP)
    with torch.autocast("cpu", torch.bfloat16):
        half = codec.encode(waveform).codes
    assert torch.equal(half, codec.encode(waveform).codes)


def test_every_parameter_learns_from_a_reconstruction(codec):
    """But the vocoder, which learns by itself."""
    made, quantized = codec(noise(1, 1, 20 * HOP))
    (made.square().mean() + quantized.codebook_loss + quantized.commitment_loss).backward()
    assert all(parameter.grad is None for parameter in codec.vocoder.parameters())
    for name, parameter in codec.named_parameters():
        if name.startswith("vocoder"):
            continue
        assert parameter.grad is not None and parameter.grad.abs().max() > 0, name


def test_a_reconstruction_teaches_the_encoder_and_the_books_follow_by_their_own_loss(codec):
    enter, book = codec.encoder_in.weight, codec.quantizer.books[0]
    made, quantized = codec(noise(1, 1, 20 * HOP))

    def moved(loss: torch.Tensor) -> list[bool]:
        gradients = torch.autograd.grad(loss, [enter, book], retain_graph=True, allow_unused=True)
        return [gradient is not None and bool(gradient.abs().max() > 0) for gradient in gradients]

    assert moved(made.square().mean()) == [True, False]  # straight through the choice of a code
    assert moved(quantized.commitment_loss) == [True, False]
    alone = codec.quantizer(codec.latent(noise(1, 1, 20 * HOP)).detach())
    assert torch.autograd.grad(alone.codebook_loss, book, retain_graph=True)[0].abs().max() > 0
    _, limited = codec(noise(2, 1, 20 * HOP), torch.tensor([1, 1]))
    assert moved(limited.codebook_loss)[1]
    (unused,) = torch.autograd.grad(limited.codebook_loss, codec.quantizer.books[1])
    assert unused.eq(0).all()


def test_saved_and_loaded_it_keeps_fingerprint_and_tokens(codec, tmp_path: Path):
    save_model(tmp_path, "codec", codec)
    again = load_model(CompactCodec, tmp_path, "codec")
    waveform = noise(1, 1, 40 * HOP)
    tokens = codec.encode(waveform)
    assert again.fingerprint() == codec.fingerprint()
    assert torch.equal(again.encode(waveform).codes, tokens.codes)
    assert torch.equal(again.decode(tokens.codes), codec.decode(tokens.codes))


def test_the_fingerprint_tells_weights_and_codebooks_apart(codec):
    names = [codec.fingerprint()]
    codec.codebooks = 2
    names.append(codec.fingerprint())
    with torch.no_grad():
        codec.quantizer.books[1][0, 0] += 1e-3
        codec.vocoder.head.weight += 1.0
    assert codec.fingerprint() == names[-1]  # neither has a say in the tokens of the first two
    codec.codebooks = 4
    names.append(codec.fingerprint())
    with torch.no_grad():
        codec.vocoder.quantizer.books[1][0, 0] += 1e-3
    names.append(codec.fingerprint())
    assert len(set(names)) == 4


@pytest.mark.parametrize("books", [0, 5, -1])
def test_codebooks_that_are_not_there_are_refused(codec, books):
    with pytest.raises(InputError, match=rf"{books} codebooks; this codec has 1\.\.4"):
        codec.encode(noise(1, 1, HOP), codebooks=books)


@pytest.mark.parametrize(
    ("codes", "frames", "said"),
    [
        (some_codes(1, 5, 4), None, "5 codebooks"),
        (torch.full((1, 4, 4), 32), None, "32..32"),
        (some_codes(1, 4, 4), torch.tensor([5]), "frames"),
        (some_codes(2, 4, 4), torch.tensor([4]), "frames"),
    ],
)
def test_codes_and_frames_that_do_not_fit_are_refused(codec, codes, frames, said):
    with pytest.raises(InputError, match=said):
        codec.decode(codes, frames)


def test_sixty_steps_on_a_chord_halve_the_mel_distance():
    torch.manual_seed(0)
    codec = CompactCodec(SMALL.model_copy(update={"width": 32}))
    time = torch.arange(30 * HOP) / 24_000
    chord = sum(0.2 * torch.sin(2 * torch.pi * hertz * time) for hertz in (220.0, 277.2, 329.6, 1318.5))
    chord = torch.as_tensor(chord).reshape(1, 1, -1)
    distance, optimizer = MultiScaleMel(), torch.optim.AdamW(codec.parameters(), lr=1.5e-2)
    distances = []
    for _ in range(60):
        made, quantized = codec(chord)
        mel = distance(made, chord)
        distances.append(float(mel.detach()))
        optimizer.zero_grad()
        (15 * mel + quantized.codebook_loss + 0.25 * quantized.commitment_loss).backward()
        optimizer.step()
    heard = codec.eval().decode(codec.encode(chord).codes)
    assert float(distance(heard, chord)) < distances[0] / 2
