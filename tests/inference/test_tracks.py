from __future__ import annotations

from dataclasses import replace
from xml.etree import ElementTree

import pytest
import torch

from ira.inference.speaking import Piece, SaidPiece
from ira.inference.tracks import SCALES, WIDE, draw_tracks, pixels_a_second, segments, words_at

PIECE = Piece("good <b>day</b> & 'more'", torch.ones(4), 0)
SYMBOLS = [" ", "G", "UH1", "D", " ", "<", "&", '"', ""]


def said(seconds: float = 1.0) -> SaidPiece:
    frames = int(75 * seconds)
    path = torch.arange(frames) * len(SYMBOLS) // frames
    noise = 0.2 * torch.randn(1, frames * 320, generator=torch.Generator().manual_seed(0))
    entropy = torch.linspace(0.5, 3.0, frames)
    return SaidPiece(torch.zeros(2, frames).long(), True, path=path, entropy=entropy, symbols=SYMBOLS, waveform=noise)


def draw(one: SaidPiece, attention: torch.Tensor | None = None) -> tuple[ElementTree.Element, ElementTree.Element]:
    """Both pictures, parsed: what is not well-formed raises."""
    axis, rest = ElementTree.fromstring(f"<x>{draw_tracks(PIECE, one, attention, 75.0, 24_000)}</x>")
    return axis, rest[0]


def classes(svg: ElementTree.Element) -> set[str]:
    return {part.get("class", "") for part in svg}


def test_every_track_has_a_name_and_the_axis_of_time_its_unit():
    axis, plot = draw(said(2.0), torch.rand(150, 9))
    words = [text.text for text in axis if text.get("transform")]
    assert words == ["amplitude", "frequency, kHz", "text token", "entropy, nats"]
    assert {"0 s", "1.5 s", "2 s"} <= {text.text for text in plot}
    assert {"wave", "path", "entropy", "word", "head"} <= classes(plot)
    assert len([part for part in plot if part.tag == "image"]) == 2  # spectrogram and attention
    assert plot.get("width") == str(2 * 220 + 1) and "good <b>day" in plot.get("aria-label", "")


def test_the_path_goes_up_from_the_first_token_to_the_last_and_as_far_as_the_sound():
    _, plot = draw(said())
    (line,) = [part.get("d", "")[1:] for part in plot if part.get("class") == "path"]
    points = [tuple(map(float, point.split())) for point in line.split("L")]
    assert points == sorted(points, key=lambda point: (point[0], -point[1]))
    assert points[0][0] == 0 and points[-1][0] == pytest.approx(220) and points[0][1] > points[-1][1]


def test_words_stand_where_the_path_is_between_two_spaces():
    assert segments(torch.tensor([0, 0, 1, 3])) == [(0, 0, 2), (1, 2, 3), (3, 3, 4)]
    ((first, start, middle), (second, after, end)) = words_at(replace(PIECE, text="good day"), said())
    assert (first, second, end) == ("good", "day", 67) and 0 < start < middle <= after
    assert words_at(replace(PIECE, text="x"), said())[0][0] == "G UH1 D"  # not as many words as in the tokens


def test_what_is_not_known_is_not_drawn():
    bare = SaidPiece(torch.zeros(2, 75).long(), True, waveform=said().waveform)
    axis, plot = draw(bare)
    assert [text.text for text in axis if text.get("transform")] == ["amplitude", "frequency, kHz"]
    assert not classes(plot) & {"path", "entropy", "word"}


@pytest.mark.parametrize("value", [0.0, float("nan"), float("inf"), 1e9])
def test_silence_and_what_is_no_number_are_drawn_without_a_warning(value: float):
    draw(replace(said(), waveform=torch.full((1, 24_000), value)))


def test_a_single_frame_is_drawn():
    draw(said(0.02))


def test_a_short_piece_is_drawn_wider_than_a_long_one_within_bounds():
    assert pixels_a_second(0.1) == SCALES[1] and pixels_a_second(100) == SCALES[0]
    assert pixels_a_second(6.0) * 6.0 == pytest.approx(WIDE)
