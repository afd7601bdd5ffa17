"""`fedsim deploy local`: server and nodes as processes, the bits and the record of a simulation."""

import os
import signal
import subprocess
import sys
import time
from collections import Counter
from functools import partial

import psutil
import pytest

import fedsim
from fedsim.deploy import local
from fedsim.deploy.control import connected
from fedsim.deploy.submit import approved, prepared, submit
from fedsim.errors import ConfigError, FedsimError
from fedsim.events import RoundDone, RunStarted, Stage
from fedsim.store import RunStore

SMALL = ["model.name=mlp", "evaluation.federated_every=0"]
MASKED = ["secure_sum.name=secagg", "secure_sum.threshold=0.51"]


def simulated(tmp_path, clients, *overrides):
    own = ["engine.grid=inprocess", "engine.tier=resident", f"partition.clients={clients}"]
    return fedsim.run("digits", [*SMALL, *own, *overrides], runs=tmp_path / "simulated")


def hashes(result):
    return [entry["model_sha256"] for entry in result.history]


def processes_of(folder):
    """Processes that name a folder, in their arguments or in their environment."""
    found = []
    for process in psutil.process_iter(["cmdline", "environ"]):
        words = process.info["cmdline"] or [], (process.info["environ"] or {}).values()
        if process.pid != os.getpid() and any(str(folder) in word for own in words for word in own):
            found.append(process)
    return found


def wait(is_so, seconds=300.0):
    deadline = time.monotonic() + seconds
    while not is_so():
        assert time.monotonic() < deadline
        time.sleep(0.2)


@pytest.fixture
def place(tmp_path, monkeypatch):
    """A folder for temporary folders: what is left in it, or runs from it, is a leftover."""
    made = tmp_path / "temporary"
    made.mkdir()
    monkeypatch.setenv("TMPDIR", str(made))
    monkeypatch.setattr("tempfile.tempdir", None)
    yield made
    monkeypatch.setattr("tempfile.tempdir", None)


@pytest.mark.timeout(600)
def test_two_nodes_come_to_the_bits_and_the_record_of_a_simulation(place, tmp_path):
    heard = []
    overrides = [*SMALL, "rounds.count=1"]
    result = local.run_local("digits", overrides, 2, runs=str(tmp_path / "runs"), tell=heard.append)
    here = simulated(tmp_path, 2, "rounds.count=1")
    assert result.status == "finished"
    assert hashes(result) == hashes(here)
    assert result.metrics == here.metrics
    assert result.stored.facts["grid"] == "flower"
    assert result.stored.summary["lost"] == 0
    names = {path.name for path in result.folder.iterdir()}
    kept = {"checkpoint.safetensors", "config.toml", "model.safetensors", "report.html", "run.log"}
    assert kept <= names
    assert [type(event) for event in heard if isinstance(event, (RunStarted, RoundDone))] == [
        RunStarted, RoundDone
    ]  # fmt: skip
    assert list(place.iterdir()) == []
    assert processes_of(place) == []


@pytest.mark.parametrize("nodes", [0, -1, 100_000])
def test_a_number_of_nodes_that_is_none_is_refused_before_anything_starts(nodes, place, tmp_path):
    with pytest.raises(ConfigError, match="--nodes"):
        local.run_local("digits", [], nodes, runs=str(tmp_path / "runs"))
    assert list(place.iterdir()) == []


def test_what_cannot_run_is_refused_before_anything_starts(place, tmp_path):
    with pytest.raises(ConfigError, match=r"rounds\.count"):
        local.run_local("digits", ["rounds.count=0"], 2, runs=str(tmp_path / "runs"))
    assert list(place.iterdir()) == []


def test_a_table_of_ones_own_is_refused_before_anything_starts(place, tmp_path):
    table = tmp_path / "people.csv"
    table.write_text("age,ill\n" + "".join(f"{i},{i % 2}\n" for i in range(40)))
    overrides = [f"data.path={table}", "data.target=ill", "partition.name=iid"]
    with pytest.raises(ConfigError, match=r"(?s)data\.name.*node\.toml"):
        local.run_local("digits", overrides, 2, runs=str(tmp_path / "runs"))
    assert list(place.iterdir()) == []


@pytest.mark.slow
@pytest.mark.timeout(1800)
def test_five_nodes_with_masks_come_to_the_bits_of_ideal(place, tmp_path):
    overrides = [*SMALL, *MASKED, "rounds.count=2"]
    result = local.run_local("digits", overrides, 5, runs=str(tmp_path / "runs"))
    own = [*MASKED[1:], "secure_sum.name=ideal", "rounds.count=2"]
    assert hashes(result) == hashes(simulated(tmp_path, 5, *own))


@pytest.mark.slow
@pytest.mark.timeout(1800)
def test_a_deployed_run_with_a_privacy_unit_has_its_ledger(place, tmp_path):
    private = ["privacy.unit=user", "privacy.epsilon=50", "privacy.clipping_norm=1.0"]
    overrides = [*SMALL, *private, "rounds.count=2"]
    result = local.run_local("digits", overrides, 3, runs=str(tmp_path / "runs"))
    spent = result.stored.summary["privacy"]
    assert 0 < spent["epsilon"] <= 50
    assert (spent["unit"], spent["runs"]) == ("user", 1)


@pytest.mark.slow
@pytest.mark.timeout(1200)
def test_fedbuff_steps_by_whichever_nodes_answer_first(place, tmp_path):
    buffered = ["strategy.name=fedbuff", "strategy.buffer=2", "rounds.count=5"]
    overrides = [*SMALL, *buffered, "evaluation.federated_every=5"]
    result = local.run_local("digits", overrides, 3, runs=str(tmp_path / "runs"))
    assert result.status == "finished"
    rows = RunStore(tmp_path / "runs").clients(result.run_id, phase="train")
    counted = Counter(row["round"] for row in rows if not row["lost"])
    assert counted == dict.fromkeys(range(1, 6), 2)
    assert all(entry["metrics"]["train/staleness"] >= 0 for entry in result.history)
    assert result.metrics["test/accuracy"] > 0.5
    assert processes_of(place) == []


@pytest.mark.slow
@pytest.mark.timeout(1200)
def test_ctrl_c_leaves_no_process_and_a_run_that_goes_on(place, tmp_path):
    runs = tmp_path / "runs"
    command = [sys.executable, "-m", "fedsim", "deploy", "local", "--nodes", "2", *SMALL,
               "rounds.count=4", "--runs", str(runs)]  # fmt: skip
    log = (tmp_path / "log").open("w")
    # Who is started in the background of a shell ignores SIGINT, and so would what it starts.
    hear = partial(signal.signal, signal.SIGINT, signal.SIG_DFL)
    running = subprocess.Popen(command, stderr=log, stdout=log, preexec_fn=hear)
    log.close()
    wait(lambda: "round 1/4" in (tmp_path / "log").read_text() or running.poll() is not None, 900)
    running.send_signal(signal.SIGINT)
    assert running.wait(120) == 130, (tmp_path / "log").read_text()
    wait(lambda: processes_of(place) == [], 10)
    assert list(place.iterdir()) == []
    stored = fedsim.store.RunStore(runs).get("last")
    assert stored.status == "interrupted"
    result = local.run_local("digits", [], 2, runs=str(runs), resume=stored.id)
    assert hashes(result) == hashes(simulated(tmp_path, 2, "rounds.count=4"))


class Running:
    """A federation with everything of it in reach, and runs submitted from a thread."""

    def __init__(self, root, nodes, overrides):
        self.text = prepared("digits", overrides, nodes)
        self.bundle = local._made(root, nodes, str(root / "runs"), None, "", self.text)
        self.heard = []

    def submit(self, federation, run_id=""):
        with federation.connected() as control:
            submission = approved(self.bundle.operator, self.text, run_id)
            return submit(control, self.bundle.operator, submission, self.heard.append)


def kill_node(federation, name):
    """kill -9 of a SuperNode and all its processes; those forked for it die with it."""
    process = federation.processes.running.pop(name)
    os.killpg(process.pid, signal.SIGKILL)
    process.wait()


@pytest.mark.slow
@pytest.mark.timeout(2400)
@pytest.mark.parametrize("masks", [[], MASKED], ids=["plain", "secagg"])
def test_a_killed_node_is_lost_for_its_round_and_comes_back(masks, place, tmp_path):
    """One of five is killed while a round goes on; when it is back, it takes part again."""
    import threading

    overrides = [*SMALL, *masks, "rounds.count=5", "rounds.timeout_s=240"]
    made = Running(tmp_path, 5, overrides)
    with local.federation(made.bundle, made.heard.append) as federation:
        results = []
        thread = threading.Thread(target=lambda: results.append(made.submit(federation)))
        thread.start()

        def done():
            return [e.record for e in made.heard if isinstance(e, RoundDone)]

        wait(lambda: len(done()) >= 1 or not thread.is_alive(), 900)
        kill_node(federation, "node-3")
        wait(lambda: len(done()) >= 2 or not thread.is_alive(), 900)
        federation.start_node("node-3")
        thread.join()
    rounds = done()
    assert len(rounds) == 5, [e.text for e in made.heard if isinstance(e, Stage)]
    assert rounds[0].lost == 0
    assert rounds[1].lost == 1
    assert rounds[4].lost == 0
    assert results[0].status == "finished"


@pytest.mark.slow
@pytest.mark.timeout(1200)
def test_a_federation_begins_without_a_node_that_comes_late(place, tmp_path):
    import threading

    made = Running(tmp_path, 3, [*SMALL, "rounds.count=6", "rounds.min_results=2"])
    local._change(made.bundle.server / "server.toml", "server", {"wait_s": 20.0})
    with local.federation(made.bundle, made.heard.append) as federation:
        federation.processes.stop("node-1")
        thread = threading.Thread(target=lambda: made.submit(federation), daemon=True)
        thread.start()
        wait(
            lambda: any(isinstance(e, RoundDone) for e in made.heard) or not thread.is_alive(), 900
        )
        federation.start_node("node-1")
        thread.join(900)
    rounds = [e.record.lost for e in made.heard if isinstance(e, RoundDone)]
    said = [e.text for e in made.heard if isinstance(e, Stage)]
    assert (rounds[0], rounds[-1], len(rounds)) == (1, 0, 6), said
    assert any("without the nodes of client(s) 1:" in text for text in said)
    assert "the node of client 1 is there now" in said


@pytest.mark.slow
@pytest.mark.timeout(2400)
def test_a_killed_superlink_is_started_again_and_the_run_goes_on(place, tmp_path):
    import threading

    from fedsim.deploy.server import NAME, start_server

    made = Running(tmp_path, 2, [*SMALL, "rounds.count=4"])
    with local.federation(made.bundle, made.heard.append) as federation:
        failed = []

        def first():
            try:
                made.submit(federation)
            except FedsimError as error:
                failed.append(error)

        thread = threading.Thread(target=first, daemon=True)
        thread.start()
        wait(lambda: any(isinstance(e, RoundDone) for e in made.heard), 900)
        run_id = next(e.run_id for e in made.heard if isinstance(e, RunStarted))
        os.killpg(federation.processes.running[NAME].pid, signal.SIGKILL)
        federation.processes.running.pop(NAME).wait()
        start_server(made.bundle.server, federation.processes, warm=federation.warm)
        result = made.submit(federation, run_id)
    history = fedsim.store.RunStore(tmp_path / "runs").get(run_id).rounds
    assert result.status == "finished"
    models = [entry["model_sha256"] for entry in history]
    assert models == hashes(simulated(tmp_path, 2, "rounds.count=4"))


@pytest.mark.slow
@pytest.mark.timeout(900)
def test_strangers_are_not_let_in(place, tmp_path):
    """A node that is not registered, one without a key, one of another authority."""
    from fedsim.deploy.processes import Processes, environment, supernode

    made = Running(tmp_path, 1, [*SMALL, "rounds.count=1"])
    other = Running(tmp_path / "other", 1, [*SMALL, "rounds.count=1"])
    with local.federation(made.bundle, made.heard.append) as federation:
        strange = other.bundle.node("node-0")
        own = made.bundle.node("node-0")
        (strange / "ca.crt").write_bytes((own / "ca.crt").read_bytes())  # trusts the server now
        tried = Processes(tmp_path)
        for name, folder, port in (("stranger", strange, 1), ("foreign", other.bundle.server, 2)):
            ports = local.free_ports(1)
            command = supernode(federation.address, ports[0], "partition-id=0", strange)
            if name == "foreign":
                command[command.index("--root-certificates") + 1] = str(folder / "ca.crt")
            tried.start(name, command, environment(tmp_path / f"home-{port}"))
        keyless = supernode(federation.address, local.free_ports(1)[0], "partition-id=0", own)[:-2]
        tried.start("keyless", keyless, environment(tmp_path / "home-3"))
        plain = supernode(federation.address, local.free_ports(1)[0], "partition-id=0", None)
        tried.start("plain", plain, environment(tmp_path / "home-4"))
        try:
            for name in ("stranger", "foreign", "keyless"):
                assert tried.running[name].wait(300) != 0, name
            # Without TLS a SuperNode takes what it hears for a bad line, and goes on trying.
            assert tried.running["plain"].poll() != 0
            with connected(federation.address, federation.certificate) as control:
                assert [node.status for node in control.nodes()] == ["online"]
        finally:
            tried.stop()
