"""Attention written out for training on a CPU against torch's own; caches."""

from __future__ import annotations

import pytest
import torch
from torch import Tensor
from torch.nn import functional as F

from ira.models import blocks
from ira.models.blocks import Attention, KeyValueCache, rope, weigh, window_mask

B, H, S, C = 2, 3, 6, 8


def parts(keys: int, dtype: torch.dtype = torch.float32) -> tuple[Tensor, Tensor, Tensor]:
    """Queries [B, H, S, C], keys and values [B, H, keys, C]."""
    generator = torch.Generator().manual_seed(keys)
    q, k, v = (torch.randn(B, H, size, C, generator=generator) for size in (S, keys, keys))
    return q.to(dtype).requires_grad_(), k.to(dtype).requires_grad_(), v.to(dtype).requires_grad_()


def masks(keys: int) -> dict[str, Tensor | None]:
    may = torch.rand(B, 1, S, keys, generator=torch.Generator().manual_seed(9)) < 0.6
    may[..., 0] = True
    bias = torch.randn(B, 1, S, keys, generator=torch.Generator().manual_seed(8)) * 3
    shut = bias.masked_fill(~may, torch.finfo(bias.dtype).min)
    return {"none": None, "boolean": may, "row": may[:, :, :1], "additive": bias, "additive and shut": shut}


def both(q: Tensor, k: Tensor, v: Tensor, mask: Tensor | None, causal: bool) -> list[list[Tensor]]:
    """What comes out and the three gradients, of torch's attention and of ours."""
    found = []
    for made in (F.scaled_dot_product_attention(q, k, v, attn_mask=mask, is_causal=causal), None):
        out = weigh(q, k, v, mask, causal=causal) if made is None else made
        aim = torch.randn(out.shape, generator=torch.Generator().manual_seed(1)).to(out.dtype)
        found.append([out, *torch.autograd.grad((out * aim).sum(), (q, k, v))])
    return found


@pytest.mark.parametrize("kind", ["none", "boolean", "row", "additive", "additive and shut", "causal"])
def test_written_out_it_is_torchs_attention_in_values_and_gradients(kind):
    keys = S if kind == "causal" else 5
    wanted, found = both(*parts(keys), masks(keys).get(kind), kind == "causal")
    for want, got in zip(wanted, found, strict=True):
        torch.testing.assert_close(got, want, atol=2e-6, rtol=1e-5)


@pytest.mark.parametrize("kind", ["boolean", "additive and shut", "causal"])
def test_in_bf16_both_are_as_close_to_the_exact_numbers(kind):
    keys = S if kind == "causal" else 5
    mask = masks(keys).get(kind)
    low = mask if mask is None or mask.dtype == torch.bool else mask.bfloat16()  # -inf where it was the least number
    q, k, v = parts(keys, torch.bfloat16)
    high = [one.detach().float().requires_grad_() for one in (q, k, v)]
    exact, _ = both(high[0], high[1], high[2], mask, kind == "causal")
    _, found = both(q, k, v, low, kind == "causal")
    for want, got in zip(exact, found, strict=True):
        assert got.dtype == torch.bfloat16 and got.isfinite().all()
        torch.testing.assert_close(got.float(), want, atol=0.06, rtol=0.06)


@pytest.mark.parametrize(
    "gradients, limit, fused", [(False, 1 << 26, 1), (True, 1 << 26, 0), (True, B * H * S * 5 - 1, 1)]
)
def test_it_is_written_out_only_where_gradients_are_wanted_and_scores_fit(gradients, limit, fused, monkeypatch):
    calls, own = [], F.scaled_dot_product_attention
    monkeypatch.setattr(blocks, "WRITTEN_OUT", limit)
    monkeypatch.setattr(F, "scaled_dot_product_attention", lambda *a, **k: calls.append(1) or own(*a, **k))
    with torch.set_grad_enabled(gradients):
        weigh(*parts(5), None)
    assert len(calls) == fused


@torch.no_grad()
def test_a_cache_gives_step_by_step_what_the_whole_sequence_gives():
    torch.manual_seed(0)
    attention, x = Attention(16, 2), torch.randn(2, 5, 16)
    cache = KeyValueCache.empty(2, 2, 5, 8, x)
    steps = [attention(x[:, t : t + 1], cache=cache) for t in range(5)]
    torch.testing.assert_close(torch.cat(steps, 1), attention(x, causal=True), atol=1e-6, rtol=1e-5)


@torch.no_grad()
def test_a_cache_of_a_window_forgets_what_a_windowed_sequence_does_not_see():
    torch.manual_seed(0)
    attention, x, angles = Attention(16, 2), torch.randn(2, 11, 16), rope(torch.arange(11), 8)
    cache = KeyValueCache.empty(2, 2, 4, 8, x)
    turned = [tuple(part[t : t + 1] for part in angles) for t in range(11)]
    steps = [attention(x[:, t : t + 1], turned[t], cache=cache) for t in range(11)]
    mask = window_mask(11, 4, x.device)
    whole = attention(x, angles, mask=mask)
    torch.testing.assert_close(torch.cat(steps, 1), whole, atol=1e-6, rtol=1e-5)
    assert cache.length == 11
    longer = x.clone()
    longer[:, 3] += 1.0  # step 6 sees 3 to 6, step 7 does not see it any more
    changed = (attention(longer, angles, mask=mask) != whole).any(-1).any(0)
    assert changed.tolist() == [False] * 3 + [True] * 4 + [False] * 4


def test_a_window_that_holds_every_step_needs_no_mask():
    assert window_mask(4, 4, torch.device("cpu")) is None and window_mask(9, None, torch.device("cpu")) is None


def test_several_steps_at_once_stand_side_by_side_in_a_cache():
    attention, x = Attention(16, 2), torch.randn(2, 6, 16)
    with pytest.raises(ValueError, match="6 steps at once into a cache of 5, 0 of them taken"):
        attention(x, causal=True, cache=KeyValueCache.empty(2, 2, 5, 8, x))


def test_on_a_cpu_a_bf16_model_keeps_fp32_and_attends_in_it():
    q, k, v = (part.detach() for part in parts(5))
    cache = KeyValueCache.empty(B, H, 5, C, like=q.bfloat16())
    keys, values = cache.append(k, v)
    assert torch.equal(keys, k) and torch.equal(values, v)
    made = weigh(q.bfloat16(), keys, values, None)
    assert made.dtype == torch.bfloat16
    assert torch.equal(made, weigh(q.bfloat16().float(), k, v, None).bfloat16())
