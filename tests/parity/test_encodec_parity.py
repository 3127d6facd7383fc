"""EnCodec through IRA equals transformers' EncodecModel: full size, saved and loaded by the path a user takes."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import pytest
import torch
from transformers import EncodecConfig, EncodecModel

from ira.audio.codec import Codec, load_codec
from ira.config import CodecConfig

SECONDS = 1.2


@pytest.fixture(scope="module")
def folder(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A full-size EnCodec (32 filters, 32 codebooks) with random weights and codebooks that codes spread over."""
    torch.manual_seed(0)
    model: Any = EncodecModel(EncodecConfig()).eval()
    with torch.no_grad():
        left = model.encoder(0.3 * torch.randn(1, 1, 200 * 320))
        for layer in model.quantizer.layers:  # random entries where the latents of noise lie
            spread, centre = torch.std_mean(left, dim=(0, 2))
            layer.codebook.embed.normal_().mul_(spread).add_(centre)
            left = left - layer.decode(layer.encode(left))
    place = tmp_path_factory.mktemp("encodec")
    model.save_pretrained(place)
    return place


@pytest.fixture(scope="module")
def reference(folder: Path) -> EncodecModel:
    return EncodecModel.from_pretrained(folder).double().eval()


@pytest.fixture(scope="module")
def codec(folder: Path) -> Codec:
    # float64 on both sides: nearest entries are then never decided by rounding
    return load_codec(CodecConfig(kind="encodec", path=str(folder), bandwidth_kbps=24.0)).double()  # type: ignore


@pytest.fixture(scope="module")
def waveform() -> torch.Tensor:
    generator = torch.Generator().manual_seed(1)
    noise = torch.randn(2, 1, int(SECONDS * 24_000), generator=generator, dtype=torch.float64)
    return 0.3 * noise * torch.linspace(0, 1, noise.shape[-1], dtype=torch.float64)


@pytest.mark.parametrize(("kbps", "codebooks"), [(1.5, 2), (3.0, 4), (6.0, 8), (12.0, 16), (24.0, 32)])
def test_codes_equal_the_reference_at_every_bandwidth(codec, reference, waveform, kbps, codebooks):
    with torch.no_grad():
        want = reference.encode(waveform, bandwidth=kbps).audio_codes[0]
    got = codec.encode(waveform, codebooks=codebooks)
    assert want.shape == (2, codebooks, 90) and want[0, 0].unique().numel() > 20  # or equality would say little
    assert torch.equal(got.codes, want) and got.frames.tolist() == [90, 90]


@pytest.mark.parametrize("frames", [1, 2, 6, 7, 40])
@pytest.mark.parametrize("codebooks", [2, 8, 32])
def test_decoded_sound_equals_the_reference(codec, reference, frames, codebooks):
    codes = torch.randint(0, 1024, (2, codebooks, frames), generator=torch.Generator().manual_seed(2))
    with torch.no_grad():
        want = reference.decode(codes[None], [None]).audio_values
    torch.testing.assert_close(codec.decode(codes), want, atol=1e-6, rtol=1e-5)


@pytest.mark.parametrize("frames", [1, 2, 6, 7])
def test_very_short_sound_is_encoded_as_the_reference_does(codec, reference, waveform, frames):
    short = waveform[:, :, -frames * 320 :]
    with torch.no_grad():
        want = reference.encode(short, bandwidth=24.0).audio_codes[0]
    assert torch.equal(codec.encode(short).codes, want)


def test_single_precision_is_as_a_user_runs_it(folder, reference, waveform):
    codec = load_codec(CodecConfig(kind="encodec", path=str(folder)))
    with torch.no_grad():
        want = reference.encode(waveform, bandwidth=6.0).audio_codes[0]
        sound = reference.decode(want[None], [None]).audio_values
    assert (codec.encode(waveform).codes == want).float().mean() > 0.99
    torch.testing.assert_close(codec.decode(want).double(), sound, atol=1e-4, rtol=1e-3)
