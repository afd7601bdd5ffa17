"""Named distributions, as a setting says them: a number, or NAME:VALUE,VALUE.

Drawn values are rounded to six digits: the last bits of a logarithm differ between machines, and a
virtual clock must not.
"""

import math
from collections.abc import Callable, Sequence
from dataclasses import dataclass

import numpy as np

from fedsim import rng
from fedsim.errors import ConfigError, Problem
from fedsim.registry import suggest

__all__ = ["Draw", "read_draw", "read_draws"]

#: A setting that is a number or a distribution.
Quantity = float | str


@dataclass(frozen=True, slots=True)
class _Kind:
    """A distribution: what its values are called, whether they can be, and a draw from it."""

    names: tuple[str, ...]
    fits: Callable[..., bool]
    draw: Callable[..., float]


def _choice(stream: np.random.Generator, *values: float) -> float:
    return values[int(stream.integers(len(values)))]


_KINDS = {
    "constant": _Kind(("value",), lambda v: v > 0, lambda s, v: v),
    "uniform": _Kind(
        ("low", "high"), lambda a, b: 0 < a <= b, lambda s, a, b: a + (b - a) * s.random()
    ),
    "lognormal": _Kind(
        ("median", "sigma"),
        lambda m, d: m > 0 and d >= 0,
        lambda s, m, d: m * math.exp(d * s.standard_normal()),
    ),
    "exponential": _Kind(("mean",), lambda m: m > 0, lambda s, m: m * s.standard_exponential()),
    # A few are as fast as it says, and a k-th of that is as frequent as k^-exponent.
    "zipf": _Kind(
        ("fastest", "exponent"), lambda f, a: f > 0 and a > 1, lambda s, f, a: f / float(s.zipf(a))
    ),
    "pareto": _Kind(
        ("least", "shape"),
        lambda m, a: m > 0 and a > 0,
        lambda s, m, a: m * (1 - s.random()) ** (-1 / a),
    ),
    "choice": _Kind(("value, ...",), lambda *v: all(x > 0 for x in v), _choice),
}


@dataclass(frozen=True, slots=True)
class Draw:
    """A distribution with its values."""

    name: str
    values: tuple[float, ...]

    def at(self, stream: np.random.Generator) -> float:
        """Draw a number above 0.

        >>> Draw("constant", (3.0,)).at(np.random.default_rng(0))
        3.0
        """
        return max(float(f"{_KINDS[self.name].draw(stream, *self.values):.6g}"), 1e-12)

    def of(self, seed: int, purpose: str, client: int) -> float:
        """Draw a client's number for a purpose: the same whenever it is asked for."""
        return self.at(rng.stream(seed, f"devices/{purpose}", client=client))


def read_draw(path: str, given: Quantity) -> Draw:
    """Read a number or NAME:VALUE,VALUE; raises `ConfigError` for anything else.

    >>> read_draw("devices.down_mbps", "lognormal:20,0.5")
    Draw(name='lognormal', values=(20.0, 0.5))
    """
    if not isinstance(given, str):
        given = f"constant:{given!r}"
    name, _, rest = given.partition(":")
    kind = _KINDS.get(name.strip())
    try:
        values = tuple(float(value) for value in rest.split(","))
    except ValueError:
        values = ()
    if kind is None:
        hint = suggest(name, _KINDS)
    elif values and all(map(math.isfinite, values)) and _is_right(kind, values):
        return Draw(name.strip(), values)
    else:
        hint = ""
    forms = ", ".join(f"{key}:{','.join(kind.names)}" for key, kind in _KINDS.items())
    accepted = f"a number above 0, or a distribution of numbers above 0: {forms}"
    raise ConfigError([Problem(path, given, accepted, hint)])


def read_draws(given: Sequence[tuple[str, Quantity]]) -> dict[str, Draw]:
    """Read several settings of `[devices]` by name; raises `ConfigError` with all problems."""
    found: dict[str, Draw] = {}
    problems: list[Problem] = []
    for name, value in given:
        try:
            found[name] = read_draw(f"devices.{name}", value)
        except ConfigError as error:
            problems += error.problems
    if problems:
        raise ConfigError(problems)
    return found


def _is_right(kind: _Kind, values: tuple[float, ...]) -> bool:
    is_many = "..." in kind.names[0]
    return (is_many or len(values) == len(kind.names)) and kind.fits(*values)
