"""Both codecs decode as codes come what they decode at once, whatever the pieces."""

from __future__ import annotations

import pytest
import torch
from transformers import EncodecConfig, EncodecModel

from ira.audio.codec import Codec
from ira.audio.compact import CompactCodec
from ira.audio.encodec import EncodecCodec
from ira.config import CompactConfig
from ira.errors import InputError

T = 120


def compact() -> CompactCodec:
    config = CompactConfig(width=16, encoder_layers=1, decoder_layers=3, codebooks=4, codebook_size=32, code_dim=4)
    codec = CompactCodec(config).eval()
    for name, parameter in codec.named_parameters():
        if "head" in name or name.endswith(".scale"):
            torch.nn.init.normal_(parameter, std=0.3)
    return codec


@pytest.fixture(params=["vocoder", "waveform", "encodec"])
def codec_and_books(request) -> tuple[Codec, int]:
    torch.manual_seed(0)
    if request.param == "encodec":
        return EncodecCodec(EncodecModel(EncodecConfig(num_filters=4, hidden_size=16, codebook_size=32))), 4
    return compact(), 2 if request.param == "vocoder" else 4


def codes_of(books: int, size: int = 32) -> torch.Tensor:
    return torch.randint(0, size, (1, books, T), generator=torch.Generator().manual_seed(1))


@pytest.mark.parametrize("piece", [1, 3, 8, 50, T])
def test_pieces_of_any_size_give_the_samples_of_the_whole(codec_and_books, piece):
    codec, books = codec_and_books
    codes, stream = codes_of(books), codec.stream()
    pieces = [stream.push(part) for part in codes.split(piece, dim=-1)]
    made = torch.cat([*pieces, stream.finish()], dim=-1)
    whole = codec.decode(codes)
    assert whole.abs().max() > 1e-3
    torch.testing.assert_close(made, whole, atol=1e-5, rtol=1e-4)
    with pytest.raises(InputError, match="after finish"):
        stream.push(codes)


def test_sound_comes_a_few_frames_after_its_codes(codec_and_books):
    codec, books = codec_and_books
    codes, stream, given = codes_of(books), codec.stream(), 0
    for frame in range(T):
        given += stream.push(codes[..., frame : frame + 1]).shape[-1] // codec.hop
        assert given <= frame + 1
        assert frame < 7 or given >= frame + 1 - 3
    assert given + stream.finish().shape[-1] // codec.hop == T


def test_an_utterance_of_nothing_is_nothing(codec_and_books):
    assert codec_and_books[0].stream().finish().shape == (1, 1, 0)
