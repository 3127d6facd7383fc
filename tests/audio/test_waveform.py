"""Files to waveforms and back, resampling, and the causal log-mel."""

from __future__ import annotations

import numpy as np
import pytest
import soundfile
import torch

from ira.audio.waveform import SAMPLE_RATE, LogMel, load_audio, mel_filters, resample, save_audio
from ira.errors import InputError


def tone(seconds: float = 1.0, hz: float = 440.0, rate: int = SAMPLE_RATE) -> torch.Tensor:
    return 0.5 * torch.sin(2 * torch.pi * hz * torch.arange(int(seconds * rate)) / rate)[None]


@pytest.mark.parametrize(
    ("suffix", "tolerance"), [(".wav", 1e-4), (".flac", 1e-4), (".ogg", 0.1), (".opus", 0.1), (".mp3", 0.1)]
)
def test_a_tone_survives_saving_and_loading(tmp_path, suffix, tolerance):
    wave = tone()
    save_audio(tmp_path / f"a{suffix}", wave)
    again = load_audio(tmp_path / f"a{suffix}")
    assert again.dtype == torch.float32 and abs(again.shape[-1] - wave.shape[-1]) <= 1200
    middle = slice(4000, 20000)
    assert (again[:, middle] - wave[:, middle]).abs().max() < tolerance
    assert [path.name for path in tmp_path.iterdir()] == [f"a{suffix}"]


@pytest.mark.parametrize("shape", [(-1,), (1, -1), (1, 1, -1)])
def test_every_mono_shape_can_be_saved_and_is_clipped(tmp_path, shape):
    save_audio(tmp_path / "a.wav", (4 * tone()).reshape(shape))
    loud = load_audio(tmp_path / "a.wav")
    assert loud.shape == (1, SAMPLE_RATE) and 0.999 < loud.max() <= 1.0 and loud.min() < -0.999


def test_channels_are_averaged_and_the_rate_is_changed(tmp_path):
    left, right = tone(rate=48_000)[0], tone(hz=880, rate=48_000)[0]
    soundfile.write(tmp_path / "a.wav", torch.stack([left, right], dim=1).numpy(), 48_000, subtype="FLOAT")
    mixed = load_audio(tmp_path / "a.wav")
    expected = (tone() + tone(hz=880)) / 2
    assert mixed.shape == expected.shape
    assert (mixed - expected)[:, 1000:-1000].abs().max() < 1e-3


def test_resampling_keeps_the_leading_dimensions():
    there = resample(tone(rate=16_000).expand(2, 3, -1), 16_000, SAMPLE_RATE)
    assert there.shape == (2, 3, SAMPLE_RATE)
    assert (there[1, 2, 1000:-1000] - tone()[0, 1000:-1000]).abs().max() < 1e-3


@pytest.mark.parametrize("suffix", [".flac", ".ogg", ".mp3", ".wav"])
@pytest.mark.parametrize("damage", ["empty", "cut", "noise"])
def test_a_corrupt_file_is_refused_with_its_name_in_one_line(tmp_path, suffix, damage):
    path = tmp_path / f"a{suffix}"
    save_audio(path, tone())
    noise = np.random.default_rng(0).bytes(2000)
    path.write_bytes({"empty": b"", "cut": path.read_bytes()[:30], "noise": noise}[damage])
    with pytest.raises(InputError, match=path.name) as caught:
        load_audio(path)
    assert "\n" not in str(caught.value)


def test_missing_folders_and_files_are_told_apart(tmp_path):
    with pytest.raises(InputError, match="no such file"):
        load_audio(tmp_path / "none.wav")
    with pytest.raises(InputError, match="is a folder"):
        load_audio(tmp_path)


@pytest.mark.parametrize("bad", [float("nan"), float("inf")])
def test_a_sample_that_is_not_finite_is_refused(tmp_path, bad):
    samples = tone()[0].numpy().copy()
    samples[77] = bad
    soundfile.write(tmp_path / "a.wav", samples, SAMPLE_RATE, subtype="FLOAT")
    with pytest.raises(InputError, match="NaN or infinite"):
        load_audio(tmp_path / "a.wav")
    with pytest.raises(InputError, match="NaN or infinity"):
        save_audio(tmp_path / "b.wav", torch.from_numpy(samples))
    assert not (tmp_path / "b.wav").exists()


def test_a_file_without_samples_is_refused(tmp_path):
    soundfile.write(tmp_path / "a.wav", np.zeros(0, dtype=np.float32), SAMPLE_RATE)
    with pytest.raises(InputError, match="no sound"):
        load_audio(tmp_path / "a.wav")


def test_a_file_may_last_max_seconds_and_no_longer(tmp_path):
    save_audio(tmp_path / "a.wav", tone(2.0))
    assert load_audio(tmp_path / "a.wav", max_seconds=2.0).shape[-1] == 2 * SAMPLE_RATE
    with pytest.raises(InputError, match=r"longer than 1\.9 s"):
        load_audio(tmp_path / "a.wav", max_seconds=1.9)


def test_what_cannot_be_written_is_refused_and_the_old_file_stays(tmp_path):
    save_audio(tmp_path / "a.opus", tone())
    before = (tmp_path / "a.opus").read_bytes()
    with pytest.raises(InputError, match="44100 Hz"):
        save_audio(tmp_path / "a.opus", tone(rate=44_100), 44_100)
    assert (tmp_path / "a.opus").read_bytes() == before and len(list(tmp_path.iterdir())) == 1
    with pytest.raises(InputError, match="format '.xyz'"):
        save_audio(tmp_path / "a.xyz", tone())
    with pytest.raises(InputError, match="one channel"):
        save_audio(tmp_path / "a.wav", tone().expand(2, -1))


@pytest.mark.parametrize("samples", [1, 319, 320, 321, 4000])
def test_log_mel_has_a_frame_for_every_hop_begun(samples):
    assert LogMel()(torch.randn(2, 1, samples)).shape == (2, 128, -(-samples // 320))


def test_no_sample_changes_a_frame_that_ended_before_it():
    wave = torch.randn(1, 1, 8 * 320)
    changed = wave.clone()
    changed[..., 5 * 320 :] = torch.randn(3 * 320)
    mel, after = LogMel()(wave), LogMel()(changed)
    assert torch.equal(mel[..., :5], after[..., :5])
    assert not torch.allclose(mel[..., 5], after[..., 5])


def test_the_gradient_of_a_frame_covers_its_window_and_nothing_else():
    wave = torch.randn(1, 1, 12 * 320, requires_grad=True)
    LogMel()(wave)[0, :, 7].sum().backward()
    assert wave.grad is not None
    touched = wave.grad[0, 0].nonzero().flatten()
    # The first sample of a Hann window has weight zero.
    assert touched.min() == 8 * 320 - 1280 + 1 and touched.max() == 8 * 320 - 1


def test_log_mel_equals_a_sum_by_hand():
    wave = torch.randn(1, 1, 2000, dtype=torch.float64).float()
    mel = LogMel(bins=40, n_fft=512, hop=160)(wave)[0, :, 9]
    window = 0.5 - 0.5 * np.cos(2 * np.pi * np.arange(512) / 512)
    piece = wave[0, 0, 10 * 160 - 512 : 10 * 160].numpy() * window
    magnitude = np.abs([np.sum(piece * np.exp(-2j * np.pi * k * np.arange(512) / 512)) for k in range(257)])
    by_hand = np.log(np.maximum(mel_filters(40, SAMPLE_RATE, 512).numpy() @ magnitude, 1e-5))
    assert np.abs(mel.numpy() - by_hand).max() < 1e-4


def test_a_tone_is_loudest_in_the_bin_around_its_frequency():
    filters = mel_filters(128, SAMPLE_RATE, 1280)
    for hz in (200, 1000, 5000):
        loudest = int(LogMel()(tone(hz=hz)[None])[0, :, 40].argmax())
        assert filters[loudest, round(hz / SAMPLE_RATE * 1280)] > 0.5


def test_silence_is_the_floor_and_autocast_changes_nothing():
    mel = LogMel()
    assert torch.allclose(mel(torch.zeros(1, 1, 999)), torch.tensor(1e-5).log())
    wave = torch.randn(1, 1, 4000)
    with torch.autocast("cpu", torch.bfloat16):
        inside = mel(wave)
    assert inside.dtype == torch.float32 and torch.equal(inside, mel(wave))


def test_a_row_of_log_mel_does_not_depend_on_its_neighbours_and_nothing_is_saved():
    waves = torch.randn(3, 1, 3000)
    mel = LogMel()
    assert torch.allclose(mel(waves)[1:2], mel(waves[1:2]), atol=1e-5)
    assert not mel.state_dict() and not list(mel.parameters())


def test_empty_mel_bins_and_impossible_hops_are_refused():
    with pytest.raises(InputError, match="400 mel bins"):
        LogMel(bins=400, n_fft=512, hop=128)
    with pytest.raises(InputError, match="hop 600"):
        LogMel(n_fft=512, hop=600)
