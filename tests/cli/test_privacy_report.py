"""`fedsim privacy report`: where it goes, and how it ends; on runs that really took place."""

import json
import re

import pytest

import fedsim
from fedsim.cli._app import main
from fedsim.errors import BudgetExceededError
from fedsim.store import RunStore

QUICK = ["engine.grid=inprocess", "model.name=linear", "rounds.cohort=10"]
PRIVATE = ["privacy.unit=user", "privacy.noise_multiplier=2", "privacy.clipping_norm=0.5"]


@pytest.fixture
def cli(capsys, monkeypatch, tmp_path):
    """Run a command line as `main` does; returns (exit code, stdout, stderr)."""
    monkeypatch.chdir(tmp_path)
    monkeypatch.setenv("FEDSIM_RUNS", str(tmp_path / "runs"))

    def call(*arguments):
        monkeypatch.setattr("sys.argv", ["fedsim", "privacy", "report", *arguments])
        with pytest.raises(SystemExit) as info:
            main()
        output = capsys.readouterr()
        return info.value.code or 0, output.out, output.err

    return call


def test_a_run_that_its_budget_stops(cli, tmp_path):
    overrides = [*QUICK, *PRIVATE, "rounds.count=6", "privacy.epsilon=1.2", "privacy.delta=0.01"]
    with pytest.raises(BudgetExceededError):
        fedsim.run("digits", overrides, runs=tmp_path / "runs")
    stored = RunStore(tmp_path / "runs").get("last")
    code, output, _ = cli("last", "--format", "json", "--output", "-")
    assert code == 0
    content = json.loads(output)
    (refused,) = content["rounds"]["refused"]
    assert refused["round"] == len(stored.rounds) + 1
    assert content["rounds"]["not_reached"] == [[refused["round"], 6]]
    assert content["rounds"]["finished"] == len(stored.rounds) == content["rounds"]["entries"]
    assert content["budget"]["spent_by_run"] <= 1.2 < content["budget"]["planned"]["epsilon"]
    assert [c["check"] for c in content["checks"] if c["status"] == "fail"] == []
    assert content["mechanism"]["noise_std_of_sum"] == 1.0
    assert content["mechanism"]["denominator"] == 10
    assert cli("last", "--format", "json", "--output", "-")[1] == output


def test_where_it_goes(cli, tmp_path):
    overrides = [*QUICK, *PRIVATE, "rounds.count=1", "privacy.noise=seeded"]
    result = fedsim.run("digits", overrides, runs=tmp_path / "runs")
    code, output, _ = cli(result.run_id)
    assert code == 0
    path = result.folder / "privacy.html"
    assert output == f"{path}\n"
    assert '<h1 class="fail">seeded: not private. Privacy report of run' in path.read_text()
    code, output, _ = cli("last", "--format", "md", "--output", str(tmp_path / "out.md"), "--json")
    assert code == 0
    found = json.loads(output)
    assert found["report"] == str(tmp_path / "out.md")
    assert found["guarantee"]["holds"] is False
    assert (tmp_path / "out.md").read_text().startswith("# seeded: not private")
    code, _, error = cli("last", "--output", str(tmp_path / "missing" / "out.html"))
    assert code == 3
    assert "Choose another place with --output" in error
    assert cli("last", "--format", "pdf")[0] == 2
    assert cli("nobody")[0] == 2


def test_a_run_without_privacy_is_told_what_is_nearest(cli, tmp_path):
    result = fedsim.run("digits", [*QUICK, "rounds.count=1"], runs=tmp_path / "runs")
    code, output, error = cli(result.run_id)
    assert code == 2
    assert output == ""
    assert re.search(r"privacy.unit = 'none'", error)
    assert f"fedsim report {result.run_id}" in error
    assert "privacy.unit=user" in error
