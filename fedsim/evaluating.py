"""When a model is tested in a round, and how: by the server, and by clients on their own."""

import math
from collections.abc import Sequence
from functools import partial

import torch
from torch import Tensor

from fedsim import attacked, messages, metrics, rng, sampling
from fedsim.answers import Answers, send, timed
from fedsim.carrier import Carrier
from fedsim.core import State, broadcast
from fedsim.exact import FixedPoint
from fedsim.federation import Federation, test_set

__all__ = ["tested"]


def tested(
    grid: Carrier,
    nodes: Sequence[int],
    federation: Federation,
    number: int,
    state: State,
    form: FixedPoint,
    seconds: dict[str, float],
) -> tuple[dict[str, float], Answers]:
    """Return what the tests that are due after a round come to, and what clients answered.

    `state`: of the strategy after the round. `seconds` gets the time of each test.
    """
    values: dict[str, float] = {}
    model = state["model"].float()
    answers = Answers()
    if _is_due(federation.config.evaluation.central_every, number, federation):
        values |= timed(seconds, "test", partial(_central, federation, model))
    if _is_due(federation.config.evaluation.federated_every, number, federation):
        work = partial(_ask, grid, nodes, federation, number, state, form)
        answers = timed(seconds, "evaluate", work)
        values |= _federated_metrics(answers)
    return values, answers


def _ask(
    grid: Carrier,
    nodes: Sequence[int],
    federation: Federation,
    number: int,
    state: State,
    form: FixedPoint,
) -> Answers:
    """Have clients test the model: all of them, or a draw of `evaluation.clients`."""
    config, model = federation.config, state["model"].float()
    clients = sampling.uniform(
        federation.population,
        config.evaluation.clients,
        rng.stream(config.seed, "evaluation", round=number),
    )
    order = messages.Train(model, number)
    if hasattr(config.local, "adapted"):  # it may train, or look at what else was sent
        extras = broadcast(config.strategy, state)
        order = messages.Train(model, number, federation.lr_factor(number), extras=extras)
    ids = [int(client) for client in clients]
    return send(grid, nodes, ids, messages.EVALUATE, order, config, form)


def _central(federation: Federation, model: Tensor) -> dict[str, float]:
    if federation.config.mode == "local-only":
        return {}  # there is no global model; every client's own one is tested by `evaluate`
    statistics = federation.evaluate(model, test_set(federation))
    values = {f"test/{name}": value for name, value in metrics.values(statistics).items()}
    return values | attacked.success(federation, model)


def _federated_metrics(answers: Answers) -> dict[str, float]:
    """Metrics over all clients' examples, and their spread over clients.

    `worst_decile` is the mean of the worst tenth of the clients (at least one), as in Li et al.,
    "Fair resource allocation in federated learning", ICLR 2020, section 4; `variance` is over
    clients. Fills in each client's own values in `answers.records`.
    """
    by_client: dict[int, dict[str, Tensor]] = {}
    for ids, statistics in answers.statistics:
        for i, client in enumerate(ids):
            by_client[client] = {name: rows[i] for name, rows in statistics.items()}
    ids = [i for i in sorted(by_client) if answers.records[i].weight > 0]
    if not ids:
        return {}
    values: dict[str, float] = {}
    per_client: dict[int, dict[str, float]] = {client: {} for client in ids}
    for name in sorted(by_client[ids[0]]):
        metric = name.split("/")[1]
        column = [by_client[client][name] for client in ids]
        total = torch.stack(column).sum(dim=0)
        values[name] = metrics.value(metric, total)
        each = {client: metrics.value(metric, row) for client, row in zip(ids, column, strict=True)}
        for client, value in each.items():
            per_client[client][name] = value
        values |= _spread(name, [v for v in each.values() if math.isfinite(v)])
    for client, own in per_client.items():
        answers.records[client] = answers.records[client]._replace(metrics=own)
    return values


def _spread(name: str, values: list[float]) -> dict[str, float]:
    if not values:
        return {}
    metric = name.split("/")[1]
    worst_first = sorted(values, reverse=not metrics.larger_is_better(metric))
    tenth = worst_first[: max(1, len(values) // 10)]
    mean = math.fsum(values) / len(values)
    variance = math.fsum((value - mean) ** 2 for value in values) / len(values)
    return {
        f"{name}/worst_decile": math.fsum(tenth) / len(tenth),
        f"{name}/variance": variance,
    }


def _is_due(every: int, number: int, federation: Federation) -> bool:
    return every > 0 and (number % every == 0 or number == federation.config.rounds.count)
