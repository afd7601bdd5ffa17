"""Clients that are to agree on a cut, in this process: a table dealt out by site, and a carrier."""

from dataclasses import dataclass, replace
from pathlib import Path

import numpy as np
import pandas as pd
import pytest

from fedsim import config as configuration
from fedsim.clients._secure_sum import SECRET, simulated_directory
from fedsim.clients.app import app
from fedsim.cut_rounds import agree
from fedsim.engine.blocks import Handlers, Population
from fedsim.engine.inprocess import InProcessGrid
from fedsim.federation import Places, from_text, to_text

COLUMNS = {
    "age": {
        "role": "quasi",
        "hierarchy": {"name": "intervals", "min": 0, "max": 39, "widths": [5, 10]},
    },
    "town": {"role": "quasi", "hierarchy": {"name": "categories", "values": list("abcdefgh")}},
    "ill": {"role": "sensitive", "hierarchy": {"name": "categories", "values": ["x", "y"]}},
}


def people(sites: int, rows: int, seed: int) -> pd.DataFrame:
    """People of several sites: those of the last ones are older than those of the first."""
    rng = np.random.default_rng(seed)
    parts = [
        pd.DataFrame(
            {
                "age": rng.integers(4 * site, 40, rows),
                "town": rng.choice(list("abcdefgh"), rows),
                "site": site,
                "ill": rng.choice(["x", "y"], rows),
            }
        )
        for site in range(sites)
    ]
    return pd.concat(parts)


@dataclass
class Clients:
    """The clients of an experiment that awaits its cut, and who carries messages to them."""

    text: str

    @property
    def federation(self):
        return from_text(self.text)

    @property
    def sharing(self):
        return self.federation.sharing

    @property
    def count(self):
        return self.sharing.clients

    def tables(self, clients=None):
        return [
            self.sharing.counted(i) for i in (range(self.count) if clients is None else clients)
        ]

    def united(self, clients=None):
        """The rows of some clients, by default of all, as one table."""
        first, *_ = parts = self.tables(clients)
        codes = np.concatenate([part.codes for part in parts])
        ills = np.concatenate([part.sensitive[0].codes for part in parts])
        return replace(first, codes=codes, sensitive=(replace(first.sensitive[0], codes=ills),))

    def grid(self, kind=InProcessGrid):
        told = {"experiment": self.text, SECRET: "5a" * 32}
        return kind(Handlers(app), Population(self.count, told))

    def agree(self, grid=None, **more):
        grid = grid or self.grid()
        population = grid.population
        directory = simulated_directory(population.run_config, self.federation.config)
        return agree(grid, population.nodes, self.federation, directory, **more)


@pytest.fixture
def clients_of():
    """Call it with an experiment's configuration and where its data are."""
    return lambda config, places: Clients(to_text(config, places))


@pytest.fixture
def clients(tmp_path: Path):
    """Call it with settings of [anonymization], of [secure_sum] and of [rounds] for clients."""

    def made(sites=5, rows=40, seed=0, secure="ideal", rounds=(), secure_sum=(), **anonymization):
        path = tmp_path / f"people-{sites}-{rows}-{seed}.csv"
        if not path.exists():
            people(sites, rows, seed).to_csv(path, index=False)
        plain = {
            "name": "people",
            "seed": seed,
            "data": {"name": "table", "path": str(path), "target": "ill", "test": 0.01},
            "partition": {"name": "natural", "by": "site"},
            "anonymization": {
                "name": "sets",
                "columns": COLUMNS,
                "k": 4,
                "cut": "shared",
                "compare_raw": False,
                **anonymization,
            },
            "secure_sum": {"name": secure, "threshold": 0.51, **dict(secure_sum)},
            "model": {"name": "linear"},
            "rounds": {"count": 1, **dict(rounds)},
            "evaluation": {"federated_every": 0},
            "engine": {"grid": "inprocess", "tier": "messages"},
        }
        return Clients(to_text(configuration.load(plain, (), {}), Places()))

    return made
