"""`fedsim privacy ledger`: what it prints for people and programs, and how it ends."""

import hashlib
import json
from pathlib import Path

import pytest

from fedsim.cli._app import main
from fedsim.errors import BudgetExceededError
from fedsim.privacy import accounting
from fedsim.privacy.budget import Budget
from fedsim.privacy.events import Release, Sampling
from fedsim.privacy.ledger import Entry, Ledger, Spend, ledger_path
from fedsim.store import RunStore, append_receipt

SHA = 64 * "a"
RELEASE = Release("gaussian", 1.0, Sampling("poisson", 0.08))
CAP = Budget(3.0, 1e-5)


@pytest.fixture
def store(tmp_path, monkeypatch):
    monkeypatch.setenv("FEDSIM_RUNS", str(tmp_path / "runs"))
    return RunStore()


@pytest.fixture
def cli(capsys, monkeypatch):
    """Run a command line as `main` does; returns (exit code, stdout, stderr)."""

    def call(*arguments):
        monkeypatch.setattr("sys.argv", ["fedsim", "privacy", "ledger", *arguments])
        with pytest.raises(SystemExit) as info:
            main()
        output = capsys.readouterr()
        return info.value.code or 0, output.out, output.err

    return call


def new_run(store, name="digits", privacy=("user", 3.0)):
    unit, epsilon = privacy
    config = {"name": name, "privacy": {"unit": unit, "epsilon": epsilon, "delta": 1e-5}}
    return store.create(name, config, {}, {}, {"data_sha256": SHA})


def spend(store, run, rounds, *, unit="user", dataset="digits", clients=None):
    """Admit rounds, and keep the receipts as a run does."""
    ledger = Ledger(ledger_path(store.root, dataset, SHA, unit))
    for number in rounds:
        time = f"2026-01-01T00:00:{number:02d}+00:00"
        spends = (Spend(RELEASE, clients),)
        entry = Entry(run, number, unit, dataset, time, "zero-out", spends)
        append_receipt(store, ledger.admit(entry, CAP))
    return ledger


def found(output):
    assert output.count("\n") == 1
    return json.loads(output)["ledgers"]


def test_a_run_and_what_it_shares_its_budget_with(store, cli):
    first, second = new_run(store), new_run(store, "again")
    spend(store, first, [1, 2, 3])
    ledger = spend(store, second, [1, 2, 2])
    code, output, _ = cli(second, "--json")
    assert code == 0
    (shown,) = found(output)
    assert shown["path"] == str(ledger.path)
    assert (shown["dataset"], shown["unit"], shown["adjacency"]) == ("digits", "user", "zero-out")
    assert shown["entries"] == 6
    assert shown["verified"] is True
    assert shown["hash"] == ledger.verify().hash
    six = accounting.epsilon([Release("gaussian", 1.0, RELEASE.sampling, 6)], 1e-5, "zero-out")
    assert shown["epsilon"] == pytest.approx(six, abs=1e-9)
    assert shown["cap"] == {"epsilon": 3.0, "delta": 1e-5}
    assert shown["remaining"] == pytest.approx(3.0 - six, abs=1e-9)
    assert shown["rounds_left"] == 4  # of ten: see tests/privacy
    three = accounting.epsilon([Release("gaussian", 1.0, RELEASE.sampling, 3)], 1e-5, "zero-out")
    assert [(r["run"], r["entries"], r["rounds"], r["repeated"]) for r in shown["runs"]] == [
        (first, 3, [1, 3], 0),
        (second, 3, [1, 2], 1),
    ]
    assert [r["epsilon"] for r in shown["runs"]] == pytest.approx([three, three], abs=1e-9)
    assert shown["runs"][0]["first"] == "2026-01-01T00:00:01+00:00"
    assert shown["runs"][0]["last"] == "2026-01-01T00:00:03+00:00"
    assert found(cli("--dataset", "digits", "--unit", "user", "--json")[1]) == [shown]
    assert found(cli("last", "--json")[1]) == [shown]


def test_people_get_a_table(store, cli):
    run = new_run(store)
    ledger = spend(store, run, [1, 2, 3])
    with ledger.path.open("ab") as file:
        file.write(b'{"entry":{"adj')
    spend(store, run, [4])
    code, output, _ = cli("--dataset", "digits")
    assert code == 0
    text = " ".join(output.split())
    assert "data set digits, unit user, adjacency zero-out" in text
    assert "entries 4, verified" in text
    assert "spent epsilon 1." in text
    assert "cap epsilon 3 at delta 1e-05" in text
    assert "more rounds like the last 6" in text
    assert f"{run} running user 1-4 4 2026-01-01T00:00:01 2026-01-01T00:00:04" in text
    assert "unfinished, nothing was released" in text


def test_clients_are_shown_coarsely(store, cli):
    run = new_run(store, privacy=("example", 3.0))
    spend(store, run, range(1, 9), unit="example", clients=(1, 2))
    spend(store, run, [9], unit="example", clients=(2, 5))
    (shown,) = found(cli(run, "--json")[1])
    assert shown["clients"]["most"] == [2.25, 3.0]
    assert shown["clients"]["least"][1] <= 1.5
    assert shown["rounds_left"] == 1
    assert "by client" in cli(run)[1]


def test_a_broken_ledger_ends_with_1_and_names_the_line(store, cli):
    run = new_run(store)
    ledger = spend(store, run, [1, 2, 3])
    lines = ledger.path.read_bytes()
    ledger.path.write_bytes(lines.replace(b'"round":2', b'"round":7'))
    for arguments in ((run,), ("--dataset", "digits"), ()):
        code, output, error = cli(*arguments)
        assert code == 1
        assert output == ""
        assert f"{ledger.path}, line 2: breaks the hash chain" in error
    code, output, _ = cli(run, "--json")
    assert code == 1
    assert json.loads(output)["exit_code"] == 1
    ledger.path.unlink()
    ledger.path.with_suffix(".head").unlink()
    code, _, error = cli(run)  # the run still knows what it wrote
    assert code == 1
    assert "line 1: is missing: a run knows of it" in error


def test_a_forged_ledger_is_found_by_what_runs_know(store, cli):
    run = new_run(store)
    ledger = spend(store, run, [1, 2])
    files = (ledger.path, ledger.path.with_suffix(".head"))
    for file in files:
        file.unlink()
    entry = Entry(run, 1, "user", "digits", "2027", "zero-out", (Spend(RELEASE),))
    for _ in range(2):
        Ledger(ledger.path).admit(entry)
    code, _, error = cli("--dataset", "digits")
    assert code == 1
    assert "line 1: is not the one that a run knows" in error


def test_a_deleted_run_stays_in_the_ledger(store, cli):
    run = new_run(store)
    spend(store, run, [1, 2])
    store.delete(run)
    (shown,) = found(cli("--dataset", "digits", "--json")[1])
    assert [(r["run"], r["status"]) for r in shown["runs"]] == [(run, "deleted")]
    assert shown["cap"] is None
    assert cli("--dataset", "digits")[0] == 0


def test_a_run_that_died_before_it_kept_its_receipt_is_found(store, cli):
    run = new_run(store)
    path = ledger_path(store.root, "digits", SHA, "user")
    Ledger(path).admit(Entry(run, 1, "user", "digits", "2026", "zero-out", (Spend(RELEASE),)))
    (shown,) = found(cli(run, "--json")[1])
    assert shown["entries"] == 1
    other = new_run(store, "other")
    assert found(cli(other, "--json")[1]) == []
    assert "has spent nothing" in cli(other)[1]


def test_a_ledger_without_a_whole_entry(store, cli):
    spend(store, new_run(store), [1])
    empty = ledger_path(store.root, "empty", SHA, "user")
    empty.write_bytes(b'{"entry":')
    start = hashlib.sha256(b"fedsim privacy ledger 1").hexdigest()
    empty.with_suffix(".head").write_text(f"{0:012d} {start}\n")
    (shown,) = found(cli("--dataset", "empty", "--json")[1])
    assert shown["entries"] == 0
    assert "0, verified" in cli("--dataset", "empty")[1]


def test_all_ledgers_of_a_store(store, cli):
    assert "has spent nothing" in cli()[1]
    run = new_run(store)
    spend(store, run, [1])
    spend(store, run, [1], unit="example", clients=(0,))
    spend(store, run, [1], dataset="heart disease")
    names = [(each["dataset"], each["unit"]) for each in found(cli("--json")[1])]
    assert names == [("digits", "example"), ("digits", "user"), ("heart disease", "user")]
    assert len(found(cli("--dataset", "heart disease", "--json")[1])) == 1
    assert len(found(cli("--unit", "user", "--json")[1])) == 2
    assert len(found(cli(run, "--json")[1])) == 3


@pytest.mark.parametrize(
    ("arguments", "message"),
    [
        (["nobody"], "no run 'nobody'"),
        (["--dataset", "digit"], "Did you mean 'digits'"),
        (["--unit", "users"], "Did you mean 'user'"),
        (["last", "--unit", "user"], "not together with a run"),
    ],
)
def test_mistakes_end_with_2(store, cli, arguments, message):
    spend(store, new_run(store), [1])
    code, output, error = cli(*arguments)
    assert code == 2
    assert output == ""
    assert message in error


def test_what_the_ledger_says_remains_is_what_still_fits(store, cli):
    run = new_run(store)
    spend(store, run, range(1, 6))
    (shown,) = found(cli(run, "--json")[1])
    spend(store, run, range(6, 6 + shown["rounds_left"]))
    assert found(cli(run, "--json")[1])[0]["rounds_left"] == 0
    with pytest.raises(BudgetExceededError):
        spend(store, run, [50])
    assert Path(shown["path"]).read_bytes().count(b"\n") == 10
