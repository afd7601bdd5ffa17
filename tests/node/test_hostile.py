"""Servers that lie: each is refused with a reason, and nothing leaves the node."""

import json
from dataclasses import replace
from datetime import UTC, datetime, timedelta

import pytest
import torch

from fedsim.deployment import make_client_app
from fedsim.engine.blocks import Handlers, Population
from fedsim.engine.inprocess import InProcessGrid
from fedsim.errors import BudgetExceededError, RunFailedError, SetupError
from fedsim.messages import Train
from fedsim.node import guard
from fedsim.node.approval import SIGNATURE, TEXT, RefusedError, sign
from fedsim.node.audit import AuditLog
from fedsim.node.experiment import experiment_text
from fedsim.rounds import number_format, run_rounds, start_state


class Asked:
    """One node, and what a server may ask of it."""

    def __init__(self, hospitals, **sections):
        self.hospitals, self.folder = hospitals, hospitals.folders[1]
        self.config = hospitals.config(**sections)
        self.server = hospitals.server(self.config)

    def order(self, number=1, **changes):
        honest = Train(
            self.server.initial,
            number,
            self.server.lr_factor(number),
            number_format(self.server),
        )
        return replace(honest, **changes)

    def ask(self, number=1, *, run="1", kind="train", config=None, order=None, **changes):
        text = experiment_text(config or self.config)
        request = guard.Request(
            kind=kind,
            run=run,
            text=text,
            signature=self.hospitals.sign(text),
            client=1,
            clients=3,
            order=order or self.order(number),
        )
        return guard.admit(self.folder, replace(request, **changes), {})

    def log(self):
        return [link.entry for link in AuditLog(self.folder / "audit.jsonl").links()]


def refused(asked, match, **how):
    """Nothing is written into the ledger for what is refused, and the reason is in the log."""
    before = {path: path.read_bytes() for path in (asked.folder / "ledger").glob("*")}
    with pytest.raises(RefusedError, match=match) as caught:
        asked.ask(**how)
    assert {p: p.read_bytes() for p in (asked.folder / "ledger").glob("*")} == before
    assert asked.log()[-1].decision == "refused"
    return str(caught.value)


@pytest.fixture
def asked(hospitals):
    return Asked(hospitals)


def test_an_honest_server_is_answered_and_that_is_in_the_log(asked):
    admitted = asked.ask()
    (record,) = asked.log()
    assert (record.decision, record.kind, record.round, record.approver) == (
        "allowed", "train", 1, "anna",
    )  # fmt: skip
    assert record.rows == 20  # four fifths of 25
    places = json.loads(admitted.text)["places"]
    assert places["own"] == {
        "path": str(asked.folder / "patients.csv"), "client": 1, "most_rows": 1000,
    }  # fmt: skip
    guard.answered(admitted, 123)
    assert asked.log()[-1].sent_bytes == 123


def test_a_key_for_masks_is_used_where_the_experiment_that_was_signed_has_masks(asked):
    for name in ("identity.key", "identities.json"):
        (asked.folder / name).write_text("")
    assert "identity-key" not in asked.ask().node_config
    config = asked.hospitals.config(secure_sum={"name": "secagg", "min_cohort": 3})
    server = asked.hospitals.server(config)
    order = Train(server.initial, 1, 1.0, number_format(server))
    found = asked.ask(kind="train.sa_masked", config=config, order=order).node_config
    assert found["identity-key"] == str(asked.folder / "identity.key")
    assert (found["min-cohort"], found["max-sessions"]) == (2, 8)


def test_levels_of_a_cut_have_an_end(hospitals):
    hospitals.policy(maximum_rounds=2)
    asked = Asked(hospitals)
    text = experiment_text(asked.config)
    request = guard.Request("query.cut_masked", "1", text, hospitals.sign(text), 1, 3)
    with pytest.raises(RefusedError, match="has no cut that clients agree on"):
        guard.admit(asked.folder, request)
    schema = {
        "age": {"role": "quasi", "hierarchy": {
            "name": "intervals", "min": 0, "max": 99, "widths": [10]}},
        "ill": {"role": "sensitive"},
    }  # fmt: skip
    config = hospitals.config(
        anonymization={"name": "sets", "columns": schema, "cut": "shared", "compare_raw": False},
        secure_sum={"name": "secagg"},
    )
    text = experiment_text(config)
    request = replace(request, text=text, signature=hospitals.sign(text))
    for _ in range(2):
        guard.admit(asked.folder, request)
    assert asked.log()[-1].rows == 20
    with pytest.raises(RefusedError, match="maximum_rounds = 2"):
        guard.admit(asked.folder, replace(request, run="2"))


def test_unsigned_changed_and_strangers_experiments(asked):
    refused(asked, "not signed", signature="")
    text = experiment_text(asked.config)
    refused(asked, "none of this node's approvers", signature=sign(bytes(32), text))
    refused(asked, "its text was changed", text=text.replace('"count": 2', '"count": 3'))


def test_an_approver_whose_time_is_over(asked):
    asked.hospitals.approve(not_after=datetime.now(UTC) - timedelta(days=1))
    refused(asked, "whose key counts until")


@pytest.mark.parametrize("name", ["policy.toml", "approvers.toml"])
def test_without_a_policy_or_approvers_all_is_refused_and_the_reason_stays_here(name, asked):
    for content in (None, "minimum_cohort = ", "nonsense = true"):
        path = asked.folder / name
        path.unlink() if content is None else path.write_text(content)
        told = refused(asked, "not valid")
        assert str(asked.folder) not in told
        assert asked.log()[-1].reason
        path.write_text("")


def test_rounds_that_the_experiment_has_not(asked):
    for number in (0, 3, -1, 10**9):
        refused(asked, f"round {number}", order=replace(asked.order(), round=number))


def test_a_round_again_and_again(asked):
    for _ in range(3):  # maximum_repeats = 2
        asked.ask(1)
    refused(asked, "answered 3 times already; maximum_repeats = 2")
    asked.ask(2)


def test_a_restart_and_another_name_of_the_run_change_nothing(asked):
    for run in "abc":
        asked.ask(1, run=run)
    refused(asked, "answered 3 times already", run="d")


def test_more_answers_than_the_policy_has(hospitals):
    hospitals.policy(maximum_rounds=3)
    asked = Asked(hospitals)
    for number in (1, 2, 1):
        asked.ask(number)
    refused(asked, "answered 3 times already; maximum_rounds = 3", number=2)


@pytest.mark.parametrize(
    "changes",
    [
        {"form": None},
        {"lr_factor": 1.5},
        {"model": torch.zeros(3)},
    ],
    ids=["no format", "another learning rate", "another model"],
)
def test_orders_that_do_not_follow_from_the_experiment(changes, asked):
    refused(asked, "experiment", order=asked.order(**changes))


def test_another_clipping_norm_or_none(hospitals):
    asked = Asked(
        hospitals,
        privacy={"unit": "user", "noise_multiplier": 20.0, "delta": 1e-6, "clipping_norm": 0.5},
    )
    honest = asked.order().form
    assert honest.max_norm == 0.5
    for form in (None, replace(honest, max_norm=None), replace(honest, max_norm=50.0)):
        refused(asked, "clipped to", order=asked.order(form=form))
    asked.ask()


def test_a_message_without_an_order_or_of_an_unknown_kind(asked):
    for kind in ("train", "evaluate", "train.sa_masked"):
        text = experiment_text(asked.config)
        request = guard.Request(kind, "1", text, asked.hospitals.sign(text), 1, 3)
        with pytest.raises(RefusedError, match="nothing to work on"):
            guard.admit(asked.folder, request)
    refused(asked, "not known to this node", kind="query.give_me_everything")


def test_metrics_in_the_clear_only_where_allowed(asked):
    asked.ask(kind="evaluate", order=asked.order(form=None))
    asked.hospitals.policy(evaluation=False)
    refused(asked, "no metrics on this node's rows", kind="evaluate", order=asked.order(form=None))


def test_other_columns_than_are_allowed_are_not_read(asked, monkeypatch):
    declared = dict(asked.hospitals.declared)
    declared["columns"] = {**declared["columns"], "secret": {"mean": 0.0, "std": 1.0}}
    other = asked.hospitals.config(data={"declared": declared})
    (asked.folder / "patients.csv").unlink()  # so that reading anything would fail otherwise
    assert "columns secret are asked for" in refused(asked, "data: columns", config=other)


def test_what_is_wrong_with_the_rows_stays_on_the_node(asked):
    path = asked.folder / "patients.csv"
    path.write_text(path.read_text().replace("yes", "SECRET", 1))
    told = refused(asked, "own rows")
    assert "SECRET" not in told
    assert "SECRET" not in asked.log()[-1].reason


def test_only_as_many_rows_as_are_allowed(hospitals):
    hospitals.policy(maximum_rows=10)
    asked = Asked(hospitals)
    asked.ask()
    assert asked.log()[-1].rows == 8
    path = asked.folder / "patients.csv"
    lines = path.read_text().splitlines()
    path.write_text("\n".join([*lines[:11], "broken" * 3]))  # what comes later is not looked at


def test_a_log_that_cannot_be_kept_stops_everything(asked):
    asked.ask()
    path = asked.folder / "audit.jsonl"
    path.write_bytes(path.read_bytes().replace(b'"anna"', b'"hans"'))
    with pytest.raises(Exception, match="breaks the hash chain"):
        asked.ask(2)
    path.unlink()
    path.mkdir()
    with pytest.raises(SetupError, match="the node answers nothing"):
        asked.ask(2)


def local(noise):
    return {"unit": "local", "noise_multiplier": noise, "delta": 1e-6}


def test_a_budget_is_the_nodes_whatever_runs_are_called(hospitals):
    hospitals.policy(maximum_epsilon=2.0, maximum_rounds=100, maximum_repeats=50)
    asked = Asked(hospitals, privacy=local(3.0), rounds={"count": 20})
    done = 0
    while done < 20:
        try:
            asked.ask(done + 1)
        except BudgetExceededError as error:
            told = str(error)
            break
        done += 1
    assert 1 <= done < 20
    assert "beyond its maximum_epsilon = 2 " in told
    for noise, name in ((3.0, "another"), (1.0, "wards")):
        other = Asked(hospitals, privacy=local(noise), rounds={"count": 20}, name=name)
        with pytest.raises(BudgetExceededError):
            other.ask(1, run="99")
    assert asked.log()[-1].decision == "refused"


def test_a_node_without_a_folder_takes_nothing_that_was_approved(hospitals):
    """A SuperNode that was started by hand has no policy: it must not do as if it had one."""
    config = hospitals.config()
    server, text = hospitals.server(config), experiment_text(config)
    population = Population(3, {TEXT: text, SIGNATURE: hospitals.sign(text)})
    grid = InProcessGrid(Handlers(make_client_app()), population)
    rounds = run_rounds(grid, grid.population.nodes, server, start_state(server))
    with pytest.raises(RunFailedError, match="has no folder, so no policy"):
        next(rounds)
