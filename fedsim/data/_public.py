"""Public inputs: rows that server and clients may all see, for methods that distill."""

from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
import torch
from numpy.typing import NDArray
from torch import Tensor

from fedsim import registry, rng
from fedsim.data._clients import together
from fedsim.data._types import BornFederated, ClientData, Examples, Meta
from fedsim.errors import ConfigError, Problem
from fedsim.fields import read_table

__all__ = ["HELD_OUT", "Shown", "show"]

HELD_OUT = "held-out"


@dataclass(frozen=True, slots=True)
class Shown:
    """Public rows, without their labels; `taken`: which of the server's test set they were."""

    examples: Examples
    meta: Meta
    taken: NDArray[np.int64]

    @property
    def rows(self) -> int:
        """Return how many there are."""
        return len(self.examples.y)

    def inputs(self, device: torch.device) -> Tensor:
        """Return them as a model sees them."""
        return together([self.examples], self.meta, device)[0]

    def rest(self, test: Examples) -> Examples:
        """Return the server's test set without them."""
        if not len(self.taken):
            return test
        is_left = np.ones(len(test.y), dtype=bool)
        is_left[self.taken] = False
        return Examples(test.x[is_left], test.y[is_left])


def show(
    name: str,
    rows: int,
    args: Mapping[str, Any],
    clients: ClientData,
    *,
    seed: int,
    data_dir: Path | None,
) -> Shown | None:
    """Return the public rows of an experiment: of the test set, or of another data set.

    Raises `ConfigError` for too few rows, and for a data set whose inputs do not look alike.
    """
    if name == "none":
        return None
    stream, meta = rng.stream(seed, "public"), clients.meta
    if name == HELD_OUT:
        source = clients.test()
        if len(source.y) <= rows:
            accepted = f"fewer than the {len(source.y)} rows of the server's test set"
            raise ConfigError([Problem("public.rows", rows, accepted)])
    else:
        source = _of_data_set(name, args, meta, data_dir)
        rows = min(rows, len(source.y))
    drawn = np.sort(stream.choice(len(source.y), rows, replace=False))
    examples = Examples(source.x[drawn], np.zeros(rows, dtype=np.int64))
    return Shown(examples, meta, drawn if name == HELD_OUT else drawn[:0])


def _of_data_set(name: str, args: Mapping[str, Any], meta: Meta, data_dir: Path | None) -> Examples:
    """Return the training part of another data set whose inputs look like those of the clients."""
    try:
        kind = registry.load("data", name)
    except ConfigError as error:
        accepted = f"'none', {HELD_OUT!r} or {error.problems[0].accepted}"
        raise ConfigError([Problem("public.name", name, accepted)]) from None
    problems: list[Problem] = []
    part: Any = read_table("public.args", kind, args, problems, name=name)
    if part is not None and isinstance(part, BornFederated):
        problems.append(Problem("public.name", name, "a data set that comes as one table"))
    if problems:
        raise ConfigError(problems)
    found = part.load(data_dir)
    if (found.meta.input_shape, found.meta.vocabulary) != (meta.input_shape, meta.vocabulary):
        accepted = f"a data set with inputs of shape {meta.input_shape}, as {meta.name} has"
        raise ConfigError([Problem("public.name", name, accepted)])
    source: Examples = found.train
    return source
