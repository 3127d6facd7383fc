"""Pictures stand the right way up, can be read, and survive what is empty or not a number."""

from __future__ import annotations

import pytest
import torch
from torch import Tensor, nn

from ira.trackers.base import Histogram, Picture, Sound
from ira.training.samples import attention, gradient_histograms, heat_map, sound_and_spectrogram, spectrogram


def brightness(picture: Picture) -> Tensor:
    """[H, W], 0 to 1: both colour scales that go from dark to light grow with it."""
    return picture.pixels.float().mean(-1) / 255


def test_a_low_tone_is_a_bright_line_near_the_bottom_that_ends_when_it_ends():
    time = torch.arange(24_000) / 24_000
    tone = torch.sin(2 * torch.pi * 300 * time) * (time < 0.5)
    found = sound_and_spectrogram("tone", tone.requires_grad_(), 24_000, 320)
    sound, picture = found["tone"], found["tone-mel"]
    assert isinstance(sound, Sound) and sound.rate == 24_000 and isinstance(picture, Picture)
    height, width = brightness(picture).shape
    assert min(height, width) >= 200
    row, column = divmod(int(brightness(picture).argmax()), width)
    assert row > 0.8 * height and column < 0.55 * width
    halves = brightness(picture)[:, : width // 2 - 9].mean(), brightness(picture)[:, width // 2 + 20 :].mean()
    assert halves[0] > 2 * halves[1]


def test_attention_that_walks_is_a_line_from_the_bottom_left_to_the_top_right():
    seen = brightness(attention(torch.eye(10)))
    size = len(seen)
    assert seen[size - 1, 0] > 0.5 < seen[0, size - 1]
    assert seen[0, 0] < 0.5 > seen[size - 1, size - 1]


def test_a_heat_map_is_written_from_the_top_and_goes_from_blue_to_red():
    pixels = heat_map(torch.tensor([[1.0, -1.0, -1.0], [0.0, 0.0, float("nan")]])).pixels.int()
    (red, _, blue), (other_red, _, other_blue) = pixels[0, 0].tolist(), pixels[0, -1].tolist()
    assert red > blue + 100 and other_blue > other_red + 100
    assert torch.equal(pixels[-1, -1], pixels[0, -1])  # not a number: as the lowest


@pytest.mark.parametrize("shape", [(0, 0), (80, 0), (1, 1), (3, 5000), (500, 2)])
def test_every_picture_can_be_read_and_none_is_huge(shape: tuple[int, int]):
    for draw in (spectrogram, attention, heat_map):
        pixels = draw(torch.zeros(shape)).pixels
        assert pixels.dtype == torch.uint8 and pixels.shape[2] == 3
        assert all(200 <= side <= 1600 for side in pixels.shape[:2])


def test_a_sound_of_no_length_is_shown():
    assert set(sound_and_spectrogram("none", torch.zeros(0), 24_000, 320)) == {"none", "none-mel"}


def test_every_module_with_gradients_has_one_histogram_of_them():
    modules: dict[str, nn.Module] = {"one": nn.Linear(3, 2), "large": nn.Linear(700, 700), "idle": nn.Linear(2, 2)}
    (modules["one"](torch.ones(4, 3)).sum() + modules["large"](torch.ones(1, 700)).sum()).backward()
    found = gradient_histograms(modules)
    assert set(found) == {"gradient/one", "gradient/large"}
    one, large = found["gradient/one"], found["gradient/large"]
    assert isinstance(one, Histogram) and one.values.tolist() == [4.0] * 8
    assert isinstance(large, Histogram) and 100_000 <= large.values.numel() < 200_000
