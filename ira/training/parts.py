"""A configuration in, every part of the system as a module without memory, out: for counting before anything is loaded.

The LLM's shape comes from its files where they are on this machine, else, for the released SmolLM2 sizes, from their
config.json (huggingface.co/HuggingFaceTB/SmolLM2-{135M,360M,1.7B}-Instruct). Nothing is fetched.
"""

from __future__ import annotations

from dataclasses import dataclass
from typing import Any

import torch
from torch import nn

from ira.audio.compact import CompactCodec
from ira.config import FRAME_RATE, Config
from ira.data.pronunciation import SpeechTokenizer
from ira.data.tasks import TRAITS
from ira.data.text import CharTokenizer
from ira.models.adapter import Adapter
from ira.models.llm import EMBEDDED, llm_at_hand
from ira.models.speech_lm import SpeechLM
from ira.models.voice_encoder import VoiceEncoder

MOST_TOKENS = 20_000  # of them that transcripts are made of, a guess on the safe side
VOCABULARY = 49_152  # of all three, whose embeddings are their output layers too
# What the recordings speak is not known before they are prepared; a language more is one row of an embedding.
LANGUAGES = ["en"]
# hidden, layers, heads, key-value heads, intermediate
SMOLLM2 = {
    "135M": (576, 30, 9, 3, 1536),
    "360M": (960, 32, 15, 5, 2560),
    "1.7B": (2048, 24, 32, 32, 8192),
}


@dataclass
class Parts:
    """codec, voice, speech, adapter and llm on the meta device; llm is None where its shape is not known.

    `lora` has a (inputs, outputs) pair for each projection that is adapted; `notes` say what had to be assumed.
    """

    codec: nn.Module
    voice: VoiceEncoder
    speech: SpeechLM
    adapter: Adapter | None
    llm: Any
    lora: list[tuple[int, int]]
    notes: list[str]

    def sizes(self, rank: int) -> dict[str, int]:
        """Parameters of each part; those of a tied matrix once."""
        found = {name: getattr(self, name) for name in ("codec", "voice", "speech", "adapter", "llm")}
        counts = {name: sum(p.numel() for p in part.parameters()) for name, part in found.items() if part is not None}
        return counts | ({"lora": rank * sum(i + o for i, o in self.lora)} if self.llm is not None else {})


def build_parts(config: Config) -> Parts:
    """Every part that `config` describes, on the meta device: shapes without values."""
    vocabulary, books = CharTokenizer().vocab_size, config.codec.codebooks
    size = config.codec.compact.codebook_size if config.codec.kind == "compact" else 1024
    llm_config, notes = _llm_config(config)
    with torch.device("meta"):
        speech = SpeechLM(
            config.speech,
            codebooks=books,
            codebook_size=size,
            text_vocab=SpeechTokenizer().vocab_size,
            voice_dim=config.voice.dim,
            languages=LANGUAGES,
        )
        llm = None if llm_config is None else _llm(llm_config)
        adapter = None if llm is None else _adapter(config, llm.get_input_embeddings().weight.shape[1])
        codec, voice = _codec(config), VoiceEncoder(config.voice, text_vocab=vocabulary)
    return Parts(codec, voice, speech, adapter, llm, _adapted(llm, config.llm.lora.targets), notes)


def _codec(config: Config) -> nn.Module:
    if config.codec.kind == "compact":
        return CompactCodec(config.codec.compact)
    from transformers import EncodecConfig, EncodecModel

    return EncodecModel(EncodecConfig())


def _adapter(config: Config, width: int) -> Adapter:
    return Adapter(
        config.adapter,
        source_width=config.speech.width,
        source_layers=min(config.adapter.mix_layers, config.speech.layers),
        target_width=width,
        frame_rate=FRAME_RATE,
        tokens=range(MOST_TOKENS),
        traits={trait: [[0]] * len(choices) for trait, choices in TRAITS.items()},
    )


def _llm(llm_config: Any) -> Any:
    from transformers import AutoModelForCausalLM

    return AutoModelForCausalLM.from_config(llm_config)


def _adapted(llm: Any, targets: list[str]) -> list[tuple[int, int]]:
    """Inputs and outputs of the linear layers that LoRA stands beside."""
    modules = [] if llm is None else llm.named_modules()
    found = [m for name, m in modules if name.rpartition(".")[2] in targets and isinstance(m, nn.Linear)]
    return [(m.in_features, m.out_features) for m in found]


def _llm_config(config: Config) -> tuple[Any, list[str]]:
    """A transformers configuration, and what is to be said about where it is from."""
    from transformers import AutoConfig

    name, fresh = config.llm.name, config.llm.fresh
    if fresh is not None:
        return _llama(fresh.hidden, fresh.layers, fresh.heads, fresh.heads, fresh.intermediate), []
    folder = llm_at_hand(name)
    if folder is not None:
        return AutoConfig.from_pretrained(folder, local_files_only=True), []
    known = [
        shape for size, shape in SMOLLM2.items() if f"SmolLM2-{size}" in (EMBEDDED[1] if name in EMBEDDED else name)
    ]
    if not known:
        return None, [f"{name} is not on this machine, its shape is not known: align and reinforce are not estimated"]
    return _llama(*known[0]), [f"{name} is not on this machine; its shape is that of its published config.json"]


def _llama(hidden: int, layers: int, heads: int, key_value_heads: int, intermediate: int) -> Any:
    from transformers import LlamaConfig

    return LlamaConfig(
        vocab_size=VOCABULARY,
        hidden_size=hidden,
        num_hidden_layers=layers,
        num_attention_heads=heads,
        num_key_value_heads=key_value_heads,
        intermediate_size=intermediate,
        tie_word_embeddings=True,
    )
