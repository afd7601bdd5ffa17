"""Agreeing on a cut by secure sums: the cut of one who has all rows; the server sees sums alone."""

import json
from dataclasses import replace

import numpy as np
import pytest
from scipy import stats

from fedsim import agreement
from fedsim.anonymize import shared
from fedsim.anonymize.hierarchies.categories import Categories
from fedsim.anonymize.hierarchies.intervals import Intervals
from fedsim.anonymize.protection import Protection
from fedsim.anonymize.table import Encoded, Sensitive
from fedsim.config.schema import SecureSum
from fedsim.errors import (
    BudgetExceededError,
    ConfigError,
    DataError,
    RunFailedError,
    SecAggAborted,
)
from fedsim.privacy.accounting import epsilon
from fedsim.privacy.budget import Budget
from fedsim.privacy.events import Release
from fedsim.privacy.ledger import Ledger
from fedsim.privacy.noise import Stream

AGE = Intervals(min=0, max=39, widths=(5, 10)).build()
TOWN = Categories(values=tuple("abcdefgh")).build()
ILLS = Categories(values=("x", "y")).build()
K = Protection(k=4)
SECURE = SecureSum(name="secagg")


def tables(clients=5, rows=40, seed=0):
    """Tables of clients with other people each: the last ones older than the first."""
    rng = np.random.default_rng(seed)
    found = []
    for client in range(clients):
        age = rng.integers(4 * client, 40, rows)
        codes = np.stack([age, rng.integers(0, 8, rows)], axis=1).astype(np.int32)
        ills = Sensitive("ill", rng.integers(0, 2, rows).astype(np.int32), ("x", "y"), tree=ILLS)
        found.append(Encoded(("age", "town"), (AGE, TOWN), codes, (ills,)))
    return found


def united(parts):
    (first, *_) = parts
    codes = np.concatenate([part.codes for part in parts])
    ills = np.concatenate([part.sensitive[0].codes for part in parts])
    return replace(first, codes=codes, sensitive=(replace(first.sensitive[0], codes=ills),))


def agree(parts, protection=K, secure=SECURE, **settings):
    return agreement.agree(parts, "schema", protection, secure, run="run", **settings)


@pytest.mark.parametrize("how", ["sets", "nodes"])
@pytest.mark.parametrize("k_over", ["federation", "client"])
@pytest.mark.parametrize(
    "secure",
    [SECURE, SecureSum(name="secagg+", profile="fips"), SecureSum(name="ideal")],
    ids=lambda secure: secure.name,
)
def test_secure_sums_agree_on_the_cut_of_all_rows_in_one_place(how, k_over, secure):
    parts = tables()
    found = agree(parts, secure=secure, how=how, k_over=k_over)
    expected = shared.start(parts[0], "schema", K, how=how, k_over=k_over)
    if k_over == "federation":
        expected = shared.central(expected, united(parts))
    while expected.open:
        sums = sum(shared.counts(expected, part) for part in parts)
        expected = shared.grow(expected, sums, parts[0])
    assert found.cut.encode() == expected.encode()
    assert found.facts()["protects"] == (secure.name != "ideal")
    assert found.cut.classes > 3


def test_sensitive_values_come_from_the_same_sums():
    parts = tables()
    protection = Protection(k=4, diversity="distinct", l=2, t=0.3)
    found = agree(parts, protection)
    expected = shared.central(shared.start(parts[0], "schema", protection), united(parts))
    assert found.cut.fingerprint() == expected.fingerprint()
    shares = np.bincount(united(parts).sensitive[0].codes) / united(parts).rows
    assert found.cut.references[0] == pytest.approx(shares)


class Recorder:
    """Everything the server receives, and what the clients counted, level by level."""

    def __init__(self, parts):
        self.parts, self.messages, self.vectors = parts, [], []

    def __call__(self, phase, client, message, vector):
        self.messages.append((phase, client, message))
        if vector is not None:
            self.vectors.append((client, vector))


@pytest.mark.parametrize("k_over", ["federation", "client"])
def test_the_server_sees_no_counts_of_a_single_client(k_over):
    parts = tables()
    seen = Recorder(parts)
    agree(parts, seen=seen, k_over=k_over)
    cut = shared.start(parts[0], "schema", K, k_over=k_over)
    level = 0
    while cut.open:
        counted = [shared.counts(cut, part) for part in parts]
        for client in range(len(parts)):
            owner, packed = seen.vectors[level * len(parts) + client]
            masked = packed.view("<u4") if packed.nbytes == 4 * len(counted[0]) else None
            assert owner == client
            assert masked is not None
            # A masked number is the true one with a probability of 2^-32.
            assert not (masked == counted[client]).any()
            plain = counted[client].astype("<u4").tobytes()
            assert all(plain not in message for _, _, message in seen.messages)
        cut = shared.grow(cut, sum(counted), parts[0])
        level += 1
    assert len(seen.vectors) == level * len(parts)
    everything = np.concatenate([vector for _, vector in seen.vectors])
    assert stats.chisquare(np.bincount(everything, minlength=256)).pvalue > 1e-6
    assert len({message for phase, _, message in seen.messages if phase == "masked"}) == 1


def test_ideal_sums_are_what_a_recorder_would_find_in_the_clear():
    """The test above can fail: without masks the bytes are anything but uniform."""
    cut = shared.start(tables()[0], "schema", K)
    packed = np.concatenate([shared.counts(cut, p).astype("<u4").view(np.uint8) for p in tables()])
    assert stats.chisquare(np.bincount(packed, minlength=256)).pvalue < 1e-6


def test_vetoes_are_random_numbers_that_say_only_whether():
    parts = tables()
    cut = shared.start(parts[0], "schema", K, k_over="client")
    counted = shared.counts(cut, parts[0])
    one, two = (agreement._blinded(cut, counted) for _ in range(2))
    first = len(counted) - 48
    assert (one[:first] == counted[:first]).all()
    assert counted[first:].sum() > 3
    assert ((one[first:] > 0) == (counted[first:] > 0)).all()
    assert (one[first:] != two[first:])[counted[first:] > 0].all()


@pytest.mark.parametrize("name", ["plain", "ckks"])
def test_sums_that_show_single_clients_counts_are_refused(name):
    with pytest.raises(ConfigError, match=r"secure_sum\.name.*secagg") as refused:
        agree(tables(), secure=SecureSum(name=name))
    assert "anonymization.cut=local" in str(refused.value)


@pytest.mark.parametrize("name", ["secagg", "ideal"])
def test_too_few_clients_give_up(name):
    with pytest.raises(SecAggAborted):
        agree(tables(clients=2), secure=SecureSum(name=name))


def test_too_few_rows_of_all_clients_are_an_error():
    with pytest.raises(DataError, match="k = 50"):
        agree(tables(clients=3, rows=10), Protection(k=50))


def test_supernodes_are_refused_but_for_local_cuts():
    agreement.refuse_deployed("local")
    with pytest.raises(ConfigError, match=r"anonymization\.cut.*'local'"):
        agreement.refuse_deployed("shared")


def test_a_kept_cut_is_the_one_agreed_on(tmp_path):
    with pytest.raises(RunFailedError, match="restore it"):
        agreement.load(tmp_path)
    agreement.keep({"name": "nodes"}, tmp_path)  # nothing was agreed on
    assert list(tmp_path.iterdir()) == []
    found = agree(tables())
    agreement.keep(found.to_dict(), tmp_path)
    path = tmp_path / agreement.CUT_FILE
    again = agreement.load(tmp_path)
    assert again.facts() == found.facts()
    assert again.cut.encode() == found.cut.encode()
    plain = json.loads(path.read_text())
    plain["tree"]["covers"][0][1][0] += 1
    path.write_text(json.dumps(plain))
    with pytest.raises(RunFailedError, match="changed"):
        agreement.load(tmp_path)
    path.write_text("{")
    with pytest.raises(RunFailedError, match="no agreed cut"):
        agreement.load(tmp_path)


def charging(tmp_path, cap):
    ledger = Ledger(tmp_path / "people.example.jsonl")
    return ledger, agreement.Charging(ledger, "run", "people", Budget(cap, 1e-5))


def test_noise_on_every_level_is_in_the_ledger_before_the_level_is_opened(tmp_path):
    ledger, charge = charging(tmp_path, 8.0)
    opened = []

    def seen(phase, client, message, vector):
        if phase == "unmask" and client == 0:
            opened.append(len(ledger.entries()))

    settings = {
        "noise_multiplier": 4.0,
        "delta": 1e-5,
        "stream": Stream.seeded(1, "cut"),
        "charge": charge,
    }
    found = agree(tables(rows=400), seen=seen, **settings)
    entries = ledger.entries()
    assert found.sums == len(entries) == len(opened)
    assert opened == list(range(1, found.sums + 1))
    assert {entry.unit for entry in entries} == {"example"}
    releases = [spend.release for entry in entries for spend in entry.spends]
    assert releases == [Release("gaussian", 4.0)] * found.sums
    assert epsilon(releases, 1e-5, "zero-out") < 8.0
    assert found.facts()["noise_by"] == "server"
    assert found.facts()["epsilon"] == epsilon(releases, 1e-5, "zero-out")
    whole = united(tables(rows=400))
    assert shared.assign(found.cut, whole).sizes.min() >= K.k
    quiet = shared.central(shared.start(whole, "schema", K), whole)
    assert found.cut.fingerprint() != quiet.fingerprint()


def test_an_exceeded_budget_ends_it_before_the_level_is_opened(tmp_path):
    ledger, charge = charging(tmp_path, 0.5)
    levels = []
    settings = {
        "noise_multiplier": 4.0,
        "delta": 1e-5,
        "stream": Stream.seeded(1, "cut"),
        "charge": charge,
    }
    with pytest.raises(BudgetExceededError) as refused:
        agree(tables(rows=400), seen=lambda *told: levels.append(told[0]), **settings)
    assert refused.value.exit_code == 4
    assert levels.count("unmask") == 5 * len(ledger.entries())


def test_noise_without_a_ledger_is_refused():
    with pytest.raises(ValueError, match="ledger"):
        agree(tables(), noise_multiplier=1.0)
