"""Ours and the peer do the same amount of work: as many numbers, rows, positions and steps."""

from __future__ import annotations

from typing import Any

import pytest
import torch
from torch import nn

from ira.bench.decode import DTYPES, UNGUIDED, OurLoop, cache_read, measure_decode, text_memory, weights_read
from ira.bench.peers import MusicgenLoop, encodec, musicgen
from ira.bench.sizes import QUICK, TEXT, seed_model
from ira.bench.train import count_operations, our_step, peer_step, random_rows
from ira.config import SpeechConfig
from ira.models.speech_lm import SpeechLM

CPU = torch.device("cpu")


@pytest.fixture
def model() -> SpeechLM:
    """Of a width whose 8/3 is a multiple of 64, as the full-scale one's is."""
    shape = SpeechConfig(layers=2, width=96, heads=2, max_steps=64, text_layers=0)
    torch.manual_seed(0)
    return SpeechLM(shape, codebooks=2, codebook_size=32, text_vocab=20, voice_dim=8, languages=["en"])


def matrices(module: nn.Module) -> int:
    return sum(parameter.numel() for parameter in module.parameters() if parameter.ndim == 2)


def test_the_layers_and_heads_have_as_many_numbers(model: SpeechLM):
    peer = musicgen(model)
    assert matrices(model.layers) == matrices(peer.model.decoder.layers)
    assert matrices(model.heads) == matrices(peer.lm_heads)


@pytest.mark.parametrize("dtype", DTYPES)
def test_both_loops_stand_at_the_same_frame_with_the_same_rows(model: SpeechLM, dtype: str):
    model = model.to(DTYPES[dtype]).eval()
    memory = text_memory(model, 3).vectors
    peer = MusicgenLoop(musicgen(model).to(DTYPES[dtype]), memory, UNGUIDED)
    ours = OurLoop(model, 3, 40, UNGUIDED)
    for loop in (ours, peer):
        for start in (20, 7, 12):  # further, back, further
            loop.go_to(start)
            assert loop.length == start
            loop.step()
            loop.step()
            assert loop.length == start + 2
    assert peer.tokens.shape == (3 * 2, 1) and ours.decoding.state.caches[0].keys.shape[0] == 3
    assert memory.shape == (3, 1 + TEXT, 96)


def test_the_cache_of_the_peer_is_filled_as_far_as_it_says(model: SpeechLM):
    peer = MusicgenLoop(musicgen(model), text_memory(model, 1).vectors, UNGUIDED)
    peer.go_to(30)
    layers: list[Any] = peer.cache.self_attention_cache.layers
    assert [layer.keys.shape[2] for layer in layers] == [30, 30]


def test_a_training_step_goes_over_as_many_positions_and_operations(model: SpeechLM):
    batch, peer = random_rows(model, 3, 58), musicgen(model)
    seen: list[torch.Size] = []

    def look(_: nn.Module, given: tuple[Any, ...]) -> None:
        seen.append(given[0].shape)

    model.layers[0].register_forward_pre_hook(look)
    peer.model.decoder.layers[0].register_forward_pre_hook(look)
    operations = [count_operations(step) for step in (our_step(model, batch, CPU), peer_step(peer, batch, CPU))]
    assert seen == [torch.Size([3, 60, 96])] * 2
    assert operations[0] == pytest.approx(operations[1], rel=0.05)


@pytest.mark.parametrize("step_of", [lambda m, b: our_step(m, b, CPU), lambda m, b: peer_step(musicgen(m), b, CPU)])
def test_a_training_step_runs_again(model: SpeechLM, step_of: Any):
    step = step_of(model, random_rows(model, 2, 8))
    assert count_operations(step) == count_operations(step)


def test_bytes_of_a_step_by_hand(model: SpeechLM, monkeypatch):
    layer = (4 + 2) * 96 * 96 + 3 * 96 * 256 + 3 * 96  # attention; its q and o to the memory; feed-forward; norms
    weights = 2 * layer + 96 * 2 * 33 + 96 + 1  # heads, advance and its bias
    assert weights_read(model) == weights
    assert cache_read(model, 5) == 4 * 2 * 5 * 96 * 2
    monkeypatch.setattr(model, "cached_as", torch.bfloat16)
    assert cache_read(model, 5) == 2 * 2 * 5 * 96 * 2


def test_decoding_is_measured_beside_the_peer_and_the_limit():
    found = measure_decode(seed_model(QUICK, 32), "fp32", 2, 4, QUICK)
    times = {f"{name}_ms" for name in ("ours", "musicgen", "ours_guided")}
    assert set(found) == times | {"floor_ms", "share_of_limit", "speedup"}


def test_the_peer_codec_makes_as_many_frames():
    peer = encodec(True, CPU)
    codes = peer.encode(torch.zeros(1, 1, 24_000), bandwidth=1.5).audio_codes
    assert codes.shape == (1, 1, 2, 75)
