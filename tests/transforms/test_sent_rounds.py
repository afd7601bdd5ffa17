"""Rounds of federations whose updates travel as codes, or in fewer numbers."""

import numpy as np
import pytest
import torch
from torch import nn

from fedsim import client_table, coding, messages, registry, sending
from fedsim import config as configuration
from fedsim.clients import _block
from fedsim.coding import Shared, kind_of
from fedsim.core import ClientContext, Recipe, Task
from fedsim.engine.blocks import Handlers, Population
from fedsim.engine.inprocess import InProcessGrid
from fedsim.errors import ConfigError
from fedsim.federation import (
    Places,
    from_text,
    shared_by_all,
    to_text,
    trained_module,
    width,
)
from fedsim.losses import LOSSES
from fedsim.models import get_change, get_vector, layout, named, set_vector
from fedsim.optimizers.sgd import Sgd
from fedsim.testing._rounds import Run
from fedsim.training import fit
from fedsim.transforms.lora import LoRA
from fedsim.transforms.pruning import Pruning
from fedsim.transforms.randomk_shared import RandomKShared

MADE = {name: registry.load("transforms", name)() for name in registry.names("transforms")}
CODED = [name for name, part in MADE.items() if kind_of(part) == "coded"]
LINEAR = [name for name, part in MADE.items() if kind_of(part) == "linear"]
ADDING = [*LINEAR, "signsgd"]
SINGLE = [name for name in CODED if name != "signsgd"]


def content(name, transform=(), **sections):
    base = {
        "name": "sent",
        "seed": 3,
        "data": {
            "name": "synthetic",
            "clients": 6,
            "examples": 12,
            "features": 12,
            "classes": 4,
            "model_skew": 0.5,
            "test_examples": 40,
        },
        "model": {"name": "mlp", "hidden": [16]},
        "local": {"name": "sgd", "batch_size": 4},
        "transform": {"name": name, **dict(transform)},
        "rounds": {"count": 4, "cohort": 4},
        "evaluation": {"central_every": 0, "federated_every": 0},
        "engine": {"grid": "inprocess", "tier": "resident", "block_size": 3},
    }
    return {**base, **sections}


def tier(name, block_size=3):
    return {"grid": "inprocess", "tier": name, "block_size": block_size}


@pytest.mark.parametrize("name", [*CODED, *LINEAR, "clip", "unchanged"])
def test_messages_and_blocks_give_the_same_bits_and_bytes(name, tmp_path):
    blocks = Run(content(name)).go(3)
    alone = Run(content(name, engine=tier("messages", 1))).go(1)
    alone.save(tmp_path / "checkpoint")
    rest = Run(content(name, engine=tier("messages", 2))).load(tmp_path / "checkpoint").go(2)
    assert alone.models + rest.models == blocks.models
    assert len(set(blocks.models)) == 3
    sizes = [record.bytes_up for record in alone.records + rest.records]
    assert sizes == [record.bytes_up for record in blocks.records]
    part, federation = MADE[name], blocks.federation
    numbers = 8 * 5  # client, weight, seconds and two metrics
    for record in blocks.records:
        whole = 4 * width(federation, record.round)
        if name in CODED:
            whole = part.size_bytes(tuple(shape for _, shape in layout(federation.module)))
        assert [client.bytes_up for client in record.clients] == [numbers + whole] * 4


@pytest.mark.parametrize("name", ["topk", "powersgd", "lora", "pruning"])
def test_many_clients_at_once_learn_what_each_would(name):
    one, many = (Run(content(name, engine=tier(kind))).go(3) for kind in ("resident", "vectorized"))
    torch.testing.assert_close(
        many.state.strategy["model"], one.state.strategy["model"], rtol=1e-4, atol=1e-5
    )


@pytest.mark.parametrize("name", [*CODED, *LINEAR, "clip", "unchanged"])
def test_one_vector_of_a_block_leaves_the_device(name, monkeypatch):
    moved, cpu, count_group = [], torch.Tensor.cpu, _block._count_group

    def counted(*args):
        with monkeypatch.context() as patch:
            patch.setattr(torch.Tensor, "cpu", lambda x: (moved.append(x.numel()), cpu(x))[1])
            count_group(*args)

    monkeypatch.setattr(_block, "_count_group", counted)
    engine = tier("vectorized", 6)
    run = Run(content(name, engine=engine, rounds={"count": 1, "cohort": 6})).go(1)
    federation = run.federation
    model = trained_module(federation)
    size = sum(value.numel() for value in model.state_dict().values())
    kept = 0
    for state in run._grid.states.values():
        kept += sum(value.numel() for value in messages.memo_of(state).values())
    # Pruning looks for the round's mask in the global model, once.
    looked_at = federation.initial.numel() if name == "pruning" else 0
    # The sum, whether each is good, and what clients keep, where they do.
    assert sum(moved) == size + 6 + kept + looked_at
    assert bool(kept) == (name in ("topk", "ef-signsgd", "powersgd"))


@pytest.mark.parametrize("tiers", [("resident", "vectorized"), ("vectorized", "resident")])
@pytest.mark.parametrize("name", [*CODED, *LINEAR])
def test_clients_keep_the_same_whichever_way_they_are_trained(name, tiers, tmp_path):
    """What is kept in one tier is read in the other."""
    first = Run(content(name, engine=tier(tiers[0]))).go(1)
    first.save(tmp_path / "checkpoint")
    rest = Run(content(name, engine=tier(tiers[1]))).load(tmp_path / "checkpoint").go(2)
    alone = Run(content(name)).go(3)
    found, wanted = (run.state.strategy["model"] for run in (rest, alone))
    if name in ("int8", "qsgd", "eden", "drive", "signsgd"):
        # What rounding moves over an edge moves by a whole step: most numbers are the same.
        assert ((found - wanted).abs() <= 1e-5).float().mean() > 0.95
    else:
        torch.testing.assert_close(found, wanted, rtol=1e-4, atol=1e-5)


class Listening(InProcessGrid):
    """A grid that keeps the replies of a round."""

    def broadcast(self, *args, **options):
        self.replies = list(super().broadcast(*args, **options))
        return self.replies


@pytest.mark.parametrize("strategy", [{"name": "krum", "f": 0}, {"name": "fedavg"}])
def test_what_a_client_sends_is_its_code(strategy):
    from fedsim.clients.app import app
    from fedsim.rounds import run_rounds, start_state

    text = to_text(configuration.load(content("topk", strategy=strategy)), Places())
    federation, population = from_text(text), Population(6, {"experiment": text})
    grid = Listening(Handlers(app), population)
    record, _ = next(run_rounds(grid, population.nodes, federation, start_state(federation)))
    assert not any(client.lost for client in record.clients)
    shapes = tuple(shape for _, shape in layout(federation.module))
    for reply in grid.replies:
        arrays = reply.content.array_records["update"]
        assert list(arrays) == ["code"]
        assert arrays["code"].numpy().nbytes == MADE["topk"].size_bytes(shapes)


@pytest.mark.parametrize("name", ["topk", "qsgd"])
def test_a_reply_that_is_no_code_loses_its_client_alone(name):
    federation = Run(content(name)).federation
    order = messages.Train(federation.initial, 1, coding=sending.told(federation))
    decode = messages.decode_of(order)
    update = Run(content("unchanged")).go(1).state.strategy["model"].float()
    good = messages.update_content(
        messages.Update(update, 3.0), client=1, seconds=0.0, code=np.zeros(3, dtype=np.uint8)
    )
    with pytest.raises(messages.InvalidUpdateError, match="cannot be read"):
        messages.updates(good, client_table.read(good), decode)
    whole = messages.update_content(messages.Update(update, 3.0), client=1, seconds=0.0)
    with pytest.raises(messages.InvalidUpdateError):
        messages.updates(whole, client_table.read(whole), decode)


@pytest.mark.parametrize("name", ADDING)
def test_what_adds_up_goes_through_secure_sums_in_fewer_numbers(name):
    plain = Run(content(name)).go(2)
    secure = Run(content(name, secure_sum={"name": "ideal"})).go(2)
    masked = Run(content(name, secure_sum={"name": "secagg"})).go(2)
    assert masked.models == secure.models
    # Each number is rounded by chance to a step of the ring; a vote that is even may turn.
    atol = 1e-4 if name != "signsgd" else 0.0
    torch.testing.assert_close(
        secure.state.strategy["model"], plain.state.strategy["model"], rtol=0, atol=atol
    )
    numbers = width(secure.federation, 1)
    assert secure.records[0].clients[0].bytes_up <= 4 * (numbers + 8)


@pytest.mark.parametrize("name", ADDING)
@pytest.mark.parametrize("mechanism", ["gaussian", "skellam"])
def test_what_adds_up_goes_with_noise_on_the_sum(name, mechanism):
    privacy = {"unit": "user", "noise_multiplier": 0.5, "noise": "seeded", "mechanism": mechanism}
    if mechanism == "skellam":
        privacy["sampling"] = "fixed"
    more = {} if mechanism == "gaussian" else {"secure_sum": {"name": "ideal"}}
    one_mask = {"rounds": 1} if name == "pruning" else {}
    run = Run(content(name, one_mask, privacy=privacy, **more)).go(2)
    assert torch.isfinite(run.state.strategy["model"]).all()
    assert len(set(run.models)) == 2


@pytest.mark.parametrize("name", [*CODED, "randomk-shared"])
def test_private_gradients_may_be_sent_in_any_code(name):
    privacy = {"unit": "example", "noise_multiplier": 0.5, "noise": "seeded"}
    run = Run(content(name, privacy=privacy)).go(1)
    assert torch.isfinite(run.state.strategy["model"]).all()


@pytest.mark.parametrize("name", [*CODED, *LINEAR])
def test_what_is_not_legal_is_refused_before_anything_starts(name):
    def problems(transform=(), **sections):
        with pytest.raises(ConfigError) as caught:
            configuration.load(content(name, transform, **sections))
        return {problem.path for problem in caught.value.problems}

    noise = {"noise_multiplier": 1.0}
    assert "transform.name" in problems(privacy={"unit": "local", **noise})
    if name in SINGLE:
        assert "transform.name" in problems(secure_sum={"name": "secagg"})
        assert "transform.name" in problems(privacy={"unit": "user", **noise})
    if name == "randomk-shared":
        path = problems({"feedback": "ef"}, privacy={"unit": "user", **noise})
        assert path == {"transform.feedback"}
    if name in ("lora", "pruning"):
        assert "local.name" in problems(local={"name": "scaffold"}, strategy={"name": "scaffold"})
        assert "transform.name" in problems(privacy={"unit": "example", **noise})


def test_a_client_keeps_its_residual_where_it_runs():
    run = Run(content("topk", rounds={"count": 4, "cohort": 2})).go(3)
    for record in run._grid.states.values():
        memo = messages.memo_of(record)
        assert list(memo) == ["transform/residual"]
        assert memo["transform/residual"].shape == run.federation.initial.shape
    asked = {client.client for record in run.records for client in record.clients}
    assert run._grid.states.keys() == {client + 1 for client in asked}


def test_a_client_whose_update_is_refused_keeps_what_it_had():
    run = Run(content("topk", rounds={"count": 4, "cohort": 6, "max_abs_update": 1e-6}))
    with pytest.raises(Exception, match="0 of 6"):
        run.go(1)
    assert not any(messages.memo_of(record) for record in run._grid.states.values())


@pytest.mark.parametrize("kind", ["messages", "resident"])
def test_local_algorithms_keep_their_own_beside_a_residual(kind):
    local = {"name": "sgd", "batch_size": 4, "keep_optimizer": True}
    momentum = {"name": "sgd", "lr": 0.05, "momentum": 0.5}
    run = Run(content("topk", local=local, optimizer=momentum, engine=tier(kind))).go(2)
    names = {n for record in run._grid.states.values() for n in messages.memo_of(record)}
    assert "transform/residual" in names
    assert any(name.startswith("optimizer/") for name in names)


def test_a_baseline_sends_no_codes():
    run = Run(content("signsgd", mode="pooled")).go(1)
    assert kind_of(run.federation.config.transform) == "dense"


ASYNCHRONOUS = {"strategy": {"name": "fedbuff", "buffer": 2}, "devices": {"name": "drawn"}}


@pytest.mark.parametrize("name", ["topk", "randomk-shared", "lora"])
def test_asynchronous_steps_take_codes_of_any_age(name):
    run = Run(content(name, **ASYNCHRONOUS)).go(3)
    assert len(set(run.models)) == 3
    assert torch.isfinite(run.state.strategy["model"]).all()
    assert not any(client.lost for record in run.records for client in record.clients)


@pytest.mark.parametrize("name", ["signsgd", "pruning"])
def test_what_needs_whole_rounds_is_refused_without_them(name):
    with pytest.raises(ConfigError, match="needs no rounds"):
        configuration.load(content(name, **ASYNCHRONOUS))


def test_what_the_server_trains_itself_is_a_whole_update_too():
    federation = Run(content("lora", {"rank": 3})).federation
    order = messages.Train(federation.initial, 2)
    federation.task(order.model, [federation.clients.train(0)], round=2)
    change = torch.zeros(get_vector(federation.adapted).shape)
    for name, part in named(federation.adapted, change).items():
        if name.endswith(".b"):
            part.fill_(1.0)
    found = sending.unsent(federation, change, order)
    assert found.shape == federation.initial.shape
    assert torch.linalg.matrix_rank(named(federation.module, found)["1.weight"]) == 1


def network():
    torch.manual_seed(0)
    return nn.Sequential(nn.Linear(7, 6), nn.Tanh(), nn.Linear(6, 3))


def known(part, module, round=1):
    shapes = tuple(shape for _, shape in layout(module))
    shared = Shared(shapes, 11, round, get_vector(module), module)
    if not hasattr(part, "adapt"):
        return shared
    return Shared(shapes, 11, round, get_vector(module), module, part.adapt(module))


def task_of(module):
    stream = torch.Generator().manual_seed(2)
    x, y = torch.randn(8, 7, generator=stream), torch.randint(3, (8,), generator=stream)
    return Task(module, get_vector(module), x, y, LOSSES["cross_entropy"], Sgd(lr=0.2))


def trained(part, module, steps, round=1):
    """The numbers that a client sends after some full-batch steps, and what is known."""
    shared = known(part, module, round)
    start = part.start(shared)
    set_vector(shared.adapted, start)
    task, ctx = task_of(shared.adapted), ClientContext(0, round, 0)
    state = task.optimizer.start([p for p in shared.adapted.parameters() if p.requires_grad])
    fit(task, Recipe(steps=steps, batch_size=0), state, ctx)
    return part.reduce(get_change(shared.adapted, start), shared), shared, task


@pytest.mark.parametrize("others", ["frozen", "trained"])
@pytest.mark.parametrize("alpha", [None, 3.0])
def test_lora_merged_is_the_model_that_was_trained(others, alpha):
    module, part = network(), LoRA(rank=2, alpha=alpha, others=others)
    numbers, shared, task = trained(part, module, steps=5)
    assert len(numbers) == part.width(shared)
    merged = network()
    set_vector(merged, get_vector(module) + part.expand(numbers, shared))
    torch.testing.assert_close(merged(task.x), shared.adapted(task.x), rtol=1e-4, atol=1e-5)
    assert not torch.equal(merged(task.x), module(task.x))
    assert [n for n, _ in layout(merged)] == [n for n, _ in layout(module)]


def test_a_step_of_lora_is_that_of_the_gradient_on_its_subspace():
    module, part = network(), LoRA(rank=2)
    numbers, shared, task = trained(part, module, steps=1)
    found = named(module, part.expand(numbers, shared))
    gradients = torch.autograd.grad(
        task.loss(module(task.x), task.y), [module[0].weight, module[2].weight]
    )
    for name, gradient in zip(("0.weight", "2.weight"), gradients, strict=True):
        rows = named(shared.adapted, get_vector(shared.adapted))[
            name.replace("weight", "parametrizations.weight.0.a")
        ]
        torch.testing.assert_close(rows @ rows.t(), torch.eye(2), rtol=0, atol=1e-5)
        wanted = -0.2 * gradient @ rows.t() @ rows
        torch.testing.assert_close(found[name], wanted, rtol=1e-4, atol=1e-6)


def test_the_mean_of_what_lora_sends_stands_for_the_mean_of_updates():
    module, part = network(), LoRA(rank=2)
    shared = known(part, module)
    each = [torch.randn(part.width(shared), dtype=torch.float64) for _ in range(3)]
    mean = part.expand(sum(each) / 3, shared)
    torch.testing.assert_close(mean, sum(part.expand(own, shared) for own in each) / 3)


def test_a_fixed_subspace_stays_and_another_is_drawn_anew():
    module = network()
    drawn = {
        kind: [
            LoRA(rank=2, subspace=kind).expand(torch.ones(18), known(LoRA(rank=2), module, round))
            for round in (1, 2)
        ]
        for kind in ("fixed", "each-round")
    }
    assert torch.equal(*drawn["fixed"])
    assert not torch.equal(*drawn["each-round"])


@pytest.mark.parametrize("fraction", [0.01, 0.3, 1.0])
def test_shared_random_k_is_unbiased_over_rounds_and_the_same_for_all(fraction):
    module, part = network(), RandomKShared(fraction)
    vector = torch.randn(69, generator=torch.Generator().manual_seed(3))
    rounds = 1500
    found = []
    for round in range(rounds):
        shared = known(part, module, round)
        numbers = part.reduce(vector, shared)
        assert len(numbers) == part.width(shared)
        found.append(part.expand(numbers, shared))
    rows = torch.stack(found).double()
    off = (rows.mean(dim=0) - vector).abs()
    assert (off <= 5 * rows.std(dim=0) / rounds**0.5 + 1e-6).all()
    kept = part.width(known(part, module))
    errors = (rows - vector).square().sum(dim=1)
    wanted = (69 / kept - 1) * float(vector.double().square().sum())
    assert float(errors.mean()) == pytest.approx(
        wanted, abs=5 * float(errors.std()) / rounds**0.5 + 1e-6
    )


def test_pruning_trains_what_is_left_and_nothing_else():
    module, part = network(), Pruning(sparsity=0.5, rounds=1)
    numbers, shared, task = trained(part, module, steps=4)
    found = named(module, part.expand(numbers, shared))
    start, kept = (
        named(module, get_vector(module)),
        named(module, part.settle(shared.model, shared)),
    )
    for name in ("0.weight", "2.weight"):
        size = start[name].numel()
        left = kept[name] != 0
        assert int(left.sum()) == -(-size // 2)
        # Those left are the largest in magnitude, and only they moved.
        least = start[name].abs()[left].min()
        assert (start[name].abs()[~left] <= least).all()
        assert not found[name][~left].any()
        assert found[name][left].any()
    merged = network()
    set_vector(merged, part.settle(shared.model + part.expand(numbers, shared), shared))
    torch.testing.assert_close(merged(task.x), shared.adapted(task.x), rtol=1e-4, atol=1e-5)
    assert len(numbers) == part.width(shared)


def test_sparsity_grows_by_its_equation_and_what_is_gone_stays_so():
    run = Run(content("pruning", {"sparsity": 0.8, "rounds": 3}))
    gone = None
    for round in range(1, 5):
        model = named(run.federation.module, run.go(1).state.strategy["model"])
        grown = 0.8 * (1 - (1 - min(round / 3, 1)) ** 3)
        zeros = torch.cat([part.flatten() == 0 for part in model.values() if part.dim() == 2])
        sizes = [part.numel() for part in model.values() if part.dim() == 2]
        assert int(zeros.sum()) == sum(size - int(np.ceil((1 - grown) * size)) for size in sizes)
        assert gone is None or bool(zeros[gone].all())
        gone = zeros


def test_a_sum_in_fewer_numbers_is_that_of_the_updates():
    federation = Run(content("randomk-shared", {"fraction": 1.0})).federation
    shared = shared_by_all(federation, 1, federation.initial)
    vector = torch.randn(len(federation.initial))
    numbers, kept = coding.reduced(federation.config.transform, vector, {}, shared)
    assert torch.equal(federation.config.transform.expand(numbers, shared), vector)
    assert kept == {}


@pytest.mark.slow
@pytest.mark.parametrize("name", ["topk", "powersgd", "qsgd", "eden", "lora", "pruning", "signsgd"])
def test_ray_gives_the_bits_and_bytes_of_one_process(name, cluster, tmp_path):
    import fedsim

    ran = [
        fedsim.run(content(name, engine={**tier("resident"), "grid": grid}), runs=tmp_path / grid)
        for grid in ("inprocess", "ray")
    ]
    assert ran[0].model_sha256 == ran[1].model_sha256
    assert [h["bytes_up"] for h in ran[0].history] == [h["bytes_up"] for h in ran[1].history]


@pytest.fixture(scope="module")
def cluster():
    from fedsim.engine.own_ray import started

    with started(2):
        yield
