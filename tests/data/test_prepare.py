"""From manifests to shards: every row kept or refused by name, the same bytes however it was run."""

from __future__ import annotations

import importlib
import json
import os
from pathlib import Path

import pytest
import torch

from ira.audio.waveform import load_audio, save_audio
from ira.data import prepare as preparing
from ira.data.prepare import prepare
from ira.data.shards import Fingerprint, TokenShards
from ira.data.text import CharTokenizer
from ira.errors import InputError


@pytest.fixture
def loudness(monkeypatch):
    """The fake codec's class, importable by worker processes, and shards of four rows."""
    monkeypatch.syspath_prepend(str(Path(__file__).parent))
    monkeypatch.setattr(preparing, "ROWS_PER_SHARD", 4)
    return importlib.import_module("fake_codec").LoudnessCodec


@pytest.fixture
def split(tmp_path):
    """train/ with eleven recordings of different lengths and three rows that cannot be used."""
    rows = []
    for i in range(11):
        sound = torch.rand(1, 800 + 397 * (7 * i % 11), generator=torch.Generator().manual_seed(i))
        save_audio(tmp_path / "train" / "audio_files" / f"{i}.wav", 0.5 * sound)
        rows.append({"audio_file": f"audio_files/{i}.wav", "text": f"Number {i}", "speaker_id": i % 3, "f0": 100 + i})
    rows[1]["text"] = ""
    rows[2].update(description="a low voice", language="en", instruction="q", response="r", emotion="sad")
    (tmp_path / "train" / "audio_files" / "bad.wav").write_bytes(b"not audio")
    rows.insert(3, {"audio_file": "audio_files/bad.wav", "text": "broken"})
    rows.insert(5, {"audio_file": "audio_files/4.wav", "text": "snow ☃"})
    rows.insert(7, {"audio_file": "audio_files/none.wav", "text": "gone"})
    rows.append({"text": "no sound"})
    (tmp_path / "train" / "train.json").write_text(json.dumps(rows))
    return tmp_path / "train"


def run(split, out, codec, **options):
    return prepare([split], out, codec, CharTokenizer(), progress=False, **options)


def contents(folder):
    return {path.name: path.read_bytes() for path in sorted(folder.iterdir())}


def test_every_row_comes_back_in_order_with_its_own_codes(split, tmp_path, loudness):
    codec = loudness()
    report = run(split, tmp_path / "out", codec)
    shards = TokenShards(tmp_path / "out", Fingerprint("loudness-1", CharTokenizer().fingerprint()))
    assert len(shards) == report.rows == 11 and (shards.codebooks, shards.frame_rate) == (2, 75.0)
    assert report.hours == pytest.approx(shards.lengths.sum() / 75 / 3600)
    for i in range(11):
        wave = load_audio(split / "audio_files" / f"{i}.wav")
        tokens = codec.encode(wave[None], torch.tensor([wave.shape[-1]]))
        example = shards[i]
        assert torch.equal(example.codes, tokens.codes[0]) and example.codes.dtype == torch.int64
        assert example.frames == shards.lengths[i] == int(tokens.frames)
        assert example.extra["f0"] == 100 + i and example.extra["duration"] == round(wave.shape[-1] / 24_000, 3)
    assert (shards[0].text, shards[0].extra["written"], shards[0].speaker_id) == ("number zero", "Number 0", 0)
    assert shards[1].text == "" and "written" not in shards[1].extra
    two = shards[2]
    words = (two.speaker, two.description, two.language, two.instruction, two.response, two.emotion)
    assert words == ("2", "a low voice", "en", "q", "r", "sad")


def test_every_refused_row_is_reported_with_its_reason(split, tmp_path, loudness):
    report = run(split, tmp_path / "out", loudness(), max_seconds=0.19)
    expected = {
        (3, "bad_audio"): "cannot be read as audio",
        (5, "unspeakable_text"): "SNOWMAN",
        (7, "missing_file"): "none.wav",
        (4, "bad_audio"): "longer than 0.19 s",
        (14, "no_audio"): "no audio_file",
    }
    found = {(problem.row, problem.kind): problem.message for problem in report.refused}
    assert found.keys() == expected.keys() and all(expected[key] in found[key] for key in expected)
    assert [(note.row, note.kind) for note in report.notes] == [(1, "empty_text")]
    written = json.loads((tmp_path / "out" / "report.json").read_text())
    assert written == report.as_dict() and written["rows"] == 10
    assert all(problem["remedy"] and problem["source"].endswith("train.json") for problem in written["refused"])


@pytest.mark.parametrize("dies_after", [0, 3, 6, 9])
def test_a_killed_run_resumes_to_the_same_bytes_without_doing_shards_again(split, tmp_path, loudness, dies_after):
    run(split, tmp_path / "whole", loudness())
    with pytest.raises(KeyboardInterrupt):
        run(split, tmp_path / "cut", loudness(dies_after=dies_after))
    finished = len(list((tmp_path / "cut").glob("shard-*.json")))
    with pytest.raises(InputError, match="is missing; run ira prepare again"):
        TokenShards(tmp_path / "cut")
    (tmp_path / "cut" / ".codes-00002.u16.1.tmp").write_bytes(b"half")
    codec = loudness()
    run(split, tmp_path / "cut", codec)
    assert contents(tmp_path / "cut") == contents(tmp_path / "whole")
    whole = [json.loads(path.read_text())["rows"] for path in sorted((tmp_path / "whole").glob("shard-*.json"))]
    assert codec.rows == sum(whole[finished:])


def test_workers_write_the_same_bytes(split, tmp_path, loudness):
    run(split, tmp_path / "one", loudness())
    run(split, tmp_path / "two", loudness(), workers=2)
    assert contents(tmp_path / "one") == contents(tmp_path / "two")


def test_a_second_run_does_nothing_and_a_changed_recording_only_its_shard(split, tmp_path, loudness):
    run(split, tmp_path / "out", loudness())
    before, again = contents(tmp_path / "out"), loudness()
    run(split, tmp_path / "out", again)
    assert again.rows == 0 and contents(tmp_path / "out") == before
    save_audio(split / "audio_files" / "0.wav", torch.zeros(3200))
    run(split, tmp_path / "out", again)
    assert again.rows == 3 and TokenShards(tmp_path / "out")[0].codes.tolist() == [[0] * 10] * 2


def test_rows_added_and_removed_are_followed(split, tmp_path, loudness):
    run(split, tmp_path / "out", loudness())
    rows = json.loads((split / "train.json").read_text())
    for kept in (rows[:5], rows + rows):
        (split / "train.json").write_text(json.dumps(kept))
        run(split, tmp_path / "out", loudness())
        run(split, tmp_path / "fresh", loudness())
        assert contents(tmp_path / "out") == contents(tmp_path / "fresh")


def test_a_damaged_shard_is_refused_and_then_mended(split, tmp_path, loudness):
    run(split, tmp_path / "out", loudness())
    before = contents(tmp_path / "out")
    os.truncate(tmp_path / "out" / "codes-00001.u16", 10)
    with pytest.raises(InputError, match=r"codes-00001\.u16: 10 bytes"):
        TokenShards(tmp_path / "out")
    run(split, tmp_path / "out", loudness())
    assert contents(tmp_path / "out") == before


def test_tokens_of_another_codec_are_refused_with_both_names_and_not_overwritten(split, tmp_path, loudness):
    run(split, tmp_path / "out", loudness())
    before = contents(tmp_path / "out")
    with pytest.raises(InputError, match="codec loudness-1, loudness-2 is wanted"):
        run(split, tmp_path / "out", loudness("loudness-2"))
    assert contents(tmp_path / "out") == before
    here = CharTokenizer().fingerprint()
    with pytest.raises(InputError, match="codec loudness-1, compact-7 is wanted") as caught:
        TokenShards(tmp_path / "out", Fingerprint("compact-7", here))
    assert "tokenizer" not in str(caught.value)
    with pytest.raises(InputError, match=f"codec loudness-1, x is wanted and tokenizer {here}, y is wanted"):
        TokenShards(tmp_path / "out", Fingerprint("x", "y"))


def test_tokens_of_another_manifest_are_not_overwritten(split, tmp_path, loudness):
    run(split, tmp_path / "out", loudness())
    (split / "few.json").write_text(json.dumps(json.loads((split / "train.json").read_text())[:2]))
    with pytest.raises(InputError, match="holds tokens of .*train; give that manifest as well"):
        run(split / "few.json", tmp_path / "out", loudness())
    report = prepare([split, split / "few.json"], tmp_path / "out", loudness(), CharTokenizer(), progress=False)
    assert report.rows == 13


def test_without_one_usable_row_the_report_is_written_and_named(tmp_path, loudness):
    (tmp_path / "a.json").write_text('[{"audio_file": "x.wav", "text": "a"}]')
    with pytest.raises(InputError, match="none of 1 rows could be used; see .*report.json"):
        run(tmp_path / "a.json", tmp_path / "out", loudness())
    assert json.loads((tmp_path / "out" / "report.json").read_text())["refused"][0]["kind"] == "missing_file"
    assert len(TokenShards(tmp_path / "out")) == 0


def test_the_thread_count_of_the_caller_is_left_as_it_was(split, tmp_path, loudness):
    before = torch.get_num_threads()
    torch.set_num_threads(2)
    try:
        with pytest.raises(KeyboardInterrupt):
            run(split, tmp_path / "out", loudness(dies_after=0))
        run(split, tmp_path / "out", loudness())
        assert torch.get_num_threads() == 2
    finally:
        torch.set_num_threads(before)


def test_a_folder_that_cannot_be_written_is_refused_in_one_line(split, tmp_path, loudness):
    (tmp_path / "file").write_text("")
    with pytest.raises(InputError, match="cannot be made .*; give another folder"):
        run(split, tmp_path / "file" / "out", loudness())
    (tmp_path / "out" / "meta.json").mkdir(parents=True)
    with pytest.raises(InputError, match="meta.json: cannot be written"):
        preparing._write(tmp_path / "out" / "meta.json", b"{}")
