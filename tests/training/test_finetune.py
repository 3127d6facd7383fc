"""A released EnCodec on recordings of one's own: what learns, what stays, and that the result can be opened."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

import pytest
import torch
from transformers import EncodecConfig, EncodecModel

from ira.audio.codec import load_codec
from ira.audio.encodec import EncodecCodec
from ira.audio.waveform import save_audio
from ira.config import CodecConfig
from ira.config_file import check_config
from ira.models.bundle import bundled_codec
from ira.training.finetune import TrainableEncodec
from ira.training.journey import train
from ira.training.reconstruction import Reconstruction

HOP = 320


@pytest.fixture
def codec() -> TrainableEncodec:
    torch.manual_seed(0)
    config = EncodecConfig(num_filters=2, hidden_size=16, num_lstm_layers=1)
    model: Any = EncodecModel(config).eval()  # type: ignore[call-arg]
    left = model.encoder(sound())
    for layer in model.quantizer.layers:  # entries where the latents lie
        spread, centre = torch.std_mean(left.detach(), dim=(0, 2))
        layer.codebook.embed.normal_().mul_(spread).add_(centre)
        left = left - layer.decode(layer.encode(left))
    return TrainableEncodec(model, 3.0)


def sound() -> torch.Tensor:
    time = torch.arange(40 * HOP) / 24_000
    tones = [torch.sin(2 * torch.pi * (180 + 60 * row) * h * time) / h for row in range(2) for h in (1, 2, 3)]
    return 0.1 * torch.stack(tones).view(2, 3, -1).sum(1, keepdim=True)


def test_the_training_pass_gives_the_tokens_and_the_sound_of_the_codec_in_use(codec):
    made, quantized = codec(sound())
    used = EncodecCodec(codec.frozen().model, 3.0)
    assert torch.equal(used.encode(sound()).codes, quantized.codes) and quantized.codes.shape == (2, 4, 40)
    torch.testing.assert_close(made, used.decode(quantized.codes), atol=1e-4, rtol=1e-3)
    torch.testing.assert_close(codec(sound(), torch.tensor([2, 4]))[0][0], used.decode(quantized.codes[:, :2])[0],
                               atol=1e-4, rtol=1e-3)  # fmt: skip


def test_encoder_and_decoder_learn_one_batch_and_the_codebooks_stay(codec):
    losses, books = Reconstruction(), codec.model.quantizer.state_dict()
    before = {name: value.clone() for name, value in books.items()}
    optimizer = torch.optim.AdamW((p for p in codec.parameters() if p.requires_grad), lr=3e-3)
    found = []
    for _ in range(30):
        made, quantized = codec(sound())
        loss = losses.eval()(made, sound())["mel"]
        optimizer.zero_grad()
        (loss + quantized.commitment_loss).backward()
        optimizer.step()
        found.append(float(loss.detach()))
    assert found[-1] < 0.7 * found[0]
    assert all(torch.equal(value, before[name]) for name, value in codec.model.quantizer.state_dict().items())
    for name, parameter in [*codec.model.encoder.named_parameters(), *codec.model.decoder.named_parameters()]:
        assert parameter.grad is not None, name


def test_what_is_saved_into_a_model_folder_is_what_the_folder_opens(codec, tmp_path: Path):
    codec.save(tmp_path / "encodec")
    config = CodecConfig(kind="encodec", bandwidth_kbps=3.0, path="/nowhere")
    opened = load_codec(config, tmp_path)
    assert opened.fingerprint() == codec.frozen().fingerprint()
    assert torch.equal(opened.encode(sound()).codes, codec.encode(sound()).codes)


def test_the_codec_stage_trains_it_on_recordings_and_leaves_it_in_the_model_folder(codec, tmp_path: Path):
    codec.save(tmp_path / "released")
    for number, wave in enumerate(sound()):
        save_audio(tmp_path / f"{number}.wav", wave)
    rows = [{"audio_file": f"{number}.wav", "text": "a"} for number in range(2)]
    (tmp_path / "data.json").write_text(json.dumps(rows))
    stage = {"steps": 2, "accumulation": 1, "batch_seconds": 0.8, "crop_seconds": 0.2, "finetune": True}
    given = {
        "run_dir": str(tmp_path / "run"),
        "device": "cpu",
        "codec": {"kind": "encodec", "path": str(tmp_path / "released"), "bandwidth_kbps": 3.0},
        "data": {"train": [str(tmp_path / "data.json")], "val": [str(tmp_path / "data.json")]},
        "train": {"codec": {**stage, "adversarial_share": 0.5}, "dtype": "bf16"},
    }
    model = train(check_config(given), "codec")
    there = bundled_codec(Path(model), torch.device("cpu"))
    assert there.fingerprint() != codec.frozen().fingerprint() and there.codebooks == 4
    assert (Path(model) / "encodec" / "config.json").is_file()
