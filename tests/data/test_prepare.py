"""From manifests to shards: every row kept or refused by name, the same bytes however it was run."""

from __future__ import annotations

import json
import os

import pytest
import torch

from ira.audio.waveform import load_audio, save_audio
from ira.data.prepare import prepare
from ira.data.shards import Fingerprint, TokenShards
from ira.data.text import CharTokenizer
from ira.errors import InputError


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
    (tmp_path / "cut" / ".codes-00002-0a1b2c3d.u16").write_bytes(b"half")
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


def overwritten(content: bytes) -> bytes:
    return b"\xff" * len(content)


def one_letter(content: bytes) -> bytes:
    return content.replace(b'"offset"', b'"offseT"', 1)


@pytest.mark.parametrize(
    ("name", "change"),
    [
        ("codes-00001.u16", overwritten),
        ("index-00001.jsonl", overwritten),
        ("index-00001.jsonl", one_letter),
        ("shard-00001.json", overwritten),
        ("meta.json", lambda content: content.replace(b'"shards"', b'"shardS"')),
    ],
)
def test_changed_bytes_of_the_same_length_are_one_line_and_are_mended(split, tmp_path, loudness, name, change):
    out = tmp_path / "out"
    run(split, out, loudness())
    (out / "shard-old.json").write_text("{}")  # a stranger's file is nobody's business
    before = contents(out)
    (out / name).write_bytes(change(before[name]))
    with pytest.raises(InputError, match="run ira prepare again|is damaged"):
        shards = TokenShards(out)
        _ = [shards[i] for i in range(len(shards))]
    run(split, out, loudness())
    assert contents(out) == before


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


# -- in parts ----------------------------------------------------------------------------------------------------


def shard_files(folder):
    return {path.name: path.read_bytes() for path in folder.rglob("*-0*.*")}


def test_parts_hold_the_very_shards_of_one_machine_and_read_in_the_same_order(split, tmp_path, loudness):
    whole = run(split, tmp_path / "whole", loudness())
    reports = [run(split, tmp_path / "parts", loudness(), shard=(i, 2)) for i in (1, 0)]
    assert {p.name for p in (tmp_path / "parts").iterdir()} == {"part-0000-of-0002", "part-0001-of-0002"}
    assert shard_files(tmp_path / "parts") == shard_files(tmp_path / "whole")
    one, many = TokenShards(tmp_path / "whole"), TokenShards(tmp_path / "parts")
    assert len(one) == len(many) == 11 and one.lengths.tolist() == many.lengths.tolist()
    for i in range(11):
        assert torch.equal(one[i].codes, many[i].codes) and one[i].extra == many[i].extra
    together = [problem for report in reports for problem in report.refused]
    assert sorted(map(str, together)) == sorted(map(str, whole.refused))
    assert sum(report.rows for report in reports) == 11


def test_a_missing_part_is_named(split, tmp_path, loudness):
    for i in (0, 2, 3, 5):
        run(split, tmp_path / "out", loudness(), shard=(i, 6))
    with pytest.raises(InputError, match=r"missing part 1/6, 4/6; run ira prepare --shard 1/6"):
        TokenShards(tmp_path / "out")
    for i in (1, 4):
        run(split, tmp_path / "elsewhere", loudness(), shard=(i, 6))
        name = f"part-{i:04d}-of-0006"
        (tmp_path / "out" / name).symlink_to(tmp_path / "elsewhere" / name)
    assert len(TokenShards(tmp_path / "out")) == 11
    (tmp_path / "out" / "part-0002-of-0006" / "shard-00002.json").unlink()
    with pytest.raises(InputError, match="part-0002-of-0006: shard 2 of 4 is missing"):
        TokenShards(tmp_path / "out")


def test_machines_without_a_shard_have_done_their_work_and_one_without_a_good_row_says_so(split, tmp_path, loudness):
    assert run(split, tmp_path / "out", loudness(), shard=(5, 6)).rows == 0
    with pytest.raises(InputError, match="none of 4 rows could be used"):
        run(split, tmp_path / "out", loudness(), shard=(1, 6), max_seconds=0.01)
    with pytest.raises(InputError, match="shard 6/6; 0/6 to 5/6 are wanted"):
        run(split, tmp_path / "out", loudness(), shard=(6, 6))


def test_a_folder_stays_divided_as_it_is(split, tmp_path, loudness):
    run(split, tmp_path / "out", loudness(), shard=(0, 2))
    with pytest.raises(InputError, match=r"holds tokens in 2 part\(s\), not 3"):
        run(split, tmp_path / "out", loudness(), shard=(0, 3))
    with pytest.raises(InputError, match="is part 0/2 of a folder; give the folder that holds all parts"):
        run(split, tmp_path / "out" / "part-0000-of-0002", loudness())
    with pytest.raises(InputError, match="is part 0/2 of a folder; open the folder"):
        TokenShards(tmp_path / "out" / "part-0000-of-0002")
    codec = loudness()
    report = run(split, tmp_path / "out", codec)  # without a shard, what is missing is made in its part
    added = [json.loads(path.read_text())["rows"] for path in (tmp_path / "out").glob("part-0001-*/shard-*.json")]
    assert report.rows == 11 and codec.rows == sum(added) < 11
    run(split, tmp_path / "whole", loudness())
    assert shard_files(tmp_path / "out") == shard_files(tmp_path / "whole")
    with pytest.raises(InputError, match=r"holds tokens in 1 part\(s\), not 2"):
        run(split, tmp_path / "whole", loudness(), shard=(0, 2))
    run(split, tmp_path / "other", loudness(), shard=(0, 3))
    (tmp_path / "other" / "part-0000-of-0003").rename(tmp_path / "out" / "part-0000-of-0003")
    with pytest.raises(InputError, match="holds parts of 2 and of 3"):
        TokenShards(tmp_path / "out")


def test_parts_of_different_rows_or_codecs_do_not_mix(split, tmp_path, loudness):
    run(split, tmp_path / "out", loudness(), shard=(0, 2))
    rows = json.loads((split / "train.json").read_text())
    rows[0]["text"] = "something else"
    (split / "train.json").write_text(json.dumps(rows))
    run(split, tmp_path / "out", loudness(), shard=(1, 2))
    with pytest.raises(InputError, match="part 1/2 is of other rows than part 0; run ira prepare --shard 1/2 again"):
        TokenShards(tmp_path / "out")
    run(split, tmp_path / "out", loudness())
    assert TokenShards(tmp_path / "out")[0].text == "something else"
    run(split, tmp_path / "other", loudness("loudness-2"), shard=(1, 2))
    for path in (tmp_path / "out" / "part-0001-of-0002").iterdir():
        path.write_bytes((tmp_path / "other" / "part-0001-of-0002" / path.name).read_bytes())
    with pytest.raises(InputError, match="part-0001-of-0002: made with codec loudness-2, loudness-1 is wanted"):
        TokenShards(tmp_path / "out")


def test_a_finished_folder_may_lie_where_nothing_can_be_written(split, tmp_path, loudness, monkeypatch):
    before = run(split, tmp_path / "out", loudness())
    monkeypatch.setattr(os, "replace", lambda *_: pytest.fail("something was written"))
    assert run(split, tmp_path / "out", loudness()) == before
