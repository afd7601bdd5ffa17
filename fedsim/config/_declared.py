"""What clients of a table have in common, from the file that an experiment names."""

import json
import tomllib
from collections.abc import MutableMapping
from pathlib import Path
from typing import Any

from fedsim.errors import Problem

__all__ = ["anchor_declared", "with_declared"]

_PATH = "data.declared"


def anchor_declared(content: MutableMapping[str, Any], folder: Path) -> None:
    """Make the path of the file mean the same from everywhere."""
    table = content.get("data")
    if isinstance(table, MutableMapping) and isinstance(table.get("declared"), str):
        table["declared"] = str((folder / table["declared"]).absolute())


def with_declared(content: MutableMapping[str, Any], folder: Path, problems: list[Problem]) -> None:
    """Put the content of the file that `data.declared` names in its place.

    So an experiment that was loaded, and is signed, depends on no other file. What is wrong goes to
    `problems`.
    """
    table = content.get("data")
    if not isinstance(table, MutableMapping) or not isinstance(table.get("declared"), str):
        return
    name = table.pop("declared")
    path = folder / name
    try:
        text = path.read_bytes().decode()
        table["declared"] = json.loads(text) if path.suffix == ".json" else tomllib.loads(text)
    except (OSError, ValueError, RecursionError) as error:
        accepted = f"a table, or a .json or .toml file that has it ({error})"
        problems.append(Problem(_PATH, name, accepted, "Make one with: fedsim node declare"))
