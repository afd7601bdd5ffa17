"""Blocks that do not fit into memory are halved, and the run goes on."""

import pytest
import torch
from flwr.app import Message, MetricRecord, RecordDict
from flwr.app.metadata import Metadata

from fedsim.engine.blocks import Handlers, Population
from fedsim.engine.inprocess import InProcessGrid

ERRORS = {
    "python": MemoryError(),
    "cuda": torch.OutOfMemoryError("CUDA out of memory"),
    "cpu": RuntimeError("DefaultCPUAllocator: can't allocate memory: you tried ..."),
}


def block_app(most, error, seen):
    """Answer at most so many clients at once."""

    def answer(content, metadata, clients, states, run_config, limit):
        seen.append(len(clients))
        if len(clients) > most:
            raise error
        replies = []
        for place, client in enumerate(clients):
            instruction = Message(content=RecordDict(), metadata=Metadata(**metadata(place)))
            number = RecordDict({"m": MetricRecord({"client": client})})
            replies.append(Message(number, reply_to=instruction))
        return replies, {}

    return answer


def per_client(message, context):
    number = {"client": context.node_config["partition-id"], "alone": 1}
    return Message(RecordDict({"m": MetricRecord(number)}), reply_to=message)


def asked(most, error):
    seen = []
    handlers = Handlers(per_client, block=block_app(most, error, seen))
    grid = InProcessGrid(handlers, Population(11, {}), size=11)
    content = RecordDict()
    replies = grid.broadcast(content, list(grid.get_node_ids()), "train", ttl=None, group_id="1")
    records = [reply.content["m"] for reply in replies]
    assert sorted(record["client"] for record in records) == list(range(11))
    return seen, grid.incidents, records


@pytest.mark.parametrize("error", ERRORS.values(), ids=ERRORS)
def test_a_block_is_halved_until_it_fits(error):
    seen, incidents, records = asked(3, error)
    assert seen == [11, 6, 3, 3, 5, 3, 2]
    assert len(incidents) == 1
    assert "out of memory" in incidents[0]
    assert not any("alone" in record for record in records)


def test_another_error_is_not_taken_for_it():
    seen, incidents, records = asked(3, RuntimeError("shapes do not match"))
    assert seen == [11]
    assert "asked client by client" in incidents[0]
    assert all("alone" in record for record in records)


def test_one_client_that_does_not_fit_is_asked_by_itself():
    _, incidents, records = asked(0, MemoryError())
    assert incidents
    assert all("alone" in record for record in records)
