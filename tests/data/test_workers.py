"""Making shards where things go wrong: kills, full disks, bad and endless recordings; changed copies; Ray."""

from __future__ import annotations

import errno
import json
import os
import random
import resource
import signal
import struct
import subprocess
import sys
import time
from pathlib import Path

import numpy as np
import pytest
import soundfile
import torch

from ira.audio.waveform import save_audio
from ira.config import AugmentConfig
from ira.data import workers
from ira.data.manifest import read_manifest
from ira.data.prepare import prepare
from ira.data.shards import TokenShards
from ira.data.text import CharTokenizer
from ira.errors import InputError

HERE = Path(__file__).parent


def run(split, out, codec, **options):
    return prepare([split], out, codec, CharTokenizer(), progress=False, **options)


def contents(folder):
    return {path.name: path.read_bytes() for path in sorted(folder.iterdir())}


# -- the task itself ---------------------------------------------------------------------------------------------


def test_one_task_makes_one_shard_from_what_it_carries(split, tmp_path, loudness):
    rows, _ = read_manifest(split)
    task = workers.Task(tmp_path / "out", 7, rows[:3], 20.0, None, "key")
    assert list(workers.make_here([task], loudness(), CharTokenizer())) == [7]
    assert sorted(contents(tmp_path / "out")) == ["codes-00007.u16", "index-00007.jsonl", "shard-00007.json"]
    done = json.loads((tmp_path / "out" / "shard-00007.json").read_text())
    lines = [json.loads(line) for line in (tmp_path / "out" / "index-00007.jsonl").read_text().splitlines()]
    assert set(done.pop("sha256")) == {"codes", "index"}
    assert done == {"key": "key", "rows": 3, "frames": sum(line["frames"] for line in lines), "refused": []}
    assert [line["row"] for line in lines] == [0, 1, 2] and [line["offset"] for line in lines][0] == 0


def test_rows_are_loaded_a_bounded_time_at_once(split, tmp_path, loudness, monkeypatch):
    run(split, tmp_path / "one", loudness())
    calls = []
    encode = workers._encode
    monkeypatch.setattr(workers, "_encode", lambda codec, clips: calls.append(len(clips)) or encode(codec, clips))
    monkeypatch.setattr(workers, "_SECONDS_AT_ONCE", 0.2)
    run(split, tmp_path / "two", loudness())
    assert contents(tmp_path / "one") == contents(tmp_path / "two")
    assert sum(calls) == 11 and len(calls) > len(list((tmp_path / "two").glob("shard-*.json")))


# -- what must not end a run -------------------------------------------------------------------------------------


def endless(path: Path, hours: float) -> None:
    """A wav file with a true header and a hole in place of its samples."""
    rate, size = 48_000, int(hours * 3600) * 48_000 * 2
    head = struct.pack("<4sI4s4sIHHIIHH", b"RIFF", size + 36, b"WAVE", b"fmt ", 16, 1, 1, rate, 2 * rate, 2, 16)
    path.write_bytes(head + struct.pack("<4sI", b"data", size))
    os.truncate(path, size + 44)


def test_bad_recordings_are_named_and_ten_hours_are_not_read(tmp_path, loudness):
    good = torch.rand(1, 4000)
    rows = []
    for name in ("first", "cut", "hours", "nan", "zero", "last"):
        save_audio(tmp_path / f"{name}.flac", good)
        rows.append({"audio_file": f"{name}.flac", "text": name})
    whole = (tmp_path / "cut.flac").read_bytes()
    (tmp_path / "cut.flac").write_bytes(whole[:60] + bytes(len(whole) - 60))
    endless(tmp_path / "hours.flac", 10)
    bad = np.full(4000, np.nan, dtype=np.float32)
    soundfile.write(tmp_path / "nan.flac", bad, 24_000, format="WAV", subtype="FLOAT")
    (tmp_path / "zero.flac").write_bytes(b"")
    (tmp_path / "train.json").write_text(json.dumps(rows))
    before = resource.getrusage(resource.RUSAGE_SELF).ru_maxrss
    report = run(tmp_path / "train.json", tmp_path / "out", loudness())
    assert resource.getrusage(resource.RUSAGE_SELF).ru_maxrss - before < 64 * 1024  # ten hours are 3.4 GB
    found = {problem.row: problem.message for problem in report.refused}
    assert set(found) == {1, 2, 3, 4} and report.rows == 2
    assert "longer than 20 s" in found[2] and "NaN" in found[3]
    assert [TokenShards(tmp_path / "out")[i].text for i in range(2)] == ["first", "last"]


def test_a_recording_that_goes_away_meanwhile_is_refused(split, tmp_path, loudness, monkeypatch):
    make = workers.make_shard

    def make_later(task):
        (split / "audio_files" / "9.wav").unlink(missing_ok=True)
        return make(task)

    monkeypatch.setattr(workers, "make_shard", make_later)
    report = run(split, tmp_path / "out", loudness())
    assert report.rows == 10 and any("9.wav: no such file" in problem.message for problem in report.refused)


# -- disks -------------------------------------------------------------------------------------------------------


@pytest.mark.parametrize("code", [errno.ENOSPC, errno.EROFS])
def test_a_full_or_read_only_disk_is_one_error_and_finished_shards_stay(split, tmp_path, loudness, monkeypatch, code):
    run(split, tmp_path / "whole", loudness())
    real, left = os.replace, [1 + 2 * 3 + 1]  # meta.json, two shards, one file of the third

    def replace(source, target):
        left[0] -= 1
        if left[0] < 0:
            raise OSError(code, os.strerror(code))
        real(source, target)

    monkeypatch.setattr(os, "replace", replace)
    with pytest.raises(InputError, match=rf"00002.*: cannot be written \(.*{os.strerror(code)}"):
        run(split, tmp_path / "out", loudness())
    there = contents(tmp_path / "out")
    assert not [name for name in there if name.startswith(".")]
    assert {"shard-00000.json", "shard-00001.json"} <= set(there) and "shard-00002.json" not in there
    monkeypatch.undo()
    codec = loudness()
    monkeypatch.setattr("ira.data.prepare.ROWS_PER_SHARD", 4)
    run(split, tmp_path / "out", codec)
    assert contents(tmp_path / "out") == contents(tmp_path / "whole") and codec.rows < 11


@pytest.fixture
def small_disk(tmp_path):
    """A folder with room for one megabyte."""
    place = tmp_path / "disk"
    place.mkdir()
    mount = ["mount", "-t", "tmpfs", "-o", "size=1m", "tmpfs", str(place)]
    if subprocess.run(mount, capture_output=True).returncode:
        pytest.skip("needs the right to mount a file system")
    yield place
    subprocess.run(["umount", str(place)], check=True)


def test_on_a_disk_that_fills_up_the_run_goes_on_once_there_is_room(split, tmp_path, loudness, small_disk):
    (small_disk / "ballast").write_bytes(bytes(1024 * 1024 - 6 * 4096))
    with pytest.raises(InputError, match="No space left on device"):
        run(split, small_disk / "out", loudness())
    assert not list((small_disk / "out").glob(".*"))
    (small_disk / "ballast").unlink()
    run(split, small_disk / "out", loudness())
    run(split, tmp_path / "whole", loudness())
    assert contents(small_disk / "out") == contents(tmp_path / "whole")


# -- kills -------------------------------------------------------------------------------------------------------


def start(split, out, workers=1):
    command = [sys.executable, HERE / "prepare_slowly.py", split, out, str(workers)]
    return subprocess.Popen([str(word) for word in command], start_new_session=True)


def wait_for(condition, seconds=120.0):
    end = time.monotonic() + seconds
    while not condition():
        assert time.monotonic() < end, "it never happened"
        time.sleep(0.005)


def test_three_kills_at_random_moments_leave_no_trace(split, tmp_path, loudness, monkeypatch):
    """Each falls somewhere between the last shard that was there before and the end of the run."""
    rows = json.loads((split / "train.json").read_text())
    (split / "train.json").write_text(json.dumps(rows * 2))
    out, chance, mid_run, finished = tmp_path / "cut", random.Random(5), 0, 0
    for _ in range(3):
        process = start(split, out)
        wanted = finished + chance.randint(1, 3)
        wait_for(lambda: process.poll() is not None or len(list(out.glob("shard-*.json"))) >= wanted)  # noqa: B023
        time.sleep(chance.uniform(0, 0.15))
        process.send_signal(signal.SIGKILL)
        mid_run += process.wait() == -signal.SIGKILL and not (out / "report.json").exists()
        finished = len(list(out.glob("shard-*.json")))
    assert mid_run >= 1 and finished >= 3
    assert start(split, out).wait() == 0
    monkeypatch.setattr("ira.data.prepare.ROWS_PER_SHARD", 2)
    run(split, tmp_path / "whole", loudness())
    assert contents(out) == contents(tmp_path / "whole")


def test_workers_do_not_outlive_a_killed_parent(split, tmp_path):
    process = start(split, tmp_path / "out", workers=2)
    wait_for(lambda: list((tmp_path / "out").glob("shard-*.json")) or process.poll() is not None)
    process.send_signal(signal.SIGKILL)
    process.wait()

    def all_gone():
        try:
            os.killpg(process.pid, 0)
        except ProcessLookupError:
            return True
        return False

    wait_for(all_gone, 10.0)
    assert not (tmp_path / "out" / "report.json").exists()


# -- changed copies ----------------------------------------------------------------------------------------------


def test_copies_follow_their_row_and_say_what_was_done(split, tmp_path, loudness):
    rows = json.loads((split / "train.json").read_text())
    rows[0].update(description="high", f0_median_hz=200, words_per_second=3.0)
    (split / "train.json").write_text(json.dumps(rows))
    run(split, tmp_path / "plain", loudness())
    report = run(split, tmp_path / "out", loudness(), augment=AugmentConfig(copies=2))
    plain, shards = TokenShards(tmp_path / "plain"), TokenShards(tmp_path / "out")
    assert report.rows == len(shards) == 33
    for i in range(11):
        original, copies = shards[3 * i], [shards[3 * i + 1], shards[3 * i + 2]]
        assert torch.equal(original.codes, plain[i].codes) and original.extra == plain[i].extra
        assert [c.extra["augmented"]["copy"] for c in copies] == [1, 2]
        for copy in copies:
            done = copy.extra["augmented"]
            assert copy.text == original.text and copy.extra.get("written") == original.extra.get("written")
            assert copy.extra["duration"] == pytest.approx(original.extra["duration"] / done["speed"], abs=2e-3)
            assert copy.speaker == f"{original.speaker} {done['semitones']:+g} semitones" and copy.speaker_id is None
            assert copy.description == ""
    first, done = shards[1].extra, shards[1].extra["augmented"]
    assert first["f0_median_hz"] == pytest.approx(200 * 2 ** (done["semitones"] / 12))
    assert first["words_per_second"] == pytest.approx(3 * done["speed"])


def test_the_copies_of_one_speaker_are_one_new_voice(split, tmp_path, loudness):
    run(split, tmp_path / "out", loudness(), augment=AugmentConfig(copies=1))
    shards = TokenShards(tmp_path / "out")
    copies = [shards[i] for i in range(len(shards)) if "augmented" in shards[i].extra]
    assert len({copy.speaker for copy in copies}) == 3
    assert len({copy.extra["augmented"]["speed"] for copy in copies}) == 11


def test_a_copy_is_never_longer_than_a_recording_may_be(split, tmp_path, loudness):
    slow = AugmentConfig(copies=1, stretch=[0.5, 0.5], semitones=None, snr_db=None)
    run(split, tmp_path / "out", loudness(), augment=slow, max_seconds=0.2)
    shards = TokenShards(tmp_path / "out")
    assert shards.lengths.max() <= 15
    copies = [shards[i] for i in range(len(shards)) if "augmented" in shards[i].extra]
    speeds = {c.extra["augmented"]["speed"] for c in copies}
    assert min(speeds) == 0.5 and 0.5 < max(speeds) <= 1
    assert {c.speaker for c in copies} == {"0", "1", "2"}  # the pitch did not move


def test_changed_settings_make_other_shards_and_the_same_ones_none(split, tmp_path, loudness):
    codec = loudness()
    run(split, tmp_path / "out", codec, augment=AugmentConfig(copies=1))
    assert codec.rows == 22
    run(split, tmp_path / "out", codec, augment=AugmentConfig(copies=1))
    assert codec.rows == 22
    run(split, tmp_path / "out", codec, augment=AugmentConfig(copies=1, seed=1))
    assert codec.rows == 44
    run(split, tmp_path / "out", codec, augment=AugmentConfig(copies=0, seed=2))
    run(split, tmp_path / "plain", loudness())
    assert contents(tmp_path / "out") == contents(tmp_path / "plain")


# -- Ray ---------------------------------------------------------------------------------------------------------


def test_without_ray_the_extra_is_named(split, tmp_path, loudness, monkeypatch):
    monkeypatch.setitem(sys.modules, "ray", None)
    with pytest.raises(InputError, match=r'pip install "ira\[ray\]"'):
        run(split, tmp_path / "out", loudness(), ray="local")


def test_ray_writes_the_same_bytes(split, tmp_path, loudness, monkeypatch):
    pytest.importorskip("ray.data")
    monkeypatch.setenv("PYTHONPATH", str(HERE))
    run(split, tmp_path / "here", loudness())
    run(split, tmp_path / "ray", loudness(), ray="local", workers=2)
    assert contents(tmp_path / "here") == contents(tmp_path / "ray")
    with pytest.raises(InputError, match="Ray at 127.0.0.1:1: .*run again, it resumes"):
        run(split, tmp_path / "other", loudness(), ray="127.0.0.1:1")
