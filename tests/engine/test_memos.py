"""What simulated clients remember, on disk: bit by bit, as little in memory as may be."""

import json
import os
import pickle
import subprocess
import sys

import numpy as np
import pytest
import torch
from flwr.app import Array, ArrayRecord, ConfigRecord, RecordDict

import fedsim
from fedsim.engine import memos as module
from fedsim.engine.memos import MemoStore, part_of
from fedsim.errors import RunFailedError
from fedsim.messages import memo_of, set_memo
from fedsim.sealing import StorageKeys


def state(number, size=5):
    found, rng = RecordDict(), np.random.default_rng(number)
    tensors = {
        "w": torch.from_numpy(rng.normal(size=size)).float(),
        "places": torch.from_numpy(rng.integers(0, 99, size=3)),
        "alpha": torch.tensor([rng.random()], dtype=torch.float64),
    }
    set_memo(found, tensors)
    return found


def same(first, second):
    a, b = memo_of(first), memo_of(second)
    assert a.keys() == b.keys()
    for name, tensor in a.items():
        assert tensor.dtype == b[name].dtype
        assert torch.equal(tensor, b[name]), name


@pytest.fixture(params=["readable", "sealed"])
def keys(request):
    return StorageKeys.of(os.urandom(32)) if request.param == "sealed" else None


@pytest.fixture
def small(monkeypatch):
    """Files of a few memos each."""
    monkeypatch.setattr(module, "_FILE_BYTES", 1000)


def test_states_come_back_bit_by_bit_before_and_after_they_are_written(tmp_path, keys, small):
    store, rng = MemoStore(tmp_path, "run", keys), np.random.default_rng(0)
    expected = {}
    for number in range(200):  # written over again and again, some forgotten
        node = int(rng.integers(0, 30))
        if number % 9 == 8 and node in expected:
            del store[node], expected[node]
        else:
            expected[node] = store[node] = state(number)
        if number % 40 == 39:
            store.index()
            store.sweep()
    assert sorted(store) == sorted(expected)
    assert len(store) == len(expected)
    for node, wanted in expected.items():
        same(store[node], wanted)
    assert 99 not in store
    with pytest.raises(KeyError):
        store[99]


def test_a_store_goes_on_from_an_index_and_what_came_after_it_is_gone(tmp_path, keys, small):
    store = MemoStore(tmp_path, "run", keys)
    for node in range(20):
        store[node] = state(node)
    index = store.index()
    for node in range(10, 30):  # never named by an index: the process is killed here
        store[node] = state(100 + node)
    files = set(tmp_path.iterdir())
    again = MemoStore(tmp_path, "run", keys)
    again.restore(index)
    assert sorted(again) == list(range(20))
    for node in range(20):
        same(again[node], state(node))
    assert set(tmp_path.iterdir()) < files
    again[3] = state(333)
    again.index()
    same(again[3], state(333))


def test_files_are_bounded_by_what_is_wanted_of_them(tmp_path, small):
    store = MemoStore(tmp_path)
    for number in range(40):
        for node in range(number % 7, 50, 7):
            store[node] = state(number * 50 + node)
        store.index()
        store.sweep()
        wanted = sum(place[2] for place in store._places.values())
        assert sum(path.stat().st_size for path in tmp_path.iterdir()) <= 2 * wanted + 2000


def test_a_view_reads_when_it_is_asked_and_crosses_to_a_worker_as_a_dict(tmp_path, small):
    store = MemoStore(tmp_path)
    for node in range(9):
        store[node] = state(node)
    store.index()
    view = part_of(store, [7, 3, 50])
    assert (sorted(view), 50 in view) == ([3, 7], False)
    store[3] = state(33)
    same(view[3], state(33))
    crossed = pickle.loads(pickle.dumps(part_of(view, [3])))
    assert type(crossed) is dict
    same(crossed[3], state(33))
    assert part_of({1: "kept", 2: "kept"}, [2, 3]) == {2: "kept"}


def test_what_is_no_memo_stays_in_memory_and_beside_the_memo(tmp_path):
    store, both = MemoStore(tmp_path), state(1)
    both["session"] = ConfigRecord({"secret": b"a key"})
    store[1], store[2] = both, RecordDict({"session": ConfigRecord({"secret": b"a key"})})
    index = store.index()
    assert store[1]["session"]["secret"] == b"a key"
    same(store[1], both)
    assert list(store[2]) == ["session"]
    assert not any(b"a key" in path.read_bytes() for path in tmp_path.iterdir())
    again = MemoStore(tmp_path)
    again.restore(index)
    assert list(again) == [1]


def test_a_state_that_has_not_changed_is_not_written_again(tmp_path):
    store = MemoStore(tmp_path)
    store[1], store[2] = state(1), state(2)
    first = store.index()
    store[1], store[2] = store[1], state(3)
    second = store.index()
    places = [{row[0]: row[1:] for row in each["places"].tolist()} for each in (first, second)]
    assert places[0][1] == places[1][1]
    assert places[0][2] != places[1][2]


def test_an_empty_array_and_one_without_axes_come_back(tmp_path):
    store, given = MemoStore(tmp_path), RecordDict()
    given["memo"] = ArrayRecord({"n": Array(np.zeros((0, 3))), "t": Array(np.array(2.5))})
    store[1] = given
    store.index()
    same(store[1], given)


def test_a_file_that_is_cut_or_gone_is_said_by_its_name(tmp_path):
    store = MemoStore(tmp_path)
    store[1] = state(1)
    store.index()
    (path,) = tmp_path.iterdir()
    path.write_bytes(path.read_bytes()[:-1])
    with pytest.raises(RunFailedError, match=f"{path.name} is shorter"):
        store[1]
    path.unlink()
    with pytest.raises(RunFailedError, match=f"cannot read .*{path.name}"):
        store[1]


PERSONAL = {"name": "apfl", "alpha_lr": 0.1, "batch_size": 16}


@pytest.mark.parametrize("encrypt", [False, pytest.param(True, marks=pytest.mark.slow)])
def test_a_stopped_run_of_clients_with_models_of_their_own_goes_on_bit_by_bit(
    tiny, tmp_path, monkeypatch, encrypt
):
    monkeypatch.setenv("FEDSIM_STORAGE_KEY", fedsim_key())
    config = tiny(
        local=PERSONAL,
        strategy={"name": "fedavg"},
        evaluation={"federated_every": 5, "central_every": 0},
        storage={"encrypt": encrypt},
    )
    whole = fedsim.run(config, runs=tmp_path / "whole")
    shown = []

    def stop(event):
        shown.append(event)
        if type(event).__name__ == "RoundDone" and event.record.round == 3:
            raise RunFailedError("stopped by the test")

    with pytest.raises(RunFailedError):
        fedsim.run(config, runs=tmp_path / "stopped", listener=stop)
    resumed = fedsim.resume("last", runs=tmp_path / "stopped")
    assert resumed.model_sha256 == whole.model_sha256
    assert resumed.metrics == whole.metrics
    assert "federated/accuracy" in whole.metrics


def fedsim_key():
    from fedsim.sealing import new_key_line

    return new_key_line().strip()


METHODS = {
    "fedrep": {},
    "pfedme": {},
    "per-fedavg": {},
    "moon": {},
    "fml": {"local": {"models": ["mlp", "linear"]}},
    "ifca": {"strategy": {"name": "ifca"}},
    "cfl": {"strategy": {"name": "cfl", "eps1": 5.0, "eps2": 0.1, "gamma": 0.0}},
    "fedmd": {"strategy": {"name": "fedmd"}, "public": {"name": "held-out", "rows": 40}},
    "sgd": {"strategy": {"name": "feddf"}, "public": {"name": "held-out", "rows": 40}},
}


@pytest.mark.slow
@pytest.mark.parametrize("name", METHODS)
def test_in_process_on_ray_and_resumed_they_come_to_the_same(tiny, tmp_path, cluster, name):
    more = {"strategy": {"name": "fedavg"}, **METHODS[name]}
    more["local"] = {"name": name, "batch_size": 16, **more.pop("local", {})}
    cohort = {} if name == "cfl" else {"cohort": 6}
    config = tiny(**more, evaluation={"federated_every": 4, "central_every": 0})
    config["rounds"] = {"count": 4, **cohort}
    whole = fedsim.run(config, runs=tmp_path / "whole")

    def stop(event):
        if type(event).__name__ == "RoundDone" and event.record.round == 2:
            raise RunFailedError("stopped by the test")

    with pytest.raises(RunFailedError):
        fedsim.run(config, runs=tmp_path / "stopped", listener=stop)
    resumed = fedsim.resume("last", runs=tmp_path / "stopped")
    spread = {**config, "engine": {"grid": "ray", "workers": 2, "tier": "resident"}}
    on_ray = fedsim.run(spread, runs=tmp_path / "ray")
    for other in (resumed, on_ray):
        assert other.model_sha256 == whole.model_sha256
        assert other.metrics == whole.metrics


@pytest.mark.slow
@pytest.mark.timeout(1200)
def test_a_hundred_thousand_clients_with_a_memo_each_take_no_memory_for_it(tmp_path):
    """4 kB each: 400 MB that are on the disk alone, and a round of 100 that reads and writes."""
    done = subprocess.run(
        [sys.executable, "-c", _MANY, str(tmp_path)], capture_output=True, text=True, check=False
    )
    assert done.returncode == 0, done.stderr
    found = json.loads(done.stdout)
    assert found["clients"] == 100_000
    assert found["disk"] > 400e6
    assert found["grown"] < 150e6, found
    print(f"grown by {found['grown'] / 1e6:.0f} MB")  # what docs/methods.md says


_MANY = """
import json, resource, sys
from pathlib import Path
import torch
from flwr.app import RecordDict
from fedsim.engine.blocks import Handlers, Population
from fedsim.engine.inprocess import InProcessGrid
from fedsim.engine.memos import MemoStore
from fedsim.messages import memo_of, set_memo

def answer(content, own, metadata, clients, states, config, limit):
    found = {}
    for place, client in enumerate(clients):
        memo = memo_of(states[place]) if states[place] else {"own": torch.zeros(1000)}
        found[place] = RecordDict()
        set_memo(found[place], {"own": memo["own"] + client + 1})
    return [], found

def peak():
    return resource.getrusage(resource.RUSAGE_SELF).ru_maxrss * 1024

grid = InProcessGrid(Handlers(None, block=answer), Population(100_000, {}))
grid.states = store = MemoStore(Path(sys.argv[1]) / "memos")
before = peak()
nodes = list(grid.population.nodes)
for part in range(0, 100_000, 1000):
    list(grid.broadcast(RecordDict(), nodes[part : part + 1000], "train", ttl=None, group_id="1"))
store.index()
store.sweep()
list(grid.broadcast(RecordDict(), nodes[::1000], "train", ttl=None, group_id="2"))
for node in nodes[::5000]:
    times = 2 if (node - 1) % 1000 == 0 else 1
    assert float(memo_of(store[node])["own"][0]) == times * node
disk = sum(path.stat().st_size for path in (Path(sys.argv[1]) / "memos").iterdir())
print(json.dumps({"clients": len(store), "disk": disk, "grown": peak() - before}))
"""
