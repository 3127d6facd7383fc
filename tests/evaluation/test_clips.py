from __future__ import annotations

import json
from pathlib import Path

import pytest
import torch

from ira.audio.waveform import save_audio
from ira.errors import InputError
from ira.evaluation.clips import choose, default_manifests, others_of


@pytest.fixture
def manifest(tmp_path: Path) -> str:
    for name in ("a.wav", "b.ogg"):
        save_audio(tmp_path / name, torch.zeros(1, 2400))
    rows = [
        {"audio_file": "a.wav", "text": "one"},
        {"audio_file": "b.ogg", "text": "zwei", "language": "de"},
        {"audio_file": "a.wav", "text": ""},
        {"audio_file": "gone.wav", "text": "three"},
        {"text": "no sound"},
    ]
    (tmp_path / "test.json").write_text(json.dumps(rows))
    return str(tmp_path / "test.json")


@pytest.mark.parametrize(
    "suite, rows",
    [("codec", [0, 2]), ("voice", [0, 1, 2]), ("speak", [0, 1]), ("control", [0, 4]), ("listen", [0, 1])],
)
def test_each_suite_takes_the_rows_that_suit_it_and_counts_the_others(suite: str, rows: list[int], manifest: str):
    clips = choose(suite, [manifest], 10)
    assert [row.number for row in clips.rows] == rows
    assert clips.unsuited == 4 - len(rows) and clips.refused == 1


def test_without_a_row_that_suits_it_says_what_is_wanted(tmp_path: Path):
    (tmp_path / "test.json").write_text('[{"text": "no sound"}]')
    with pytest.raises(InputError, match=r"no row for codec; .*\.flac or \.wav"):
        choose("codec", [str(tmp_path / "test.json")], 10)


def test_data_test_comes_before_data_val(tmp_path: Path, monkeypatch: pytest.MonkeyPatch):
    monkeypatch.chdir(tmp_path)
    with pytest.raises(InputError, match="give MANIFEST"):
        default_manifests()
    Path("data/val").mkdir(parents=True)
    assert default_manifests() == ["data/val"]
    Path("data/test").mkdir()
    assert default_manifests() == ["data/test"]


@pytest.fixture
def sets(tmp_path: Path) -> list[str]:
    """Two rows of one speaker in the first set, nine of another speaker in the second."""
    save_audio(tmp_path / "a.wav", torch.zeros(1, 2400))
    for name, rows in (("few", 2), ("many", 9)):
        entries = [{"audio_file": "a.wav", "text": f"{name} {i}", "speaker": name} for i in range(rows)]
        (tmp_path / f"{name}.json").write_text(json.dumps(entries))
    return [str(tmp_path / "few.json"), str(tmp_path / "many.json")]


@pytest.mark.parametrize("count, few, many", [(1, 1, 0), (4, 2, 2), (6, 2, 4), (50, 2, 9)])
def test_a_small_manifest_is_not_lost_beside_a_large_one(count: int, few: int, many: int, sets: list[str]):
    rows = choose("speak", sets, count).rows
    assert [sum(row.speaker == name for row in rows) for name in ("few", "many")] == [few, many]


def test_further_recordings_of_the_same_speakers_are_none_of_those_measured(sets: list[str]):
    rows = choose("speak", sets, 4).rows
    others = others_of(rows, 3)
    assert [row.speaker for row in others] == ["many"] * 3
    assert not {row.number for row in others} & {row.number for row in rows if row.speaker == "many"}
