"""A run's events survive the way through a log, and what ended it keeps its exit code."""

import pytest
from hypothesis import given
from hypothesis import strategies as st

from fedsim.core import ClientRecord, RoundRecord
from fedsim.deploy import told
from fedsim.deploy.submit import event_of, follow, kept, prepared
from fedsim.errors import (
    BudgetExceededError,
    ConfigError,
    NetworkError,
    Problem,
    RunFailedError,
    UnknownRunError,
)
from fedsim.events import ClientsDone, RoundDone, RunDone, RunStarted, Stage
from fedsim.session import Result
from fedsim.store import StoredRun


def back(event):
    return event_of(told.read_line(f"INFO :  {told.line_of(event)}"))


@given(st.text(min_size=1))
def test_stages_come_back(text):
    assert back(Stage(text)) == Stage(text)
    assert told.line_of(Stage(text)).count("\n") == 1


def test_runs_clients_and_rounds_come_back(tmp_path):
    started = RunStarted("run-1", None, tmp_path, 3, 9, 5)
    assert back(started) == started
    assert back(ClientsDone(2, 1, 5)) == ClientsDone(2, 1, 5)
    lost = ClientRecord(1, "train", lost="gone")
    record = RoundRecord(4, {"test/loss": 0.5}, [lost], 5, 1.5, {}, 100, 50, "ab")
    found = back(RoundDone(record)).record
    for name in ("round", "metrics", "cohort", "real_seconds", "bytes_down", "bytes_up", "lost"):
        assert getattr(found, name) == getattr(record, name)


def stored(tmp_path, status):
    return StoredRun(
        id="run-1", name="n", status=status, created="", finished="", config={}, environment={},
        partition={}, facts={"notice": "seen", "code": ["/secret"]}, summary={"rounds": 2},
        folder=tmp_path,
    )  # fmt: skip


def done(tmp_path, status="finished"):
    run = stored(tmp_path, status)
    return RunDone(
        Result("run-1", status, {"test/loss": 0.5}, [], "ab", tmp_path, tmp_path / "r.html", run)
    )


def test_the_end_comes_back_without_what_is_the_servers(tmp_path):
    result = back(done(tmp_path)).result
    assert (result.run_id, result.status, result.model_sha256) == ("run-1", "finished", "ab")
    assert result.stored.summary == {"rounds": 2}
    assert result.stored.facts == {"notice": "seen"}


def test_other_lines_are_no_events():
    assert told.read_line("INFO: loading") is None
    assert told.read_line("fedsim-event {broken") is None
    assert told.read_line("fedsim-event 3") is None


@pytest.mark.parametrize(
    ("error", "code"),
    [(RunFailedError("few"), 1), (BudgetExceededError("spent"), 4), (ValueError("defect"), 1)],
)
def test_what_ended_a_run_keeps_its_words_and_its_exit_code(error, code):
    content = told.read_line(told.failure_line(error))["failed"]
    with pytest.raises(told.FailedElsewhereError, match=str(error)) as raised:
        told.raise_failure(content)
    assert raised.value.exit_code == code


def test_problems_of_a_configuration_come_back_as_such():
    problem = Problem("mode", "pooled", "'federated'", "a hint")
    content = told.read_line(told.failure_line(ConfigError([problem])))["failed"]
    with pytest.raises(ConfigError) as raised:
        told.raise_failure(content)
    assert raised.value.problems == (problem,)


class Log:
    """The Control API of a server that has one run: its log, cut off as often as told."""

    def __init__(self, lines, breaks=()):
        self.sent, self.breaks = lines, list(breaks)

    def lines(self, number):
        cut = self.breaks.pop(0) if self.breaks else None
        for place, line in enumerate(self.sent):
            if place == cut:
                raise NetworkError("cut")
            yield line

    def run(self, number):
        from fedsim.deploy.control import FlowerRun

        return FlowerRun(number, "finished", "failed", "of Flower")


def test_a_broken_connection_repeats_and_drops_nothing(tmp_path, monkeypatch):
    monkeypatch.setattr("time.sleep", lambda seconds: None)
    events = [Stage("a"), Stage("b"), ClientsDone(1, 1, 2), done(tmp_path)]
    lines = ["noise", *(told.line_of(event).rstrip() for event in events)]
    heard = []
    result = follow(Log(lines, [2, 2, 4]), 1, heard.append)
    assert result.status == "finished"
    assert heard[:3] == events[:3]
    assert len(heard) == 4


def test_a_run_without_an_end_has_failed(tmp_path):
    with pytest.raises(RunFailedError, match="failed: of Flower"):
        follow(Log([told.line_of(Stage("a"))]), 1, lambda event: None)


def test_what_the_server_raised_is_raised_here(tmp_path):
    lines = [told.line_of(done(tmp_path, "failed")), told.failure_line(RunFailedError("too few"))]
    with pytest.raises(told.FailedElsewhereError, match="too few"):
        follow(Log(lines), 1, lambda event: None)


def test_an_experiment_is_for_as_many_clients_as_there_are_nodes():
    import json

    text = prepared("digits", ["rounds.count=2"], 4)
    assert json.loads(text)["config"]["partition"]["clients"] == 4
    with pytest.raises(ConfigError, match="the nodes there are"):
        prepared("digits", ["partition.clients=3"], 4)


def test_a_run_that_was_not_submitted_from_here_cannot_be_gone_on_with(tmp_path):
    with pytest.raises(UnknownRunError, match="was not submitted from"):
        kept(tmp_path, "run-1")
