"""A configuration is read whole, or every mistake in it is named at once."""

from __future__ import annotations

from pathlib import Path

import pytest

from ira.config import Config
from ira.config_file import check_config, load_config
from ira.errors import InputError


@pytest.fixture
def load(tmp_path: Path):
    def write_and_load(text: str, *overrides: str) -> Config:
        path = tmp_path / "config.yaml"
        path.write_text(text, encoding="utf-8")
        return load_config(path, list(overrides))

    return write_and_load


def mistakes_of(call) -> list[str]:
    """The parts of the one-line message, without the name of the file."""
    with pytest.raises(InputError) as caught:
        call()
    message = str(caught.value)
    assert "\n" not in message
    head, _, rest = message.partition(" mistake(s): ")
    parts = rest.split("; ")
    assert head.endswith(f": {len(parts)}")
    return parts


def test_an_empty_file_is_the_default(load):
    assert load("") == load("# nothing\n") == Config()


def test_every_mistake_is_named_at_once_with_its_place_and_the_nearest_name(load):
    text = """
    device: 3
    speach: {}
    train:
      seed: 1
      seed: 2
      codec: {bath_seconds: 1}
      speech: {lr: fast, accumulation: 0}
    llm: {fresh: {hiden: 64}}
    """
    found = mistakes_of(lambda: load(text))
    assert any(part.startswith("device: ") and part.endswith("(given 3)") for part in found)
    assert "speach is unknown, did you mean speech?" in found
    assert "train.seed is given twice (line 6), keep one" in found
    assert "train.codec.bath_seconds is unknown, did you mean batch_seconds?" in found
    assert any(part.startswith("train.speech.lr: ") and "'fast'" in part for part in found)
    assert any(part.startswith("train.speech.accumulation: ") and part.endswith("(given 0)") for part in found)
    assert "llm.fresh.hiden is unknown, did you mean hidden?" in found


def test_a_name_like_no_other_gets_no_guess(load):
    assert mistakes_of(lambda: load("xyzzy: 1")) == ["xyzzy is unknown"]


def test_a_key_given_twice_is_found_inside_lists_and_at_the_top(load):
    assert mistakes_of(lambda: load("a: [{b: 1, b: 2}]\nseed: 1\nseed: 1"))[:2] == [
        "a.0.b is given twice (line 1), keep one",
        "seed is given twice (line 3), keep one",
    ]


def test_a_valid_file_with_a_key_given_twice_is_still_refused(load):
    found = mistakes_of(lambda: load("device: cpu\ndevice: cuda"))
    assert found == ["device is given twice (line 2), keep one"]


@pytest.mark.parametrize("written", ["1e-3", "1.0e-3", "0.001", "'1e-3'"])
def test_a_small_number_is_a_number_however_it_is_written(load, written: str):
    assert load(f"train: {{speech: {{lr: {written}}}}}").train.speech.lr == 0.001
    assert load("", f"train.speech.lr={written}").train.speech.lr == 0.001


@pytest.mark.parametrize(
    ("text", "place"),
    [
        ("train: {speech: {lr: .inf}}", "train.speech.lr: "),
        ("train: {speech: {lr: .nan}}", "train.speech.lr: "),
        ("train: {stages: [codec, voise]}", "train.stages.1: "),
        ("data: {train: data/train}", "data.train: "),
        ("speech: null", "speech: "),
        ("speech: [1]", "speech: "),
        ("speech: {layers: 1.5}", "speech.layers: "),
        ("log: {trackers: [mlflow]}", "log.trackers.0: "),
        ("1: 2", "1"),
    ],
)
def test_a_wrong_value_is_named_by_its_place(load, text: str, place: str):
    (found,) = mistakes_of(lambda: load(text))
    assert found.startswith(place)


@pytest.mark.parametrize(
    ("raw", "words"),
    [
        ({"speech": {"width": 100}}, "speech: width 100 is not a multiple of 2 x 12 heads"),
        ({"codec": {"bandwidth_kbps": 12}}, "codec: 12.0 kbps is 16 codebooks, compact has 8"),
        ({"codec": {"bandwidth_kbps": 4}}, "codec: bandwidth_kbps 4 is none of 0.75, 1.5, 3, 6, 12, 24"),
    ],
)
def test_values_that_do_not_fit_each_other_are_refused(raw: dict, words: str):
    (found,) = mistakes_of(lambda: check_config(raw))
    assert found.startswith(words)


@pytest.mark.parametrize(("kbps", "codebooks"), [(0.75, 1), (1.5, 2), (3, 4), (6, 8), (12, 16), (24, 32)])
def test_the_bandwidth_tells_the_codebooks(kbps: float, codebooks: int):
    weights = {"codebook_weights": [1] * 32}
    config = check_config({"codec": {"kind": "encodec", "bandwidth_kbps": kbps}, "speech": weights})
    assert config.codec.codebooks == codebooks


def test_overrides_win_over_the_file_in_their_order(load):
    config = load("train: {seed: 1}", "train.seed=2", "train.seed=3", "train.speech.steps=7", "data.train=[a, b]")
    assert (config.train.seed, config.train.speech.steps, config.data.train) == (3, 7, ["a", "b"])


def test_an_override_reaches_into_a_section_that_is_not_there_yet(load):
    fresh = load("llm: {fresh: null}", "llm.fresh.hidden=64").llm.fresh
    assert fresh is not None and fresh.hidden == 64
    assert load("", "train.max_minutes=null").train.max_minutes is None


def test_an_override_with_an_unknown_name_gets_a_guess(load):
    assert mistakes_of(lambda: load("", "train.sed=1")) == ["train.sed is unknown, did you mean seed?"]


@pytest.mark.parametrize(
    ("override", "words"),
    [
        ("train", "write section.key=value"),
        ("=3", "write section.key=value"),
        ("device.kind=cpu", "device is a value, not a section"),
        ("train.seed=[1", "the value is not valid YAML"),
        ("train={seed: 1, seed: 2}", "seed is given twice"),
    ],
)
def test_an_override_that_cannot_be_read_is_refused(load, override: str, words: str):
    with pytest.raises(InputError) as caught:
        load("device: cpu", override)
    assert words in str(caught.value) and repr(override) in str(caught.value)


@pytest.mark.parametrize("text", ["- 1", "0", "word", "a: b: c", "\x00", "x: " + "[" * 5000, "a: &a [*a]"])
def test_a_file_that_is_no_mapping_of_sections_is_refused_in_one_line(load, text: str):
    with pytest.raises(InputError) as caught:
        load(text)
    assert "config.yaml" in str(caught.value) and "\n" not in str(caught.value)


def test_yaml_cannot_run_code(load, tmp_path: Path):
    with pytest.raises(InputError, match="not valid YAML"):
        load(f"device: !!python/object/apply:os.mkdir [{tmp_path / 'made'}]")
    assert not (tmp_path / "made").exists()


def test_a_missing_file_is_refused(tmp_path: Path):
    with pytest.raises(InputError, match="cannot be read"):
        load_config(tmp_path / "none.yaml")


def test_a_config_does_not_change():
    with pytest.raises(ValueError, match="frozen"):
        Config().device = "cpu"  # type: ignore[misc]


@pytest.mark.parametrize(
    ("given", "message"),
    [
        ({"speech": {"codebook_weights": [1, 1]}}, "speech.codebook_weights has 2 numbers, 6 kbps is 8 codebooks"),
        ({"data": {"max_seconds": 110}}, "data.max_seconds 110 takes 8264 steps, speech.max_steps is 8192"),
        ({"data": {"max_seconds": 1}, "speech": {"max_steps": 135}}, "max_seconds 1 takes 136 steps"),  # rounded up
        ({"adapter": {"mix_layers": 13}}, "adapter.mix_layers 13 is more than speech.layers 12"),
    ],
)
def test_sections_that_do_not_fit_each_other_are_refused_with_both_values(given, message):
    with pytest.raises(InputError, match=message):
        check_config(given)
    fits = {"data": {"max_seconds": 17}, "speech": {"max_steps": 2048, "codebook_weights": [8, 4, 2, 1]}}
    check_config(fits | {"codec": {"bandwidth_kbps": 3.0}})


@pytest.mark.parametrize(
    "given", ["stretch=[1.1, 0.9]", "stretch=[0.9]", "stretch=[0.1, 1]", "semitones=[-13, 0]", "snr_db=[10, 200]"]
)
def test_a_range_of_changes_goes_from_low_to_high(load, given: str):
    name = given.partition("=")[0]
    with pytest.raises(InputError, match=rf"data\.augment.*{name} .* is no \[lowest, highest\] within"):
        load("", f"data.augment.{given}")
    assert getattr(load("", f"data.augment.{name}=null").data.augment, name) is None
