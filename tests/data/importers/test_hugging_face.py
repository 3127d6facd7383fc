"""Data sets of the Hugging Face library as it writes them itself: saved folders, dicts of splits, parquet files."""

from __future__ import annotations

import builtins
import sys

import pytest

from ira.data.importers.write import import_corpus
from ira.errors import InputError


@pytest.fixture
def datasets(monkeypatch):
    monkeypatch.setenv("HF_HUB_OFFLINE", "1")
    library = pytest.importorskip("datasets", reason="the extra ira[hf] is not installed")
    library.disable_progress_bars()
    return library


@pytest.fixture
def rows(tmp_path, sound):
    """Six recordings of three speakers in three formats; the last one is no sound."""
    audio = [sound(tmp_path / "made" / f"{i}{suffix}").read_bytes() for i, suffix in enumerate([".wav", ".flac"] * 3)]
    return {
        "audio": [{"bytes": data, "path": f"{i}.bin"} for i, data in enumerate([*audio[:5], b"no sound"])],
        "sentence": ["null", "eins", "zwei", "drei", "", "fünf"],
        "speaker_id": [7, 7, 8, 8, 9, 9],
        "gender": [0, 1, 0, 1, 0, 1],
        "locale": ["de"] * 6,
        "up_votes": list(range(6)),
    }


@pytest.fixture
def made(datasets, rows):
    """As a set with an audio feature that is not decoded, and classes with names."""
    made = datasets.Dataset.from_dict(rows).cast_column("audio", datasets.Audio(decode=False))
    return made.cast_column("gender", datasets.ClassLabel(names=["female", "male"]))


def test_a_saved_set_comes_in_with_its_bytes_untouched(made, rows, tmp_path, bring_in):
    made.save_to_disk(str(tmp_path / "spoken"))
    report, splits = bring_in("hf", tmp_path / "spoken")
    found = {row.text: row for part in splits.values() for row in part}
    assert set(found) == {"null", "eins", "zwei", "drei"}
    for number, text in enumerate(["null", "eins", "zwei", "drei"]):
        assert found[text].audio.read_bytes() == rows["audio"][number]["bytes"]
        assert found[text].audio.suffix == (".wav", ".flac")[number % 2]
    assert found["zwei"].speaker == "spoken-8" and found["zwei"].language == "de"
    assert found["zwei"].extra == {"gender": "female"}
    assert dict(report.refused)["all/00000004"] == "no text"
    assert "cannot be read as sound" in dict(report.refused)["all/00000005"]
    assert report.licence == "not stated"


def test_a_dict_of_splits_keeps_them_and_names_what_is_neither(made, datasets, tmp_path, bring_in):
    parts = {"train": made.select([0, 1]), "validation": made.select([2]), "test": made.select([3]), "other": made}
    datasets.DatasetDict(parts).save_to_disk(str(tmp_path / "spoken"))
    report, splits = bring_in("hf", tmp_path / "spoken")
    assert {split: [row.text for row in found] for split, found in splits.items()} == {
        "train": ["null", "eins"],
        "val": ["zwei"],
        "test": ["drei"],
    }
    assert report.remarks == ("other: neither train nor validation nor test, left out",)


def test_parquet_files_as_on_the_hub_are_read_without_torchcodec(made, datasets, tmp_path, bring_in):
    folder = tmp_path / "hub" / "data"
    folder.mkdir(parents=True)
    listed = made.cast_column("audio", datasets.Audio(sampling_rate=24_000))  # decoded by whoever loads it plainly
    listed.select([0, 1]).to_parquet(str(folder / "train-00000-of-00002.parquet"))
    listed.select([2]).to_parquet(str(folder / "train-00001-of-00002.parquet"))
    listed.select([3]).to_parquet(str(folder / "test-00000-of-00001.parquet"))
    _, splits = bring_in("hf", tmp_path / "hub")
    assert {split: [row.text for row in found] for split, found in splits.items()} == {
        "train": ["null", "eins", "zwei"],
        "test": ["drei"],
    }
    assert splits["test"][0].extra == {"gender": "male"}
    assert "torchcodec" not in sys.modules


def test_a_row_that_names_its_file_is_read_inside_the_folder_only(datasets, tmp_path, sound, bring_in):
    inside = sound(tmp_path / "hub" / "clips" / "a.wav")
    sound(tmp_path / "outside.wav")
    paths = ["clips/a.wav", "../outside.wav", str(tmp_path / "outside.wav"), "/dev/zero", "clips/absent.wav"]
    audio = [{"bytes": None, "path": path} for path in paths]
    made = datasets.Dataset.from_dict({"audio": audio, "text": [f"row {i}" for i in range(5)]})
    made.to_parquet(str(tmp_path / "hub" / "train.parquet"))
    report, splits = bring_in("hf", tmp_path / "hub")
    (row,) = [row for found in splits.values() for row in found]
    assert row.text == "row 0" and row.audio.read_bytes() == inside.read_bytes()
    assert len(report.refused) == 4 and all("is no file of the data set" in why for _, why in report.refused)


def test_a_language_can_be_given_where_the_set_has_none(made, tmp_path, bring_in):
    made.remove_columns("locale").save_to_disk(str(tmp_path / "spoken"))
    _, splits = bring_in("hf", tmp_path / "spoken", language="nl")
    assert {row.language for found in splits.values() for row in found} == {"nl"}


def test_a_set_without_sound_or_text_is_refused_with_its_columns(made, tmp_path):
    made.remove_columns("audio").save_to_disk(str(tmp_path / "mute"))
    with pytest.raises(InputError, match="a column of sound .* is wanted, sentence, speaker_id"):
        import_corpus("hf", tmp_path / "mute", tmp_path / "out")
    made.remove_columns("sentence").save_to_disk(str(tmp_path / "wordless"))
    with pytest.raises(InputError, match="a column text, sentence.* is wanted, audio, speaker_id"):
        import_corpus("hf", tmp_path / "wordless", tmp_path / "out")


def test_a_damaged_parquet_file_is_one_line(datasets, tmp_path):
    (tmp_path / "hub").mkdir()
    (tmp_path / "hub" / "train-00000-of-00001.parquet").write_bytes(b"PAR1 and nothing else")
    with pytest.raises(InputError, match="cannot be read as parquet"):
        import_corpus("hf", tmp_path / "hub", tmp_path / "out")


def test_without_the_library_the_extra_is_named(tmp_path, monkeypatch):
    (tmp_path / "hub").mkdir()
    (tmp_path / "hub" / "train.parquet").touch()
    real = builtins.__import__

    def without(name, *rest):
        if name == "datasets":
            raise ImportError(name)
        return real(name, *rest)

    monkeypatch.setattr(builtins, "__import__", without)
    with pytest.raises(InputError, match=r"pip install 'ira\[hf\]'"):
        import_corpus("hf", tmp_path / "hub", tmp_path / "out")
