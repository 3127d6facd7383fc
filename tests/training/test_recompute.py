"""Layers that run again in backward: the same gradients, the same names, less memory, on one process and on two."""

from __future__ import annotations

import subprocess
import sys
from collections.abc import Callable
from pathlib import Path

import pytest
import torch
from torch import Tensor

from ira.config import SpeechConfig, VoiceConfig
from ira.models.audio_llm import AudioLLM, PromptItem
from ira.models.speech_lm import SpeechLM
from ira.models.voice_encoder import VoiceEncoder
from ira.training.parallel import Root
from ira.training.recompute import recompute_layers

RANKS = Path(__file__).parent / "ranks" / "recomputing.py"


def ears_loss(ears: AudioLLM) -> Tensor:
    codes = torch.randint(0, 20, (2, 2, 12), generator=torch.Generator().manual_seed(1))
    heard = ears.listen(codes, torch.tensor([12, 9])).rows()
    items = [PromptItem([{"role": "user", "content": "say <|audio|>"}], [row]) for row in heard]
    return ears.response_logits(items, [[3, 4, 1], [5, 1]]).logits.float().square().mean()


def gradients(make: Callable[[], Root], loss: Callable[[Root], Tensor], again: bool) -> tuple[dict[str, Tensor], int]:
    """Gradients by name, and the bytes that the graph keeps for backward."""
    root, kept = make().train(), dict[int, Tensor]()
    if again:
        recompute_layers(root)
        recompute_layers(root)  # a stage that is begun a second time
    torch.manual_seed(0)

    def keep(tensor: Tensor) -> Tensor:
        kept[tensor.untyped_storage().data_ptr()] = tensor
        return tensor

    with torch.autograd.graph.saved_tensors_hooks(keep, lambda tensor: tensor):
        value = loss(root)
    own = {parameter.untyped_storage().data_ptr() for parameter in root.parameters()}
    size = sum(tensor.untyped_storage().nbytes() for place, tensor in kept.items() if place not in own)
    value.backward()
    return {name: p.grad for name, p in root.named_parameters() if p.grad is not None}, size


def both(make: Callable[[], Root], loss: Callable[[Root], Tensor]) -> tuple[int, int]:
    """Bytes kept without and with; the gradients are the same, and there are some."""
    (plain, size), (twice, less) = gradients(make, loss, False), gradients(make, loss, True)
    assert plain and plain.keys() == twice.keys()
    assert all(torch.equal(plain[name], twice[name]) for name in plain)
    return size, less


@pytest.mark.parametrize("dtype", ["fp32", "bf16"])
def test_ears_with_dropout_in_their_lora_have_the_same_gradients_from_less_memory(make_ears, dtype):
    def make() -> Root:
        ears = make_ears(torch.bfloat16, dropout=0.3)
        ears.speech_lm.requires_grad_(False)
        for name, weight in ears.language.named_parameters():
            if "lora_B" in name:
                torch.nn.init.normal_(weight, std=0.3)
        return Root({"ears": ears})

    def loss(root: Root) -> Tensor:
        with torch.autocast("cpu", dtype=torch.bfloat16, enabled=dtype == "bf16"):
            return ears_loss(root.parts["ears"])  # type: ignore[arg-type]

    size, less = both(make, loss)
    assert less < 0.5 * size


def test_speech_and_voice_have_the_same_gradients_from_less_memory():
    shape = SpeechConfig(layers=3, width=32, heads=2, text_layers=2, codebook_weights=[1, 1])

    def make() -> Root:
        torch.manual_seed(0)
        voice = VoiceEncoder(VoiceConfig(mel_bins=20, hidden=32, heads=2, dim=8, text_hidden=16), text_vocab=10)
        sizes = {"codebooks": 2, "codebook_size": 20, "text_vocab": 10, "voice_dim": 8, "languages": ["en"]}
        return Root({"speech": SpeechLM(shape, **sizes), "v": voice})

    def loss(root: Root) -> Tensor:
        speech, voice = root.parts["speech"], root.parts["v"]
        text, lengths = torch.arange(8).view(1, 8), torch.tensor([8])
        spoken = voice.embed_text(text, lengths) + voice.embed_audio(torch.ones(1, 20, 64).cumsum(-1), 8 * lengths)  # type: ignore[operator]
        memory = speech.condition(text, lengths, spoken, torch.tensor([0]))  # type: ignore[operator]
        walk = torch.arange(50).view(1, 50) * 8 // 50
        out = speech(torch.ones(1, 2, 50, dtype=torch.long), torch.tensor([50]), memory, walk)
        return out.logits.square().mean() + out.advance.square().mean()

    size, less = both(make, loss)
    assert less < 0.5 * size


def test_names_of_weights_stay_so_that_checkpoints_fit_both_ways(make_ears):
    root = Root({"ears": make_ears()})
    before = list(root.state_dict())
    recompute_layers(root)
    assert list(root.state_dict()) == before


@pytest.fixture(scope="module")
def trained(word_llm_folder: Path, tmp_path_factory: pytest.TempPathFactory) -> dict[str, dict[str, Tensor]]:
    out = tmp_path_factory.mktemp("recomputing")
    command = [
        sys.executable,
        "-m",
        "torch.distributed.run",
        "--standalone",
        "--max-restarts",
        "1",
        "--nproc-per-node",
        "2",
        str(RANKS),
    ]
    done = subprocess.run([*command, str(word_llm_folder), str(out)], capture_output=True, text=True, timeout=240)
    assert done.returncode == 0, done.stderr[-3000:]
    return torch.load(out / "results.pt", weights_only=True)


@pytest.mark.parametrize("way", ["ddp", "fsdp"])
def test_two_processes_learn_the_same_with_layers_that_run_twice(way, trained):
    plain, twice = trained[f"{way} False"], trained[f"{way} True"]
    assert plain.keys() == twice.keys() and any("lora" in name for name in plain)
    assert all(torch.allclose(plain[name], twice[name], atol=1e-6) for name in plain)
    assert all(torch.allclose(trained["ddp False"][name], twice[name], atol=1e-4) for name in plain)
