"""Which tier a run takes, what is recorded of it, and that all of them learn the same."""

import json
import re
from dataclasses import replace

import numpy as np
import pytest
import torch
from safetensors.torch import load_file

import fedsim
from fedsim import config as configuration
from fedsim import tiers
from fedsim.core import ClientContext
from fedsim.engine.inprocess import InProcessGrid
from fedsim.engine.launch import OURS
from fedsim.errors import ConfigError
from fedsim.federation import Places, build
from fedsim.optimizers.sgd import Sgd
from fedsim.testing._rounds import Run

SETTINGS = ["rounds.count=2", "partition.clients=60", "rounds.cohort=12", "engine.grid=inprocess"]
MLP = ['model={name="mlp", hidden=[8]}', 'optimizer={name="sgd", lr=0.1}']


def federation(*overrides):
    return build(configuration.load("digits", [*SETTINGS, *overrides]), Places())


def model_of(result):
    parts = load_file(result.folder / "model.safetensors")
    return torch.cat([parts[name].flatten() for name in sorted(parts)])


@pytest.mark.parametrize(
    "overrides",
    [
        MLP,
        pytest.param([*MLP, "local={name='fedprox', mu=0.1}"], marks=pytest.mark.slow),
        pytest.param(['model={name="cnn"}'], marks=pytest.mark.slow),
        ['model={name="cnn"}', "optimizer={name='adam', eps=0.001}"],
    ],
    ids=["mlp", "fedprox", "cnn", "cnn-adam"],
)
def test_all_tiers_come_to_the_same_model(overrides, tmp_path):
    legal = tiers._legal(federation(*overrides))[0]
    assert legal[:3] == ["messages", "resident", "vectorized"]
    models = {}
    for tier in legal:
        result = fedsim.run(
            "digits", [*SETTINGS, *overrides, f"engine.tier={tier}"], runs=tmp_path / tier
        )
        assert result.stored.facts["execution"]["tier"] == tier
        models[tier] = model_of(result)
    assert torch.equal(models["messages"], models["resident"])
    for tier in legal[2:]:
        torch.testing.assert_close(models[tier], models["messages"], rtol=0, atol=1e-6)


@pytest.mark.parametrize("grid", ["inprocess", pytest.param("ray", marks=pytest.mark.slow)])
@pytest.mark.parametrize("tier", ["vectorized", "low-rank"])
def test_the_same_tier_and_block_size_give_the_same_bytes(tier, grid, cluster, tmp_path):
    settings = [*SETTINGS, *MLP, f"engine.tier={tier}", "engine.block_size=2"]
    hashes = set()
    for workers in (1, 2):
        options = [f"engine.grid={grid}", f"engine.workers={workers}"]
        result = fedsim.run("digits", [*settings, *options], runs=tmp_path / str(workers))
        hashes.add(result.model_sha256)
        assert result.stored.facts["execution"]["block_size"] == 2
    assert len(hashes) == 1


@pytest.mark.parametrize("tier", ["vectorized", "low-rank"])
def test_how_many_clients_travel_together_changes_no_bit(tier):
    """That depends on the workers; which clients are trained at once does not."""
    content = configuration.to_dict(configuration.load("digits", [*SETTINGS, *MLP]))
    content["engine"] |= {"tier": tier, "block_size": 2}
    models = []
    for workers, is_even in ((1, True), (1, False), (2, False)):
        run = Run(content)
        size = tiers.travelling(2, 12, workers, is_even=is_even)
        run._grid = InProcessGrid(OURS.open(run._told), run._grid.population, size=size)
        models.append((size, run.go(2).models))
    assert [size for size, _ in models] == [12, 6, 2]
    assert all(found == models[0][1] for _, found in models)


@pytest.mark.slow
def test_grids_agree_bit_by_bit_on_vectorized_blocks(cluster, tmp_path):
    settings = [*SETTINGS, *MLP, "engine.tier=vectorized", "engine.block_size=4"]
    here = fedsim.run("digits", settings, runs=tmp_path / "here")
    there = fedsim.run("digits", [*settings, "engine.grid=ray"], runs=tmp_path / "there")
    assert here.model_sha256 == there.model_sha256
    assert here.history[-1]["metrics"] == there.history[-1]["metrics"]


DP = ['local={name="dp-sgd", clipping_norm=0.5, steps=1, batch_size=2}']


@pytest.mark.slow
def test_dp_sgd_comes_to_the_same_model_in_a_block(cluster, tmp_path):
    assert tiers._legal(federation(*MLP, *DP))[0] == ["messages", "resident", "vectorized"]

    def run(tier, grid):
        options = [f"engine.tier={tier}", f"engine.grid={grid}", "engine.block_size=4"]
        settings = [*SETTINGS, *MLP, *DP, *options]
        return fedsim.run("digits", settings, runs=tmp_path / tier / grid)

    alone, block = run("resident", "inprocess"), run("vectorized", "inprocess")
    torch.testing.assert_close(model_of(block), model_of(alone), rtol=0, atol=1e-6)
    for one, other in zip(alone.history, block.history, strict=True):
        assert one["metrics"] == pytest.approx(other["metrics"], rel=1e-5)
    assert "not private" in block.stored.facts["notice"]
    assert run("vectorized", "ray").model_sha256 == block.model_sha256


@pytest.mark.reports
def test_what_was_chosen_is_recorded_shown_and_used_again(tmp_path):
    first = fedsim.run("digits", [*SETTINGS, *MLP], runs=tmp_path)
    execution = first.stored.facts["execution"]
    assert execution["tier"] in ("resident", "vectorized", "low-rank")
    report = json.loads((first.folder / "report.json").read_text())
    assert execution["tier"] in json.dumps(report)
    again = fedsim.run("digits", [*SETTINGS, *MLP], runs=tmp_path)
    assert again.stored.facts["execution"] == execution
    assert again.model_sha256 == first.model_sha256


def test_a_resumed_run_keeps_its_tier(tmp_path, monkeypatch):
    settings = [*SETTINGS, *MLP, "engine.tier=vectorized", "engine.block_size=3"]
    whole = fedsim.run("digits", settings, runs=tmp_path / "whole")

    class StopError(Exception):
        pass

    def stop(event):
        if type(event).__name__ == "RoundDone":
            raise StopError

    with pytest.raises(StopError):
        fedsim.run("digits", settings, runs=tmp_path / "cut", listener=stop)
    monkeypatch.setattr(tiers, "choose", None)  # whoever asked would get an error
    (run,) = [path.name for path in (tmp_path / "cut").iterdir() if (path / "run.log").exists()]
    done = fedsim.resume(run, runs=tmp_path / "cut")
    assert done.model_sha256 == whole.model_sha256


def test_why_no_faster_tier_is_said_in_a_line():
    execution = tiers.choose(federation('mode="local-only"'))
    assert execution.tier == "resident"
    assert "by itself" in execution.reason


def user_model(tmp_path, monkeypatch, name, body):
    (tmp_path / f"{name}.py").write_text(f"import torch\nfrom torch import nn\n{body}")
    monkeypatch.syspath_prepend(tmp_path)
    return f'model={{name="{name}:make"}}'


MODELS = {
    "normed": (
        "def make():\n"
        "    return nn.Sequential(nn.Flatten(), nn.Linear(64, 10), nn.BatchNorm1d(10))\n",
        "batch norm",
    ),
    "centred": (
        "class Net(nn.Module):\n"
        "    def __init__(self):\n"
        "        super().__init__()\n"
        "        self.head = nn.Linear(64, 10)\n"
        "    def forward(self, x):\n"
        "        h = self.head(x.flatten(1))\n"
        "        return h * (1 + h.mean(dim=0, keepdim=True))\n"
        "def make():\n    return Net()\n",
        "it mixes examples",
    ),
    "branching": (
        "class Net(nn.Module):\n"
        "    def __init__(self):\n"
        "        super().__init__()\n"
        "        self.head = nn.Linear(64, 10)\n"
        "    def forward(self, x):\n"
        "        h = self.head(x.flatten(1))\n"
        "        return h * 2 if h.sum().item() > 0 else h\n"
        "def make():\n    return Net()\n",
        "cannot be stacked",
    ),
    "drawing": (
        "class Net(nn.Module):\n"
        "    def __init__(self):\n"
        "        super().__init__()\n"
        "        self.head = nn.Linear(64, 10)\n"
        "    def forward(self, x):\n"
        "        return self.head(nn.functional.dropout(x.flatten(1), 0.5, self.training))\n"
        "def make():\n    return Net()\n",
        "cannot be stacked",
    ),
}


@pytest.mark.parametrize(
    ("overrides", "least", "most"),
    [
        (["partition.name=iid", "partition.clients=20"], 1.0, 1.01),
        (["partition.name=quantity", "partition.clients=20"], 1.0001, 1.25),
        (["partition.name=iid", "local.name=dp-sgd"], 1.0001, 1.5),
    ],
    ids=["equal", "unequal", "poisson"],
)
def test_padding_is_measured_and_recorded(overrides, least, most, tmp_path):
    """It is what blocks then compute beyond what there is: see tests/vectorized/test_schedule.py"""
    asked = [*MLP, *overrides, "engine.tier=vectorized", "engine.block_size=12"]
    result = fedsim.run("digits", [*SETTINGS, *asked, "rounds.count=1"], runs=tmp_path)
    assert least <= result.stored.facts["execution"]["padding"] <= most
    alone = tiers.choose(federation(*MLP, "engine.tier=resident"))
    assert alone.padding is None


@pytest.mark.parametrize("name", MODELS)
def test_models_that_cannot_be_stacked_fall_back_and_still_train(name, tmp_path, monkeypatch):
    body, reason = MODELS[name]
    model = user_model(tmp_path, monkeypatch, f"net_{name}", body)
    execution = tiers.choose(federation(model))
    assert (execution.tier, reason in execution.reason) == ("resident", True)
    result = fedsim.run("digits", [*SETTINGS, model, "rounds.count=1"], runs=tmp_path / "runs")
    assert np.isfinite(result.metrics["train/loss"])


def test_dp_sgd_of_a_model_that_cannot_be_stacked_trains_each_client_alone(tmp_path, monkeypatch):
    model = user_model(tmp_path, monkeypatch, "dp_net", MODELS["branching"][0])
    execution = tiers.choose(federation(model, *DP))
    assert (execution.tier, "cannot be stacked" in execution.reason) == ("resident", True)


def test_a_tier_that_the_experiment_does_not_allow_is_refused():
    with pytest.raises(ConfigError, match=r"engine\.tier.*messages, resident, vectorized"):
        tiers.choose(federation('model={name="cnn"}', "engine.tier=low-rank"))
    with pytest.raises(ConfigError, match="by itself"):
        tiers.choose(federation('mode="local-only"', "engine.tier=vectorized"))


def test_low_rank_is_for_sgd_alone():
    assert tiers._legal(federation(*MLP))[0][-1] == "low-rank"
    for other in (
        'optimizer={name="adam"}',
        'local={name="dp-sgd"}',
        'local={name="fedprox", mu=0.1}',
        "local.keep_optimizer=true",
        "regularization.l2=0.1",
        "regularization.l1=0.1",
    ):
        legal, reason = tiers._legal(federation(*MLP, other))
        assert legal[-1] == "vectorized"
        assert reason
    pieces = federation(*MLP, 'local={name="dp-sgd", examples_at_once=4}')
    assert tiers._legal(pieces) == (["messages", "resident"], "batches are computed in pieces")


def test_a_measurement_that_cannot_be_kept_is_made_again(tmp_path):
    file = tmp_path / "not-a-folder"
    file.write_text("")
    execution = tiers.choose(federation(*MLP), file)
    assert execution.tier in ("resident", "vectorized", "low-rank")
    folder = tmp_path / "cache"
    first = tiers.choose(federation(*MLP), folder)
    (kept,) = folder.iterdir()
    kept.write_text("{}")
    assert tiers.choose(federation(*MLP), folder).tier in ("resident", "vectorized", "low-rank")
    assert first.block_size is None or first.block_size >= 1


@pytest.mark.slow
def test_clients_out_of_bounds_are_lost_and_no_others(tmp_path):
    settings = [*SETTINGS, *MLP, "rounds.count=1", "engine.block_size=6", "optimizer.lr=0.5"]
    made = federation(*MLP, "optimizer.lr=0.5")
    largest = []
    for client in range(60):
        task = made.task(made.initial, [made.clients.train(client)])
        update, _ = made.config.local.train(task, {}, ClientContext(0, 1, client))
        largest.append(float(update.vector.abs().max()))
    bound = f"rounds.max_abs_update={np.median(largest):.6f}"
    lost = {}
    for tier in ("resident", "vectorized", "low-rank"):
        options = [f"engine.tier={tier}", bound]
        result = fedsim.run("digits", [*settings, *options], runs=tmp_path / tier)
        log = (result.folder / "run.log").read_text()
        lost[tier] = sorted(re.findall(r"client (\d+) \(node", log))
        assert result.history[0]["lost"] == len(lost[tier])
    assert lost["resident"] == lost["vectorized"] == lost["low-rank"]
    assert 0 < len(lost["resident"]) < 12


def test_a_tier_that_is_asked_for_is_taken_even_if_it_is_slower(monkeypatch):
    monkeypatch.setattr(tiers, "_seconds_resident", lambda federation: 0.0)
    monkeypatch.setattr(tiers, "_seconds_at_once", lambda f, tier, width, limit: 1.0 + width)
    chosen = tiers.choose(federation(*MLP, "engine.tier=vectorized"), cores=3)
    assert (chosen.tier, chosen.block_size) == ("vectorized", 2)


def test_a_tier_that_wants_wide_blocks_is_given_them_before_it_is_compared(monkeypatch):
    seconds = {"vectorized": {8: 0.5, 32: 0.4, 128: 0.4}, "low-rank": {8: 0.6, 32: 0.3, 128: 0.1}}
    monkeypatch.setattr(tiers, "_seconds_resident", lambda federation: 1.0)
    monkeypatch.setattr(tiers, "_seconds_at_once", lambda f, tier, w, limit: seconds[tier][w])
    legal = ["messages", "resident", "vectorized", "low-rank"]
    found = tiers._measured(federation(*MLP), legal, [8, 32, 128], 2)
    assert (found.tier, found.block_size) == ("low-rank", 128)
    seconds["low-rank"] = {8: 0.95, 32: 0.1}  # hardly faster than one by one: given up
    found = tiers._measured(federation(*MLP), legal, [8, 32, 128], 2)
    assert (found.tier, found.block_size) == ("vectorized", 128)


@pytest.mark.parametrize(
    ("seconds", "last", "is_timed"),
    [(0.1, "vectorized", False), (0.001, "vectorized", True), (0.1, "low-rank", True)],
)
def test_what_computes_all_the_time_is_not_timed_at_once(seconds, last, is_timed, monkeypatch):
    timed = []
    monkeypatch.setattr(tiers, "_seconds_resident", lambda federation: seconds)
    monkeypatch.setattr(tiers, "_seconds_at_once", lambda f, tier, w, limit: timed.append(w) or 9.0)
    legal = ["messages", "resident", "vectorized", "low-rank"]
    found = tiers._measured(federation(*MLP), legal[: legal.index(last) + 1], [8], 2)
    assert (found.tier, found.block_size) == ("resident", None)
    assert bool(timed) == is_timed
    assert ("a step is long enough" in found.reason) != is_timed


def legal_until(tier):
    return ["messages", "resident", "vectorized", "low-rank"][: 3 + (tier == "low-rank")]


@pytest.mark.parametrize(
    ("error", "reason"),
    [
        (torch.OutOfMemoryError("CUDA out of memory"), "there was not memory for 32 clients"),
        (RuntimeError("no kernel\nmore"), "32 clients at once failed: RuntimeError: no kernel"),
    ],
)
@pytest.mark.parametrize("tier", ["vectorized", "low-rank"])
def test_a_block_that_fails_when_timed_is_not_taken_and_says_why(error, reason, tier, monkeypatch):
    def seconds(federation, tier, width, limit):
        if width > 8:
            raise error
        return 0.1

    monkeypatch.setattr(tiers, "_seconds_resident", lambda federation: 1.0)
    monkeypatch.setattr(tiers, "_seconds_at_once", seconds)
    monkeypatch.setattr(tiers, "_is_busy", lambda *args: False)
    found = tiers._measured(federation(*MLP), legal_until(tier), [8, 32, 128], 2)
    assert (found.tier, found.block_size) == ("vectorized", 8)
    assert reason in found.reason
    # Not even the smallest: one by one, and not because the others are slow.
    found = tiers._measured(federation(*MLP), legal_until(tier), [32, 128], 2)
    assert (found.tier, found.block_size) == ("resident", None)
    assert reason in found.reason


def test_a_block_takes_no_more_memory_than_there_is_room_for(monkeypatch):
    def free(count):
        monkeypatch.setattr(tiers.environment, "memory_available_bytes", lambda: count)

    def taking(count):
        monkeypatch.setattr(tiers.environment, "memory_above_now", lambda device: lambda: count)

    monkeypatch.setattr(tiers, "_seconds_resident", lambda federation: 1.0)
    monkeypatch.setattr(tiers, "_seconds_at_once", lambda f, tier, width, limit: 1 / width)
    monkeypatch.setattr(tiers, "_is_busy", lambda *args: False)
    made, legal = federation(*MLP), legal_until("vectorized")
    least = tiers._least_bytes(made)
    assert least == 4 * 3 * made.initial.numel()
    # Half of what is free, for two cores: room for ten clients by what they need for sure.
    free(40 * least)
    taking(0)
    found = tiers._measured(made, legal, [8, 32, 128], 2)
    assert (found.block_size, found.memory_bytes) == (8, 8 * least)
    assert found.reason.startswith("32 clients at once would take about")
    # Eight took as much as a block may: no larger one is tried.
    free(4 * 2**30)
    taking(2**30)
    found = tiers._measured(made, legal, [8, 32, 128], 2)
    assert (found.block_size, found.memory_bytes) == (8, 2**30)
    assert found.reason == (
        "32 clients at once would take about 4,096 MB, and a block may have 1,024"
    )


def test_what_activations_take_is_measured(tmp_path, monkeypatch):
    body = (
        "class Wide(nn.Module):\n"
        "    def __init__(self):\n"
        "        super().__init__()\n"
        "        self.head = nn.Linear(64, 10)\n"
        "    def forward(self, x):\n"
        "        wide = x.flatten(1).repeat(1, 2000)\n"
        "        return self.head(wide.sigmoid().unflatten(1, (2000, 64)).mean(dim=1))\n"
        "def make():\n    return Wide()\n"
    )
    model = user_model(tmp_path, monkeypatch, "wide_net", body)
    made = federation(model, "engine.tier=vectorized", "local.batch_size=20")
    found = tiers.choose(made, cores=1)
    # Of each client's 20 examples 64 x 2000 numbers, which no count of parameters shows.
    assert found.memory_bytes > found.block_size * 20 * 64 * 2000 * 4
    assert tiers._least_bytes(made) * found.block_size < found.memory_bytes / 100


@pytest.mark.parametrize("name", ["adam", "adamw", "adagrad", "rmsprop"])
def test_steps_that_magnify_rounding_can_be_stacked(name):
    made = federation('model={name="cnn"}', f"optimizer={{name='{name}', lr=0.1}}")
    assert tiers._legal(made)[0][-1] == "vectorized"


def test_an_optimizer_that_looks_at_all_clients_cannot_be_stacked():
    class Normalized(Sgd):
        """Each step of one length: of all clients together where they are stacked."""

        is_linear = False

        def step(self, parameters, gradients, state, lr_factor=1.0):
            norm = torch.stack([gradient.norm() for gradient in gradients]).norm()
            super().step(parameters, [g / norm for g in gradients], state, lr_factor)

    made = federation(*MLP)
    made = replace(made, config=replace(made.config, optimizer=Normalized()))
    legal, reason = tiers._legal(made)
    assert legal == ["messages", "resident"]
    assert reason.endswith("its optimizer does not step each client by itself")


def test_a_trial_that_runs_out_of_memory_does_not_blame_the_model(monkeypatch):
    def full(*args):
        raise torch.OutOfMemoryError("CUDA out of memory")

    monkeypatch.setattr(tiers, "_train_at_once", full)
    legal, reason = tiers._legal(federation(*MLP))
    assert legal == ["messages", "resident"]
    assert reason == "there is not memory for 3 clients at once"


def test_a_round_has_blocks_for_every_core():
    uneven = federation(*MLP, "partition.clients=1000", "rounds.cohort=1000")
    assert tiers._widths(uneven, 2) == [8, 32, 128, 250]
    assert tiers._widths(uneven, 1) == [8, 32, 128, 500]
    assert tiers._widths(uneven, 16) == [8, 32]
    assert tiers._widths(federation(*MLP), 16) == [1]
    even = federation(*MLP, "data={name='synthetic', clients=1000}", "rounds.cohort=1000")
    assert tiers.are_even(even)
    assert tiers._widths(even, 2) == [8, 32, 128, 500]
