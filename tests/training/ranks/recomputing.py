"""Run by torchrun and imported by the test that compares: a SpeechLM and an LLM with LoRA, layers run twice or once."""

from __future__ import annotations

import sys
from collections.abc import Iterator
from pathlib import Path

import torch
from torch import Tensor, nn

from ira.config import LLMConfig, LoraConfig, SpeechConfig, StageConfig, TrainConfig
from ira.data.batches import SamplerState
from ira.models.llm import load_llm
from ira.models.speech_lm import SpeechLM
from ira.processes import joined, rank
from ira.training.loop import fit
from ira.training.parallel import whole
from ira.training.stage import StepLoss

CPU = torch.device("cpu")
SHAPE = SpeechConfig(layers=2, width=16, heads=2, max_steps=64, text_layers=1, codebook_weights=[1, 1])


class Both:
    """Two micro-batches a step; LoRA with dropout, so that a layer that runs twice has to draw the same twice."""

    name, metric = "both", "none"

    def __init__(self, llm: Path) -> None:
        torch.manual_seed(0)
        self.speech_lm = SpeechLM(SHAPE, codebooks=2, codebook_size=20, text_vocab=10, voice_dim=4, languages=["en"])
        settings = LLMConfig(name=str(llm), lora=LoraConfig(r=4, alpha=8, dropout=0.3))
        self.llm = load_llm(settings, "cpu", torch.bfloat16, lora=True).model
        for name, weight in self.llm.named_parameters():
            if "lora_B" in name:  # which is 0 at first: nothing before it would learn
                nn.init.normal_(weight, std=0.3)
        self.settings = StageConfig(steps=3, lr=0.02, warmup_steps=1, accumulation=2, validate_every=3)

    def modules(self) -> dict[str, nn.Module]:
        return {"speech_lm": self.speech_lm, "lora": self.llm}

    def plan(self, state: SamplerState) -> Iterator[tuple[int, SamplerState]]:
        while True:
            key, state = state.cursor, SamplerState(state.seed, state.epoch, state.cursor + 1)
            yield key, state

    def load(self, key: int) -> tuple[Tensor, Tensor]:
        generator = torch.Generator().manual_seed(key)
        return torch.randint(0, 10, (2, 2, 9), generator=generator), torch.randn(2, 7, 32, generator=generator)

    def loss(self, batch: tuple[Tensor, Tensor], share_done: float) -> StepLoss:
        codes, heard = batch
        memory = self.speech_lm.condition(codes[:, 0, :5], torch.tensor([5, 3]), None, torch.tensor([0, 0]))
        out = self.speech_lm(codes, torch.tensor([9, 6]), memory, torch.arange(9).expand(2, 9) // 2)
        answer = self.llm(inputs_embeds=heard, use_cache=False).logits.float()
        loss = out.logits.float().square().mean() + out.advance.square().mean() + answer.square().mean()
        return StepLoss(loss, 2)

    def validate(self) -> dict[str, float]:
        return {"none": 0.0}


def train(llm: Path, folder: Path, **changes) -> dict[str, Tensor]:
    """What was trained, by name, after three steps."""
    folder.mkdir(parents=True, exist_ok=True)
    stage = Both(llm)
    fit(stage, TrainConfig(**changes), folder, CPU, [])
    learned = {**stage.speech_lm.state_dict(), **stage.llm.state_dict()}
    return {name: whole(value).detach().clone() for name, value in learned.items() if value.dtype == torch.float32}


if __name__ == "__main__":
    with joined(CPU):
        llm, out = Path(sys.argv[1]), Path(sys.argv[2])
        results = {}
        for way in ("ddp", "fsdp"):
            for twice in (False, True):
                name = f"{way} {twice}"
                results[name] = train(llm, out / name, parallel=way, activation_checkpointing=twice)
        if rank() == 0:
            torch.save(results, out / "results.pt")
