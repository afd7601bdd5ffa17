"""What of an experiment goes through a secure sum: the format, the layout, a client's vector.

The same for masked sums and for `ideal` ones, on server and clients: that is why both come to the
same bits.
"""

from typing import Any

import numpy as np
from numpy.typing import NDArray

from fedsim import distributed, exact, user_level
from fedsim.config.schema import RunConfig
from fedsim.core import ClientContext, Update
from fedsim.federation import Federation, width
from fedsim.privacy import local
from fedsim.secagg import lanes
from fedsim.secagg.lanes import Layout

__all__ = [
    "is_encrypted",
    "is_masked",
    "is_secure",
    "lane_sizes",
    "layout",
    "number_format",
    "reported",
    "vector",
]

_MAX_ABS = 8.0  # of a coordinate of an update, unless set


def is_secure(config: RunConfig) -> bool:
    """Say whether the server is to see only sums."""
    return config.secure_sum.name != "plain"


def is_masked(config: RunConfig) -> bool:
    """Say whether masks see to it: else the sum is a simulation of one."""
    return config.secure_sum.name in ("secagg", "secagg+")


def is_encrypted(config: RunConfig) -> bool:
    """Say whether clients encrypt under a key that they all have."""
    return config.secure_sum.name == "ckks"


def number_format(federation: Federation, round: int = 1) -> exact.FixedPoint:
    """Return the format of a ring that no cohort can overflow, where updates are not clipped.

    Where they are, `fedsim.user_level.number_format` has it. Raises `ConfigError` for a ring that
    is too small.
    """
    config, privacy = federation.config, federation.config.privacy
    max_abs, max_weight = (
        config.secure_sum.max_abs or _MAX_ABS,
        float(federation.most_examples),
    )
    if privacy.unit == "local":
        noise = privacy.noise_multiplier or 1.0
        max_abs, max_weight = local.reach(privacy.mechanism, privacy.clipping_norm, noise), 1.0
    return exact.ring_form(
        width(federation, round),
        bits=distributed.ring_bits(config),
        max_abs=max_abs,
        max_weight=max_weight,
        cohort=_most(federation),
    )


def layout(federation: Federation, form: exact.FixedPoint) -> Layout:
    """Return where everything is in the vectors of a round.

    Raises `ConfigError` for more clients than a number of the ring can count.
    """
    own = {exact.VOTE: 1} if form.has_votes else lane_sizes(federation)
    if distributed.is_distributed(federation.config):
        form = distributed.in_ring(
            form, distributed.parts(federation.config, federation.population, form.dimension)
        )
    return lanes.layout(form, _most(federation), reported(federation.config.local), own)


def lane_sizes(federation: Federation) -> dict[str, int]:
    """Return the sizes of the lanes that the local algorithm sends, by name."""
    dimension, shown = federation.initial.numel(), federation.shown
    public = shown.rows * federation.clients.meta.outputs if shown else 0
    known: dict[Any, int] = {None: dimension, "public": public}
    lanes = getattr(federation.config.local, "lanes", ())
    return {name: known.get(own, own) for name, own in lanes}


def reported(algorithm: Any) -> tuple[str, ...]:
    """Return the metrics of a local algorithm that are summed: what it declares as `reports`.

    Clients cannot invent names under a secure sum: all vectors must be laid out alike.
    """
    inner = getattr(algorithm, "inner", None)  # of one that is made private
    usual = getattr(inner, "reports", ("loss",))
    return tuple(getattr(algorithm, "reports", usual))


def vector(
    federation: Federation, update: Update, own: Layout, ctx: ClientContext
) -> NDArray[np.uint32]:
    """Return what a client hands to the secure sum: `update` is encoded already.

    Raises `fedsim.exact.InvalidUpdateError` for an update that must not be in a sum.
    """
    if distributed.is_distributed(federation.config):
        config, rows = federation.config, update.vector.unsqueeze(0)
        noisy = distributed.encode(config, federation.population, rows, [ctx])[0]
        part = exact.PartialSum(noisy, exact.weight_of(update.weight), 1)
        return lanes.pack(part, update, own)
    return lanes.encode(update, own, ctx.rng("rounding"))


def _most(federation: Federation) -> int:
    """Return how many clients a sum can have."""
    config, population = federation.config, federation.population
    if config.privacy.unit == "user":
        return user_level.most(config, population)
    return min(config.rounds.cohort or population, population)
