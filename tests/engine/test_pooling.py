"""Max-pooling in workers: the same bits as torch's, forwards and backwards."""

import math

import pytest
import torch
from hypothesis import given
from hypothesis import strategies as st
from torch import nn

from fedsim.engine import pooling


def results(x, options):
    x = x.detach().clone(memory_format=torch.preserve_format).requires_grad_()
    values, places = nn.functional.max_pool2d(x, **options, return_indices=True)
    weights = torch.arange(1.0, values.numel() + 1).view(values.shape).to(x)
    (gradient,) = torch.autograd.grad((values.nan_to_num() * weights).sum(), x)
    return values.detach(), places, gradient


def same(found, expected):
    for one, other in zip(found, expected, strict=True):
        assert torch.equal(one.nan_to_num(-7), other.nan_to_num(-7))
        assert one.stride() == other.stride()


@st.composite
def pools(draw):
    kernel = draw(st.integers(1, 3))
    options = {
        "kernel_size": kernel,
        "stride": draw(st.none() | st.integers(1, 3)),
        "padding": draw(st.integers(0, kernel // 2)),
        "dilation": draw(st.integers(1, 2)),
        "ceil_mode": draw(st.booleans()),
    }
    shape = [draw(st.integers(1, most)) for most in (3, 20)] + [draw(st.integers(6, 9))] * 2
    return shape, options, draw(st.sampled_from([torch.float32, torch.float64]))


@pytest.mark.parametrize("values", ["normal", "ties", "not finite"])
@given(drawn=pools())
def test_no_bit_changes(values, drawn):
    shape, options, dtype = drawn
    x = torch.randn(shape, generator=torch.Generator().manual_seed(0), dtype=dtype)
    if values == "ties":
        x = torch.relu(x).round()
    if values == "not finite":
        x[x > 1], x[x < -1] = math.nan, -math.inf
    expected = results(x, options)
    before, pooling._LEAST = pooling._LEAST, 1
    library = pooling.pool_channels_last()
    try:
        same(results(x, options), expected)
    finally:
        library._destroy()
        pooling._LEAST = before


def test_what_pools_otherwise_is_left_alone():
    large = torch.randn(8, 16, 20, 20)
    last = large.to(memory_format=torch.channels_last)
    others = [large, last, large[0], large[:, :, ::2], torch.randn(1, 2, 4, 4)]
    expected = [results(x, {"kernel_size": 2}) for x in others]
    library = pooling.pool_channels_last()
    try:
        for x, right in zip(others, expected, strict=True):
            same(results(x, {"kernel_size": 2}), right)
        at_once = torch.func.vmap(lambda own: nn.functional.max_pool2d(own, 2))(
            large.view(2, 4, 16, 20, 20)
        )
        assert torch.equal(at_once.flatten(0, 1), expected[0][0])
    finally:
        library._destroy()
