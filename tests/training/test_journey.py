"""Every stage in a row on a dozen recordings of tones, each for a few steps, and the model folder that comes out."""

from __future__ import annotations

import json
import shutil
import subprocess
import sys
from pathlib import Path
from typing import Any

import pytest
import torch
from torch.distributed.checkpoint.hf_storage import HuggingFaceStorageReader

from ira.audio.waveform import SAMPLE_RATE, save_audio
from ira.checkpoint import load_tensors, save_tensors, weights_hash
from ira.config import STAGES, Config
from ira.config_file import check_config
from ira.errors import InputError
from ira.inference.pipeline import Pipeline
from ira.models.bundle import LORA_KIND, bundled_audio_llm, bundled_codec, read_model_card
from ira.training.builders import Run, _aligned_ears, _new_ears, _rows, open_shards
from ira.training.journey import train
from ira.training.speech import SpeechTraining
from ira.training.state import read_checkpoint

CPU = torch.device("cpu")


def record(folder: Path, count: int, first: int) -> str:
    """A split folder with `count` recordings of tones by two speakers."""
    rows = []
    for i in range(count):
        time = torch.arange(int((0.4 + 0.05 * (i % 4)) * SAMPLE_RATE)) / SAMPLE_RATE
        pitch = (140, 260)[i % 2] + 5 * i
        wave = sum(torch.sin(2 * torch.pi * pitch * h * time) / h for h in (1, 2, 3))
        save_audio(folder / "audio_files" / f"{i}.wav", 0.2 * wave[None])  # type: ignore[index]
        gender = ("male", "female")[i % 2]
        rows.append(
            {"audio_file": f"audio_files/{i}.wav", "text": "ab cd ef gh"[: 2 + i % 5], "speaker_id": first + i % 2}
        )
        rows[-1] |= {"gender": gender, "description": f"a {gender} tone"}
    (folder / f"{folder.name}.json").write_text(json.dumps(rows))
    return str(folder)


def configure(folder: Path, llm: Path, **train_settings: Any) -> Config:
    """Every part as small as it goes, two steps each."""
    steps = {"steps": 2, "warmup_steps": 1, "accumulation": 1, "validate_every": 1}
    stage = steps | {"batch_seconds": 2.0}
    return check_config(
        {
            "run_dir": str(folder / "run"),
            "device": "cpu",
            "codec": {
                "bandwidth_kbps": 1.5,
                "compact": {"width": 16, "encoder_layers": 1, "decoder_layers": 1, "mel_bins": 20, "codebooks": 3}
                | {"codebook_size": 16, "code_dim": 4},
            },
            "voice": {"mel_bins": 20, "hidden": 16, "dim": 8, "layers": 1, "heads": 2, "text_hidden": 16}
            | {"text_layers": 1, "crop_seconds": 0.3},
            "speech": {"layers": 2, "width": 16, "heads": 2, "max_steps": 400, "text_layers": 1}
            | {"codebook_weights": [2, 1]},
            "adapter": {"layers": 1, "queries": 2, "window_seconds": 1.0, "width": 16, "heads": 2, "mix_layers": 2},
            "llm": {"name": str(llm), "lora": {"r": 2, "alpha": 4}, "max_new_tokens": 4},
            "data": {"train": [str(folder / "train")], "val": [str(folder / "val")], "shards": str(folder / "shards")}
            | {"max_seconds": 5.0},
            "train": {
                **{name: stage for name in ("codec", "voice", "speech")},
                "align": stage | {"teacher_responses": 4, "response_tokens": 6},
                "reinforce": steps | {"rollouts": 4, "epochs": 1, "response_tokens": 4},
                **train_settings,
            },
            "log": {"trackers": []},
        }
    )


@pytest.fixture(scope="module")
def finished(tmp_path_factory: pytest.TempPathFactory, tiny_llm_folder: Path) -> Config:
    """The configuration of a run whose stages are all done. Tests must not change its folder."""
    folder = tmp_path_factory.mktemp("journey")
    record(folder / "train", 8, 0)
    record(folder / "val", 4, 2)
    config = configure(folder, tiny_llm_folder)
    assert train(config) == folder / "run" / "model"
    return config


def copied(finished: Config, folder: Path, *, without: list[str]) -> Config:
    """The finished run as it was before the stages `without`, and its configuration with checkpoints at every step."""
    run = shutil.copytree(finished.run_dir, folder / "run")
    for stage in without:
        shutil.rmtree(run / stage)
    settings = finished.train.model_copy(update={"checkpoint_minutes": 1e-9})
    return finished.model_copy(update={"run_dir": str(run), "train": settings})


def shards_of(config: Config, fingerprint: str) -> Path:
    return Path(config.data.shards) / fingerprint.replace(":", "-") / "train"


def state_of(folder: Path) -> dict[str, int]:
    return {str(path): path.stat().st_mtime_ns for path in sorted(folder.rglob("*")) if path.is_file()}


def test_every_stage_leaves_its_mark_its_figures_and_its_part_of_the_model(finished):
    run = Path(finished.run_dir)
    assert all((run / stage / "done.json").is_file() for stage in STAGES)
    model = {path.name for path in (run / "model").iterdir()}
    parts = ("codec", "voice", "speech_lm", "adapter", "lora")
    assert model == {
        "model.json",
        "default.voice",
        *(f"{part}.{kind}" for part in parts for kind in ("safetensors", "json")),
    }
    lines = [json.loads(line) for line in (run / "metrics.jsonl").read_text().splitlines()]
    assert list(dict.fromkeys(line["stage"] for line in lines)) == list(STAGES)
    losses = [line["loss"] for line in lines if "loss" in line]
    assert len(losses) == 2 * len(STAGES) and None not in losses
    assert not any(line.get("dropped_steps") for line in lines)
    (ratio, *_) = [line["ratio"] for line in lines if "ratio" in line]
    assert ratio == 1.0


def test_the_model_folder_speaks_and_listens(finished):
    folder = Path(finished.run_dir) / "model"
    assert read_model_card(folder).codec.codebooks == 2
    assert bundled_codec(folder, CPU).codebooks == 2
    ears = bundled_audio_llm(folder, CPU)
    assert any("lora_B" in name and bool(p.any()) for name, p in ears.language.named_parameters())
    pipeline = Pipeline.from_folder(folder)
    spoken = pipeline.speak("ab cd")
    assert spoken.waveform.numel() > 0 and bool(spoken.waveform.isfinite().all())
    assert isinstance(pipeline.listen(spoken.waveform), str)


def test_a_second_call_trains_nothing(finished, capsys):
    run = Path(finished.run_dir)
    before = {path: time for path, time in state_of(run).items() if Path(path).suffix == ".safetensors"}
    lines = (run / "metrics.jsonl").read_text()
    train(finished)
    said = capsys.readouterr().err
    assert all(f"{stage}: done" in said for stage in STAGES)
    assert (run / "metrics.jsonl").read_text() == lines
    assert before and before.items() <= state_of(run).items()


def test_a_stage_that_was_killed_is_taken_up_and_ends_with_the_same_weights(finished, tmp_path, monkeypatch):
    config, losses, loss = copied(finished, tmp_path, without=["speech"]), [], SpeechTraining.loss

    def dies(self, batch, share_done):
        losses.append(share_done)
        if len(losses) == 2:
            raise KeyboardInterrupt
        return loss(self, batch, share_done)

    monkeypatch.setattr(SpeechTraining, "loss", dies)
    with pytest.raises(KeyboardInterrupt):
        train(config, "speech")
    assert not (Path(config.run_dir) / "speech" / "done.json").exists()
    monkeypatch.setattr(SpeechTraining, "loss", loss)
    train(config, "speech")
    lines = [json.loads(line) for line in (Path(config.run_dir) / "metrics.jsonl").read_text().splitlines()]
    steps = [line["step"] for line in lines if line["stage"] == "speech" and "loss" in line]
    assert steps == [1, 2, 1, 2]  # the first two are the finished run's
    same = [weights_hash(Path(c.run_dir) / "model", "speech_lm") for c in (finished, config)]
    assert same[0] == same[1]


def test_a_stage_without_its_predecessor_says_what_is_missing(finished, tmp_path):
    config = finished.model_copy(update={"run_dir": str(tmp_path / "new")})
    with pytest.raises(InputError, match="codec"):
        train(config, "speech")


def test_a_codec_that_is_tuned_further_is_the_one_that_the_later_stages_use(finished, tmp_path):
    """`codec.path` is where the codec stage starts from; what it makes of it stands in the run's own model folder."""
    codec = finished.codec.model_copy(update={"path": str(Path(finished.run_dir) / "model")})
    config = finished.model_copy(update={"run_dir": str(tmp_path / "tuned"), "codec": codec})
    train(config, "codec")
    train(config.model_copy(update={"codec": finished.codec}), "voice")  # the path is but where it started from
    own, start = (Path(c.run_dir) / "model" for c in (config, finished))
    assert weights_hash(own, "codec") != weights_hash(start, "codec")
    assert bundled_codec(own, CPU).fingerprint() != bundled_codec(start, CPU).fingerprint()
    for model in (own, start):  # side by side in one data.shards
        fingerprint = bundled_codec(model, CPU).fingerprint()
        meta = json.loads((shards_of(finished, fingerprint) / "meta.json").read_text())
        assert meta["fingerprint"]["codec"] == fingerprint


def test_a_codec_from_elsewhere_is_kept_in_the_model_folder(finished, tmp_path):
    source = Path(finished.run_dir) / "model"
    codec = finished.codec.model_copy(update={"path": str(source)})
    config = finished.model_copy(update={"run_dir": str(tmp_path / "run"), "codec": codec})
    model = train(config, "voice")
    assert bundled_codec(model, CPU).fingerprint() == bundled_codec(source, CPU).fingerprint()
    assert (model / "codec.safetensors").is_file()


def test_another_codec_or_llm_is_refused_once_a_stage_is_done(finished, tmp_path):
    config = copied(finished, tmp_path, without=[])
    before = state_of(Path(config.run_dir))
    other = config.model_copy(update={"codec": config.codec.model_copy(update={"bandwidth_kbps": 0.75})})
    with pytest.raises(InputError, match="codec.bandwidth_kbps 1.5, the configuration has 0.75; give another run_dir"):
        train(other)
    other = config.model_copy(update={"llm": config.llm.model_copy(update={"name": "embedded"})})
    with pytest.raises(InputError, match="llm.name .* has 'embedded'; give another run_dir"):
        train(other)
    assert state_of(Path(config.run_dir)) == before


def test_a_stage_whose_ground_was_trained_anew_is_refused_until_it_is_deleted(finished, tmp_path):
    config = copied(finished, tmp_path, without=["codec"])
    train(config.model_copy(update={"train": config.train.model_copy(update={"seed": 5})}), "codec")
    with pytest.raises(InputError, match="voice: was trained with another codec than that of .*; delete it to train"):
        train(config, "voice")
    shutil.rmtree(Path(config.run_dir) / "voice")
    train(config, "voice")


def test_another_shape_of_a_part_that_is_done_is_refused_and_the_record_stays(finished, tmp_path):
    config = copied(finished, tmp_path, without=[])
    record = (Path(config.run_dir) / "config.json").read_text()
    other = config.model_copy(update={"speech": config.speech.model_copy(update={"layers": 3})})
    with pytest.raises(InputError, match="done with speech.layers 2, the configuration has 3; give another run_dir"):
        train(other)
    assert (Path(config.run_dir) / "config.json").read_text() == record


def test_encodec_has_no_codec_stage_and_says_so(finished, tmp_path, capsys):
    codec = finished.codec.model_copy(update={"kind": "encodec"})
    train(finished.model_copy(update={"run_dir": str(tmp_path / "run"), "codec": codec}), "codec")
    assert "EnCodec comes trained" in capsys.readouterr().err


def test_align_begins_with_new_lora_and_reinforce_with_that_of_align(finished, tmp_path):
    run = Run(copied(finished, tmp_path, without=[]), tmp_path / "run", CPU)
    kept = load_tensors(run.folder / "align", "lora", LORA_KIND)
    for name, tensor in kept.items():
        tensor.fill_(0.25 if "lora_B" in name else 0.5)
    save_tensors(run.folder / "align", "lora", kept, kind=LORA_KIND)
    named = {name: p for name, p in _aligned_ears(run).language.named_parameters() if "lora_" in name}
    assert named and all(bool((p == (0.25 if "lora_B" in name else 0.5)).all()) for name, p in named.items())
    codec = bundled_codec(run.model, CPU)
    ears = _new_ears(run, codec, open_shards(run, codec, "train"))
    assert not any(bool(p.any()) for name, p in ears.language.named_parameters() if "lora_B" in name)
    shutil.rmtree(run.folder / "align")
    with pytest.raises(InputError, match="run --stage align first"):
        _aligned_ears(run)


def test_changed_data_is_followed_and_without_manifests_the_shards_are_used_as_they_are(finished, tmp_path, capsys):
    record(tmp_path / "train", 4, 0)
    data = finished.data.model_copy(update={"train": [str(tmp_path / "train")], "shards": str(tmp_path / "shards")})
    run = Run(finished.model_copy(update={"data": data}), Path(finished.run_dir), CPU)
    codec = bundled_codec(run.model, CPU)
    assert len(open_shards(run, codec, "train")) == 4
    rows = json.loads((tmp_path / "train" / "train.json").read_text())
    rows[0]["audio_file"] = "audio_files/gone.wav"
    (tmp_path / "train" / "train.json").write_text(json.dumps(rows))
    assert len(open_shards(run, codec, "train")) == len(_rows(data.train)) == 3
    said = capsys.readouterr().err
    assert "train: 1 rows refused, 3 used; see" in said and "1 rows unusable; run ira validate" in said
    shutil.rmtree(tmp_path / "train")
    assert len(open_shards(run, codec, "train")) == 3


def test_a_lost_lora_is_noticed(finished, tmp_path):
    config = copied(finished, tmp_path, without=[])
    model = Path(config.run_dir) / "model"
    assert read_model_card(model).parts == ["codec", "voice", "speech_lm", "adapter", "lora"]
    (model / "lora.json").unlink()
    train(config)  # nothing is left to do, and what was stated is not forgotten
    with pytest.raises(InputError, match="lora.json: the LoRA of this model folder is missing"):
        bundled_audio_llm(model, CPU)


@pytest.fixture(scope="module")
def by_two(tmp_path_factory: pytest.TempPathFactory, tiny_llm_folder: Path) -> tuple[Config, Path]:
    """A run of one process with two micro-batches a step, and every stage of it again on two processes."""
    folder = tmp_path_factory.mktemp("by-two")
    record(folder / "train", 8, 0)
    record(folder / "val", 4, 2)
    plain = configure(folder, tiny_llm_folder, dtype="fp32").model_dump()
    for stage in STAGES:
        plain["train"][stage] |= {"steps": 3, "accumulation": 2, "validate_every": 3}
    plain["train"]["codec"]["adversarial_share"] = 0.7
    plain["train"]["reinforce"]["rollouts"] = 8
    config = check_config(plain)
    train(config)
    script, written = Path(__file__).parent / "ranks" / "stages.py", Path(config.run_dir) / "config.json"
    command = [
        sys.executable,
        "-m",
        "torch.distributed.run",
        "--standalone",
        "--max-restarts",
        "1",
        "--nproc-per-node",
        "2",
    ]
    done = subprocess.run([*command, script, written, folder], capture_output=True, text=True, timeout=300)
    assert done.returncode == 0, done.stderr[-3000:]
    return config, folder


def checkpointed(folder: Path) -> dict[str, torch.Tensor]:
    """All tensors of a stage's last checkpoint."""
    path = max(folder.glob("step-*"))
    there = HuggingFaceStorageReader(str(path)).read_metadata().state_dict_metadata
    tensors = {name: torch.zeros(entry.size, dtype=entry.properties.dtype) for name, entry in there.items()}  # type: ignore[union-attr]
    read_checkpoint(path, tensors)
    return tensors


@pytest.mark.parametrize("parallel", ["ddp", "fsdp"])
@pytest.mark.parametrize("stage", STAGES)
def test_two_processes_train_a_stage_as_one_does(stage, parallel, by_two):
    config, folder = by_two
    one, two = checkpointed(Path(config.run_dir) / stage), checkpointed(folder / f"{stage}-{parallel}" / stage)
    assert one.keys() == two.keys()
    for name in one:
        assert torch.allclose(one[name], two[name], atol=1e-5, rtol=1e-3), name
    lines = [json.loads(line) for line in (folder / f"{stage}-{parallel}" / "metrics.jsonl").read_text().splitlines()]
    alone = [json.loads(line) for line in (Path(config.run_dir) / "metrics.jsonl").read_text().splitlines()]
    losses = [[line["loss"] for line in some if line["stage"] == stage and "loss" in line] for some in (lines, alone)]
    assert len(losses[0]) == 3 and losses[0] == pytest.approx(losses[1], rel=1e-4, abs=1e-6)
