"""Legality of transforms that make updates shorter: what can be added up, masked and clipped."""

from collections.abc import Callable
from typing import Any

from fedsim.coding import kind_of
from fedsim.config.schema import CORRELATED, RunConfig
from fedsim.core import is_asynchronous
from fedsim.registry import name_of

__all__ = ["adds_up", "check"]

Refuse = Callable[..., None]

_ADD = "randomk-shared, pruning, lora and signsgd"


def adds_up(part: Any) -> bool:
    """Say whether a sum of what clients send is all that the server needs of it."""
    return kind_of(part) in ("dense", "linear") or bool(getattr(part, "adds", False))


def check(config: RunConfig, refuse: Refuse) -> None:
    """Refuse what a transform cannot be combined with, and say the nearest thing that it can."""
    part = config.transform
    if part is None or kind_of(part) == "dense" or config.mode != "federated":
        return
    name, privacy = name_of("transforms", part), config.privacy
    if config.secure_sum.name != "plain" and not adds_up(part):
        accepted = f"one whose codes add up under masks, as those of {_ADD} do"
        hint = "secure_sum.bits rounds what every transform leaves to fewer bits."
        refuse("transform.name", name, accepted, hint)
    if privacy.unit == "local":
        accepted = "'unchanged': each number has noise of its own, which a code would lose or send"
        refuse("transform.name", name, accepted)
    if privacy.unit == "user":
        _check_user_level(config, name, refuse)
    if is_asynchronous(config.strategy) and (hasattr(part, "settle") or hasattr(part, "conclude")):
        accepted = "one that needs no rounds: models of several ages are at work at once"
        refuse("transform.name", name, accepted)
    if hasattr(part, "adapt"):
        _check_adapted(config, name, refuse)


def _check_user_level(config: RunConfig, name: str, refuse: Refuse) -> None:
    """Refuse what noise on the sum would not cover."""
    part, own = config.transform, config.privacy.mechanism
    if not adds_up(part):
        accepted = f"one whose codes add up, as those of {_ADD} do: what is clipped is what is sent"
        refuse("transform.name", name, accepted)
    elif getattr(part, "feedback", "none") != "none":
        accepted = "'none' with privacy.unit = 'user': clipping would cut off what is fed back"
        refuse("transform.feedback", part.feedback, accepted)
    if own in CORRELATED and (name == "randomk-shared" or getattr(part, "subspace", "") != "fixed"):
        accepted = f"'unchanged' with mechanism {own!r}: a round's noise takes back that of others"
        refuse("transform.name", name, accepted)
    if getattr(part, "rounds", 1) > 1:
        accepted = "1 with privacy.unit = 'user': the noise is planned for one number of weights"
        refuse("transform.rounds", part.rounds, accepted)


def _check_adapted(config: RunConfig, name: str, refuse: Refuse) -> None:
    """Refuse local algorithms that look at the model's own weights while they train."""
    local, needs = config.local, "gradient steps, as sgd and fedprox"
    own = None if local is None else name_of("clients", local)  # None: it is refused already
    if own is not None and getattr(local, "recipe", None) is None:
        accepted = f"one that is {needs}, with transform.name = {name!r}: others know the model"
        refuse("local.name", own, accepted, "Set local.name=sgd.")
    elif config.privacy.unit == "example" or own == "dp-sgd":
        accepted = (
            "a transform that leaves the layers as they are: gradients per example are theirs"
        )
        refuse("transform.name", name, accepted)
