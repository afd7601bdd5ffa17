"""Several Ray nodes: the same bytes, and the model crosses to each node once per round."""

import pytest

from fedsim import client_table, messages
from fedsim import config as configuration
from fedsim.engine.blocks import Population
from fedsim.engine.inprocess import InProcessGrid
from fedsim.engine.launch import OURS
from fedsim.engine.ray import RayGrid, RayWorkers
from fedsim.federation import Places, from_text, to_text
from fedsim.rounds import run_rounds, start_state

pytestmark = pytest.mark.slow


@pytest.fixture
def nodes(no_ray):
    """Two Ray nodes on this machine, each with an object store and a worker's core of its own."""
    import ray
    from ray.cluster_utils import Cluster

    cluster = Cluster(initialize_head=True, head_node_args={"num_cpus": 1})
    cluster.add_node(num_cpus=1)
    ray.init(address=cluster.address, log_to_driver=False, logging_level="error")
    yield cluster
    ray.shutdown()
    cluster.shutdown()


def created_bytes():
    """Return what each node's object store has ever taken in, copies from other nodes included."""
    import ray
    from ray._private.internal_api import node_stats

    found = []
    for node in ray.nodes():
        stats = node_stats(node["NodeManagerAddress"], node["NodeManagerPort"])
        found.append(int(stats.store_stats.cumulative_created_bytes))
    return found


def opened(tiny):
    """Return (federation, grid, workers) of an experiment with a model of a megabyte."""
    wide = tiny(model={"name": "mlp", "hidden": [4096]}, rounds={"count": 2})
    text = to_text(configuration.load(wide), Places())
    population = Population(9, {"experiment": text, "tier": "resident"})
    workers = RayWorkers(OURS, population, 2)
    workers.pids()
    return from_text(text), RayGrid(workers, size=1), workers


def test_the_model_crosses_to_each_node_once_however_many_blocks(tiny, nodes):
    federation, grid, workers = opened(tiny)
    size, sends = 4 * federation.initial.numel(), 3
    before = created_bytes()
    for number in range(sends):
        content = messages.model_content(messages.Train(federation.initial, number))
        asked = list(grid.get_node_ids())
        replies = grid.broadcast(content, asked, messages.EVALUATE, ttl=None, group_id="1")
        assert sum(len(client_table.read(reply.content)) for reply in replies) == 9
    workers.close()
    for grown in (b - a for a, b in zip(before, created_bytes(), strict=True)):
        assert sends * size <= grown < 1.1 * sends * size


def test_results_are_those_of_one_process(tiny, nodes):
    federation, grid, workers = opened(tiny)
    start = start_state(federation)
    there = [r for r, _ in run_rounds(grid, grid.get_node_ids(), federation, start)]
    workers.close()
    handlers = OURS.open(grid.population.run_config)
    alone = InProcessGrid(handlers, grid.population)
    here = [r for r, _ in run_rounds(alone, alone.get_node_ids(), federation, start)]
    assert [r.model_sha256 for r in there] == [r.model_sha256 for r in here]
