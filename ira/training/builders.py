"""A run's configuration and the weights of the stages before in; a stage to train and what to publish after it, out."""

from __future__ import annotations

import os
import shutil
from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path

import torch
from torch import nn

from ira.audio.codec import RELEASED_ENCODEC, Codec, load_codec
from ira.audio.compact import CompactCodec
from ira.checkpoint import load_model, load_tensors, save_model, save_tensors, weights_hash
from ira.config import AugmentConfig, Config, DataConfig, StageName
from ira.console import warn
from ira.data.manifest import Row, read_manifest
from ira.data.prepare import prepare
from ira.data.pronunciation import SpeechTokenizer
from ira.data.shards import Fingerprint, TokenShards, language_of, split_folder
from ira.data.text import CharTokenizer
from ira.errors import InputError
from ira.inference.voice_file import Voice, save_voice
from ira.inference.voices import DEFAULT_FILE
from ira.models.adapter import Adapter
from ira.models.audio_llm import AudioLLM
from ira.models.bundle import LORA_KIND, bundled_audio_llm, bundled_llm, mixed_layers, write_card
from ira.models.llm import load_llm, load_lora_state, lora_state
from ira.models.speech_lm import SpeechLM
from ira.models.voice_encoder import VoiceEncoder
from ira.processes import first_alone, first_does, rank
from ira.runtime import seed_everything
from ira.training.align import AlignTraining
from ira.training.codec import CodecTraining
from ira.training.conversations import Turn, conversations, spoken_tokens
from ira.training.finetune import TrainableEncodec
from ira.training.parallel import whole
from ira.training.reinforce import ReinforceTraining
from ira.training.speech import SpeechTraining, VoiceTable, rows_with_text
from ira.training.stage import Stage
from ira.training.traits import trait_words
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


Built = tuple[Stage, Callable[[], None]]


def _codec(run: Run) -> Built:
    """Starts from scratch, or from the weights that codec.path names (fine-tuning); EnCodec always from weights."""
    path, settings = run.config.codec.path, run.config.train.codec
    rows, held_out = _rows(run.config.data.train), _rows(run.config.data.val)
    if run.config.codec.kind == "encodec":
        released = TrainableEncodec.from_pretrained(path or RELEASED_ENCODEC, run.config.codec.bandwidth_kbps)
        stage = CodecTraining(released.to(run.device), rows, held_out, settings, run.device)
        return stage, lambda: first_does(lambda: _publish_encodec(run, released))
    codec = load_model(CompactCodec, path, "codec") if path else CompactCodec(run.config.codec.compact)
    stage = CodecTraining(codec.to(run.device), rows, held_out, settings, run.device)
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
        text_vocab=SpeechTokenizer().vocab_size,
        voice_dim=encoder.config.dim,
        languages=sorted({language_of(shards[i]) for i in rows_with_text(shards)}),
    ).to(run.device)
    model.start_from(codec.code_vectors())
    voices = first_alone(lambda: VoiceTable(encoder, codec, shards))
    settings = run.config.train.speech
    stage = SpeechTraining(model, voices, shards, held_out, settings, run.device, codec.frame_rate)

    def publish() -> None:
        _publish(run, "speech_lm", model)
        first_does(lambda: _publish_default_voice(run, voices, shards))

    return stage, publish


def _align(run: Run) -> Built:
    codec = _load_codec(run)
    shards, held_out = open_shards(run, codec, "train"), open_shards(run, codec, "val")
    audio_llm = _new_ears(run, codec, shards)
    turns, judged = _turns(run, audio_llm, shards, held_out)
    settings = run.config.train.align
    stage = AlignTraining(audio_llm, shards, turns, held_out, judged, settings, run.device, codec.frame_rate)

    def publish() -> None:
        _publish_ears(run, audio_llm)
        _write_lora(run.folder / "align", audio_llm)  # that of the model folder will be reinforced

    return stage, publish


def _reinforce(run: Run) -> Built:
    codec = _load_codec(run)
    shards, held_out = open_shards(run, codec, "train"), open_shards(run, codec, "val")
    audio_llm = _aligned_ears(run)
    turns, judged = _turns(run, audio_llm, shards, held_out)
    stage = ReinforceTraining(audio_llm, shards, turns, held_out, judged, run.config.train.reinforce, run.device)
    return stage, lambda: _publish_ears(run, audio_llm)


BUILDERS: dict[StageName, Callable[[Run], Built]] = {
    "codec": _codec,
    "voice": _voice,
    "speech": _speech,
    "align": _align,
    "reinforce": _reinforce,
}


def _turns(run: Run, audio_llm: AudioLLM, shards: TokenShards, held_out: TokenShards) -> tuple[list[Turn], list[Turn]]:
    """Prompts with answers to learn, and those to be judged on."""
    settings = run.config.train.align
    return first_alone(
        lambda: (
            conversations(audio_llm, shards, settings),
            conversations(audio_llm, held_out, settings, limit=HELD_OUT_TURNS),
        )
    )


def _new_ears(run: Run, codec: Codec, shards: TokenShards) -> AudioLLM:
    """The trained SpeechLM, a new adapter as wide as the LLM, and the LLM with new LoRA."""
    if run.config.llm.fresh:
        first_does(lambda: _keep_fresh_llm(run))
        seed_everything(run.config.train.seed)  # new LoRA and adapter are the same whether it was drawn now or earlier
    llm = bundled_llm(run.model, run.device, new_lora=True)
    speech_lm = load_model(SpeechLM, run.model, "speech_lm").to(run.device)
    layers = mixed_layers(speech_lm.config.layers, run.config.adapter.mix_layers)
    adapter = Adapter(
        run.config.adapter,
        source_width=speech_lm.config.width,
        source_layers=len(layers),
        target_width=llm.width,
        frame_rate=codec.frame_rate,
        tokens=spoken_tokens(llm.tokenizer, shards),
        traits=trait_words(llm.tokenizer),
    ).to(run.device)
    adapter.match_scale(llm.model.get_input_embeddings().weight)
    return AudioLLM(speech_lm, adapter, llm, layers)


def _keep_fresh_llm(run: Run) -> None:
    """Into the model folder, whole or not at all: its weights are drawn once."""
    folder, aside = run.model / "llm", run.model / ".llm.partial"
    if folder.is_dir():
        return
    shutil.rmtree(aside, ignore_errors=True)
    fresh = load_llm(run.config.llm, run.device, torch.bfloat16, lora=False)
    fresh.model.save_pretrained(aside)
    fresh.tokenizer.save_pretrained(aside)
    os.rename(aside, folder)


def _aligned_ears(run: Run) -> AudioLLM:
    """The ears with the LoRA that `align` ended with; that of the model folder may have been reinforced already."""
    folder = run.folder / "align"
    if not (folder / "lora.json").is_file():
        raise InputError(f"{folder}: the align stage of this run is missing; run --stage align first")
    audio_llm = bundled_audio_llm(run.model, run.device, new_lora=True)
    load_lora_state(audio_llm.llm, load_tensors(folder, "lora", LORA_KIND))
    return audio_llm


def _load_codec(run: Run) -> Codec:
    codec = load_codec(run.config.codec, run.model)
    if isinstance(codec, CompactCodec):
        first_does(lambda: _keep_codec(run, codec))
    return codec.to(run.device) if isinstance(codec, nn.Module) else codec  # type: ignore[return-value]


def _publish_encodec(run: Run, codec: TrainableEncodec) -> None:
    """Written aside and renamed, and the card beside it."""
    aside, own = run.model / ".encodec.partial", run.model / "encodec"
    shutil.rmtree(aside, ignore_errors=True)
    codec.save(aside)
    shutil.rmtree(own, ignore_errors=True)
    os.rename(aside, own)
    write_card(run.model, run.config)


def _publish_default_voice(run: Run, voices: VoiceTable, shards: TokenShards) -> None:
    """Who was heard most in training is said best: the voice of a text that comes without one."""
    speaker, embedding = voices.most_heard(shards, "en")
    made = Voice(embedding, weights_hash(run.model, "voice"), f"the training recordings of {speaker}")
    save_voice(run.model / DEFAULT_FILE, made, consent="that of the training data")


def _keep_codec(run: Run, codec: CompactCodec) -> None:
    """From codec.path into the model folder, which holds all that it needs."""
    if not (run.model / "codec.json").is_file():
        save_model(run.model, "codec", codec)
        write_card(run.model, run.config)


def _rows(manifests: list[str]) -> list[Row]:
    found = [read_manifest(path) for path in manifests]
    unusable = sum(not problem.is_note for _, problems in found for problem in problems)
    if unusable and rank() == 0:
        warn(f"{unusable} rows unusable; run ira validate {' '.join(manifests)}")
    return [row for rows, _ in found for row in rows]


def open_shards(run: Run, codec: Codec, split: str) -> TokenShards:
    """Token shards of a split, each codec's in a folder of its own, brought up to date with the manifests.

    Where the manifests are gone, the shards are used as they are.
    """
    data, tokenizer = run.config.data, CharTokenizer()
    manifests = data.train if split == "train" else data.val
    folder = split_folder(data.shards, codec.fingerprint(), split)
    if any(Path(path).exists() for path in manifests) or not folder.exists():
        augment = data.augment if split == "train" else None  # what is judged on stays as it was recorded
        first_does(lambda: _prepare(manifests, folder, codec, data, augment))
    return TokenShards(folder, Fingerprint(codec.fingerprint(), tokenizer.fingerprint()))


def _prepare(manifests: list[str], folder: Path, codec: Codec, data: DataConfig, augment: AugmentConfig | None) -> None:
    made = prepare(
        manifests,
        folder,
        codec,
        CharTokenizer(),
        workers=data.workers,
        max_seconds=data.max_seconds,
        augment=augment,
    )
    if made.refused:
        warn(f"{folder.name}: {len(made.refused)} rows refused, {made.rows} used; see {folder / 'report.json'}")


def _publish(run: Run, name: str, module: nn.Module) -> None:
    """Into the model folder, as bf16: half the size, and what training computed in."""
    tensors = {key: whole(value) for key, value in module.state_dict().items()}
    kind, hparams = type(module).__name__, module.hparams()  # type: ignore[operator]
    first_does(lambda: save_tensors(run.model, name, tensors, kind=kind, hparams=hparams, dtype=torch.bfloat16))
    first_does(lambda: write_card(run.model, run.config))


def _publish_ears(run: Run, audio_llm: AudioLLM) -> None:
    _publish(run, "adapter", audio_llm.adapter)
    _write_lora(run.model, audio_llm)
    first_does(lambda: write_card(run.model, run.config))


def _write_lora(folder: Path, audio_llm: AudioLLM) -> None:
    lora = {name: whole(weight) for name, weight in lora_state(audio_llm.llm).items()}
    if not lora:
        raise InputError("the LLM has no LoRA to publish; set llm.lora")
    first_does(lambda: save_tensors(folder, "lora", lora, kind=LORA_KIND, dtype=torch.bfloat16))
