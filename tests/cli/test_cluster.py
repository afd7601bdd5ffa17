"""Ray clusters on the command line: where they are said, how they are shown."""

import pytest
from typer.testing import CliRunner

from fedsim.cli._app import app
from fedsim.cli.cluster import _print
from fedsim.engine.status import ClusterStatus, NodeStatus, RunStatus
from fedsim.errors import ConfigError


@pytest.mark.parametrize("command", [["run", "digits"], ["plan", "digits"], ["cluster", "status"]])
def test_what_is_no_address_is_refused_before_any_work(command):
    done = CliRunner().invoke(app, [*command, "--ray-address", "head"])
    assert isinstance(done.exception, ConfigError)
    (problem,) = done.exception.problems
    assert problem.value == "head"
    assert problem.accepted == "auto, local, HOST:PORT or ray://HOST:PORT"


@pytest.mark.parametrize("command", ["run", "resume", "plan"])
def test_commands_that_train_take_an_address(command):
    done = CliRunner().invoke(app, [command, "--help"])
    assert "--ray-address" in done.output


def node(name, **more):
    own = {"gpus": 0.0, "gpus_used": 0.0, "accelerator": "", "cpus_used": 0.0, **more}
    return NodeStatus(name * 3, name, 8.0, memory_bytes=2**34, store_bytes=2**32,
                      store_used_bytes=2**20, **own)  # fmt: skip


def test_the_table_has_each_node_and_each_run(capsys):
    workers = {"aaa": {"busy": 3, "idle": 1}, "": {"starting": 2}}
    run = RunStatus("run-1", "host", 77, "01", 0.0, 0.0, workers, 8412, 120, 35.1)
    gpu = {"gpus": 1.0, "gpus_used": 0.5, "accelerator": "T4", "cpus_used": 4.0}
    _print(ClusterStatus("10.0.0.5:6379", [node("a", **gpu), node("b")], [run]))
    lines = [" ".join(line.split()) for line in capsys.readouterr().out.splitlines()]
    assert lines[0] == "Ray cluster at 10.0.0.5:6379"
    assert "a 4 of 8 0.5 of 1 T4 16.0 GiB 1.0 MiB of 4.0 GiB run-1: 3 busy, 1 idle" in lines
    assert "b 0 of 8 - 16.0 GiB 1.0 MiB of 4.0 GiB -" in lines
    (row,) = [line for line in lines if line.startswith("run-1")]
    assert "host, process 77" in row
    assert "3 busy, 1 idle, 2 starting" in row
    assert "8,412, 120 waiting 35.1" in row
