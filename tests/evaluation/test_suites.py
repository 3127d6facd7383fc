from __future__ import annotations

import json
import sys
from collections.abc import Iterator
from pathlib import Path

import pytest
from typer.testing import CliRunner, Result

from ira.cli.app import app
from ira.evaluation import listen, speak
from ira.evaluation.codec import bandwidths
from ira.inference.pipeline import Pipeline


@pytest.fixture(scope="module")
def pipeline(tiny_model_folder: Path) -> Pipeline:
    return Pipeline.from_folder(tiny_model_folder, "cpu")


@pytest.fixture(autouse=True, scope="module")
def quick_recogniser() -> Iterator[None]:
    """Hears "three" in anything loud enough: the real one takes seconds over what is no speech."""
    with pytest.MonkeyPatch.context() as patch:
        for suite in (speak, listen):
            patch.setattr(suite, "open_recogniser", lambda: None)
            patch.setattr(suite, "recognise", lambda _, sound: "three" if float(sound.abs().max()) > 1e-3 else "")
        yield


def ira_eval(*args: object) -> Result:
    return CliRunner().invoke(app, ["eval", *(str(arg) for arg in args)])


WANTED = {
    "codec": {"pesq@1.5", "stoi@3", "mel@0.75", "pesq_clips@1.5", "stoi_published_encodec@3", "perplexity@book4"},
    "voice": {"recall@10", "full_recall@10", "gender_accuracy", "pitch_within_one", "matching_cosine", "speaker_eer"},
    "speak": {
        *(f"{measure}_{sound}" for measure in ("cer", "similarity") for sound in ("recording", "codec", "spoken")),
        *("cer_added_points", "cer_added_low", "cer_added_high", "runaway", "empty", "faulty", "length_ratio"),
    },
    "control": {f"{kind}{more}" for kind in ("gender", "pitch", "pace") for more in ("", "_clips", "_chance", "_man")},
    "listen": {
        *(f"{task}_{row}" for task in ("transcription", "gender", "language") for row in listen.CONDITIONS),
        *(f"logprob_{row}" for row in ("text", "audio", "none", "shuffled")),
        *("gap_closed", "logprob_gap_closed", "gender_same_words"),
    },
}


@pytest.fixture(scope="module")
def everything(manifest: Path, tiny_model_folder: Path, tmp_path_factory: pytest.TempPathFactory) -> dict:
    """The JSON of `ira eval all`, with what stood on stdout and the lines of the sentences."""
    folder = tmp_path_factory.mktemp("figures")
    files = ["--json", folder / "all.json", "--sentences", folder / "all.jsonl", "--keep", folder / "spoken"]
    result = ira_eval("all", manifest, "--model", tiny_model_folder, "--device", "cpu", *files)
    assert result.exit_code == 0, result.stderr or result.exception
    sentences = [json.loads(line) for line in (folder / "all.jsonl").read_text("utf-8").splitlines()]
    return {**json.loads((folder / "all.json").read_text()), "stdout": result.stdout, "sentences": sentences}


@pytest.mark.parametrize("suite", WANTED)
def test_every_suite_measures_what_it_promises_and_counts_what_it_left_out(suite: str, everything: dict):
    figures = {k.partition("/")[2]: v for k, v in everything["metrics"].items() if k.startswith(f"{suite}/")}
    assert WANTED[suite] <= set(figures)
    unread = suite == "control"  # which needs no recording, so that a broken one is no hindrance
    assert (figures["clips"], figures["refused"], figures["unsuited"]) == ((5, 1, 0) if unread else (4, 2, 0))
    for name, value in figures.items():
        assert value is None or value == value, name


def test_the_file_and_the_table_hold_the_same_names(everything: dict):
    table, _, groups = everything["stdout"].partition("\n\n")
    assert [line.split()[0] for line in table.splitlines()] == list(everything["metrics"])
    assert groups.splitlines()[0].split() == ["suite", "task", "clips", "asked", *listen.CONDITIONS, "gap_closed"]
    assert len(groups.splitlines()) == 1 + len(everything["groups"]) == 4
    assert everything["suite"] == "all" and everything["device"] == "cpu"


def test_figures_of_known_data(everything: dict):
    figures = everything["metrics"]
    assert (figures["voice/captions"], figures["voice/chance@1"], figures["voice/recall@10"]) == (2, 0.5, 1.0)
    assert (figures["voice/same_speaker_pairs"], figures["voice/different_speaker_pairs"]) == (2, 4)
    assert figures["speak/similarity_clips"] == 4 and figures["speak/similarity_chance"] == 0.5
    assert figures["speak/similarity_recording"] == 1.0
    assert figures["speak/cer_recording"] == pytest.approx(13 / 15)  # "three" for one, two, three, four
    assert figures["listen/logprob_text"] < 0


def test_each_sentence_is_told_with_its_sound(everything: dict):
    spoken = [sentence for sentence in everything["sentences"] if sentence["suite"] == "speak"]
    assert [(one["row"], one["voice"], one["text"]) for one in spoken] == [
        (0, "a", "one"),
        (1, "a", "two"),
        (2, "b", "three"),
        (3, "b", "four"),
    ]
    assert spoken[2]["heard_recording"] == "three" and spoken[2]["cer_recording"] == 0.0
    assert all(Path(one["wav"]).is_file() for one in spoken if one["seconds"])
    described = [one["description"] for one in everything["sentences"] if one["suite"] == "control"]
    assert len(described) == 5 * 10 and described[1] == "a man with a low voice"


def test_one_suite_gives_the_same_figures_again(manifest: Path, tiny_model_folder: Path, everything: dict):
    result = ira_eval("speak", manifest, "--model", tiny_model_folder, "--device", "cpu")
    together = {k.partition("/")[2]: v for k, v in everything["metrics"].items() if k.startswith("speak/")}
    shown = dict(line.split() for line in result.stdout.splitlines())
    assert list(shown) == list(together)
    assert shown["cer_spoken"] == f"{together['cer_spoken']:.4f}"
    assert shown["length_ratio"] == f"{together['length_ratio']:.4f}"


def test_clips_are_limited(manifest: Path, tiny_model_folder: Path):
    result = ira_eval("voice", manifest, "--clips", 2, "--model", tiny_model_folder, "--device", "cpu")
    assert result.stdout.split()[:2] == ["clips", "2"]


def test_the_codec_is_measured_at_every_bandwidth_that_it_has(pipeline: Pipeline):
    assert bandwidths(pipeline.parts.codec) == {3.0: 4, 1.5: 2, 0.75: 1}


@pytest.mark.parametrize(
    "args, line",
    [
        (["sing"], "suite 'sing' is unknown"),
        (["codec", "nowhere"], "nowhere: no such file or folder"),
        (["codec"], "give MANIFEST"),
    ],
)
def test_bad_input_is_one_line(args: list[str], line: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch):
    monkeypatch.chdir(tmp_path)
    result = ira_eval(*args)
    assert result.exit_code == 2 and len(result.stderr.splitlines()) == 1 and line in result.stderr


@pytest.mark.parametrize("suite, package", [("codec", "pesq"), ("speak", "pocketsphinx")])
def test_a_missing_package_is_one_line_before_any_work(
    suite: str, package: str, manifest: Path, monkeypatch: pytest.MonkeyPatch
):
    monkeypatch.setitem(sys.modules, package, None)
    result = ira_eval(suite, manifest, "--model", "no-such-model")
    assert result.exit_code == 2 and len(result.stderr.splitlines()) == 1
    assert package in result.stderr and "pip install -e '.[eval]'" in result.stderr
