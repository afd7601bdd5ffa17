"""What robust rules share: each client counts once, in float64, and f of them may send anything.

A rule states `least()`, the fewest updates with which it bears its `f`: the configuration is
refused where a cohort is smaller, and a round ends the run where fewer came back. The updates are
not weighted: a weight is the client's own word, and a robust rule trusts nobody's.
"""

from collections.abc import Mapping, Sequence
from typing import Any, Protocol

import torch
from torch import Tensor

from fedsim import registry
from fedsim.core import RoundContext, State, Update
from fedsim.errors import ConfigError, Problem, RunFailedError
from fedsim.fields import read_table

__all__ = ["Rule", "inner_rule", "must_bear", "robust_step", "squared_distances"]


class Rule(Protocol):
    """A robust rule: many vectors in, one vector out."""

    @property
    def lr(self) -> float:
        """Return the server learning rate."""
        ...

    def least(self) -> int:
        """Return the fewest updates with which the rule bears its f."""
        ...

    def aggregate(
        self, vectors: Tensor, state: State, ctx: RoundContext
    ) -> tuple[Tensor, dict[str, Tensor]]:
        """Return the move for updates [clients, model], float64, and what to keep of the round."""
        ...


def robust_step(rule: Rule, state: State, updates: Sequence[Update], ctx: RoundContext) -> State:
    """Move the model by what the rule makes of the updates.

    Raises `RunFailedError` for fewer updates than the rule bears its f with.
    """
    must_bear(type(rule).__name__, rule.least(), len(updates))
    vectors = torch.stack([u.vector.double() for u in sorted(updates, key=_content)])
    move, kept = rule.aggregate(vectors, state, ctx)
    return {**kept, "model": state["model"] + rule.lr * move}


def must_bear(name: str, least: int, count: int) -> None:
    """Raise `RunFailedError` where `count` vectors are too few."""
    if count < least:
        raise RunFailedError(
            f"{name} needs {least} updates to bear the f it was given, and {count} came back: "
            "lower strategy.f, or ask more clients"
        )


def squared_distances(vectors: Tensor) -> Tensor:
    """Return squared Euclidean distances [clients, clients] of vectors [clients, model].

    By differences: |x|^2 + |y|^2 - 2 x.y loses everything where updates are small beside their
    common part.
    """
    distances: Tensor = torch.cdist(
        vectors, vectors, compute_mode="donot_use_mm_for_euclid_dist"
    ).square()
    return distances


def inner_rule(name: str, options: Mapping[str, Any]) -> Any:
    """Return the robust strategy of a name, for a rule that prepares updates for another.

    Raises `ConfigError` for a strategy that does not exist or is not robust, and for options that
    it does not have.
    """
    kind = registry.load("strategies", name)
    problems: list[Problem] = []
    if not hasattr(kind, "aggregate") or hasattr(kind, "root_rows"):
        accepted = "a robust rule, such as krum, rfa or centered-clipping"
        raise ConfigError([Problem("strategy.rule", name, accepted)])
    rule = read_table("strategy.options", kind, options, problems)
    if problems:
        raise ConfigError(problems)
    return rule


def _content(update: Update) -> tuple[float, bytes]:
    """Order updates by what is in them, so that no tie or draw hangs on a client's number."""
    return float(update.vector.double().sum()), update.vector[:64].numpy().tobytes()
