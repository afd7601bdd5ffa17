"""Sweeps: what the grid is, what runs again, and what the table says."""

import csv
import json
import math
import os
import runpy
import signal
import subprocess
import sys
import time
from pathlib import Path

import numpy as np
import pytest
from scipy import stats

from fedsim.cli._app import main
from fedsim.errors import ConfigError
from fedsim.store import RunStore
from fedsim.sweep import compare_sweep, plan_sweep, run_sweep
from fedsim.sweep._statistics import estimate, paired

PLUGIN = Path(__file__).parents[1] / "engine" / "plugin.py"  # clients that misbehave on purpose
TINY = {
    "name": "tiny",
    "data": {"name": "synthetic", "clients": 3, "examples": 8, "features": 4, "classes": 3},
    "model": {"name": "linear"},
    "rounds": {"count": 1},
    "evaluation": {"federated_every": 0},
    "engine": {"grid": "inprocess", "tier": "resident"},
    "storage": {"report": False},
}


def test_the_grid_is_every_combination_and_brings_other_halves_along():
    sweep = plan_sweep(TINY, ["strategy.name=fedavg,scaffold", "seed=1..3", "rounds.count=2"])
    assert [tuple(cell.values.values()) for cell in sweep.cells] == [
        (name, str(seed)) for name in ("fedavg", "scaffold") for seed in (1, 2, 3)
    ]
    assert {cell.config.rounds.count for cell in sweep.cells} == {2}
    locals_ = [type(cell.config.local).__name__ for cell in sweep.cells]
    assert locals_ == ["Sgd"] * 3 + ["Scaffold"] * 3
    assert sweep.notes == ("strategy.name=scaffold goes with local.name=scaffold",)
    assert len({cell.run_name for cell in sweep.cells}) == 6


def test_a_run_is_named_for_everything_its_experiment_says():
    first = plan_sweep(TINY, ["seed=1,2"])
    assert [c.run_name for c in plan_sweep(TINY, ["seed=1..2"]).cells] == [
        c.run_name for c in first.cells
    ]
    other = plan_sweep({**TINY, "rounds": {"count": 3}}, ["seed=1,2"])
    assert not {c.run_name for c in first.cells} & {c.run_name for c in other.cells}


@pytest.mark.parametrize(
    ("assignments", "path"),
    [
        (["rounds.count=3"], "sweep"),
        (["seed=1,2", "nonsense"], "nonsense"),
        (["seed=1,,2"], "seed"),
        (["seed=1..20000"], "sweep"),
        (["strategy.name=fedavg,fedagv"], r"strategy\.name"),
        (["optimizer.lr=0.1,-1", "seed=1,2"], r"optimizer\.lr"),
    ],
)
def test_what_is_wrong_is_said_before_anything_runs(assignments, path):
    with pytest.raises(ConfigError, match=path):
        plan_sweep(TINY, assignments)


def test_intervals_are_those_of_scipy():
    values = list(np.random.default_rng(0).normal(size=7))
    found = estimate(values, 0.9)
    low, high = stats.ttest_1samp(values, 0).confidence_interval(0.9)
    assert found.mean - found.half_width == pytest.approx(low)
    assert found.mean + found.half_width == pytest.approx(high)
    assert math.isnan(estimate([1.0]).half_width)
    never = estimate([7.0, math.inf, 8.0])
    assert never.mean == math.inf
    assert math.isnan(never.deviation)


def test_differences_are_paired_by_seed():
    first = {"1": 1.0, "2": 5.0, "3": 9.0, "4": 0.0}
    second = {"1": 0.5, "2": 4.0, "3": 8.6}
    found = paired(first, second)
    low, high = stats.ttest_rel([1.0, 5.0, 9.0], [0.5, 4.0, 8.6]).confidence_interval(0.95)
    assert (found.mean - found.half_width, found.mean + found.half_width) == pytest.approx(
        (low, high)
    )
    assert paired({"1": 1.0}, {"2": 1.0}) is None


@pytest.fixture(scope="module")
def swept(tmp_path_factory):
    """A sweep of two settings and two seeds, run."""
    root = tmp_path_factory.mktemp("sweep")
    sweep = plan_sweep(TINY, ["optimizer.lr=0.1,0.5", "seed=1,2"])
    told = []
    outcomes = run_sweep(sweep, runs=root, tell=lambda *event: told.append(event))
    assert [done for _, done, _ in told] == [1, 2, 3, 4]
    return root, sweep, outcomes


def test_done_runs_are_not_run_again_and_interrupted_ones_go_on(swept):
    root, sweep, outcomes = swept
    assert [outcome.status for outcome in outcomes] == ["finished"] * 4
    store = RunStore(root)
    store.set_status(outcomes[2].run, "interrupted")
    again = run_sweep(sweep, runs=root)
    assert [outcome.status for outcome in again] == ["found", "found", "finished", "found"]
    assert [outcome.run for outcome in again] == [outcome.run for outcome in outcomes]
    assert len(store.all()) == 4


def test_the_table_is_means_and_paired_differences_of_the_runs(swept):
    root, _, outcomes = swept
    store = RunStore(root)
    content = compare_sweep(store, "tiny-sweep")
    values = [store.get(o.run).rounds[-1]["metrics"]["test/accuracy"] for o in outcomes]
    first, second = content["rows"]
    assert (first["setting"], second["setting"]) == ("optimizer.lr=0.1", "optimizer.lr=0.5")
    assert first["mean"] == pytest.approx(np.mean(values[:2]))
    assert second["difference"]["mean"] == pytest.approx(np.mean(values[2:]) - np.mean(values[:2]))
    assert first["difference"] is None
    assert content["curves"]["optimizer.lr=0.1"][0]["count"] == 2
    with pytest.raises(ConfigError, match="--baseline"):
        compare_sweep(store, "tiny-sweep", baseline="optimizer.lr=0.2")


def test_the_commands_write_files_and_end_with_a_failing_cell(tmp_path, monkeypatch, capsys, swept):
    import tomli_w

    root, *_ = swept
    experiment = tmp_path / "tiny.toml"
    experiment.write_text(tomli_w.dumps(TINY))
    monkeypatch.setenv("FEDSIM_RUNS", str(root))

    def call(*arguments):
        monkeypatch.setattr("sys.argv", ["fedsim", *arguments, "--json"])
        with pytest.raises(SystemExit) as info:
            main()
        return info.value.code, json.loads(capsys.readouterr().out.splitlines()[-1])

    nowhere = ["data.name=synthetic,mnist", "seed=1", "--data-dir", str(tmp_path)]
    code, found = call("sweep", str(experiment), *nowhere, "--name", "half")
    assert code == 1
    assert [cell["status"] for cell in found["cells"]] == ["finished", "failed"]
    assert "mnist" in found["cells"][1]["error"]
    code, found = call("compare", "half")
    assert code == 0
    assert found["missing"] == [{"data.name": "mnist"}]
    with Path(found["files"]["csv"]).open() as file:
        (row,) = csv.DictReader(file)
    assert float(row["test/accuracy"]) == found["rows"][0]["mean"]
    page = Path(found["files"]["html"]).read_text()
    assert "<svg" in page
    assert "src=" not in page  # it opens offline
    assert 'href="http' not in page
    code, _ = call("compare", "halff")
    assert code == 2


def models(outcomes, root):
    store = RunStore(root)
    return [store.get(outcome.run).rounds[-1]["model_sha256"] for outcome in outcomes]


@pytest.mark.timeout(300)
def test_side_by_side_is_as_one_after_another(swept, tmp_path):
    root, sweep, outcomes = swept
    told = []
    found = run_sweep(sweep, runs=tmp_path, jobs=2, tell=lambda *event: told.append(event))
    assert [outcome.values for outcome in found] == [outcome.values for outcome in outcomes]
    assert models(found, tmp_path) == models(outcomes, root)
    assert [done for _, done, _ in told] == [1, 2, 3, 4]


@pytest.fixture
def command(tmp_path):
    """A command line that sweeps the tiny experiment, how it is started, and its runs."""
    import tomli_w

    runpy.run_path(str(PLUGIN))["install"](tmp_path / "parts")
    experiment = tmp_path / "tiny.toml"
    experiment.write_text(tomli_w.dumps(TINY))
    paths = os.pathsep.join([str(tmp_path / "parts"), os.environ.get("PYTHONPATH", "")])
    start = [sys.executable, "-m", "fedsim", "sweep", str(experiment), "--json", "--jobs=2"]
    started = {"stdout": subprocess.PIPE, "stderr": subprocess.PIPE, "text": True}
    started["env"] = {**os.environ, "PYTHONPATH": paths, "FEDSIM_RUNS": str(tmp_path / "runs")}
    return start, started, RunStore(tmp_path / "runs")


@pytest.mark.timeout(300)
def test_a_killed_process_takes_no_other_cell_with_it(command):
    start, started, _ = command
    start += ["local.fault=exit,none", "local.clients=[0]", "local.name=faulty"]
    done = subprocess.run(start, **started, timeout=200, check=False)
    assert done.returncode == 1, done.stderr
    cells = json.loads(done.stdout)["cells"]
    assert [cell["status"] for cell in cells] == ["failed", "finished"]
    assert [cell["error"] for cell in cells] == ["its process was killed", ""]


@pytest.mark.slow
@pytest.mark.timeout(600)
def test_ctrl_c_finishes_the_rounds_and_the_same_command_goes_on(command):
    start, started, store = command
    start += ["seed=1..4", "rounds.count=1000"]
    own = {"start_new_session": True, "preexec_fn": _hear_ctrl_c}
    with subprocess.Popen(start, **started, **own) as process:
        while len([run for run in store.all() if len(store.get(run.id).rounds) > 2]) < 2:
            time.sleep(0.2)
            assert process.poll() is None
        os.killpg(process.pid, signal.SIGINT)
        said = json.loads(process.communicate(timeout=120)[0])
    assert (process.returncode, said["exit_code"], said["status"]) == (130, 130, "interrupted")
    states = [cell["status"] for cell in said["cells"]]
    assert states == ["interrupted", "interrupted", "left", "left"]
    stopped = {run.id: len(store.get(run.id).rounds) for run in store.all()}
    assert all(2 < rounds < 1000 for rounds in stopped.values())
    done = subprocess.run(start, **started, timeout=500, check=False)
    assert done.returncode == 0, done.stderr
    found = {run.id: len(store.get(run.id).rounds) for run in store.all()}
    assert list(found.values()) == [1000] * 4
    assert set(stopped) <= set(found)


def _hear_ctrl_c():
    signal.signal(signal.SIGINT, signal.default_int_handler)
