import json

import pytest

from fedsim.cli._app import main

SMALL = ["--clients", "2000", "--cohort", "100", "--rounds", "40", "--delta", "1e-5"]


@pytest.fixture
def cli(capsys, monkeypatch):
    def call(*arguments):
        monkeypatch.setattr("sys.argv", ["fedsim", "privacy", "plan", *arguments])
        with pytest.raises(SystemExit) as info:
            main()
        output = capsys.readouterr()
        return info.value.code or 0, output.out, output.err

    return call


def test_a_table(cli):
    code, out, err = cli(*SMALL, "--noise-multiplier", "1")
    assert (code, err) == (0, "")
    assert "epsilon was found" in out
    assert "without amplification" in out
    assert "wrongly positive in 1%" in out
    assert "<" in out
    assert "80 <" in out


def test_json(cli):
    code, out, _ = cli(*SMALL, "--sampling", "poisson", "--noise-multiplier", "1", "--json")
    assert code == 0
    assert len(out.splitlines()) == 1
    found = json.loads(out)
    assert found["status"] == "ok"
    assert found["found"] == "epsilon"
    assert found["epsilon"] == found["spent"] < found["unamplified"]
    assert {"changed", "epsilon", "rounds", "cohort", "noise_multiplier"} == set(
        found["alternatives"][0]
    )


def test_what_was_given_up_is_said(cli):
    options = ("--sampling", "poisson", "--rounds", "1", "--clients", "9", "--cohort", "3")
    code, out, _ = cli(*options, "--noise-multiplier", "1e-5")
    assert code == 0
    assert "too wide" in out


def test_an_example_of_a_client(cli):
    options = ("--unit", "example", "--clients", "50", "--sampling", "all", "--rounds", "100",
               "--noise-multiplier", "1", "--delta", "1e-5")  # fmt: skip
    batches = ("--examples", "390", "--batch-size", "30", "--local-steps", "13")
    code, out, _ = cli(*options, *batches)
    assert code == 0
    assert "21.48" in out
    assert "13 a round" in out
    assert "100 rounds of one client" in out


def test_local_without_delta(cli):
    options = ("--unit", "local", "--clients", "100", "--rounds", "4", "--sampling", "cyclic",
               "--cohort", "50", "--noise-multiplier", "8")  # fmt: skip
    code, out, _ = cli(*options, "--json")
    assert code == 0
    found = json.loads(out)
    assert found["delta"] == 100**-1.1
    assert found["participations"] == 2


@pytest.mark.parametrize(
    ("arguments", "parts"),
    [
        (["--clients", "0", "--noise-multiplier", "nan"],
         ["--clients = 0", "--noise-multiplier = nan", "above 0", "1 or more"]),
        ([*SMALL, "--unit", "users", "--epsilon", "3"], ["--unit = 'users'", "user, local"]),
        ([*SMALL, "--sampling", "shuffle", "--epsilon", "3"], ["'shuffle'", "cyclic"]),
        ([*SMALL], ["--epsilon", "--noise-multiplier", "all but one"]),
        ([*SMALL, "--epsilon", "1", "--noise-multiplier", "1"], ["All four are given"]),
        (["--clients", "10", "--cohort", "11", "--rounds", "1", "--epsilon", "1"],
         ["--cohort = 11", "at most the 10 clients"]),
        (["--clients", "10", "--cohort", "9", "--rounds", "1", "--epsilon", "1",
          "--sampling", "all"], ["all 10 clients", "cyclic"]),
        ([*SMALL, "--delta", "1", "--epsilon", "1"], ["--delta = 1.0", "between 0 and 1"]),
        ([*SMALL, "--epsilon", "1", "--examples", "3"], ["--examples = 3", "unit example only"]),
        ([*SMALL, "--unit", "example", "--epsilon", "1"], ["--batch-size", "--local-steps"]),
        ([*SMALL, "--unit", "example", "--epsilon", "1", "--examples", "9", "--batch-size", "10",
          "--local-steps", "1"], ["at most the 9 examples"]),
        (["--clients", "100", "--cohort", "10", "--noise-multiplier", ".3", "--epsilon", ".01",
          "--delta", "1e-9"], ["--epsilon = 0.01", "1 round"]),
    ],
)  # fmt: skip
def test_what_is_wrong_is_named(cli, arguments, parts):
    code, out, err = cli(*arguments)
    assert code == 2
    assert out == ""
    for part in parts:
        assert part in err


def test_noise_by_clients(cli):
    noisy = [*SMALL, "--noise-multiplier", "1", "--mechanism", "skellam", "--dimension", "5000"]
    code, out, err = cli(*noisy)
    assert (code, err) == (0, "")
    assert "skellam, by clients, 20 bits: that of 135 counts" in out
    assert "Rényi" in out
    code, out, _ = cli(*noisy, "--bits", "16", "--json")
    assert (code, json.loads(out)["by_clients"]["bits"]) == (0, 16)


@pytest.mark.parametrize(
    ("arguments", "part"),
    [
        (["--mechanism", "skellam"], "--dimension"),
        (["--dimension", "10"], "--dimension"),
        (["--mechanism", "skellam", "--dimension", "10", "--bits", "13"], "--bits"),
        (["--mechanism", "skellam", "--dimension", "10", "--sampling", "poisson"], "--sampling"),
        (["--mechanism", "skellam", "--dimension", "10", "--unit", "local"], "--mechanism"),
        (["--mechanism", "laplace"], "--mechanism"),
    ],
)
def test_noise_by_clients_that_cannot_be(cli, arguments, part):
    code, _, err = cli(*SMALL, "--noise-multiplier", "1", *arguments)
    assert code == 2
    assert part in err
