"""Places of weights in, the loaded parts of a model out, each when it is first asked for."""

from __future__ import annotations

from dataclasses import dataclass
from functools import cached_property
from pathlib import Path

import torch

from ira.audio.codec import Codec
from ira.checkpoint import load_model, weights_hash
from ira.errors import InputError
from ira.models.adapter import Adapter
from ira.models.audio_llm import AudioLLM, Past
from ira.models.bundle import bundled_codec, bundled_llm, layers_read, read_model_card
from ira.models.compiled import with_compiled_step
from ira.models.rounded import check_bits, with_rounded_llm, with_rounded_weights
from ira.models.speech_lm import SpeechLM
from ira.models.voice_encoder import VoiceEncoder

SMALL_LLM = 1_000_000_000  # parameters; a CPU computes with fewer in fp32


@dataclass
class Parts:
    """`folder` holds the card, the codec and the LLM's LoRA; the three others are folders or .safetensors files.

    llm: in place of the card's LLM.
    bits: 16, 8 or 4 of each weight of the decoder; a CPU is faster with them. So have those of the LLM, but 8 with 4:
        one of 135 M with 4 forgets what it was asked. 32 or None: all stay as they are.
    compiled: a step of decoding in machine code that is made for this processor.

    Raises:
        InputError: `folder` is no model folder; `bits` is none of them, or not for this device.
            A part says so when it is asked for.
    """

    folder: Path
    speech_lm_path: Path
    adapter_path: Path
    voice_encoder_path: Path
    llm: str | None
    device: torch.device
    bits: int | None = None
    compiled: bool = False

    def __post_init__(self) -> None:
        if self.bits == 32:
            self.bits = None
        if self.bits is not None:
            check_bits(self.bits)
        if self.bits is not None and self.device.type != "cpu":
            raise InputError(
                f"weights of {self.bits} bits on {self.device.type}; they are for a CPU: give --device cpu or no --bits"
            )
        self.card = read_model_card(self.folder)

    @cached_property
    def codec(self) -> Codec:
        return bundled_codec(self.folder, self.device)

    @cached_property
    def speech_lm(self) -> SpeechLM:
        model = load_model(SpeechLM, self.speech_lm_path, "speech_lm").to(self.device).requires_grad_(False)
        model = with_compiled_step(model, self.bits) if self.compiled else model
        return model if self.bits is None else with_rounded_weights(model, self.bits)

    @cached_property
    def voice_encoder(self) -> VoiceEncoder:
        return load_model(VoiceEncoder, self.voice_encoder_path, "voice").to(self.device)

    def voice_encoder_hash(self) -> str:
        """sha256 of the voice encoder's weights, without loading them."""
        return weights_hash(self.voice_encoder_path, "voice")

    @cached_property
    def audio_llm(self) -> AudioLLM:
        adapter = load_model(Adapter, self.adapter_path, "adapter").to(self.device)
        layers = layers_read(self.speech_lm, adapter, self.adapter_path)
        llm = bundled_llm(self.folder, self.device, self.llm)
        # In bf16 a sum depends on the size of the batch, and so may an answer; GPUs and large models keep bf16.
        if self.device.type == "cpu" and sum(p.numel() for p in llm.model.parameters()) < SMALL_LLM:
            llm.model.float()
        llm = llm if self.bits is None else with_rounded_llm(llm, max(self.bits, 8))
        return AudioLLM(self.speech_lm, adapter, llm, layers).eval()

    @cached_property
    def opening(self) -> Past:
        """Of the words that every prompt begins with; go on from a copy."""
        return self.audio_llm.opening()


def checkpoint_path(given: str | Path) -> Path:
    """A .safetensors file or a folder, checked.

    Raises:
        InputError: not there, or a pickle (.pt): those are never read.
    """
    path = Path(given)
    if path.suffix in (".pt", ".pth", ".bin", ".ckpt"):
        raise InputError(f"{path}: pickled weights are not read; give NAME.safetensors or the model folder of a run")
    if not path.is_dir() and not (path.is_file() and path.suffix == ".safetensors"):
        raise InputError(f"{path}: no such checkpoint; give NAME.safetensors or the model folder of a run")
    return path
