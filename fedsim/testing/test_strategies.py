"""What every strategy keeps to, whatever file or package it is from."""

from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from flwr.app import RecordDict
from torch import Tensor

from fedsim import registry
from fedsim.core import State, Update
from fedsim.engine.checkpoint import Checkpoint, load_checkpoint, save_checkpoint
from fedsim.testing._parts import (
    DIMENSION,
    Clients,
    cohort_of,
    optimum_of,
    step,
    strategy_of,
)


@pytest.fixture(params=registry.names("strategies"))
def part(request: pytest.FixtureRequest) -> Any:
    """One strategy after the other."""
    return strategy_of(request.param)


@pytest.fixture
def model() -> Tensor:
    """Return a model to start from, that float32 has exactly."""
    return torch.linspace(-2, 2, DIMENSION).float().double()


def clients_of(part: Any) -> Clients:
    """Make clients that want different things."""
    rng = np.random.default_rng(7)
    return Clients(
        part, [torch.from_numpy(rng.normal(size=DIMENSION)) for _ in range(cohort_of(part))]
    )


def after(part: Any, model: Tensor, rounds: int) -> State:
    """Return the state after some rounds."""
    clients, state = clients_of(part), part.init(model)
    for number in range(1, rounds + 1):
        state = step(part, state, clients.updates(state, number), number)
    return dict(state)


def must_learn(part: Any) -> None:
    """Skip what is about a shared model, of a strategy that has none."""
    if optimum_of(part) == "none":
        pytest.skip("it declares optimum = 'none': clients share no model")


def assert_same_bytes(first: State, second: State) -> None:
    """Hold two states equal, bit by bit."""
    assert first.keys() == second.keys()
    for name, value in first.items():
        if isinstance(value, Tensor):
            assert value.dtype == second[name].dtype, name
            assert torch.equal(value, second[name]), name
        else:
            assert value == second[name], name


def test_it_starts_from_the_model_given(part: Any, model: Tensor) -> None:
    """`init` keeps the model, float64; `needs` says what `step` gets."""
    assert type(part).needs in ("sum", "updates")
    state = part.init(model)
    assert torch.equal(state["model"], model)
    assert state["model"].dtype == torch.float64


def test_the_state_is_tensors_and_numbers(part: Any, model: Tensor) -> None:
    """So that it can be saved; and the model stays a finite float64 vector."""
    state = after(part, model, 2)
    assert all(isinstance(value, (Tensor, int, float, str)) for value in state.values())
    assert state["model"].shape == (DIMENSION,)
    assert state["model"].dtype == torch.float64
    assert torch.isfinite(state["model"]).all()


def test_zero_updates_in_the_first_round_leave_the_model(part: Any, model: Tensor) -> None:
    """Where nobody learns anything nothing moves; later momentum may go on."""
    idle = Clients(part, [None] * cohort_of(part))
    state = part.init(model)
    updates = idle.updates(state, 1)
    assert all(not update.vector.any() for update in updates)
    assert torch.equal(step(part, state, updates, 1)["model"], model)


def test_what_all_clients_want_is_where_the_model_moves(part: Any, model: Tensor) -> None:
    """In every coordinate it moves the way of the updates, which agree."""
    must_learn(part)
    away = torch.full((DIMENSION,), 0.5).double()
    away[::2] *= -1
    agreed = Clients(part, [model + away] * cohort_of(part))
    state = part.init(model)
    moved = step(part, state, agreed.updates(state, 1), 1)["model"] - model
    assert torch.equal(moved.sign(), away.sign())


def test_the_order_of_clients_changes_nothing(part: Any, model: Tensor) -> None:
    """Exactly, of a sum; single updates come in client order, so rounding is allowed there."""
    state, clients = after(part, model, 2), clients_of(part)
    updates = clients.updates(state, 3)
    expected = step(part, state, updates, 3)["model"]
    for seed in range(3):
        order = np.random.default_rng(seed).permutation(len(updates))
        other = step(part, state, [updates[i] for i in order], 3)["model"]
        tolerance = 0 if part.needs == "sum" else 1e-6
        torch.testing.assert_close(other, expected, rtol=0, atol=tolerance)


def test_nothing_is_changed_in_place_and_equal_inputs_give_equal_bytes(
    part: Any, model: Tensor
) -> None:
    """A state is a value: the same step may be taken twice."""
    given = model.clone()
    state, clients = after(part, model, 2), clients_of(part)
    updates = clients.updates(state, 3)
    kept = {k: v.clone() if isinstance(v, Tensor) else v for k, v in state.items()}
    vectors = [update.vector.clone() for update in updates]
    first = step(part, state, updates, 3)
    assert_same_bytes(state, kept)
    assert torch.equal(model, given)
    assert all(torch.equal(u.vector, v) for u, v in zip(updates, vectors, strict=True))
    assert_same_bytes(step(part, state, updates, 3), first)


def test_a_state_read_back_from_a_checkpoint_goes_on_bit_by_bit(
    part: Any, model: Tensor, tmp_path: Path
) -> None:
    """Saved and read after every round, or never: the same bytes."""
    path, whole = tmp_path / "checkpoint", after(part, model, 4)
    clients, state = clients_of(part), part.init(model)
    for number in range(1, 5):
        state = step(part, state, clients.updates(state, number), number)
        save_checkpoint(path, Checkpoint(number, state, {0: RecordDict()}))
        read = load_checkpoint(path)
        assert read is not None
        assert_same_bytes(dict(read.state), dict(state))
        state = read.state
    assert_same_bytes(state, whole)


def test_it_finds_the_known_optimum_of_quadratics(part: Any) -> None:
    """Client i wants c_i: the model goes to their weighted mean, or to what all of them want.

    Which of both is declared as `optimum`. Clients take steps of rate 1/2 on |w - c_i|^2 / 2;
    where a strategy has another half, that half trains. It has to stay there for twenty rounds.
    """
    must_learn(part)
    has_half = bool(getattr(part, "goes_with", ()))
    count = 3 if has_half else max(6, cohort_of(part))
    rng = np.random.default_rng(0)
    centres = torch.from_numpy(1 + rng.normal(size=(count, DIMENSION))).float().double()
    weights = [float(weight) for weight in rng.integers(1, 20, size=count)]
    if has_half or optimum_of(part) == "agreed":
        centres = centres[:1].expand(count, DIMENSION)
    optimum = torch.from_numpy(np.average(centres, axis=0, weights=weights))
    clients, state = Clients(part, list(centres)), part.init(torch.zeros(DIMENSION).double())
    start = (state["model"] - optimum).norm()
    there = 0
    for number in range(1, 401):
        if has_half:
            updates = clients.updates(state, number)
        else:
            local = [0.5 * (centre - state["model"]).float() for centre in centres]
            updates = [Update(v, w, {"loss": 1.0}) for v, w in zip(local, weights, strict=True)]
        state = step(part, state, updates, number)
        there = there + 1 if (state["model"] - optimum).norm() < 0.05 * start else 0
        if there == 20:
            break
    assert there == 20


def test_one_client_and_one_step_on_its_whole_shard_are_a_step_of_sgd(
    part: Any, model: Tensor
) -> None:
    """For strategies that declare `is_sgd`: three rounds are three steps of gradient descent."""
    if not getattr(part, "is_sgd", False):
        pytest.skip("it does not declare is_sgd")
    target = torch.linspace(1, -1, DIMENSION).float().double()
    alike = Clients(part, [target] * (part.least() if hasattr(part, "least") else 1))
    state, expected = part.init(model), model
    for number in range(1, 4):
        state = step(part, state, alike.updates(state, number), number)
        expected = expected - 0.2 * (expected - target)  # the inputs are white: curvature 1
        torch.testing.assert_close(state["model"], expected, rtol=0, atol=1e-5)
