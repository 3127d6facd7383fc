"""A model folder: what was written comes back, what does not belong together is refused in one line."""

from __future__ import annotations

import json
from pathlib import Path

import pytest
import torch
from hypothesis import given
from hypothesis import strategies as st

from ira.audio.compact import CompactCodec
from ira.checkpoint import save_model, save_tensors
from ira.config import (
    AdapterConfig,
    CodecConfig,
    CompactConfig,
    Config,
    FreshLLM,
    LLMConfig,
    LoraConfig,
    SpeechConfig,
)
from ira.errors import InputError
from ira.models.adapter import Adapter
from ira.models.bundle import (
    LORA_KIND,
    bundled_audio_llm,
    bundled_codec,
    bundled_llm,
    mixed_layers,
    read_model_card,
    write_card,
)
from ira.models.llm import LanguageModel, load_llm, lora_state
from ira.models.speech_lm import SpeechLM

CPU = torch.device("cpu")
COMPACT = CompactConfig(
    width=8, encoder_layers=1, decoder_layers=1, mel_bins=16, codebooks=4, codebook_size=16, code_dim=4
)
CODES, FRAMES = torch.arange(40).reshape(1, 2, 20) % 16, torch.tensor([20])


def make_speech_lm(layers: int = 4, width: int = 16) -> SpeechLM:
    config = SpeechConfig(layers=layers, width=width, heads=2, max_steps=64, text_layers=1)
    return SpeechLM(config, codebooks=2, codebook_size=16, text_vocab=9, voice_dim=4, languages=["en"]).eval()


def make_adapter(source_layers: int = 2, source_width: int = 16) -> Adapter:
    config = AdapterConfig(layers=1, queries=2, window_seconds=0.2, width=16, heads=2, mix_layers=source_layers)
    return Adapter(
        config, source_width=source_width, source_layers=source_layers, target_width=32, frame_rate=75.0, tokens=[7]
    ).eval()


def make_config(llm: Path | str, **changes) -> Config:
    return Config(
        codec=CodecConfig(bandwidth_kbps=1.5, compact=COMPACT),
        llm=LLMConfig(name=str(llm), lora=LoraConfig(r=2, targets=["q_proj"]), **changes),
    )


@pytest.fixture
def folder(tmp_path: Path, tiny_llm_folder: Path) -> Path:
    """A whole model folder, its LLM on disk, without LoRA."""
    torch.manual_seed(0)
    write_card(tmp_path, make_config(tiny_llm_folder))
    save_model(tmp_path, "codec", CompactCodec(COMPACT))
    save_model(tmp_path, "speech_lm", make_speech_lm())
    save_model(tmp_path, "adapter", make_adapter())
    return tmp_path


def save_lora(folder: Path) -> dict[str, torch.Tensor]:
    """LoRA weights beside the rest, as training writes them: bf16."""
    with_lora = load_llm(read_model_card(folder).llm, CPU, torch.bfloat16, lora=True)
    state = {key: torch.randn_like(value.float()).bfloat16() for key, value in lora_state(with_lora).items()}
    save_tensors(folder, "lora", state, kind=LORA_KIND, dtype=torch.bfloat16)
    return state


def logits(llm: LanguageModel) -> torch.Tensor:
    with torch.no_grad():
        return llm.model(input_ids=torch.tensor([[1, 40, 50, 60, 2]])).logits.float()


def test_the_card_comes_back_as_it_was_written(tmp_path: Path, tiny_llm_folder: Path):
    config = make_config(tiny_llm_folder)
    write_card(tmp_path, config)
    card = read_model_card(tmp_path)
    assert (card.codec, card.llm, card.format) == (config.codec, config.llm, 1)


def test_the_codec_comes_back_at_the_bandwidth_of_the_card(folder: Path):
    torch.manual_seed(0)
    written = CompactCodec(COMPACT).eval()
    codec = bundled_codec(folder, CPU)
    assert (codec.codebooks, written.codebooks) == (2, 4)
    sound = torch.randn(1, 1, 3200)
    assert torch.equal(codec.encode(sound).codes, written.encode(sound).codes[:, :2])
    written.codebooks = 2
    assert codec.fingerprint() == written.fingerprint()


@torch.no_grad()
def test_the_ears_come_back_and_hear_what_they_heard(folder: Path):
    torch.manual_seed(0)
    CompactCodec(COMPACT)  # the same draws as in the folder
    speech_lm, adapter = make_speech_lm(), make_adapter()
    audio_llm = bundled_audio_llm(folder, CPU)
    assert audio_llm.layers == [1, 3]
    assert not any(module.training for module in audio_llm.modules())
    table = audio_llm.language.get_input_embeddings().weight
    want = adapter(speech_lm.states(CODES, FRAMES, [1, 3]), FRAMES, table).embeddings
    assert want.abs().max() > 0
    torch.testing.assert_close(audio_llm.listen(CODES, FRAMES).embeddings, want)


def test_without_saved_lora_the_llm_is_the_base_and_fresh_lora_is_the_identity(folder: Path, tiny_llm_folder: Path):
    base = load_llm(LLMConfig(name=str(tiny_llm_folder)), CPU, torch.bfloat16, lora=False)
    plain, fresh = bundled_llm(folder, CPU), bundled_llm(folder, CPU, new_lora=True)
    assert not lora_state(plain) and lora_state(fresh)
    assert torch.equal(logits(plain), logits(base)) and torch.equal(logits(fresh), logits(base))


def test_saved_lora_is_put_on_unless_a_new_one_is_asked_for(folder: Path):
    before, state = logits(bundled_llm(folder, CPU)), save_lora(folder)
    assert torch.equal(logits(bundled_llm(folder, CPU, new_lora=True)), before)
    for llm in (bundled_llm(folder, CPU), bundled_audio_llm(folder, CPU).llm):
        assert lora_state(llm).keys() == state.keys()
        assert all(torch.equal(value.bfloat16(), state[key]) for key, value in lora_state(llm).items())
        assert (logits(llm) - before).abs().max() > 0.01


def test_another_llm_takes_the_place_of_the_cards_where_it_is_named(folder: Path, tiny_llm_folder: Path):
    card = json.loads((folder / "model.json").read_text())
    card["llm"]["name"] = "nobody/has-this"
    (folder / "model.json").write_text(json.dumps(card))
    llm = bundled_llm(folder, CPU, str(tiny_llm_folder))
    assert llm.name == str(tiny_llm_folder)


def test_an_llm_built_from_scratch_is_read_from_the_folder_and_missed_where_it_is_gone(
    tmp_path: Path, tiny_llm_folder: Path
):
    fresh = FreshLLM(hidden=16, layers=1, heads=2, intermediate=32)
    write_card(tmp_path, make_config(tiny_llm_folder, fresh=fresh))
    with pytest.raises(InputError, match="llm: the LLM of this model folder is missing"):
        bundled_llm(tmp_path, CPU)
    own = load_llm(make_config(tiny_llm_folder, fresh=fresh).llm, CPU, torch.bfloat16, lora=False)
    own.model.save_pretrained(tmp_path / "llm")
    own.tokenizer.save_pretrained(tmp_path / "llm")
    assert torch.equal(logits(bundled_llm(tmp_path, CPU)), logits(own))
    assert bundled_llm(tmp_path, CPU, str(tiny_llm_folder)).width == 32


@pytest.mark.parametrize(
    ("content", "said"),
    [
        (None, "cannot be read"),
        ("{", "not a model card"),
        ("[]", "not a model card"),
        ("{}", "not a model card"),
        ('{"codec": {}, "llm": {}, "colour": 1}', "colour"),
        ('{"format": 2, "codec": {}, "llm": {}, "colour": 1}', r"^\S+json: format 2, this ira reads 1"),
        ('{"format": "1", "codec": {}, "llm": {}}', r"^\S+json: format '1'"),
    ],
)
def test_a_folder_without_a_card_it_can_read_is_refused_in_one_line(tmp_path: Path, content, said):
    if content is not None:
        (tmp_path / "model.json").write_text(content)
    for read in (read_model_card, lambda folder: bundled_codec(folder, CPU), lambda folder: bundled_llm(folder, CPU)):
        with pytest.raises(InputError, match=said) as caught:
            read(tmp_path)
        assert "\n" not in str(caught.value) and str(tmp_path / "model.json") in str(caught.value)


@pytest.mark.parametrize("missing", ["codec", "speech_lm", "adapter"])
def test_a_part_that_is_missing_is_named(folder: Path, missing):
    (folder / f"{missing}.json").unlink()
    with pytest.raises(InputError, match=f"{missing}.json: cannot be read"):
        bundled_codec(folder, CPU)
        bundled_audio_llm(folder, CPU)


@pytest.mark.parametrize("adapter", [make_adapter(source_layers=5), make_adapter(source_width=8)])
def test_an_adapter_of_another_speech_lm_is_refused(folder: Path, adapter):
    save_model(folder, "adapter", adapter)
    with pytest.raises(InputError, match="the SpeechLM has 4 of 16; copy both from one run"):
        bundled_audio_llm(folder, CPU)


def test_lora_of_another_shape_or_another_kind_of_file_is_refused(folder: Path):
    state = save_lora(folder)
    save_tensors(folder, "lora", {key: value[..., :1] for key, value in state.items()}, kind=LORA_KIND)
    with pytest.raises(InputError, match="do not fit"):
        bundled_llm(folder, CPU)
    save_tensors(folder, "lora", state, kind="Adapter")
    with pytest.raises(InputError, match="holds a Adapter, a LoRA is wanted"):
        bundled_llm(folder, CPU)


@given(st.integers(1, 64), st.integers(1, 64))
def test_mixed_layers_are_evenly_spread_distinct_and_end_with_the_last(layers: int, count: int):
    chosen = mixed_layers(layers, count)
    assert len(chosen) == min(layers, count)
    assert chosen[0] >= 0 and chosen[-1] == layers - 1
    gaps = {after - before for before, after in zip([-1, *chosen], chosen, strict=False)}
    assert min(gaps) >= 1 and max(gaps) - min(gaps) <= 1


def test_the_seeds_twelve_layers_give_every_third():
    assert mixed_layers(12, 4) == [2, 5, 8, 11]
