import numpy as np
import pytest
import torch

from fedsim.clients.sgd import Sgd as LocalSgd
from fedsim.core import Recipe
from fedsim.models import get_vector, set_vector
from fedsim.optimizers.adam import Adam
from fedsim.optimizers.gd import Gd
from fedsim.optimizers.sgd import Sgd
from fedsim.training import batches


def descend(task, batches, lr):
    """Plain SGD in NumPy float64 over given batches."""
    x, y, w = task.x.double().numpy(), task.y.double().numpy(), task.model.double().numpy()
    for batch in batches:
        w = w - lr * 2 / len(batch) * x[batch].T @ (x[batch] @ w - y[batch])
    return w


def test_epochs_are_sgd_over_the_clients_own_shuffles(task, ctx):
    made = task()
    update, _ = LocalSgd(epochs=3, batch_size=7).train(made, {}, ctx(2))
    order = batches(24, Recipe(epochs=3, batch_size=7), ctx(2))
    expected = descend(made, [batch.numpy() for batch in order], 0.05) - made.model.double().numpy()
    np.testing.assert_allclose(update.vector.numpy(), expected, rtol=0, atol=1e-6)


def test_full_batch_gd_is_the_closed_form(task, ctx):
    made = task(optimizer=Gd(lr=0.1))
    update, _ = LocalSgd(epochs=4, batch_size=1).train(made, {}, ctx())
    x, y = made.x.double().numpy(), made.y.double().numpy()
    best, *_ = np.linalg.lstsq(x, y)
    shrink = np.eye(3) - 0.1 * 2 / 24 * x.T @ x
    error = np.linalg.matrix_power(shrink, 4) @ (made.model.double().numpy() - best)
    expected = best + error - made.model.double().numpy()
    np.testing.assert_allclose(update.vector.numpy(), expected, rtol=0, atol=1e-6)


def test_steps_override_epochs(task, ctx):
    made = task()
    update, _ = LocalSgd(epochs=9, steps=5, batch_size=10).train(made, {}, ctx())
    order = list(batches(24, Recipe(epochs=2, batch_size=10), ctx()))[:5]
    expected = descend(made, [batch.numpy() for batch in order], 0.05) - made.model.double().numpy()
    np.testing.assert_allclose(update.vector.numpy(), expected, rtol=0, atol=1e-6)


def test_batch_size_zero_is_the_whole_shard(task, ctx):
    whole, _ = LocalSgd(batch_size=0).train(task(), {}, ctx())
    also, _ = LocalSgd(batch_size=24).train(task(), {}, ctx())
    gd, _ = LocalSgd(batch_size=5).train(task(optimizer=Gd(lr=0.05)), {}, ctx())
    assert torch.equal(whole.vector, also.vector)
    assert torch.equal(whole.vector, gd.vector)


def test_the_schedule_scales_every_step(task, ctx):
    half, _ = LocalSgd().train(task(), {}, ctx(lr_factor=0.5))
    expected, _ = LocalSgd().train(task(optimizer=Sgd(lr=0.025)), {}, ctx())
    assert torch.equal(half.vector, expected.vector)


@pytest.mark.parametrize("optimizer", [Sgd(lr=0.05, momentum=0.9), Adam(lr=0.05)], ids=repr)
def test_a_kept_optimizer_makes_two_rounds_one_long_one(optimizer, task, ctx):
    # Full batches, so that only the optimizer's memory could make a difference.
    part = LocalSgd(batch_size=0, epochs=3, keep_optimizer=True)
    first = task(optimizer=optimizer)
    update, memo = part.train(first, {}, ctx(1))
    second = task(get_vector(first.module), optimizer=optimizer)
    update, _ = part.train(second, memo, ctx(2))
    long = task(optimizer=optimizer)
    LocalSgd(batch_size=0, epochs=6).train(long, {}, ctx(1))
    torch.testing.assert_close(
        second.model + update.vector, get_vector(long.module), rtol=0, atol=1e-6
    )


def test_an_optimizer_that_is_not_kept_starts_anew_and_leaves_nothing(task, ctx):
    part = LocalSgd(batch_size=0)
    update, memo = part.train(task(optimizer=Sgd(lr=0.05, momentum=0.9)), {}, ctx())
    assert memo == {}
    plain, _ = part.train(task(optimizer=Sgd(lr=0.05)), {}, ctx())
    assert torch.equal(update.vector, plain.vector)  # the first step has no momentum yet


def test_the_loss_reported_is_that_of_training(task, ctx):
    made = task(optimizer=Gd(lr=0.05))
    residual = (made.x @ made.model - made.y).double()
    update, _ = LocalSgd().train(made, {}, ctx())
    assert update.metrics["loss"] == pytest.approx(float((residual**2).mean()), rel=1e-6)
    assert update.metrics["examples"] == 24
    assert update.weight == 24


def test_the_update_is_the_change_of_the_resident_module(task, ctx):
    made = task()
    update, _ = LocalSgd().train(made, {}, ctx())
    assert torch.equal(update.vector, get_vector(made.module) - made.model)
    set_vector(made.module, made.model)
    assert not torch.equal(update.vector, torch.zeros(3))
