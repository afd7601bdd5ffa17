"""Clients that misbehave are lost for the round, with the reason; nothing is swallowed."""

import pytest

import fedsim
from fedsim.errors import RunFailedError
from fedsim.session import write_report
from fedsim.store import RunStore

REASONS = {
    "raise": "ZeroDivisionError: a defect in the user's own code",
    "nan": "NaN or infinity",
    "inf": "NaN or infinity",
    "huge": "diverged",
    "shape": "shape",
    "weight": "weight -1.0 is not",
}


def run(tiny, tmp_path, fault, grid, **rounds):
    config = tiny(
        local={"name": "faulty", "fault": fault, "clients": [3]},
        strategy={"name": "fedavg"},
        rounds={"count": 2, "cohort": 9, **rounds},
        engine={"grid": grid, "workers": 2} if grid == "ray" else {"grid": grid},
    )
    return fedsim.run(config, runs=tmp_path / grid)


@pytest.mark.parametrize("fault", list(REASONS))
def test_a_bad_client_is_lost_in_process(fault, tiny, plugin, tmp_path):
    result = run(tiny, tmp_path, fault, "inprocess")
    check_lost(result, tmp_path / "inprocess", REASONS[fault])
    if fault == "raise":
        log = (result.folder / "run.log").read_text()
        assert "client 3 (node 4) lost in train" in log
        assert "in _do" in log
        assert 'raise ZeroDivisionError("a defect' in log


def check_lost(result, runs, reason):
    assert [entry["lost"] for entry in result.history] == [1, 1]
    assert [entry["results"] for entry in result.history] == [8, 8]
    lost = RunStore(runs).lost_clients(result.run_id)
    assert [(row["round"], row["client"], row["phase"]) for row in lost] == [
        (1, 3, "train"),
        (2, 3, "train"),
    ]
    assert all(reason in row["lost"] for row in lost)
    report = write_report(RunStore(runs), result.run_id).read_text()
    assert "1 lost" not in report  # both rounds' losses are counted
    assert "2 lost" in report


@pytest.mark.slow
def test_the_same_client_is_lost_on_ray_and_the_model_is_the_same(tiny, plugin, cluster, tmp_path):
    for fault in ("raise", "nan"):
        here = run(tiny, tmp_path / fault, fault, "inprocess")
        there = run(tiny, tmp_path / fault, fault, "ray")
        check_lost(there, tmp_path / fault / "ray", REASONS[fault])
        assert there.model_sha256 == here.model_sha256


@pytest.mark.slow
def test_a_client_that_kills_its_worker_is_lost_and_the_run_goes_on(
    tiny, plugin, cluster, tmp_path
):
    result = run(tiny, tmp_path, "exit", "ray")
    check_lost(result, tmp_path / "ray", "worker died")


@pytest.mark.parametrize("grid", ["inprocess", "ray"])
def test_a_client_that_takes_too_long_is_lost(grid, tiny, plugin, request, tmp_path):
    if grid == "ray":
        request.getfixturevalue("cluster")
    result = run(tiny, tmp_path, "sleep", grid, timeout_s=3.0)
    check_lost(result, tmp_path / grid, "no result within 3 s")


def test_time_outs_work_outside_the_main_thread(tiny, plugin, tmp_path):
    """A busy loop in a thread, as in a notebook's worker: the exception is injected."""
    import threading

    from fedsim.engine.blocks import ClientTimeoutError, _time_limit

    outcome = []

    def busy():
        try:
            with _time_limit(0.2):
                while True:
                    pass
        except ClientTimeoutError as error:
            outcome.append(type(error))

    thread = threading.Thread(target=busy)
    thread.start()
    thread.join(20)
    assert outcome == [ClientTimeoutError]


@pytest.mark.slow
def test_a_client_that_no_signal_reaches_is_found_and_its_worker_replaced(
    tiny, plugin, cluster, tmp_path, monkeypatch
):
    import fedsim.engine.ray

    monkeypatch.setattr(fedsim.engine.ray, "_GRACE_S", 1.0)
    config = tiny(
        local={"name": "faulty", "fault": "hang", "clients": [3], "round": 1},
        strategy={"name": "fedavg"},
        rounds={"count": 2, "cohort": 9, "timeout_s": 2.0},
        engine={"grid": "ray", "workers": 2},
    )
    result = fedsim.run(config, runs=tmp_path)
    assert [entry["lost"] for entry in result.history] == [1, 0]
    assert "hung" in (result.folder / "run.log").read_text()


@pytest.mark.reports
def test_too_few_results_end_the_run_and_it_can_go_on(tiny, plugin, tmp_path):
    config = tiny(
        local={"name": "faulty", "fault": "raise", "clients": list(range(9)), "round": 3},
        rounds={"count": 4, "cohort": 9, "min_results": 2},
    )
    with pytest.raises(
        RunFailedError, match=r"round 3: 0 of 9 clients gave a result.*client 0: Zero"
    ):
        fedsim.run(config, runs=tmp_path)
    stored = RunStore(tmp_path).get("last")
    assert stored.status == "failed"
    assert [entry["round"] for entry in stored.rounds] == [1, 2]
    assert (stored.folder / "report.html").exists()
    assert "client 8 (node 9) lost" in (stored.folder / "run.log").read_text()
    with pytest.raises(RunFailedError, match="round 3"):
        fedsim.resume("last", runs=tmp_path)
