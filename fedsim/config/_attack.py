"""Legality of simulated attacks: what there is for an adversary to see and to change."""

from collections.abc import Callable

from fedsim.attacks.honest import Honest
from fedsim.config.schema import RunConfig
from fedsim.core import is_asynchronous
from fedsim.registry import name_of

__all__ = ["check"]

Refuse = Callable[..., None]

_CLIENT_SIDE = (
    "label-flip, backdoor, sign-flip, scaling and gaussian need what a client itself has."
)


def check(config: RunConfig, refuse: Refuse) -> None:
    """Refuse an attack that could not be made, or that nobody would account for."""
    attack = config.attack
    if attack is None or isinstance(attack, Honest):
        return
    name, unit = name_of("attacks", attack), config.privacy.unit
    if unit in ("example", "local"):
        accepted = f"'honest' with privacy.unit = {unit!r}: a client that lies keeps no account"
        refuse("attack.name", name, accepted)
    if hasattr(attack, "craft"):
        if config.secure_sum.name != "plain":
            accepted = (
                "a client's own attack: a secure sum shows nobody the updates it is made from"
            )
            refuse("attack.name", name, accepted, _CLIENT_SIDE)
        if is_asynchronous(config.strategy):
            accepted = "a client's own attack: without rounds there is no set of updates to see"
            refuse("attack.name", name, accepted, _CLIENT_SIDE)
        if unit == "user":
            accepted = "a client's own attack: with privacy.unit = 'user' there is only the sum"
            refuse("attack.name", name, accepted, _CLIENT_SIDE)
    if hasattr(attack, "poison") and config.anonymization.name != "none":
        accepted = "one that leaves rows alone: anonymized rows are those that were agreed on"
        refuse("attack.name", name, accepted, "sign-flip, scaling and gaussian do.")
