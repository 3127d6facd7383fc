from __future__ import annotations

import shutil
from pathlib import Path

import pytest
import torch

from ira.errors import InputError
from ira.inference.voice_file import Voice, save_voice
from ira.inference.voices import (
    DEFAULT_FILE,
    DEFAULT_VOICE,
    MOST_PARTS,
    VOICES_KEPT,
    Voices,
    content_key,
    mix_voices,
    pace_in_words,
    parse_mix,
)


class FakeParts:
    """An encoder that gives each different description another vector, and counts."""

    folder = Path("/nowhere")

    def voice_encoder_hash(self) -> str:
        return "e" * 64


@pytest.fixture
def voices(monkeypatch: pytest.MonkeyPatch) -> Voices:
    made: list[str] = []

    def in_words(self: Voices, words: str) -> Voice:
        made.append(words)
        if not words:
            raise InputError("voice '' says nothing")
        return unit(sum(map(ord, words)), words)

    monkeypatch.setattr(Voices, "_in_words", in_words)
    monkeypatch.setattr(Voices, "_recorded", lambda self, path: in_words(self, path.read_text()))
    found = Voices(FakeParts())  # type: ignore[arg-type]
    found.made = made  # type: ignore[attr-defined]
    return found


def unit(seed: int, source: str = "x") -> Voice:
    vector = torch.randn(8, generator=torch.Generator().manual_seed(seed))
    return Voice(torch.nn.functional.normalize(vector, dim=0), "e" * 64, source)


@pytest.mark.parametrize(
    ("words", "least", "most"),
    [
        ("a calm man", 1.0, 1.0),
        ("a man speaking slowly", 0.6, 0.9),
        ("a man speaking very slowly", 0.5, 0.7),
        ("A woman, FAST, high voice", 1.1, 1.4),
        ("a breakfast show host", 1.0, 1.0),
        ("not slow at all", 1.0, 1.0),
        ("sha256:fa57", 1.0, 1.0),
    ],
)
def test_words_about_pace_are_a_pace(words: str, least: float, most: float):
    assert least <= pace_in_words(words) <= most


@pytest.mark.parametrize(
    ("spec", "parts"),
    [
        ("a.voice:0.7+b.voice:0.3", [("a.voice", 0.7), ("b.voice", 0.3)]),
        ("a.voice:7 + b.wav:3", [("a.voice", 0.7), ("b.wav", 0.3)]),
        ("a calm man:1+a.wav:1+b.voice:2", [("a calm man", 0.25), ("a.wav", 0.25), ("b.voice", 0.5)]),
        ("C:\\voices\\a.wav:.5+D:\\b+c.voice:.5", [("C:\\voices\\a.wav", 0.5), ("D:\\b+c.voice", 0.5)]),
        ("mood: calm + low:1.+a man:3", [("mood: calm + low", 0.25), ("a man", 0.75)]),
        ("a:" + "9" * 300 + "+b:" + "9" * 300, [("a", 0.5), ("b", 0.5)]),
    ],
)
def test_a_mix_is_parts_with_weights_that_sum_to_one(spec: str, parts: list[tuple[str, float]]):
    found = parse_mix(spec)
    assert found is not None and [name for name, _ in found] == [name for name, _ in parts]
    assert [weight for _, weight in found] == pytest.approx([weight for _, weight in parts])


@pytest.mark.parametrize(
    "spec",
    [
        "a calm woman",
        "a man: calm + low",
        "at 5:30",
        "C:\\voices\\a.wav",
        "a+b.wav",
        "a.voice",
        "",
        "+",
        ":",
        "a:b+c:d",
        "1+1",
    ],
)
def test_words_and_paths_with_colons_and_plus_signs_are_no_mix(spec: str):
    assert parse_mix(spec) is None


@pytest.mark.parametrize(
    "spec",
    [
        "a.voice:0.7",
        "a.voice:0.7+b.voice",
        "a.voice+b.voice:0.3",
        "a.voice:0.5+",
        "a.voice:0.5+:0.5",
        "a man:0.5+a woman",
        "a.voice:nan+b.voice:0.3",
    ],
)
def test_a_mix_that_lacks_a_weight_or_a_part_is_told_how_to_write_it(spec: str):
    with pytest.raises(InputError, match=r"A:0\.7\+B:0\.3") as caught:
        parse_mix(spec)
    assert "\n" not in str(caught.value)


@pytest.mark.parametrize("weight", ["0", "-1", "0.0", "9" * 400])
def test_a_weight_that_is_not_above_zero_is_named(weight: str):
    with pytest.raises(InputError, match=r"weight .* of voice 'a man'.* above 0"):
        parse_mix(f"a man:{weight}+a woman:0.5")


def test_too_many_parts_and_endless_input_are_refused_at_once():
    with pytest.raises(InputError, match=f"{MOST_PARTS} at most"):
        parse_mix("+".join(["a:1"] * (MOST_PARTS + 1)))
    for hostile in (":" * 100_000, ":1" * 50_000, ":" + "1" * 100_000, ": " * 50_000, "a:1+" * 50_000):
        try:
            parse_mix(hostile)
        except InputError:
            pass


def test_a_file_is_that_file_whatever_its_name(tmp_path: Path, monkeypatch: pytest.MonkeyPatch, voices: Voices):
    monkeypatch.chdir(tmp_path)
    Path("a:1+b:2").write_text("odd")
    assert parse_mix("a:1+b:2") is None and voices.of("a:1+b:2").source == "odd"


def test_mixed_voices_lie_between_their_parts_and_have_unit_length(voices: Voices):
    one, two = voices.of("a man").embedding, voices.of("a woman").embedding
    for weight in (0.01, 0.3, 0.5, 0.99):
        mixed = voices.of(f"a man:{weight}+a woman:{1 - weight}")
        assert float(mixed.embedding.norm()) == pytest.approx(1, abs=1e-5)
        expected = torch.nn.functional.normalize(weight * one + (1 - weight) * two, dim=0)
        assert torch.allclose(mixed.embedding, expected, atol=1e-6)
    assert "a man" in mixed.source and "0.99" in mixed.source and mixed.voice_encoder == "e" * 64


def test_opposite_voices_and_voices_of_different_sizes_cannot_be_mixed():
    one = unit(1)
    with pytest.raises(InputError, match="cancel out"):
        mix_voices([one, Voice(-one.embedding, "e" * 64, "y")], [0.5, 0.5])
    with pytest.raises(InputError, match="8, 4 numbers"):
        mix_voices([one, Voice(torch.ones(4) / 2, "e" * 64, "y")], [0.5, 0.5])


def test_the_same_file_under_two_names_is_one_voice_and_another_file_under_the_same_name_another(
    tmp_path: Path, voices: Voices
):
    first, second = tmp_path / "one.wav", tmp_path / "two.wav"
    first.write_text("a man")
    shutil.copy(first, second)
    same = [voices.of(str(first)), voices.of(second), voices.of(str(second))]
    assert all(voice is same[0] for voice in same) and voices.made == ["a man"]  # type: ignore[attr-defined]
    second.write_text("a woman")
    assert voices.of(second).source == "a woman" and voices.of(first).source == "a man"


def test_parts_of_a_mix_are_made_once_and_a_default_too(tmp_path: Path, voices: Voices):
    (tmp_path / "one.wav").write_text("a man")
    save_voice(tmp_path / "two.voice", unit(5), "")
    for weight in (0.1, 0.5):
        voices.of(f"{tmp_path}/one.wav:{weight}+{tmp_path}/two.voice:1+a woman:1")
    assert sorted(voices.made) == ["a man", "a woman"]  # type: ignore[attr-defined]
    assert voices.of(None) is voices.of(None)


def test_the_key_is_the_content_and_how_it_is_read(tmp_path: Path):
    for name in ("a.wav", "b.wav", "a.voice"):
        (tmp_path / name).write_bytes(b"same")
    assert content_key(tmp_path / "a.wav") == content_key(str(tmp_path / "b.wav"))
    assert content_key(tmp_path / "a.voice") != content_key(tmp_path / "a.wav")
    assert content_key("calm") != content_key("low") and content_key("absent.wav") is None


def test_a_failed_voice_is_not_kept_and_only_so_many_are(voices: Voices):
    with pytest.raises(InputError):
        voices.of("")
    for number in range(VOICES_KEPT + 5):
        voices.of(f"voice {number}")
    assert len(voices.kept) == VOICES_KEPT and "words:" not in voices.kept


def test_without_a_voice_it_is_the_model_folders_default_or_words(voices: Voices, tmp_path: Path):
    assert voices.of(None).source == DEFAULT_VOICE
    voices.parts.folder = tmp_path
    save_voice(tmp_path / DEFAULT_FILE, unit(5, "who was heard most"), "")
    assert torch.allclose(voices.of(None).embedding, unit(5).embedding)
    assert voices.of(DEFAULT_VOICE).source == DEFAULT_VOICE
