"""What a part may be combined with: the configuration check itself is asked, with each in turn."""

import dataclasses
from collections.abc import Mapping, Sequence
from functools import cache
from typing import Any

from fedsim import registry
from fedsim.config._build import assemble, part_class
from fedsim.config._check import illegal
from fedsim.config.schema import PARTS
from fedsim.errors import Problem

__all__ = ["Flag", "experiment_of", "legality"]

#: flag -> the settings that it stands for
SETTINGS: Mapping[str, Mapping[str, Any]] = {
    "secure_sum": {"secure_sum": {"name": "secagg"}},
    "user": {"privacy": {"unit": "user", "noise_multiplier": 1.0}},
    "example": {"privacy": {"unit": "example", "noise_multiplier": 1.0}},
    "local": {"privacy": {"unit": "local", "noise_multiplier": 1.0}},
}

#: Kinds of parts that privacy and secure sums have nothing against.
_INDIFFERENT = ("data", "partition", "models", "optimizers", "schedules")


@dataclasses.dataclass(frozen=True, slots=True)
class Flag:
    """Whether a part goes with something; `reason`: what is accepted in its place."""

    is_legal: bool
    reason: str = ""


@cache
def legality(group: str, name: str) -> Mapping[str, Flag]:
    """Return what a part goes with.

    `secure_sum`, and the privacy units `user`, `example` and `local`, of every part that they have
    to do with; `folding` (workers add updates up, and send one sum) of strategies; `vectorized`
    (many clients are trained at once) of local algorithms. Empty for other parts.

    >>> flags = legality("strategies", "krum")
    >>> flags["secure_sum"].is_legal, flags["folding"].is_legal
    (False, False)
    """
    kind: Any = registry.load(group, name)
    base = {} if group in _INDIFFERENT else experiment_of(group, name)
    if not base:
        return {}
    already = _illegal(base)
    flags = {flag: _asked(base, more, already) for flag, more in SETTINGS.items()}
    if group == "strategies":
        folds = getattr(kind, "needs", "sum") == "sum"
        flags["folding"] = Flag(folds, "" if folds else "it needs every single update")
    if group == "clients":
        flags["vectorized"] = _vectorized(kind)
    return flags


def experiment_of(group: str, name: str) -> dict[str, Any]:
    """Return the least experiment that names a part, with what its method cannot be without.

    Empty for parts that no section of an experiment names.

    >>> experiment_of("clients", "scaffold")["strategy"]
    {'name': 'scaffold'}
    """
    section = next((s for s, (g, _) in PARTS.items() if g == group), "")
    if not section:
        return {}
    content: dict[str, Any] = {
        "data": {"name": "synthetic"},
        "evaluation": {"federated_every": 0},
        section: {"name": name},
    }
    kind: Any = registry.load(group, name)
    halves = getattr(kind, "goes_with", ())
    other = {"strategies": "local", "clients": "strategy"}.get(group, "")
    if halves and other:
        content[other] = {"name": halves[0]}
    kinds = [kind, *(part_class(other, half) for half in halves[:1] if other)]
    if any(getattr(part, "needs_public", False) for part in kinds):
        content["public"] = {"name": "held-out"}
    return content


def _vectorized(kind: Any) -> Flag:
    """Say whether training is gradient steps that the engine may take for many clients at once."""
    try:
        recipe = getattr(kind(), "recipe", None)
    except TypeError:  # it has fields that must be given
        recipe = getattr(kind, "recipe", None)
    if recipe is None:
        return Flag(False, f"{kind.__name__} trains each client by itself")
    return Flag(True)


def _asked(base: Mapping[str, Any], more: Mapping[str, Any], already: Sequence[Problem]) -> Flag:
    named = [p for p in already if p.path.endswith(".name") and p.path.split(".")[0] in base]
    known = {_key(problem) for problem in already}
    found = named or [p for p in _illegal({**base, **more}) if _key(p) not in known]
    if not found:
        return Flag(True)
    return Flag(False, f"{found[0].path} must be {found[0].accepted}")


def _illegal(content: Mapping[str, Any]) -> list[Problem]:
    config, problems = assemble(content, lambda path: "")
    return [*problems, *illegal(config, lambda path: "")]


def _key(problem: Problem) -> str:
    return f"{problem.path}: {problem.accepted}"
