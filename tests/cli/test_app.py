from __future__ import annotations

import json
import subprocess
import sys
from dataclasses import replace
from pathlib import Path

import pytest
import torch
from typer.testing import CliRunner, Result

from ira.audio.waveform import load_audio, save_audio
from ira.cli.app import app
from ira.inference.faults import Fault
from ira.inference.pipeline import Pipeline

ROOT = Path(__file__).parents[2]
VERBS = (
    "import",
    "validate",
    "prepare",
    "train",
    "plot",
    "eval",
    "bench",
    "resynth",
    "speak",
    "voice",
    "listen",
    "respond",
    "demo",
    "doctor",
)


def ira(*args: object, typed: str | None = None) -> Result:
    return CliRunner().invoke(app, [str(arg) for arg in args], input=typed)


def well(*args: object, typed: str | None = None) -> Result:
    result = ira(*args, typed=typed)
    assert result.exit_code == 0, result.stderr or result.exception
    return result


def refused(*args: object) -> str:
    """The one line that bad input gives."""
    result = ira(*args)
    assert result.exit_code == 2, result.exception
    assert result.stdout == "" and len(result.stderr.splitlines()) == 1
    return result.stderr


@pytest.fixture(scope="module")
def model(tiny_model_folder: Path) -> tuple[str, ...]:
    return ("--model", str(tiny_model_folder), "--device", "cpu")


@pytest.fixture(scope="module")
def pipeline(tiny_model_folder: Path) -> Pipeline:
    return Pipeline.from_folder(tiny_model_folder, "cpu")


@pytest.fixture
def recording(tmp_path: Path) -> Path:
    wave = torch.sin(torch.arange(24_000) / 20) * torch.rand(24_000, generator=torch.Generator().manual_seed(0))
    save_audio(tmp_path / "ref.wav", wave / 2)
    return tmp_path / "ref.wav"


@pytest.fixture
def manifest(recording: Path) -> Path:
    """A good row and a row without its file."""
    rows = [
        {"audio_file": "ref.wav", "text": "one two", "speaker_id": 1},
        {"audio_file": "absent.wav", "text": "three", "speaker_id": 2},
    ]
    path = recording.parent / "train.json"
    path.write_text(json.dumps(rows))
    return path


def jsonl(path: Path, *rows: object) -> Path:
    path.write_text("".join(json.dumps(row) + "\n" for row in rows))
    return path


def test_help_of_every_verb_has_examples_and_there_are_these_verbs():
    listed = well("--help").stdout.partition("Commands:")[2].split("\n")
    assert tuple(line.split()[0] for line in listed if line.strip()) == VERBS
    for verb in VERBS:
        text = well(verb, "--help").stdout
        assert f"ira {verb}" in text.partition("Examples:")[2], verb


def test_help_comes_without_loading_a_model_library():
    code = "import sys; from ira.cli.app import app\ntry: app(['--help'])\nfinally: sys.exit('torch' in sys.modules)"
    assert subprocess.run([sys.executable, "-c", code], cwd=ROOT, capture_output=True).returncode == 0


def test_the_version_is_printed():
    assert well("--version").stdout.strip().count(".") == 2


def test_an_unknown_verb_or_option_is_one_line_with_the_nearest_name():
    assert "Did you mean 'speak'?" in refused("speek")
    assert "--sed" in refused("speak", "hi", "--sed", 1)


# -- data and training -------------------------------------------------------------------------------------------


def test_validate_prints_a_table_and_the_problems_and_exits_with_one(manifest: Path, tmp_path: Path):
    result = ira("validate", manifest, "--json", tmp_path / "report.json")
    assert result.exit_code == 1
    assert "rows       1\n" in result.stdout and "unusable   1\n" in result.stdout
    assert "missing_file" in result.stdout and "absent.wav" in result.stdout
    report = json.loads((tmp_path / "report.json").read_text())
    assert set(report) == {"suite", "model", "device", "commit", "metrics"}
    assert report["metrics"]["rows"] == 1 and report["metrics"]["problems"][0]["kind"] == "missing_file"


def test_validate_of_good_rows_exits_with_zero_and_of_nothing_with_two(manifest: Path, tmp_path: Path):
    manifest.write_text(json.dumps(json.loads(manifest.read_text())[:1]))
    assert "unusable   0" in well("validate", manifest).stdout
    assert "absent" in refused("validate", tmp_path / "absent")


def test_validate_of_a_broken_manifest_exits_with_two_and_still_tells_of_the_others(manifest: Path, tmp_path: Path):
    (tmp_path / "val.json").write_bytes(b"\x89PNG\0")
    assert "is binary" in refused("validate", tmp_path / "val.json", "--json", tmp_path / "report.json")
    assert json.loads((tmp_path / "report.json").read_text())["metrics"]["kinds"] == {"bad_json": 1}
    result = ira("validate", manifest, tmp_path / "val.json")
    assert result.exit_code == 2 and "rows       1\n" in result.stdout and "val.json: is binary" in result.stdout


def test_validate_shows_a_few_findings_of_each_kind_and_counts_the_others(manifest: Path):
    manifest.write_text(json.dumps(json.loads(manifest.read_text())[:1] * 9))
    shown = well("validate", manifest).stdout
    assert "duplicate_audio: 8 (note, the rows are used); keep one of the rows\n" in shown
    assert shown.count("the same recording as row 0\n") == 5 and "and 3 more" in shown
    assert "loudness   median" in shown and "24000 Hz (9)" in shown


def test_prepare_makes_shards_with_the_models_codec(
    manifest: Path, tmp_path: Path, model: tuple[str, ...], pipeline: Pipeline
):
    from ira.data.shards import TokenShards

    result = well("prepare", manifest, "--out", tmp_path / "shards", *model)
    assert "rows     1\n" in result.stdout and "refused  1\n" in result.stdout
    assert "absent.wav" in result.stderr
    shards = TokenShards(tmp_path / "shards")
    codes = pipeline.parts.codec.encode(load_audio(tmp_path / "ref.wav")[None]).codes[0]
    assert torch.equal(shards[0].codes, codes) and shards[0].text == "one two"


def test_prepare_with_a_configuration_takes_codec_and_workers_of_its_run(
    manifest: Path, tmp_path: Path, tiny_model_folder: Path, monkeypatch: pytest.MonkeyPatch
):
    from ira.data import prepare as preparing

    (tmp_path / "run").mkdir()
    (tmp_path / "run" / "model").symlink_to(tiny_model_folder)
    config = tmp_path / "config.yaml"
    config.write_text(f"run_dir: {tmp_path / 'run'}\ncodec: {{bandwidth_kbps: 3.0}}\ndata: {{max_seconds: 0.5}}\n")
    result = ira("prepare", manifest, "--out", tmp_path / "shards", "--config", config)
    assert (
        result.exit_code == 2 and "none of 2 rows" in result.stderr
    )  # the recording is longer than the configuration allows
    config.write_text(f"run_dir: {tmp_path / 'run'}\ncodec: {{bandwidth_kbps: 3.0}}\n")
    well("prepare", manifest, "--out", tmp_path / "more", "--config", config)
    assert json.loads((tmp_path / "more" / "meta.json").read_text())["codebooks"] == 4
    config.write_text(config.read_text() + "data: {workers: 3}\n")
    given, real = [], preparing.prepare
    monkeypatch.setattr(
        preparing, "prepare", lambda *args, workers, **rest: given.append(workers) or real(*args, workers=1, **rest)
    )
    well("prepare", manifest, "--out", tmp_path / "three", "--config", config)
    well("prepare", manifest, "--out", tmp_path / "two", "--config", config, "--workers", 2, "--device", "cpu")
    assert given == [3, 2]
    assert "'gpu' is unknown" in refused("prepare", manifest, "--out", tmp_path, "--config", config, "--device", "gpu")
    assert "both" in refused("prepare", manifest, "--out", tmp_path / "x", "--config", config, "--model", tmp_path)
    assert "absent" in refused("prepare", manifest, "--out", tmp_path / "x", "--model", tmp_path / "absent")


def test_prepare_makes_a_part_and_names_what_is_no_part(manifest: Path, tmp_path: Path, model: tuple[str, ...]):
    from ira.data.shards import TokenShards

    well("prepare", manifest, "--out", tmp_path / "shards", "--shard", "0/2", *model)
    assert [path.name for path in (tmp_path / "shards").iterdir()] == ["part-0000-of-0002"]
    assert "rows     0\n" in well("prepare", manifest, "--out", tmp_path / "shards", "--shard", "1/2", *model).stdout
    assert len(TokenShards(tmp_path / "shards")) == 1
    for wrong in ("2/2", "1", "a/b", "-1/2", "1/0"):
        assert "wanted" in refused("prepare", manifest, "--out", tmp_path / "x", f"--shard={wrong}", *model)


def test_prepare_changes_copies_of_what_is_learned_from_and_of_nothing_else(
    manifest: Path, tmp_path: Path, tiny_model_folder: Path
):
    (tmp_path / "run").mkdir()
    (tmp_path / "run" / "model").symlink_to(tiny_model_folder)
    (tmp_path / "val.json").write_text(manifest.read_text())
    config = tmp_path / "config.yaml"
    data = f"{{train: [{manifest}], val: [{tmp_path / 'val.json'}], augment: {{copies: 2}}}}"
    config.write_text(f"run_dir: {tmp_path / 'run'}\ncodec: {{bandwidth_kbps: 1.5}}\ndata: {data}\n")
    done = well("prepare", manifest, "--out", tmp_path / "a", "--config", config)
    assert "rows     3\n" in done.stdout
    for others in ([tmp_path / "val.json"], [manifest, tmp_path / "val.json"]):
        done = well("prepare", *others, "--out", tmp_path / f"b{len(others)}", "--config", config)
        assert f"rows     {len(others)}\n" in done.stdout


def test_prepare_with_a_configuration_alone_fills_the_folders_that_its_training_opens(
    manifest: Path, tmp_path: Path, tiny_model_folder: Path
):
    from ira.audio.codec import load_codec
    from ira.config_file import load_config
    from ira.training.builders import Run, open_shards

    (tmp_path / "run").mkdir()
    (tmp_path / "run" / "model").symlink_to(tiny_model_folder)
    (tmp_path / "val.json").write_text(manifest.read_text())
    config = tmp_path / "config.yaml"
    data = f"{{train: [{manifest}], val: [{tmp_path / 'val.json'}], shards: {tmp_path / 'shards'}}}"
    config.write_text(f"run_dir: {tmp_path / 'run'}\ncodec: {{kind: compact, bandwidth_kbps: 1.5}}\ndata: {data}\n")
    well("prepare", "--config", config)
    there = {path: path.stat().st_mtime_ns for path in (tmp_path / "shards").rglob("codes-*")}
    run = Run(load_config(config), tmp_path / "run", torch.device("cpu"))
    codec = load_codec(run.config.codec, run.model)
    assert [len(open_shards(run, codec, split)) for split in ("train", "val")] == [1, 1]
    after = {path: path.stat().st_mtime_ns for path in (tmp_path / "shards").rglob("codes-*")}
    assert after == there and len(there) == 2
    for wrong in ([manifest], ["--out", tmp_path / "x"], [manifest, "--config", config], []):
        assert "neither of them and --config" in refused("prepare", *wrong)


def test_train_passes_on_configuration_stage_and_overrides(tmp_path: Path, monkeypatch: pytest.MonkeyPatch):
    from ira.training import journey

    calls = []
    monkeypatch.setattr(journey, "train", lambda config, only=None: calls.append((config, only)) or Path("RUN/model"))
    config = ROOT / "configs" / "tiny.yaml"
    assert (
        well("train", "--config", config, "--stage", "speech", "run_dir=here", "train.seed=7").stdout == "RUN/model\n"
    )
    well("train", "--config", config)
    (first, stage), (second, none) = calls
    assert stage == "speech" and (first.run_dir, first.train.seed) == ("here", 7)
    assert none is None and second.run_dir == "runs/tiny"


def test_train_refuses_an_unknown_stage_key_or_file():
    config = ROOT / "configs" / "tiny.yaml"
    assert "codec, voice, speech" in refused("train", "--config", config, "--stage", "speach")
    assert "train.sed is unknown, did you mean seed?" in refused("train", "--config", config, "train.sed=1")
    assert "absent.yaml" in refused("train", "--config", "absent.yaml")
    assert "--config" in refused("train")


def test_plot_writes_a_page_and_refuses_a_folder_without_figures(tmp_path: Path):
    (tmp_path / "metrics.jsonl").write_text('{"stage": "codec", "step": 1, "loss": 2.0}\n')
    page = tmp_path / "compare.html"
    assert well("plot", tmp_path, "--out", page).stdout == f"{page}\n"
    assert '"metric":"loss"' in page.read_text()
    assert "absent/metrics.jsonl: cannot be read" in refused("plot", "absent", "--out", page)
    assert "RUN" in refused("plot")


def test_main_py_is_the_verb_train():
    done = subprocess.run(
        [sys.executable, "main.py", "--config", "absent.yaml", "train.seed=1"], cwd=ROOT, capture_output=True, text=True
    )
    assert done.returncode == 2 and done.stdout == ""
    assert done.stderr.startswith("ira: absent.yaml: cannot be read") and len(done.stderr.splitlines()) == 1


def test_python_m_ira_is_the_command():
    done = subprocess.run([sys.executable, "-m", "ira", "sing"], cwd=ROOT, capture_output=True, text=True)
    assert done.returncode == 2 and done.stdout == ""
    assert done.stderr == "ira: No such command 'sing'; see python -m ira --help\n"


# -- sound -------------------------------------------------------------------------------------------------------


def test_resynth_writes_what_the_codec_makes_of_a_recording(
    recording: Path, tmp_path: Path, model: tuple[str, ...], pipeline: Pipeline
):
    out = tmp_path / "coded.wav"
    assert well("resynth", recording, "--out", out, "--bandwidth", 3, *model).stdout == f"{out}\n"
    wanted = pipeline.resynth(recording, 3.0).clamp(-1, 1)
    assert torch.allclose(load_audio(out), wanted, atol=1e-4)
    assert "7 kbps" in refused("resynth", recording, "--out", out, "--bandwidth", 7, *model)
    assert "absent.wav" in refused("resynth", tmp_path / "absent.wav", "--out", out, *model)
    assert ".txt" in refused("resynth", recording, "--out", tmp_path / "coded.txt", *model)


def test_speak_writes_the_same_file_for_the_same_seed(tmp_path: Path, model: tuple[str, ...], pipeline: Pipeline):
    files = [tmp_path / name for name in ("a.wav", "b.wav", "c.wav")]
    for file, seed in zip(files, (5, 5, 6), strict=True):
        assert well("speak", "Hello there!", "--out", file, "--seed", seed, *model).stdout == f"{file}\n"
    assert files[0].read_bytes() == files[1].read_bytes() != files[2].read_bytes()
    wanted = pipeline.speak("Hello there!", seed=5).waveform.clamp(-1, 1)
    assert torch.allclose(load_audio(files[0]), wanted, atol=1e-4)


def test_speak_without_out_writes_speech_wav_here(
    tmp_path: Path, model: tuple[str, ...], monkeypatch: pytest.MonkeyPatch
):
    monkeypatch.chdir(tmp_path)
    assert well("speak", "hello", *model).stdout == "speech.wav\n"
    assert load_audio("speech.wav").numel()


def test_speak_refuses_what_it_cannot_say_or_write(tmp_path: Path, model: tuple[str, ...]):
    out = tmp_path / "x.wav"
    assert "nothing to say" in refused("speak", "", "--out", out, *model)
    assert "cannot be spoken" in refused("speak", "\N{GRINNING FACE}", "--out", out, *model)
    assert "absent.wav" in refused("speak", "hi", "--voice", "absent.wav", "--out", out, *model)
    assert ".txt" in refused("speak", "hi", "--out", tmp_path / "x.txt", *model)
    assert "seed" in refused("speak", "hi", "--out", out, "--seed", -1, *model)
    assert "either" in refused("speak", "hi", "--batch", "rows.jsonl", *model)
    assert "either" in refused("speak", *model)
    assert "has learned de, en" in refused("speak", "hi", "--out", out, "--language", "nl", *model)
    assert "model.json" in refused("speak", "hi", "--out", out, "--model", tmp_path)
    assert "device 'moon'" in refused("speak", "hi", "--out", out, "--model", model[1], "--device", "moon")
    assert not out.exists()


def test_speech_that_did_not_end_is_written_with_a_warning(
    tmp_path: Path, model: tuple[str, ...], monkeypatch: pytest.MonkeyPatch
):
    from ira.inference import pipeline as module

    real, fault = module.say, Fault("endless", "did not end within 1.0 s")
    monkeypatch.setattr(module, "say", lambda *given: [replace(s, faults=[fault]) for s in real(*given)])
    result = well("speak", "hello", "--out", tmp_path / "a.wav", *model)
    assert "did not end" in result.stderr and (tmp_path / "a.wav").is_file()


def test_a_report_is_written_beside_the_speech_and_has_to_be_a_page(tmp_path: Path, model: tuple[str, ...]):
    page, out = tmp_path / "new" / "a.html", tmp_path / "a.wav"
    assert well("speak", "hello", "--out", out, "--report", page, *model).stdout == f"{out}\n"
    assert "hello" in page.read_text(encoding="utf-8")
    assert "FILE.html" in refused("speak", "hello", "--out", tmp_path / "b.wav", "--report", tmp_path / "a.pdf", *model)
    rows = jsonl(tmp_path / "rows.jsonl", {"id": "a", "text": "hello", "voice": "a man:1+a woman:2"})
    well("speak", "--batch", rows, "--out", tmp_path, "--report", page, *model)
    assert "a man:" in page.read_text(encoding="utf-8")


def test_a_mixed_voice_speaks_and_is_kept(recording: Path, tmp_path: Path, model: tuple[str, ...]):
    spec = f"{recording}:0.7+a calm woman:0.3"
    kept = tmp_path / "mix.voice"
    assert "--consent" in well("voice", spec, "--save", kept, *model).stderr
    for name, voice in {"kept": kept, "spec": spec}.items():
        well("speak", "hello", "--voice", voice, "--out", tmp_path / f"{name}.wav", *model)
    assert (tmp_path / "kept.wav").read_bytes() == (tmp_path / "spec.wav").read_bytes()
    assert "above 0" in refused("speak", "hi", "--voice", "a man:0+a woman:1", *model)


def test_a_batch_is_spoken_row_by_row_and_ends_with_one_where_a_row_failed(tmp_path: Path, model: tuple[str, ...]):
    rows = jsonl(
        tmp_path / "rows.jsonl",
        {"id": "a", "text": "hello", "seed": 3},
        {"id": "../escape", "text": "hello"},
        {"id": "b", "text": "hello", "voice": "a man"},
    )
    result = ira("speak", "--batch", rows, "--out", tmp_path / "out", *model)
    assert result.exit_code == 1
    assert result.stdout.split() == [str(tmp_path / "out" / "a.wav"), str(tmp_path / "out" / "b.wav")]
    assert "line 2: id '../escape'" in result.stderr and "1 of 3 rows failed" in result.stderr
    assert not (tmp_path / "escape.wav").exists()
    well("speak", "hello", "--seed", 3, "--out", tmp_path / "a.wav", *model)
    assert (tmp_path / "a.wav").read_bytes() == (tmp_path / "out" / "a.wav").read_bytes()
    well("speak", "--batch", jsonl(rows, {"id": "a", "text": "hello"}), "--out", tmp_path / "out", *model)
    assert "--out" in refused("speak", "--batch", rows, *model)
    assert "absent.jsonl" in refused("speak", "--batch", tmp_path / "absent.jsonl", "--out", tmp_path, *model)


def test_a_kept_voice_speaks_like_its_recording(recording: Path, tmp_path: Path, model: tuple[str, ...]):
    kept = tmp_path / "me.voice"
    assert well("voice", recording, "--save", kept, "--consent", "mine", *model).stdout == f"{kept}\n"
    assert json.loads(kept.read_text())["consent"] == "mine"
    for name, voice in {"kept": kept, "ref": recording}.items():
        well("speak", "hello", "--voice", voice, "--out", tmp_path / f"{name}.wav", *model)
    assert (tmp_path / "kept.wav").read_bytes() == (tmp_path / "ref.wav").read_bytes()


def test_a_voice_comes_from_words_too_and_a_recording_without_consent_is_pointed_out(
    recording: Path, tmp_path: Path, model: tuple[str, ...]
):
    words = well("voice", "a calm woman", "--save", tmp_path / "calm.voice", *model)
    assert "consent" not in words.stderr
    assert json.loads((tmp_path / "calm.voice").read_text())["source"] == "a calm woman"
    assert "--consent" in well("voice", recording, "--save", tmp_path / "me.voice", *model).stderr
    assert "NAME.voice" in refused("voice", recording, "--save", tmp_path / "me.json", *model)
    assert "absent.wav" in refused("voice", "absent.wav", "--save", tmp_path / "x.voice", *model)


def test_listen_prints_the_answer_alone(recording: Path, model: tuple[str, ...], pipeline: Pipeline):
    assert well("listen", recording, *model).stdout == pipeline.listen(recording) + "\n"
    asked = well("listen", recording, recording, "--prompt", "compare", *model).stdout
    assert asked == pipeline.listen([recording, recording], "compare") + "\n"


def test_a_chat_keeps_the_recordings_of_earlier_turns(
    recording: Path, model: tuple[str, ...], pipeline: Pipeline, tmp_path: Path
):
    from ira.inference.conversation import Conversation

    said = Conversation(pipeline)
    wanted = [said.say("what is it", recording), said.say("and <|audio|> now", recording), said.say("sure?")]
    lines = f"and @{recording} now\n\nwhat of @absent.wav\nsure?\n"
    done = well("listen", recording, "--prompt", "what is it", "--chat", *model, typed=lines)
    assert done.stdout == "".join(f"{answer}\n" for answer in wanted) and "absent.wav" in done.stderr


def test_listen_refuses_what_it_cannot_hear(recording: Path, tmp_path: Path, model: tuple[str, ...]):
    broken = tmp_path / "broken.wav"
    broken.write_bytes(b"RIFF not really")
    assert "broken.wav" in refused("listen", broken, *model)
    assert "absent.wav" in refused("listen", "absent.wav", *model)
    assert "give one for each" in refused("listen", recording, "--prompt", "<|audio|> <|audio|>", *model)
    assert "nothing to listen to" in refused("listen", *model)
    assert "--batch" in refused("listen", recording, "--out", tmp_path / "x.jsonl", *model)
    assert "--out" in refused("listen", "--batch", tmp_path / "rows.jsonl", *model)


def test_a_batch_of_questions_is_answered_as_they_are_alone(
    recording: Path, tmp_path: Path, model: tuple[str, ...], pipeline: Pipeline
):
    rows = jsonl(
        tmp_path / "rows.jsonl",
        {"id": "a", "audio": str(recording)},
        {"id": "b", "audio": [str(recording), "ref.wav"], "prompt": "compare"},
        {"id": "c", "audio": None, "prompt": "hello"},
        {"id": "d", "audio": "absent.wav"},
    )
    out = tmp_path / "answers.jsonl"
    result = ira("listen", "--batch", rows, "--out", out, *model)
    assert result.exit_code == 1 and result.stdout == f"{out}\n"
    assert "d: absent.wav" in result.stderr
    assert [json.loads(line) for line in out.read_text().splitlines()] == [
        {"id": "a", "answer": pipeline.listen(recording)},
        {"id": "b", "answer": pipeline.listen([recording, recording], "compare")},
        {"id": "c", "answer": pipeline.listen(None, "hello")},
    ]


def test_respond_prints_the_answer_and_speaks_it(
    recording: Path, tmp_path: Path, model: tuple[str, ...], pipeline: Pipeline
):
    out = tmp_path / "answer.wav"
    result = well("respond", recording, "--out", out, "--voice", "a man", "--seed", 2, *model)
    answer, spoken = pipeline.respond(recording, voice="a man", seed=2)
    assert result.stdout == answer + "\n"
    assert torch.allclose(load_audio(out), spoken.waveform.clamp(-1, 1), atol=1e-4)
    assert "absent.wav" in refused("respond", "absent.wav", "--out", out, *model)
    assert ".txt" in refused("respond", recording, "--out", tmp_path / "x.txt", *model)


def test_respond_stream_speaks_the_answer_that_it_prints(
    recording: Path, tmp_path: Path, model: tuple[str, ...], pipeline: Pipeline
):
    out = tmp_path / "live.wav"
    result = well("respond", recording, "--out", out, "--stream", "--seed", 2, *model)
    answer = pipeline.listen(recording)
    parts = list(pipeline.speak_stream(answer, seed=2, strict=False))
    assert result.stdout.strip() == answer
    assert load_audio(out).shape[-1] == sum(part.shape[-1] for part in parts)
    before = out.read_bytes()
    assert "absent.wav" in refused("respond", "absent.wav", "--out", out, "--stream", *model)
    assert out.read_bytes() == before


def test_the_demo_shows_its_answer_and_lists_the_files_it_wrote(tmp_path: Path, model: tuple[str, ...]):
    result = well("demo", "--out", tmp_path / "demo", *model)
    assert "it heard" in result.stdout and "it answered" in result.stdout
    for name in ("spoken.wav", "question.wav", "reply.wav", "reply.png"):
        assert (tmp_path / "demo" / name).stat().st_size > 100
        assert str(tmp_path / "demo" / name) in result.stdout
    assert "model.json" in refused("demo", "--out", tmp_path / "demo", "--model", tmp_path)


def test_the_doctor_ends_with_one_where_something_is_missing(monkeypatch: pytest.MonkeyPatch):
    from ira.inference import doctor

    monkeypatch.setattr(doctor, "examine", lambda: [doctor.Finding("torch", "2.13")])
    assert well("doctor").stdout == "torch  2.13\n"
    monkeypatch.setattr(doctor, "examine", lambda: [doctor.Finding("weights", "none", "copy them")])
    result = ira("doctor")
    assert result.exit_code == 1 and result.stdout == "weights  none; copy them\n"
