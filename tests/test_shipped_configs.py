"""Every file in configs/ loads, explains itself, and describes models of the stated size (built without memory)."""

from __future__ import annotations

from pathlib import Path

import pytest
import torch
import yaml
from pydantic import BaseModel
from torch import nn
from transformers import EncodecConfig, EncodecModel, LlamaConfig, LlamaForCausalLM

from ira.audio.compact import CompactCodec
from ira.config import STAGES, WHOLE_FRAMES, Config
from ira.config_file import load_config
from ira.data.pronunciation import SpeechTokenizer
from ira.data.text import CharTokenizer
from ira.models.adapter import Adapter
from ira.models.speech_lm import SpeechLM
from ira.models.voice_encoder import VoiceEncoder

ROOT = Path(__file__).parents[1]
SHIPPED = {path.stem: path for path in sorted((ROOT / "configs").glob("*.yaml"))}

# hidden, layers, heads, key-value heads, intermediate: the released SmolLM2 shapes, vocabulary 49152, tied embeddings
LLM_SHAPES = {
    "HuggingFaceTB/SmolLM2-1.7B-Instruct": (2048, 24, 32, 32, 8192),
    "HuggingFaceTB/SmolLM2-360M-Instruct": (960, 32, 15, 5, 2560),
    "embedded": (576, 30, 9, 3, 1536),
}

# Millions of parameters, as the documentation states them.
STATED = {
    "train_config": {"codec": 14.9, "voice": 14.9, "speech": 155.1, "adapter": 84.7, "llm": 1711.4, "lora": 18.1},
    "laptop": {"codec": 33.4, "voice": 5.1, "speech": 49.5, "adapter": 27.2, "llm": 361.8, "lora": 8.7},
    "tiny": {"codec": 12.0, "voice": 1.9, "speech": 10.0, "adapter": 4.8, "llm": 134.5, "lora": 2.4},
}


def build(config: Config) -> dict[str, nn.Module]:
    """Every part of the system on the meta device: shapes without values."""
    vocabulary, width = CharTokenizer().vocab_size, LLM_SHAPES[config.llm.name][0]
    with torch.device("meta"):
        return {
            "codec": codec_of(config),
            "voice": VoiceEncoder(config.voice, text_vocab=vocabulary),
            "speech": SpeechLM(
                config.speech,
                codebooks=config.codec.codebooks,
                codebook_size=1024,
                text_vocab=SpeechTokenizer().vocab_size,
                voice_dim=config.voice.dim,
                languages=["en"],
            ),
            "adapter": Adapter(
                config.adapter,
                source_width=config.speech.width,
                source_layers=config.adapter.mix_layers,
                target_width=width,
                frame_rate=75.0,
                tokens=range(8000),
            ),
            "llm": llm_of(config),
        }


def codec_of(config: Config) -> nn.Module:
    return EncodecModel(EncodecConfig()) if config.codec.kind == "encodec" else CompactCodec(config.codec.compact)


def llm_of(config: Config) -> nn.Module:
    hidden, layers, heads, key_value_heads, intermediate = LLM_SHAPES[config.llm.name]
    shape = LlamaConfig(
        vocab_size=49152,
        hidden_size=hidden,
        num_hidden_layers=layers,
        num_attention_heads=heads,
        num_key_value_heads=key_value_heads,
        intermediate_size=intermediate,
        tie_word_embeddings=True,
    )
    return LlamaForCausalLM(shape)


def lora_size(config: Config, llm: nn.Module) -> int:
    """A pair of matrices, rank x inputs and outputs x rank, for every projection that is adapted."""
    adapted = [m for name, m in llm.named_modules() if name.rsplit(".", 1)[-1] in config.llm.lora.targets]
    assert adapted
    return sum(config.llm.lora.r * (int(m.in_features) + int(m.out_features)) for m in adapted)  # type: ignore[arg-type]


def sizes(config: Config) -> dict[str, int]:
    parts = build(config)
    assert all(p.is_meta for part in parts.values() for p in part.parameters())
    counts = {name: sum(p.numel() for p in part.parameters()) for name, part in parts.items()}
    return {**counts, "lora": lora_size(config, parts["llm"])}


def test_the_three_sizes_are_shipped():
    assert set(SHIPPED) == set(STATED)


@pytest.mark.parametrize("name", SHIPPED)
def test_every_part_has_the_stated_size(name: str):
    millions = {part: round(count / 1e6, 1) for part, count in sizes(load_config(SHIPPED[name])).items()}
    assert millions == STATED[name]


@pytest.mark.parametrize("name", SHIPPED)
def test_every_key_has_a_comment(name: str):
    previous = ""
    for line in SHIPPED[name].read_text(encoding="utf-8").splitlines():
        holds_value = ":" in line.split("#")[0] and not line.split("#")[0].rstrip().endswith(":")
        assert not holds_value or "#" in line or previous.lstrip().startswith("#"), line
        previous = line


def keys(section: type[BaseModel], prefix: str = "") -> set[str]:
    """Dotted names of all values of a section."""
    found = set()
    for name, field in section.model_fields.items():
        inner = field.annotation
        nested = isinstance(inner, type) and issubclass(inner, BaseModel)
        found |= keys(inner, f"{prefix}{name}.") if nested else {prefix + name}  # type: ignore[arg-type]
    return found


def test_the_full_scale_file_names_every_key_there_is():
    raw = yaml.safe_load(SHIPPED["train_config"].read_text(encoding="utf-8"))

    def named(values: dict, prefix: str = "") -> set[str]:
        parts = [named(v, f"{prefix}{k}.") if isinstance(v, dict) else {prefix + k} for k, v in values.items()]
        return set().union(*parts)

    compact = {key for key in keys(Config) if key.startswith("codec.compact.")}  # another codec is chosen there
    assert named(raw) == keys(Config) - compact


def test_the_full_scale_file_is_the_promised_system():
    c = load_config(SHIPPED["train_config"])
    assert (c.speech.layers, c.speech.width, c.speech.heads, c.speech.max_steps) == (12, 768, 12, 8192)
    assert (c.voice.mel_bins, c.voice.hidden, c.voice.dim) == (128, 512, 256)
    assert (c.adapter.layers, c.adapter.queries) == (4, 32)
    assert (c.llm.name, c.llm.lora.r) == ("HuggingFaceTB/SmolLM2-1.7B-Instruct", 16)
    assert (c.codec.kind, c.codec.path, c.codec.bandwidth_kbps) == ("encodec", "facebook/encodec_24khz", 6.0)
    assert (c.train.dtype, c.train.speech.accumulation) == ("bf16", 16)
    assert (c.data.train, c.data.val) == (["data/train"], ["data/val"])
    assert set(c.log.trackers) == {"console", "tensorboard", "wandb"}


@pytest.mark.parametrize("name", SHIPPED)
def test_the_settings_fit_each_other(name: str):
    c = load_config(SHIPPED[name])
    assert len(c.speech.codebook_weights) == c.codec.codebooks
    assert c.adapter.mix_layers <= c.speech.layers
    assert c.adapter.width % (2 * c.adapter.heads) == 0 and c.voice.hidden % (2 * c.voice.heads) == 0
    assert c.data.max_seconds * 75 + WHOLE_FRAMES + c.codec.codebooks < c.speech.max_steps
    for stage in c.train.stages:
        settings = getattr(c.train, stage)
        assert settings.warmup_steps < settings.steps and settings.validate_every <= settings.steps
        if stage in ("voice", "speech", "align"):
            assert settings.batch_seconds >= c.data.max_seconds
    wanted = STAGES if c.codec.kind == "compact" else STAGES[1:]
    assert c.train.stages == list(wanted)


def test_the_laptop_holds_its_training_state_in_a_quarter_of_16_gb():
    count = sizes(load_config(SHIPPED["laptop"]))
    frozen = 4 * count["llm"]
    trained = max(count["speech"], count["adapter"] + count["lora"])
    assert frozen + 16 * trained < 4e9  # a weight, its gradient and two moments; the rest is for activations


def test_the_tiny_weights_fit_into_the_package():
    count = sizes(load_config(SHIPPED["tiny"]))
    assert 2 * (sum(count.values()) - count["llm"]) < 64e6  # bytes in bfloat16
