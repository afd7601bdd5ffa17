"""Three hospitals with a file each, the table that they would be together, and a server."""

import itertools
from pathlib import Path

import numpy as np
import pandas as pd
import pytest
from flwr.app import Context

from fedsim import config as configuration
from fedsim import crypto, spending
from fedsim.data import OwnRows
from fedsim.data._declare import declare
from fedsim.deployment import make_client_app
from fedsim.engine.blocks import Handlers, Population
from fedsim.engine.inprocess import InProcessGrid
from fedsim.federation import Places, build
from fedsim.node.approval import SIGNATURE, TEXT, Approver, approvers_text, sign
from fedsim.node.experiment import experiment_text
from fedsim.node.memory import FIRST_STRETCH
from fedsim.rounds import run_rounds, start_state

APPROVER = bytes(range(32))
NAMES = ("aarau", "basel", "chur")
SIZES = (40, 25, 31)
COLUMNS = ("age", "sex", "pressure", "ill")
POLICY = {
    "minimum_cohort": 1,
    "secure_aggregation": False,
    "units": ["none", "user", "example", "local"],
    "maximum_epsilon": 8.0,
    "maximum_delta": 1e-5,
    "columns": list(COLUMNS),
    "maximum_rows": 1000,
    "maximum_rounds": 20,
    "evaluation": True,
}
SETTINGS = {
    "name": "wards",
    "data": {"name": "table", "path": "wards.csv", "target": "ill"},
    "partition": {"name": "natural", "by": "hospital"},
    "model": {"name": "linear"},
    "local": {"name": "sgd", "epochs": 1, "batch_size": 8},
    "rounds": {"count": 2},
    "evaluation": {"central_every": 0, "federated_every": 0},
    "engine": {"grid": "inprocess", "tier": "resident"},
}


def pooled_rows() -> pd.DataFrame:
    """All rows, those of the hospitals mixed."""
    draw = np.random.default_rng(7)
    count = sum(SIZES)
    hospital = np.repeat(NAMES, SIZES)
    draw.shuffle(hospital)
    age = draw.integers(20, 90, count)
    pressure = draw.normal(130, 15, count).round(1)
    ill = np.where(age + draw.normal(0, 15, count) > 55, "yes", "no")
    sex = draw.choice(["f", "m"], count)
    return pd.DataFrame(
        {"hospital": hospital, "age": age, "sex": sex, "pressure": pressure, "ill": ill}
    )


def toml(content) -> str:
    import tomli_w

    return tomli_w.dumps(content)


class Hospitals:
    """Files, folders and a server; `run` is a run between nodes, each with its own file only."""

    def __init__(self, root: Path) -> None:
        self.root = root
        rows = pooled_rows()
        rows.to_csv(root / "wards.csv", index=False)
        self.folders = []
        for name in NAMES:
            folder = root / name
            folder.mkdir()
            own = rows[rows["hospital"] == name].drop(columns="hospital")
            own.assign(secret=np.arange(len(own))).to_csv(folder / "patients.csv", index=False)
            (folder / "node.toml").write_text('[data]\npath = "patients.csv"\n')
            self.folders.append(folder)
        self.approve()
        self.policy()
        table = configuration.load(self.settings(declared={}), folder=root).data
        self.declared = declare(table, "hospital")
        self.runs = itertools.count(1)

    def settings(self, declared=None, **sections):
        """The experiment, as its file would say it."""
        made = {k: dict(v) if isinstance(v, dict) else v for k, v in SETTINGS.items()}
        made["data"]["path"] = str(self.root / "wards.csv")
        made["data"]["declared"] = self.declared if declared is None else declared
        for name, values in sections.items():
            made[name] = {**made.get(name, {}), **values} if isinstance(values, dict) else values
        return made

    def config(self, **sections):
        return configuration.load(self.settings(**sections))

    def policy(self, **changes):
        content = {k: v for k, v in {**POLICY, **changes}.items() if v is not None}
        for folder in self.folders:
            (folder / "policy.toml").write_text(toml(content))

    def approve(self, **times):
        public = crypto.suite("standard").signing_public(APPROVER)
        text = approvers_text({"anna": Approver("anna", public, **times)})
        for folder in self.folders:
            (folder / "approvers.toml").write_text(text)

    def sign(self, text):
        """What somebody on the list of approvers says to a text."""
        return sign(APPROVER, text)

    def grid(self, config, *, text=None, signature=None, node_config=None, state=None, first=""):
        """Nodes that were sent an experiment by somebody.

        `state` makes what Flower remembers of a node for each message; `first`: which run this is.
        """
        text = experiment_text(config) if text is None else text
        signature = sign(APPROVER, text) if signature is None else signature
        told = {TEXT: text, SIGNATURE: signature, FIRST_STRETCH: first}
        population = Population(len(NAMES), told)
        app, run = make_client_app(), next(self.runs)
        self.last_run = run

        def on_node(message, context):
            client = int(context.node_config["partition-id"])
            own = {"node-folder": str(self.folders[client]), **(node_config or {})}
            return app(
                message,
                Context(
                    run_id=run,
                    node_id=context.node_id,
                    node_config={**context.node_config, **own},
                    state=state() if state else context.state,
                    run_config=context.run_config,
                ),
            )

        return InProcessGrid(Handlers(on_node), population)

    def server(self, config):
        """What the server knows: no row."""
        return spending.settled(build(config, Places(own=OwnRows())))

    def run(self, config, *, server=None, directory=lambda client: None, **how):
        """Return the rounds' records, of an honest server unless `server` is another federation."""
        grid = self.grid(config, **how)
        server = server or self.server(config)
        return [
            record
            for record, _ in run_rounds(
                grid, grid.population.nodes, server, start_state(server), directory=directory
            )
        ]

    def simulated(self, config):
        """The same by a simulation on the pooled table."""
        found = spending.settled(build(config))
        population = Population(len(NAMES), {"experiment": _text_of(found)})
        from fedsim.clients.app import app

        grid = InProcessGrid(Handlers(app), population)
        rounds = run_rounds(grid, grid.population.nodes, found, start_state(found))
        return [record for record, _ in rounds]


def _text_of(federation):
    from fedsim.federation import to_text

    return to_text(federation.config, Places())


@pytest.fixture
def hospitals(tmp_path):
    return Hospitals(tmp_path)
