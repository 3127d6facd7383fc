"""What tests of several rooms share: one computing thread, and a language model of a few kilobytes on disk."""

from __future__ import annotations

import os
import sys
from pathlib import Path

import pytest
import torch

from ira.models.llm import CHATML

if sys.platform == "linux":  # processes of one machine meet there; a name that leads nowhere would let them wait
    os.environ.setdefault("GLOO_SOCKET_IFNAME", "lo")
torch.set_num_threads(1)  # two busy cores make tiny matrix products slower, not faster


@pytest.fixture(scope="session")
def tiny_llm_folder(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A random Llama (width 32, 2 layers) and a byte-level BPE tokenizer with ChatML, as a user would have on disk."""
    from tokenizers import Tokenizer, decoders, models, pre_tokenizers, trainers
    from transformers import LlamaConfig, LlamaForCausalLM, PreTrainedTokenizerFast

    core = Tokenizer(models.BPE())
    core.pre_tokenizer = pre_tokenizers.ByteLevel(add_prefix_space=False)  # type: ignore[assignment]
    core.decoder = decoders.ByteLevel()  # type: ignore[assignment]
    special = ["<|endoftext|>", "<|im_start|>", "<|im_end|>"]
    alphabet = pre_tokenizers.ByteLevel.alphabet()
    trainer = trainers.BpeTrainer(
        vocab_size=320, special_tokens=special, initial_alphabet=alphabet, show_progress=False
    )
    core.train_from_iterator(["the quick brown fox asks the user what the assistant said"] * 4, trainer)
    tokenizer = PreTrainedTokenizerFast(
        tokenizer_object=core, bos_token=special[1], eos_token=special[2], pad_token=special[2], unk_token=special[0]
    )
    tokenizer.chat_template = CHATML
    torch.manual_seed(0)
    config = LlamaConfig(
        vocab_size=len(tokenizer),
        hidden_size=32,
        num_hidden_layers=2,
        num_attention_heads=4,
        num_key_value_heads=2,
        intermediate_size=64,
        max_position_embeddings=512,
        initializer_range=0.3,  # wide enough that the logits of different prompts differ visibly
        bos_token_id=1,
        eos_token_id=2,
        pad_token_id=2,
    )
    folder = tmp_path_factory.mktemp("tiny-llm")
    LlamaForCausalLM(config).save_pretrained(folder)
    tokenizer.save_pretrained(folder)
    return folder


@pytest.fixture(scope="session")
def tiny_model_folder(tiny_llm_folder: Path, tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A model folder as training writes it, with random parts of a few kilobytes each. Tests must not change it.

    2 of the codec's 4 codebooks of 64 codes are spoken, at the pace of a reader.
    """
    from ira.audio.compact import CompactCodec
    from ira.checkpoint import save_model
    from ira.config import AdapterConfig, CodecConfig, CompactConfig, Config, LLMConfig, SpeechConfig, VoiceConfig
    from ira.data.pronunciation import SpeechTokenizer
    from ira.data.text import CharTokenizer
    from ira.models.adapter import Adapter
    from ira.models.bundle import write_card
    from ira.models.speech_lm import SpeechLM
    from ira.models.voice_encoder import VoiceEncoder

    torch.manual_seed(0)
    compact = CompactConfig(width=32, encoder_layers=1, decoder_layers=1, mel_bins=40, codebooks=4, codebook_size=64)
    voice = VoiceConfig(mel_bins=40, hidden=32, dim=16, layers=1, heads=2, text_hidden=32, text_layers=1)
    speech = SpeechConfig(layers=2, width=32, heads=2, max_steps=400, text_layers=1)
    adapter = AdapterConfig(trunk_layers=1, layers=1, queries=4, window_seconds=1.0, width=32, heads=2, mix_layers=2)
    config = Config(
        codec=CodecConfig(bandwidth_kbps=1.5, compact=compact),
        llm=LLMConfig(name=str(tiny_llm_folder), max_new_tokens=12),
    )
    vocabulary = CharTokenizer().vocab_size
    tokens = SpeechTokenizer().vocab_size
    speech_lm = SpeechLM(speech, codebooks=2, codebook_size=64, text_vocab=tokens, voice_dim=16, languages=["de", "en"])
    with torch.no_grad():  # wide enough that text and voice are heard in what is drawn
        speech_lm.heads.weight *= 10
        speech_lm.voice_in.weight *= 10
        speech_lm.advance.bias.fill_(-1.7)  # five frames a token: as fast as people speak
    reads = {"source_width": 32, "source_layers": 2, "target_width": 32, "frame_rate": 75.0}
    ears = Adapter(adapter, **reads, tokens=range(20, 200), traits={"gender": [[20], [21]]})
    folder = tmp_path_factory.mktemp("tiny-model")
    write_card(folder, config)
    torch.manual_seed(4)  # a random codec that does not write all sounds as one code
    save_model(folder, "codec", CompactCodec(compact))
    save_model(folder, "voice", VoiceEncoder(voice, text_vocab=vocabulary))
    save_model(folder, "speech_lm", speech_lm)
    save_model(folder, "adapter", ears)
    return folder
