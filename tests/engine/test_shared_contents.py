"""Contents that differ per client but share the model: what is shared travels once."""

import numpy as np
import pytest
from flwr.app import Array, ArrayRecord, ConfigRecord, Context, Message, RecordDict
from flwr.clientapp import ClientApp

from fedsim.engine.blocks import Handlers, Population, WorkerCode
from fedsim.engine.grid import _as_they_are
from fedsim.engine.inprocess import InProcessGrid
from fedsim.engine.ray import RayGrid, RayWorkers
from fedsim.engine.sharing import grouped

CLIENTS = 12


def model(size=4):
    return ArrayRecord({"w": Array(np.arange(size, dtype=np.float32))})


def own(number):
    return ConfigRecord({"number": number})


def test_contents_that_share_a_model_make_one_group():
    shared = model()
    contents = [RecordDict({"model": shared, "own": own(i)}) for i in range(5)]
    ((common, members),) = grouped(contents)
    assert common["model"] is shared
    assert list(common) == ["model"]
    assert [place for place, _ in members] == list(range(5))
    assert [records["own"] for _, records in members] == [content["own"] for content in contents]


def test_the_same_content_for_all_leaves_nothing_to_each():
    content = RecordDict({"model": model(), "own": own(1)})
    ((common, members),) = grouped([content] * 3)
    assert common == content
    assert [dict(records) for _, records in members] == [{}] * 3


def test_models_of_their_own_are_groups_of_their_own():
    contents = [RecordDict({"model": model(), "own": own(i)}) for i in range(3)]
    assert [[place for place, _ in members] for _, members in grouped(contents)] == [[0], [1], [2]]
    assert [common for common, _ in grouped(contents)] == contents


def test_small_contents_travel_together_whatever_they_hold():
    contents = [RecordDict({"own": own(i)}) for i in range(3)] + [RecordDict()]
    ((common, members),) = grouped(contents)
    assert len(common) == 0
    assert [len(records) for _, records in members] == [1, 1, 1, 0]


def test_equal_names_of_different_records_are_not_shared():
    first, second = model(), model(8)
    contents = [RecordDict({"model": m, "own": own(i)}) for i, m in enumerate([first, second] * 2)]
    groups = grouped(contents)
    assert [[place for place, _ in members] for _, members in groups] == [[0, 2], [1, 3]]
    assert groups[1][0]["model"] is second


def test_a_copy_of_messages_still_shares_what_they_shared():
    shared = model()
    population = Population(2, {})
    grid = InProcessGrid(Handlers(app), population)
    sent = [
        grid.create_message(RecordDict({"model": shared, "own": own(i)}), "train", i + 1, "g")
        for i in range(2)
    ]
    copies = [message.content for message in _as_they_are(sent)]
    assert copies[0]["model"] is copies[1]["model"]
    assert copies[0]["model"] is not shared
    assert copies[1]["own"] == own(1)


app = ClientApp()


@app.train()
def train(message: Message, context: Context) -> Message:
    """Answer with what this client alone was sent, and change it, as an app may."""
    number = int(message.content["own"]["number"])
    total = float(message.content["model"]["w"].numpy().sum())
    message.content["own"]["number"] = -1
    node = int(context.node_config["partition-id"])
    reply = {"number": number, "total": total, "client": node}
    return Message(RecordDict({"reply": ConfigRecord(reply)}), reply_to=message)


@pytest.fixture(params=["inprocess", "ray"])
def grid(request, cluster):
    population = Population(CLIENTS, {})
    if request.param == "inprocess":
        yield InProcessGrid(Handlers(app), population, size=5)
        return
    workers = RayWorkers(WorkerCode(app), population, 2)
    yield RayGrid(workers, size=5)
    workers.close()


def answers(replies):
    found = [reply.content["reply"] for reply in replies]
    assert not [reply for reply in replies if reply.has_error()]
    return sorted((r["client"], r["number"], r["total"]) for r in found)


def test_each_client_gets_what_it_alone_is_sent(grid):
    shared = model()
    contents = [(i + 1, RecordDict({"model": shared, "own": own(i * i)})) for i in range(CLIENTS)]
    expected = [(i, i * i, 6.0) for i in range(CLIENTS)]
    assert answers(list(grid.scatter(contents, "train", ttl=None, group_id="1"))) == expected
    # and so does an app that sends messages of its own making, waiting or not
    made = [grid.create_message(content, "train", node, "1") for node, content in contents]
    assert answers(list(grid.send_and_receive(made))) == expected
    made = [grid.create_message(content, "train", node, "1") for node, content in contents]
    left, replies = set(grid.push_messages(made)), []
    while left:
        replies += (pulled := list(grid.pull_messages(left)))
        left -= {reply.metadata.reply_to_message_id for reply in pulled}
    assert answers(replies) == expected
    assert contents[3][1]["own"]["number"] == 9  # as it was sent


def test_one_node_may_be_sent_several_messages(grid):
    shared = model()
    made = [
        grid.create_message(RecordDict({"model": shared, "own": own(i)}), "train", 4, "1")
        for i in range(6)
    ]
    assert answers(list(grid.send_and_receive(made))) == [(3, i, 6.0) for i in range(6)]


def test_the_model_is_put_into_the_object_store_once(cluster, monkeypatch):
    workers = RayWorkers(WorkerCode(app), Population(CLIENTS, {}), 2)
    grid, put = RayGrid(workers, size=2), cluster.put
    sizes = []

    class Ray:
        """Ray, counting the bytes of what is put."""

        def __getattr__(self, name):
            return getattr(cluster, name)

        def put(self, value):
            sizes.append(len(cluster.cloudpickle.dumps(value)))
            return put(value)

    monkeypatch.setattr(workers, "_ray", Ray())
    shared = model(250_000)
    contents = [(i + 1, RecordDict({"model": shared, "own": own(i)})) for i in range(CLIENTS)]
    replies = list(grid.scatter(contents, "train", ttl=None, group_id="1"))
    made = [grid.create_message(content, "train", node, "1") for node, content in contents]
    replies += grid.send_and_receive(made)
    workers.close()
    assert len(answers(replies)) == 2 * CLIENTS
    assert len(sizes) == 2  # once for each exchange, whatever the number of clients
    assert all(1_000_000 < size < 1_010_000 for size in sizes)
