"""The vocoder: what it hears knows no phase, and what it says goes on through chunks, rows and long audio."""

from __future__ import annotations

import pytest
import torch

from ira.audio import streaming, vocoder
from ira.audio.pitch import track
from ira.audio.streaming import decode_all
from ira.audio.synthesis import HOP
from ira.audio.vocoder import Vocoder, VocoderStream
from ira.audio.waveform import SAMPLE_RATE
from ira.config import CompactConfig

SMALL = CompactConfig(width=16, encoder_layers=2, decoder_layers=2, codebooks=4, codebook_size=32, code_dim=4)


@pytest.fixture
def own() -> Vocoder:
    torch.manual_seed(0)
    made = Vocoder(SMALL).eval()
    for name, parameter in made.named_parameters():
        if name.endswith(".scale") or name.startswith(("head.weight", "pitch_head.weight")):
            torch.nn.init.normal_(parameter, std=0.3)
    return made


def codes(B: int, T: int, seed: int = 0) -> torch.Tensor:
    return torch.randint(0, 32, (B, 2, T), generator=torch.Generator().manual_seed(seed))


def every(batch: torch.Tensor) -> torch.Tensor:
    return torch.full((len(batch),), batch.shape[-1])


def voice(phases: torch.Tensor, hertz: float = 150.0, seconds: float = 1.0) -> torch.Tensor:
    """Harmonics of one size with phases [H] -> [1, 1, N]."""
    time = torch.arange(int(seconds * SAMPLE_RATE)) / SAMPLE_RATE
    angles = 2 * torch.pi * hertz * torch.arange(1, len(phases) + 1)[:, None] * time + phases[:, None]
    return (0.05 * torch.cos(angles).sum(0))[None, None]


@torch.no_grad()
def test_a_voice_of_other_phases_or_upside_down_is_heard_the_same():
    """Far less apart than two vowels or two pitches are."""
    torch.manual_seed(0)
    hears = Vocoder(CompactConfig()).eval()
    turned = torch.rand(20, generator=torch.Generator().manual_seed(3)) * 6.28
    plain = voice(torch.zeros(20))
    latents = [
        hears.latent(w, track(w))[0, 10:-5]
        for w in (plain, -plain, voice(turned), voice(torch.zeros(8)), voice(turned, 190))
    ]
    apart = [float((latents[0] - other).square().mean().sqrt()) for other in latents[1:]]
    assert apart[0] < 1e-3
    assert apart[1] < 0.35 * min(apart[2:]), apart


@pytest.mark.parametrize("chunk", [1, 2, 7, 20])
def test_chunk_by_chunk_equals_the_whole_of_every_row(own, monkeypatch, chunk):
    batch, frames = codes(2, 41), torch.tensor([41, 22])
    with torch.no_grad():
        whole = decode_all(VocoderStream(own, 2), batch, frames)
        alone = decode_all(VocoderStream(own, 1), batch[1:, :, :22], frames[1:])
        monkeypatch.setattr(streaming, "CHUNK_FRAMES", chunk)
        pieces = decode_all(VocoderStream(own, 2), batch, frames)
    torch.testing.assert_close(pieces[:1], whole[:1], atol=1e-5, rtol=1e-4)
    for made in (pieces, whole):
        torch.testing.assert_close(made[1:, :, : 22 * HOP], alone, atol=1e-5, rtol=1e-4)


@torch.no_grad()
def test_a_stream_gives_each_sample_three_frames_after_its_own(own):
    stream, batch, given = VocoderStream(own, 1), codes(1, 20), 0
    for frame in range(20):
        given += stream.push(batch[..., frame : frame + 1], torch.ones(1, 1, dtype=torch.bool)).shape[-1] // HOP
        assert given == max(frame + 1 - 3, 0)
    rest = stream.push(batch[..., :0], torch.ones(1, 0, dtype=torch.bool), last=True)
    assert given + rest.shape[-1] // HOP == 20


def test_long_speech_keeps_its_pitch_to_the_end(own):
    """A phase that is counted in half precision, or from the start of all, would drift."""
    with torch.no_grad():
        torch.nn.init.zeros_(own.pitch_head.weight)
        own.pitch_head.bias.fill_(0.0)  # 148.4 Hz
        own.head.weight.zero_()
        own.head.bias[: own.head.out_features // 2], own.head.bias[own.head.out_features // 2 :] = 0.0, -20.0
        made = decode_all(VocoderStream(own, 1), codes(1, 4000), torch.tensor([4000]))[0, 0]
    period = SAMPLE_RATE / 148.41
    for start in (10_000, 1_200_000):
        piece = made[start : start + 4800]
        lags = torch.arange(140, 185)
        best = lags[
            torch.stack([(piece[:-200] * made[start + lag : start + lag + 4600]).sum() for lag in lags]).argmax()
        ]
        assert abs(float(best) - period) <= 1


def test_the_training_pass_says_what_decoding_says_where_the_pitch_is_right(own):
    """With the pitch head's word for the recording's."""
    waveform = voice(torch.zeros(20))
    own.train()
    said = own(waveform)
    assert said.made.shape == waveform.shape and said.made.isfinite().all()
    assert torch.equal(own.quantizer(own.latent(waveform, track(waveform))).codes, said.quantized.codes)
    assert float(said.pitch_error) > 0


def test_the_pitch_error_is_zero_for_the_right_pitch_and_its_distance_for_another(own):
    waveform = voice(torch.zeros(20), 150.0)
    with torch.no_grad():
        own.pitch_head.weight.zero_()
        for hertz, error in ((150.0, 0.0), (300.0, 0.693), (75.0, 0.693)):
            own.pitch_head.bias.fill_(float(torch.tensor(hertz).log()) - vocoder.MIDDLE_PITCH)
            assert float(own(waveform).pitch_error) == pytest.approx(error, abs=0.01)


def test_every_parameter_learns(own):
    own.train()
    said = own(voice(torch.zeros(20)))
    (
        said.made.square().mean() + said.pitch_error + said.quantized.codebook_loss + said.quantized.commitment_loss
    ).backward()
    for name, parameter in own.named_parameters():
        assert parameter.grad is not None and parameter.grad.abs().max() > 0, name
