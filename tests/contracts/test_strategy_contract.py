"""What every strategy keeps to; a new file in strategies/ is picked up by itself."""

import numpy as np
import pytest
import torch
from flwr.app import RecordDict

from fedsim import exact, registry
from fedsim.core import RoundContext, Update
from fedsim.engine.checkpoint import Checkpoint, load_checkpoint, save_checkpoint
from fedsim.strategies.fednova import LENGTH_UNIT

DIMENSION, CLIENTS = 9, 16
FORM = exact.fixed_point(DIMENSION, max_abs=64.0, max_weight=100.0, cohort=CLIENTS)


@pytest.fixture(params=registry.names("strategies"))
def part(request):
    return registry.load("strategies", request.param)()


@pytest.fixture
def model():
    return torch.linspace(-2, 2, DIMENSION).double()


def update_of(part, vector, weight, metrics):
    """An update as the other half of the method would send it, if there is one."""
    halves = getattr(part, "goes_with", ())
    lanes = getattr(registry.load("clients", halves[0]), "lanes", ()) if halves else ()
    values = {  # of lanes that are one number; those of the model's size go with the vector
        "length": torch.tensor([weight * 3 / LENGTH_UNIT]),
        "h": torch.tensor([1.0]),
    }
    own = {name: -vector if size is None else values[name] for name, size in lanes}
    return Update(vector, weight, metrics, own)


def made(part, number, scale=1.0):
    rng = np.random.default_rng(number)
    return [
        update_of(
            part,
            torch.from_numpy((scale * rng.normal(size=DIMENSION)).astype(np.float32)),
            float(rng.integers(1, 100)),
            {"loss": float(rng.random()), "examples": 3.0},
        )
        for _ in range(CLIENTS)
    ]


def step(part, state, updates, number):
    """Step as a round does: exact sums, or the single updates in client order."""
    context = RoundContext(seed=0, round=number, cohort=len(updates))
    if part.needs == "updates":
        return part.step(state, updates, context)
    total = exact.decode(exact.add(exact.encode(update, FORM) for update in updates), FORM)
    return part.step(state, total, context)


def after(part, model, rounds):
    state = part.init(model)
    for number in range(1, rounds + 1):
        state = step(part, state, made(part, number), number)
    return state


def assert_same_bytes(first, second):
    assert first.keys() == second.keys()
    for name, value in first.items():
        if isinstance(value, torch.Tensor):
            assert value.dtype == second[name].dtype, name
            assert torch.equal(value, second[name]), name
        else:
            assert value == second[name], name


def test_it_says_what_it_needs(part):
    assert type(part).needs in ("sum", "updates")


def test_it_starts_from_the_model_given(part, model):
    state = part.init(model)
    assert torch.equal(state["model"], model)
    assert state["model"].dtype == torch.float64


def test_the_state_is_tensors_and_numbers(part, model):
    state = after(part, model, 2)
    assert all(isinstance(value, (torch.Tensor, int, float, str)) for value in state.values())
    assert state["model"].shape == (DIMENSION,)
    assert state["model"].dtype == torch.float64
    assert torch.isfinite(state["model"]).all()


def test_zero_updates_in_the_first_round_leave_the_model(part, model):
    # In the first round only: later, momentum from earlier rounds may go on moving it.
    zeros = [update_of(part, torch.zeros(DIMENSION), 2.0, {"loss": 1.0}) for _ in range(CLIENTS)]
    model = model.float().double()
    assert torch.equal(step(part, part.init(model), zeros, 1)["model"], model)


def test_one_update_moves_the_model_its_way(part, model):
    vector = torch.full((DIMENSION,), 0.5)
    vector[::2] *= -1
    updates = [update_of(part, vector, 5.0, {"loss": 1.0}) for _ in range(CLIENTS)]
    moved = step(part, part.init(model), updates, 1)["model"] - model
    assert torch.equal(moved.sign(), vector.double().sign())


def test_the_order_of_clients_changes_nothing(part, model):
    state, updates = after(part, model, 2), made(part, 3)
    expected = step(part, state, updates, 3)["model"]
    for seed in range(5):
        order = np.random.default_rng(seed).permutation(CLIENTS)
        other = step(part, state, [updates[i] for i in order], 3)["model"]
        if part.needs == "sum":
            assert torch.equal(other, expected)
        else:  # rounds hand over single updates in client order, so bits are safe there too
            torch.testing.assert_close(other, expected, rtol=0, atol=1e-6)


def test_equal_inputs_give_equal_bytes(part, model):
    assert_same_bytes(after(part, model, 4), after(part, model.clone(), 4))


def test_nothing_is_changed_in_place(part, model):
    given = model.clone()
    state, updates = after(part, model, 2), made(part, 3)
    kept = {k: v.clone() if isinstance(v, torch.Tensor) else v for k, v in state.items()}
    vectors = [update.vector.clone() for update in updates]
    step(part, state, updates, 3)
    assert_same_bytes(state, kept)
    assert torch.equal(model, given)
    assert all(torch.equal(u.vector, v) for u, v in zip(updates, vectors, strict=True))


def test_a_state_read_back_from_a_checkpoint_goes_on_bit_by_bit(part, model, tmp_path):
    path, whole, state = tmp_path / "checkpoint", after(part, model, 6), part.init(model)
    for number in range(1, 7):
        state = step(part, state, made(part, number), number)
        save_checkpoint(path, Checkpoint(number, state, {0: RecordDict()}))
        read = load_checkpoint(path)
        assert_same_bytes(read.state, state)
        state = read.state
    assert_same_bytes(state, whole)


def test_it_finds_the_known_optimum_of_different_quadratics(part):
    if getattr(part, "goes_with", ()):
        pytest.skip("half of a method: tests/contracts/test_halves.py has both")
    # Client i minimizes |w - c_i|^2 / 2 by one step of rate 1/2; together they minimize the
    # weighted sum, whose optimum is the weighted mean of the c_i.
    rng = np.random.default_rng(0)
    centres = torch.from_numpy(1 + rng.normal(size=(CLIENTS, DIMENSION))).float()
    if hasattr(part, "aggregate"):  # a robust rule's optimum is not the mean's: all want the same
        centres = centres[:1].expand(CLIENTS, DIMENSION)
    weights = [float(weight) for weight in rng.integers(1, 20, size=CLIENTS)]
    optimum = torch.from_numpy(np.average(centres.double(), axis=0, weights=weights))
    state = part.init(torch.zeros(DIMENSION, dtype=torch.float64))
    start = (state["model"] - optimum).norm()
    for number in range(1, 401):
        local = [0.5 * (centre - state["model"].float()) for centre in centres]
        updates = [Update(v, w, {"loss": 1.0}) for v, w in zip(local, weights, strict=True)]
        state = step(part, state, updates, number)
    assert (state["model"] - optimum).norm() < 0.05 * start
