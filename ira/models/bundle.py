"""A model folder in, its parts out: what `--model DIR` names and what training writes.

model.json            which codec and which LLM the parts belong to, and which parts there are
codec.* voice.* speech_lm.* adapter.*    NAME.safetensors and NAME.json each (ira.checkpoint)
lora.*                low-rank weights of the LLM, where it was trained
llm/                  a whole LLM, only where it was built from scratch
"""

from __future__ import annotations

from pathlib import Path

import torch
from pydantic import ValidationError

from ira.audio.codec import Codec, load_codec
from ira.checkpoint import load_model, load_tensors, write_aside
from ira.config import CodecConfig, Config, LLMConfig, Section
from ira.errors import InputError
from ira.models.adapter import Adapter
from ira.models.audio_llm import AudioLLM
from ira.models.llm import LanguageModel, load_llm, load_lora_state
from ira.models.speech_lm import SpeechLM
from ira.reading import parse_json, read_text

LORA_KIND = "LoRA"
PARTS = ("codec", "voice", "speech_lm", "adapter", "lora")
EMBEDDED = Path(__file__).resolve().parents[1] / "weights" / "tiny"


class ModelCard(Section):
    """model.json: what the parts were trained beside. `parts` names those that were saved; empty says nothing."""

    format: int = 1
    codec: CodecConfig
    llm: LLMConfig
    parts: list[str] = []


def write_card(folder: Path, config: Config) -> None:
    """Write model.json of a run. A part that was stated once stays stated: its loss is to be noticed."""
    stated = read_model_card(folder).parts if (folder / "model.json").is_file() else []
    parts = [name for name in PARTS if name in stated or (folder / f"{name}.json").is_file()]
    card = ModelCard(codec=config.codec, llm=config.llm, parts=parts)
    with write_aside(folder / "model.json") as aside:
        aside.write_text(card.model_dump_json(indent=2) + "\n", encoding="utf-8")


def read_model_card(folder: Path) -> ModelCard:
    """Read model.json.

    Raises:
        InputError: not a model folder, or of another format.
    """
    path = folder / "model.json"
    try:
        raw = parse_json(read_text(path))
        if isinstance(raw, dict) and raw.get("format", 1) != 1:
            raise InputError(f"{path}: format {raw['format']!r}, this ira reads 1; use the ira that wrote it")
        return ModelCard(**raw)
    except InputError:
        raise
    except OSError as error:
        raise InputError(
            f"{path}: cannot be read ({error.strerror}); give a model folder, as ira train writes"
        ) from None
    except (ValueError, TypeError, ValidationError) as error:
        raise InputError(
            f"{path}: not a model card ({' '.join(str(error).split())[:120]}); train or copy again"
        ) from None


def bundled_codec(folder: Path, device: torch.device) -> Codec:
    """The codec that the folder's tokens belong to."""
    codec = load_codec(read_model_card(folder).codec, folder)
    return codec.to(device) if isinstance(codec, torch.nn.Module) else codec  # type: ignore[return-value]


def bundled_llm(folder: Path, device: torch.device, name: str | None = None, new_lora: bool = False) -> LanguageModel:
    """The LLM of the card (or `name` in its place), with the folder's LoRA where there is one.

    `new_lora` gives it new LoRA layers instead (training).

    Raises:
        InputError: the card states a LoRA or an LLM of its own and the folder has none.
    """
    card = read_model_card(folder)
    config = card.llm
    own = folder / "llm"
    if own.is_dir():
        config = config.model_copy(update={"name": str(own), "fresh": None})
    if name:
        config = config.model_copy(update={"name": name, "fresh": None})
    if config.fresh is not None:  # its weights are nowhere else; a new one at random would answer nonsense
        raise InputError(f"{own}: the LLM of this model folder is missing; copy the whole folder")
    saved = not new_lora and ("lora" in card.parts or (folder / "lora.json").is_file())
    if saved and not (folder / "lora.json").is_file():  # the other parts are always asked for and say so themselves
        raise InputError(f"{folder / 'lora.json'}: the LoRA of this model folder is missing; copy the whole folder")
    llm = load_llm(config, device, torch.bfloat16, lora=saved or new_lora)
    if saved:
        load_lora_state(llm, {key: value.float() for key, value in load_tensors(folder, "lora", LORA_KIND).items()})
    return llm


def bundled_audio_llm(folder: Path, device: torch.device, name: str | None = None, new_lora: bool = False) -> AudioLLM:
    """SpeechLM, adapter and LLM of the folder, ready to listen."""
    speech_lm = load_model(SpeechLM, folder, "speech_lm").to(device)
    adapter = load_model(Adapter, folder, "adapter").to(device)
    layers = layers_read(speech_lm, adapter, folder)
    return AudioLLM(speech_lm, adapter, bundled_llm(folder, device, name, new_lora), layers).eval()


def layers_read(speech_lm: SpeechLM, adapter: Adapter, source: Path) -> list[int]:
    """The SpeechLM's layers that the adapter mixes.

    Raises:
        InputError: the two are not of one run; `source` is where the adapter came from.
    """
    layers = mixed_layers(speech_lm.config.layers, adapter.source_layers)
    reads = (adapter.hparams()["source_width"], adapter.source_layers)
    if reads != (speech_lm.config.width, len(layers)):
        raise InputError(
            f"{source}: the adapter mixes {reads[1]} layers of width {reads[0]}, the SpeechLM has "
            f"{speech_lm.config.layers} of {speech_lm.config.width}; copy both from one run"
        )
    return layers


def mixed_layers(layers: int, count: int) -> list[int]:
    """`count` of the SpeechLM's layers, evenly spread and ending with the last: what the adapter mixes."""
    count = min(count, layers)
    return [round((i + 1) * layers / count) - 1 for i in range(count)]
