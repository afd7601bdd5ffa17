"""Run an engine in processes of its own and watch it: seconds, start-up, memory of all of them."""

import json
import os
import statistics
import subprocess
import tempfile
import threading
import time
import uuid
from collections.abc import Sequence
from pathlib import Path
from typing import Any

import psutil

__all__ = ["EngineError", "watch"]

MARK = "FEDSIM_BENCH_MARK"
MB = 2**20
_LEAST_PAUSE_S, _PAUSE_PER_COST = 0.5, 20  # looking takes at most a twentieth of one core
_END_S = 20.0  # for an engine's background processes to end by themselves


class EngineError(RuntimeError):
    """An engine printed no figures."""


def watch(command: Sequence[str], folder: Path, environment: dict[str, str]) -> dict[str, Any]:
    """Run a command that prints `workloads.figures` and return what it says and what was seen.

    `median`: of its rounds' seconds but the first. `start_up`: seconds from the launch of the
    command to the end of the first round, less `median`. `memory`: the most MB that all of its
    processes held at one time, shared pages counted once. Raises `EngineError`.
    """
    mark = uuid.uuid4().hex
    with tempfile.TemporaryFile("w+") as output, tempfile.TemporaryFile("w+") as errors:
        launched = time.time()
        process = subprocess.Popen(
            command,
            env={**os.environ, **environment, MARK: mark},
            stdout=output,
            stderr=errors,
            text=True,
            cwd=folder,
        )
        memory = _Memory(mark)
        process.wait()
        memory.stop()
        _end(mark)
        for file in (output, errors):
            file.seek(0)
        lines = [line for line in output.read().splitlines() if line.startswith("{")]
        if not lines:  # the exit code does not count: pfl aborts while torch shuts down
            raise EngineError(errors.read()[-3000:])
    found: dict[str, Any] = json.loads(lines[-1])
    median = statistics.median(found["seconds"][1:])
    start_up = found.pop("first_end") - launched - median
    return found | {"median": median, "start_up": start_up, "memory": memory.most / MB}


class _Memory:
    """Adds up, every half a second or less often, what the processes of a mark hold."""

    def __init__(self, mark: str) -> None:
        self.most = 0
        self._mark = mark
        self._is_over = threading.Event()
        self._thread = threading.Thread(target=self._look, daemon=True)
        self._thread.start()

    def stop(self) -> None:
        self._is_over.set()
        self._thread.join()

    def _look(self) -> None:
        pause = _LEAST_PAUSE_S
        while not self._is_over.wait(pause):
            started = time.process_time()
            self.most = max(self.most, sum(map(_held, marked(self._mark))))
            spent = time.process_time() - started
            pause = max(_LEAST_PAUSE_S, _PAUSE_PER_COST * spent)


def marked(mark: str) -> list[psutil.Process]:
    """List the processes that were started, however indirectly, by the one with the mark.

    Children inherit the environment, also those that leave their parent, as Ray's do.
    """
    found = []
    for process in psutil.process_iter():
        try:
            if process.environ().get(MARK) == mark:
                found.append(process)
        except (psutil.Error, OSError):
            continue  # it has ended, or is somebody else's
    return found


def _held(process: psutil.Process) -> int:
    """Return a process's bytes: its share of pages it shares (PSS), or without them (USS)."""
    try:
        info = process.memory_full_info()
    except (psutil.Error, OSError):
        return 0
    return int(getattr(info, "pss", 0) or info.uss)


def _end(mark: str) -> None:
    """Wait until nothing of an engine runs any more, and end what stays."""
    deadline = time.time() + _END_S
    while (left := marked(mark)) and time.time() < deadline:
        time.sleep(0.2)
    for process in left:
        try:
            process.kill()
        except psutil.Error:
            continue
