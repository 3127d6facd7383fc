"""Tensors and their constructor arguments in, two files out; the same two files in, a checked model out.

A model is `FOLDER/NAME.safetensors` (the tensors) beside `FOLDER/NAME.json` (the card):

    {"format": 1, "kind": "SpeechLM", "hparams": {...}, "sha256": "...", "extra": {...}}

`kind` is the class name, `hparams` are JSON-able constructor arguments, `sha256` is that of the safetensors file.
Every file is written aside, flushed to the disk and renamed, so that a killed process leaves the old file or the new
one.
"""

from __future__ import annotations

import hashlib
import json
import os
import secrets
from collections.abc import Iterator, Mapping
from contextlib import contextmanager, suppress
from pathlib import Path
from typing import TYPE_CHECKING, Any, Protocol, TypeVar, cast

import torch
from safetensors import SafetensorError
from safetensors.torch import load_file, save_file
from torch import Tensor, nn

from ira.errors import InputError
from ira.reading import parse_json, read_text

if TYPE_CHECKING:
    from typing_extensions import Self

FORMAT = 1


class Saveable(Protocol):
    """An `nn.Module` that can name its constructor arguments and be built from them again."""

    def hparams(self) -> dict[str, Any]: ...

    @classmethod
    def from_hparams(cls, hparams: dict[str, Any]) -> Self: ...

    def state_dict(self) -> dict[str, Any]: ...


Model = TypeVar("Model", bound=Saveable)


@contextmanager
def write_aside(path: str | Path) -> Iterator[Path]:
    """A path in the same folder, with the same suffix, that takes the place of `path` once the block has ended well.

    Raises:
        InputError: the folder cannot be made or the file cannot be written; `path` is then as it was.
    """
    path = Path(path)
    aside = path.with_name(f".{path.stem}-{secrets.token_hex(4)}{path.suffix}")
    try:
        path.parent.mkdir(parents=True, exist_ok=True)
        aside.touch()
        mode = aside.stat().st_mode
        yield aside
        aside.chmod(mode)  # safetensors leaves a file that nobody but its owner may read
        with open(aside, "rb+") as file:
            os.fsync(file.fileno())
        os.replace(aside, path)
    except OSError as error:
        raise InputError(
            f"{path}: cannot be written ({error}); choose a folder that can be written, with room"
        ) from error
    finally:
        with suppress(OSError):  # where the folder is a file there is nothing to remove
            aside.unlink(missing_ok=True)


def save_model(
    folder: str | Path,
    name: str,
    model: Saveable,
    *,
    dtype: torch.dtype | None = None,
    extra: Mapping[str, Any] | None = None,
) -> Path:
    """Write `model` as FOLDER/NAME.safetensors and, last, FOLDER/NAME.json; return the safetensors path.

    `dtype` casts the floating tensors (torch.bfloat16 halves the file). Non-persistent buffers are not saved.
    """
    tensors = model.state_dict()
    return save_tensors(
        folder, name, tensors, kind=type(model).__name__, hparams=model.hparams(), dtype=dtype, extra=extra
    )


def save_tensors(
    folder: str | Path,
    name: str,
    tensors: Mapping[str, Tensor],
    *,
    kind: str,
    hparams: Mapping[str, Any] | None = None,
    dtype: torch.dtype | None = None,
    extra: Mapping[str, Any] | None = None,
) -> Path:
    """The same two files for tensors without a class of ours, such as a LoRA; `kind` says what they are."""
    weights, card_path = Path(folder) / f"{name}.safetensors", Path(folder) / f"{name}.json"
    card = {"format": FORMAT, "kind": kind, "hparams": dict(hparams or {}), "sha256": "", "extra": dict(extra or {})}
    _to_json(card)  # what JSON cannot hold fails here, before the old weights are replaced
    with write_aside(weights) as aside:
        save_file({key: _for_disk(value, dtype) for key, value in tensors.items()}, aside)
        card["sha256"] = sha256_of(aside)
    with write_aside(card_path) as aside:
        aside.write_text(_to_json(card), encoding="utf-8")
    return weights


def load_model(cls: type[Model], folder: str | Path, name: str) -> Model:
    """Build `cls` from FOLDER/NAME.json and fill it from FOLDER/NAME.safetensors: eval mode, fp32 parameters.

    `folder` may also be the path of the .safetensors file itself.

    Raises:
        InputError: a file is missing, damaged, of another kind or format, or does not fit the class.
    """
    card = read_card(folder, name)
    tensors = load_tensors(folder, name, cls.__name__)
    try:
        with torch.device("meta"):  # a sketch without memory: a card may ask for more layers than the file holds
            _check_fit(cast(nn.Module, cls.from_hparams(card["hparams"])), tensors, _files(folder, name)[0])
        model = cls.from_hparams(card["hparams"])
    except InputError:
        raise
    except (TypeError, ValueError, KeyError, AttributeError, RuntimeError, ArithmeticError) as error:
        raise InputError(
            f"{_files(folder, name)[1]}: {cls.__name__} cannot be built from its hparams ({_one_line(error)}); "
            "load it with the version of ira that wrote it"
        ) from error
    module = cast(nn.Module, model).float()
    _fill(module, tensors, _files(folder, name)[0])
    module.eval()
    return model


def load_tensors(folder: str | Path, name: str, kind: str) -> dict[str, Tensor]:
    """The tensors of FOLDER/NAME.safetensors, once the card says that they are a `kind` and the hash agrees."""
    card, (weights, card_path) = read_card(folder, name), _files(folder, name)
    if card["kind"] != kind:
        raise InputError(
            f"{card_path}: holds a {card['kind']}, a {kind} is wanted; give the folder or file of a {kind}"
        )
    if not weights.is_file():
        raise InputError(f"{weights}: is missing beside its card; copy both files of the model")
    if sha256_of(weights) != card["sha256"]:
        raise InputError(
            f"{weights}: does not match the sha256 in {card_path.name} (damaged or half copied); copy both again"
        )
    try:
        return load_file(weights)
    except (SafetensorError, OSError, ValueError) as error:
        raise InputError(f"{weights}: is not a safetensors file ({_one_line(error)}); save the model again") from error


def read_card(folder: str | Path, name: str) -> dict[str, Any]:
    """The JSON beside the weights, checked: format, and that kind, hparams, sha256 and extra are there."""
    path = _files(folder, name)[1]
    try:
        card = parse_json(read_text(path))
    except OSError as error:
        raise InputError(
            f"{path}: cannot be read ({error.strerror}); give a model folder that holds {path.name}"
        ) from error
    except ValueError as error:
        raise InputError(f"{path}: is not JSON ({_one_line(error)}); copy the model again") from error
    wanted = {"kind": str, "hparams": dict, "sha256": str, "extra": dict}
    if not isinstance(card, dict) or "format" not in card:
        raise InputError(f"{path}: is not the card of a model (no format number); give a folder that ira train wrote")
    if card["format"] != FORMAT:
        raise InputError(f"{path}: has format {card['format']!r}, this ira reads {FORMAT}; use the ira that wrote it")
    if wrong := [key for key, of in wanted.items() if not isinstance(card.get(key), of)]:
        raise InputError(f"{path}: {', '.join(wrong)} missing or of the wrong type; copy the model again")
    return card


def weights_hash(folder: str | Path, name: str) -> str:
    """The sha256 that the card states for the weights."""
    return read_card(folder, name)["sha256"]


def _files(folder: str | Path, name: str) -> tuple[Path, Path]:
    """Paths of the tensors and of the card."""
    folder = Path(folder)
    if folder.suffix in (".safetensors", ".json"):
        folder, name = folder.parent, folder.stem
    elif folder.is_file():
        raise InputError(f"{folder}: is a file; give the folder that holds {name}.safetensors and {name}.json")
    elif not folder.is_dir():
        raise InputError(f"{folder}: no such folder; give the model folder that holds {name}.safetensors")
    return folder / f"{name}.safetensors", folder / f"{name}.json"


def _fill(module: nn.Module, tensors: dict[str, Tensor], source: Path) -> None:
    """Copy tensors into the module, if they fit it."""
    _check_fit(module, tensors, source)
    module.load_state_dict(tensors)


def _check_fit(module: nn.Module, tensors: dict[str, Tensor], source: Path) -> None:
    """Every name and shape must agree, numbers with a point be such numbers, and each of them finite."""
    own = module.state_dict()
    wrong = [f"{key} is missing" for key in own.keys() - tensors.keys()]
    wrong += [f"{key} is not part of {type(module).__name__}" for key in tensors.keys() - own.keys()]
    for key in own.keys() & tensors.keys():
        if own[key].shape != tensors[key].shape:
            wrong.append(f"{key} is {list(tensors[key].shape)}, {list(own[key].shape)} is wanted")
        elif own[key].is_floating_point() != tensors[key].is_floating_point():
            wrong.append(f"{key} is {tensors[key].dtype}, {own[key].dtype} is wanted")
        elif not torch.isfinite(tensors[key].float()).all():
            wrong.append(f"{key} holds NaN or infinity")
    if wrong:
        shown = "; ".join(sorted(wrong)[:3]) + (f"; and {len(wrong) - 3} more" if len(wrong) > 3 else "")
        raise InputError(f"{source}: does not fit {type(module).__name__}: {shown}; use the config it was trained with")


def _to_json(card: dict[str, Any]) -> str:
    return json.dumps(card, indent=2, ensure_ascii=False, allow_nan=False) + "\n"


def _for_disk(value: Tensor, dtype: torch.dtype | None) -> Tensor:
    """A contiguous copy on the CPU: safetensors refuses tensors that share memory, such as tied embeddings."""
    wanted = dtype if dtype is not None and value.is_floating_point() else value.dtype
    return value.detach().to("cpu", wanted, copy=True).contiguous()


def sha256_of(path: Path) -> str:
    """Of a file of any size, in hex digits."""
    digest = hashlib.sha256()
    with open(path, "rb") as file:
        while block := file.read(1 << 20):
            digest.update(block)
    return digest.hexdigest()


def _one_line(error: BaseException) -> str:
    return (str(error).strip().splitlines() or [type(error).__name__])[0][:200]
