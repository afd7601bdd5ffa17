"""Our strategies as Flower `Strategy` objects, in an ordinary Flower app, on our grid."""

import numpy as np
import pytest
import torch
from flwr.app import Array, ArrayRecord, ConfigRecord, Message, MetricRecord, RecordDict
from flwr.clientapp import ClientApp
from flwr.serverapp.strategy import FedAvg as FlowerFedAvg

from fedsim.engine.blocks import Handlers, Population
from fedsim.engine.flower import FedsimStrategy
from fedsim.engine.inprocess import InProcessGrid
from fedsim.strategies.fedadam import FedAdam
from fedsim.strategies.fedavg import FedAvg
from fedsim.strategies.flower import Flower

CENTERS = np.random.default_rng(0).normal(size=(5, 2, 3)).astype(np.float32)


def quadratic_app():
    """Client i moves half way to its own centre and has i + 1 examples; an ordinary Flower app."""
    app = ClientApp()

    @app.train()
    def train(message, context):
        client = context.node_config["partition-id"]
        model = message.content["arrays"].to_torch_state_dict()
        new = {k: v + (torch.from_numpy(CENTERS[client]) - v) / 2 for k, v in model.items()}
        numbers = MetricRecord({"num-examples": client + 1, "loss": float(client)})
        return Message(
            RecordDict({"arrays": ArrayRecord(new), "metrics": numbers}), reply_to=message
        )

    @app.evaluate()
    def evaluate(message, context):
        (model,) = message.content["arrays"].to_torch_state_dict().values()
        client = context.node_config["partition-id"]
        error = float(((model - torch.from_numpy(CENTERS[client])) ** 2).mean())
        metrics = MetricRecord({"num-examples": client + 1, "error": error})
        return Message(RecordDict({"metrics": metrics}), reply_to=message)

    return app


def started(strategy, rounds=6, app=None):
    grid = InProcessGrid(Handlers(app or quadratic_app()), Population(5, {}))
    initial = ArrayRecord({"w": Array(np.zeros((2, 3), dtype=np.float32))})
    return strategy.start(grid=grid, initial_arrays=initial, num_rounds=rounds)


def model(result):
    return result.arrays["w"].numpy()


def test_fedavg_is_flowers_fedavg():
    ours = started(FedsimStrategy(FedAvg()))
    theirs = started(FlowerFedAvg(min_train_nodes=5, min_evaluate_nodes=5, min_available_nodes=5))
    assert model(ours) == pytest.approx(model(theirs), abs=1e-6)
    weights = np.arange(1, 6)[:, None, None]
    optimum = (CENTERS * weights).sum(axis=0) / weights.sum()
    assert np.abs(model(ours) - optimum).max() < np.abs(optimum).max() * 0.5**6 * 1.01
    last = ours.evaluate_metrics_clientapp[6]["error"]
    assert last == pytest.approx(theirs.evaluate_metrics_clientapp[6]["error"], abs=1e-6)


def test_fedadam_runs_in_a_flower_app_and_its_state_is_ours():
    strategy = FedsimStrategy(FedAdam(lr=0.1))
    result = started(strategy)
    assert sorted(strategy.state) == ["m", "model", "v"]
    assert model(result).ravel() == pytest.approx(strategy.state["model"].float().numpy())
    assert result.train_metrics_clientapp[1]["loss"] == pytest.approx(40 / 15)


def test_there_and_back_again():
    """Flower's FedAvg as ours, as a Flower strategy, equals Flower's FedAvg."""
    twice = started(FedsimStrategy(Flower("FedAvg")))
    assert model(twice) == pytest.approx(model(started(FedsimStrategy(FedAvg()))), abs=1e-6)


def test_bad_clients_do_not_count():
    good = quadratic_app()
    app = ClientApp()

    @app.train()
    def train(message, context):
        client = context.node_config["partition-id"]
        if client == 0:
            raise RuntimeError("down")
        reply = good(message, context)
        if client == 1:
            bad = {"w": Array(np.full((2, 3), np.nan, dtype=np.float32))}
            reply.content["arrays"] = ArrayRecord(bad)
        if client == 2:
            reply.content["arrays"] = ArrayRecord({"w": Array(np.zeros(7, dtype=np.float32))})
        return reply

    @app.evaluate()
    def evaluate(message, context):
        return good(message, context)

    result = started(FedsimStrategy(FedAvg()), rounds=1, app=app)
    expected = (CENTERS[3] * 4 + CENTERS[4] * 5) / 9 / 2
    assert model(result) == pytest.approx(expected, abs=1e-6)


def test_nobody_answers():
    app = ClientApp()

    @app.train()
    def train(message, context):
        raise RuntimeError("down")

    strategy = FedsimStrategy(FedAvg())
    grid = InProcessGrid(Handlers(app), Population(2, {}))
    arrays = ArrayRecord({"w": Array(np.zeros(2, dtype=np.float32))})
    messages = strategy.configure_train(1, arrays, ConfigRecord(), grid)
    assert strategy.aggregate_train(1, grid.send_and_receive(messages)) == (None, None)


def test_push_and_pull():
    grid = InProcessGrid(Handlers(quadratic_app()), Population(3, {}))
    arrays = ArrayRecord({"w": Array(np.zeros((2, 3), dtype=np.float32))})
    content = RecordDict({"arrays": arrays, "config": ConfigRecord()})
    sent = [grid.create_message(content, "train", node, "1") for node in grid.get_node_ids()]
    ids = list(grid.push_messages(sent))
    replies = {}
    while len(replies) < 2:  # in any order: one may come while another is looked for
        for reply in grid.pull_messages([i for i in ids[:2] if i not in replies]):
            replies[reply.metadata.reply_to_message_id] = reply.metadata.src_node_id
    assert replies == dict(zip(ids, [1, 2], strict=False))
    while not (last := list(grid.pull_messages(ids[2:]))):
        pass
    assert [reply.metadata.src_node_id for reply in last] == [3]
    assert all(reply.has_error() for reply in grid.pull_messages(ids))  # each reply comes once


def test_an_unknown_node_is_refused():
    grid = InProcessGrid(Handlers(quadratic_app()), Population(3, {}))
    message = grid.create_message(RecordDict(), "train", 99, "1")
    with pytest.raises(ValueError, match="99"):
        grid.send_and_receive([message])
