"""What tests of the stages share: token shards made by hand, a codec of tones, a language model with a dozen words."""

from __future__ import annotations

import json
from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from torch import Tensor, nn

from ira.audio.codec import Tokens
from ira.config import AdapterConfig, LLMConfig, LoraConfig, SpeechConfig
from ira.data.shards import FORMAT, INDEX_COLUMNS, TokenShards
from ira.data.tasks import TRAITS
from ira.models.adapter import Adapter
from ira.models.audio_llm import AudioLLM
from ira.models.llm import load_llm
from ira.models.speech_lm import SpeechLM
from ira.models.traits import Traits

MakeShards = Callable[..., TokenShards]


@pytest.fixture
def make_shards(tmp_path: Path) -> MakeShards:
    """make_shards("train", [{"codes": [K, T] tensor, "text": ..., "speaker": ..., "extra": {...}}, ...])."""

    def make(name: str, rows: list[dict[str, Any]]) -> TokenShards:
        folder = tmp_path / name
        folder.mkdir(parents=True)
        lines, offset = [], 0
        for row in rows:
            frames = row["codes"].shape[1]
            words = {column: row.get(column, "") for column in INDEX_COLUMNS}
            entry = {"offset": offset, "frames": frames, "text": row.get("text", ""), "extra": row.get("extra", {})}
            lines.append(json.dumps(entry | words | {"language": row.get("language", "en")}) + "\n")
            offset += frames
        codes = np.concatenate([row["codes"].T.numpy() for row in rows]).astype("<u2")
        meta = {"format": FORMAT, "fingerprint": {"codec": "made", "tokenizer": "by hand"}, "shards": 1}
        meta |= {"codebooks": codes.shape[1], "frame_rate": 75.0}
        (folder / "codes-00000.u16").write_bytes(codes.tobytes())
        (folder / "index-00000.jsonl").write_text("".join(lines))
        (folder / "shard-00000.json").write_text("{}")
        (folder / "meta.json").write_text(json.dumps(meta))
        return TokenShards(folder)

    return make


class ToneCodec(nn.Module):
    """Code c of the only codebook is one frame of a tone with three harmonics at (c + 1) x 75 Hz."""

    sample_rate, frame_rate, hop, codebooks, codebook_size = 24_000, 75.0, 320, 1, 16

    def __init__(self) -> None:
        super().__init__()
        time = torch.arange(self.hop) / self.sample_rate
        pitch = 75.0 * torch.arange(1, self.codebook_size + 1)[:, None]
        harmonics = [torch.sin(2 * torch.pi * h * pitch * time) / (4 * h) for h in (1, 2, 3)]
        self.register_buffer("frames", torch.stack(harmonics).sum(0))

    def decode(self, codes: Tensor, frames: Tensor | None = None) -> Tensor:
        sound = self.frames[codes[:, 0]]  # type: ignore[index]
        if frames is not None:
            sound = sound * (torch.arange(codes.shape[-1]) < frames[:, None])[..., None]
        return sound.flatten(1)[:, None]

    def encode(self, waveform: Tensor, samples: Tensor | None = None, codebooks: int | None = None) -> Tokens:
        raise NotImplementedError("tests make the codes themselves")

    def fingerprint(self) -> str:
        return "tones"


@pytest.fixture
def tone_codec() -> ToneCodec:
    return ToneCodec()


WORDS = ["red", "green", "blue", "black", "say", "one", "two", "three", "four", "five"]


@pytest.fixture(scope="session")
def word_llm_folder(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A random Llama (width 32, 2 layers) whose vocabulary is `WORDS`, an end of turn and an unknown word."""
    from tokenizers import Tokenizer, models, pre_tokenizers
    from transformers import LlamaConfig, LlamaForCausalLM, PreTrainedTokenizerFast

    vocabulary = {word: i for i, word in enumerate(["<unk>", "<end>", *WORDS])}
    core = Tokenizer(models.WordLevel(vocabulary, unk_token="<unk>"))
    core.pre_tokenizer = pre_tokenizers.Whitespace()  # type: ignore[assignment]
    tokenizer = PreTrainedTokenizerFast(tokenizer_object=core, eos_token="<end>", pad_token="<end>", unk_token="<unk>")
    tokenizer.chat_template = "{% for message in messages %}{{ message['content'] }}{% endfor %}"
    torch.manual_seed(0)
    config = LlamaConfig(
        vocab_size=len(vocabulary),
        hidden_size=32,
        num_hidden_layers=2,
        num_attention_heads=4,
        num_key_value_heads=2,
        intermediate_size=64,
        max_position_embeddings=128,
        initializer_range=0.3,  # wide enough that the answers to different words differ
        bos_token_id=1,
        eos_token_id=1,
        pad_token_id=1,
    )
    folder = tmp_path_factory.mktemp("word-llm")
    LlamaForCausalLM(config).save_pretrained(folder)
    tokenizer.save_pretrained(folder)
    return folder


@pytest.fixture
def make_ears(word_llm_folder: Path) -> Callable[..., AudioLLM]:
    """make_ears(dropout=0.0): a small SpeechLM and adapter before the word LLM with LoRA, the same at every call."""

    def make(dtype: torch.dtype = torch.float32, **lora: Any) -> AudioLLM:
        torch.manual_seed(0)
        settings = LLMConfig(name=str(word_llm_folder), lora=LoraConfig(r=4, alpha=8, **lora))
        llm = load_llm(settings, "cpu", dtype, lora=True)
        shape = SpeechConfig(layers=2, width=32, heads=2, max_steps=80, text_layers=0, codebook_weights=[1, 1])
        speech_lm = SpeechLM(shape, codebooks=2, codebook_size=20, text_vocab=10, voice_dim=4, languages=["en"])
        sizes = AdapterConfig(trunk_layers=1, layers=1, queries=4, window_seconds=0.5, width=32, heads=2, stack=2)
        reads = {"source_width": 32, "source_layers": 2, "target_width": llm.width, "frame_rate": 75.0}
        words = {trait: [[2 + i] for i in range(len(choices))] for trait, choices in TRAITS.items()}
        adapter = Adapter(sizes, **reads, tokens=range(2, llm.model.config.vocab_size))
        adapter.match_scale(llm.model.get_input_embeddings().weight)
        adapter.traits = Traits(2 * 32, words)
        return AudioLLM(speech_lm, adapter, llm, [0, 1]).eval()

    return make


@pytest.fixture
def colour_rows() -> Callable[[int, int], list[dict[str, Any]]]:
    """colour_rows(count, seed): red, green, blue, black in turn; each word its own 12 frames, a tenth of them noise."""
    words = torch.randint(0, 20, (4, 2, 12), generator=torch.Generator().manual_seed(0))

    def rows(count: int, seed: int) -> list[dict[str, Any]]:
        generator, made = torch.Generator().manual_seed(seed), []
        for i in range(count):
            noise = torch.randint(0, 20, (2, 12), generator=generator)
            codes = torch.where(torch.rand(2, 12, generator=generator) < 0.1, noise, words[i % 4])
            made.append({"codes": codes[:, : 10 + i % 3], "text": WORDS[i % 4]})
        return made

    return rows
