"""Agreeing on a cut by messages: the cut of one who has all rows; the server sees sums alone."""

from dataclasses import replace

import numpy as np
import pytest
from scipy import stats

from fedsim import config as configuration
from fedsim.agreement import Charging
from fedsim.anonymize import shared
from fedsim.config.schema import Engine
from fedsim.cut_messages import COUNTS, MASKED
from fedsim.cut_rounds import agree
from fedsim.engine.inprocess import InProcessGrid
from fedsim.engine.launch import open_grid
from fedsim.errors import BudgetExceededError, ConfigError, DataError
from fedsim.federation import Places
from fedsim.privacy.accounting import epsilon
from fedsim.privacy.budget import Budget
from fedsim.privacy.events import Release
from fedsim.privacy.ledger import Ledger
from fedsim.privacy.noise import Stream
from fedsim.secure_messages import KINDS, read_answer


class Recording(InProcessGrid):
    """A grid that writes down everything the server receives."""

    def __init__(self, *given):
        InProcessGrid.__init__(self, *given)
        self.seen = []

    def scatter(self, contents, kind, **more):
        for reply in InProcessGrid.scatter(self, contents, kind, **more):
            self.seen.append((kind, reply.metadata.src_node_id - 1, *read_answer(reply.content)))
            yield reply


def expected_of(own):
    """The cut that follows from the sums of all tables, without any message."""
    cut, parts = own.sharing.start(), own.tables()
    while cut.open:
        cut = shared.grow(cut, sum(shared.counts(cut, part) for part in parts), parts[0])
    return cut


@pytest.mark.parametrize(
    ("secure", "k_over", "how"),
    [
        ("secagg", "federation", "sets"),
        ("secagg+", "client", "nodes"),
        ("ideal", "federation", "nodes"),
        ("ideal", "client", "sets"),
    ],
)
def test_messages_agree_on_the_cut_of_all_rows_in_one_place(clients, secure, k_over, how):
    profile = {"profile": "fips"} if secure == "secagg+" else {}
    own = clients(secure=secure, secure_sum=profile, name=how, k_over=k_over)
    found = own.agree()
    assert found.cut.encode() == expected_of(own).encode()
    if k_over == "federation":
        assert found.cut.encode() == shared.central(own.sharing.start(), own.united()).encode()
    assert found.facts()["protects"] == (secure != "ideal")
    assert found.cut.classes > 3
    assert (found.late, found.early) == ((), "")


@pytest.mark.slow
@pytest.mark.parametrize("secure", ["ideal", "secagg"])
def test_ray_workers_agree_on_the_same_cut(clients, secure):
    """Where one reply may stand for several clients."""
    own = clients(secure=secure, k=12)
    with open_grid(Engine(grid="ray", workers=2), own.grid().population) as opened:
        found = own.agree(opened.grid)
    assert found.cut.encode() == expected_of(own).encode()
    assert (found.late, found.early) == ((), "")


@pytest.mark.slow
@pytest.mark.parametrize("k_over", ["federation", "client"])
@pytest.mark.parametrize("secure", ["ideal", "secagg"])
def test_adult_over_five_clients(data_dir, clients_of, secure, k_over):
    overrides = [
        "partition.clients=5",
        "anonymization.k=10",
        "anonymization.cut=shared",
        "anonymization.compare_raw=false",
        f"anonymization.k_over={k_over}",
        f"secure_sum.name={secure}",
        "evaluation.federated_every=0",
    ]
    config = configuration.load("adult-anonymized", overrides, {})
    own = clients_of(config, Places(data_dir=str(data_dir)))
    found = own.agree()
    assert found.cut.encode() == expected_of(own).encode()
    assert found.sums >= 10


def test_sensitive_values_come_from_the_same_sums(clients):
    own = clients(diversity="distinct", l=2, t=0.3, t_reference="federation")
    found = own.agree()
    expected = shared.central(own.sharing.start(), own.united())
    assert found.cut.fingerprint() == expected.fingerprint()
    ill = own.united().sensitive[0].codes
    assert found.cut.references[0] == pytest.approx(np.bincount(ill) / len(ill))


def test_the_server_sees_no_counts_of_a_single_client(clients):
    own = clients(secure="secagg", k_over="client")
    grid = own.grid(Recording)
    found = own.agree(grid)
    cut, level, vectors = own.sharing.start(), 0, [v for *_, v in grid.seen if v is not None]
    while cut.open:
        counted = [shared.counts(cut, part) for part in own.tables()]
        for client, packed in enumerate(vectors[level * own.count : (level + 1) * own.count]):
            # A masked number is the true one with a probability of 2^-32.
            assert not (packed.view("<u4") == counted[client]).any()
            plain = counted[client].astype("<u4").tobytes()
            assert all(plain not in message for _, _, message, _ in grid.seen)
        cut, level = shared.grow(cut, sum(counted), own.tables()[0]), level + 1
    assert len(vectors) == level * own.count == found.sums * own.count
    everything = np.concatenate(vectors)
    assert stats.chisquare(np.bincount(everything, minlength=256)).pvalue > 1e-6
    assert {kind for kind, *_ in grid.seen} == {MASKED, *set(KINDS.values()) - {KINDS["masked"]}}


def test_ideal_sums_are_what_a_recorder_would_find_in_the_clear(clients):
    """The test above can fail: without masks the bytes are anything but uniform."""
    own = clients()
    cut = own.sharing.start()
    parts = [shared.counts(cut, part).astype("<u4").view(np.uint8) for part in own.tables()]
    packed = np.concatenate(parts)
    assert stats.chisquare(np.bincount(packed, minlength=256)).pvalue < 1e-6


def test_too_few_rows_of_all_clients_are_an_error(clients):
    with pytest.raises(DataError, match="k = 50"):
        clients(sites=3, rows=10, k=50).agree()


@pytest.mark.parametrize("name", ["plain", "ckks"])
def test_sums_that_show_single_clients_counts_are_refused(clients, name):
    own = clients()
    federation = own.federation
    secure = replace(federation.config.secure_sum, name=name)
    with pytest.raises(ConfigError, match=r"secure_sum\.name.*secagg") as refused:
        agree(own.grid(), range(1, 6), federation.with_secure_sum(secure), lambda client: None)
    assert "anonymization.cut=local" in str(refused.value)


NOISE = {"counts_noise_multiplier": 4.0, "counts_delta": 1e-5}


def charging(tmp_path, cap):
    ledger = Ledger(tmp_path / "people.example.jsonl")
    return ledger, Charging(ledger, "run", "people", Budget(cap, 1e-5))


def test_noise_on_every_level_is_in_the_ledger_before_the_level_is_opened(clients, tmp_path):
    ledger, charge = charging(tmp_path, 8.0)
    own = clients(rows=400, secure="secagg", **NOISE)
    opened = []

    class Opening(Recording):
        def scatter(self, contents, kind, **more):
            if kind == KINDS["unmask"]:
                opened.append(len(ledger.entries()))
            return Recording.scatter(self, contents, kind, **more)

    found = own.agree(own.grid(Opening), charge=charge, stream=Stream.seeded(1, "cut"))
    entries = ledger.entries()
    assert found.sums == len(entries) == len(opened)
    assert opened == list(range(1, found.sums + 1))
    assert {entry.unit for entry in entries} == {"example"}
    releases = [spend.release for entry in entries for spend in entry.spends]
    assert releases == [Release("gaussian", 4.0)] * found.sums
    assert found.facts()["epsilon"] == epsilon(releases, 1e-5, "zero-out") < 8.0
    assert shared.assign(found.cut, own.united()).sizes.min() >= 4
    quiet = shared.central(clients(rows=400).sharing.start(), own.united())
    assert found.cut.fingerprint() != quiet.fingerprint()


def test_an_exceeded_budget_ends_it_before_the_level_is_opened(clients, tmp_path):
    ledger, charge = charging(tmp_path, 0.5)
    own = clients(rows=400, **NOISE)
    asked = []

    class Asking(InProcessGrid):
        def broadcast(self, content, nodes, kind, **more):
            asked.append(kind)
            return InProcessGrid.broadcast(self, content, nodes, kind, **more)

    with pytest.raises(BudgetExceededError) as refused:
        own.agree(own.grid(Asking), charge=charge, stream=Stream.seeded(1, "cut"))
    assert refused.value.exit_code == 4
    assert asked == [COUNTS] * len(ledger.entries())


def test_noise_without_a_ledger_is_refused(clients):
    with pytest.raises(ValueError, match="ledger"):
        clients(**NOISE).agree()


def test_clients_train_by_the_cut_that_they_are_sent(clients):
    """What a node releases is what a simulation releases of all clients at once."""
    own = clients()
    found = own.agree()
    together, facts = own.sharing.together(found)
    alone = own.sharing.by_cut(found.cut)
    for client in range(own.count):
        one, other = alone.train(client), together.train(client)
        assert np.array_equal(one.x, other.x)
        assert np.array_equal(one.y, other.y)
    assert facts["agreed"] == own.federation.declared(found).anonymization["agreed"]
    assert facts["reached"]["k"] >= 4
