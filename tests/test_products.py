"""Matrix products: by either library those of torch's dense layers, and which one is asked."""

import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st
from torch import nn

from fedsim import products

needs_onednn = pytest.mark.skipif(
    not torch.backends.mkldnn.is_available(), reason="this torch has no oneDNN"
)


@pytest.fixture
def cpus(tmp_path):
    """Write what Linux would say of a processor."""

    def write(vendor):
        path = tmp_path / vendor
        path.write_text(f"processor\t: 0\nvendor_id\t: {vendor}\n")
        return path

    return write


@needs_onednn
@settings(max_examples=40, deadline=None)
@given(
    rows=st.integers(1, 70),
    wide=st.integers(1, 90),
    high=st.integers(1, 40),
    has_bias=st.booleans(),
    is_view=st.booleans(),
)
def test_either_library_comes_to_the_product(rows, wide, high, has_bias, is_view):
    stream = torch.Generator().manual_seed(rows * 10_000 + wide * 100 + high)
    x, weight = (torch.randn(n, wide, generator=stream) for n in (rows, high))
    bias = torch.randn(high, generator=stream) if has_bias else None
    if is_view:
        weight = weight.t().contiguous().t()
    exact = nn.functional.linear(
        x.double(), weight.double(), None if bias is None else bias.double()
    )
    for is_onednn in (True, False):
        with pytest.MonkeyPatch.context() as patch:
            patch.setattr(products, "_leaves_avx512_unused", lambda own=is_onednn: own)
            found = products.linear(x, weight, bias)
        torch.testing.assert_close(found, exact.float(), rtol=1e-5, atol=1e-5)


@needs_onednn
@pytest.mark.parametrize("is_onednn", [True, False])
def test_leading_axes_and_sums_are_those_of_torch(is_onednn, monkeypatch):
    monkeypatch.setattr(products, "_leaves_avx512_unused", lambda: is_onednn)
    stream = torch.Generator().manual_seed(1)
    weight = torch.randn(3, 5, generator=stream)
    for shape in ((5,), (4, 2, 5), (0, 5)):
        x = torch.randn(shape, generator=stream)
        torch.testing.assert_close(products.linear(x, weight), nn.functional.linear(x, weight))
    left, right = (torch.randn(7, n, generator=stream) for n in (3, 5))
    expected = weight + left.t() @ right
    products.accumulate(weight, left, right)
    torch.testing.assert_close(weight, expected)


def test_float64_is_left_to_torch(monkeypatch):
    monkeypatch.setattr(products, "_leaves_avx512_unused", lambda: True)
    x, weight = torch.randn(3, 5, dtype=torch.float64), torch.randn(2, 5, dtype=torch.float64)
    assert torch.equal(products.linear(x, weight), nn.functional.linear(x, weight))


@needs_onednn
@pytest.mark.parametrize(
    ("vendor", "capability", "expected"),
    [
        ("AuthenticAMD", "AVX512", True),
        ("AuthenticAMD", "AVX2", False),
        ("GenuineIntel", "AVX512", False),
    ],
)
def test_onednn_is_asked_where_mkl_leaves_avx512_unused(
    vendor, capability, expected, cpus, monkeypatch
):
    monkeypatch.setattr(torch.backends.cpu, "get_cpu_capability", lambda: capability)
    assert products._leaves_avx512_unused.__wrapped__(cpus(vendor)) is expected


def test_where_nothing_is_said_of_the_processor_torch_decides(tmp_path):
    assert products._leaves_avx512_unused.__wrapped__(tmp_path / "none") is False
