"""Configurations, model folders, saved voices, rows and manifests that are altered, cut, or made to harm."""

from __future__ import annotations

import hashlib
import io
import json
import os
import pickle
import shutil
import zipfile
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest
import torch

from ira.checkpoint import load_model, read_card
from ira.config import Config
from ira.config_file import load_config
from ira.errors import InputError
from ira.inference.rows import read_listen_rows, read_speak_rows
from ira.inference.voice_file import load_voice
from ira.models.bundle import bundled_codec, read_model_card
from ira.models.speech_lm import SpeechLM

Survive = Callable[..., str]


class Trap:
    """Whoever unpickles it makes a file."""

    def __init__(self, path: Path) -> None:
        self.path = path

    def __reduce__(self) -> tuple[Any, ...]:
        return (os.mkdir, (str(self.path),))


def put(path: Path, text: str) -> Path:
    """Any text, halves of surrogate pairs as the bytes they stood for."""
    path.write_bytes(text.encode("utf-8", errors="surrogateescape"))
    return path


# -- configurations ----------------------------------------------------------------------------------------------


def test_a_hostile_configuration_is_used_or_refused(config_texts: list[str], tmp_path: Path, survive: Survive):
    used = [
        text
        for number, text in enumerate(config_texts)
        if not survive(f"{number} {text[:300]}", lambda text=text: load_config(put(tmp_path / "c.yaml", text)), 2)
    ]
    assert 100 < len(used) < len(config_texts) / 2


@pytest.mark.parametrize("value", ["1000000000", "1" + "0" * 400, "1e308", "1e400", ".nan", ".inf", "-1", "1e-400"])
def test_a_size_that_no_machine_holds_is_refused_by_its_bound(tmp_path: Path, survive: Survive, value: str):
    shapes = [
        *(f"codec.compact.{key}" for key in Config().codec.compact.model_dump()),
        *(f"voice.{key}" for key in ("mel_bins", "hidden", "dim", "layers", "text_hidden", "text_layers")),
        *(f"speech.{key}" for key in ("layers", "width", "max_steps", "text_layers")),
        *(f"adapter.{key}" for key in ("layers", "queries", "window_seconds", "width", "stack", "mix_layers")),
        *("llm.lora.r", "llm.fresh.hidden", "llm.fresh.layers", "llm.fresh.intermediate", "llm.max_new_tokens"),
        *("data.workers", "data.max_seconds", "train.threads", "train.codec.batch_seconds", "train.reinforce.rollouts"),
    ]
    empty = put(tmp_path / "c.yaml", "")
    for shape in shapes:
        line = survive(shape, lambda shape=shape: load_config(empty, [f"{shape}={value}"]))
        assert shape.rpartition(".")[2] in line or shape.rpartition(".")[0] in line, (shape, value)


@pytest.mark.parametrize("item", ["=", "a", "a.b.c.d=1", "train=1", "train.seed=[", "train.seed=*a", ".=1", "a\0=1", "train.seed=" + "[" * 5000, "x" * 100_000 + "=1", "." * 5000 + "=1"])  # fmt: skip  # noqa: E501
def test_a_hostile_override_is_refused(tmp_path: Path, survive: Survive, item: str):
    assert survive(item[:99], lambda: load_config(put(tmp_path / "c.yaml", ""), [item]))


def test_aliases_of_aliases_are_refused_before_they_are_spelt_out(tmp_path: Path, survive: Survive):
    lines = ["a0: &a0 [x, x]", *(f"a{i}: &a{i} [{', '.join([f'*a{i - 1}'] * 9)}]" for i in range(1, 30))]
    assert survive("laughs", lambda: load_config(put(tmp_path / "c.yaml", "\n".join(lines))), 1)


def test_a_configuration_of_many_megabytes_is_refused_unread(tmp_path: Path, survive: Survive):
    assert survive("long", lambda: load_config(put(tmp_path / "c.yaml", "a: 1\n" * 10_000_000)), 2)
    assert survive("zero", lambda: load_config("/dev/zero"), 2)


# -- model folders -----------------------------------------------------------------------------------------------


@pytest.fixture
def model_copy(tiny_model_folder: Path, tmp_path: Path) -> Path:
    """A model folder that a test may change."""
    return Path(shutil.copytree(tiny_model_folder, tmp_path / "model"))


def state_hash(folder: Path, name: str, content: bytes) -> None:
    """Put the weights there and their hash into the card: a hash proves a whole copy, not a good intention."""
    (folder / f"{name}.safetensors").write_bytes(content)
    card = json.loads((folder / f"{name}.json").read_text())
    put(folder / f"{name}.json", json.dumps({**card, "sha256": hashlib.sha256(content).hexdigest()}))


def test_a_hostile_model_card_is_used_or_refused(model_cards: list[str], model_copy: Path, survive: Survive):
    for number, text in enumerate(model_cards):
        put(model_copy / "model.json", text)
        survive(f"{number} {text[:300]}", lambda: read_model_card(model_copy))


def test_a_codec_that_a_hostile_card_describes_is_used_or_refused(
    model_cards: list[str], model_copy: Path, survive: Survive, monkeypatch: pytest.MonkeyPatch
):
    monkeypatch.setenv("HF_HUB_OFFLINE", "1")
    for number, text in enumerate(model_cards[:200:5]):
        put(model_copy / "model.json", text)
        survive(f"{number} {text[:300]}", lambda: bundled_codec(model_copy, torch.device("cpu")))


def test_a_part_whose_card_is_hostile_is_used_or_refused(
    part_cards: list[tuple[str, str]], model_copy: Path, survive: Survive
):
    from ira.audio.compact import CompactCodec
    from ira.models.adapter import Adapter
    from ira.models.voice_encoder import VoiceEncoder

    kinds: dict[str, Any] = {"codec": CompactCodec, "voice": VoiceEncoder, "speech_lm": SpeechLM, "adapter": Adapter}
    for number, (name, text) in enumerate(part_cards):
        good = (model_copy / f"{name}.json").read_text()
        put(model_copy / f"{name}.json", text)
        survive(f"{number} {name} {text[:300]}", lambda name=name: load_model(kinds[name], model_copy, name))
        put(model_copy / f"{name}.json", good)


def test_altered_weights_are_used_or_refused(weight_files: list[bytes], model_copy: Path, survive: Survive):
    refused = 0
    for number, content in enumerate(weight_files):
        state_hash(model_copy, "speech_lm", content)
        line = survive(f"weights {number}", lambda: load_model(SpeechLM, model_copy, "speech_lm"))
        refused += bool(line)
        assert not line or "speech_lm" in line
    assert refused > len(weight_files) / 2
    assert survive("not a number", lambda: load_model(SpeechLM, model_copy, "speech_lm"))  # the last: NaN


def test_weights_that_were_altered_without_their_hash_are_refused(model_copy: Path, survive: Survive):
    path = model_copy / "speech_lm.safetensors"
    good = path.read_bytes()
    for at in range(0, len(good), len(good) // 50):
        path.write_bytes(good[:at] + bytes([good[at] ^ 1]) + good[at + 1 :])
        assert "sha256" in survive(f"bit {at}", lambda: load_model(SpeechLM, model_copy, "speech_lm"))
        path.write_bytes(good[:at])
        assert "sha256" in survive(f"cut {at}", lambda: load_model(SpeechLM, model_copy, "speech_lm"))


@pytest.mark.parametrize("form", ["pickle", "torch", "zip", "text"])
def test_a_pickle_is_never_opened_whatever_it_is_called(
    model_copy: Path, tmp_path: Path, survive: Survive, form: str, monkeypatch: pytest.MonkeyPatch
):
    from ira.inference.parts import checkpoint_path
    from ira.inference.pipeline import Pipeline

    trap, buffer = tmp_path / "sprung", io.BytesIO()
    if form == "pickle":
        buffer.write(pickle.dumps(Trap(trap)))
    elif form == "text":
        buffer.write(pickle.dumps(Trap(trap), protocol=0))
    elif form == "torch":
        torch.save({"state": Trap(trap)}, buffer)
    else:
        with zipfile.ZipFile(buffer, "w") as archive:
            archive.writestr("archive/data.pkl", pickle.dumps(Trap(trap)))
    content = buffer.getvalue()
    state_hash(model_copy, "speech_lm", content)
    calls: list[tuple[str, Callable[[], Any]]] = [
        ("speech_lm", lambda: load_model(SpeechLM, model_copy, "speech_lm")),
        ("speech_lm", lambda: Pipeline.from_folder(model_copy, "cpu").speak("hi")),
    ]
    for name in ("a.pt", "a.bin", "a.yaml", "a.voice", "a.jsonl", "a.json", "a.wav", "a.safetensors"):
        (tmp_path / name).write_bytes(content)
    calls += [
        ("a.pt", lambda: checkpoint_path(tmp_path / "a.pt")),
        ("a.bin", lambda: checkpoint_path(tmp_path / "a.bin")),
        ("a.yaml", lambda: load_config(tmp_path / "a.yaml")),
        ("a.voice", lambda: load_voice(tmp_path / "a.voice", "a" * 64)),
        ("a.json", lambda: read_card(tmp_path / "a.json", "a")),
        ("a.safetensors", lambda: load_model(SpeechLM, tmp_path / "a.safetensors", "a")),
    ]
    for name, call in calls:
        assert name.partition(".")[0] in survive(f"{form} as {name}", call)
    survive("a.jsonl", lambda: [read_speak_rows(tmp_path / "a.jsonl"), read_listen_rows(tmp_path / "a.jsonl")])
    assert not trap.exists()
    pickle.loads(pickle.dumps(Trap(trap)))
    assert trap.exists()  # the trap works


def test_an_llm_in_pickles_is_refused(model_copy: Path, tiny_llm_folder: Path, tmp_path: Path, survive: Survive):
    from ira.models.bundle import bundled_llm

    shutil.copytree(tiny_llm_folder, model_copy / "llm")
    (model_copy / "llm" / "model.safetensors").unlink()
    torch.save({"x": Trap(tmp_path / "sprung")}, model_copy / "llm" / "pytorch_model.bin")
    assert "llm" in survive("bin", lambda: bundled_llm(model_copy, torch.device("cpu")))
    (model_copy / "llm" / "pytorch_model.bin").rename(model_copy / "llm" / "model.safetensors")
    assert "llm" in survive("renamed", lambda: bundled_llm(model_copy, torch.device("cpu")))
    assert not (tmp_path / "sprung").exists()


# -- voices and rows ---------------------------------------------------------------------------------------------


def test_a_hostile_voice_file_is_used_or_refused(voice_texts: list[str], tmp_path: Path, survive: Survive):
    for number, text in enumerate(voice_texts):
        path = put(tmp_path / "a.voice", text)
        survive(f"{number} {text[:300]}", lambda path=path: load_voice(path, "a" * 64))


def test_a_hostile_row_is_an_error_in_its_own_place(row_texts: list[str], tmp_path: Path, survive: Survive):
    good = {"speak": '{"id": "good", "text": "one"}', "listen": '{"id": "good", "audio": null, "prompt": "x"}'}
    for number, text in enumerate(row_texts):
        for read, verb in ((read_speak_rows, "speak"), (read_listen_rows, "listen")):
            path, found = put(tmp_path / "a.jsonl", f"{text}\n{good[verb]}\n"), []
            name = f"{number} {verb} {text[:300]}"
            line = survive(name, lambda read=read, path=path, found=found: found.extend(read(path)))
            assert "UTF-8" in line if line else found[-1][0] == "good", name
            assert all(
                len(str(row)) < 400 and str(row).isprintable() for _, row in found if isinstance(row, InputError)
            )
