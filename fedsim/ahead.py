"""Ray, started before what a run needs besides has been imported: each takes seconds.

What an experiment says of its engine is read here as it stands, without torch and without the
configuration, which checks it all later. Where it cannot be read, or wants no Ray of its own,
nothing is started ahead; a Ray that turns out to be of another size is replaced.
"""

import os
import sys
import tomllib
from collections.abc import Iterator, Mapping, Sequence
from contextlib import contextmanager, nullcontext
from importlib import resources
from pathlib import Path
from typing import Any

from fedsim.engine import own_ray
from fedsim.environment import cpu_limit

__all__ = ["ray_ahead"]

_SECTION, _VARIABLE = "engine.", "FEDSIM__ENGINE__"


@contextmanager
def ray_ahead(experiment: object, overrides: Sequence[str]) -> Iterator[None]:
    """Have the Ray that a run will want start behind what this process does; in the end stop it.

    In a process that has torch already there is little to import: the run starts it by itself.
    """
    if "torch" in sys.modules:
        yield
        return
    try:
        workers, gpus = _wanted(_engine(experiment, overrides))
    except (OSError, ValueError, TypeError):  # whatever is wrong is said by who reads it properly
        workers, gpus = 0, 0
    with own_ray.behind(workers, gpus, is_guess=True) if workers else nullcontext():
        yield


def _wanted(engine: Mapping[str, Any]) -> tuple[int, int | None]:
    """Return the workers and GPUs of a Ray of the run's own; no workers where it wants none."""
    if engine.get("grid", "ray") != "ray" or own_ray.address_of(engine.get("ray_address")):
        return 0, 0
    return int(engine.get("workers") or cpu_limit()), 0 if engine.get("device") == "cpu" else None


def _engine(experiment: object, overrides: Sequence[str]) -> dict[str, Any]:
    """Read the values of the section `engine` from wherever they may be set, the last one wins."""
    found = dict(_content(experiment).get("engine") or {})
    for name, text in os.environ.items():
        if name.startswith(_VARIABLE):
            found[name.removeprefix(_VARIABLE).lower()] = text
    for override in overrides:
        path, _, text = override.partition("=")
        if path.startswith(_SECTION):
            found[path.removeprefix(_SECTION)] = text.strip("\"' ")
    return found


def _content(experiment: object) -> Mapping[str, Any]:
    if isinstance(experiment, Mapping):
        return experiment
    if not isinstance(experiment, (str, Path)):
        raise TypeError(type(experiment).__name__)  # a `RunConfig`, which comes with torch
    if Path(experiment).is_file():
        return tomllib.loads(Path(experiment).read_text(encoding="utf-8-sig"))
    built_in = resources.files("fedsim") / "experiments" / f"{experiment}.toml"
    return tomllib.loads(built_in.read_text(encoding="utf-8"))
