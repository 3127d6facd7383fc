"""Importing: links or copies, a kill at any place, the same bytes every time, and a corpus that is never touched."""

from __future__ import annotations

import hashlib
import json
import os

import pytest

from ira.data.importers.write import import_corpus
from ira.errors import InputError


@pytest.fixture
def corpus(tmp_path, sound):
    """Six speakers, two sentences each, in VCTK's layout."""
    root = tmp_path / "VCTK-Corpus-0.92"
    for speaker in ("p1", "p2", "p3", "p4", "p5", "p6"):
        for number in ("001", "002"):
            sound(root / "wav48_silence_trimmed" / speaker / f"{speaker}_{number}_mic1.flac")
            (root / "txt" / speaker).mkdir(parents=True, exist_ok=True)
            (root / "txt" / speaker / f"{speaker}_{number}.txt").write_text(f"Sentence {number}.", encoding="utf-8")
    return root


def files(folder):
    """Name -> hash and time of change of every file."""
    found = (path for path in sorted(folder.rglob("*")) if path.is_file())
    return {
        str(path.relative_to(folder)): (hashlib.sha256(path.read_bytes()).hexdigest(), path.stat().st_mtime_ns)
        for path in found
    }


def contents(folder):
    return {name: digest for name, (digest, _) in files(folder).items()}


def test_recordings_are_hard_links_and_the_corpus_stays_as_it_was(corpus, bring_in):
    before = files(corpus)
    report, splits = bring_in("vctk", corpus)
    (first, *_), source = splits["train"], corpus / "wav48_silence_trimmed"
    assert first.audio.samefile(source / first.audio.parent.name / first.audio.name)
    assert report.files == {"linked": 12} and files(corpus) == before


def test_copies_are_made_on_request_and_where_links_cannot_be(corpus, bring_in, tmp_path, monkeypatch):
    bring_in("vctk", corpus)
    report, splits = bring_in("vctk", corpus, copy=True)
    assert report.files == {"copied": 12} and all(row.audio.stat().st_nlink == 1 for row in splits["train"])

    def refuse(*paths):
        raise OSError("another file system")

    monkeypatch.setattr(os, "link", refuse)
    assert import_corpus("vctk", corpus, tmp_path / "elsewhere").files == {"copied": 12}
    assert not list((tmp_path / "elsewhere").rglob(".*"))


def test_the_same_corpus_gives_the_same_bytes(corpus, tmp_path):
    for out in ("one", "two"):
        import_corpus("vctk", corpus, tmp_path / out, copy=out == "two")
    assert contents(tmp_path / "one") == contents(tmp_path / "two")


def test_a_killed_import_goes_on_and_ends_with_the_same_bytes(corpus, tmp_path):
    def kill(done, total):
        if done == 7:
            raise KeyboardInterrupt

    import_corpus("vctk", corpus, tmp_path / "whole")
    with pytest.raises(KeyboardInterrupt):
        import_corpus("vctk", corpus, tmp_path / "out", seen=kill)
    assert not list((tmp_path / "out").glob("*/t*.json")), "a manifest must not stand for half a corpus"
    report = import_corpus("vctk", corpus, tmp_path / "out")
    assert report.files == {"kept": 7, "linked": 5}
    assert contents(tmp_path / "out") == contents(tmp_path / "whole")


def test_half_a_file_is_made_anew(corpus, bring_in):
    _, splits = bring_in("vctk", corpus, copy=True)
    cut = splits["train"][0].audio
    whole = cut.read_bytes()
    cut.write_bytes(whole[:100])
    report, _ = bring_in("vctk", corpus, copy=True)
    assert report.files == {"kept": 11, "copied": 1} and cut.read_bytes() == whole


def test_where_it_came_from_stands_beside_each_manifest(corpus, bring_in, tmp_path):
    report, splits = bring_in("vctk", corpus)
    for split in splits:
        source = json.loads((tmp_path / "out" / split / "source.json").read_text(encoding="utf-8"))
        assert source == {"corpus": "VCTK", "licence": "CC BY 4.0", "url": report.url, "split": report.rule}
    whole = json.loads((tmp_path / "out" / "import.json").read_text(encoding="utf-8"))
    assert {split: facts["rows"] for split, facts in whole["splits"].items()} == dict(report.rows)


def test_damaged_sound_and_unspeakable_text_are_named_and_the_rest_comes_in(corpus, bring_in, tmp_path):
    (corpus / "wav48_silence_trimmed/p1/p1_001_mic1.flac").write_bytes(b"fLaC and no more")
    (corpus / "wav48_silence_trimmed/p1/p1_002_mic1.flac").write_bytes(b"")
    (corpus / "txt/p2/p2_001.txt").write_bytes(b"broken \xff letters")
    (corpus / "txt/p2/p2_002.txt").write_text("wow \U0001f600", encoding="utf-8")
    report, splits = bring_in("vctk", corpus)
    assert sum(len(rows) for rows in splits.values()) == 8
    named = json.loads((tmp_path / "out" / "import.json").read_text(encoding="utf-8"))["refused"]
    assert {entry["recording"][:6] for entry in named} == {"p1/p1_", "p2/p2_"} and len(named) == 4


def test_only_the_splits_asked_for_are_written_and_the_others_stay(corpus, bring_in, tmp_path):
    bring_in("vctk", corpus, splits=["val"])
    assert {path.name for path in (tmp_path / "out").iterdir()} == {"val", "import.json"}
    before = contents(tmp_path / "out" / "val")
    _, splits = bring_in("vctk", corpus, splits=["train"])
    assert set(splits) == {"train"} and contents(tmp_path / "out" / "val") == before


def test_another_corpus_or_manifest_is_not_replaced(corpus, tmp_path, sound):
    import_corpus("vctk", corpus, tmp_path / "out")
    sound(tmp_path / "LJ" / "wavs" / "a.wav")
    (tmp_path / "LJ" / "metadata.csv").write_text("a|one|one\n", encoding="utf-8")
    with pytest.raises(InputError, match="holds VCTK, LJSpeech would replace it"):
        import_corpus("ljspeech", tmp_path / "LJ", tmp_path / "out")
    (tmp_path / "mine" / "train").mkdir(parents=True)
    (tmp_path / "mine" / "train" / "train.jsonl").write_text("", encoding="utf-8")
    with pytest.raises(InputError, match=r"holds train\.jsonl"):
        import_corpus("ljspeech", tmp_path / "LJ", tmp_path / "mine")


def test_the_corpus_itself_is_no_place_for_the_result(corpus):
    before = files(corpus)
    for out in (corpus, corpus / "data", corpus / "txt" / ".." / "data"):
        with pytest.raises(InputError, match="choose a folder outside"):
            import_corpus("vctk", corpus, out)
    assert files(corpus) == before


def test_a_corpus_without_one_usable_recording_is_one_line(corpus, tmp_path):
    for path in corpus.rglob("*.flac"):
        path.write_bytes(b"")
    with pytest.raises(InputError, match="no recording could be read; the first: p1/p1_001_mic1.flac"):
        import_corpus("vctk", corpus, tmp_path / "out")
    for path in corpus.rglob("p*.txt"):
        path.unlink()
    with pytest.raises(InputError, match="no recording of it can be used"):
        import_corpus("vctk", corpus, tmp_path / "out2")


def test_an_unknown_kind_is_answered_with_the_known_ones(corpus, tmp_path):
    with pytest.raises(InputError, match="choose one of ljspeech, libritts"):
        import_corpus("timit", corpus, tmp_path / "out")
