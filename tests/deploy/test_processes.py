"""Processes end with all they started; warm ones answer as if they had been started anew."""

import os
import signal
import subprocess
import sys
import time
from pathlib import Path

import psutil
import pytest

from fedsim.deploy.processes import Processes, environment, free_ports, stopping
from fedsim.deploy.warm import CLIENT, make_commands
from fedsim.errors import SetupError

# A process that ignores SIGTERM, with a child that does so too.
STUBBORN = """
import signal, subprocess, sys, time
signal.signal(signal.SIGTERM, signal.SIG_IGN)
code = "import signal, time; signal.signal(signal.SIGTERM, signal.SIG_IGN); time.sleep(600)"
child = subprocess.Popen([sys.executable, "-c", code])
print(child.pid, flush=True)
time.sleep(600)
"""
SERVING = """
import os, sys
from pathlib import Path
from fedsim.deploy.warm import serve

loaded = os.getpid()

def work():
    print(sys.argv[1:], os.getcwd(), os.getppid() == loaded, os.environ["OF_CALL"], flush=True)
    if sys.argv[1] == "raise":
        raise ValueError("of the work")
    raise SystemExit(int(sys.argv[1]))

serve(Path(sys.argv[1]), lambda: {"flwr-clientapp": work})
"""


def wait(is_so, seconds=60.0):
    deadline = time.monotonic() + seconds
    while not is_so():
        assert time.monotonic() < deadline
        time.sleep(0.02)


def test_what_a_process_started_ends_with_it_even_by_force(tmp_path):
    processes = Processes(tmp_path)
    processes.start("stubborn", [sys.executable, "-c", STUBBORN], os.environ)
    log = tmp_path / "stubborn.log"
    wait(lambda: log.exists() and log.read_text().strip())
    pids = [processes.running["stubborn"].pid, int(log.read_text())]
    processes.must_run()
    processes.stop(seconds=0.5)
    wait(lambda: not any(is_alive(pid) for pid in pids))
    assert processes.running == {}


def is_alive(pid):
    try:
        return psutil.Process(pid).status() != psutil.STATUS_ZOMBIE
    except psutil.NoSuchProcess:
        return False


def test_a_process_that_ends_by_itself_is_told_of_with_what_it_said(tmp_path):
    processes = Processes(tmp_path)
    processes.start(
        "short", [sys.executable, "-c", "print('why'); raise SystemExit(7)"], os.environ
    )
    processes.running["short"].wait()
    with pytest.raises(SetupError, match=r"(?s)short ended with status 7:.*why"):
        processes.must_run()


def test_a_program_that_is_none_is_told_of(tmp_path):
    with pytest.raises(SetupError, match="cannot start"):
        Processes(tmp_path).start("none", [str(tmp_path / "none")], os.environ)


def test_sigterm_ends_what_runs_like_ctrl_c(tmp_path):
    before = signal.getsignal(signal.SIGTERM)
    processes = Processes(tmp_path)

    def terminated():
        with stopping(processes):
            sleeping = [sys.executable, "-c", "import time; time.sleep(600)"]
            processes.start("sleeper", sleeping, os.environ)
            started.append(processes.running["sleeper"])
            os.kill(os.getpid(), signal.SIGTERM)
            time.sleep(60)

    started = []
    with pytest.raises(KeyboardInterrupt):
        terminated()
    assert started[0].returncode is not None
    assert signal.getsignal(signal.SIGTERM) == before


def test_a_killed_parent_takes_its_processes_along(tmp_path):
    code = (
        "import sys, time, os\n"
        "from pathlib import Path\n"
        "from fedsim.deploy.processes import Processes\n"
        "p = Processes(Path(sys.argv[1]))\n"
        "p.start('child', [sys.executable, '-c', 'import time; time.sleep(600)'], os.environ)\n"
        "print(p.running['child'].pid, flush=True)\n"
        "time.sleep(600)\n"
    )
    parent = subprocess.Popen([sys.executable, "-c", code, tmp_path], stdout=subprocess.PIPE)
    child = int(parent.stdout.readline())
    parent.kill()
    parent.wait()
    parent.stdout.close()
    if sys.platform == "linux":
        wait(lambda: not is_alive(child))


def test_flowers_outbound_calls_are_off(tmp_path):
    found = environment(tmp_path / "home", MORE="1")
    assert found["FLWR_TELEMETRY_ENABLED"] == "0"
    assert found["FLWR_DISABLE_UPDATE_CHECK"] == "1"
    assert found["FLWR_DISABLE_RUNTIME_DEPENDENCY_INSTALLATION"] == "1"
    assert found["FLWR_HOME"] == str(tmp_path / "home")
    assert found["MORE"] == "1"
    assert found["PATH"].split(os.pathsep)[0] == str(Path(sys.executable).parent)


def test_free_ports_are_different():
    assert len(set(free_ports(20))) == 20


@pytest.fixture
def warm(tmp_path):
    place = tmp_path / ("deep" * 20) / "warm.sock"  # longer than the path of a socket may be
    place.parent.mkdir()
    server = subprocess.Popen([sys.executable, "-c", SERVING, place])
    make_commands(tmp_path / "bin", place, [CLIENT])
    wait(place.with_name("warm.sock.ready").exists)
    yield tmp_path / "bin" / "flwr-clientapp"
    server.terminate()
    server.wait()


def test_a_warm_process_does_the_work_of_each_call_in_a_fork(warm, tmp_path):
    calls = [
        subprocess.Popen(
            [warm, str(code), "--token", "x y"],
            cwd=tmp_path,
            env={**os.environ, "OF_CALL": f"of-{code}"},
            stdout=subprocess.PIPE,
        )
        for code in (0, 7, 3)
    ]
    for call, code in zip(calls, (0, 7, 3), strict=True):
        output, _ = call.communicate(timeout=60)
        assert output.decode().split() == [
            f"['{code}',", "'--token',", "'x", "y']", str(tmp_path), "True", f"of-{code}"
        ]  # fmt: skip
        assert call.returncode == code


def test_a_call_that_raises_ends_with_1_and_says_so(warm):
    done = subprocess.run(
        [warm, "raise"],
        env={**os.environ, "OF_CALL": "x"},
        capture_output=True,
        text=True,
        timeout=60,
        check=False,
    )
    assert done.returncode == 1
    assert "ValueError('of the work')" in done.stderr


def test_without_a_warm_process_the_real_program_runs(tmp_path):
    make_commands(tmp_path, tmp_path / "nobody.sock", [CLIENT])
    command = tmp_path / "flwr-clientapp"
    real = str(Path(sys.executable).parent / "flwr-clientapp")
    assert real in command.read_text()
    command.write_text(command.read_text().replace(real, "/bin/echo"))
    done = subprocess.run([command, "a", "b c"], capture_output=True, text=True, check=True)
    assert done.stdout == "a b c\n"
