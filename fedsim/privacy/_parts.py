"""What a release is to an accountant, by its sampling and the adjacency.

What has no analysis is refused.
"""

import math
from collections.abc import Iterable, Mapping
from dataclasses import dataclass, replace
from functools import lru_cache
from typing import Literal

from fedsim.privacy.events import ONCE, Adjacency, Lattice, Mechanism, Release, Sampling

__all__ = ["Part", "binned", "part_of", "parts_of", "unamplified"]

MOST_PARTS = 60


@dataclass(frozen=True, slots=True)
class Part:
    """One mechanism and its sampling, in the terms of the analysis that fits both.

    "gaussian": everybody takes part. "poisson": the member joins, or does not join, the others.
    "replace": it is one of two members that pull apart, each by 1. "swap": if it is not sampled,
    somebody else may be, who pulls against it. "laplace": as "poisson", with Laplace noise. "pure":
    `rate` is epsilon. `noise`: standard deviation, or scale, per unit of pull. `plain`: the
    multiplier if nothing was sampled. Where samples are truncated, with a chance between `least`
    and `most`, the member has the rate `other_rate`, and takes somebody else's place. "lattice" and
    "lattice-swap": as "poisson" and "swap", with the discrete noise of `mechanism` on `lattice`; a
    member pulls by `pull` clipping norms, and `noise` is in clipping norms too.
    """

    kind: Literal[
        "gaussian", "poisson", "replace", "swap", "laplace", "pure", "lattice", "lattice-swap"
    ]
    noise: float = 1.0
    rate: float = 1.0
    plain: float = math.inf
    other_rate: float = 0.0
    least: float = 0.0
    most: float = 0.0
    mechanism: Mechanism = "gaussian"
    lattice: Lattice | None = None
    pull: float = 1.0


def unamplified(release: Release) -> Release:
    """Return the release as if everybody took part; every sampling here stays below that."""
    return replace(release, sampling=Sampling())


def parts_of(releases: Iterable[Release], adjacency: Adjacency) -> dict[Part, int]:
    """Return how often each part was run; equal ones are one, all plain Gaussians are one.

    Raises `ValueError` for what no valid analysis exists.
    """
    counts: dict[Part, int] = {}
    squares = 0.0
    for release in releases:
        found = part_of(release, adjacency)
        if found is None:
            continue
        count = 1 if release.mechanism in ONCE else release.count
        if found.kind != "gaussian":
            counts[found] = counts.get(found, 0) + count
        elif found.noise < 1e-150:
            squares = math.inf
        else:
            squares += count / found.noise**2
    if squares > 0:  # Gaussians compose to a Gaussian: exact
        counts[Part("gaussian", squares**-0.5)] = 1
    return counts


@lru_cache(maxsize=4096)
def part_of(release: Release, adjacency: Adjacency) -> Part | None:
    """Return what one of the release's `count` is, None where it tells nothing about anybody.

    Raises `ValueError` for what no valid analysis exists; says the nearest legal choice.
    """
    _check(release, adjacency)
    sampling, noise = release.sampling, release.noise_multiplier
    rate = _rate(sampling)
    if release.count == 0 or rate == 0 or math.isinf(noise) or release.epsilon == 0:
        return None
    # Only Poisson sampling of a member that is removed or zeroed amplifies other mechanisms here.
    can_amplify = sampling.kind == "poisson" and adjacency != "replace-one"
    if release.epsilon is not None:
        return Part("pure", rate=_amplified(release.epsilon, rate if can_amplify else 1.0))
    if release.lattice is not None:
        return _on_lattice(release, release.lattice, adjacency, rate)
    if release.mechanism == "laplace":
        return Part("laplace", noise, rate if can_amplify else 1.0)
    if release.mechanism in ONCE or rate == 1 or noise == 0:
        return Part("gaussian", noise)
    # A multiplier is per sensitivity. That of "replace-one" is two clipping norms, so there a
    # member pulls with half of it; with a fixed size, zeroing a member is a case of replacing it.
    if sampling.kind == "fixed":
        return Part("swap", noise if adjacency == "replace-one" else noise / 2, rate, noise)
    part = Part("poisson", noise, rate, noise)
    if adjacency == "replace-one":
        part = replace(part, kind="replace", noise=2 * noise)
    return _truncated(part, sampling) if sampling.kind == "truncated" else part


def _on_lattice(release: Release, lattice: Lattice, adjacency: Adjacency, rate: float) -> Part:
    """Return what discrete noise is: amplified where a member is zeroed, else not."""
    own = Part("lattice", release.noise_multiplier, mechanism=release.mechanism, lattice=lattice)
    if adjacency == "replace-one":  # the multiplier is per two clipping norms
        return replace(own, noise=2 * own.noise, pull=2.0)
    if rate == 1 or own.noise == 0:
        return own
    if release.sampling.kind == "fixed":
        return replace(own, kind="lattice-swap", rate=rate)
    own = replace(own, rate=rate)
    return _truncated(own, release.sampling) if release.sampling.kind == "truncated" else own


def _check(release: Release, adjacency: Adjacency) -> None:
    kind = release.sampling.kind
    if release.epsilon is not None and not release.epsilon >= 0:
        raise ValueError(f"epsilon {release.epsilon} of a pure mechanism is not 0 or more")
    if adjacency == "add-remove" and release.lattice is not None:
        raise ValueError(
            f"mechanism {release.mechanism!r} has no analysis under adjacency 'add-remove': without"
            " a member its part of the noise is missing too; use adjacency 'zero-out'"
        )
    if adjacency == "add-remove" and kind in ("truncated", "fixed"):
        raise ValueError(
            f"sampling {kind!r} has no analysis under adjacency 'add-remove', because there the "
            "number it samples from is not public; use adjacency 'zero-out', or sampling 'poisson'"
        )


def _rate(sampling: Sampling) -> float:
    """Return a member's chance of being in; of a fixed size it follows from the size."""
    if sampling.kind == "fixed":
        return min(1.0, (sampling.most or 0) / (sampling.population or 1))
    return sampling.rate


def _amplified(epsilon: float, rate: float) -> float:
    """Li, Qardaji and Su, ASIACCS 2012, theorem 1: log(1 + q (e^epsilon - 1))."""
    if epsilon > 700:
        return epsilon
    return math.log1p(rate * math.expm1(epsilon))


def _truncated(part: Part, sampling: Sampling) -> Part:
    """Say how often the cap is met: dp-accounting, `TruncatedSubsampledGaussianDpEvent`."""
    from scipy import stats

    people, most = sampling.population or 1, sampling.most or 1
    chance = float(stats.binom.sf(most - 1, people - 1, part.rate))
    too_many = float(stats.binom.sf(most, people, part.rate))
    if too_many == 0:  # nobody is ever left out
        return part
    other_rate = min(1.0, too_many * most / chance / people)
    return replace(part, other_rate=other_rate, least=chance, most=chance)


def binned(parts: Mapping[Part, int]) -> dict[Part, int]:
    """Round parts up to at most `MOST_PARTS` that are no more private.

    Rates and noise multipliers that differ by less than a ratio become the worst of them; the ratio
    is the least that does it.
    """
    if len(parts) <= MOST_PARTS:
        return dict(parts)
    # No loss distribution is made of what is on a lattice, so that there may be many of it.
    lattices = {part: count for part, count in parts.items() if part.lattice is not None}
    if lattices:
        rest = {part: count for part, count in parts.items() if part.lattice is None}
        return lattices | binned(rest)
    steps = [*(0.002 * 1.3**i for i in range(28)), math.inf]
    groups = next(g for g in (_grouped(parts, step) for step in steps) if len(g) <= MOST_PARTS)
    return {_worst(list(group)): sum(group.values()) for group in groups}


def _grouped(parts: Mapping[Part, int], step: float) -> list[dict[Part, int]]:
    """Return parts that differ by less than e^step, in rate and in noise, together."""
    groups: dict[tuple[object, ...], dict[Part, int]] = {}
    for part, count in parts.items():
        sizes = [
            math.floor(math.log(x) / step) if 0 < x < math.inf else x
            for x in (part.rate, part.noise)
        ]
        groups.setdefault((part.kind, *sizes), {})[part] = count
    return list(groups.values())


def _worst(parts: list[Part]) -> Part:
    return Part(
        parts[0].kind,
        noise=min(part.noise for part in parts),
        rate=max(part.rate for part in parts),
        plain=min(part.plain for part in parts),
        other_rate=max(part.other_rate for part in parts),
        least=min(part.least for part in parts),
        most=max(part.most for part in parts),
    )
