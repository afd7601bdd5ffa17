"""Comparing runs: exactly what differs, and by how much."""

from collections.abc import Callable, Mapping
from typing import Any

from fedsim.core import RoundRecord
from fedsim.store import RunStore, StoredRun, compare

_PARTITION = {
    "clients": 20,
    "examples": 1303,
    "label_divergence": 0.25,
    "effective_clients": 16.0,
    "sizes": {"min": 26, "median": 56.0, "max": 126},
    "table": [[1, 2]],
}
_ENVIRONMENT = {
    "python": "3.11.7",
    "platform": "Linux",
    "processor": "A",
    "cpus": 2,
    "memory_bytes": 8,
    "gpus": [],
    "versions": {"fedsim": "0.1.0", "torch": "2.13.0"},
    "git": {"commit": "aaa", "is_dirty": False, "diff_sha256": ""},
    "code": {"project": "c1"},
}
_CONFIG = {
    "name": "digits",
    "seed": 0,
    "optimizer": {"name": "sgd", "lr": 0.1},
    "partition": {"name": "dirichlet", "alpha": 0.5},
}
_FACTS = {"data_sha256": "d1", "grid": "ray", "workers": 2, "device": "cpu"}
_METRICS = [
    {"test/accuracy": 0.25, "test/loss": 2.0, "train/loss": 3.0},
    {"test/accuracy": 0.75, "test/loss": 1.5, "federated/loss/variance": 0.5},
    {"test/accuracy": 0.75, "test/loss": 1.75, "federated/loss": 1.0},
]


def _run(
    store: RunStore,
    make_record: Callable[..., RoundRecord],
    metrics: list[dict[str, float]],
    **parts: Mapping[str, Any],
) -> StoredRun:
    run_id = store.create(
        "digits",
        {**_CONFIG, **parts.get("config", {})},
        {**_ENVIRONMENT, **parts.get("environment", {})},
        {**_PARTITION, **parts.get("partition", {})},
        {**_FACTS, **parts.get("facts", {})},
    )
    for number, values in enumerate(metrics, start=1):
        store.append(run_id, make_record(number, metrics=values))
    summary = {"metrics": metrics[-1], "bytes_up": 600 * len(metrics), "real_seconds": 1.5}
    store.finish(run_id, "finished", summary)
    return store.get(run_id)


def test_a_run_is_the_same_as_itself(
    store: RunStore, make_record: Callable[..., RoundRecord]
) -> None:
    run = _run(store, make_record, _METRICS)
    found = compare(run, run)
    assert found["runs"] == [run.id, run.id]
    for topic in ("configuration", "code", "data", "machine"):
        assert found[topic] == {}
    numbers = [row for row in found["results"].values() if "difference" in row]
    assert len(numbers) >= 8
    assert all(row["difference"] == 0 for row in numbers)


def test_each_topic_has_what_differs_and_nothing_else(
    store: RunStore, make_record: Callable[..., RoundRecord]
) -> None:
    a = _run(store, make_record, _METRICS)
    b = _run(
        store,
        make_record,
        _METRICS,
        config={"optimizer": {"name": "sgd", "lr": 0.2}, "mode": "pooled"},
        environment={
            "cpus": 8,
            "versions": {"fedsim": "0.1.0", "torch": "2.14.0"},
            "git": {"commit": "bbb", "is_dirty": True, "diff_sha256": "ff"},
            "code": {"project": "c2"},
        },
        partition={"clients": 10, "sizes": {"min": 30, "median": 56.0, "max": 126}},
        facts={"data_sha256": "d2", "workers": 4},
    )
    found = compare(a, b)
    assert found["configuration"] == {
        "mode": {"a": None, "b": "pooled"},
        "optimizer.lr": {"a": 0.1, "b": 0.2},
    }
    assert found["code"] == {
        "code.project": {"a": "c1", "b": "c2"},
        "git.commit": {"a": "aaa", "b": "bbb"},
        "git.diff_sha256": {"a": "", "b": "ff"},
        "git.is_dirty": {"a": False, "b": True},
        "versions.torch": {"a": "2.13.0", "b": "2.14.0"},
    }
    summaries = found["data"].pop("partition.summary_sha256")
    assert summaries["a"] != summaries["b"]
    assert found["data"] == {
        "data_sha256": {"a": "d1", "b": "d2"},
        "partition.clients": {"a": 20, "b": 10},
        "partition.sizes.min": {"a": 26, "b": 30},
    }
    assert found["machine"] == {"cpus": {"a": 2, "b": 8}, "workers": {"a": 2, "b": 4}}


def test_examples_dealt_out_otherwise_differ_though_all_sizes_agree(
    store: RunStore, make_record: Callable[..., RoundRecord]
) -> None:
    a = _run(store, make_record, _METRICS)
    b = _run(store, make_record, _METRICS, partition={"table": [[2, 1]]})
    assert list(compare(a, b)["data"]) == ["partition.summary_sha256"]


def test_results_have_differences_and_the_best_rounds(
    store: RunStore, make_record: Callable[..., RoundRecord]
) -> None:
    """Accuracy is best when large, loss when small; the first round that is as good counts."""
    a = _run(store, make_record, _METRICS)
    b = _run(store, make_record, _METRICS[:1])
    results = compare(a, b)["results"]
    assert results["best.test/accuracy"] == {"a": 0.75, "b": 0.25, "difference": -0.5}
    assert results["best_round.test/accuracy"] == {"a": 2, "b": 1, "difference": -1}
    assert results["best.test/loss"] == {"a": 1.5, "b": 2.0, "difference": 0.5}
    assert results["best_round.test/loss"] == {"a": 2, "b": 1, "difference": -1}
    assert results["best.federated/loss"] == {"a": 1.0, "b": None}
    assert results["best_round.federated/loss"] == {"a": 3, "b": None}
    assert results["metrics.test/loss"] == {"a": 1.75, "b": 2.0, "difference": 0.25}
    assert results["bytes_up"] == {"a": 1800, "b": 600, "difference": -1200}
    assert results["real_seconds"] == {"a": 1.5, "b": 1.5, "difference": 0.0}
    assert results["status"] == {"a": "finished", "b": "finished"}
    assert not [key for key in results if key.endswith(("variance", "best.train/loss"))]


def test_a_run_without_rounds_or_summary_can_be_compared(
    store: RunStore, make_record: Callable[..., RoundRecord]
) -> None:
    a = _run(store, make_record, _METRICS)
    b = store.get(store.create("empty", {}, {}, {}, {}))
    found = compare(a, b)
    assert found["results"]["status"] == {"a": "finished", "b": "running"}
    assert found["results"]["best.test/accuracy"] == {"a": 0.75, "b": None}
    assert found["configuration"]["seed"] == {"a": 0, "b": None}


def test_a_metric_that_was_not_a_number_is_never_the_best(
    store: RunStore, make_record: Callable[..., RoundRecord]
) -> None:
    values = [{"test/loss": float("nan")}, {"test/loss": 2.0}, {"test/loss": float("inf")}]
    run = _run(store, make_record, values)
    results = compare(run, run)["results"]
    assert results["best.test/loss"]["a"] == 2.0
    assert results["best_round.test/loss"]["a"] == 2
