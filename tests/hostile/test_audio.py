"""Sound files that are cut, altered, no sound at all, or claim more than they are."""

from __future__ import annotations

import os
from collections.abc import Callable
from pathlib import Path

import numpy as np
import pytest
import soundfile
import torch

from ira.audio.waveform import SAMPLE_RATE, load_audio

Survive = Callable[..., str]


def flac(path: Path, seconds: int, rate: int, total: int | None = None) -> Path:
    """Silence, which FLAC takes to almost nothing; `total` is what its header claims in place of the truth."""
    with soundfile.SoundFile(path, "w", rate, 1, format="FLAC", subtype="PCM_16") as file:
        for _ in range(seconds // 60):
            file.write(np.zeros(60 * rate, dtype=np.int16))
        file.write(np.zeros(seconds % 60 * rate, dtype=np.int16))
    if total is not None:  # 36 bits that end at byte 26
        content = bytearray(path.read_bytes())
        content[21] = content[21] & 0xF0 | total >> 32
        content[22:26] = (total & 0xFFFFFFFF).to_bytes(4, "big")
        path.write_bytes(content)
    return path


def test_a_mutated_sound_file_is_read_or_refused(audio_files: dict[str, bytes], tmp_path: Path, survive: Survive):
    refused = 0
    for name, content in audio_files.items():
        path = tmp_path / name
        path.write_bytes(content)
        line = survive(name, lambda path=path: load_audio(path, max_seconds=60.0))
        assert not line or name in line
        refused += bool(line)
        path.unlink()
    assert 100 < refused < len(audio_files) - 100  # both ways are walked


@pytest.mark.parametrize("suffix", [".wav", ".flac", ".ogg", ".mp3", ".aiff", ".raw", ""])
@pytest.mark.parametrize("content", [b"hello, this is text\n" * 50, b"{}", b"\xff" * 4000, b"\0" * 4000, b"<svg/>"])
def test_what_is_not_sound_is_refused_whatever_its_name(tmp_path: Path, survive: Survive, suffix: str, content: bytes):
    (tmp_path / f"a{suffix}").write_bytes(content)
    assert "cannot be read as audio" in survive(suffix, lambda: load_audio(tmp_path / f"a{suffix}"))


@pytest.mark.parametrize("rate", [4_000, 8_000, 11_025, 44_100, 96_000, 192_000, 384_000])
@pytest.mark.parametrize("channels", [1, 2, 8])
def test_every_usual_rate_and_number_of_channels_is_heard(tmp_path: Path, survive: Survive, rate: int, channels: int):
    tone = 0.5 * np.sin(2 * np.pi * 440 * np.arange(rate) / rate)
    soundfile.write(tmp_path / "a.wav", np.repeat(tone[:, None], channels, axis=1), rate, subtype="FLOAT")
    assert survive("a", lambda: load_audio(tmp_path / "a.wav")) == ""
    heard = load_audio(tmp_path / "a.wav")[0]
    expected = 0.5 * torch.sin(2 * torch.pi * 440 * torch.arange(SAMPLE_RATE) / SAMPLE_RATE)
    assert heard.shape == expected.shape and (heard - expected)[2000:-2000].abs().max() < 0.01


@pytest.mark.parametrize(("rate", "channels"), [(1, 1), (100, 1), (2_000_000_000, 1), (24_000, 1024)])
def test_a_rate_or_a_number_of_channels_that_nobody_records_is_refused(
    tmp_path: Path, survive: Survive, rate: int, channels: int
):
    soundfile.write(tmp_path / "a.wav", np.zeros((4000, channels)), rate, subtype="PCM_U8")
    line = survive("a", lambda: load_audio(tmp_path / "a.wav"))
    assert str(rate) in line if channels == 1 else str(channels) in line


def test_ten_hours_are_refused_before_they_are_decoded(tmp_path: Path, survive: Survive):
    assert "longer than 3600 s" in survive("honest", lambda: load_audio(flac(tmp_path / "a.flac", 36_000, 4_000)), 30)
    path = tmp_path / "a.flac"
    assert path.stat().st_size < 2_000_000  # small enough for anybody to send
    assert "longer than 3600 s" in survive("honest", lambda: load_audio(path), 0.2)


def test_ten_hours_that_claim_to_be_none_are_decoded_no_further_than_allowed(tmp_path: Path, survive: Survive):
    path = flac(tmp_path / "a.flac", 36_000, 4_000, total=0)
    assert "longer than 3600 s" in survive("unknown", lambda: load_audio(path))
    assert "longer than 20 s" in survive("unknown", lambda: load_audio(path, max_seconds=20))


@pytest.mark.parametrize("total", [2**36 - 1, 2**33, 10**6])
def test_a_second_that_claims_to_be_weeks_takes_no_memory_for_them(tmp_path: Path, survive: Survive, total: int):
    path = flac(tmp_path / "a.flac", 1, 24_000, total)
    line = survive("claims", lambda: load_audio(path), 1)
    assert "longer than 3600 s" in line or total == 10**6


def test_a_long_recording_of_many_channels_takes_the_memory_of_what_is_kept(tmp_path: Path, survive: Survive):
    with soundfile.SoundFile(tmp_path / "a.wav", "w", 384_000, 8, subtype="PCM_U8") as file:
        for _ in range(60):
            file.write(np.zeros((384_000, 8), dtype=np.int16))
    assert survive("wide", lambda: load_audio(tmp_path / "a.wav"), 20) == ""  # 737 MB as float32 at once


@pytest.mark.parametrize("bad", [np.nan, np.inf, -np.inf, 1e300])
def test_one_sample_that_is_not_finite_is_refused_wherever_it_stands(tmp_path: Path, survive: Survive, bad: float):
    for place in (0, 50_000, -1):
        samples = np.zeros((2_000_000, 1))
        samples[place] = bad
        soundfile.write(tmp_path / "a.wav", samples, 48_000, subtype="DOUBLE")
        assert "NaN or infinite" in survive("a", lambda: load_audio(tmp_path / "a.wav"))


@pytest.mark.parametrize("samples", [0, 1, 2, 5, 320])
def test_hardly_any_samples_are_no_sound_or_a_short_one(tmp_path: Path, survive: Survive, samples: int):
    for rate in (4_000, 24_000, 384_000):
        soundfile.write(tmp_path / "a.wav", np.zeros(samples), rate)
        line = survive("a", lambda: load_audio(tmp_path / "a.wav"))
        assert line == "" or (samples * SAMPLE_RATE < rate and "holds no sound" in line)


@pytest.mark.parametrize(
    "name", ["a\nb.wav", "\x1b[2J.wav", "\u202egnp.wav", "e\u0301" * 9 + ".wav", "\udcff.wav", "-h"]
)
def test_odd_file_names_are_read_and_shown_in_one_line(tmp_path: Path, survive: Survive, name: str):
    path = tmp_path / name
    soundfile.write(tmp_path / "plain.wav", np.zeros(2400), 24_000)
    (tmp_path / "plain.wav").rename(path)
    line = survive(name, lambda: load_audio(path))
    assert line == "" or "surrogates" in line  # a name that is not UTF-8 is beyond libsndfile's reader
    path.write_bytes(b"text")
    assert survive(name, lambda: load_audio(path))


@pytest.mark.parametrize("name", ["a\0b.wav", "a" * 5000, "/" * 5000, "", "/dev/zero", "/dev/null", "/proc/self/mem"])
def test_paths_that_are_no_files_are_refused(survive: Survive, name: str):
    assert survive(name, lambda: load_audio(name))


def test_a_pipe_is_refused_and_not_waited_for(tmp_path: Path, survive: Survive):
    os.mkfifo(tmp_path / "a.wav")
    assert "no such file" in survive("pipe", lambda: load_audio(tmp_path / "a.wav"))
