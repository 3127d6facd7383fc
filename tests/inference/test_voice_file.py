from __future__ import annotations

import datetime
import json
from pathlib import Path
from typing import Any

import pytest
import torch

from ira.errors import InputError
from ira.inference.voice_file import LARGEST_FILE, Voice, load_voice, save_voice

VOICE = Voice(torch.nn.functional.normalize(torch.arange(1.0, 9.0), dim=0), "a" * 64, "a calm woman")


def stored(tmp_path: Path, **changes: Any) -> Path:
    """A good file with `changes`; a value of None takes the key out."""
    path = tmp_path / "v.voice"
    save_voice(path, VOICE, "mine")
    entry = {**json.loads(path.read_text()), **changes}
    path.write_text(json.dumps({key: value for key, value in entry.items() if value is not None}))
    return path


def test_a_saved_voice_comes_back_bit_for_bit(tmp_path: Path):
    save_voice(tmp_path / "v.voice", VOICE, "mine")
    back = load_voice(tmp_path / "v.voice", "a" * 64)
    assert torch.equal(back.embedding, VOICE.embedding)
    assert back.source == "a calm woman"


def test_the_file_is_json_with_consent_date_and_origin(tmp_path: Path):
    entry = json.loads(stored(tmp_path).read_text())
    assert set(entry) == {"format", "embedding", "voice_encoder", "source", "consent", "created"}
    assert entry["format"] == 1 and entry["consent"] == "mine" and entry["source"] == "a calm woman"
    assert datetime.date.fromisoformat(entry["created"])


def test_a_voice_of_another_encoder_is_refused_with_both_hashes(tmp_path: Path):
    with pytest.raises(InputError) as caught:
        load_voice(stored(tmp_path), "b" * 64)
    assert "a" * 64 in str(caught.value) and "b" * 64 in str(caught.value)


@pytest.mark.parametrize(
    "changes",
    [
        {"format": 2},
        {"format": None},
        {"embedding": None},
        {"embedding": []},
        {"embedding": ["x"]},
        {"embedding": [[1.0]]},
        {"embedding": {"0": 1.0}},
        {"embedding": [0.0] * 8},
        {"embedding": [1e300] * 8},
        {"embedding": [5.0] * 8},
        {"voice_encoder": 7},
        {"voice_encoder": None},
        {"source": ["x"]},
        {"surprise": 1},
    ],
)
def test_a_wrong_entry_is_one_line_that_names_the_file(tmp_path: Path, changes: dict[str, Any]):
    with pytest.raises(InputError, match=r"v\.voice: .*save .* again") as caught:
        load_voice(stored(tmp_path, **changes), "a" * 64)
    assert "\n" not in str(caught.value)


@pytest.mark.parametrize(
    "content",
    [
        b"",
        b"null",
        b"[]",
        b"not json",
        b"\xff\xfe\x00",
        b"[" * 100_000,
        b'{"format": 1, "embedding": [NaN], "voice_encoder": "' + b"a" * 64 + b'"}',
        b" " * (LARGEST_FILE + 1),
    ],
)
def test_hostile_content_is_one_line(tmp_path: Path, content: bytes):
    path = tmp_path / "v.voice"
    path.write_bytes(content)
    with pytest.raises(InputError, match=r"v\.voice: ") as caught:
        load_voice(path, "a" * 64)
    assert "\n" not in str(caught.value)


def test_nan_is_refused_even_where_everything_else_is_right(tmp_path: Path):
    path = stored(tmp_path)
    entry = json.loads(path.read_text())
    entry["embedding"][0] = float("nan")
    path.write_text(json.dumps(entry))
    with pytest.raises(InputError, match="not a voice file"):
        load_voice(path, "a" * 64)


def test_a_missing_file_a_folder_and_another_suffix_are_named(tmp_path: Path):
    with pytest.raises(InputError, match="cannot be read"):
        load_voice(tmp_path / "absent.voice", "a" * 64)
    (tmp_path / "folder.voice").mkdir()
    with pytest.raises(InputError, match="cannot be read"):
        load_voice(tmp_path / "folder.voice", "a" * 64)
    with pytest.raises(InputError, match=r"NAME\.voice"):
        save_voice(tmp_path / "voice.json", VOICE, "")
