"""The step in machine code computes what `SpeechLM.step` does, and keeps rows and threads apart."""

from __future__ import annotations

import copy
import platform
import sys
from dataclasses import replace
from pathlib import Path

import pytest
import torch
from torch import Tensor, nn

from ira.config import SpeechConfig
from ira.errors import InputError
from ira.models.blocks import KeyValueCache
from ira.models.compiled import with_compiled_step
from ira.models.decode import Decoding, Generated
from ira.models.native import build, step
from ira.models.native.build import has_compiler
from ira.models.native.step import Threads, packed, with_native_step
from ira.models.pointer import Pointer
from ira.models.rounded import with_rounded_weights
from ira.models.sampling import Sampling
from ira.models.speech_lm import DecodeState, Memory, SpeechLM

needs_compiler = pytest.mark.skipif(not has_compiler(), reason="needs a C++ compiler")
LENGTHS = [7, 5, 0, 6, 1]


def speech_lm(width: int = 64, heads: int = 2, window: int | None = 8) -> SpeechLM:
    torch.manual_seed(0)
    shape = SpeechConfig(layers=2, width=width, heads=heads, max_steps=64, text_layers=1, longest_stay=4, window=window)
    model = SpeechLM(shape, codebooks=3, codebook_size=11, text_vocab=20, voice_dim=6, languages=["en"]).eval()
    for child in model.modules():  # loud enough that a key too many or in another place is heard
        if isinstance(child, nn.Linear):
            nn.init.normal_(child.weight, std=1.2 * child.in_features**-0.5)
        elif isinstance(child, nn.Embedding):
            nn.init.normal_(child.weight)
        elif isinstance(child, nn.RMSNorm):
            nn.init.uniform_(child.weight, 0.5, 1.5)
    return model.requires_grad_(False)


def memory_of(model: SpeechLM, rows: int) -> Memory:
    generator = torch.Generator().manual_seed(1)
    text = torch.randint(1, 20, (rows, 7), generator=generator)
    voices = nn.functional.normalize(torch.randn(rows, 6, generator=generator), dim=-1)
    return model.condition(text, torch.tensor(LENGTHS[:rows]), voices, torch.zeros(rows, dtype=torch.long))


class Rounding(KeyValueCache):
    """Keeps what bf16 keeps, in fp32: the caches of the step in machine code."""

    def append(self, keys: Tensor, values: Tensor) -> tuple[Tensor, Tensor]:
        return super().append(keys.bfloat16().float(), values.bfloat16().float())


def rounded_state(model: SpeechLM, memory: Memory, steps: int) -> DecodeState:
    state = model.start(memory, steps)
    caches: list[KeyValueCache] = [Rounding(cache.keys, cache.values) for cache in state.caches]
    projected = [(keys.bfloat16().float(), values.bfloat16().float()) for keys, values in state.projected]
    return replace(state, caches=caches, projected=projected)


def unpacked(weights: Tensor, scales: Tensor | None, bits: int, inputs: int) -> Tensor:
    """What the bytes of `packed` stand for."""
    if bits == 8 and scales is not None:
        return (weights.float() * scales[:, None])[:, :inputs]
    if bits == 4 and scales is not None:
        both = weights.unflatten(1, (-1, 16))
        return ((torch.cat([both & 15, both >> 4], -1).float() - 8) * scales[..., None]).flatten(1)[:, :inputs]
    return weights.float()[:, :inputs]


def as_rounded(model: SpeechLM, bits: int) -> SpeechLM:
    """A copy whose decoder weights are what so many bits of them stand for."""
    model = copy.deepcopy(model)
    for name, child in (*model.layers.named_modules(), ("heads", model.heads)):
        if isinstance(child, nn.Linear) and not name.endswith(("cross_attention.k", "cross_attention.v")):
            child.weight.copy_(unpacked(*packed(child.weight, bits), bits, child.in_features))
    return model


def steps_of(model: SpeechLM, state: DecodeState, lengths: Tensor, count: int) -> tuple[Tensor, Tensor]:
    """Logits [count, B, K, V + 1] and advances of the same tokens and pointers each time."""
    generator, rows, made = torch.Generator().manual_seed(2), len(lengths), []
    for _ in range(count):
        tokens = torch.randint(14, (5, 3), generator=generator)[:rows]
        place = torch.randint(7, (5, 1), generator=generator)[:rows].minimum((lengths - 1).clamp(min=0)[:, None])
        stay = torch.randint(1, 5, (5, 1), generator=generator)[:rows] * (lengths > 0)[:, None]
        made.append(model.step(tokens, state, Pointer(place, stay)))
    return torch.stack([each[0] for each in made]), torch.stack([each[1] for each in made])


@needs_compiler
@pytest.mark.parametrize("bits", [32, 16, 8, 4])
@pytest.mark.parametrize(("width", "heads"), [(128, 2), (64, 2), (24, 2)], ids=["heads of 64", "32", "12"])
def test_its_logits_are_those_of_the_plain_step_past_the_window(bits: int, width: int, heads: int):
    plain = speech_lm(width, heads)
    fast, plain = with_native_step(copy.deepcopy(plain), bits), as_rounded(plain, bits)
    memory = memory_of(plain, 5)
    wanted = steps_of(plain, rounded_state(plain, memory, 30), memory.lengths, 20)
    made = steps_of(fast, fast.start(memory, 30), memory.lengths, 20)
    torch.testing.assert_close(made, wanted, atol=2e-3, rtol=2e-3)


@needs_compiler
@pytest.mark.skipif(platform.machine() != "x86_64", reason="leaves out what an x86 processor can")
@pytest.mark.parametrize("bits", [16, 8, 4])
@pytest.mark.parametrize("options", [[], ["-march=native", "-mno-avx512f"]], ids=["plain C++", "AVX2"])
def test_older_processors_compute_the_same(
    monkeypatch: pytest.MonkeyPatch, tmp_path: Path, bits: int, options: list[str]
):
    model = speech_lm()
    fast = with_native_step(copy.deepcopy(model), bits)
    monkeypatch.setenv("IRA_CACHE", str(tmp_path))
    monkeypatch.setattr(build, "PERHAPS", [options])
    build.built.cache_clear()
    slow = with_native_step(model, bits)
    build.built.cache_clear()
    memory = memory_of(model, 5)
    made = [steps_of(each, each.start(memory, 30), memory.lengths, 20) for each in (fast, slow)]
    torch.testing.assert_close(*made, atol=2e-3, rtol=2e-3)


def test_another_place_in_the_text_or_one_key_less_is_further_away_than_the_tolerance_above():
    plain = speech_lm()
    memory = memory_of(plain, 5)
    wanted = steps_of(plain, plain.start(memory, 30), memory.lengths, 20)[0]
    for other in (speech_lm(window=7), speech_lm(window=9)):
        assert (steps_of(other, other.start(memory, 30), memory.lengths, 20)[0] - wanted).abs().max() > 0.05
    shifted = replace(memory, vectors=memory.vectors.roll(1, 1))
    assert (steps_of(plain, plain.start(shifted, 30), memory.lengths, 20)[0] - wanted).abs().max() > 0.05


@needs_compiler
@pytest.mark.parametrize("bits", [32, 16, 8, 4])
def test_neither_neighbours_nor_threads_change_a_row(monkeypatch: pytest.MonkeyPatch, bits: int):
    made, used, code = [], [], build.built(bits)
    monkeypatch.setattr(step, "built", lambda bits: lambda *given: used.append(code(*given)))
    fast = with_native_step(speech_lm(), bits)
    whole = memory_of(fast, 5)
    for threads in (1, 2, 3):
        monkeypatch.setattr(Threads, "pick", lambda self, threads=threads: threads)
        monkeypatch.setattr(Threads, "note", lambda self, threads, seconds: None)
        made.append(steps_of(fast, fast.start(whole, 30), whole.lengths, 12)[0])
    assert torch.equal(made[0], made[1]) and torch.equal(made[0], made[2])
    assert set(used) == ({1, 2, 3} if sys.platform == "linux" else {1})  # elsewhere OpenMP may be missing
    for rows in (1, 2, 3):
        some = Memory(whole.vectors[:rows], whole.mask[:rows], whole.lengths[:rows])
        assert torch.equal(steps_of(fast, fast.start(some, 30), some.lengths, 12)[0], made[0][:, :rows])


@torch.no_grad()
def drawn(model: SpeechLM, rows: int, guidance: float) -> Generated:
    untold = model.condition(None, None, None, batch=rows) if guidance != 1 else None
    bounds = torch.tensor([40, 9, 12, 40, 9])[:rows]  # most rows leave the batch on the way
    sampling = Sampling(guidance=guidance)
    return Decoding(model, memory_of(model, rows), untold, bounds, list(range(rows)), sampling).run()


@needs_compiler
@pytest.mark.parametrize(("rows", "guidance"), [(1, 1.0), (1, 3.0), (5, 2.0)])
def test_it_draws_the_same_codes_also_when_rows_have_left(rows: int, guidance: float):
    plain = speech_lm()
    fast = with_compiled_step(copy.deepcopy(plain))
    made = [drawn(model, rows, guidance) for model in (plain, fast)]
    assert int(made[0].frames.max()) > 9
    same = (made[0].codes == made[1].codes).float().mean()
    assert same > 0.98, same  # keys in bf16 may tip a draw


@needs_compiler
def test_it_listens_with_the_matrices_of_the_model():
    plain = speech_lm()
    fast = with_rounded_weights(with_compiled_step(copy.deepcopy(plain), 8), 8)
    codes = torch.randint(11, (2, 3, 9), generator=torch.Generator().manual_seed(0))
    frames = torch.tensor([9, 9])
    torch.testing.assert_close(fast.states(codes, frames, [1]), plain.states(codes, frames, [1]), atol=0.3, rtol=0.1)
    assert drawn(fast, 2, 2.0).codes.shape[0] == 2


@needs_compiler
def test_a_step_too_many_is_refused_as_without():
    fast = with_native_step(speech_lm(window=None), 32)
    state = fast.start(memory_of(fast, 1), 64)
    state.caches[0].length = 64
    with pytest.raises(InputError, match="65 steps of audio; the model reads 64"):
        steps_of(fast, state, torch.tensor([7]), 1)


def test_the_quickest_number_of_threads_goes_on_and_is_sought_again():
    threads = Threads(4)
    assert threads.choices == [1, 2, 4]
    seconds = {1: 3.0, 2: 1.0, 4: 2.0}
    picked = []
    for _ in range(step.TRIAL_EVERY):
        picked.append(threads.pick())
        threads.note(picked[-1], seconds[picked[-1]])
    tried = 3 * step.TRIAL_STEPS
    assert sorted(picked[:tried]) == sorted([1, 2, 4] * step.TRIAL_STEPS)
    assert set(picked[tried:]) == {2}
    seconds = {1: 1.0, 2: 25.0, 4: 30.0}  # the other cores are busy now
    for _ in range(tried):
        threads.note(now := threads.pick(), seconds[now])
    assert threads.pick() == 1


@needs_compiler
def test_it_is_compiled_once_and_found_in_the_cache(monkeypatch: pytest.MonkeyPatch, tmp_path: Path):
    monkeypatch.setenv("IRA_CACHE", str(tmp_path))
    build.built.cache_clear()
    build.built(8)
    made = list(tmp_path.rglob("*"))
    assert [path.suffix for path in made if path.is_file()] == [".so"]
    build.built.cache_clear()
    monkeypatch.setattr(build, "_compile", lambda *given: pytest.fail("compiled again"))
    build.built(8)


def no_compiler(patch: pytest.MonkeyPatch, folder: Path) -> None:
    patch.setattr(build.shutil, "which", lambda name: None)


def no_cache(patch: pytest.MonkeyPatch, folder: Path) -> None:
    (folder / "file").touch()
    patch.setenv("IRA_CACHE", str(folder / "file"))


def cache_of_everybody(patch: pytest.MonkeyPatch, folder: Path) -> None:
    (folder / "native").mkdir()
    (folder / "native").chmod(0o777)


def damaged_cache(patch: pytest.MonkeyPatch, folder: Path) -> None:
    patch.setattr(build, "_compile", lambda with_what, bits, path: path.touch())


def no_such_option(patch: pytest.MonkeyPatch, folder: Path) -> None:
    patch.setattr(build, "WITH", ["--no-such-option"])


@pytest.mark.parametrize(
    ("broken", "said"),
    [
        (no_compiler, r"nothing to compile with; install one of g\+\+, clang\+\+, c\+\+, or go without"),
        pytest.param(no_cache, "cannot be written .*; set IRA_CACHE to a folder", marks=needs_compiler),
        pytest.param(cache_of_everybody, "others can write there, .*; set IRA_CACHE to a folder", marks=needs_compiler),
        pytest.param(damaged_cache, "cannot be loaded .*; delete it", marks=needs_compiler),
        pytest.param(no_such_option, "cannot compile step.cpp: .*; go without --compile", marks=needs_compiler),
    ],
)
def test_what_cannot_be_compiled_is_said_in_a_line(monkeypatch: pytest.MonkeyPatch, tmp_path: Path, broken, said: str):
    monkeypatch.setenv("IRA_CACHE", str(tmp_path))
    build.built.cache_clear()
    broken(monkeypatch, tmp_path)
    with pytest.raises(InputError, match=said):
        with_compiled_step(speech_lm(), 16)
    build.built.cache_clear()
