"""What every codec shares: rows padded to whole frames, codes checked, a codec chosen from the configuration."""

from __future__ import annotations

import pytest
import torch

from ira.audio.codec import check_codes, check_frames, load_codec, pad_to_frames
from ira.config import CodecConfig
from ira.errors import InputError


def test_rows_are_silent_past_their_samples_and_padded_to_whole_frames():
    padded, frames = pad_to_frames(torch.ones(3, 1, 7), torch.tensor([7, 4, 0]), hop=4)
    assert padded.shape == (3, 1, 8)
    assert padded.sum(dim=-1).flatten().tolist() == [7, 4, 0]
    assert frames.tolist() == [2, 1, 0]


def test_without_lengths_every_sample_counts():
    padded, frames = pad_to_frames(torch.ones(2, 1, 9), None, hop=4)
    assert padded.shape == (2, 1, 12) and frames.tolist() == [3, 3]


@pytest.mark.parametrize("shape", [(9,), (1, 9), (1, 2, 9), (1, 1, 0), (0, 1, 9)])
def test_a_waveform_of_another_shape_is_refused_with_its_shape(shape):
    with pytest.raises(InputError, match=r"shape \["):
        pad_to_frames(torch.ones(shape), None, hop=4)


@pytest.mark.parametrize("samples", [[10], [-1], [3, 3]])
def test_lengths_that_do_not_fit_are_refused(samples):
    with pytest.raises(InputError, match="samples"):
        pad_to_frames(torch.ones(1, 1, 9), torch.tensor(samples), hop=4)


@pytest.mark.parametrize("frames", [[6], [-1], [2, 2]])
def test_frames_that_do_not_fit_the_codes_are_refused(frames):
    with pytest.raises(InputError, match="frames"):
        check_frames(torch.zeros(1, 2, 5, dtype=torch.long), torch.tensor(frames))


@pytest.mark.parametrize(
    ("codes", "said"),
    [
        (torch.zeros(2, 5, dtype=torch.long), "codebooks, frames"),
        (torch.zeros(1, 2, 5), "integers"),
        (torch.zeros(1, 9, 5, dtype=torch.long), "9 codebooks"),
        (torch.full((1, 2, 5), 1024), "1024..1024"),
        (torch.full((1, 2, 5), -1), "-1..-1"),
    ],
)
def test_codes_that_cannot_be_decoded_are_refused(codes, said):
    with pytest.raises(InputError, match=said):
        check_codes(codes, codebooks=8, codebook_size=1024)


def test_codes_in_range_pass():
    check_codes(torch.tensor([[[0, 1023]]]), codebooks=8, codebook_size=1024)


def test_a_compact_codec_without_weights_is_refused_with_the_remedy():
    with pytest.raises(InputError, match="codec.path"):
        load_codec(CodecConfig(kind="compact"))
