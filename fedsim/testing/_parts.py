"""Parts as the contract tests make them, and small problems for them to work on."""

from collections.abc import Sequence
from dataclasses import replace
from functools import cache
from typing import Any

import numpy as np
import torch
from torch import Tensor, nn

from fedsim import exact, losses, registry
from fedsim.core import (
    ClientContext,
    Memo,
    Public,
    RoundContext,
    State,
    Task,
    Update,
    broadcast,
)
from fedsim.models import set_vector
from fedsim.optimizers.gd import Gd

__all__ = [
    "DIMENSION",
    "Clients",
    "cohort_of",
    "context",
    "half_of",
    "local_of",
    "network_for",
    "optimum_of",
    "step",
    "strategy_of",
]

DIMENSION = 9
_EXAMPLES = 12


def strategy_of(name: str) -> Any:
    """Make a strategy with the fields that it declares for these tests."""
    return _made("strategies", name)


def local_of(name: str) -> Any:
    """Make a local algorithm with the fields that it declares for these tests."""
    return _made("clients", name)


def _made(group: str, name: str) -> Any:
    kind = registry.load(group, name)
    return kind(**getattr(kind, "contract", {}))


def network_for(part: Any) -> nn.Module:
    """Return a small network of four inputs and three outputs that a local algorithm can train."""
    for norm in (nn.BatchNorm1d(8), nn.GroupNorm(2, 8)):
        torch.manual_seed(0)
        layers = nn.Linear(4, 8), norm, nn.Tanh(), nn.Dropout(0.3), nn.Linear(8, 3)
        network = nn.Sequential(*layers)
        if not (part.refuses(network) if hasattr(part, "refuses") else ""):
            return network
    raise LookupError(f"{type(part).__name__} refuses the networks of the contract tests")


def half_of(part: Any, group: str, otherwise: str) -> str:
    """Return the name of the other half of a part's method, in `group`."""
    halves = getattr(part, "goes_with", ())
    return str(halves[0]) if halves else otherwise


def cohort_of(part: Any) -> int:
    """Return how many clients a strategy is tested with: one more than it needs, at least four."""
    return max(4, part.least() + 1 if hasattr(part, "least") else 0)


def optimum_of(part: Any) -> str:
    """Return what a strategy finds: "mean", only what all clients agree on, "agreed", or "none".

    "none": clients learn, each by itself, and the model that the server has is nobody's.
    """
    is_robust = getattr(part, "needs", "sum") == "updates"
    return str(getattr(part, "optimum", "agreed" if is_robust else "mean"))


def context(number: int, cohort: int) -> RoundContext:
    """Return the context of a round that everybody takes part in."""
    public = Public(_inputs(0), nn.Linear(DIMENSION, 1, bias=False))
    return RoundContext(0, number, cohort, cohort, range(cohort), public)


def step(part: Any, state: State, updates: Sequence[Update], number: int) -> State:
    """Step as a round does: exact sums, or the single updates in client order."""
    told = context(number, len(updates))
    if hasattr(part, "root_rows"):  # the server's own update: here what clients agree on
        root = torch.stack([update.vector for update in updates]).mean(dim=0)
        told = replace(told, root=root)
    if part.needs == "updates":
        return dict(part.step(state, list(updates), told))
    form = exact.fixed_point(DIMENSION, max_abs=64.0, max_weight=100.0, cohort=len(updates))
    total = exact.decode(exact.add(exact.encode(update, form) for update in updates), form)
    return dict(part.step(state, total, told))


@cache
def _inputs(client: int) -> Tensor:
    """Return a client's inputs, whitened: every least-squares problem has the curvature 1."""
    rng = np.random.default_rng(100 + client)
    q, _ = np.linalg.qr(rng.normal(size=(_EXAMPLES + client, DIMENSION)))
    return torch.from_numpy(q * np.sqrt(len(q) / 2)).float()


class Clients:
    """Clients with least-squares problems, each with the half that a strategy goes with.

    `targets[i]`: where client i's loss is least; None: its inputs are 0, and nothing to be learned.
    """

    def __init__(self, part: Any, targets: Sequence[Tensor | None]) -> None:
        self.part, self.targets = part, targets
        self.local = local_of(half_of(part, "clients", "sgd"))
        self.memos: list[Memo] = [{} for _ in targets]
        self.module = nn.Linear(DIMENSION, 1, bias=False)

    def updates(self, state: State, number: int) -> list[Update]:
        """Train every client from the state's model, at rate 0.2; return what they send."""
        optimizer: Any = Gd(lr=0.2)
        model, extras = state["model"].float(), broadcast(self.part, state)
        found = []
        for client, target in enumerate(self.targets):
            x = _inputs(client) if target is not None else torch.zeros_like(_inputs(client))
            y = x @ target.float() if target is not None else torch.ones(len(x))
            set_vector(self.module, model)
            loss = losses.LOSSES["mse"]
            task = Task(
                self.module,
                model,
                x,
                y[:, None],
                loss,
                optimizer,
                extras=extras,
                public=Public(_inputs(0), self.module),
            )
            told = ClientContext(0, number, client)
            update, self.memos[client] = self.local.train(task, self.memos[client], told)
            found.append(update)
        return found
