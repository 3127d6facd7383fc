from __future__ import annotations

import pytest
import torch

from ira.bench import decode, machine
from ira.bench.decode import can_be_measured
from ira.bench.machine import describe, read_rate, speedup_of
from ira.bench.sizes import EARNEST, QUICK
from ira.bench.suites import SUITES, Case, cases, plain, run, shown, using_threads
from ira.bench.timing import Spread
from ira.inference.pipeline import Pipeline
from ira.models.rounded import Int4Linear, Int8Linear


def test_each_suite_is_a_part_of_all(tiny_model_folder):
    pipeline = Pipeline.from_folder(tiny_model_folder, "cpu")
    names = [case.name for case in cases("decode", pipeline, EARNEST)]
    assert names.count("full_bf16_batch1@8000/") == 1 and names.count("full_fp32_batch8@100/") == 1
    assert "full_fp32_batch8@1000/" not in names  # the curve is that of one row
    assert "own_fp32_batch1@1000/" not in names  # it reads 400 steps
    each = sum(len(cases(suite, pipeline, QUICK)) for suite in SUITES)
    assert each == len(cases("all", pipeline, QUICK))


@pytest.mark.parametrize(
    ("precision", "width", "device", "can"),
    [
        ("bf16", 24, "cuda", True),
        ("int8", 64, "cuda", False),
        ("int4", 64, "cpu", True),
        ("int4", 48, "cpu", False),
        ("fp16", 48, "cpu", True),
        ("fp16", 64, "cuda", False),
    ],
)
def test_what_cannot_be_rounded_is_not_measured_rounded(monkeypatch, precision, width, device, can):
    monkeypatch.setattr(decode, "bits_here", lambda: [16, 8, 4])
    assert can_be_measured(precision, width, torch.device(device), False) == can
    compiled = can and not (precision == "bf16" and device == "cpu")
    assert can_be_measured(precision, width, torch.device(device), True) == compiled


def test_figures_stand_under_their_suite_and_case():
    told = []
    found = [Case("codec", "", lambda: {"a": 1}), Case("decode", "x/", lambda: {"a": torch.get_num_threads()})]
    figures = run(found, None, lambda number, case: told.append((number, case.suite)), several=True)
    assert figures["codec/a"] == 1 and figures["decode/x/a"] == 1 and figures["decode/threads"] == 1
    assert told == [(0, "codec"), (1, "decode")]
    assert (plain(figures)["codec/peak_mb"] or 0) > 10
    assert set(run(found[:1], 1, lambda *_: None, several=False)) == {"threads", "a", "peak_mb"}


def test_threads_are_as_before_afterwards():
    before = torch.get_num_threads()
    with using_threads(3):
        assert torch.get_num_threads() == 3
    assert torch.get_num_threads() == before


def test_a_spread_becomes_three_numbers_and_one_cell():
    assert plain({"ms": Spread(2.0, 1.0, 3.0), "none": None}) == {
        "ms": 2.0,
        "ms_low": 1.0,
        "ms_high": 3.0,
        "none": None,
    }
    assert [shown(v) for v in (Spread(2.0, 1.0, 3.0), None, 4)] == ["2 (1 to 3)", "-", "4"]


def test_the_machine_is_named_and_its_memory_is_faster_than_a_disk():
    assert describe(torch.device("cpu"), 2)["threads"] == 2 and describe(torch.device("cpu"), None)["name"]
    assert read_rate(torch.device("cpu"), 4_000_000) > 1e8


def test_every_process_multiplies():
    made = machine.products(2, seconds=0.2)
    assert len(made) == 2 and min(made) > 0


def test_a_speedup_is_all_products_by_those_of_one(monkeypatch):
    monkeypatch.setattr(machine, "products", lambda processes, seconds: [60.0] * processes if processes > 1 else [80.0])
    assert speedup_of(2) == 1.5


@pytest.mark.parametrize(("precision", "kind"), [("int8", Int8Linear), ("int4", Int4Linear)])
def test_bytes_of_a_weight_are_those_of_what_is_kept(precision, kind):
    kept = kind(torch.randn(512, 512))
    assert sum(buffer.nbytes for buffer in kept.buffers()) / 512**2 == pytest.approx(decode.BYTES[precision], rel=0.01)


@pytest.mark.parametrize("sizes", [EARNEST, QUICK])
def test_the_full_scale_model_has_room_for_the_whole_curve(sizes):
    assert max(sizes.growth) + sizes.steps < sizes.seed.max_steps - sizes.seed_books
