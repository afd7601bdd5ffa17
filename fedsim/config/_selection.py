"""Legality of selection: what may depend on clients' answers, and where draws are accounted for."""

from collections.abc import Callable

from fedsim.config.schema import RunConfig
from fedsim.core import is_asynchronous
from fedsim.registry import name_of
from fedsim.selection.uniform import Uniform

__all__ = ["check"]

Refuse = Callable[..., None]


def check(config: RunConfig, refuse: Refuse) -> None:
    """Refuse a selection that would break what something else rests on."""
    selection = config.selection
    if selection is None or isinstance(selection, Uniform) or config.mode != "federated":
        return
    name, accepts = name_of("selection", selection), "'uniform'"
    if config.privacy.unit != "none":
        accepted = f"{accepts} with a privacy unit: it accounts for its own draw, privacy.sampling"
        refuse("selection.name", name, accepted, "Set selection.name=uniform.")
    if is_asynchronous(config.strategy):
        accepted = f"{accepts} with a strategy that asks whoever is free"
        refuse("selection.name", name, accepted)
    if config.rounds.cohort is None:
        accepted = f"{accepts} without rounds.cohort: all clients are asked"
        refuse("selection.name", name, accepted, "Set rounds.cohort.")
    if selection.needs != "nothing" and config.secure_sum.name != "plain":
        accepted = "uniform, cyclic or poisson: a secure sum tells nothing of single clients"
        refuse("selection.name", name, accepted)
    if selection.needs == "updates":
        _check_weights(config, name, refuse)
    candidates = getattr(selection, "candidates", None)
    if candidates and config.rounds.cohort and candidates < config.rounds.cohort:
        refuse("selection.candidates", candidates, f"at least {config.rounds.cohort}, the cohort")


def _check_weights(config: RunConfig, name: str, refuse: Refuse) -> None:
    """Refuse what a sum whose terms are weighted by their chances would not mean the same to."""
    strategy = config.strategy
    if getattr(strategy, "needs", "sum") != "sum" or getattr(strategy, "goes_with", ()):
        accepted = "one that adds updates up, such as fedavg: selection weighs what is added"
        refuse("strategy.name", name_of("strategies", strategy), accepted)
    if hasattr(config.transform, "conclude"):
        accepted = "one whose sum is a sum of updates: selection weighs what is added"
        refuse("transform.name", name_of("transforms", config.transform), accepted)
    if config.rounds.over_selection != 1 or config.rounds.deadline_s is not None:
        accepted = "another, or no over-selection and no deadline: chances would not be as drawn"
        refuse("selection.name", name, accepted)
