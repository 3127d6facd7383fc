"""Sentences that a SpeechLM has just spoken in, what an independent recogniser and a voice judge make of them out."""

from __future__ import annotations

from collections.abc import Sequence

from torch import Tensor

from ira.audio.codec import Codec
from ira.data.shards import Example, language_of
from ira.evaluation.judges import error_rate, own_voice_share
from ira.models.decode import Generated


def judge_spoken(codec: Codec, spoken: Generated, examples: Sequence[Example]) -> dict[str, float]:
    """Figures of spoken sentences against the tokens of their recordings.

    `runaway`: share that never ended; `length_ratio`: length against the recording; `characters_per_second`; and, where
    they can be judged, `error_rate` (English, characters) and `own_voice` (nearer to its speaker than to any other).
    """
    sizes = spoken.frames.tolist()
    said = [_sound(codec, spoken.codes[row, :, :size]) for row, size in enumerate(sizes)]
    found = {
        "runaway": float((~spoken.finished).float().mean()),
        "length_ratio": sum(size / one.frames for size, one in zip(sizes, examples, strict=True)) / len(sizes),
        "characters_per_second": sum(len(one.text) for one in examples) * codec.frame_rate / max(sum(sizes), 1),
    }
    english = [row for row, one in enumerate(examples) if language_of(one) == "en"]
    wrong = error_rate([examples[row].text for row in english], [said[row] for row in english])
    own = own_voice_share(said, [_sound(codec, one.codes) for one in examples], [one.speaker for one in examples])
    judged = {"error_rate": wrong, "own_voice": own}
    return found | {name: figure for name, figure in judged.items() if figure is not None}


def _sound(codec: Codec, codes: Tensor) -> Tensor:
    """Codes [K, T] -> waveform [1, N]; of nothing, one frame of code 0."""
    return codec.decode(codes[None] if codes.shape[-1] else codes.new_zeros(1, len(codes), 1))[0].cpu()
