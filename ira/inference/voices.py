"""A voice as a user gives it in (a recording, words, a saved file, a mix of those), the `Voice` it means out.

A mix is written A:WEIGHT+B:WEIGHT, "anna.voice:0.7+a calm man:0.3". Its parts may hold ':' and '+' themselves: only a
number after a colon, at the end or before a plus, is a weight. What exists as a file is that file, whatever its name.
"""

from __future__ import annotations

import math
import os
import re
from collections.abc import Sequence
from dataclasses import dataclass, field
from pathlib import Path

import torch
from torch.nn import functional as F

from ira.audio import waveform as files
from ira.checkpoint import sha256_of
from ira.data.text import CharTokenizer, normalize
from ira.errors import InputError
from ira.inference.parts import Parts
from ira.inference.voice_file import SUFFIX, Voice, load_voice
from ira.models.voice_encoder import embed_recording, embed_words

DEFAULT_VOICE = "a woman with a medium-pitched voice speaking at a normal pace"
DEFAULT_FILE = f"default{SUFFIX}"
LONGEST_DESCRIPTION = 1000  # characters; the time and memory of reading it grow with the square
VOICE_SECONDS = (0.5, 60.0)  # a recording shorter than the first makes no voice; the second is as much as is read
MOST_PARTS = 8  # of a mix
VOICES_KEPT = 64
READ_SUFFIXES = (*files.WRITE_FORMATS, ".m4a", ".aac", ".aiff", ".mp4")

VoiceSpec = str | Path | Voice | None
_NUMBER = r"[+-]?(?:[0-9]+(?:\.[0-9]*)?|\.[0-9]+)"
_WEIGHTED = re.compile(rf":\s*({_NUMBER})\s*(?:\+|$)")


# How fast words about a voice mean; a voice of a recording speaks at its own pace.
_PACES = {"slow": 0.75, "slowly": 0.75, "leisurely": 0.75, "fast": 1.3, "quick": 1.3, "quickly": 1.3, "rapidly": 1.3}
_VERY = ("very", "extremely")


def pace_in_words(words: str) -> float:
    """How fast a description asks to speak: 1 where it does not say; "very" goes further.

    The SpeechLM follows a pace that it is given far better than one that is hidden in a voice.
    """
    said = re.findall(r"[a-z]+", words.lower())
    for before, word in zip(["", *said], said, strict=False):
        if word in _PACES and before not in ("not", "no"):
            return _PACES[word] ** (1.5 if before in _VERY else 1.0)
    return 1.0


@dataclass
class Voices:
    """The voices of one model. Each is made once and kept by its content: a file's bytes, or the words."""

    parts: Parts
    kept: dict[str, Voice] = field(default_factory=dict)

    def of(self, spec: VoiceSpec) -> Voice:
        """The voice that `spec` means; None is the model folder's `default.voice`, or `DEFAULT_VOICE` without one.

        A default rather than no voice: without one, every piece of a text would be said by someone else.

        Raises:
            InputError: it leads nowhere, says nothing, or is a mix without good weights.
        """
        if isinstance(spec, Voice):
            return spec
        spec = self._default() if spec is None else spec
        mixed = parse_mix(spec) if isinstance(spec, str) else None
        if mixed:
            return mix_voices([self.of(what) for what, _ in mixed], [weight for _, weight in mixed])
        key = content_key(spec)
        if key is None:
            return self._made(spec)  # raises, with the reason
        if key not in self.kept:
            while len(self.kept) >= VOICES_KEPT:
                self.kept.pop(next(iter(self.kept)))
            self.kept[key] = self._made(spec)
        return self.kept[key]

    def _default(self) -> str:
        path = self.parts.folder / DEFAULT_FILE
        return str(path) if path.is_file() else DEFAULT_VOICE

    def _made(self, spec: str | Path) -> Voice:
        words = str(spec)
        if words.endswith(SUFFIX):
            return load_voice(words, self.parts.voice_encoder_hash())
        return self._recorded(Path(words)) if isinstance(spec, Path) or is_path(words) else self._in_words(words)

    @torch.no_grad()
    def _in_words(self, words: str) -> Voice:
        if len(words) > LONGEST_DESCRIPTION:
            raise InputError(
                f"voice of {len(words)} characters; {LONGEST_DESCRIPTION} at most are read; describe it in fewer words"
            )
        if not any(character.isalpha() for character in normalize(words, strict=False)):
            raise InputError(f"voice {words!r} says nothing; give a recording, a saved {SUFFIX} or words")
        (embedding,) = embed_words(self.parts.voice_encoder, [words], CharTokenizer())
        return Voice(embedding.cpu(), self.parts.voice_encoder_hash(), words)

    def _recorded(self, path: Path) -> Voice:
        (shortest, longest), codec = VOICE_SECONDS, self.parts.codec
        sound = files.load_audio(path, codec.sample_rate)[:, : int(longest * codec.sample_rate)]
        if sound.shape[-1] < shortest * codec.sample_rate or float(sound.abs().max()) < 1e-4:
            raise InputError(f"{path}: too short or silent; a voice wants {shortest:g} s of speech or more")
        embedding = embed_recording(self.parts.voice_encoder, codec, sound).cpu()
        return Voice(embedding, self.parts.voice_encoder_hash(), f"sha256:{_sha256(path)}")


def content_key(spec: str | Path) -> str | None:
    """What a voice is kept by: its words, or how its file is read and the sha256 of its bytes; None without a file."""
    words = str(spec)
    if not isinstance(spec, Path) and not words.endswith(SUFFIX) and not is_path(words):
        return f"words:{words}"
    kind = "saved" if words.endswith(SUFFIX) else "recorded"
    return f"{kind}:{_sha256(Path(words))}" if _is_file(words) else None


def parse_mix(spec: str) -> list[tuple[str, float]] | None:
    """(part, weight) of a mix, weights summing to 1; None where `spec` is one voice.

    Raises:
        InputError: a part without a weight, one part, too many, or a weight that is not above 0.
    """
    if _is_file(spec):
        return None
    weights = list(_WEIGHTED.finditer(spec))
    ends = [0, *(found.end() for found in weights)]
    parts = [spec[start : found.start()].strip() for start, found in zip(ends, weights, strict=False)]
    if not weights or not _meant(parts, weights, spec):
        return None
    numbers = [float(found[1]) for found in weights]
    if ends[-1] < len(spec) or spec.rstrip().endswith("+") or len(parts) < 2 or not all(parts):
        raise InputError(
            f"voice {spec[:80]!r}: a mix has two voices or more, each with its weight; write it A:0.7+B:0.3"
        )
    if len(parts) > MOST_PARTS:
        raise InputError(f"voice of {len(parts)} parts; a mix has {MOST_PARTS} at most; leave the lightest out")
    for part, number in zip(parts, numbers, strict=True):
        if not 0 < number < math.inf:
            raise InputError(f"weight {number:g} of voice {part[:40]!r}; a number above 0 is wanted; correct it")
    largest = max(numbers)
    shares = [number / largest for number in numbers]  # the sum of two large numbers may be infinite
    return [(part, share / sum(shares)) for part, share in zip(parts, shares, strict=True)]


def mix_voices(voices: Sequence[Voice], weights: Sequence[float]) -> Voice:
    """The weighted mean of voices [P], of unit length again; the weights sum to 1.

    Raises:
        InputError: voices of different sizes, or such that nothing is left between them.
    """
    if len({len(voice.embedding) for voice in voices}) > 1:
        sizes = ", ".join(str(len(voice.embedding)) for voice in voices)
        raise InputError(f"voices of {sizes} numbers cannot be mixed; make all of them with this model's encoder")
    mean = sum(weight * voice.embedding for voice, weight in zip(voices, weights, strict=True))
    assert isinstance(mean, torch.Tensor)
    if float(mean.norm()) < 1e-3:
        raise InputError("the mixed voices are opposites and cancel out; give one of them more weight")
    named = " + ".join(f"{weight:.3g} {voice.source}" for voice, weight in zip(voices, weights, strict=True))
    return Voice(F.normalize(mean, dim=0), voices[0].voice_encoder, f"mix of {named}")


def is_path(words: str) -> bool:
    """Whether a voice given as text means a file: it exists, or is written like the name of one."""
    return words.lower().endswith(READ_SUFFIXES) or _is_file(words) or ("/" in words and " " not in words)


def _meant(parts: Sequence[str], weights: Sequence[re.Match[str]], spec: str) -> bool:
    """Whether a mix is meant: a weight stands before a plus, or one stands at the end of what is a file's name.

    "a voice as of 8:30" is words.
    """
    if any(found[0].endswith("+") for found in weights):
        return True
    return any(part.endswith(SUFFIX) or is_path(part) for part in parts) and weights[-1].end() == len(spec)


def _is_file(words: str) -> bool:
    try:
        return os.path.isfile(words)
    except ValueError:  # a NUL
        return False


def _sha256(path: Path) -> str:
    try:
        return sha256_of(path)
    except OSError as error:
        raise InputError(f"{path}: cannot be read ({error.strerror}); give a file that can be") from None
