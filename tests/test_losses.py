import math

import numpy as np
import pytest
import torch
from sklearn.metrics import log_loss, mean_absolute_error, mean_squared_error

from fedsim.losses import KINDS, LOSSES, default

GENERATOR = np.random.default_rng(0)


def test_cross_entropy_is_scikit_learns_log_loss():
    logits = torch.from_numpy(GENERATOR.normal(size=(50, 4)))
    target = torch.from_numpy(GENERATOR.integers(4, size=50))
    expected = log_loss(target, logits.softmax(dim=1), labels=range(4))
    assert float(LOSSES["cross_entropy"](logits, target)) == pytest.approx(expected, rel=1e-9)


def test_cross_entropy_of_sequences_is_the_mean_over_all_positions():
    logits = torch.from_numpy(GENERATOR.normal(size=(6, 7, 4)))
    target = torch.from_numpy(GENERATOR.integers(4, size=(6, 7)))
    expected = log_loss(target.flatten(), logits.softmax(dim=2).view(42, 4), labels=range(4))
    assert float(LOSSES["cross_entropy"](logits, target)) == pytest.approx(expected, rel=1e-9)


def test_cross_entropy_of_a_uniform_guess_is_the_log_of_the_classes():
    loss = LOSSES["cross_entropy"](torch.zeros(3, 10), torch.tensor([0, 4, 9]))
    assert float(loss) == pytest.approx(math.log(10), rel=1e-6)


@pytest.mark.parametrize("shape", [(50,), (50, 1)])
@pytest.mark.parametrize(
    ("name", "reference"), [("mse", mean_squared_error), ("mae", mean_absolute_error)]
)
def test_regression_losses_are_scikit_learns(shape, name, reference):
    output = torch.from_numpy(GENERATOR.normal(size=shape))
    target = torch.from_numpy(GENERATOR.normal(size=50))
    expected = reference(target, output.flatten())
    assert float(LOSSES[name](output, target)) == pytest.approx(expected, rel=1e-9)


@pytest.mark.parametrize("shape", [(50,), (50, 1)])
def test_binary_is_scikit_learns_log_loss(shape):
    output = torch.from_numpy(GENERATOR.normal(size=shape)).float()
    target = torch.from_numpy(GENERATOR.integers(2, size=50))
    expected = log_loss(target, output.sigmoid().flatten())
    assert float(LOSSES["binary"](output, target)) == pytest.approx(expected, rel=1e-5)


def test_outputs_of_another_length_are_an_error_not_a_broadcast():
    for name in ("binary", "mse", "mae"):
        with pytest.raises((ValueError, RuntimeError, UserWarning)):
            LOSSES[name](torch.zeros(4, 2), torch.zeros(4))


def test_every_kind_has_a_usual_loss_of_its_own():
    assert set(KINDS) == set(LOSSES)
    for kind in ("classification", "binary", "regression"):
        assert KINDS[default(kind)] == kind


@pytest.mark.parametrize("classes", [2, 10, 15, 16])
@pytest.mark.parametrize("reduction", ["mean", "none"])
def test_cross_entropy_of_many_rows_is_that_of_few(classes, reduction):
    stream = torch.Generator().manual_seed(classes)
    output = torch.randn(600, 2, classes, generator=stream, requires_grad=True)
    target = torch.randint(classes, (600, 2), generator=stream)
    whole = LOSSES["cross_entropy"](output, target, reduction=reduction)
    pieces = zip(output.split(100), target.split(100), strict=True)
    parts = [LOSSES["cross_entropy"](o, t, reduction=reduction) for o, t in pieces]
    few = torch.stack(parts).mean() if reduction == "mean" else torch.cat(parts)
    assert whole.shape == few.shape
    torch.testing.assert_close(whole, few)
    gradients = [torch.autograd.grad(found.sum(), output)[0] for found in (whole, few)]
    torch.testing.assert_close(*gradients)
