"""Runs under CKKS: the bits of `ideal`, whoever is lost; sums that are opened once, and by whom."""

import copy
import html
import re
import zlib

import numpy as np
import pytest
from flwr.app import Array, ArrayRecord, Context, Message, RecordDict
from flwr.app.metadata import Metadata

import fedsim
from fedsim import ckks_messages, messages, secure_messages
from fedsim import config as configuration
from fedsim.clients import _ckks
from fedsim.clients._quiet import LostClientError
from fedsim.clients._secure_sum import SECRET
from fedsim.clients.app import app
from fedsim.deployment import experiment_text, make_client_app
from fedsim.engine.blocks import Population
from fedsim.engine.inprocess import InProcessGrid
from fedsim.engine.launch import OURS
from fedsim.errors import ConfigError, SecAggAborted, SetupError
from fedsim.events import RoundDone
from fedsim.federation import Places, from_text, to_text
from fedsim.files import write_secret
from fedsim.report import privacy as report
from fedsim.rounds import number_format, run_rounds, start_state
from fedsim.secagg import ckks
from fedsim.store import RunStore


@pytest.fixture(scope="module")
def key():
    return ckks.new_key()


def secure(tiny, name, /, **sections):
    """The tiny experiment under a secure sum, nine clients in each of two rounds."""
    own = {"name": name, "threshold": 0.51, **sections.pop("secure_sum", {})}
    if name == "ckks":
        own.setdefault("adversaries", 0)
    sections = {
        "evaluation": {"federated_every": 0},
        "strategy": {"name": "fedavg"},
        **sections,
        "rounds": {"count": 2, "cohort": 9, **sections.get("rounds", {})},
    }
    return tiny(**sections) | {"secure_sum": own}


class Carrier:
    """A carrier on which `change(reply, kind)` may change replies on the way; it counts them."""

    def __init__(self, grid, change):
        self.grid, self.change, self.seen = grid, change, []

    def broadcast(self, content, nodes, kind, **options):
        return self._delivered(self.grid.broadcast(content, nodes, kind, **options), kind)

    def scatter(self, contents, kind, **options):
        return self._delivered(self.grid.scatter(contents, kind, **options), kind)

    def _delivered(self, replies, kind):
        for reply in replies:
            if not reply.has_error():
                self.change(reply, kind)
            self.seen.append((kind, reply))
            yield reply


def rounds_of(content, key, change=lambda reply, kind: None):
    """Run an experiment's rounds and nothing around them; return records and the carrier."""
    config = configuration.load(content)
    told = {"experiment": to_text(config, Places()), "tier": config.engine.tier}
    told |= {"at-once": config.engine.block_size or 0, _ckks.KEY: key.hex()}
    federation = from_text(told["experiment"])
    grid = InProcessGrid(OURS.open(told), Population(9, told), size=config.engine.block_size)
    carrier = Carrier(grid, change)
    found = list(run_rounds(carrier, range(1, 10), federation, start_state(federation)))
    assert grid.incidents == []
    return [record for record, _ in found], carrier


def digests(records):
    return [record.model_sha256 for record in records]


def lost(records):
    return [(r.round, c.client, c.lost) for r in records for c in r.clients if c.lost]


@pytest.mark.parametrize(
    "sections",
    [
        {"rounds": {"dropout": 0.2}},
        {"strategy": {"name": "fedadam", "lr": 0.05}, "secure_sum": {"bits": 20}},
        {"engine": {"tier": "messages"}},
        {
            "engine": {"tier": "vectorized", "block_size": 4},
            "model": {"name": "mlp", "hidden": [8]},
        },
        {
            "privacy": {
                "unit": "user",
                "noise_multiplier": 0.5,
                "delta": 1e-3,
                "clipping_norm": 0.5,
                "noise": "seeded",
            }
        },
    ],
    ids=["dropouts", "fedadam", "messages", "vectorized", "user-level"],
)
def test_rounds_come_to_the_bits_of_ideal(sections, tiny, key):
    found = [
        rounds_of(secure(tiny, name, **copy.deepcopy(sections)), key)[0]
        for name in ("ideal", "ckks")
    ]
    assert digests(found[0]) == digests(found[1])
    assert [r.metrics for r in found[0]] == [r.metrics for r in found[1]]
    assert lost(found[0]) == lost(found[1])


@pytest.mark.reports
@pytest.mark.slow
def test_runs_in_process_and_on_ray_end_with_the_model_of_ideal(tiny, cluster, tmp_path):
    config = secure(tiny, "ideal", rounds={"dropout": 0.2})
    ideal = fedsim.run(config, runs=tmp_path / "ideal")
    config = secure(tiny, "ckks", rounds={"dropout": 0.2})
    here = fedsim.run(config, runs=tmp_path / "here")
    config["engine"] = {"grid": "ray", "workers": 2, "tier": "resident"}
    there = fedsim.run(config, runs=tmp_path / "there")
    for result in (here, there):
        assert [e["model_sha256"] for e in result.history] == [
            e["model_sha256"] for e in ideal.history
        ]
        assert result.history[-1]["metrics"] == ideal.history[-1]["metrics"]
    assert ckks.TRUST in html.unescape(here.report.read_text())


def test_too_few_clients_end_a_round_as_ideal_does(tiny, key):
    ended = []
    for name in ("ideal", "ckks"):
        rounds = {"count": 30, "dropout": 0.25}
        config = secure(tiny, name, rounds=rounds, secure_sum={"threshold": 0.7})
        with pytest.raises(SecAggAborted) as aborted:
            rounds_of(config, key)
        error = aborted.value
        ended.append((error.reason, error.survivors, error.threshold, lost_of(error.records)))
    assert ended[0] == ended[1]


def lost_of(records):
    return [(record.client, record.lost) for record in records]


def test_only_ciphertexts_and_sums_travel(tiny, key):
    """No record but these, and in them no weight, no loss, no update of one client."""
    plain, _ = rounds_of(secure(tiny, "plain", rounds={"count": 1}), key)
    losses = [repr(c.metrics["loss"])[:10].encode() for c in plain[0].clients]
    records, carrier = rounds_of(secure(tiny, "ckks", rounds={"count": 1}), key)
    kinds = [kind for kind, _ in carrier.seen]
    assert kinds == [ckks_messages.ENCRYPTED] * 9 + [ckks_messages.OPEN]
    for kind, reply in carrier.seen:
        content = reply.content
        is_vector = kind == ckks_messages.ENCRYPTED
        assert set(content) == ({"ckks", "ckks-config"} if is_vector else {"ckks"})
        vector = content["ckks"]["vector"]
        assert not [loss for loss in losses if loss in vector.data]
        if is_vector:
            assert dict(content["ckks-config"]) == {"key": ckks.open_key(key).fingerprint}
            assert len(zlib.compress(vector.data)) > 0.98 * len(vector.data)  # no small numbers
    sent = {c.client: c.bytes_up for c in records[0].clients}
    size = ckks.size_bytes(1)  # one piece
    opener = max(sent, key=sent.get)
    assert all(0.99 * size < value < 1.01 * size for c, value in sent.items() if c != opener)


def spoiled(reply):
    vector = reply.content["ckks"]["vector"].numpy().copy()
    vector[len(vector) // 2] ^= 1
    config = reply.content["ckks-config"]
    reply.content = RecordDict(
        {"ckks": ArrayRecord({"vector": Array(vector)}), "ckks-config": config}
    )


def test_clients_whose_ciphertexts_are_damaged_are_lost_and_not_in_the_sum(tiny, key, plugin):
    def change(reply, kind):
        if kind == ckks_messages.ENCRYPTED and reply.metadata.src_node_id == 4:
            spoiled(reply)
        if kind == ckks_messages.ENCRYPTED and reply.metadata.src_node_id == 6:
            reply.content = RecordDict()

    def config(name, faulty):
        local = {"name": "faulty", "fault": "raise", "clients": faulty}
        return secure(tiny, name, rounds={"count": 1}, local=local)

    records, _ = rounds_of(config("ckks", [99]), key, change)
    reasons = {client: why for _, client, why in lost(records)}
    assert set(reasons) == {3, 5}
    assert "digest" in reasons[3]
    without, _ = rounds_of(config("ideal", [3, 5]), key)
    assert digests(records) == digests(without)


def test_clients_with_another_key_than_the_others_are_lost(tiny, key):
    other = ckks.open_key(ckks.new_key())

    def change(reply, kind):
        if kind == ckks_messages.ENCRYPTED and reply.metadata.src_node_id in (1, 8):
            vector = ckks.encrypt(other, np.zeros(5, dtype=np.uint32), 32)
            reply.content = ckks_messages.encrypted_content(other.fingerprint, vector)

    records, _ = rounds_of(secure(tiny, "ckks", rounds={"count": 1}), key, change)
    assert {client for _, client, _ in lost(records)} == {0, 7}
    assert all("another key" in why for _, _, why in lost(records))


def test_answers_that_come_twice_count_once(tiny, key, monkeypatch):
    once = Carrier._delivered

    def twice(self, replies, kind):
        for reply in once(self, replies, kind):
            yield reply
            yield reply

    config = secure(tiny, "ckks", rounds={"count": 1})
    ideal, _ = rounds_of(secure(tiny, "ideal", rounds={"count": 1}), key)
    monkeypatch.setattr(Carrier, "_delivered", twice)
    records, _ = rounds_of(config, key)
    assert digests(records) == digests(ideal)
    assert lost(records) == []


def test_another_client_opens_where_one_does_not(tiny, key):
    failed = []

    def change(reply, kind):
        if kind == ckks_messages.OPEN and len(failed) < 2:
            failed.append(reply.metadata.src_node_id)
            reply.content = RecordDict()

    records, carrier = rounds_of(secure(tiny, "ckks", rounds={"count": 1}), key, change)
    ideal, _ = rounds_of(secure(tiny, "ideal", rounds={"count": 1}), key)
    assert digests(records) == digests(ideal)
    openers = [r.metadata.src_node_id for kind, r in carrier.seen if kind == ckks_messages.OPEN]
    assert len(set(openers)) == len(openers) == 3


def test_a_sum_that_nobody_opens_ends_the_round(tiny, key):
    def change(reply, kind):
        if kind == ckks_messages.OPEN:
            reply.content = ckks_messages.opened_content(np.zeros(3, dtype=np.uint32))

    with pytest.raises(SecAggAborted, match="no client opened it: it opened"):
        rounds_of(secure(tiny, "ckks", rounds={"count": 1}), key, change)


def test_a_sum_opened_to_something_else_is_noticed(tiny, key):
    def change(reply, kind):
        if kind == ckks_messages.OPEN:
            total = ckks_messages.read_opened(reply.content).copy()
            total[-1] += 1
            reply.content = ckks_messages.opened_content(total)

    with pytest.raises(SecAggAborted, match="count"):
        rounds_of(secure(tiny, "ckks", rounds={"count": 1}), key, change)


class Asked:
    """One client that is asked directly; it keeps its state."""

    def __init__(self, tiny, run_config, name="ckks", **node_config):
        text = to_text(configuration.load(secure(tiny, name)), Places())
        self.federation = from_text(text)
        self.state = RecordDict()
        self.told = {"experiment": text, **run_config}
        self.node = {"partition-id": 2, **node_config}

    def ask(self, kind, content):
        metadata = Metadata(1, "a", 1, 2, "", "", 0.0, 60.0, kind)
        context = Context(1, 2, self.node, self.state, self.told)
        return app(Message(content=content, metadata=metadata), context).content

    def train(self, kind):
        order = messages.Train(self.federation.initial, 1, form=number_format(self.federation))
        return self.ask(kind, messages.model_content(order))


def opening(key, number=1, clients=(1, 2, 5), run="a", length=4):
    total = ckks.EncryptedSum(length)
    total.add(ckks.encrypt(ckks.open_key(key), np.arange(length, dtype=np.uint32), 32))
    told = ckks_messages.Opening(run, number, tuple(clients), length, 32)
    return ckks_messages.opening_content(told, total.write())


def test_a_client_opens_one_sum_of_a_round_and_only_of_enough_clients_and_its_own(tiny, key):
    client = Asked(tiny, {_ckks.KEY: key.hex()})
    for clients, reason in (
        ((1, 2), "2 clients, where 3"),
        ((1, 3, 5), "not in"),
        ((2, 2, 1), "twice"),
    ):
        with pytest.raises(LostClientError, match=reason):
            client.ask(ckks_messages.OPEN, opening(key, clients=clients))
    found = client.ask(ckks_messages.OPEN, opening(key, 4))
    assert ckks_messages.read_opened(found).tolist() == [0, 1, 2, 3]
    for number in (4, 3):
        with pytest.raises(LostClientError, match="has been opened"):
            client.ask(ckks_messages.OPEN, opening(key, number))
    client.ask(ckks_messages.OPEN, opening(key, 5))
    client.ask(ckks_messages.OPEN, opening(key, 1, run="b"))
    with pytest.raises(LostClientError, match="has been opened"):  # of both runs it remembers
        client.ask(ckks_messages.OPEN, opening(key, 5))


def test_a_client_with_another_key_opens_nothing(tiny, key):
    client = Asked(tiny, {_ckks.KEY: ckks.new_key().hex()})
    with pytest.raises(LostClientError, match="another key"):
        client.ask(ckks_messages.OPEN, opening(key))
    assert len(client.state) == 0


def test_a_deployed_client_has_its_key_in_a_file_and_answers_in_no_other_way(tiny, key, tmp_path):
    file = tmp_path / "ckks.key"
    write_secret(file, key)
    other = ckks.new_key().hex()  # what the server says is not taken
    client = Asked(tiny, {_ckks.KEY: other}, **{"ckks-key": str(file)})
    fingerprint, _ = ckks_messages.read_encrypted(client.train(ckks_messages.ENCRYPTED))
    assert fingerprint == ckks.open_key(key).fingerprint
    for name in ("plain", "ideal", "secagg"):
        node = Asked(tiny, {SECRET: "07" * 32}, name, **{"ckks-key": str(file)})
        for kind in (messages.TRAIN, messages.EVALUATE, ckks_messages.ENCRYPTED):
            with pytest.raises(LostClientError):
                node.train(kind)
        with pytest.raises(LostClientError, match="by CKKS only"):
            node.ask(secure_messages.KINDS["keys"], secure_messages.ask_content(b""))
    file.chmod(0o644)
    with pytest.raises(LostClientError, match="chmod 600"):
        client.train(ckks_messages.ENCRYPTED)


def test_a_client_without_a_key_or_with_an_identity_of_its_own_takes_no_simulated_one(tiny, key):
    for told, node in (({}, {}), ({_ckks.KEY: key.hex()}, {"identity-key": "identity.key"})):
        with pytest.raises(LostClientError, match="does not name ckks-key"):
            Asked(tiny, told, **node).train(ckks_messages.ENCRYPTED)


def test_under_ckks_no_client_answers_in_the_clear(tiny, key):
    client = Asked(tiny, {_ckks.KEY: key.hex()})
    for kind in (messages.TRAIN, messages.EVALUATE):
        with pytest.raises(LostClientError):
            client.train(kind)


@pytest.mark.parametrize(
    ("secure_sum", "path", "reason"),
    [
        ({"adversaries": 0.1}, "secure_sum.adversaries", "one client that colludes opens every"),
        ({"profile": "fips"}, "secure_sum.profile", "FIPS"),
    ],
)
def test_what_one_key_of_all_does_not_withstand_is_refused(secure_sum, path, reason, tiny):
    with pytest.raises(ConfigError) as refused:
        configuration.load(secure(tiny, "ckks", secure_sum=secure_sum))
    (problem,) = refused.value.problems
    assert problem.path == path
    assert reason in str(problem)


def test_a_cohort_without_proof_of_exactness_is_refused(tiny):
    config = secure(tiny, "ckks", rounds={"cohort": ckks.MOST_CLIENTS + 1})
    config["partition"] = {"name": "iid", "clients": ckks.MOST_CLIENTS + 1}
    with pytest.raises(ConfigError, match=r"4096 with secure_sum\.name = 'ckks'"):
        configuration.load(config)


def test_a_missing_library_stops_a_run_before_it_is_one(tiny, tmp_path, monkeypatch):
    def missing():
        raise SetupError("needs TenSEAL")

    monkeypatch.setattr(ckks, "require", missing)
    with pytest.raises(SetupError, match="needs TenSEAL"):
        fedsim.run(secure(tiny, "ckks"), runs=tmp_path)
    assert RunStore(tmp_path).all() == []


def test_a_stopped_run_is_resumed_bit_by_bit_under_a_new_key(tiny, tmp_path):
    config = secure(tiny, "ckks", rounds={"count": 3, "dropout": 0.2})
    whole = fedsim.run(config, runs=tmp_path / "whole")

    class StopError(Exception):
        pass

    def stop(event):
        if isinstance(event, RoundDone) and event.record.round == 2:
            raise StopError

    with pytest.raises(StopError):
        fedsim.run(config, runs=tmp_path / "cut", listener=stop)
    resumed = fedsim.resume("last", runs=tmp_path / "cut")
    assert [e["model_sha256"] for e in resumed.history] == [
        e["model_sha256"] for e in whole.history
    ]


def test_noise_by_clients_under_ckks_is_that_of_ideal_and_reports_say_who_is_trusted(
    tiny, tmp_path, key
):
    private = {"unit": "user", "noise_multiplier": 1.0, "delta": 1e-3, "noise": "seeded"}
    private |= {"clipping_norm": 0.5, "mechanism": "skellam", "sampling": "fixed"}
    sections = {"privacy": private, "secure_sum": {"adversaries": 0}}
    found = [
        rounds_of(secure(tiny, name, **copy.deepcopy(sections)), key)[0]
        for name in ("ideal", "ckks")
    ]
    assert digests(found[0]) == digests(found[1])
    for name, mechanism in (("noise by clients", "skellam"), ("by the server", "gaussian")):
        sections["privacy"] = private | {"mechanism": mechanism}
        runs = tmp_path / name
        result = fedsim.run(secure(tiny, "ckks", **copy.deepcopy(sections)), runs=runs)
        content = report.build(report.gather(RunStore(runs), result.run_id))
        for said in ("trusted", "secure_aggregation"):
            assert ckks.TRUST in content["setting"][said]
        assert "gives no epsilon" in content["setting"]["secure_aggregation"]


def test_the_deployed_app_passes_both_messages_on(tmp_path, key):
    file = tmp_path / "ckks.key"
    write_secret(file, key)
    overrides = "secure_sum.name=ckks secure_sum.adversaries=0 evaluation.federated_every=0"
    told = {"experiment": "digits", "overrides": overrides, "data-dir": ""}
    node = {"partition-id": 2, "ckks-key": str(file)}
    metadata = Metadata(1, "a", 1, 2, "", "", 0.0, 60.0, ckks_messages.OPEN)
    context = Context(1, 2, node, RecordDict(), told)
    reply = make_client_app()(Message(content=opening(key), metadata=metadata), context)
    assert ckks_messages.read_opened(reply.content).tolist() == [0, 1, 2, 3]
    assert ckks_messages.opened_of(context.state) == {"a": 1}
    federation = from_text(experiment_text(told))
    order = messages.Train(federation.initial, 1, form=number_format(federation))
    metadata = Metadata(1, "b", 1, 2, "", "", 0.0, 60.0, ckks_messages.ENCRYPTED)
    asked = Message(content=messages.model_content(order), metadata=metadata)
    fingerprint, _ = ckks_messages.read_encrypted(make_client_app()(asked, context).content)
    assert fingerprint == ckks.open_key(key).fingerprint


def test_the_key_of_simulated_clients_is_stored_nowhere(tiny, tmp_path, monkeypatch, key):
    monkeypatch.setattr(ckks, "new_key", lambda: key)
    fedsim.run(secure(tiny, "ckks", rounds={"count": 1}), runs=tmp_path)
    middle = key[5000:5064]
    for path in tmp_path.rglob("*"):
        if path.is_file():
            content = path.read_bytes()
            assert middle not in content
            assert not re.search(middle.hex().encode(), content)
