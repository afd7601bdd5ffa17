"""The commands, called in process: what they print, where, and how they end."""

import json
import os
import subprocess
import sys
from pathlib import Path

import pytest

from fedsim.cli._app import main

QUICK = ["engine.grid=inprocess", "rounds.count=2", "partition.clients=4", "model.name=linear"]


@pytest.fixture
def cli(capsys, monkeypatch, tmp_path):
    """Run a command line as `main` does; returns (exit code, stdout, stderr)."""
    monkeypatch.chdir(tmp_path)
    monkeypatch.setenv("FEDSIM_RUNS", str(tmp_path / "runs"))

    def call(*arguments):
        monkeypatch.setattr("sys.argv", ["fedsim", *arguments])
        with pytest.raises(SystemExit) as info:
            main()
        output = capsys.readouterr()
        return info.value.code or 0, output.out, output.err

    return call


def last_json(text):
    return json.loads(text.splitlines()[-1])


def test_a_run_prints_its_report_last_and_its_progress_elsewhere(cli, tmp_path):
    code, out, err = cli("run", *QUICK)
    assert code == 0
    report = out.splitlines()[-1]
    assert report.startswith(str(tmp_path / "runs"))
    assert report.endswith("/report.html")
    assert "test/accuracy" in out
    assert "round 2/2" in err
    assert "round" not in out.splitlines()[0]


def test_json_is_one_object_on_stdout_and_nothing_else(cli):
    code, out, _ = cli("run", "digits", *QUICK, "--json")
    assert code == 0
    assert len(out.splitlines()) == 1
    found = last_json(out)
    assert found["status"] == "finished"
    assert found["rounds"] == 2
    assert len(found["model_sha256"]) == 64


def test_everything_one_does_with_runs(cli, tmp_path):
    first = last_json(cli("run", *QUICK, "--json")[1])
    second = last_json(cli("run", *QUICK, "optimizer.lr=0.02", "--json")[1])
    listed = last_json(cli("runs", "list", "--json")[1])["runs"]
    assert [run["id"] for run in listed] == [first["run"], second["run"]]
    assert first["run"] in cli("runs", "list")[1]
    shown = cli("runs", "show", "last")[1]
    assert second["run"] in shown
    assert "lr = 0.02" in shown
    compared = last_json(cli("runs", "compare", first["run"], second["run"], "--json")[1])
    assert compared["configuration"] == {"optimizer.lr": {"a": 0.1, "b": 0.02}}
    assert compared["code"] == compared["data"] == compared["machine"] == {}
    assert compared["results"]["model_sha256"]["a"] == first["model_sha256"]
    assert "optimizer.lr" in cli("runs", "compare", first["run"], second["run"])[1]
    code, out, _ = cli("runs", "export", first["run"], str(tmp_path / "out"), "--format", "csv")
    assert code == 0
    assert (tmp_path / "out" / "rounds.csv").read_text().count("\n") == 3
    assert str(tmp_path / "out" / "clients.csv") in out
    assert cli("runs", "export", first["run"], "x", "--format", "xls")[0] == 2
    assert cli("runs", "delete", first["run"], "--yes")[0] == 0
    assert cli("runs", "show", first["run"])[0] == 2
    assert last_json(cli("report", "last", "--json")[1])["run"] == second["run"]


def test_deleting_asks_first(cli, monkeypatch):
    import io

    run = last_json(cli("run", *QUICK, "--json")[1])["run"]
    monkeypatch.setattr("sys.stdin", io.StringIO("n\n"))
    assert cli("runs", "delete", run)[0] == 1
    assert cli("runs", "show", run)[0] == 0


def test_all_mistakes_at_once_and_exit_2(cli):
    code, out, err = cli("run", "roundz.count=3", "optimizer.lr=-1", "strategy.name=fedadm")
    assert code == 2
    assert out == ""
    assert "the configuration has 3 problems" in err
    assert "Did you mean 'rounds'?" in err
    assert "accepted  a number > 0" in err
    assert "Did you mean 'fedadam'?" in err
    assert "Traceback" not in err


def test_errors_as_json(cli):
    code, out, _ = cli("run", "optimizer.lr=-1", "--json")
    found = last_json(out)
    assert code == found["exit_code"] == 2
    assert found["status"] == "error"
    assert found["problems"][0]["path"] == "optimizer.lr"
    assert found["problems"][0]["value"] == -1


def test_exit_codes(cli, tmp_path):
    assert cli("resume", "nobody")[0] == 2
    assert cli("run", "nothing-like-it")[0] == 2
    assert cli("run", "--nonsense")[0] == 2
    assert cli("run", "mnist-is-no-experiment.toml")[0] == 2
    code, _, err = cli("run", *QUICK, "--runs", "/proc/nowhere")
    assert code == 3
    assert "--runs" in err
    empty = str(tmp_path / "empty")
    table = tmp_path / "holes.csv"
    table.write_text("a,y\n1,0\n,1\n" * 20)
    code, _, err = cli("run", *QUICK, f"data.path={table}", "data.target=y")
    assert code == 2
    assert "data.missing=drop" in err
    missing = cli("run", *QUICK, "data.path=none.csv", "data.target=y", "--data-dir", empty)
    assert missing[0] == 3


def test_plan_trains_nothing_and_counts(cli, tmp_path):
    code, out, _ = cli("plan", "digits", "model.name=linear", "rounds.count=7", "--json")
    assert code == 0
    found = last_json(out)
    assert found["parameters"] == 650
    assert found["bytes_down"] == 650 * 4 * 20 * 7
    assert found["estimated_seconds"] > 0
    assert not (tmp_path / "runs").exists()
    assert "nothing was trained" in cli("plan", "digits")[1]


def test_plan_of_a_million_clients(cli):
    found = last_json(cli("plan", "synthetic-million", "--json")[1])
    assert found["clients"] == 1_000_000
    assert found["cohort"] == 100


def test_ones_own_table_in_one_line(cli, tmp_path):
    rows = [f"{20 + i % 60},{100 + i % 37},{'ABC'[i % 3]},{int(i % 60 > 30)}" for i in range(300)]
    (tmp_path / "patients.csv").write_text("\n".join(["age,pressure,hospital,outcome", *rows]))
    own = ["data.path=patients.csv", "data.target=outcome", "partition.by=hospital"]
    code, out, err = cli("run", *own, "engine.grid=inprocess", "rounds.count=10", "--json")
    assert code == 0, err
    found = last_json(out)
    assert "patients" in found["run"]
    assert found["metrics"]["test/accuracy"] > 0.9
    shown = last_json(cli("runs", "show", "last", "--json")[1])["run"]
    assert shown["partition"]["client_names"] == ["A", "B", "C"]


def test_new_makes_something_that_runs(cli, tmp_path):
    assert cli("new", "mine")[0] == 0
    assert (tmp_path / "mine" / "model.py").exists()
    code, out, _ = cli(
        "run", "mine/experiment.toml", "engine.grid=inprocess", "rounds.count=1", "--json"
    )
    assert code == 0
    assert "mine" in last_json(out)["run"]
    code, _, err = cli("new", "mine")
    assert code == 2
    assert "nothing is overwritten" in err


def test_a_broken_model_of_ones_own_is_explained(cli, tmp_path):
    (tmp_path / "wrong.py").write_text("def build():\n    return 3\n")
    for name, reason in (
        ("wrong:build", "nn.Module"),
        ("wrong:nothing", "nothing"),
        ("no_such:x", "no_such"),
    ):
        code, _, err = cli("run", *QUICK, f"model.name={name}")
        assert code == 2, err
        assert reason in err


def test_explain(cli):
    code, out, _ = cli("explain", "fedadam")
    assert code == 0
    assert "Algorithm 2" in out
    assert "beta1" in out
    assert "a number >= 0 and < 1" in out
    assert "[strategy]" in out
    assert cli("explain", "fedadm")[0] == 2
    assert len(last_json(cli("explain", "sgd", "--json")[1])["parts"]) == 2


def test_data(cli, data_dir):
    listed = last_json(cli("data", "list", "--json", "--data-dir", str(data_dir))[1])["data"]
    assert {entry["name"] for entry in listed} >= {"digits", "mnist", "adult", "table"}
    assert all(entry["available"] for entry in listed)
    assert "zalando" in cli("data", "show", "fashion-mnist")[1]
    code, out, _ = cli("data", "fetch", "heart-disease", "--data-dir", str(data_dir))
    assert code == 0
    assert "processed.cleveland.data" in out
    assert cli("data", "show", "mnsit")[0] == 2


def test_doctor(cli):
    code, out, _ = cli("doctor", "--json")
    checks = {check["name"]: check for check in last_json(out)["checks"]}
    assert code == 0, checks
    assert checks["Python"]["status"] == checks["ray"]["status"] == "ok"
    assert {"cores", "memory", "disk", "shared memory", "ports", "CUDA", "runs folder"} <= set(
        checks
    )
    code, _, err = cli("doctor", "--runs", "/proc/nowhere/runs")
    assert code == 3
    assert "runs folder" in err


def test_version_and_help(cli):
    assert cli("--version")[1].startswith("fedsim 0.")
    assert "resume" in cli("--help")[1]


@pytest.mark.parametrize("shell", ["bash", "zsh", "fish"])
def test_completion_scripts(shell):
    command = [Path(sys.executable).parent / "fedsim"]
    environment = {**os.environ, "_FEDSIM_COMPLETE": f"source_{shell}"}
    done = subprocess.run(command, env=environment, capture_output=True, text=True, check=True)
    assert "_FEDSIM_COMPLETE" in done.stdout
    assert shell in done.stdout or "complete" in done.stdout


def test_completed_names(cli):
    from fedsim.cli._complete import experiment_names, part_names, run_names

    assert "digits" in experiment_names("di")
    assert part_names("fedad") == ["fedadagrad", "fedadam"]
    run = last_json(cli("run", *QUICK, "--json")[1])["run"]
    assert run_names("2") == [run]
