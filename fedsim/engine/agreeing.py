"""A federation opened for a simulation: where clients are to share a cut, they agree on it first.

They do so by the messages that they would exchange between nodes, on the grid of this process: it
is the one that opens the data. The cut then travels to workers with the experiment.
"""

from dataclasses import replace

from fedsim import federation as building
from fedsim.anonymized import Charged, known, remember
from fedsim.clients._secure_sum import SECRET, simulated_directory
from fedsim.config.schema import RunConfig
from fedsim.crypto import random_key
from fedsim.cut_rounds import agree
from fedsim.engine.blocks import Handlers, Population
from fedsim.engine.inprocess import InProcessGrid
from fedsim.federation import Federation, Places, build, from_text, to_text

__all__ = ["opened"]


def opened(config: RunConfig, places: Places, *, charging: Charged | None = None) -> Federation:
    """Build a federation whose clients can train, having them agree on a cut where they share one.

    A cut that the same clients have agreed on before is in the cache, and is taken from there.
    `charging`: where noise on their sums is written down; without, there is none (`fedsim plan`).
    Raises what `fedsim.federation.build` and `fedsim.cut_rounds.agree` raise.
    """
    settings = config.anonymization
    if settings.name in ("none", "raw") or settings.cut == "local" or places.cut:
        return build(config, places)
    noted = settings
    if charging is None:
        noted = replace(
            settings, counts_noise_multiplier=None, counts_epsilon=None, counts_delta=None
        )
    text = to_text(replace(config, anonymization=noted), places)
    try:
        federation = _agreed(from_text(text), text, charging)
    finally:
        building.forget()  # the raw table, which nobody needs any more
    return replace(federation, config=replace(federation.config, anonymization=settings))


def _agreed(federation: Federation, text: str, charging: Charged | None) -> Federation:
    clients = federation.sharing
    found = known(clients)
    if found is None:
        from fedsim.clients.app import app

        told = {"experiment": text, SECRET: random_key().hex()}
        population = Population(clients.clients, told)
        grid = InProcessGrid(Handlers(app), population)
        has_noise = federation.config.anonymization.counts_noise_multiplier is not None
        charge = charging(clients.meta.name, clients.meta.sha256) if charging else None
        found = agree(
            grid,
            population.nodes,
            federation,
            simulated_directory(told, federation.config),
            charge=charge if has_noise else None,
        )
        remember(clients, found)
    released, facts = clients.together(found)
    return replace(federation, clients=released, anonymization=facts)
