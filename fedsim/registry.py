"""Parts by name: the file name is the key users type, the file's dataclass is the part.

`strategies/fedadam.py` holds `class FedAdam` and is the strategy `fedadam`; its dataclass fields
are its configuration. `data/heart_disease.py` holds `class HeartDisease` and is `heart-disease`:
keys have hyphens where file names have underscores, and either spelling is accepted.
Nothing has to be registered. Files whose name starts with an underscore
hold what parts of a group share. Installed packages add parts through entry points of the group
names below, for example `[project.entry-points."fedsim.strategies"]  mine = "pkg.mod:Mine"`.
"""

import dataclasses
import difflib
import importlib
import inspect
import pkgutil
import sys
from collections.abc import Iterable
from functools import cache
from typing import TYPE_CHECKING, Any

from fedsim.errors import ConfigError, Problem

if TYPE_CHECKING:
    from importlib.metadata import EntryPoint

__all__ = ["GROUPS", "load", "name_of", "names", "suggest"]

#: group -> the package whose files are its parts
GROUPS = {
    "data": "fedsim.data",
    "partition": "fedsim.data.partition",
    "models": "fedsim.models",
    "clients": "fedsim.clients",
    "optimizers": "fedsim.optimizers",
    "schedules": "fedsim.schedules",
    "strategies": "fedsim.strategies",
    "transforms": "fedsim.transforms",
    "devices": "fedsim.devices",
    "attacks": "fedsim.attacks",
    "selection": "fedsim.selection",
    "treatments": "fedsim.anonymize.treatments",
    "hierarchies": "fedsim.anonymize.hierarchies",
}
_NOT_PARTS = {"app"}  # clients/app.py is the Flower app that runs the parts beside it


@cache
def names(group: str) -> tuple[str, ...]:
    """List the parts of a group, own files first, without importing any of them.

    >>> "fedavg" in names("strategies")
    True
    """
    package = importlib.import_module(GROUPS[group])
    own = {
        module.name.replace("_", "-")
        for module in pkgutil.iter_modules(package.__path__)
        if not module.name.startswith("_") and not module.ispkg and module.name not in _NOT_PARTS
    }
    return tuple(sorted(own | {point.name for point in _entry_points(group)}))


@cache
def load(group: str, name: str) -> type:
    """Import the part `name` of `group`.

    Raises `ConfigError` with a did-you-mean where no such part exists, and where the one that an
    installed package adds cannot be imported or is no dataclass.
    """
    name = name.replace("_", "-")
    if name not in names(group):
        raise ConfigError(
            [
                Problem(
                    f"{group}.name",
                    name,
                    f"one of {', '.join(names(group))}",
                    suggest(name, names(group)),
                )
            ]
        )
    for point in _entry_points(group):
        if point.name == name:
            return _added(group, point)
    module = importlib.import_module(f"{GROUPS[group]}.{name.replace('-', '_')}")
    wanted = name.replace("-", "")
    for key, value in vars(module).items():
        if key.lower() == wanted and inspect.isclass(value):
            return value
    raise TypeError(f"{module.__name__} must define a class named like its file: {wanted!r}")


def name_of(group: str, part: object) -> str:
    """Return the name that `load` knows a part's class by.

    >>> from fedsim.strategies.fedadam import FedAdam
    >>> name_of("strategies", FedAdam())
    'fedadam'
    """
    module, kind = type(part).__module__, type(part).__qualname__
    if module.startswith(f"{GROUPS[group]}."):
        return module.rsplit(".", 1)[-1].replace("_", "-")
    for point in _entry_points(group):
        if point.value == f"{module}:{kind}":
            return point.name
    raise LookupError(f"{module}.{kind} is not registered as a part of {group!r}")


def suggest(word: str, accepted: Iterable[object]) -> str:
    """Say which accepted word was probably meant, or nothing.

    >>> suggest("fedagv", ["fedavg", "fedprox"])
    "Did you mean 'fedavg'?"
    """
    close = difflib.get_close_matches(word, [str(item) for item in accepted], n=1)
    return f"Did you mean {close[0]!r}?" if close else ""


def _added(group: str, point: "EntryPoint") -> type:
    """Load the part of an installed package; what is wrong with it is the user's to know."""
    try:
        part = point.load()
        reason = f"{point.value} must be a dataclass"
    except Exception as error:  # somebody else's module may raise anything
        part, reason = None, f"importing {point.value} raised {type(error).__name__}: {error}"
    if inspect.isclass(part) and dataclasses.is_dataclass(part):
        return part
    where = f"added by {point.dist.name}, " if point.dist else ""
    problem = Problem(f"{group}.name", point.name, f"a part that works; {where}{reason}")
    raise ConfigError([problem])


def _entry_points(group: str) -> "Iterable[EntryPoint]":
    """Return the parts of a group that installed packages add."""
    found: Iterable[EntryPoint] = _installed(tuple(sys.path)).select(group=f"fedsim.{group}")
    return found


@cache
def _installed(path: tuple[str, ...]) -> Any:
    """Read what packages in the folders `path` of Python's add to programs; some 20 ms."""
    from importlib.metadata import entry_points

    return entry_points()
