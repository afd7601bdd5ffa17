"""Legality of the virtual clock and of asynchronous strategies: what bears them."""

from collections.abc import Callable
from typing import Any

from fedsim.config.schema import RunConfig
from fedsim.core import is_asynchronous
from fedsim.devices.untimed import Untimed
from fedsim.registry import name_of
from fedsim.selection.uniform import Uniform

__all__ = ["check", "check_population"]

Refuse = Callable[..., None]


def check(config: RunConfig, refuse: Refuse) -> None:
    """Refuse what the clock cannot do, and what rests on everybody being waited for."""
    if config.mode != "federated":
        return  # baselines have no clock
    if is_asynchronous(config.strategy):
        _check_asynchronous(config, refuse)
        return
    rounds, has_clock = config.rounds, not isinstance(config.devices, Untimed)
    for name, usual in (("deadline_s", None), ("late", None), ("over_selection", 1.0)):
        value = getattr(rounds, name)
        if value != usual and not has_clock and config.devices is not None:
            accepted = f"{'unset' if usual is None else usual} without [devices]: no clock runs"
            refuse(f"rounds.{name}", value, accepted, "Set devices.name=drawn.")
    if rounds.late and rounds.deadline_s is None and has_clock:
        refuse("rounds.late", rounds.late, "unset without rounds.deadline_s: nobody is late")
    if rounds.over_selection > 1:
        _check_over_selection(config, refuse)
    if rounds.deadline_s:
        _check_partial(config, refuse)


def check_population(config: RunConfig, clients: int, refuse: Refuse) -> None:
    """Refuse a buffer that so many clients could never fill."""
    if config.mode != "federated" or not is_asynchronous(config.strategy):
        return
    if config.strategy.buffer > clients:
        refuse("strategy.buffer", config.strategy.buffer, f"at most {clients}, all clients")


def _check_over_selection(config: RunConfig, refuse: Refuse) -> None:
    factor, secure = config.rounds.over_selection, config.secure_sum
    if config.privacy.unit != "none":
        accepted = (
            "1 with privacy.unit: whose update is in the sum would depend on how fast others are, "
            "so that one client more or less changes two of them, which no accountant counts"
        )
        refuse("rounds.over_selection", factor, accepted, "rounds.deadline_s goes with it.")
    if secure.name != "plain" and factor * secure.threshold > 1:
        accepted = (
            f"at most {1 / secure.threshold:.3g}: a secure sum opens only while "
            f"secure_sum.threshold = {secure.threshold:.3g} of those asked are in it"
        )
        refuse("rounds.over_selection", factor, accepted)


def _check_partial(config: RunConfig, refuse: Refuse) -> None:
    """Refuse fewer epochs for late clients where it is asked for, and not to be had."""
    local, late = config.local, config.rounds.late
    own = getattr(local, "late", "drop")
    if (late or own) != "partial" or local is None:
        return
    path, value = ("rounds.late", "partial") if late else ("local.name", type(local).__name__)
    hint = "Set rounds.late=drop."
    if not hasattr(local, "epochs") or getattr(local, "steps", None) is not None:
        accepted = "'drop': local training is not counted in epochs (unset local.steps)"
        refuse(path, value, accepted, hint)
    if config.secure_sum.name != "plain":
        accepted = "'drop' with a secure sum: all of its clients are told the same"
        refuse(path, value, accepted, hint)
    if config.privacy.unit == "example":
        accepted = "'drop' with privacy.unit = 'example': a client's steps are accounted for"
        refuse(path, value, accepted, hint)


def _check_asynchronous(config: RunConfig, refuse: Refuse) -> None:
    rounds, name = config.rounds, type(config.strategy).__name__
    if config.secure_sum.name != "plain":
        accepted = f"'plain' with {name}: masks cancel among clients that begin together"
        refuse("secure_sum.name", config.secure_sum.name, accepted, "Set strategy.name=fedavg.")
    if config.privacy.unit != "none":
        accepted = (
            f"'none' with {name}: how often a client takes part, and who else does, depends on how "
            "fast it is, and no accountant here bears that"
        )
        refuse("privacy.unit", config.privacy.unit, accepted, "Set strategy.name=fedavg.")
    for field, usual in (("deadline_s", None), ("late", None), ("over_selection", 1.0)):
        value: Any = getattr(rounds, field)
        if value != usual:
            accepted = f"{'unset' if usual is None else usual} with {name}: it waits for nobody"
            refuse(f"rounds.{field}", value, accepted)
    if config.selection is not None and not isinstance(config.selection, Uniform):
        accepted = f"'uniform' with {name}: whoever is idle begins, and no round is drawn for"
        refuse("selection.name", name_of("selection", config.selection), accepted)
    if rounds.min_results > config.strategy.buffer:
        accepted = f"at most strategy.buffer = {config.strategy.buffer}"
        refuse("rounds.min_results", rounds.min_results, accepted)
