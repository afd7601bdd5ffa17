"""FedAdam, FedYogi, FedAdagrad: Reddi et al. 2021, Algorithm 2, and Flower's version of it.

Where Flower (1.41) deviates from the paper, and how these tests undo it:
- all three start v at 0; the paper wants v >= tau^2, and so do we;
- its FedAdam multiplies the server rate by sqrt(1 - beta2^(t + 1)) / (1 - beta1^(t + 1)), a bias
  correction one round ahead; the paper has none;
- its FedAdagrad has beta1 fixed to 0, which is our default.
Both weigh clients by their examples, the paper's algorithm weighs them alike.
"""

from dataclasses import replace

import numpy as np
import pytest
from flwr.serverapp import strategy as flower

from fedsim.core import RoundContext, Sum
from fedsim.strategies.fedadagrad import FedAdagrad
from fedsim.strategies.fedadam import FedAdam
from fedsim.strategies.fedyogi import FedYogi

PARTS = [
    FedAdam(lr=0.05, beta1=0.8, beta2=0.95, tau=1e-2),
    FedYogi(lr=0.05, beta1=0.8, beta2=0.95, tau=1e-2),
    FedAdagrad(lr=0.05, beta1=0.3, tau=1e-2),
    FedAdam(),
    FedYogi(),
    FedAdagrad(),
]


def algorithm_2(part, rounds, x):
    """Transcribe the paper's lines 12 to 17."""
    beta1, beta2, eta, tau = part.beta1, getattr(part, "beta2", None), part.lr, part.tau
    m, v, models = np.zeros_like(x), np.full_like(x, tau**2), []
    for updates in rounds:
        weights = [update.weight for update in updates]
        delta = np.average([u.vector.double().numpy() for u in updates], axis=0, weights=weights)
        m = beta1 * m + (1 - beta1) * delta
        if isinstance(part, FedAdagrad):
            v = v + delta**2
        elif isinstance(part, FedYogi):
            v = v - (1 - beta2) * delta**2 * np.sign(v - delta**2)
        else:
            v = beta2 * v + (1 - beta2) * delta**2
        x = x + eta * m / (np.sqrt(v) + tau)
        models.append(x)
    return models


@pytest.mark.parametrize("part", PARTS, ids=repr)
def test_models_are_the_papers(part, rounds, model, server):
    models, _ = server(part, rounds, model)
    expected = algorithm_2(part, rounds, model.numpy())
    np.testing.assert_allclose(models, expected, rtol=0, atol=1e-12)


@pytest.mark.parametrize("part", [p for p in PARTS if isinstance(p, FedYogi)], ids=repr)
def test_fedyogi_is_flowers_once_v_starts_at_zero(part, rounds, model, server, flower_server):
    reference = flower.FedYogi(
        fraction_train=0.0, eta=part.lr, beta_1=part.beta1, beta_2=part.beta2, tau=part.tau
    )
    models, _ = server(part, rounds, model, from_zero(part, model))
    np.testing.assert_allclose(models, flower_server(reference, rounds, model), rtol=0, atol=1e-12)


def test_fedadagrad_is_flowers_once_v_starts_at_zero(rounds, model, server, flower_server):
    part = FedAdagrad(lr=0.05, tau=1e-2)
    reference = flower.FedAdagrad(fraction_train=0.0, eta=0.05, tau=1e-2)
    models, _ = server(part, rounds, model, from_zero(part, model))
    np.testing.assert_allclose(models, flower_server(reference, rounds, model), rtol=0, atol=1e-12)


@pytest.mark.parametrize("part", [p for p in PARTS if isinstance(p, FedAdam)], ids=repr)
def test_fedadam_is_flowers_once_its_bias_correction_is_in_the_rate(
    part, rounds, model, server, flower_server
):
    reference = flower.FedAdam(
        fraction_train=0.0, eta=part.lr, beta_1=part.beta1, beta_2=part.beta2, tau=part.tau
    )
    state, models = from_zero(part, model), []
    for t, updates in enumerate(rounds, start=1):
        correction = np.sqrt(1 - part.beta2 ** (t + 1)) / (1 - part.beta1 ** (t + 1))
        corrected = replace(part, lr=part.lr * correction)
        (after,), state = server(corrected, [updates], model, state)
        models.append(after)
    np.testing.assert_allclose(models, flower_server(reference, rounds, model), rtol=0, atol=1e-12)


@pytest.mark.parametrize("part", PARTS[:3], ids=repr)
def test_tau_bounds_the_step(part, rounds, model, server):
    # |m| <= max |delta| and sqrt(v) >= 0: a step is at most lr |m| / tau.
    (after,), state = server(part, rounds[:1], model)
    bound = part.lr * state["m"].abs().numpy() / part.tau
    assert (np.abs(after - model.numpy()) <= bound).all()


def test_yogi_forgets_a_large_gradient_more_slowly_than_adam(rounds, model, server):
    # Zaheer et al. 2018: v changes by at most (1 - beta2) g^2, whatever v is.
    small = [[replace(u, vector=u.vector * 1e-3) for u in rounds[0]]]
    _, adam = server(FedAdam(beta2=0.5), [rounds[0], *small], model)
    _, yogi = server(FedYogi(beta2=0.5), [rounds[0], *small], model)
    assert (yogi["v"] > adam["v"]).all()


def from_zero(part, model):
    state = part.init(model)
    assert (state["v"] == part.tau**2).all()
    return {**state, "v": state["v"] * 0}


def test_the_round_does_not_matter(rounds, model, server):
    # No bias correction: the step depends on the state alone, so a resumed run needs no counter.
    part = PARTS[0]
    _, state = server(part, rounds[:2], model)
    (first,), _ = server(part, rounds[2:3], model, state)
    weighted = sum(u.weight * u.vector.double() for u in rounds[2])
    total = Sum(weighted, sum(u.weight for u in rounds[2]), len(rounds[2]))
    late = part.step(state, total, RoundContext(0, 99, 5))
    np.testing.assert_array_equal(first, late["model"].numpy())
