"""Made-up rounds of updates, and Flower's own strategies run on them as the reference."""

import numpy as np
import pytest
import torch

from fedsim.core import RoundContext, Sum, Update

DIMENSION = 7


def made_rounds(rounds=6, clients=5, seed=0):
    """Updates of several rounds; clients have different weights."""
    rng = np.random.default_rng(seed)
    return [
        [
            Update(
                torch.from_numpy(rng.normal(size=DIMENSION).astype(np.float32)),
                float(rng.integers(1, 50)),
                {"loss": float(rng.random())},
            )
            for _ in range(clients)
        ]
        for _ in range(rounds)
    ]


def total(updates):
    """Add updates up in float64."""
    weighted = [update.weight * update.vector.double() for update in updates]
    return Sum(sum(weighted), sum(u.weight for u in updates), len(updates))


def run(part, rounds, model, state=None):
    """Step a strategy over rounds of updates; return its models and last state."""
    state, models = state or part.init(model), []
    for number, updates in enumerate(rounds, start=1):
        given = total(updates) if part.needs == "sum" else updates
        state = part.step(state, given, RoundContext(0, number, len(updates)))
        models.append(state["model"].numpy())
    return models, state


def run_flower(strategy, rounds, model):
    """Run a Flower strategy in float64 through its own interface; return its models."""
    from flwr.app import Array, ArrayRecord, ConfigRecord, Message, MetricRecord, RecordDict
    from flwr.app.metadata import Metadata

    models, model = [], model.numpy()
    for number, updates in enumerate(rounds, start=1):
        strategy.configure_train(number, ArrayRecord({"w": Array(model)}), ConfigRecord(), None)
        replies = []
        for node, update in enumerate(updates, start=1):
            content = RecordDict(
                {
                    "arrays": ArrayRecord({"w": Array(model + update.vector.double().numpy())}),
                    "metrics": MetricRecord({"num-examples": update.weight}),
                }
            )
            metadata = Metadata(1, "", node, 1, "", "", 0.0, 1.0, "train")
            replies.append(Message(content=content, metadata=metadata))
        arrays, _ = strategy.aggregate_train(number, replies)
        model = np.array(arrays["w"].numpy())
        models.append(model)
    return models


@pytest.fixture
def rounds():
    return made_rounds()


@pytest.fixture
def model():
    return torch.linspace(-1, 1, DIMENSION, dtype=torch.float64)


@pytest.fixture
def server():
    """`server(part, rounds, model)` -> models after each round, last state."""
    return run


@pytest.fixture
def flower_server():
    """`flower_server(flower_strategy, rounds, model)` -> models after each round."""
    return run_flower
