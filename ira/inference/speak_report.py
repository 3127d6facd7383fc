"""Speech in, one HTML page about it out: what is heard, how it came about, how long it took, and what is wrong with it.

The page needs no network and no other file: sound is in it as FLAC, pictures as SVG and PNG. What users wrote is
escaped; what is not Unicode text in it is shown as question marks.
"""

from __future__ import annotations

import base64
import io
import json
import re
from collections.abc import Sequence
from pathlib import Path
from typing import Any

import soundfile
import torch
from torch import Tensor

from ira import __version__
from ira.checkpoint import weights_hash, write_aside
from ira.data.pronunciation import SpeechTokenizer
from ira.errors import InputError
from ira.inference.pipeline import Pipeline, SpeakRow
from ira.inference.speaking import Piece, SaidPiece
from ira.inference.spoken import Spoken
from ira.inference.tracks import draw_tracks, pixels_a_second, safe
from ira.models.speech_lm import SpeechLM

SOUND_BYTES = 40_000_000  # of all sounds in a page, as they stand in it
OPEN_PIECES = 3  # whose pictures are unfolded; a long text has many
LONG_TEXT = 600  # characters; a longer one is shown in a box that scrolls
HINT = "Point at the picture to read it; press to hear it from there."
STEPS = {"text": "read the text", "voice": "make the voice", "decoding": "decode tokens", "sound": "tokens to sound"}


class SpeakReport:
    """Sections are added one by one, so that no more than one text's sound is in memory; `write` makes the page."""

    def __init__(self, pipeline: Pipeline) -> None:
        self.pipeline = pipeline
        self.sections: list[str] = []
        self.names: list[str] = []
        self.room = SOUND_BYTES

    def add(self, name: str, row: SpeakRow | None, spoken: Spoken | InputError) -> None:
        """A section on one text; `row` is what was asked for, None where that could not be read."""
        self.names.append(name)
        told = _asked(row)
        if isinstance(spoken, InputError):
            self.sections.append(_section(name, [f'<p class="bad">{safe(str(spoken))}</p>', told]))
            return
        faults = "".join(f"<li>{safe(fault)}</li>" for fault in spoken.faults)
        parts = [
            _quote(spoken.text),
            _written(row, spoken),
            self._player(spoken),
            f'<ul class="bad">{faults}</ul>' if faults else "",
            f'<div class="facts">{told}{_result(spoken)}{_timing(spoken)}</div>',
            *(self._piece(spoken, number) for number in range(len(spoken.pieces))),
        ]
        self.sections.append(_section(name, parts))

    def write(self, path: str | Path) -> None:
        """Write the page; it is written aside and renamed.

        Raises:
            InputError: the page cannot be written.
        """
        parts = {
            "TITLE": safe(", ".join(self.names[:5])),
            "MODEL": self._model(),
            "SECTIONS": "\n".join(self.sections),
        }
        template = Path(__file__).with_suffix(".html").read_text(encoding="utf-8")
        page = re.sub(r"<!--([A-Z]+)-->", lambda found: parts[found[1]], template)  # once: what is put in stays
        with write_aside(path) as aside:
            aside.write_text(page, encoding="utf-8")

    def _model(self) -> str:
        parts, sampling = self.pipeline.parts, self.pipeline.sampling
        rows = {
            "SpeechLM": f"{weights_hash(parts.speech_lm_path, 'speech_lm')[:16]} (sha256), speaks "
            + ", ".join(parts.speech_lm.languages),
            "codec": f"{parts.codec.fingerprint()}, {parts.codec.frame_rate:g} frames a second",
            "voice encoder": f"{parts.voice_encoder_hash()[:16]} (sha256)",
            "sampling": ", ".join(f"{name.replace('_', ' ')} {value:g}" for name, value in sampling),
            "computed on": f"{parts.device}, ira {__version__}",
        }
        return _table(rows)

    def _player(self, spoken: Spoken) -> str:
        if not torch.isfinite(spoken.waveform).all():
            return '<p class="bad">The sound holds values that are not finite and cannot be played.</p>'
        address = sound_address(spoken.waveform, spoken.sample_rate)
        if len(address) > self.room:
            return '<p class="soft">The sound is left out to keep the page small; it lies in its own file.</p>'
        self.room -= len(address)
        return f'<audio controls preload="metadata" src="{address}"></audio>'

    def _piece(self, spoken: Spoken, number: int) -> str:
        """A piece's pictures, and what the script needs to follow the player through them."""
        (piece, said), codec = spoken.pieces[number], self.pipeline.parts.codec
        if not said.codes.shape[-1]:
            return ""
        seconds = said.waveform.shape[-1] / codec.sample_rate
        told = {
            "start": round(spoken.starts[number], 4),
            "seconds": round(seconds, 4),
            "scale": round(pixels_a_second(seconds), 4),
            "rate": codec.frame_rate,
            "path": said.path.tolist(),
            "symbols": said.symbols,
            "entropy": [round(value, 3) for value in said.entropy.nan_to_num(0.0).tolist()],
        }
        attention = look(self.pipeline.parts.speech_lm, piece, said)
        tracks = draw_tracks(piece, said, attention, codec.frame_rate, codec.sample_rate)
        return (
            f"<details{' open' if number < OPEN_PIECES else ''}><summary>{_summary(spoken, number)}</summary><figure>"
            f'<div class="tracks">{tracks}</div><div class="readout">{HINT}</div>'
            f'<script type="application/json">{_json(told)}</script></figure></details>'
        )


def sound_address(waveform: Tensor, rate: int) -> str:
    """A waveform [1, N] as a data: address of FLAC, which loses nothing and which browsers play."""
    file = io.BytesIO()
    soundfile.write(file, waveform[0].clamp(-1, 1).numpy(), rate, format="FLAC", subtype="PCM_16")
    return "data:audio/flac;base64," + base64.b64encode(file.getvalue()).decode("ascii")


@torch.no_grad()
def look(model: SpeechLM, piece: Piece, said: SaidPiece) -> Tensor | None:
    """Where the model's middle layer looked in the text while it said a piece [T, L]; None without a path.

    Computed anew over the tokens that were drawn: one pass, exactly what decoding saw.
    """
    if not len(said.path):
        return None
    device = next(model.parameters()).device
    ids = torch.tensor([SpeechTokenizer().encode(piece.text, piece.language)], device=device)
    language = torch.tensor([model.languages.index(piece.language)], device=device)
    length, frames = torch.tensor([ids.shape[1]], device=device), torch.tensor([len(said.path)], device=device)
    memory = model.condition(ids, length, piece.voice[None].to(device), language)
    spoken = model(said.codes[None].to(device), frames, memory, said.path[None].to(device), look=True)
    return None if spoken.attention is None else spoken.attention[0, : len(said.path)].float().cpu()


def _section(name: str, parts: Sequence[str]) -> str:
    return f"<section>\n<h2>{safe(name)}</h2>\n" + "\n".join(part for part in parts if part) + "\n</section>"


def _asked(row: SpeakRow | None) -> str:
    if row is None:
        return ""
    voice = "the default voice" if row.voice is None else getattr(row.voice, "source", row.voice)
    return _table({"voice": str(voice), "seed": str(row.seed), "language": row.language})


def _result(spoken: Spoken) -> str:
    frames = spoken.codes.shape[-1]
    known = [said.entropy for _, said in spoken.pieces if len(said.entropy)]
    entropy = f"{float(torch.cat(known).mean()):.2f} nats a token of book 0, on average" if known else "not known"
    return _table(
        {
            "length": f"{spoken.seconds:.2f} s, {frames} frames of {spoken.codes.shape[0]} tokens",
            "pieces": f"{len(spoken.pieces)}"
            + (f", said up to {spoken.attempts} times" if spoken.attempts > 1 else ""),
            "ended by itself": "yes" if spoken.finished else "no",
            "entropy": entropy,
        }
    )


def _timing(spoken: Spoken) -> str:
    """Seconds of computing, step by step, and how they compare with the seconds of speech."""
    total = sum(spoken.took.values())
    rows = [
        f'<tr><th>{STEPS.get(step, safe(step))}</th><td><span class="bar" style="width: '
        f'{100 * seconds / max(total, 1e-9):.1f}%"></span></td><td class="number">{_time(seconds)}</td></tr>'
        for step, seconds in spoken.took.items()
    ]
    factor = total / max(spoken.seconds, 1e-9)
    rows.append(
        f'<tr><th>all</th><td class="soft">{factor:.2f} s for a second of speech (real-time factor)</td>'
        f'<td class="number">{_time(total)}</td></tr>'
    )
    return f"<table>{''.join(rows)}</table>"


def _time(seconds: float) -> str:
    return f"{seconds:.2f} s" if seconds >= 1 else f"{1000 * seconds:.1f} ms"


def _summary(spoken: Spoken, number: int) -> str:
    piece, said = spoken.pieces[number]
    attempts = f", {said.attempts} attempts" if said.attempts > 1 else ""
    faults = "; ".join(fault.told for fault in said.faults)
    end = spoken.starts[number] + said.waveform.shape[-1] / spoken.sample_rate
    told = f"{max(0.0, spoken.starts[number]):.1f} to {end:.1f} s{attempts}, seed {piece.seed}"
    wrong = f' <span class="bad">{safe(faults)}</span>' if faults else ""
    text = safe(piece.text) if len(spoken.pieces) > 1 else "Word by word"
    return f'{text} <span class="soft small">({told})</span>{wrong}'


def _quote(text: str) -> str:
    return f"<blockquote{' class=long' if len(text) > LONG_TEXT else ''}>{safe(text)}</blockquote>"


def _written(row: SpeakRow | None, spoken: Spoken) -> str:
    """What was given, where it was read out otherwise than letter by letter."""
    if row is None or row.text.lower().split() == spoken.text.split():
        return ""
    return f'<details><summary class="soft">As it was written</summary>{_quote(row.text)}</details>'


def _table(rows: dict[str, str]) -> str:
    cells = "".join(f"<tr><th>{safe(name)}</th><td>{safe(value)}</td></tr>" for name, value in rows.items())
    return f"<table>{cells}</table>"


def _json(value: Any) -> str:
    return json.dumps(value, allow_nan=False, separators=(",", ":")).replace("<", "\\u003c")
