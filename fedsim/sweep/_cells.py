"""The cells of a sweep: every combination of what its axes name, each an experiment that is legal.

A run of a cell is known by its name, which has a hash of the whole experiment: a sweep that is
begun again finds what was done, whatever became of the process that did it.
"""

import hashlib
import itertools
import json
import re
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any

from fedsim import config as configuration
from fedsim import registry
from fedsim.config.schema import RunConfig
from fedsim.errors import ConfigError, Problem, UnknownRunError
from fedsim.files import replacing
from fedsim.registry import suggest

__all__ = [
    "Cell",
    "Sweep",
    "named",
    "plan_sweep",
    "read_sweep",
    "sweep_folder",
    "values_of",
    "write_sweep",
]

_RANGE = re.compile(r"(-?\d+)\.\.(-?\d+)")
_MOST = 10_000  # cells: more are a slip of the keyboard


@dataclass(frozen=True, slots=True)
class Cell:
    """One combination: `values` by axis, as text, and the experiment, named for its content."""

    values: Mapping[str, str]
    config: RunConfig

    @property
    def run_name(self) -> str:
        """The name of its runs."""
        return self.config.name


@dataclass(frozen=True, slots=True)
class Sweep:
    """A grid: `axes` by setting, in the order given, and its cells. `notes`: what was added."""

    name: str
    axes: Mapping[str, Sequence[str]]
    cells: Sequence[Cell]
    notes: Sequence[str] = ()


def plan_sweep(
    experiment: str | Path | Mapping[str, Any], assignments: Sequence[str], name: str = ""
) -> Sweep:
    """Lay out the grid of an experiment.

    `assignments`: "key=a,b" and "key=1..5" are axes, "key=a" is a setting of all cells. A strategy
    that is half of a method brings its other half along, where `local.name` is not given.
    Raises `ConfigError` with every cell that is not legal, before anything is run.
    """
    axes, fixed = _told_apart(assignments)
    if not axes:
        accepted = "at least one setting with several values, such as seed=1..5"
        raise ConfigError([Problem("sweep", list(assignments), accepted)])
    cells, notes, problems = [], [], []
    for combination in itertools.product(*axes.values()):
        values = dict(zip(axes, combination, strict=True))
        settings = [*fixed, *(f"{key}={value}" for key, value in values.items())]
        half = _other_half(settings)
        try:
            config = configuration.load(experiment, [*settings, *half])
        except ConfigError as error:
            where = ", ".join(f"{key}={value}" for key, value in values.items())
            problems += [replace(p, source=f"{p.source} ({where})".strip()) for p in error.problems]
            continue
        notes += [f"strategy.name={values['strategy.name']} goes with {half[0]}"] if half else []
        cells.append(Cell(values, config))
    if problems:
        raise ConfigError(list(dict.fromkeys(problems)))
    name = name or f"{cells[0].config.name}-sweep"
    known = [replace(c, config=replace(c.config, name=named(name, c.config))) for c in cells]
    return Sweep(name, axes, known, tuple(dict.fromkeys(notes)))


def values_of(text: str) -> list[str]:
    """Split the values of an axis; a comma in brackets or quotes is part of a value.

    >>> values_of("fedavg,scaffold"), values_of("1..3"), values_of("[64, 32],[8]")
    (['fedavg', 'scaffold'], ['1', '2', '3'], ['[64, 32]', '[8]'])
    """
    if found := _RANGE.fullmatch(text.strip()):
        first, last = int(found[1]), int(found[2])
        return [str(value) for value in range(first, last + 1)]
    parts, depth, quote = [""], 0, ""
    for letter in text:
        if letter in "\"'" and quote in ("", letter):
            quote = "" if quote else letter
        depth += 0 if quote else (letter in "[{") - (letter in "]}")
        if letter == "," and not depth and not quote:
            parts.append("")
        else:
            parts[-1] += letter
    return [part.strip() for part in parts]


def _told_apart(assignments: Sequence[str]) -> tuple[dict[str, list[str]], list[str]]:
    """Tell axes from settings that all cells have."""
    axes: dict[str, list[str]] = {}
    fixed, problems = [], []
    for text in assignments:
        key, separator, value = text.partition("=")
        values = values_of(value)
        if not separator or not key.strip():
            problems.append(Problem(text, text, "key=value or key=a,b,c"))
        elif not values or ("" in values and len(values) > 1):
            problems.append(Problem(key, value, "values between commas, or FIRST..LAST"))
        elif len(values) > 1:
            axes[key.strip()] = list(dict.fromkeys(values))
        else:
            fixed.append(f"{key}={values[0]}")
    count = 1
    for values in axes.values():
        count *= len(values)
    if count > _MOST:
        problems.append(Problem("sweep", count, f"at most {_MOST:,} cells"))
    if problems:
        raise ConfigError(problems)
    return axes, fixed


def _other_half(settings: Sequence[str]) -> list[str]:
    """Return the setting that names the other half of a cell's strategy, where none is named."""
    given = dict(setting.split("=", 1) for setting in settings)
    name = given.get("strategy.name")
    if name is None or "local.name" in given:
        return []
    try:
        halves = getattr(registry.load("strategies", name), "goes_with", ())
    except ConfigError:  # reported when the cell is loaded
        return []
    return [f"local.name={halves[0]}"] if halves else []


def named(sweep: str, config: RunConfig) -> str:
    """Return the name of a cell's runs: that of the sweep, and a hash of all that it says."""
    content = configuration.to_dict(replace(config, name=sweep))
    digest = hashlib.sha256(json.dumps(content, sort_keys=True).encode()).hexdigest()
    return f"{sweep}-{digest[:10]}"


def sweep_folder(root: Path, name: str) -> Path:
    """Return the folder of a sweep in a run store: its grid, its tables, its picture."""
    return root / "sweeps" / name


def write_sweep(root: Path, sweep: Sweep) -> Path:
    """Keep the grid, so that it can be compared by name; return the file."""
    path = sweep_folder(root, sweep.name) / "sweep.json"
    path.parent.mkdir(parents=True, exist_ok=True)
    content = {
        "schema_version": 1,
        "name": sweep.name,
        "axes": {key: list(values) for key, values in sweep.axes.items()},
        "cells": [{"values": dict(c.values), "run": c.run_name} for c in sweep.cells],
    }
    with replacing(path) as file:
        file.write(json.dumps(content, indent=1).encode() + b"\n")
    return path


def read_sweep(root: Path, name: str) -> dict[str, Any]:
    """Return what `write_sweep` kept. Raises `UnknownRunError` where there is no such sweep."""
    path = sweep_folder(root, name) / "sweep.json"
    if not path.is_file():
        known = sorted(p.parent.name for p in (root / "sweeps").glob("*/sweep.json"))
        hint = suggest(name, known) or f"There are: {', '.join(known) or 'none'}"
        raise UnknownRunError(f"no sweep {name!r} in {root}. {hint}")
    content: dict[str, Any] = json.loads(path.read_text(encoding="utf-8"))
    return content
