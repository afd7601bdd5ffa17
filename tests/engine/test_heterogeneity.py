"""The virtual clock and asynchronous strategies in whole runs."""

import json

import pytest
import torch

import fedsim
from fedsim import config as configuration
from fedsim.engine.blocks import Handlers, Population
from fedsim.engine.flower import FlowerCarrier
from fedsim.engine.inprocess import InProcessGrid
from fedsim.engine.launch import OURS
from fedsim.errors import ConfigError
from fedsim.federation import Places, from_text, to_text
from fedsim.rounds import ServerState, run_rounds, start_state

# Phones: a model goes down in 40 ms; local training takes from 5 ms to a few hundred.
PHONES = {
    "name": "drawn",
    "flops_per_s": "lognormal:1e8,1.0",
    "down_mbps": 8,
    "up_mbps": 4,
}
# Every client takes three batches of sixteen, so equal devices take equally long.
EQUAL = {"name": "drawn", "flops_per_s": 1e8, "down_mbps": 8, "up_mbps": 4}
ALIKE = {"name": "sgd", "steps": 3, "batch_size": 16}


def content(**sections):
    base = {
        "name": "clocked",
        "seed": 5,
        "data": {"name": "synthetic", "clients": 9, "examples": 60, "features": 6, "classes": 3},
        "model": {"name": "mlp", "hidden": [5]},
        "local": {"name": "sgd", "epochs": 1, "batch_size": 16},
        "rounds": {"count": 3, "cohort": 6},
        "evaluation": {"central_every": 1, "federated_every": 0},
        "engine": {"grid": "inprocess", "tier": "resident"},
    }
    return {**base, **sections}


class Steps:
    """Rounds of an experiment in this process."""

    def __init__(self, experiment, carrier=None):
        config = configuration.load(experiment, (), {})
        text = to_text(config, Places())
        self.federation = from_text(text)
        told = {"experiment": text, "tier": "resident", "at-once": 0}
        population, handlers = Population(self.federation.population, told), OURS.open(told)
        if carrier:  # a node answers for itself alone
            handlers = Handlers(handlers.app)
        self.grid = InProcessGrid(handlers, population, size=config.engine.block_size)
        self.carrier = carrier(self.grid) if carrier else self.grid
        self.state = start_state(self.federation)
        self.records = []

    def go(self, rounds=100):
        nodes = self.grid.population.nodes
        for record, state in run_rounds(self.carrier, nodes, self.federation, self.state):
            self.records.append(record)
            self.state = state
            if len(self.records) == rounds:
                break
        return self

    @property
    def shas(self):
        return [record.model_sha256 for record in self.records]

    def column(self, name):
        return [record.metrics[name] for record in self.records]

    def counted(self, number):
        clients = self.records[number].clients
        return sorted(c.client for c in clients if c.phase == "train" and not c.lost)


@pytest.fixture(scope="module")
def plain():
    return Steps(content()).go()


def test_a_clock_without_a_deadline_changes_no_bit_of_the_model(plain):
    timed = Steps(content(devices=PHONES)).go()
    assert timed.shas == plain.shas
    seconds, joules = timed.column("simulated/seconds"), timed.column("simulated/joules")
    assert 0 < seconds[0] < seconds[1] < seconds[2]
    assert 0 < joules[0] < joules[1] < joules[2]
    assert not any(name.startswith("simulated") for name in plain.records[0].metrics)


def test_a_round_is_as_long_as_its_slowest_client_by_its_own_bytes_and_steps():
    # By hand: an MLP of 6 x 5 + 5 + 5 x 3 + 3 = 53 numbers; forward 2 (30 + 15) operations, and
    # backward 2 (30 + 2 x 15), as the first layer hands nothing on: 210. 48 examples, 1e8 a second.
    timed = Steps(content(devices=EQUAL, local=ALIKE)).go(2)
    size = 53 * 4
    task = size / 1e6 + 48 * 210 / 1e8 + size / 5e5
    assert timed.column("simulated/seconds") == pytest.approx([task, 2 * task], rel=1e-12)
    joules = 6 * (size / 1e6 * 1.0 + 48 * 210 / 1e8 * 4.0 + size / 5e5 * 1.5)
    assert timed.column("simulated/joules") == pytest.approx([joules, 2 * joules], rel=1e-12)
    own = timed.records[0].clients[0].metrics
    assert own["simulated/seconds"] == pytest.approx(task, rel=1e-12)


def test_with_a_deadline_late_clients_are_not_in_the_sum():
    # Half of the cohort of a run without one is in time.
    free = Steps(content(devices=PHONES)).go(1)
    spans = {c.client: c.metrics["simulated/seconds"] for c in free.records[0].clients}
    limit = sorted(spans.values())[2]
    late = Steps(
        content(devices=PHONES, rounds={"count": 1, "cohort": 6, "deadline_s": limit})
    ).go()
    assert late.counted(0) == sorted(client for client, s in spans.items() if s <= limit)
    assert late.column("simulated/seconds") == [limit]
    (first, *_) = [c for c in late.records[0].clients if c.lost]
    assert first.lost.startswith("late: it takes")
    assert late.records[0].lost == 3


def test_over_selection_counts_the_first_to_answer():
    rounds = {"count": 2, "cohort": 6, "over_selection": 1.5}
    asked = Steps(content(devices=PHONES, rounds=rounds)).go(1)
    everyone = Steps(content(devices=PHONES, rounds={"count": 1})).go()
    spans = {c.client: c.metrics["simulated/seconds"] for c in everyone.records[0].clients}
    assert asked.records[0].cohort == 9
    assert asked.counted(0) == sorted(sorted(spans, key=spans.get)[:6])
    assert asked.column("simulated/seconds") == [sorted(spans.values())[5]]


def test_late_clients_of_fedprox_do_fewer_epochs():
    """The sum of a round in which each did as many as it had time for, made one by one."""
    local = {"name": "fedprox", "mu": 0.1, "epochs": 6, "batch_size": 16}
    free = Steps(content(devices=PHONES, local=local)).go(1)
    spans = {c.client: c.metrics["simulated/seconds"] for c in free.records[0].clients}
    limit = 0.6 * max(spans.values())
    rounds = {"count": 1, "cohort": 6, "deadline_s": limit}
    partial = Steps(content(devices=PHONES, local=local, rounds=rounds)).go()
    assert partial.counted(0) == sorted(spans)
    total = torch.zeros_like(partial.federation.initial).double()
    weight = 0.0
    for client, span in spans.items():
        sent_s = 53 * 4 / 1e6 + 53 * 4 / 5e5
        epochs = 6 if span <= limit else int((limit - sent_s) // ((span - sent_s) / 6))
        part = {**local, "epochs": epochs}
        own = from_text(to_text(configuration.load(content(local=part), (), {}), Places()))
        task = own.task(own.initial, [own.clients.train(client)])
        context = fedsim.core.ClientContext(5, 1, client)
        update, _ = own.config.local.train(task, {}, context)
        total += update.weight * update.vector.double()
        weight += update.weight
    expected = partial.federation.initial.double() + total / weight
    torch.testing.assert_close(partial.state.strategy["model"], expected, rtol=0, atol=1e-9)
    dropped = Steps(content(devices=PHONES, local=local, rounds={**rounds, "late": "drop"})).go()
    assert dropped.records[0].lost > 0


def test_clients_that_are_away_are_not_drawn_and_those_that_leave_are_lost():
    devices = {**PHONES, "online_s": "exponential:0.05", "offline_s": "exponential:0.05"}
    found = Steps(content(devices=devices, rounds={"count": 6, "cohort": 6})).go()
    assert {record.cohort for record in found.records} != {6}
    reasons = {c.lost for record in found.records for c in record.clients if c.lost}
    assert reasons
    assert all(reason.startswith("went offline after") for reason in reasons)
    seconds = found.column("simulated/seconds")
    assert seconds == sorted(seconds)


def test_a_secure_sum_loses_late_clients_in_the_phase_of_the_vectors():
    free = Steps(content(devices=PHONES)).go(1)
    spans = {c.client: c.metrics["simulated/seconds"] for c in free.records[0].clients}
    limit = sum(sorted(spans.values())[4:]) / 2  # a vector of a ring has a few numbers more
    rounds = {"count": 1, "cohort": 6, "deadline_s": limit}
    sections = {"devices": PHONES, "rounds": rounds}
    ideal = Steps(content(secure_sum={"name": "ideal"}, **sections)).go()
    clear = Steps(content(**sections)).go()
    assert clear.counted(0) == ideal.counted(0)
    assert len(ideal.counted(0)) == 5
    assert not any("simulated/seconds" in c.metrics for c in ideal.records[0].clients)
    near = ideal.state.strategy["model"], clear.state.strategy["model"]
    torch.testing.assert_close(*near, rtol=0, atol=1e-3)  # 32 bits of a ring


@pytest.mark.parametrize("cohort", [4, pytest.param(9, marks=pytest.mark.slow)])
def test_fedbuff_with_equal_devices_and_a_full_buffer_is_fedavg(cohort):
    rounds = {"count": 4, "cohort": cohort}
    strategy = {"name": "fedbuff", "buffer": cohort, "weights": "examples"}
    expected = Steps(content(local=ALIKE, rounds=rounds)).go()
    found = Steps(content(local=ALIKE, rounds=rounds, strategy=strategy, devices=EQUAL)).go()
    assert found.shas == expected.shas
    assert found.column("train/staleness") == [0.0] * 4


STRATEGIES = [{"name": "fedbuff", "buffer": 3}, {"name": "fedasync", "staleness": "hinge", "b": 1}]


@pytest.mark.parametrize(
    "strategy",
    [STRATEGIES[0], pytest.param(STRATEGIES[1], marks=pytest.mark.slow)],
    ids=lambda own: own["name"],
)
def test_an_asynchronous_run_is_the_same_in_any_blocks_and_after_a_resume(strategy, tmp_path):
    from fedsim.engine.checkpoint import Checkpoint, load_checkpoint, save_checkpoint

    experiment = content(
        strategy=strategy,
        devices={**PHONES, "online_s": "exponential:0.5", "offline_s": "exponential:0.1"},
        local={"name": "sgd", "batch_size": 16, "keep_optimizer": True},
        optimizer={"name": "sgd", "lr": 0.1, "momentum": 0.5},
        rounds={"count": 12, "cohort": 6},
    )
    whole = Steps(experiment).go()
    engine = {"grid": "inprocess", "tier": "resident", "block_size": 1}
    first = Steps({**experiment, "engine": engine}).go(5)
    memos = first.grid.states
    save_checkpoint(tmp_path / "at", Checkpoint(5, first.state.strategy, memos))
    read = load_checkpoint(tmp_path / "at")
    rest = Steps({**experiment, "engine": engine})
    rest.state = ServerState(read.round, read.state)
    rest.grid.states.update(read.memos)
    rest.go()
    assert first.shas + rest.shas == whole.shas
    for name in ("simulated/seconds", "simulated/joules", "train/staleness"):
        assert first.column(name) + rest.column(name) == whole.column(name)
    assert max(whole.column("train/staleness")) > 0


def by_hand(steps, strategy):
    """The models of an asynchronous run from its records: each client trained by itself."""
    federation = steps.federation
    models = [federation.initial.double()]
    for number, record in enumerate(steps.records):
        total, weight = torch.zeros_like(models[0]), 0.0
        for client in (c for c in record.clients if c.phase == "train" and not c.lost):
            version = number - int(client.metrics["staleness"])
            start = models[version].float()
            task = federation.task(start, [federation.clients.train(client.client)])
            context = fedsim.core.ClientContext(5, version + 1, client.client)
            update, _ = federation.config.local.train(task, {}, context)
            counts = federation.weight(update.weight)
            if strategy == "fedbuff":
                scale = (1 + number - version) ** -0.5
                total += counts * scale * update.vector.double()
            else:
                scale = (1 + number - version) ** -0.5
                arrived = start.double() + update.vector.double()
                total += counts * scale * (arrived - models[-1])
            weight += counts
        rate = 1.0 if strategy == "fedbuff" else 0.6
        models.append(models[-1] + rate * total / weight)
    return models[1:]


@pytest.mark.parametrize("strategy", ["fedbuff", "fedasync"])
def test_steps_are_those_of_the_papers_formulas(strategy):
    own = {"name": strategy, **({"buffer": 3} if strategy == "fedbuff" else {})}
    found = Steps(content(strategy=own, devices=PHONES, rounds={"count": 6, "cohort": 6})).go()
    expected = by_hand(found, strategy)[-1]
    torch.testing.assert_close(found.state.strategy["model"], expected, rtol=0, atol=1e-6)
    assert max(found.column("train/staleness")) > 0


def test_models_are_kept_as_long_as_somebody_is_at_work_on_one():
    steps = {"count": 15, "cohort": 6}
    found = Steps(content(strategy=STRATEGIES[1], devices=PHONES, rounds=steps)).go()
    kept = [name for name in found.state.strategy if name.startswith("async/model/")]
    queue = found.state.strategy["async/queue"]
    assert len(kept) <= 6
    assert {int(name.rpartition("/")[2]) for name in kept} == {int(v) for v in queue[1:, 1]}


@pytest.mark.parametrize("strategy", STRATEGIES, ids=lambda own: own["name"])
def test_between_real_machines_arrivals_count_in_the_order_in_which_they_come(strategy):
    """Flower's own interface to push and pull, here of clients in this process."""
    experiment = content(strategy=strategy, rounds={"count": 5, "cohort": 4})
    found = Steps(experiment, lambda grid: FlowerCarrier(grid, poll_s=0.01)).go()
    buffer = strategy.get("buffer", 1)
    assert [len(found.counted(number)) for number in range(5)] == [buffer] * 5
    assert not any(name.startswith("simulated") for name in found.records[0].metrics)
    assert torch.isfinite(found.state.strategy["model"]).all()


def refused(match, **sections):
    with pytest.raises(ConfigError, match=match):
        configuration.load(content(**sections), (), {})


def test_what_has_no_clock_or_would_break_a_promise_is_refused():
    def rounds(**own):
        return {"count": 2, "cohort": 6, **own}

    noise = {"unit": "user", "noise_multiplier": 1.0}
    refused(r"rounds\.deadline_s.*\[devices\]", rounds=rounds(deadline_s=3.0))
    refused(r"rounds\.over_selection.*\[devices\]", rounds=rounds(over_selection=1.3))
    refused(r"rounds\.late.*nobody is late", rounds=rounds(late="drop"), devices=PHONES)
    over = rounds(over_selection=1.3)
    refused(r"over_selection.*no accountant", rounds=over, devices=PHONES, privacy=noise)
    over = rounds(over_selection=1.6)
    refused(
        r"over_selection.*at most 1\.5", rounds=over, devices=PHONES, secure_sum={"name": "secagg"}
    )
    late = rounds(deadline_s=1.0, late="partial")
    refused(r"rounds\.late.*secure sum", rounds=late, devices=PHONES, secure_sum={"name": "ideal"})
    refused(r"rounds\.late.*epochs", rounds=late, devices=PHONES, local=ALIKE)
    configuration.load(content(rounds=rounds(deadline_s=1.0), devices=PHONES, privacy=noise))


@pytest.mark.parametrize("strategy", STRATEGIES, ids=lambda own: own["name"])
def test_asynchronous_strategies_refuse_what_waits_for_everybody(strategy):
    own = {"strategy": strategy, "devices": PHONES}
    refused(r"secure_sum\.name.*masks", secure_sum={"name": "secagg"}, **own)
    for unit in ("user", "example", "local"):
        noise = {"unit": unit, "noise_multiplier": 1.0}
        refused(r"privacy\.unit.*no accountant", privacy=noise, **own)
    refused(r"selection\.name.*uniform", selection={"name": "power-of-choice"}, **own)
    refused(r"deadline_s.*waits for nobody", rounds={"cohort": 6, "deadline_s": 1.0}, **own)
    refused(r"strategy\.buffer.*at most 9", strategy={"name": "fedbuff"}, devices=PHONES)
    with pytest.raises(ConfigError, match=r"devices\.name.*virtual clock"):
        fedsim.run(content(strategy=strategy))


def test_a_run_tells_its_simulated_time_in_history_and_report(tmp_path, monkeypatch):
    monkeypatch.delenv("FEDSIM__STORAGE__REPORT", raising=False)
    experiment = content(devices=PHONES, rounds={"count": 4, "cohort": 6})
    result = fedsim.run(experiment, runs=tmp_path)
    seconds = [entry["metrics"]["simulated/seconds"] for entry in result.history]
    assert result.metrics["simulated/seconds"] == seconds[-1]
    report = json.loads(result.report.with_suffix(".json").read_text())["sections"]
    told = report["simulated_time"]
    assert (told["seconds"], told["metric"]) == (seconds[-1], "test/accuracy")
    values = [entry["metrics"]["test/accuracy"] for entry in result.history]
    best = values.index(max(values))
    assert told["reached"][-1]["round"] == best + 1
    assert told["reached"][-1]["seconds"] == seconds[best]
    down = sum(entry["bytes_down"] for entry in result.history[: best + 1])
    assert told["reached"][-1]["bytes_down"] == down
    for entry in told["reached"][:-1]:
        first = next(i for i, value in enumerate(values) if value >= entry["value"])
        assert (entry["round"], entry["seconds"]) == (first + 1, seconds[first])
    assert "Simulated time and energy" in result.report.read_text()


@pytest.mark.slow
def test_any_number_of_workers_gives_the_same_asynchronous_run(cluster, tmp_path):
    experiment = content(strategy=STRATEGIES[0], devices=PHONES, rounds={"count": 6, "cohort": 6})
    found = set()
    for workers in (0, 1, 3):
        engine = {"grid": "ray", "workers": workers, "tier": "resident", "block_size": 1}
        own = {**experiment, "engine": engine if workers else experiment["engine"]}
        result = fedsim.run(own, runs=tmp_path / str(workers))
        found.add((result.model_sha256, result.metrics["simulated/seconds"]))
    assert len(found) == 1
