"""A configuration in, a model folder out: the stages in order, each with the weights of the one before.

RUN/config.json holds what was asked, RUN/metrics.jsonl every figure, RUN/STAGE the state that resumes a stage, and
RUN/model the model so far: `ira speak --model RUN/model` works as soon as the speech stage has ended.
"""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path

import torch
from torch import nn

from ira.audio.codec import Codec, load_codec
from ira.audio.compact import CompactCodec
from ira.checkpoint import load_model, load_state, load_weights, save_model, save_tensors, write_aside
from ira.config import STAGES, Config, StageName
from ira.console import warn
from ira.data.manifest import Row, read_manifest
from ira.data.prepare import prepare
from ira.data.shards import Fingerprint, TokenShards
from ira.data.text import CharTokenizer
from ira.errors import InputError
from ira.models.adapter import Adapter
from ira.models.audio_llm import AudioLLM
from ira.models.bundle import (
    LORA_KIND,
    bundled_audio_llm,
    bundled_llm,
    mixed_layers,
    read_model_card,
    write_card,
)
from ira.models.llm import load_llm, lora_state
from ira.models.speech_lm import SpeechLM
from ira.models.voice_encoder import VoiceEncoder
from ira.runtime import make_trackers, pick_device, pick_threads, run_folder, seed_everything
from ira.training.align import AlignTraining
from ira.training.codec import CodecTraining
from ira.training.conversations import conversations
from ira.training.loop import Stage, fit
from ira.training.reinforce import ReinforceTraining
from ira.training.speech import SpeechTraining, VoiceTable
from ira.training.voice import VoiceTraining

HELD_OUT_TURNS = 16  # held-out rows that align and reinforce are judged on


@dataclass
class Run:
    """Where a run lives and what it computes on."""

    config: Config
    folder: Path
    device: torch.device

    @property
    def model(self) -> Path:
        return self.folder / "model"


def train(config: Config, only: StageName | None = None) -> Path:
    """Run the stages of `config` (or `only` one) and return the model folder. Finished stages are not run again.

    Raises:
        InputError: a stage's predecessor is missing, data or weights do not fit; says which and what to do.
    """
    run = Run(config, run_folder(config.run_dir), pick_device(config.device))
    pick_threads(config.train.threads)
    run.model.mkdir(exist_ok=True)
    _same_parts(run)
    with write_aside(run.folder / "config.json") as aside:
        aside.write_text(config.model_dump_json(indent=2) + "\n", encoding="utf-8")
    write_card(run.model, config)
    trackers = make_trackers(config.log.trackers, run.folder, config.log.wandb_project)
    try:
        names: list[StageName] = [only] if only else config.train.stages
        for name in names:
            if name == "codec" and config.codec.kind != "compact":
                warn("codec: EnCodec comes trained; the stage is passed over")
                continue  # its weights are the user's download
            _run_stage(run, name, trackers)
    finally:
        for tracker in trackers:
            tracker.close()
    return run.model


def _same_parts(run: Run) -> None:
    """Refuse to go on beside another codec or LLM than that of the stages that are done.

    Where the compact codec started from and how long an answer may be are free to change.
    """
    if not (run.model / "model.json").is_file() or not any((run.folder / name / "done").exists() for name in STAGES):
        return
    card, free = read_model_card(run.model), {"codec": {"path"} if run.config.codec.kind == "compact" else set()}
    free["llm"] = {"max_new_tokens"}
    for name, there, wanted in (("codec", card.codec, run.config.codec), ("llm", card.llm, run.config.llm)):
        old, new = there.model_dump(exclude=free[name]), wanted.model_dump(exclude=free[name])
        for key in (key for key in old if old[key] != new[key]):
            raise InputError(
                f"{run.folder}: stages are done with {name}.{key} {old[key]!r}, the configuration has {new[key]!r}; "
                "give another run_dir"
            )


def _run_stage(run: Run, name: StageName, trackers: list) -> None:
    done = run.folder / name / "done"
    if done.exists():
        warn(f"{name}: done, not run again; give another run_dir to train anew")
        return
    seed_everything(run.config.train.seed)
    stage, publish = BUILDERS[name](run)
    fit(stage, run.config.train, run_folder(run.folder / name), run.device, trackers)
    publish()
    done.touch()


Built = tuple[Stage, Callable[[], None]]


def _codec(run: Run) -> Built:
    """Starts from scratch, or from the weights that codec.path names (fine-tuning)."""
    path = run.config.codec.path
    codec = load_model(CompactCodec, path, "codec") if path else CompactCodec(run.config.codec.compact)
    rows, held_out = _rows(run.config.data.train), _rows(run.config.data.val)
    stage = CodecTraining(codec.to(run.device), rows, held_out, run.config.train.codec, run.device)
    return stage, lambda: _publish(run, "codec", codec)


def _voice(run: Run) -> Built:
    codec = _load_codec(run)
    encoder = VoiceEncoder(run.config.voice, text_vocab=CharTokenizer().vocab_size).to(run.device)
    shards = (open_shards(run, codec, "train"), open_shards(run, codec, "val"))
    stage = VoiceTraining(encoder, codec, *shards, run.config.train.voice, run.device)
    return stage, lambda: _publish(run, "voice", encoder)


def _speech(run: Run) -> Built:
    codec = _load_codec(run)
    encoder = load_model(VoiceEncoder, run.model, "voice").to(run.device)
    shards, held_out = open_shards(run, codec, "train"), open_shards(run, codec, "val")
    model = SpeechLM(
        run.config.speech,
        codebooks=shards.codebooks,
        codebook_size=codec.codebook_size,
        text_vocab=CharTokenizer().vocab_size,
        voice_dim=encoder.config.dim,
    ).to(run.device)
    voices = VoiceTable(encoder, codec, shards)
    settings = run.config.train.speech
    stage = SpeechTraining(model, voices, shards, held_out, settings, run.device, codec.frame_rate)
    return stage, lambda: _publish(run, "speech_lm", model)


def _align(run: Run) -> Built:
    codec = _load_codec(run)
    shards, held_out = open_shards(run, codec, "train"), open_shards(run, codec, "val")
    audio_llm = _new_ears(run, codec)
    settings = run.config.train.align
    turns = conversations(audio_llm, shards, settings)
    judged = conversations(audio_llm, held_out, settings, limit=HELD_OUT_TURNS)
    stage = AlignTraining(audio_llm, shards, turns, held_out, judged, settings, run.device, codec.frame_rate)
    return stage, lambda: _publish_ears(run, audio_llm)


def _reinforce(run: Run) -> Built:
    codec = _load_codec(run)
    shards, held_out = open_shards(run, codec, "train"), open_shards(run, codec, "val")
    audio_llm = _aligned_ears(run)
    turns = conversations(audio_llm, shards, run.config.train.align)
    judged = conversations(audio_llm, held_out, run.config.train.align, limit=HELD_OUT_TURNS)
    stage = ReinforceTraining(audio_llm, shards, turns, held_out, judged, run.config.train.reinforce, run.device)
    return stage, lambda: _publish_ears(run, audio_llm)


BUILDERS: dict[StageName, Callable[[Run], Built]] = {
    "codec": _codec,
    "voice": _voice,
    "speech": _speech,
    "align": _align,
    "reinforce": _reinforce,
}


def _new_ears(run: Run, codec: Codec) -> AudioLLM:
    """The trained SpeechLM, a new adapter as wide as the LLM, and the LLM with new LoRA."""
    if run.config.llm.fresh and not (run.model / "llm").is_dir():
        fresh = load_llm(run.config.llm, run.device, torch.bfloat16, lora=False)
        fresh.model.save_pretrained(run.model / "llm")
        fresh.tokenizer.save_pretrained(run.model / "llm")
    llm = bundled_llm(run.model, run.device, new_lora=True)
    speech_lm = load_model(SpeechLM, run.model, "speech_lm").to(run.device)
    layers = mixed_layers(speech_lm.config.layers, run.config.adapter.mix_layers)
    adapter = Adapter(
        run.config.adapter,
        source_width=speech_lm.config.width,
        source_layers=len(layers),
        target_width=llm.width,
        frame_rate=codec.frame_rate,
    ).to(run.device)
    adapter.match_scale(llm.model.get_input_embeddings().weight)
    return AudioLLM(speech_lm, adapter, llm, layers)


def _aligned_ears(run: Run) -> AudioLLM:
    """The ears with the LoRA that `align` ended with; that of the model folder may have been reinforced already."""
    path = run.folder / "align" / "best.pt"
    if not path.is_file():
        raise InputError(f"{path}: the align stage of this run is missing; run --stage align first")
    audio_llm = bundled_audio_llm(run.model, run.device, new_lora=True)
    rounded = {name: weight.bfloat16() for name, weight in load_state(path)["lora"].items()}  # as it was published
    if audio_llm.language.load_state_dict(rounded, strict=False).unexpected_keys:
        raise InputError(f"{path}: is of another model; use another run_dir")
    return audio_llm


def _load_codec(run: Run) -> Codec:
    codec = load_codec(run.config.codec, run.model)
    if isinstance(codec, CompactCodec) and not (run.model / "codec.json").is_file():
        save_model(run.model, "codec", codec)  # from codec.path: a model folder holds all that it needs
        write_card(run.model, run.config)
    return codec.to(run.device) if isinstance(codec, nn.Module) else codec  # type: ignore[return-value]


def _rows(manifests: list[str]) -> list[Row]:
    found = [read_manifest(path) for path in manifests]
    unusable = sum(not problem.is_note for _, problems in found for problem in problems)
    if unusable:
        warn(f"{unusable} rows unusable; run ira validate {' '.join(manifests)}")
    return [row for rows, _ in found for row in rows]


def open_shards(run: Run, codec: Codec, split: str) -> TokenShards:
    """Token shards of a split, each codec's in a folder of its own, brought up to date with the manifests.

    Where the manifests are gone, the shards are used as they are.
    """
    data, tokenizer = run.config.data, CharTokenizer()
    manifests = data.train if split == "train" else data.val
    folder = Path(data.shards) / codec.fingerprint().replace(":", "-") / split
    if any(Path(path).exists() for path in manifests) or not folder.exists():
        report = prepare(manifests, folder, codec, tokenizer, workers=data.workers, max_seconds=data.max_seconds)
        if report.refused:
            warn(f"{split}: {len(report.refused)} rows refused, {report.rows} used; see {folder / 'report.json'}")
    return TokenShards(folder, Fingerprint(codec.fingerprint(), tokenizer.fingerprint()))


def _publish(run: Run, name: str, module: nn.Module) -> None:
    """Into the model folder, as bf16: half the size, and what training computed in."""
    save_model(run.model, name, module, dtype=torch.bfloat16)  # type: ignore[arg-type]
    write_card(run.model, run.config)
    load_weights(module, run.model, name)  # what follows reads the weights as they were written


def _publish_ears(run: Run, audio_llm: AudioLLM) -> None:
    _publish(run, "adapter", audio_llm.adapter)
    lora = lora_state(audio_llm.llm)
    if not lora:
        raise InputError("the LLM has no LoRA to publish; set llm.lora")
    save_tensors(run.model, "lora", lora, kind=LORA_KIND, dtype=torch.bfloat16)
    write_card(run.model, run.config)
