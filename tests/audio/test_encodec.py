"""EnCodec behind the codec protocol: padding, pieces and streams change nothing; what cannot serve is refused."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

import pytest
import torch
from torch.utils._python_dispatch import TorchDispatchMode
from torch.utils._pytree import tree_leaves
from transformers import EncodecConfig, EncodecModel, LlamaConfig

from ira.audio.encodec import CausalStack, EncodecCodec
from ira.errors import InputError

HOP = 320
SMALL = {"num_filters": 2, "hidden_size": 16, "num_lstm_layers": 1}


def small_model(seed: int = 0, **changes) -> Any:
    torch.manual_seed(seed)
    model = EncodecModel(EncodecConfig(**{**SMALL, **changes})).eval()
    spread_codebooks(model)
    return model


@torch.no_grad()
def spread_codebooks(model: Any) -> None:
    """Random entries where the latents of noise lie; else one entry would be the nearest to nearly everything."""
    left = model.encoder(noise(1, 1, 200 * HOP, seed=5).float())
    for layer in model.quantizer.layers:
        spread, centre = torch.std_mean(left, dim=(0, 2))
        layer.codebook.embed.normal_().mul_(spread).add_(centre)
        left = left - layer.decode(layer.encode(left))


@pytest.fixture(scope="module")
def codec() -> EncodecCodec:
    # float64, so that a nearest entry is never decided by rounding
    return EncodecCodec(small_model(), bandwidth_kbps=6.0).double()


def noise(*shape: int, seed: int = 0) -> torch.Tensor:
    return 0.3 * torch.randn(*shape, generator=torch.Generator().manual_seed(seed), dtype=torch.float64)


def some_codes(B: int, K: int, T: int, seed: int = 0) -> torch.Tensor:
    return torch.randint(0, 1024, (B, K, T), generator=torch.Generator().manual_seed(seed))


def test_the_random_model_spreads_its_codes(codec):
    assert codec.encode(noise(1, 1, 100 * HOP)).codes[0, 0].unique().numel() > 20  # or equal codes would say little


def test_it_says_what_it_is(codec):
    assert (codec.sample_rate, codec.hop, codec.frame_rate, codec.codebooks, codec.codebook_size) == (
        24_000, 320, 75.0, 8, 1024,
    )  # fmt: skip


def test_a_row_is_encoded_the_same_alone_and_in_a_batch_whatever_lies_past_its_end(codec):
    samples = torch.tensor([1, HOP, HOP + 1, 6 * HOP, 6 * HOP + 1, 20 * HOP - 7, 31 * HOP])
    batch = noise(len(samples), 1, 31 * HOP)
    together = codec.encode(batch, samples)
    assert together.frames.tolist() == [1, 1, 2, 6, 7, 20, 31]
    for row, (n, T) in enumerate(zip(samples.tolist(), together.frames.tolist(), strict=True)):
        alone = codec.encode(batch[row : row + 1, :, :n])
        assert torch.equal(together.codes[row, :, :T], alone.codes[0]), f"row of {n} samples"
        assert together.codes[row, :, T:].eq(0).all()


def test_a_row_is_decoded_the_same_alone_and_in_a_batch_whatever_lies_past_its_end(codec):
    frames = torch.tensor([0, 1, 2, 6, 7, 20, 31])
    codes = some_codes(len(frames), 8, 31)
    together = codec.decode(codes, frames)
    for row, T in enumerate(frames.tolist()):
        assert together[row, :, T * HOP :].eq(0).all()
        if T:
            alone = codec.decode(codes[row : row + 1, :, :T])
            torch.testing.assert_close(together[row, :, : T * HOP], alone[0], atol=1e-11, rtol=0)


@pytest.mark.parametrize("piece", [7, 8, 13, 40])
def test_long_audio_in_pieces_has_no_seam(codec, piece):
    pieces = EncodecCodec(small_model(), chunk_frames=piece * 2).double()
    waveform, samples = noise(2, 1, 61 * HOP + 5), torch.tensor([61 * HOP + 5, 3 * HOP])
    whole = codec.encode(waveform, samples, codebooks=32)
    assert torch.equal(pieces.encode(waveform, samples, codebooks=32).codes, whole.codes)
    sound = codec.decode(whole.codes, whole.frames)
    torch.testing.assert_close(pieces.decode(whole.codes, whole.frames), sound, atol=1e-11, rtol=0)


@pytest.mark.parametrize("steps", [[1] * 25, [3, 1, 2, 5, 14], [7, 18], [25], [24, 1]])
def test_a_stream_gives_the_sound_of_the_whole_sample_for_sample(codec, steps):
    codes = some_codes(1, 8, 25)
    stream = codec.stream()
    sound = [stream.push(piece) for piece in codes.split(steps, dim=-1)]
    joined = torch.cat([*sound, stream.finish()], dim=-1)
    torch.testing.assert_close(joined, codec.decode(codes), atol=1e-11, rtol=0)


def test_a_stream_waits_for_seven_frames_and_then_for_nothing(codec):
    stream = codec.stream()
    lengths = [stream.push(some_codes(1, 8, 1, seed=t)).shape[-1] for t in range(10)]
    assert lengths == [0] * 6 + [7 * HOP] + [HOP] * 3


@pytest.mark.parametrize("T", [1, 2, 6])
def test_a_stream_below_seven_frames_gives_its_sound_at_the_end(codec, T):
    codes = some_codes(1, 4, T)
    stream = codec.stream()
    assert stream.push(codes).shape == (1, 1, 0)
    torch.testing.assert_close(stream.finish(), codec.decode(codes), atol=1e-11, rtol=0)


def test_a_finished_stream_takes_no_more_codes(codec):
    stream = codec.stream()
    assert stream.finish().shape == (1, 1, 0)
    with pytest.raises(InputError, match="finish"):
        stream.push(some_codes(1, 4, 1))


def test_two_streams_at_once_do_not_meet(codec):
    one, two = some_codes(1, 8, 12, seed=1), some_codes(1, 8, 12, seed=2)
    streams, sound = (codec.stream(), codec.stream()), ([], [])
    for t in range(12):
        for stream, out, codes in zip(streams, sound, (one, two), strict=True):
            out.append(stream.push(codes[..., t : t + 1]))
    torch.testing.assert_close(torch.cat(sound[0], dim=-1), codec.decode(one), atol=1e-11, rtol=0)
    torch.testing.assert_close(torch.cat(sound[1], dim=-1), codec.decode(two), atol=1e-11, rtol=0)


def test_the_future_changes_no_code_and_no_sample(codec):
    waveform = noise(1, 1, 30 * HOP)
    other = waveform.clone()
    other[..., 20 * HOP :] = noise(1, 1, 10 * HOP, seed=9)
    before, after = codec.encode(waveform).codes, codec.encode(other).codes
    assert torch.equal(before[..., :20], after[..., :20]) and not torch.equal(before, after)
    codes = some_codes(1, 8, 30)
    changed = codes.clone()
    changed[..., 20:] = some_codes(1, 8, 10, seed=9)
    one, two = codec.decode(codes), codec.decode(changed)
    assert torch.equal(one[..., : 20 * HOP], two[..., : 20 * HOP]) and not torch.equal(one, two)


def test_residual_layers_with_dilation_stream_too():
    deep = EncodecCodec(small_model(num_residual_layers=3)).double()
    codes = some_codes(1, 8, 20)
    stream = deep.stream()
    joined = torch.cat([stream.push(codes[..., t : t + 1]) for t in range(20)], dim=-1)
    torch.testing.assert_close(joined, deep.decode(codes), atol=1e-11, rtol=0)


def test_any_number_of_codebooks_is_a_prefix_of_all(codec):
    waveform = noise(1, 1, 20 * HOP)
    everything = codec.encode(waveform, codebooks=32).codes
    for K in (1, 2, 5, 16):
        assert torch.equal(codec.encode(waveform, codebooks=K).codes, everything[:, :K])
        assert codec.decode(everything[:, :K]).shape == (1, 1, 20 * HOP)
    assert torch.equal(codec.encode(waveform).codes, everything[:, :8])


@pytest.mark.parametrize(("kbps", "K"), [(1.5, 2), (3.0, 4), (6.0, 8), (12.0, 16), (24.0, 32)])
def test_the_bandwidth_chooses_the_codebooks(kbps, K):
    codec = EncodecCodec(small_model(), bandwidth_kbps=kbps)
    assert codec.codebooks == K and codec.encode(torch.randn(1, 1, 400)).codes.shape == (1, K, 2)


@pytest.mark.parametrize("K", [0, 33, -1])
def test_codebooks_it_does_not_have_are_refused(codec, K):
    with pytest.raises(InputError, match=r"1\.\.32"):
        codec.encode(noise(1, 1, HOP), codebooks=K)


def test_a_bandwidth_it_does_not_have_is_refused_with_those_it_has():
    with pytest.raises(InputError, match="0.75 kbps.*1.5, 3, 6, 12, 24"):
        EncodecCodec(small_model(), bandwidth_kbps=0.75)


def test_autocast_changes_no_token():
    codec = EncodecCodec(small_model())
    waveform = noise(1, 1, 20 * HOP).float()
    with torch.autocast("cpu", torch.bfloat16):
        under = codec.encode(waveform)
        sound = codec.decode(under.codes)
    assert torch.equal(under.codes, codec.encode(waveform).codes) and sound.dtype == torch.float32


class LargestTensor(TorchDispatchMode):
    """Notes how many elements the largest tensor had that any operation made."""

    elements = 0

    def __torch_dispatch__(self, func, types, args=(), kwargs=None):
        made = func(*args, **(kwargs or {}))
        sizes = [leaf.numel() for leaf in tree_leaves(made) if isinstance(leaf, torch.Tensor)]
        self.elements = max([self.elements, *sizes])
        return made


def test_no_tensor_but_the_audio_itself_grows_with_its_length():
    codec = EncodecCodec(small_model(num_filters=8), chunk_frames=50)
    N = 20 * 24_000
    with LargestTensor() as seen:
        codes = codec.encode(torch.zeros(1, 1, N)).codes
        codec.decode(codes)
    assert seen.elements == N  # one piece of the widest layer is 8 * 50 * 320 = 128,000
    with LargestTensor() as seen:  # the same at once, to see that the count would tell
        CausalStack(codec.model.encoder.layers, HOP).push(torch.zeros(1, 1, N))
    assert seen.elements >= 8 * N


def test_what_a_stream_carries_does_not_hold_the_pieces_alive():
    stack = CausalStack(EncodecCodec(small_model()).model.encoder.layers, HOP)
    stack.push(torch.zeros(1, 1, 100 * HOP))
    assert max(kept.untyped_storage().nbytes() for kept in stack._context.values()) < 10_000


def test_the_fingerprint_lasts_over_saving_and_tells_weights_and_codebooks_apart(tmp_path):
    small_model().save_pretrained(tmp_path)
    name = EncodecCodec(small_model()).fingerprint()
    assert name.startswith("encodec-24khz:") and name.endswith(":k8") and len(name.split(":")[1]) == 8
    loaded = EncodecCodec.from_pretrained(tmp_path)
    assert loaded.fingerprint() == name and loaded.double().fingerprint() == name
    assert EncodecCodec.from_pretrained(str(tmp_path), 3.0).fingerprint() == name.replace(":k8", ":k4")
    assert EncodecCodec(small_model(seed=1)).fingerprint() != name


def test_what_only_codebook_training_reads_is_no_part_of_the_fingerprint():
    model = small_model()
    model.quantizer.layers[0].codebook.embed_avg.fill_(7.0)
    assert EncodecCodec(model).fingerprint() == EncodecCodec(small_model()).fingerprint()


@pytest.mark.parametrize(
    ("changes", "said"),
    [
        ({"audio_channels": 2}, "audio_channels 2"),
        ({"sampling_rate": 48_000}, "sampling_rate 48000"),
        ({"normalize": True, "chunk_length_s": 1.0, "overlap": 0.01}, "normalize True, chunk_length_s 1.0"),
        ({"norm_type": "time_group_norm"}, "time_group_norm"),
        ({"use_causal_conv": False}, "use_causal_conv False"),
    ],
)
def test_the_stereo_48_khz_kind_is_refused_by_what_differs(tmp_path, changes, said):
    EncodecConfig(**{**SMALL, **changes}).save_pretrained(tmp_path)
    with pytest.raises(InputError, match=f"{said}.*24 kHz mono"):
        EncodecCodec.from_pretrained(tmp_path)


def test_another_kind_of_model_is_refused_by_its_kind(tmp_path):
    LlamaConfig().save_pretrained(tmp_path)
    with pytest.raises(InputError, match="type llama; encodec is wanted"):
        EncodecCodec.from_pretrained(tmp_path)


def test_a_folder_that_is_not_there_is_refused_without_asking_the_hub(tmp_path):
    with pytest.raises(InputError, match="no such folder"):
        EncodecCodec.from_pretrained(tmp_path / "nothing")


def test_a_file_in_place_of_a_folder_is_refused(tmp_path):
    file = tmp_path / "model.safetensors"
    file.write_bytes(b"")
    with pytest.raises(InputError, match="no such folder"):
        EncodecCodec.from_pretrained(file)


def damaged(folder: Path, how: str) -> None:
    small_model().save_pretrained(folder)
    weights = folder / "model.safetensors"
    if how == "cut":
        weights.write_bytes(weights.read_bytes()[:1000])
    elif how == "gone":
        weights.unlink()
    elif how == "pickled":
        torch.save(small_model().state_dict(), folder / "pytorch_model.bin")
        weights.unlink()
    elif how == "config":
        (folder / "config.json").write_text("{")
    elif how == "other shape":
        config = json.loads((folder / "config.json").read_text())
        (folder / "config.json").write_text(json.dumps({**config, "num_filters": 3}))


@pytest.mark.parametrize("how", ["cut", "gone", "pickled", "config", "other shape"])
def test_damaged_weights_are_refused_in_one_line(tmp_path, how):
    damaged(tmp_path, how)
    with pytest.raises(InputError) as refusal:
        EncodecCodec.from_pretrained(tmp_path)
    assert str(tmp_path) in str(refusal.value) and "\n" not in str(refusal.value)


def test_missing_weights_are_counted_and_named(tmp_path):
    from safetensors.torch import load_file, save_file

    damaged(tmp_path, "not at all")
    weights = load_file(tmp_path / "model.safetensors")
    del weights["quantizer.layers.3.codebook.embed"]
    save_file(weights, tmp_path / "model.safetensors", metadata={"format": "pt"})
    with pytest.raises(InputError, match="1 weights are missing, first quantizer.layers.3.codebook.embed"):
        EncodecCodec.from_pretrained(tmp_path)
