"""A voice in, NAME.voice out, and back: JSON with the embedding, what it was made by and from, and a note of consent.

    {"format": 1, "embedding": [...], "voice_encoder": sha256 of the encoder's weights,
     "source": sha256 of the recording or the words, "consent": note, "created": date}

An embedding means something to the encoder that made it and to the SpeechLM trained with that encoder, to no other.
"""

from __future__ import annotations

import datetime
from dataclasses import dataclass
from pathlib import Path
from typing import Literal

import torch
from pydantic import Field, ValidationError
from torch import Tensor

from ira.checkpoint import write_aside
from ira.config import Section
from ira.errors import InputError

SUFFIX = ".voice"
LARGEST_FILE = 1 << 20  # bytes; an embedding of 4096 numbers takes a tenth of this


@dataclass(frozen=True)
class Voice:
    """embedding: [P], of unit length; voice_encoder: sha256 of the weights that made it; source: what from."""

    embedding: Tensor
    voice_encoder: str
    source: str


class _Stored(Section):
    format: Literal[1]
    embedding: list[float] = Field(min_length=1, max_length=65_536)
    voice_encoder: str
    source: str
    consent: str
    created: str


def save_voice(path: str | Path, voice: Voice, consent: str) -> None:
    """Write `voice` as JSON; `consent` says who allowed its use and for what.

    Raises:
        InputError: the name does not end in .voice, or the place cannot be written.
    """
    path = _named(path)
    stored = _Stored(
        format=1,
        embedding=voice.embedding.tolist(),
        voice_encoder=voice.voice_encoder,
        source=voice.source,
        consent=consent,
        created=datetime.date.today().isoformat(),
    )
    with write_aside(path) as aside:
        aside.write_text(stored.model_dump_json(indent=1) + "\n", encoding="utf-8")


def load_voice(path: str | Path, voice_encoder: str) -> Voice:
    """Read a voice that the encoder with the sha256 `voice_encoder` made.

    Raises:
        InputError: not a voice file, or made by another encoder; then both hashes are named.
    """
    path = _named(path)
    try:
        with path.open("rb") as file:
            content = file.read(LARGEST_FILE + 1)
        if len(content) > LARGEST_FILE:
            raise InputError(f"{path}: larger than {LARGEST_FILE} bytes; give a file that ira voice saved")
        stored = _Stored.model_validate_json(content)
    except OSError as error:
        raise InputError(f"{path}: cannot be read ({error.strerror}); give a file that ira voice saved") from None
    except ValidationError as error:
        raise InputError(f"{path}: not a voice file ({_first(error)}); save it again with ira voice") from None
    if stored.voice_encoder != voice_encoder:
        raise InputError(
            f"{path}: made by voice encoder {stored.voice_encoder[:64]!a}, this model has {voice_encoder!a}; "
            "save the voice again with this model"
        )
    embedding = torch.tensor(stored.embedding)
    if not abs(float(embedding.norm()) - 1) < 1e-3:
        raise InputError(f"{path}: the embedding is not of unit length; save the voice again with ira voice")
    return Voice(embedding, stored.voice_encoder, stored.source)


def _named(path: str | Path) -> Path:
    path = Path(path)
    if path.suffix != SUFFIX:
        raise InputError(f"{path}: a saved voice is named NAME{SUFFIX}; give it that suffix")
    return path


def _first(error: ValidationError) -> str:
    """The first mistake as `place: what`."""
    first = error.errors(include_input=False, include_url=False)[0]
    place = ".".join(str(part) for part in first["loc"])
    return " ".join(f"{place}: {first['msg']}".split()).removeprefix(": ")[:160]
