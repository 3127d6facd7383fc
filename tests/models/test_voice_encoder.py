"""The voice encoder: unit vectors that do not depend on padding, neighbours or loudness, from sound and from words."""

from __future__ import annotations

from pathlib import Path

import pytest
import torch
from torch import Tensor, nn

from ira.audio.compact import CompactCodec
from ira.audio.waveform import LogMel
from ira.checkpoint import load_model, save_model
from ira.config import CompactConfig, VoiceConfig
from ira.data.text import CharTokenizer
from ira.models.voice_encoder import STACK, VoiceEncoder, embed_recording, embed_tokens, embed_words

M, VOCAB = 16, 20
CONFIG = VoiceConfig(mel_bins=M, hidden=24, dim=8, layers=2, heads=2, text_hidden=16, text_layers=2)


@pytest.fixture
def encoder() -> VoiceEncoder:
    torch.manual_seed(0)
    encoder = VoiceEncoder(CONFIG, text_vocab=VOCAB).eval()
    for child in encoder.modules():  # far from the start, where attention is uniform
        if isinstance(child, nn.Linear):
            nn.init.normal_(child.weight, std=1.5 * child.in_features**-0.5)
        elif isinstance(child, nn.Embedding):
            nn.init.normal_(child.weight)
    return encoder


def mel(B: int, T: int, seed: int = 0) -> Tensor:
    return 2 * torch.randn(B, M, T, generator=torch.Generator().manual_seed(seed)) - 4


def words(B: int, L: int, seed: int = 0) -> Tensor:
    return torch.randint(1, VOCAB, (B, L), generator=torch.Generator().manual_seed(seed))


def close(got: Tensor, want: Tensor) -> None:
    torch.testing.assert_close(got, want, atol=1e-5, rtol=1e-4)


@torch.no_grad()
def test_both_towers_give_unit_vectors_of_one_space(encoder):
    heard = encoder.embed_audio(mel(3, 30), torch.tensor([30, 7, 1]))
    read = encoder.embed_text(words(3, 9), torch.tensor([9, 4, 1]))
    assert heard.shape == read.shape == (3, CONFIG.dim)
    close(torch.cat([heard, read]).norm(dim=-1), torch.ones(6))
    assert torch.pdist(torch.cat([heard, read])).min() > 0.05  # and six different ones


@torch.no_grad()
@pytest.mark.parametrize("frames", [1, STACK - 1, STACK, STACK + 1, 30])
def test_what_lies_past_a_clips_frames_changes_nothing(encoder, frames):
    clip = mel(1, frames)
    alone = encoder.embed_audio(clip, torch.tensor([frames]))
    for size in (1, 2, 3, 17):
        padded = torch.cat([clip, 100 * mel(1, size, seed=1)], dim=2)
        close(encoder.embed_audio(padded, torch.tensor([frames])), alone)


@torch.no_grad()
def test_clips_do_not_depend_on_their_neighbours(encoder):
    clips, frames = mel(4, 40), torch.tensor([40, 3, 17, 24])
    together = encoder.embed_audio(clips, frames)
    for row, T in enumerate(frames.tolist()):
        close(encoder.embed_audio(clips[row : row + 1, :, :T], frames[row : row + 1]), together[row : row + 1])


@torch.no_grad()
def test_the_level_of_a_clip_changes_nothing_and_the_shape_of_its_spectrum_does(encoder):
    clips, frames = mel(2, 33), torch.tensor([33, 18])
    before = encoder.embed_audio(clips, frames)
    close(encoder.embed_audio(clips + torch.tensor([3.0, -2.0])[:, None, None], frames), before)
    tilted = clips + torch.linspace(-2, 2, M)[:, None]  # the same mean level, a brighter voice
    assert (encoder.embed_audio(tilted, frames) - before).norm(dim=-1).min() > 0.05


@torch.no_grad()
def test_a_recording_four_times_as_loud_is_the_same_voice(encoder):
    log_mel, generator = LogMel(M), torch.Generator().manual_seed(0)
    sound = 0.05 * torch.randn(1, 1, 16_000, generator=generator)
    frames = torch.tensor([50])
    heard = [encoder.embed_audio(log_mel(gain * sound), frames) for gain in (1.0, 4.0, 0.25)]
    close(heard[1], heard[0])
    close(heard[2], heard[0])


@torch.no_grad()
def test_every_frame_and_the_order_of_frames_are_heard(encoder):
    clip, frames = mel(1, 13), torch.tensor([13])
    before = encoder.embed_audio(clip, frames)
    for frame in range(13):
        other = clip.clone()
        other[:, ::2, frame] += 3  # and down again, else the level of the whole clip would tell
        other[:, 1::2, frame] -= 3
        assert (encoder.embed_audio(other, frames) - before).norm() > 1e-3, frame
    assert (encoder.embed_audio(clip.flip(2), frames) - before).norm() > 1e-2


@torch.no_grad()
def test_padding_and_neighbours_of_a_description_change_nothing(encoder):
    text, lengths = words(3, 12), torch.tensor([12, 5, 1])
    together = encoder.embed_text(text, lengths)
    other = encoder.embed_text(text.masked_fill(torch.arange(12) >= lengths[:, None], 0), lengths)
    close(other, together)
    for row, L in enumerate(lengths.tolist()):
        close(encoder.embed_text(text[row : row + 1, :L], lengths[row : row + 1]), together[row : row + 1])


@torch.no_grad()
def test_every_character_and_their_order_are_read(encoder):
    text, lengths = words(1, 8), torch.tensor([8])
    before = encoder.embed_text(text, lengths)
    for place in range(8):
        other = text.clone()
        other[0, place] = text[0, place] % (VOCAB - 1) + 1
        assert (encoder.embed_text(other, lengths) - before).norm() > 1e-3, place
    assert (encoder.embed_text(text.flip(1), lengths) - before).norm() > 1e-2


@torch.no_grad()
def test_an_empty_row_is_finite_and_leaves_the_others_alone(encoder):
    heard = encoder.embed_audio(mel(2, 12), torch.tensor([0, 12]))
    read = encoder.embed_text(words(2, 4), torch.tensor([0, 4]))
    assert heard.isfinite().all() and read.isfinite().all()
    close(heard[1:], encoder.embed_audio(mel(2, 12)[1:], torch.tensor([12])))


def test_every_parameter_learns_and_no_gradient_reaches_the_padding(encoder):
    clips = mel(2, 20).requires_grad_()
    direction = torch.arange(float(CONFIG.dim))
    heard = encoder.embed_audio(clips, torch.tensor([20, 9])) @ direction
    (heard.sum() + (encoder.embed_text(words(2, 6), torch.tensor([6, 3])) @ direction).sum()).backward()
    for name, parameter in encoder.named_parameters():
        if not name.endswith("attend.bias"):  # softmax does not feel it
            assert parameter.grad is not None and parameter.grad.abs().max() > 0, name
    assert clips.grad is not None
    assert clips.grad[1, :, 9:].eq(0).all() and (clips.grad[1, :, :9].abs().amax(0) > 0).all()


@pytest.fixture
def codec() -> CompactCodec:
    torch.manual_seed(1)
    small = CompactConfig(
        width=8,
        encoder_layers=1,
        decoder_layers=1,
        mel_bins=M,
        codebooks=2,
        vocoder_books=1,
        codebook_size=16,
        code_dim=4,
    )
    return CompactCodec(small).eval()


@torch.no_grad()
@pytest.mark.parametrize(("frames", "starts"), [(4, [0]), (8, [0]), (15, [0]), (16, [0, 8]), (70, [0, 20, 41, 62])])
def test_a_recordings_voice_is_the_mean_over_crops_of_its_tokens(encoder, codec, frames, starts):
    encoder.config = CONFIG.model_copy(update={"crop_seconds": 8 / 75})
    noise = torch.randn(1, frames * 320, generator=torch.Generator().manual_seed(2))
    sound = noise * torch.linspace(0, 1, frames * 320)
    voice = embed_recording(encoder, codec, sound)
    codes, log_mel, crops = codec.encode(sound[None]).codes, LogMel(M), []
    for start in starts:
        crop = codes[..., start : start + 8]
        crops.append(encoder.embed_audio(log_mel(codec.decode(crop)), torch.tensor([crop.shape[-1]]))[0])
    mean = torch.stack(crops).mean(0)
    close(voice, mean / mean.norm())


@torch.no_grad()
def test_tokens_are_heard_through_the_codec_up_to_their_frames(encoder, codec):
    codes, frames = torch.randint(0, 16, (2, 2, 12), generator=torch.Generator().manual_seed(0)), torch.tensor([12, 5])
    heard = embed_tokens(encoder, codec, LogMel(M), codes, frames)
    close(heard[1:], embed_tokens(encoder, codec, LogMel(M), codes[1:, :, :5], frames[1:]))
    assert (heard[0] - heard[1]).norm() > 1e-3


@torch.no_grad()
def test_words_are_normalised_and_what_cannot_be_read_is_passed_over():
    tokenizer = CharTokenizer()
    torch.manual_seed(0)
    encoder = VoiceEncoder(CONFIG, text_vocab=tokenizer.vocab_size).eval()
    once = embed_words(encoder, ["A deep  voice", "a man", ""], tokenizer)
    assert once.shape == (3, CONFIG.dim) and once.isfinite().all()
    close(embed_words(encoder, ["a deep voice \N{DUCK}"], tokenizer)[0], once[0])
    assert (once[0] - once[1]).norm() > 1e-3


@torch.no_grad()
def test_saved_and_loaded_it_hears_the_same(encoder, tmp_path: Path):
    save_model(tmp_path, "voice", encoder)
    again = load_model(VoiceEncoder, tmp_path, "voice")
    assert again.hparams() == encoder.hparams()
    frames, lengths = torch.tensor([20, 9]), torch.tensor([6, 3])
    assert torch.equal(again.embed_audio(mel(2, 20), frames), encoder.embed_audio(mel(2, 20), frames))
    assert torch.equal(again.embed_text(words(2, 6), lengths), encoder.embed_text(words(2, 6), lengths))
