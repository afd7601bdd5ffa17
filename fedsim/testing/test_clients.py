"""What every local algorithm keeps to, whatever file or package it is from."""

from collections.abc import Callable
from dataclasses import replace
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from flwr.app import RecordDict
from torch import Tensor, nn

from fedsim import losses, registry
from fedsim.core import ClientContext, Memo, Public, RoundContext, Sum, Task, Update, broadcast
from fedsim.data import Meta
from fedsim.engine.checkpoint import Checkpoint, load_checkpoint, save_checkpoint
from fedsim.messages import memo_of, set_memo
from fedsim.models import get_vector, set_vector
from fedsim.optimizers.gd import Gd
from fedsim.optimizers.sgd import Sgd
from fedsim.testing._parts import half_of, local_of, network_for, strategy_of

EXAMPLES, PUBLIC = 40, 5
META, CPU = Meta("contract", "classification", (4,), 3, ""), torch.device("cpu")


@pytest.fixture(params=registry.names("clients"))
def part(request: pytest.FixtureRequest) -> Any:
    """One local algorithm after the other."""
    return local_of(request.param)


@pytest.fixture(params=["cpu", "cuda"])
def device(request: pytest.FixtureRequest) -> torch.device:
    """Each kind of device that is here."""
    if request.param == "cuda" and not torch.cuda.is_available():
        pytest.skip("no CUDA device here")
    return torch.device(request.param)


def task_of(
    part: Any,
    module: nn.Module | None = None,
    *,
    device: torch.device = CPU,
    examples: int = EXAMPLES,
    **options: Any,
) -> Task:
    """Return a small classification task."""
    generator = torch.Generator().manual_seed(1)
    x = torch.randn(examples, 4, generator=generator)
    y = torch.randint(3, (examples,), generator=generator)
    module = (module or network_for(part)).to(device)
    return Task(
        module=module,
        model=get_vector(module),
        x=x.to(device),
        y=y.to(device),
        loss=losses.LOSSES["cross_entropy"],
        public=Public(torch.randn(PUBLIC, 4, generator=generator).to(device), module),
        meta=META,
        **{"optimizer": Sgd(lr=0.1, momentum=0.5), **options},
    )


def ctx(round: int = 1, client: int = 0, seed: int = 0, lr_factor: float = 1.0) -> ClientContext:
    """Return who trains, and when."""
    return ClientContext(seed, round, client, lr_factor)


def result(update: Update, memo: Memo) -> tuple[dict[str, bytes], float, dict[str, float]]:
    """Return everything that comes back, as bytes."""
    parts = {"vector": update.vector, **{f"memo/{name}": value for name, value in memo.items()}}
    named = {name: value.cpu().numpy().tobytes() for name, value in parts.items()}
    return named, update.weight, dict(update.metrics)


def trained_model(part: Any, task: Task, update: Update, memo: Memo) -> Tensor:
    """Return the model that training ended with: what is shared, or what the client keeps."""
    shared: Tensor = task.model.cpu() + update.vector
    return part.personal(memo, shared) if hasattr(part, "personal") else shared


def test_an_update_is_what_is_agreed(part: Any, device: torch.device) -> None:
    """Shape, type, weight, lanes, metrics and memo are those of `fedsim.core`."""
    task = task_of(part, device=device)
    update, memo = part.train(task, {}, ctx())
    assert update.vector.shape == task.model.shape
    assert update.vector.dtype == torch.float32
    assert update.vector.device.type == "cpu"
    assert update.weight in (EXAMPLES, 1)  # some methods count all clients alike
    lanes = dict(getattr(part, "lanes", ()))
    assert {name: lane.numel() for name, lane in update.lanes.items()} == {
        name: {None: task.model.numel(), "public": 3 * PUBLIC}.get(size, size)
        for name, size in lanes.items()
    }
    assert update.metrics["examples"] == EXAMPLES
    assert 0 < update.metrics["loss"] < 10
    assert not torch.equal(trained_model(part, task, update, memo), task.model.cpu())
    assert all(isinstance(value, Tensor) for value in memo.values())


def test_the_same_streams_give_the_same_bytes(part: Any) -> None:
    """Nothing is drawn from a global generator."""
    torch.manual_seed(1)
    first = result(*part.train(task_of(part), {}, ctx()))
    torch.manual_seed(2)
    again = result(*part.train(task_of(part), {}, ctx()))
    assert first == again


@pytest.mark.parametrize("other", [{"round": 2}, {"client": 1}, {"seed": 1}])
def test_rounds_clients_and_seeds_have_streams_of_their_own(
    part: Any, other: dict[str, int]
) -> None:
    """Batches and dropout masks are others."""
    task = task_of(part)
    first = trained_model(part, task, *part.train(task, {}, ctx()))
    task = task_of(part)
    second = trained_model(part, task, *part.train(task, {}, ctx(**other)))
    assert not torch.equal(first, second)


def test_global_generators_are_left_where_they_were(part: Any) -> None:
    """Torch's and numpy's: a user's own draws do not depend on the part."""
    torch.manual_seed(3)
    np.random.seed(3)
    expected = torch.rand(2), np.random.rand(2)
    task = task_of(part)
    torch.manual_seed(3)
    np.random.seed(3)
    part.train(task, {}, ctx())
    assert torch.equal(torch.rand(2), expected[0])
    assert (np.random.rand(2) == expected[1]).all()


def test_it_trains_the_resident_module_and_changes_no_input(part: Any) -> None:
    """The module's parameters stay the same objects; model, shard and memo stay as they were."""
    task = task_of(part)
    parameters = list(task.module.parameters())
    kept = task.model.clone(), task.x.clone(), task.y.clone()
    update, memo = part.train(task, {}, ctx())
    before = {name: value.clone() for name, value in memo.items()}
    set_vector(task.module, task.model)
    part.train(task, memo, ctx(round=2))
    assert all(a is b for a, b in zip(task.module.parameters(), parameters, strict=True))
    assert all(torch.equal(a, b) for a, b in zip((task.model, task.x, task.y), kept, strict=True))
    assert all(torch.equal(memo[name], before[name]) for name in before)
    assert update.vector.shape == task.model.shape


def test_a_memo_survives_messages_and_checkpoints_bit_by_bit(part: Any, tmp_path: Path) -> None:
    """Four rounds with the memo saved and read between them, or not: the same bytes."""

    def rounds(travel: Callable[[Memo], Memo]) -> list[Any]:
        memo: Memo = {}
        results = []
        for number in range(1, 5):
            task = task_of(part)
            update, memo = part.train(task, memo, ctx(round=number))
            results.append(result(update, memo))
            memo = travel(memo)
        return results

    def through_a_checkpoint(memo: Memo) -> Memo:
        state = RecordDict()
        set_memo(state, memo)
        save_checkpoint(tmp_path / "file", Checkpoint(1, {"model": torch.zeros(1)}, {7: state}))
        read = load_checkpoint(tmp_path / "file")
        assert read is not None
        return memo_of(read.memos[7])

    assert rounds(through_a_checkpoint) == rounds(lambda memo: memo)


def test_one_step_on_the_whole_shard_is_a_step_of_sgd(part: Any) -> None:
    """From the model that was sent, whatever it does later; unless it declares `is_sgd` False."""
    if not getattr(part, "is_sgd", True):
        pytest.skip("it declares is_sgd = False")
    task = task_of(part, nn.Linear(4, 3), optimizer=Gd(lr=0.2))
    start = task.model.clone()
    model = trained_model(part, task, *part.train(task, {}, ctx()))
    set_vector(task.module, start)
    loss = nn.functional.cross_entropy(task.module(task.x), task.y)
    gradient = torch.autograd.grad(loss, list(task.module.parameters()))
    expected = start - 0.2 * torch.cat([part.flatten() for part in gradient])
    torch.testing.assert_close(model, expected, rtol=0, atol=1e-6)


def test_the_schedules_factor_reaches_the_optimizer(part: Any) -> None:
    """Half the rate, half the step."""
    if not getattr(part, "is_sgd", True):
        pytest.skip("it declares is_sgd = False: its step need not be linear in the rate")
    moves = []
    for factor in (1.0, 0.5):
        module = nn.Linear(4, 3)
        set_vector(module, torch.linspace(-1, 1, 15))
        task = task_of(part, module, optimizer=Gd(lr=0.2))
        out = part.train(task, {}, ctx(lr_factor=factor))
        moves.append(trained_model(part, task, *out) - task.model)
    torch.testing.assert_close(moves[1], moves[0] / 2, rtol=1e-4, atol=1e-6)


def test_a_client_with_one_example_trains(part: Any) -> None:
    """Its update is finite and counts for one."""
    task = task_of(part, nn.Linear(4, 3), examples=1)
    update, _ = part.train(task, {}, ctx())
    assert update.weight == 1
    assert torch.isfinite(update.vector).all()


def test_it_finds_the_known_optimum_of_a_convex_problem(part: Any) -> None:
    """Least squares on one client: rounds of local training end where numpy's solver does.

    Of a local algorithm with `personal` it is the client's own model.
    """
    rng = np.random.default_rng(0)
    x = rng.normal(size=(EXAMPLES, 4))
    y = x @ np.array([1.0, -2.0, 0.5, 3.0]) + 0.1 * rng.normal(size=EXAMPLES)
    optimum, *_ = np.linalg.lstsq(x, y)
    module = nn.Linear(4, 1, bias=False)
    tensors = torch.from_numpy(x).float(), torch.from_numpy(y).float()
    strategy = strategy_of(half_of(part, "strategies", "fedavg"))
    state = strategy.init(torch.zeros(4, dtype=torch.float64))
    memo: Memo = {}
    optimizer: Any = Gd(lr=0.2)
    for number in range(1, 151):
        model = state["model"].float()
        set_vector(module, model)
        extras = broadcast(strategy, state)
        task = Task(
            module,
            model,
            *tensors,
            losses.LOSSES["mse"],
            optimizer,
            extras=extras,
            public=Public(tensors[0][:PUBLIC], module),
            meta=replace(META, kind="regression", outputs=1, class_names=()),
        )
        update, memo = part.train(task, memo, ctx(round=number))
        total: Any = [update]
        if strategy.needs == "sum":
            total = Sum(update.weight * update.vector.double(), update.weight, 1, update.lanes)
        state = strategy.step(state, total, RoundContext(0, number, 1, 1, [0], task.public))
    model = state["model"].float()
    model = part.personal(memo, model) if hasattr(part, "personal") else model
    np.testing.assert_allclose(model.numpy(), optimum, rtol=0, atol=1e-4)
