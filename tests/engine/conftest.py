"""A tiny experiment, a Ray that is started once, and parts that misbehave."""

import importlib.util
import sys
from contextlib import ExitStack
from pathlib import Path

import pytest

from fedsim import registry

# Programs that tests start, in processes of their own.
collect_ignore = [
    "behind_ray_client.py",
    "changing_cluster.py",
    "hungry_blocks.py",
    "node_without_data.py",
    "nodes_of_two_sizes.py",
]

TINY = {
    "name": "tiny",
    "seed": 5,
    "data": {"name": "digits"},
    "partition": {"name": "dirichlet", "clients": 9, "alpha": 0.5},
    "model": {"name": "mlp", "hidden": [8], "dropout": 0.2},
    "local": {"name": "sgd", "epochs": 1, "batch_size": 16},
    "optimizer": {"name": "sgd", "lr": 0.1, "momentum": 0.5},
    "strategy": {"name": "fedadam", "lr": 0.05},
    "rounds": {"count": 5, "cohort": 6},
    "evaluation": {"central_every": 1, "federated_every": 2},
    "engine": {"grid": "inprocess", "tier": "resident"},  # what is measured could vary
}


def changed(**sections):
    """TINY with some keys of some sections changed; a new part's name replaces the whole part."""
    content = {
        key: dict(value) if isinstance(value, dict) else value for key, value in TINY.items()
    }
    for section, values in sections.items():
        if isinstance(values, dict) and "name" not in values:
            content[section] = {**content.get(section, {}), **values}
        else:
            content[section] = values
    return content


@pytest.fixture(scope="session")
def tiny():
    return changed


@pytest.fixture(scope="session")
def started_ones():
    """What this process started, until it ends."""
    with ExitStack() as stack:
        yield stack


@pytest.fixture
def cluster(started_ones):
    """One Ray for all tests of this process; runs find it and leave it alone."""
    import ray

    from fedsim.engine.own_ray import started

    started_ones.enter_context(started(4))
    return ray


@pytest.fixture
def no_ray():
    """No Ray that other tests of this process have started: a run starts its own."""
    import ray

    ray.shutdown()


@pytest.fixture
def plugin(tmp_path, monkeypatch):
    """Install `plugin.py` in a folder and work in that folder, so that workers find it too."""
    spec = importlib.util.spec_from_file_location(
        "plugin_source", Path(__file__).parent / "plugin.py"
    )
    module = importlib.util.module_from_spec(spec)
    spec.loader.exec_module(module)
    folder = tmp_path / "site"
    module.install(folder)
    monkeypatch.syspath_prepend(folder)
    monkeypatch.chdir(folder)
    registry.names.cache_clear()
    registry.load.cache_clear()
    yield folder
    sys.modules.pop("faulty_part", None)
    registry.names.cache_clear()
    registry.load.cache_clear()
