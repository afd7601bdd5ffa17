"""What is accounted: releases, and who was sampled for them.

Everything a run spends is a list of `Release`, written down before it happens (`ledger.py`) and
turned into epsilon afterwards (`accounting.py`). A release and its sampling are made by the same
object that draws the sample, so that no amplification is claimed that did not take place.
"""

import math
from collections.abc import Mapping
from dataclasses import asdict, dataclass, fields
from typing import Any, Literal, get_args

__all__ = [
    "DISCRETE",
    "ONCE",
    "Adjacency",
    "Discrete",
    "Lattice",
    "Mechanism",
    "Release",
    "Sampling",
    "SamplingKind",
    "Unit",
]

#: Whose presence epsilon hides. "example": one record of one client; "user": all of one client's
#: data; "local": the same, against the server too, since every client randomizes its own update.
Unit = Literal["example", "user", "local"]

#: Which two data sets count as neighbours: one member more or less; one replaced by any other; one
#: replaced by a member that contributes nothing ("zero-out", Kairouz et al. 2021, section 2.1).
Adjacency = Literal["add-remove", "replace-one", "zero-out"]

#: "poisson": each member on its own with probability `rate`. "truncated": Poisson, of which at most
#: `most` are kept, drawn uniformly. "fixed": exactly `most` of `population`, uniformly. "all":
#: everybody; also what cyclic participation and shuffled batches are accounted as, release by
#: release, because nothing about them is random to someone who watches.
SamplingKind = Literal["all", "poisson", "truncated", "fixed"]

#: "gaussian": noise multiplier = standard deviation / L2 sensitivity. "laplace": `noise_multiplier`
#: = scale / L1 sensitivity. "pure": a mechanism of which only its own `epsilon` is known.
#: "matrix": `count` rounds of correlated Gaussian noise released as one Gaussian mechanism, whose
#: sensitivity (over all participations) is already in `noise_multiplier`. "filtered": all rounds of
#: a run in which an individual filter keeps each client within one Gaussian mechanism of
#: `noise_multiplier` (`individual.py`). "skellam" and
#: "discrete-gaussian": the noise of several clients, each of whom adds its own to integers; see
#: `Lattice`.
Mechanism = Literal[
    "gaussian", "laplace", "pure", "matrix", "filtered", "skellam", "discrete-gaussian"
]

#: What is one Gaussian mechanism as a whole, however many rounds it has.
ONCE: tuple[Mechanism, ...] = ("matrix", "filtered")

#: Noise on integers, of which there are Rényi divergences only.
Discrete = Literal["skellam", "discrete-gaussian"]
DISCRETE: tuple[Discrete, ...] = get_args(Discrete)


@dataclass(frozen=True, slots=True)
class Sampling:
    """Who takes part in a release: see `SamplingKind`.

    `rate`: probability of each member (1 for "all"). `population` and `most`: for "truncated" and
    "fixed". Raises `ValueError` for a kind without what it needs.
    """

    kind: SamplingKind = "all"
    rate: float = 1.0
    population: int | None = None
    most: int | None = None

    def __post_init__(self) -> None:
        """Check that the kind is known and has what it needs."""
        if self.kind not in get_args(SamplingKind):
            raise ValueError(f"sampling kind {self.kind!r}, not one of {get_args(SamplingKind)}")
        if not 0 <= self.rate <= 1:
            raise ValueError(f"sampling rate {self.rate} is not between 0 and 1")
        if self.kind == "all" and self.rate != 1:
            raise ValueError(f"sampling 'all' has rate 1, not {self.rate}")
        if self.kind in ("truncated", "fixed") and not (self.population and self.most):
            raise ValueError(f"sampling {self.kind!r} needs population and most, both positive")


@dataclass(frozen=True, slots=True)
class Lattice:
    """The integers that clients round their vectors to before they add discrete noise.

    `scale`: how many steps there are to a clipping norm. `dimension`: coordinates, with those that
    filled them up. `terms`: the clients whose noises make up the one that is accounted. Raises
    `ValueError` for numbers that no lattice has.
    """

    scale: float
    dimension: int
    terms: int

    def __post_init__(self) -> None:
        """Check the numbers."""
        if not 0 < self.scale < math.inf:
            raise ValueError(f"a lattice's scale is positive and finite, not {self.scale}")
        for name in ("dimension", "terms"):
            if (value := getattr(self, name)) < 1:
                raise ValueError(f"a lattice's {name} is 1 or more, not {value}")


@dataclass(frozen=True, slots=True)
class Release:
    """One mechanism, applied `count` times with fresh randomness each time.

    `noise_multiplier`: see `Mechanism`; 0 is no noise, hence no privacy. `epsilon` belongs to
    "pure" alone, `lattice` to discrete noise. Raises `ValueError` for numbers that no mechanism
    has.
    """

    mechanism: Mechanism = "gaussian"
    noise_multiplier: float = 0.0
    sampling: Sampling = Sampling()
    count: int = 1
    epsilon: float | None = None
    lattice: Lattice | None = None

    def __post_init__(self) -> None:
        """Check the numbers."""
        if self.mechanism not in get_args(Mechanism):
            raise ValueError(f"mechanism {self.mechanism!r}, not one of {get_args(Mechanism)}")
        if not self.noise_multiplier >= 0:
            raise ValueError(f"noise multiplier {self.noise_multiplier} is not 0 or more")
        if self.count < 0:
            raise ValueError(f"count {self.count} is negative")
        if (self.mechanism == "pure") != (self.epsilon is not None):
            raise ValueError("epsilon is given for mechanism 'pure', and only for it")
        if (self.mechanism in DISCRETE) != (self.lattice is not None):
            raise ValueError(f"a lattice is given for {' and '.join(DISCRETE)}, and only for them")

    def to_dict(self) -> dict[str, Any]:
        """Return plain data for JSON, without what has its default value."""
        plain = {f.name: getattr(self, f.name) for f in fields(self) if f.name != "sampling"}
        sampling = {k: v for k, v in asdict(self.sampling).items() if v is not None}
        if self.lattice is not None:
            plain["lattice"] = asdict(self.lattice)
        return {k: v for k, v in plain.items() if v is not None} | {"sampling": sampling}

    @classmethod
    def from_dict(cls, plain: Mapping[str, Any]) -> "Release":
        """Read what `to_dict` wrote. Raises `ValueError` or `TypeError` for anything else."""
        lattice = plain.get("lattice")
        nested = {
            "sampling": Sampling(**plain["sampling"]),
            "lattice": None if lattice is None else Lattice(**lattice),
        }
        return cls(**{**plain, **nested})
