"""Where workers fit: by hand, and against Ray's own accounting of what is free."""

import itertools

import pytest
from hypothesis import given
from hypothesis import strategies as st

from fedsim import config as configuration
from fedsim.config.schema import Engine
from fedsim.engine.cluster import shared
from fedsim.engine.placement import Node, gpu_share, of_one_kind, places, worker_count
from fedsim.errors import ConfigError


def one(cpus, gpus=0):
    return [Node("here", cpus, gpus)]


@pytest.mark.parametrize(
    ("engine", "nodes", "clients", "workers"),
    [
        (Engine(), one(8), 100, 8),
        (Engine(), one(8), 3, 3),
        (Engine(), one(8, 1), 100, 4),
        (Engine(), one(2, 1), 100, 2),
        (Engine(), one(0), 100, 1),
        (Engine(workers=5), one(2), 3, 5),
        (Engine(grid="inprocess"), one(8), 100, 1),
        (Engine(), [*one(1), *one(3)], 100, 4),
        (Engine(), [*one(1.5), *one(1.5)], 100, 2),  # none spans two nodes
        (Engine(), [*one(16, 1), *one(2, 4)], 100, 6),
        (Engine(gpus_per_worker=0.5), [*one(16, 1), *one(16, 2)], 100, 6),
        (Engine(gpus_per_worker=2), [*one(16, 1), *one(16, 5)], 100, 2),
    ],
)
def test_how_many_workers_there_are(engine, nodes, clients, workers):
    assert worker_count(engine, nodes, clients) == workers


@pytest.mark.parametrize(
    ("workers", "gpus", "share"),
    [
        (4, 1, 1 / 4),
        (6, 1, 1 / 6),
        (3, 2, 1 / 2),
        (4, 3, 1 / 2),
        (9, 4, 1 / 3),
        (4, 4, 1),
        (2, 5, 2),
    ],
)
def test_gpu_shares_let_all_workers_fit_though_none_spans_two_gpus(workers, gpus, share):
    assert gpu_share(Engine(), workers, one(99, gpus)) == pytest.approx(share, abs=1e-4)


def test_gpu_shares_that_are_asked_for():
    assert gpu_share(Engine(), 2, one(99)) == 0
    assert gpu_share(Engine(gpus_per_worker=0.5), 2, one(99, 1)) == 0.5
    with pytest.raises(ConfigError, match="at most 1, the GPUs there are on one machine"):
        gpu_share(Engine(gpus_per_worker=2), 1, [*one(4, 1), *one(4, 1)])
    with pytest.raises(ConfigError, match="a part of one GPU, or a whole number"):
        configuration.load("digits", ["engine.gpus_per_worker=1.5"], {})


def as_ray_rounds(share):
    """Return how many ten-thousandths Ray takes for a share (its FixedPoint)."""
    return int(share * 10_000 + 0.5)


def fit_by_hand(cpus, gpus, share):
    """Start workers until no GPU or core is left, as Ray does: one GPU each, or whole ones."""
    free, cores, count, asked = [10_000] * gpus, cpus, 0, as_ray_rounds(share)
    while cores >= 1:
        if share >= 1:
            whole = [place for place, left in enumerate(free) if left == 10_000][: int(share)]
            if len(whole) < share:
                break
            for place in whole:
                free[place] = 0
        else:
            place = next((place for place, left in enumerate(free) if left >= asked), None)
            if place is None:
                break
            free[place] -= asked
        cores -= 1
        count += 1
    return count


nodes_with_gpus = st.lists(
    st.tuples(st.integers(0, 12), st.integers(0, 4)).filter(lambda pair: pair[1]),
    min_size=1,
    max_size=4,
)


@given(nodes_with_gpus, st.integers(1, 30))
def test_the_share_is_the_largest_with_which_as_many_workers_run_as_can(pairs, workers):
    nodes = [Node(str(place), cpus, gpus) for place, (cpus, gpus) in enumerate(pairs)]
    share = gpu_share(Engine(), workers, nodes)
    cores = sum(cpus for cpus, _ in pairs)
    running = sum(fit_by_hand(cpus, gpus, share) for cpus, gpus in pairs)
    assert running == places(nodes, share)
    assert running >= min(workers, cores)
    most = max(gpus for _, gpus in pairs)
    larger = itertools.chain(range(1, most + 1), (int(10_000 / k) / 10_000 for k in range(2, 31)))
    for other in (one for one in larger if one > share):
        assert sum(fit_by_hand(cpus, gpus, other) for cpus, gpus in pairs) < min(workers, cores)


MIXED = [Node("head", 8), Node("a", 8, 2, "H100"), Node("b", 4, 1, "T4"), Node("c", 4, 1)]


@pytest.mark.parametrize(
    ("on_gpu", "own", "names"),
    [
        (False, "", ["head", "a", "b", "c"]),
        (True, "H100", ["a", "c"]),
        (True, "T4", ["b", "c"]),
        (True, "", ["a", "c"]),  # the first there is
    ],
)
def test_a_run_has_one_kind_of_device(on_gpu, own, names):
    chosen = of_one_kind(MIXED, on_gpu=on_gpu, accelerator=own)
    assert [node.name for node in chosen] == names
    assert all(bool(node.gpus) is on_gpu for node in chosen)


def as_ray_says(name, **resources):
    kind = resources.pop("kind", "")
    if kind:
        resources[f"accelerator_type:{kind}"] = 1.0
    names = {"NodeName": name, "NodeManagerHostname": name, "NodeManagerAddress": "10.0.0.1"}
    return {"NodeID": name, "Resources": resources, **names}


CLUSTER = [
    as_ray_says("head", CPU=8.0),
    as_ray_says("big", CPU=16.0, GPU=2.0, kind="H100"),
    as_ray_says("old", CPU=4.0, GPU=1.0, kind="T4"),
]


def test_a_server_without_gpu_leaves_those_of_the_cluster_alone_and_says_so():
    found = shared(CLUSTER, "head", on_gpu=False)
    assert (found.cpus, found.gpus, found.accelerator) == (28, 0, "")
    assert found.notice.startswith("the cluster has 3 GPU(s), but the server has none here")
    assert "Start the run on a node with a GPU" in found.notice
    assert shared(CLUSTER[:1], "head", on_gpu=False).notice == ""


def test_a_server_with_a_gpu_takes_the_nodes_with_the_same():
    found = shared(CLUSTER, "big", on_gpu=True)
    assert (found.cpus, found.gpus, found.accelerator) == (16, 2, "H100")
    assert found.notice == (
        "clients run on GPUs of type H100 only: not on head (10.0.0.1), old (10.0.0.1)"
    )
    assert shared(CLUSTER, "old", on_gpu=True).accelerator == "T4"
    assert shared(CLUSTER[1:2], "big", on_gpu=True).notice == ""
