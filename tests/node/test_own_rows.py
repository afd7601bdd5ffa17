"""Nodes with files of their own come to the model of a simulation on the pooled table."""

import json
from datetime import UTC, datetime

import numpy as np
import pandas as pd
import pytest
import torch

from fedsim import config as configuration
from fedsim import data as datasets
from fedsim import keys
from fedsim.clients.app import app as client_app
from fedsim.data import OwnRows, declared_of
from fedsim.data._declare import declare
from fedsim.errors import ConfigError, DataError, MissingDataError, SecAggAborted
from fedsim.node.audit import AuditLog
from fedsim.rounds import run_rounds, start_state

SCHEMA = {
    "age": {
        "role": "quasi",
        "hierarchy": {"name": "intervals", "min": 0, "max": 99, "widths": [10, 50]},
    },
    "sex": {"role": "quasi", "hierarchy": {"name": "categories", "values": ["f", "m"]}},
    "pressure": {"role": "insensitive"},
    "ill": {"role": "sensitive"},
}


def models(records):
    return [record.model_sha256 for record in records]


def test_own_files_give_the_model_of_the_pooled_table(hospitals):
    config = hospitals.config(evaluation={"federated_every": 2})
    found = hospitals.run(config)
    assert [record.lost for record in found] == [0, 0]
    theirs = hospitals.simulated(config)
    assert models(found) == models(theirs)
    assert found[-1].metrics == theirs[-1].metrics
    log = AuditLog(hospitals.folders[2] / "audit.jsonl").links()
    assert [link.entry.decision for link in log] == ["allowed", "answered"] * 3
    assert [link.entry.kind for link in log[::2]] == ["train", "train", "evaluate"]
    assert all(link.entry.sent_bytes > 20 for link in log[1::2])


def test_clients_compute_in_one_thread_whoever_started_the_node(hospitals, monkeypatch):
    seen = []

    def client(message, context):
        seen.append(torch.get_num_threads())
        return client_app(message, context)

    monkeypatch.setattr("fedsim.deployment.client_app", client)
    before = torch.get_num_threads()
    try:
        torch.set_num_threads(3)
        hospitals.run(hospitals.config(rounds={"count": 1}))
        assert set(seen) == {1}
        assert torch.get_num_threads() == 3
    finally:
        torch.set_num_threads(before)


def test_anonymized_rows_of_own_files_do_too(hospitals):
    settings = {"name": "nodes", "columns": SCHEMA, "k": 3, "compare_raw": False}
    config = hospitals.config(anonymization=settings)
    found = hospitals.run(config)
    assert [record.lost for record in found] == [0, 0]
    assert models(found) == models(hospitals.simulated(config))


@pytest.fixture
def directory(hospitals, tmp_path):
    """Identities in the nodes' folders, which their policies now ask for; the server's list."""
    now = datetime.now(UTC).replace(microsecond=0)
    made = keys.init(tmp_path / "keys", profile="standard", now=now, days=90, authority_days=900)
    for own in hospitals.folders:
        keys.add(made, own.name, now=now, days=30)
    for own in hospitals.folders:
        (own / "identity.key").write_bytes((made.node(own.name) / "identity.key").read_bytes())
        (own / "identity.key").chmod(0o600)
        (own / "identities.json").write_bytes(made.identities.read_bytes())
        (own / "ca.crt").write_bytes((made.authority / "ca.crt").read_bytes())
    hospitals.policy(secure_aggregation=True, minimum_cohort=3)
    return made.load_identities().directory


def test_under_masks_with_identities_of_their_own(hospitals, directory):
    config = hospitals.config(secure_sum={"name": "secagg"}, rounds={"count": 1})
    found = hospitals.run(config, directory=directory)
    assert [record.lost for record in found] == [0]
    ideal = hospitals.config(secure_sum={"name": "ideal"}, rounds={"count": 1})
    assert models(found) == models(hospitals.simulated(ideal))
    kinds = [link.entry.kind for link in AuditLog(hospitals.folders[0] / "audit.jsonl").links()]
    assert kinds[::2] == [
        "query.sa_keys",
        "query.sa_shares",
        "train.sa_masked",
        "query.sa_confirm",
        "query.sa_unmask",
    ]


def test_a_cohort_is_counted_among_those_who_sign(hospitals, directory):
    """The server asks fewer than it said: they stop before any of them trains."""
    config = hospitals.config(secure_sum={"name": "secagg"}, rounds={"count": 1})
    grid, server = hospitals.grid(config), hospitals.server(config)
    rounds = run_rounds(
        grid,
        grid.population.nodes,
        server,
        start_state(server),
        lambda number, cohort: cohort[:2],
        directory=directory,
    )
    with pytest.raises(SecAggAborted):
        next(rounds)
    log = AuditLog(hospitals.folders[0] / "audit.jsonl").links()
    assert "train.sa_masked" not in {link.entry.kind for link in log}


def test_what_is_declared_is_what_the_pooled_training_rows_have(hospitals):
    rows = pd.read_csv(hospitals.root / "wards.csv")
    clients = datasets.open_clients(
        hospitals.config().data, hospitals.config().partition, seed=1, holdout=0.0
    )
    x = np.concatenate([clients.train(i).x for i in range(3)]).astype(np.float64)
    declared = declared_of(hospitals.config().data)
    assert declared.names == ("age", "pressure", "sex")
    assert x[:, :2].mean(axis=0) == pytest.approx([0, 0], abs=1e-6)
    assert x[:, :2].std(axis=0) == pytest.approx([1, 1], abs=1e-6)
    assert set(map(tuple, x[:, 2:])) == {(0.0, 1.0), (1.0, 0.0)}
    assert declared.classes == ("no", "yes")
    counts = rows["hospital"].value_counts()
    assert clients.sizes().tolist() == [
        counts[n] - np.ceil(counts[n] / 5) for n in declared.clients
    ]
    assert declared.most_rows == clients.sizes().max()


def test_other_clients_rows_and_other_columns_change_nothing(hospitals):
    data, declared = hospitals.config().data, declared_of(hospitals.config().data)
    own = OwnRows(str(hospitals.folders[1] / "patients.csv"), 1)
    found = datasets.open_clients(data, None, seed=1, holdout=0.0, own=own)
    with pytest.raises(DataError, match="keeps its rows to itself"):
        found.train(0)
    assert len(found.test().y) == 0
    frame = pd.read_csv(own.path)
    frame.assign(secret="x", more=1)[
        ["more", "ill", "secret", "sex", "age", "pressure"]
    ].to_parquet(hospitals.root / "same.parquet")
    again = datasets.open_clients(
        data, None, seed=9, holdout=0.5, own=OwnRows(str(hospitals.root / "same.parquet"), 1)
    )
    assert (found.train(1).x == again.train(1).x).all()
    assert (found.held_out(1).y == again.held_out(1).y).all()
    assert found.sizes().tolist() == [declared.most_rows, 20, declared.most_rows]


@pytest.mark.parametrize(
    ("change", "error", "match"),
    [
        (lambda f: f.assign(ill="perhaps"), DataError, "25 rows have a target"),
        (lambda f: f.drop(columns="sex"), ConfigError, "sex"),
        (lambda f: f.assign(age="old"), DataError, "cannot be read"),
        (lambda f: f.iloc[:4], DataError, "4 usable rows"),
        (lambda f: f.assign(age=None), DataError, "empty cells in: age"),
        (lambda f: pd.concat([f] * 3), DataError, "most_rows"),
    ],
    ids=["class", "column", "type", "few", "empty", "many"],
)
def test_rows_that_do_not_fit_what_is_declared_are_refused(change, error, match, hospitals):
    path = hospitals.folders[1] / "patients.csv"
    change(pd.read_csv(path)).to_csv(path, index=False)
    with pytest.raises(error, match=match):
        datasets.open_clients(
            hospitals.config().data, None, seed=1, holdout=0.0, own=OwnRows(str(path), 1)
        )


@pytest.mark.parametrize(
    ("changes", "match"),
    [
        ({"clients": []}, r"data\.declared\.clients"),
        ({"classes": ["no"]}, r"data\.declared\.classes"),
        ({"classes": ["a", "b", "c"]}, r"data\.declared\.classes"),
        ({"task": "regression"}, r"data\.declared\.classes"),
        ({"rows": [1]}, r"data\.declared\.rows"),
        ({"rows": [1, 2, 99]}, r"data\.declared\.most_rows"),
        ({"column": {}}, "Did you mean 'columns'"),
        ({"columns": {"age": {"mean": 1.0, "std": 0.0}}}, r"columns\.age\.std"),
        ({"columns": {"ill": {"values": ["a"]}}}, "the target is none"),
    ],
)
def test_what_is_declared_wrong_is_said(changes, match, hospitals):
    config = hospitals.config(data={"declared": {**hospitals.declared, **changes}})
    with pytest.raises(ConfigError, match=match):
        datasets.open_clients(config.data, None, seed=1, holdout=0.0, own=OwnRows())


def test_a_file_of_what_is_declared_is_read_into_the_experiment(hospitals, tmp_path):
    (tmp_path / "common.json").write_text(json.dumps(hospitals.declared))
    made = hospitals.settings(declared="common.json")
    found = configuration.load(made, environ={}, folder=tmp_path)
    assert found == hospitals.config()
    with pytest.raises(ConfigError, match=r"data\.declared = 'nowhere\.json'"):
        configuration.load(hospitals.settings(declared="nowhere.json"), environ={})


def test_a_server_may_have_rows_of_its_own_to_test_on(hospitals):
    data = hospitals.config().data
    path = str(hospitals.folders[0] / "patients.csv")
    found = datasets.open_clients(data, None, seed=1, holdout=0.0, own=OwnRows(path, -1))
    assert len(found.test().y) == 40
    with pytest.raises(MissingDataError):
        datasets.open_clients(data, None, seed=1, holdout=0.0, own=OwnRows("no.csv", 1))


def test_numbers_as_targets(hospitals):
    made = hospitals.settings(declared={}, data={"target": "pressure"})
    made["data"]["declared"] = declare(configuration.load(made, environ={}).data, "hospital")
    hospitals.policy(units=["none"])
    config = configuration.load(made, environ={})
    assert models(hospitals.run(config)) == models(hospitals.simulated(config))
