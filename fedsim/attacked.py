"""What simulated adversaries do to a round, and how well: the server's side of an attack."""

from dataclasses import replace

from torch import Tensor

from fedsim import exact, messages, metrics, rng
from fedsim.adversaries import Poisoned, crafted, is_omniscient
from fedsim.answers import Answers, lose
from fedsim.core import State
from fedsim.exact import FixedPoint, InvalidUpdateError
from fedsim.federation import Federation

__all__ = ["carry_out", "malicious", "success"]


def carry_out(
    federation: Federation, state: State, answers: Answers, form: FixedPoint, number: int
) -> State:
    """Put what an omniscient adversary's clients send in the place of their updates.

    One that must not be in a sum is lost. Returns what the adversary remembers, for the server's
    state; nothing where there is no such adversary.
    """
    if not is_omniscient(federation.config):
        return {}
    own, stream = federation.adversaries, rng.stream(federation.config.seed, "attack", round=number)
    found, kept = crafted(federation.config, own, answers.updates, state, stream)
    for client in sorted(own.clients & found.keys()):
        try:
            exact.check(found[client], form)
        except InvalidUpdateError as error:
            del found[client]
            size = answers.records[client].bytes_down
            lose(answers, client, messages.TRAIN, str(error), size)
    answers.updates = found
    return kept


def malicious(federation: Federation, answers: Answers) -> dict[str, float]:
    """Return how many malicious clients count in a round, in a simulation with any."""
    own = federation.adversaries.clients
    if not own:
        return {}
    counted = (client for client, record in answers.records.items() if not record.lost)
    return {"attack/clients": float(len(own.intersection(counted)))}


def success(federation: Federation, model: Tensor) -> dict[str, float]:
    """Return which part of triggered test rows goes to a backdoor's target, where there is one."""
    clients = federation.clients
    if not isinstance(clients, Poisoned) or clients.triggered is None:
        return {}
    told = replace(federation, metrics=("accuracy",)).evaluate(model, clients.triggered)
    return {"attack/success": metrics.value("accuracy", told["accuracy"])}
