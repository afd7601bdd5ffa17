"""Nodes that are late, missing, refuse or lie, behind Flower's interface of a grid."""

import itertools
from collections import Counter

import pytest
from flwr.app import ConfigRecord, Context, Error, Message, RecordDict
from flwr.common.constant import ErrorCode
from flwr.supercore.task_identity import TaskIdentity

from fedsim import asynchronous
from fedsim import config as configuration
from fedsim.clients.app import app
from fedsim.engine.blocks import Handlers, Population
from fedsim.engine.flower import FlowerCarrier
from fedsim.engine.inprocess import InProcessGrid
from fedsim.engine.members import Members
from fedsim.errors import RunFailedError
from fedsim.federation import Places, build, to_text
from fedsim.rounds import run_rounds, start_state

CLIENTS = 3
NODES = {70: 2, 40: 0, 55: 1}  # node id -> client


class Nodes:
    """A grid of Flower's whose nodes run our client app; `there` are those that are online."""

    def __init__(self, text="", there=NODES):
        self.text, self.there, self.says = text, list(there), dict(NODES)
        self.states = {node: RecordDict() for node in NODES}
        self.replies, self.refuses = {}, {}

    def get_node_ids(self):
        return list(self.there)

    def push_messages(self, messages):
        ids = []
        for message in messages:
            id = f"m{len(self.replies) + len(ids)}x{message.metadata.dst_node_id}"
            message.metadata.__dict__["_message_id"] = id
            self.replies[id] = self._answer(message, message.metadata.dst_node_id)
            ids.append(id)
        return ids

    def pull_messages(self, ids):
        found = [self.replies[id] for id in ids if self.replies[id] is not None]
        for id in ids:
            self.replies[id] = None
        return found

    def _answer(self, message, node):
        if node not in self.there:
            return Message(Error(ErrorCode.NODE_UNAVAILABLE, "offline"), reply_to=message)
        if node in self.refuses:
            return Message(Error(ErrorCode.CLIENT_APP_RAISED_EXCEPTION, self.refuses[node]),
                           reply_to=message)  # fmt: skip
        message.metadata.__dict__["_dst_node_id"] = node
        own = {"partition-id": self.says[node], "num-partitions": CLIENTS}
        if message.metadata.message_type == "query":
            return Message(RecordDict({"client": ConfigRecord(own)}), reply_to=message)
        return app(message, Context(1, node, own, self.states[node], {"experiment": self.text}))


@pytest.fixture(autouse=True)
def _task(monkeypatch):
    monkeypatch.setattr(TaskIdentity, "_run_id", 1)
    monkeypatch.setattr(TaskIdentity, "_task_id", 1)
    monkeypatch.setattr(TaskIdentity, "_node_id", 1)


def members(grid, **how):
    ticks = itertools.count()  # a second each time that somebody looks
    carrier = FlowerCarrier(grid, poll_s=0.001)
    return Members(carrier, CLIENTS, clock=lambda: float(next(ticks)), **how)


@pytest.fixture(scope="module")
def federation():
    overrides = [
        f"partition.clients={CLIENTS}", "model.name=linear", "rounds.count=3",
        "evaluation.federated_every=3",
    ]  # fmt: skip
    return build(configuration.load("digits", overrides))


def lost(record):
    return {client.client: client.lost for client in record.clients if client.lost}


def test_nodes_in_any_order_come_to_the_bits_of_a_simulation(federation):
    text = to_text(federation.config, Places())
    own = members(Nodes(text))
    own.gather(CLIENTS, wait_s=600)
    assert own.nodes == {0: 40, 1: 55, 2: 70}
    found = [r for r, _ in run_rounds(own, range(CLIENTS), federation, start_state(federation))]
    grid = InProcessGrid(Handlers(app), Population(CLIENTS, {"experiment": text}))
    wanted = run_rounds(grid, grid.population.nodes, federation, start_state(federation))
    for one, (other, _) in zip(found, wanted, strict=True):
        assert one.model_sha256 == other.model_sha256
        assert one.metrics == other.metrics
        assert not lost(one)
    assert own.incidents == []


def test_a_late_node_is_lost_until_it_is_there(federation):
    grid = Nodes(to_text(federation.config, Places()), there=[70, 40])
    own = members(grid)
    own.gather(2, wait_s=20)
    assert own.incidents[0].startswith("without the nodes of client(s) 1:")
    missing = []
    for number, (record, _) in enumerate(
        run_rounds(own, range(CLIENTS), federation, start_state(federation)), 1
    ):
        missing.append(lost(record))
        if number == 1:
            grid.there.append(55)
            own.missing  # noqa: B018 - looked for when something is sent, not before
    assert "has not been there since the run began" in missing[0][1]
    assert list(missing[0]) == [1]
    assert missing[2] == {}
    assert own.incidents[1:] == ["the node of client 1 is there now"]


def test_too_few_nodes_are_named(federation):
    waited = []
    own = members(Nodes(there=[40]), tell=waited.append)
    with pytest.raises(RunFailedError, match=r"client\(s\) 1, 2 of 3 within 20 s; 1 did, and 2"):
        own.gather(2, wait_s=20)
    assert waited == ["waiting up to 20 s for the nodes of client(s) 1, 2"]


def test_who_refuses_is_done_without_where_there_are_enough(federation):
    grid = Nodes()
    grid.refuses[55] = "units = example"
    own = members(grid)
    own.gather(2, wait_s=20)
    assert own.missing == [1]
    assert own.incidents[0] == "node 55 takes no part: units = example"
    with pytest.raises(RunFailedError, match=r"1 of 3 nodes refuse, and 3 are.*units = example"):
        members(grid).gather(3, wait_s=600)


@pytest.mark.parametrize("claimed", [0, 3, -1])
def test_a_node_cannot_take_anothers_place(claimed):
    grid = Nodes(there=[40])
    own = members(grid)
    own.gather(1, wait_s=20)
    grid.there.append(55)
    grid.says[55] = claimed
    for _ in range(2):
        own.scatter([], "train", ttl=1.0, group_id="1")
    assert own.nodes == {0: 40}
    assert "which is another's number" in own.refused[55]


def test_who_is_gone_before_it_says_who_it_is_is_asked_again():
    grid = Nodes(there=[40, 70])
    grid.get_node_ids = lambda: [40, 55, 70]  # 55 is thought to be online
    own = members(grid)
    own.gather(2, wait_s=20)
    assert own.missing == [1]
    grid.there.append(55)
    for _ in range(2):
        own.scatter([], "train", ttl=1.0, group_id="1")
    assert own.nodes[1] == 55


def steps_of(own, **sections):
    experiment = {
        "partition": {"clients": CLIENTS},
        "model": {"name": "linear"},
        "strategy": {"name": "fedbuff", "buffer": 2},
        "rounds": {"count": 4},
        "evaluation": {"federated_every": 4},
        **sections,
    }
    federation = build(configuration.load(experiment, ()))
    own.carrier.grid.text = to_text(federation.config, Places())
    own.gather(1, wait_s=20)
    found = run_rounds(own, range(CLIENTS), federation, start_state(federation))
    return (record for record, _ in found)


def counted(record):
    return {c.client for c in record.clients if c.phase == "train" and not c.lost}


def test_an_asynchronous_strategy_steps_by_the_nodes_that_are_there(monkeypatch):
    monkeypatch.setattr(asynchronous, "_REST_S", 0.01)
    grid = Nodes(there=[70, 40])
    records = steps_of(members(grid))
    first = next(records)
    assert counted(first) == {0, 2}
    assert lost(first) == {1: "its node is not there"}
    grid.there.append(55)
    by_client = Counter(client for record in records for client in counted(record))
    assert by_client[1] > 0
    assert sum(by_client.values()) == 3 * 2


def test_an_asynchronous_step_that_cannot_be_made_says_who_failed(monkeypatch):
    monkeypatch.setattr(asynchronous, "_REST_S", 0.01)
    grid = Nodes()
    records = steps_of(members(grid))
    grid.refuses = {40: "the disk is full", 55: "the disk is full"}
    with pytest.raises(RunFailedError, match=r"step 1: 1 of 2 answers .* failed 3 times") as caught:
        next(records)
    assert {c.client: c.lost for c in caught.value.records} == dict.fromkeys(
        (0, 1), "the disk is full"
    )
