"""Other people's Flower apps, unmodified, on our grids; and on Flower's own engine for comparison.

Flower gives nodes random ids, so the order in which its strategies add replies varies there: what
is added in floating point agrees to rounding, everything else exactly.
"""

import json
import subprocess
import sys
import textwrap
import time
from pathlib import Path

import pytest
from flwr.app import ConfigRecord, Context, Message, MetricRecord, RecordDict
from flwr.clientapp import ClientApp
from flwr.serverapp import ServerApp

from fedsim.engine import run_flower_app
from fedsim.engine.apps import override, read_flower_app
from fedsim.errors import ConfigError, SetupError

APPS = Path(__file__).parent / "flower_apps"
COMPARED = [
    "client-state",
    "custom-messages",
    "evaluate-only",
    "many-strategies",
    "mods",
    "numpy-client",
    "own-strategy",
    "plain-pytorch",
    "private-strategy",
    "secure-sums",
]
CLIENTS = 4


def run(name, output, **options):
    app = override(read_flower_app(APPS / name), [f"output={output}"])
    done = run_flower_app(
        app.server,
        app.client,
        num_clients=CLIENTS,
        run_config=app.config,
        code=(str(app.folder),),
        **options,
    )
    return done, json.loads(Path(output).read_text())


def same(one, other):
    """Compare nested results, numbers to 1e-6."""
    if isinstance(one, dict):
        assert one.keys() == other.keys()
        for key in one:
            same(one[key], other[key])
    elif isinstance(one, list):
        assert len(one) == len(other)
        for a, b in zip(one, other, strict=True):
            same(a, b)
    elif isinstance(one, float):
        assert one == pytest.approx(other, rel=1e-6, abs=1e-6)
    else:
        assert one == other


@pytest.fixture(scope="module")
def flowers(tmp_path_factory):
    """What Flower's own engine makes of the apps: by name."""
    folder = tmp_path_factory.mktemp("flower")
    pairs = [f"{APPS / name}={folder / name}" for name in COMPARED]
    script = Path(__file__).parent / "flower_peer.py"
    done = subprocess.run(
        [sys.executable, str(script), str(CLIENTS), *pairs],
        capture_output=True,
        text=True,
        timeout=800,
        check=False,
    )
    assert done.returncode == 0, done.stderr[-3000:]
    return {name: json.loads((folder / name).read_text()) for name in COMPARED}


@pytest.fixture(scope="module")
def cluster():
    """One Ray for all tests here: that of other modules, where there is one."""
    from fedsim.engine.own_ray import started

    with started(2):
        yield


@pytest.mark.slow  # minutes of starting Ray once for each app, as Flower does
@pytest.mark.timeout(900)
@pytest.mark.parametrize("name", COMPARED)
def test_results_are_those_of_flowers_own_simulation(name, flowers, tmp_path):
    _, result = run(name, tmp_path / "result.json", grid="inprocess")
    same(result, flowers[name])


@pytest.mark.slow  # Flower's engine joins whatever Ray runs: not beside other tests
def test_results_are_those_of_flowers_own_simulation_for_one_app(tmp_path):
    script, output = Path(__file__).parent / "flower_peer.py", tmp_path / "theirs.json"
    subprocess.run(
        [sys.executable, str(script), str(CLIENTS), f"{APPS / 'plain-pytorch'}={output}"],
        capture_output=True,
        timeout=200,
        check=True,
    )
    _, result = run("plain-pytorch", tmp_path / "ours.json", grid="inprocess")
    same(result, json.loads(output.read_text()))


_QUICK = ("plain-pytorch", "custom-messages")


@pytest.mark.parametrize(
    "name",
    [n if n in _QUICK else pytest.param(n, marks=pytest.mark.slow) for n in COMPARED],
)
def test_ray_gives_the_results_of_in_process(name, cluster, tmp_path):
    _, here = run(name, tmp_path / "here.json", grid="inprocess")
    done, there = run(name, tmp_path / "there.json", workers=2)
    assert done.workers == 2
    assert done.messages > 0
    same(there, here)


@pytest.mark.parametrize("grid", ["inprocess", "ray"])
def test_clients_that_fail_or_are_late_are_errors_and_the_others_count(grid, cluster, tmp_path):
    done, result = run("faulty", tmp_path / "result.json", grid=grid, workers=2)
    assert result == [{"good": [0, 3], "errors": 2}, {"good": [0, 2, 3], "errors": 1}]
    assert (done.messages, done.errors) == (8, 3)


def counting_apps():
    """Return a server and a client defined in a function: nothing a worker could import."""
    server, client = ServerApp(), ClientApp()

    @client.query()
    def count(message: Message, context: Context) -> Message:
        seen = context.state.metric_records.get("n", MetricRecord({"n": 0}))["n"] + 1
        context.state["n"] = MetricRecord({"n": seen})
        number = {"n": seen, "id": context.node_id - context.node_config["partition-id"]}
        return Message(RecordDict({"n": MetricRecord(number)}), reply_to=message)

    @server.main()
    def main(grid, context):
        for _ in range(3):
            content = RecordDict()
            sent = [Message(content, node, "query") for node in grid.get_node_ids()]
            replies = list(grid.send_and_receive(sent))
        context.state["seen"] = MetricRecord({"n": [r.content["n"]["n"] for r in replies]})
        context.state["ids"] = MetricRecord({"n": [r.content["n"]["id"] for r in replies]})

    return server, client


def test_app_objects_in_process():
    done = run_flower_app(*counting_apps(), num_clients=3, grid="inprocess")
    assert done.context.state["seen"]["n"] == [3, 3, 3]
    assert done.context.state["ids"]["n"] == [1, 1, 1]  # node i + 1 is client i
    assert (done.clients, done.workers, done.messages, done.errors) == (3, 1, 9, 0)


@pytest.mark.slow
def test_app_objects_of_a_script_on_ray(tmp_path):
    script = tmp_path / "notebook.py"
    script.write_text(
        textwrap.dedent(
            """
            from flwr.app import Message, MetricRecord, RecordDict
            from flwr.clientapp import ClientApp
            from flwr.serverapp import ServerApp
            from fedsim.engine import run_flower_app

            client, server = ClientApp(), ServerApp()

            @client.train()
            def train(message, context):
                found = {"n": context.run_config["add"] + context.node_config["partition-id"]}
                return Message(RecordDict({"m": MetricRecord(found)}), reply_to=message)

            @server.main()
            def main(grid, context):
                sent = [Message(RecordDict(), node, "train") for node in grid.get_node_ids()]
                print(sorted(r.content["m"]["n"] for r in grid.send_and_receive(sent)))

            if __name__ == "__main__":
                run_flower_app(server, client, num_clients=4, workers=2, run_config={"add": 10})
            """
        )
    )
    done = subprocess.run(
        [sys.executable, str(script)], capture_output=True, text=True, timeout=120, check=False
    )
    assert done.stdout.splitlines()[-1:] == ["[10, 11, 12, 13]"], done.stderr[-3000:]


def test_pushed_messages_run_in_the_background():
    server, client = ServerApp(), ClientApp()
    found = {}

    @client.query()
    def slow(message, context):
        time.sleep(0.3)
        return Message(RecordDict({"m": MetricRecord({"one": 1})}), reply_to=message)

    @server.main()
    def main(grid, context):
        content = RecordDict({"m": MetricRecord({"one": 1})})
        started = time.monotonic()
        ids = list(grid.push_messages([Message(content, node, "query") for node in (1, 2, 3)]))
        found["pushed"] = time.monotonic() - started
        content["m"]["one"] = 2  # whoever pushed may go on with what it sent
        found["replies"] = []
        while len(found["replies"]) < 3:
            seen = {reply.metadata.reply_to_message_id for reply in found["replies"]}
            waiting = [one for one in ids if one not in seen]
            found["replies"] += grid.pull_messages(waiting)
        found["again"] = list(grid.pull_messages(ids))

    run_flower_app(server, client, num_clients=3, grid="inprocess")
    assert found["pushed"] < 0.25
    assert [reply.has_error() for reply in found["again"]] == [True] * 3
    assert not any(reply.has_error() for reply in found["replies"])


@pytest.mark.parametrize("grid", ["inprocess", "ray"])
def test_after_the_servers_timeout_comes_what_there_is_and_the_next_call_is_whole(grid, cluster):
    server, client = ServerApp(), ClientApp()
    found = []

    @client.query()
    def answer(message, context):
        if message.content["m"]["is_slow"] and context.node_config["partition-id"] == 0:
            time.sleep(5)
        return Message(RecordDict({"m": MetricRecord({"one": 1})}), reply_to=message)

    @server.main()
    def main(grid, context):
        for is_slow, timeout in ((0, None), (1, 2.0), (0, None)):
            content = RecordDict({"m": MetricRecord({"is_slow": is_slow})})
            sent = [Message(content, node, "query") for node in grid.get_node_ids()]
            replies = list(grid.send_and_receive(sent, timeout=timeout))
            found.append(sum(not reply.has_error() for reply in replies))

    run_flower_app(server, client, num_clients=4, grid=grid, workers=2)
    before, during, after = found
    assert (before, after) == (4, 4)
    assert 0 < during < 4


@pytest.mark.parametrize("grid", ["inprocess", "ray"])
def test_clients_that_answer_nonsense_are_errors(grid, cluster):
    server, client = ServerApp(), ClientApp()

    @client.query()
    def nonsense(message, context):
        context.run_config["shared"] = "no"
        return "not a message"

    @client.train()
    def leaves(message, context):
        raise SystemExit(3)

    @client.evaluate()
    def fine(message, context):
        found = {"shared": context.run_config["shared"]}
        return Message(RecordDict({"c": ConfigRecord(found)}), reply_to=message)

    @server.main()
    def main(grid, context):
        for kind in ("query", "train", "evaluate"):
            sent = [Message(RecordDict(), node, kind) for node in grid.get_node_ids()]
            texts = [
                reply.error.reason if reply.has_error() else str(reply.content["c"]["shared"])
                for reply in grid.send_and_receive(sent)
            ]
            context.state[kind] = ConfigRecord({"n": texts})

    options = {"num_clients": 2, "grid": grid, "workers": 1, "run_config": {"shared": "yes"}}
    state = run_flower_app(server, client, **options).context.state
    assert all("not a Message" in reason for reason in state["query"]["n"])
    assert all("SystemExit: 3" in reason for reason in state["train"]["n"])
    assert state["evaluate"]["n"] == ["yes", "yes"]


def test_what_the_server_raises_comes_out_as_it_is():
    server = ServerApp()

    @server.main()
    def main(grid, context):
        raise LookupError("no such model")

    with pytest.raises(LookupError, match="no such model"):
        run_flower_app(server, ClientApp(), num_clients=2, grid="inprocess")


@pytest.mark.parametrize(
    ("options", "named"),
    [
        ({"num_clients": 0}, "num_clients"),
        ({"num_clients": 1, "grid": "mpi"}, "grid"),
        ({"num_clients": 1, "workers": 0}, "workers"),
    ],
)
def test_bad_arguments_are_refused(options, named):
    with pytest.raises(ConfigError, match=named):
        run_flower_app(ServerApp(), ClientApp(), **options)


def test_an_app_that_cannot_be_imported_is_refused_before_anything_starts():
    with pytest.raises(ConfigError, match="nowhere"):
        run_flower_app(ServerApp(), "nowhere.client:app", num_clients=2)


CONFIG = """
[tool.flwr.app.components]
serverapp = "a:b"
clientapp = "a:c"
[tool.flwr.app.config]
rounds = 3
lr = 0.1
name = "x"
fast = true
[tool.flwr.app.config.inner]
depth = 2
"""


@pytest.fixture
def folder(tmp_path):
    """`folder(text)` -> a folder with that pyproject.toml."""

    def make(text):
        (tmp_path / "pyproject.toml").write_text(text)
        return tmp_path

    return make


def test_overrides_keep_the_types_of_the_apps_config(folder):
    app = read_flower_app(folder(CONFIG))
    assert app.config == {"rounds": 3, "lr": 0.1, "name": "x", "fast": True, "inner.depth": 2}
    assert app.clients == 10
    given = ["rounds=5", "lr=1", "name=7", "fast=false", "inner.depth=4"]
    changed = override(app, given).config
    assert changed == {"rounds": 5, "lr": 1.0, "name": "7", "fast": False, "inner.depth": 4}
    assert type(changed["lr"]) is float
    assert override(app, ['name="two words"']).config["name"] == "two words"


@pytest.mark.parametrize(
    ("given", "message"),
    [
        ("round=5", "Did you mean 'rounds'"),
        ("rounds=many", "type int"),
        ("rounds=true", "type int"),
        ("rounds=1.5", "type int"),
        ("fast=1", "type bool"),
        ("lr=high", "type float"),
    ],
)
def test_bad_overrides_are_refused(given, message, folder):
    with pytest.raises(ConfigError, match=message):
        override(read_flower_app(folder(CONFIG)), [given])


def test_the_default_federation_of_older_apps_says_how_many_clients():
    assert read_flower_app(APPS / "numpy-client").clients == 4


def test_what_is_no_flower_app_is_refused(folder, tmp_path):
    with pytest.raises(SetupError, match="no such folder"):
        read_flower_app(tmp_path / "nothing")
    with pytest.raises(ConfigError, match=r"pyproject\.toml"):
        read_flower_app(tmp_path)
    with pytest.raises(ConfigError, match="serverapp"):
        read_flower_app(folder("[project]\nname = 'x'\n"))
    with pytest.raises(ConfigError, match="valid TOML"):
        read_flower_app(folder("[project"))


def command(*arguments, cwd):
    return subprocess.run(
        [sys.executable, "-m", "fedsim", "run", *arguments],
        capture_output=True,
        text=True,
        timeout=120,
        check=False,
        cwd=cwd,
    )


def test_the_command_runs_an_app(tmp_path):
    done = command(str(APPS / "mods"), "output=out.json", "--grid", "inprocess", cwd=tmp_path)
    assert done.returncode == 0, done.stderr
    assert "30 messages answered: 10 clients, 1 worker(s)" in done.stdout
    assert json.loads((tmp_path / "out.json").read_text())["metrics"]["3"] == {"calls": 3.0}


@pytest.mark.slow  # a Ray of its own
def test_the_command_runs_an_app_on_ray_where_nothing_else_is_said(tmp_path):
    asked = ("output=out.json", "--workers", "2", "--clients", "4")
    done = command(str(APPS / "mods"), *asked, cwd=tmp_path)
    assert done.returncode == 0, done.stderr
    assert "12 messages answered: 4 clients, 2 worker(s)" in done.stdout
    assert json.loads((tmp_path / "out.json").read_text())["metrics"]["3"] == {"calls": 3.0}


def test_a_built_in_experiment_goes_before_a_folder_of_its_name(tmp_path):
    (tmp_path / "digits").mkdir()
    done = command("digits", "rounds.count=none", cwd=tmp_path)
    assert "rounds.count" in done.stderr


def test_the_command_refuses_bad_input(tmp_path):
    done = command(str(APPS / "mods"), "outptu=x", cwd=tmp_path)
    assert done.returncode == 2
    assert "Did you mean 'output'" in done.stderr
    done = command("digits", "--clients", "3", cwd=tmp_path)
    assert done.returncode == 2
    assert "partition.clients" in done.stderr


def test_the_command_shows_the_apps_own_error(tmp_path):
    done = command(
        str(APPS / "own-strategy"), "output=no/such/folder", "--grid", "inprocess", cwd=tmp_path
    )
    assert done.returncode == 1
    assert "FileNotFoundError" in done.stderr
    assert "server_app.py" in done.stderr
