"""The benchmark of privacy on Fashion-MNIST: rows are what they say, gradients are clipped."""

import math

import torch
from torch.nn import functional

from fedsim.privacy.accounting import epsilon


def test_rows_spend_what_they_say(bench):
    for row in bench("dp_fashion").ROWS:
        spent = epsilon(row.releases(), row.delta, "zero-out")
        assert spent == row.epsilon or 0.99 * row.epsilon < spent <= row.epsilon, row.label


def test_sums_are_of_clipped_gradients(bench):
    """Against autograd, member by member."""
    module, generator = bench("dp_fashion"), torch.Generator().manual_seed(0)
    x, y = torch.randn(12, 20, generator=generator), torch.arange(12) % 10
    data = module.Data(x, y, x, y, torch.arange(12).view(4, 3))
    model = [torch.randn(10, 20, generator=generator), torch.randn(10, generator=generator)]
    total = [torch.zeros_like(part) for part in model]
    for member in data.members:
        own = [part.clone().requires_grad_() for part in model]
        functional.cross_entropy(functional.linear(x[member], *own), y[member]).backward()
        norm = math.sqrt(sum(float(part.grad.square().sum()) for part in own))
        for part, result in zip(own, total, strict=True):
            result += part.grad * min(1.0, module.CLIPPING_NORM / norm)
    found = module.clipped_sum(data, data.members, *model)
    for ours, theirs in zip(found, total, strict=True):
        torch.testing.assert_close(ours, theirs, atol=1e-6, rtol=1e-4)


def test_tables_show_means_and_verdicts(bench):
    module = bench("dp_fashion")
    row = next(row for row in module.ROWS if row.target == 89.2)
    text = module.table({row: [(89.0, 30.0), (89.5, 32.0), (89.4, 40.0)]})
    assert "| 7.98 | 7.0e-05 | 89.30 (89.00 89.50 89.40) | ≥ 89.2 PASS |" in text
    assert "FAIL" in module.table({row: [(89.0, 30.0)]})
