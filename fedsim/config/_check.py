"""Legality: what fits together, before anything starts, and again when the data are known."""

import re
from collections.abc import Callable
from typing import Any

from fedsim import losses, metrics
from fedsim.clients.local_only import LocalOnly
from fedsim.config import (
    _anonymization,
    _attack,
    _compression,
    _distributed,
    _heterogeneity,
    _individual,
    _secure_sum,
    _selection,
)
from fedsim.config._address import ADDRESSES, is_address
from fedsim.config.schema import CORRELATED, Engine, Privacy, RunConfig
from fedsim.data import Meta
from fedsim.data._types import BornFederated
from fedsim.errors import ConfigError, Problem
from fedsim.fields import fields_of
from fedsim.models import UserModel
from fedsim.privacy.events import DISCRETE
from fedsim.registry import name_of, suggest
from fedsim.transforms.clip import Clip

__all__ = ["check", "check_data", "illegal"]

Source = Callable[[str], str]

_MODEL = re.compile(r"[^\W\d]\w*(\.[^\W\d]\w*)*:[^\W\d]\w*")


def check(config: RunConfig, source: Source = lambda path: "") -> None:
    """Refuse what cannot work whatever the data are; raises `ConfigError` with all problems."""
    problems = illegal(config, source)
    if problems:
        raise ConfigError(problems)


def illegal(config: RunConfig, source: Source) -> list[Problem]:
    """List what cannot work whatever the data are; a part that is None has a problem already."""
    problems: list[Problem] = []

    def refuse(path: str, value: object, accepted: str, hint: str = "") -> None:
        problems.append(Problem(path, value, accepted, hint, source(path)))

    for name in config.metrics:
        if name not in metrics.METRICS:
            known = list(metrics.METRICS)
            refuse("metrics", name, f"one of {', '.join(known)}", suggest(name, known))
    _check_cohort(config, _known_clients(config), refuse)
    for key in ("path", "target"):
        if getattr(config.data, key, "given") == "":
            refuse(f"data.{key}", "", "set: the file, and the column to predict")
    if isinstance(config.model, UserModel) and not _MODEL.fullmatch(config.model.name):
        refuse("model.name", config.model.name, "module:function, such as mypackage.models:build")
    if isinstance(config.local, LocalOnly):
        accepted = "a local algorithm of a federation; this one is a baseline"
        refuse("local.name", "local-only", accepted, "Set mode=local-only instead.")
    needs = getattr(config.strategy, "needs", "sum")
    if needs not in ("sum", "updates"):
        name = type(config.strategy).__name__.lower()
        refuse("strategy.name", name, f"a strategy that needs 'sum' or 'updates', not {needs!r}")
    _check_halves(config, refuse)
    _check_public(config, refuse)
    _check_engine(config.engine, refuse)
    _anonymization.check(config, refuse)
    _attack.check(config, refuse)
    _selection.check(config, refuse)
    _check_privacy(config, refuse)
    _secure_sum.check(config, refuse)
    _compression.check(config, refuse)
    _distributed.check(config, refuse)
    _individual.check(config, refuse)
    _heterogeneity.check(config, refuse)
    if clients := _known_clients(config):
        _secure_sum.check_population(config, clients, refuse)
        _heterogeneity.check_population(config, clients, refuse)
    return problems


def _check_halves(config: RunConfig, refuse: Callable[..., None]) -> None:
    """Refuse one half of a method whose other half is missing, on the server or on clients."""
    strategy, local = config.strategy, config.local
    if strategy is None or local is None or config.mode != "federated":
        return
    names = {"strategy": name_of("strategies", strategy), "local": name_of("clients", local)}
    wanted: dict[str, tuple[str, ...]] = {
        "local": getattr(strategy, "goes_with", ()),
        "strategy": getattr(local, "goes_with", ()),
    }
    for half, other in (("local", "strategy"), ("strategy", "local")):
        if wanted[half] and names[half] not in wanted[half]:
            accepted = f"{' or '.join(wanted[half])} with {other}.name = {names[other]!r}"
            refuse(f"{half}.name", names[half], accepted, f"Set {half}.name={wanted[half][0]}.")
        elif wanted[half] and half == "local":
            _check_shared(strategy, local, refuse)
    if wanted["strategy"] and config.privacy.unit != "none":
        accepted = "sgd or fedprox: noise covers an update alone, not what a method's halves share"
        refuse("local.name", names["local"], accepted, "Set local.name=sgd.")


def _check_shared(strategy: Any, local: Any, refuse: Callable[..., None]) -> None:
    """Refuse halves of a method that were given different values of what both have to know."""
    first, second = (fields_of(kind) for kind in map(type, (strategy, local)))
    for name in sorted(first.keys() & second.keys()):
        there, here = getattr(strategy, name), getattr(local, name)
        if there != here:
            refuse(f"local.{name}", here, f"{there!r}, as strategy.{name} is: both halves know it")


def _check_public(config: RunConfig, refuse: Callable[..., None]) -> None:
    """Refuse a method that needs public inputs where there are none."""
    if config.public.name != "none" or config.mode != "federated":
        return
    for section, group in (("strategy", "strategies"), ("local", "clients")):
        part = getattr(config, section)
        if getattr(part, "needs_public", False):
            accepted = f"inputs for {section}.name = {name_of(group, part)!r}: 'held-out', or data"
            refuse("public.name", "none", accepted, "Set public.name=held-out.")
            return


def _check_privacy(config: RunConfig, refuse: Callable[..., None]) -> None:
    """Refuse what no privacy is accounted for, and say the nearest thing that it is."""
    privacy = config.privacy
    if privacy.unit == "none":
        for name in (
            "epsilon",
            "client_epsilon",
            "noise_multiplier",
            "weight_cap",
            "examples_at_once",
        ):
            if (value := getattr(privacy, name)) is not None:
                refuse(f"privacy.{name}", value, "unset without a unit", "Set privacy.unit.")
        _check_engine_of(privacy, refuse)
        return
    if privacy.epsilon is None and privacy.noise_multiplier is None:
        accepted = "a budget; or set privacy.noise_multiplier, or both"
        refuse("privacy.epsilon", None, accepted, "`fedsim privacy plan` shows what is possible.")
    if config.mode != "federated":
        accepted = "'federated' with privacy.unit: baselines have no private form"
        refuse("mode", config.mode, accepted, "Set privacy.unit=none for the baseline.")
    if hasattr(config.strategy, "root_rows"):
        accepted = "a strategy without rows of the server's own: nobody keeps an account of those"
        refuse("strategy.name", name_of("strategies", config.strategy), accepted)
    if privacy.unit == "user":
        _check_user_level(config, refuse)
    elif privacy.unit == "local":
        _check_local(config, refuse)
    else:
        _check_example_level(config, refuse)
    _check_fields(privacy, refuse)


def _check_fields(privacy: Privacy, refuse: Callable[..., None]) -> None:
    """Refuse settings of another unit than the one that is set."""
    defaults = Privacy()
    unit = "user" if privacy.mechanism in (*CORRELATED, *DISCRETE) else "local"
    if privacy.mechanism != defaults.mechanism and privacy.unit != unit:
        accepted = f"'gaussian': {privacy.mechanism!r} is of unit {unit!r}"
        refuse("privacy.mechanism", privacy.mechanism, accepted)
    if privacy.bands is not None and privacy.mechanism != "matrix":
        refuse("privacy.bands", privacy.bands, "unset without privacy.mechanism = 'matrix'")
    if privacy.buffers is not None and privacy.mechanism != "blt":
        refuse("privacy.buffers", privacy.buffers, "unset without privacy.mechanism = 'blt'")
    if privacy.examples_at_once is not None and privacy.unit != "example":
        refuse(
            "privacy.examples_at_once", privacy.examples_at_once, "unset: it is of unit 'example'"
        )
    _check_engine_of(privacy, refuse)
    for key in ("sampling", "weight_cap", "clipping"):
        value, usual = getattr(privacy, key), getattr(defaults, key)
        if privacy.unit != "user" and value != usual:
            refuse(f"privacy.{key}", value, f"{usual or 'unset'!s}: it is of unit 'user' alone")


def _check_engine_of(privacy: Privacy, refuse: Callable[..., None]) -> None:
    if privacy.engine != "fedsim" and privacy.unit != "example":
        accepted = "'fedsim': Opacus clips the gradients of unit 'example'"
        refuse("privacy.engine", privacy.engine, accepted, "Set privacy.unit=example.")


def _check_local(config: RunConfig, refuse: Callable[..., None]) -> None:
    if isinstance(config.transform, Clip):
        refuse("transform.name", "clip", "'unchanged': privacy.clipping_norm clips updates")
    if getattr(config.local, "notice", ""):
        name = type(config.local).__name__.lower()
        refuse("local.name", name, "sgd or fedprox: the whole update has noise")


def _check_example_level(config: RunConfig, refuse: Callable[..., None]) -> None:
    local = config.local
    if getattr(local, "notice", ""):
        name = type(local).__name__.lower()
        accepted = "sgd or fedprox: privacy.unit = 'example' trains them by DP-SGD"
        refuse("local.name", name, accepted, "Set local.name=sgd.")
    elif local is not None and getattr(local, "recipe", None) is None:
        name = type(local).__name__.lower()
        refuse("local.name", name, "a local algorithm that is gradient steps, as sgd and fedprox")
    elif hasattr(local, "adapted"):
        accepted = "sgd or fedprox: what a client adapts by its examples has no noise"
        refuse("local.name", name_of("clients", local), accepted, "Set local.name=sgd.")


def _check_user_level(config: RunConfig, refuse: Callable[..., None]) -> None:
    strategy, local = config.strategy, config.local
    if getattr(strategy, "needs", "sum") != "sum":
        name = type(strategy).__name__.lower()
        accepted = "a strategy that needs only the sum: noise is added to it, once"
        refuse("strategy.name", name, accepted, "fedavg and fedadam do.")
    if isinstance(config.transform, Clip):
        refuse("transform.name", "clip", "'unchanged': privacy.clipping_norm clips updates")
    if getattr(local, "notice", ""):
        refuse("local.name", type(local).__name__.lower(), "sgd or fedprox: the sum has the noise")
    privacy = config.privacy
    own = privacy.mechanism
    if own in CORRELATED and privacy.sampling != "cyclic":
        accepted = f"'cyclic' with mechanism {own!r}, which rests on the rounds between"
        refuse("privacy.sampling", privacy.sampling, accepted)
    if own in CORRELATED and privacy.clipping != "fixed":
        accepted = f"'fixed' with mechanism {own!r}: its sensitivity is that of all rounds"
        refuse("privacy.clipping", privacy.clipping, accepted)


def _check_engine(engine: Engine, refuse: Callable[..., None]) -> None:
    share, address = engine.gpus_per_worker, engine.ray_address
    if share and engine.device == "cpu":
        refuse("engine.gpus_per_worker", share, "unset with device = 'cpu'")
    elif share and share > 1 and share != int(share):
        refuse("engine.gpus_per_worker", share, "a part of one GPU, or a whole number of them")
    if address and not is_address(address):
        refuse("engine.ray_address", address, ADDRESSES)


def _known_clients(config: RunConfig) -> int | None:
    """Return the number of clients where the configuration alone says it."""
    dealt = config.data if isinstance(config.data, BornFederated) else config.partition
    return getattr(dealt, "clients", None)


def _check_cohort(config: RunConfig, clients: int | None, refuse: Callable[..., None]) -> None:
    rounds = config.rounds
    if config.mode != "federated":  # the baselines ask everyone
        return
    if clients and rounds.cohort and rounds.cohort > clients:
        refuse("rounds.cohort", rounds.cohort, f"at most {clients}, all clients")
    elif rounds.cohort and rounds.min_results > rounds.cohort:
        refuse("rounds.min_results", rounds.min_results, f"at most rounds.cohort = {rounds.cohort}")
    if clients and rounds.min_results > clients:
        refuse("rounds.min_results", rounds.min_results, f"at most {clients}, all clients")
    _check_robust(config.strategy, rounds.cohort or clients, refuse)


def _check_robust(strategy: Any, cohort: int | None, refuse: Callable[..., None]) -> None:
    """Refuse a robust strategy that cannot bear its f in a cohort of that size."""
    least = strategy.least() if hasattr(strategy, "least") else 0
    if cohort and cohort < least:
        name = type(strategy).__name__.lower()
        accepted = f"one that bears its f in a cohort of {cohort}: it needs {least} clients"
        refuse("strategy.name", name, accepted, "Lower strategy.f, or raise rounds.cohort.")


def check_data(config: RunConfig, meta: Meta, clients: int) -> None:
    """Refuse what does not fit the data; raises `ConfigError` with all problems."""
    problems: list[Problem] = []
    _check_cohort(config, clients, lambda *given: problems.append(Problem(*given)))
    for checks in (_secure_sum, _heterogeneity):
        checks.check_population(config, clients, lambda *given: problems.append(Problem(*given)))
    if config.loss != "auto" and losses.KINDS[config.loss] != meta.kind:
        fitting = [name for name, kind in losses.KINDS.items() if kind == meta.kind]
        accepted = f"{' or '.join(fitting)} for {meta.kind} data ({meta.name})"
        problems.append(Problem("loss", config.loss, accepted))
    for name in config.metrics:
        if meta.kind not in metrics.METRICS[name].kinds:
            fitting = [m for m, metric in metrics.METRICS.items() if meta.kind in metric.kinds]
            accepted = f"one of {', '.join(fitting)} for {meta.kind} data ({meta.name})"
            problems.append(Problem("metrics", name, accepted))
    for section, group in (("strategy", "strategies"), ("local", "clients")):
        part = getattr(config, section)
        if meta.kind not in getattr(part, "kinds", (meta.kind,)):
            accepted = f"a method for {meta.kind} data: this one is for {', '.join(part.kinds)}"
            problems.append(Problem(f"{section}.name", name_of(group, part), accepted))
    name = type(config.model).__name__.lower()
    if meta.vocabulary and name in ("linear", "mlp", "cnn", "lenet"):
        accepted = f"lstm or transformer: {meta.name} has sequences of tokens"
        problems.append(Problem("model.name", name, accepted))
    if problems:
        raise ConfigError(problems)
