"""One spoken piece in, an SVG out: words, waveform, spectrogram, place in the text and entropy over one time axis.

The scale is one of pixels a second, so that a long piece can be read on a phone by scrolling; the vertical axis is a
picture of its own that stays. Colours are classes of `speak_report.html`.
"""

from __future__ import annotations

import base64
import io
import math
from collections.abc import Sequence
from dataclasses import dataclass
from html import escape

import numpy as np
import torch
from matplotlib import colormaps
from matplotlib.image import imsave
from torch import Tensor

from ira.audio.waveform import LogMel, mel_filters
from ira.inference.speaking import Piece, SaidPiece

SCALES, WIDE = (120.0, 220.0), 1000  # pixels a second: what lets a piece be about so many pixels wide
AXIS = 52  # pixels left of the tracks
BINS, DEPTH = 80, 9.0  # of the spectrogram: mel bins, and how far below the loudest it shows (natural logarithm)
WINDOW, HOP = 1280, 320
WORDS, WAVE, SPECTRUM, ENTROPY, SECONDS, GAP = 18, 50, 120, 76, 32, 10
KILOHERTZ = (0.5, 1, 2, 4, 8)
INK = np.array([0.35, 0.55, 0.75])  # of soft attention, on light and dark


@dataclass(frozen=True)
class Track:
    """A band of the picture: from `top` on, `height` pixels high; `name` and `ticks` (value, share of the height)."""

    name: str
    top: int
    height: int
    ticks: list[tuple[str, float]]


def draw_tracks(piece: Piece, said: SaidPiece, attention: Tensor | None, frame_rate: float, rate: int) -> str:
    """Two SVG elements, the axis and the plot; `attention` [T, L] is drawn behind the path where it is given."""
    seconds = max(said.waveform.shape[-1] / rate, 1 / frame_rate)
    scale = pixels_a_second(seconds)
    width, wide = max(1, round(seconds * scale)), scale / frame_rate
    tracks = _tracks(said, rate)
    height = tracks[-1].top + tracks[-1].height + SECONDS
    drawn = [_frame(track, width) for track in tracks]
    by_name = {track.name: track for track in tracks}
    drawn += [
        _wave(said.waveform, by_name["amplitude"], width),
        _spectrum(said.waveform, rate, by_name["frequency, kHz"], width),
    ]
    if "text token" in by_name:
        drawn.append(_attention(said, attention, by_name["text token"], width))
        drawn.append(_path(said, by_name["text token"], wide))
        drawn.append(_words(piece, said, wide, height - SECONDS))
    if "entropy, nats" in by_name:
        drawn.append(_entropy(said.entropy, by_name["entropy, nats"], wide))
    drawn.append(_time_axis(seconds, scale, height))
    head = f'<line class="head" y1="0" y2="{height - SECONDS}" visibility="hidden"/>'
    label = safe(f"waveform, spectrogram, place in the text and entropy of: {piece.text}")
    size = f'width="{width + 1}" height="{height}" viewBox="0 0 {width + 1} {height}"'
    plot = f'<svg class="plot" role="img" aria-label="{label}" {size}>{"".join(drawn)}{head}</svg>'
    return f'{_axis(tracks, height)}<div class="scroll">{plot}</div>'


def pixels_a_second(seconds: float) -> float:
    """The scale of a piece so long."""
    return min(max(WIDE / seconds, SCALES[0]), SCALES[1])


def _tracks(said: SaidPiece, rate: int) -> list[Track]:
    """The bands from top to bottom; those of path and entropy only where they are known."""
    centres = mel_filters(BINS, rate, WINDOW).argmax(1) * rate / WINDOW
    ticks = [(f"{khz:g}", float((centres < 1000 * khz).sum()) / BINS) for khz in KILOHERTZ if 1000 * khz < rate / 2]
    tokens = len(said.symbols)
    peak = _peak(said.waveform)
    bands = [
        ("amplitude", WAVE, [(f"-{peak:g}", 0.0), ("0", 0.5), (f"{peak:g}", 1.0)]),
        ("frequency, kHz", SPECTRUM, ticks),
    ]
    if len(said.path) and tokens:
        marks = [(f"{mark:g}", (mark - 0.5) / tokens) for mark in _steps(tokens, 6) if mark >= 1]
        bands.append(("text token", min(280, max(90, 4 * tokens)), marks))
    if len(said.entropy):
        top = _entropy_top(said.entropy)
        bands.append(("entropy, nats", ENTROPY, [(f"{mark:g}", mark / top) for mark in _steps(top, 4)]))
    found, at = [], WORDS
    for name, height, ticks in bands:
        found.append(Track(name, at, height, ticks))
        at += height + GAP
    return found


def _steps(most: float, count: int) -> list[float]:
    """Round numbers from 0 to `most`, about `count` of them."""
    rough = max(most, 1e-6) / count
    power = 10 ** math.floor(math.log10(rough))
    step = next(times * power for times in (1, 2, 5, 10) if times * power >= rough)
    step = max(step, 1) if most >= 1 else step
    return [int(value) if (value := step * i) == int(value) else value for i in range(int(most / step + 1e-9) + 1)]


def _axis(tracks: Sequence[Track], height: int) -> str:
    """Names and ticks left of the tracks."""
    parts = []
    for track in tracks:
        middle = track.top + track.height / 2
        parts.append(
            f'<text transform="translate(11 {middle:.0f}) rotate(-90)" text-anchor="middle">{track.name}</text>'
        )
        for told, share in track.ticks:
            y = min(max(_y(track, share), track.top + 5), track.top + track.height - 4)
            parts.append(f'<text x="{AXIS - 5}" y="{y + 4:.1f}" text-anchor="end">{told}</text>')
    return f'<svg class="axis" width="{AXIS}" height="{height}" aria-hidden="true">{"".join(parts)}</svg>'


def _y(track: Track, share: float) -> float:
    return track.top + track.height * (1 - share)


def _frame(track: Track, width: int) -> str:
    return f'<rect class="frame" x="0.5" y="{track.top - 0.5}" width="{width}" height="{track.height + 1}"/>'


def _time_axis(seconds: float, scale: float, height: int) -> str:
    y, step = height - SECONDS, 0.5
    parts = []
    for tick in range(int(seconds / step) + 1):
        x = tick * step * scale
        anchor = "start" if tick == 0 else "middle"
        parts.append(f'<line class="edge" x1="{x:.0f}" x2="{x:.0f}" y1="{y}" y2="{y + 4}"/>')
        parts.append(f'<text x="{x:.0f}" y="{y + 16}" text-anchor="{anchor}">{tick * step:g} s</text>')
    return "".join(parts)


def _wave(waveform: Tensor, track: Track, width: int) -> str:
    """The span of the samples of every pixel, as one outline."""
    samples = waveform[0].float().nan_to_num(0.0).clamp(-1, 1) / _peak(waveform)
    if not len(samples):
        return ""
    per = max(1, -(-len(samples) // width))
    spans = torch.nn.functional.pad(samples, (0, -len(samples) % per)).unflatten(0, (-1, per))
    x = torch.arange(len(spans)) * (per * width / len(samples))
    upper = [f"{a:.1f} {_y(track, 0.5 + b / 2):.1f}" for a, b in zip(x.tolist(), spans.amax(1).tolist(), strict=True)]
    lower = [f"{a:.1f} {_y(track, 0.5 + b / 2):.1f}" for a, b in zip(x.tolist(), spans.amin(1).tolist(), strict=True)]
    return f'<path class="wave" d="M{"L".join([*upper, *reversed(lower)])}Z"/>'


def _peak(waveform: Tensor) -> float:
    """The end of the axis of amplitude: a tenth more than the largest sample, 1 at most."""
    most = float(waveform.float().nan_to_num(0.0).abs().max()) if waveform.numel() else 1.0
    return min(1.0, max(0.1, math.ceil(10 * most) / 10))


def _spectrum(waveform: Tensor, rate: int, track: Track, width: int) -> str:
    if not waveform.shape[-1]:
        return ""
    mel = LogMel(BINS, rate, WINDOW, HOP)(waveform.float().nan_to_num(0.0)[None])[0]
    shown = ((mel - mel.max()) / DEPTH + 1).clamp(0, 1).numpy()
    return _image(colormaps["magma"](shown), track, width)


def _attention(said: SaidPiece, attention: Tensor | None, track: Track, width: int) -> str:
    """Soft attention [T, L] as a veil of one colour, each frame's largest share opaque."""
    if attention is None or not attention.numel():
        return ""
    share = (attention / attention.amax(1, keepdim=True).clamp(min=1e-9)).clamp(0, 1).T.float().numpy()
    colour = np.broadcast_to(INK, (*share.shape, 3))
    return _image(np.concatenate([colour, share[..., None]], axis=-1), track, width)


def _image(pixels: np.ndarray, track: Track, width: int) -> str:
    """RGBA [rows from the bottom, columns, 4] filling a track."""
    file = io.BytesIO()
    imsave(file, np.ascontiguousarray(pixels), origin="lower", format="png")
    address = "data:image/png;base64," + base64.b64encode(file.getvalue()).decode("ascii")
    place = f'x="0" y="{track.top}" width="{width}" height="{track.height}" preserveAspectRatio="none"'
    return f'<image {place} href="{address}"/>'


def segments(path: Tensor) -> list[tuple[int, int, int]]:
    """(token, first frame, frame after the last) of each stretch of a path [T]."""
    tokens, counts = torch.unique_consecutive(path, return_counts=True)
    ends = counts.cumsum(0)
    return list(zip(tokens.tolist(), (ends - counts).tolist(), ends.tolist(), strict=True))


def _path(said: SaidPiece, track: Track, wide: float) -> str:
    """A step line, `wide` pixels a frame, from the first token, below, to the last; symbols where there is room."""
    tokens, line, labels, free = len(said.symbols), [], [], 0.0
    for token, first, end in segments(said.path):
        y, x = _y(track, (token + 0.5) / tokens), first * wide
        line += [f"{x:.1f} {y:.1f}", f"{end * wide:.1f} {y:.1f}"]
        symbol = said.symbols[token].strip() if token < tokens else ""
        if symbol and x - 3 - 6.5 * len(symbol) >= free:
            labels.append(
                f'<text class="sound" x="{x - 3:.1f}" y="{max(y + 1, track.top + 9):.1f}">{safe(symbol)}</text>'
            )
            free = x
    return f'<path class="path" d="M{"L".join(line)}"/>{"".join(labels)}'


def words_at(piece: Piece, said: SaidPiece) -> list[tuple[str, int, int]]:
    """(word, first frame, frame after the last), the words being what stands between the spaces of text and tokens."""
    found: list[tuple[list[str], int, int]] = []
    inside = False
    for token, first, end in segments(said.path):
        symbol = said.symbols[token] if token < len(said.symbols) else ""
        if not symbol.strip():
            inside = False
        elif inside:
            symbols, start, _ = found[-1]
            found[-1] = ([*symbols, symbol], start, end)
        else:
            found.append(([symbol], first, end))
            inside = True
    words = piece.text.split()
    named = words if len(words) >= len(found) else [" ".join(symbols) for symbols, _, _ in found]
    return [(word, start, end) for word, (_, start, end) in zip(named, found, strict=False)]


def _words(piece: Piece, said: SaidPiece, wide: float, bottom: int) -> str:
    """Each word above its stretch of time; what is too long for it is cut by its neighbour's edge."""
    parts = []
    for word, first, end in words_at(piece, said):
        x, room = first * wide, (end - first) * wide
        fit = f' textLength="{room:.0f}" lengthAdjust="spacingAndGlyphs"' if 7 * len(word) > room > 8 else ""
        parts.append(f'<line class="edge" x1="{x:.1f}" x2="{x:.1f}" y1="4" y2="{bottom}"/>')
        parts.append(f'<text class="word" x="{x + 2:.1f}" y="13"{fit}>{safe(word)}</text>')
    return "".join(parts)


def _entropy_top(entropy: Tensor) -> float:
    return max(1.0, float(entropy.max()) * 1.08)


def _entropy(entropy: Tensor, track: Track, wide: float) -> str:
    """A line over the middles of the frames, and the mean."""
    top = _entropy_top(entropy)
    points = [
        f"{(frame + 0.5) * wide:.1f} {_y(track, value / top):.1f}" for frame, value in enumerate(entropy.tolist())
    ]
    y, last = _y(track, float(entropy.mean()) / top), len(entropy) * wide
    mean = f'<line class="mean" x1="0" x2="{last:.1f}" y1="{y:.1f}" y2="{y:.1f}"/>'
    return f'{mean}<path class="entropy" d="M{"L".join(points)}"/>'


def safe(written: str) -> str:
    """Escaped; what a page cannot hold (control characters, half of a surrogate pair) is a question mark."""
    plain = "".join(one if one.isprintable() or one in "\n\t\xa0" else "?" for one in written)
    return escape(plain, quote=True)
