"""Run engines in turns, each in processes of its own, and watch them: seconds, start-up, memory."""

import json
import os
import statistics
import subprocess
import sys
import tempfile
import threading
import time
import uuid
from collections.abc import Callable, Mapping, Sequence
from datetime import UTC, datetime
from pathlib import Path
from typing import Any

import psutil
from tables import Engine

__all__ = ["EngineError", "deal_out", "load", "make_data", "take_turns", "watch"]

HERE = Path(__file__).resolve().parent
MARK = "FEDSIM_BENCH_MARK"
MB = 2**20
_LEAST_PAUSE_S, _PAUSE_PER_COST = 0.5, 20  # looking takes at most a twentieth of one core
_END_S = 20.0  # for an engine's background processes to end by themselves


class EngineError(RuntimeError):
    """An engine printed no figures."""


def take_turns(
    engines: Sequence[Engine],
    cycles: int,
    pfl: str | None,
    save: Path | None,
    *,
    prepare: Callable[[Sequence[Engine], Path], None] | None = None,
    also: Callable[[dict[str, Any]], dict[str, Any]] = lambda record: {},
) -> tuple[list[dict[str, Any]], list[str]]:
    """Measure every engine in every cycle; return the records and the names of what failed.

    `pfl`: the interpreter of pfl's environment. Every record, with what `also` finds out, is
    appended to `save` at once. `prepare`: `deal_out` if unset.
    """
    records: list[dict[str, Any]] = []
    failed = []
    began = datetime.now(UTC).strftime("%Y-%m-%dT%H:%M:%SZ")
    with tempfile.TemporaryDirectory() as name:
        folder = Path(name)
        (prepare or deal_out)(engines, folder)
        for cycle in range(1, cycles + 1):
            for engine in engines:
                try:
                    found = _measure(engine, folder, pfl)
                except EngineError as error:
                    print(f"{engine.name} failed: {error}", file=sys.stderr)
                    failed.append(engine.name)
                    continue
                print(f"{cycle} {engine.name}: {found['median']:.4f}", file=sys.stderr)
                record = {"cycle": f"{began} {cycle}", "name": engine.name, **found}
                records.append(record | also(record))
                if save:
                    with save.open("a", encoding="utf-8") as file:
                        file.write(json.dumps(records[-1]) + "\n")
    return records, failed


def load(files: Sequence[Path]) -> list[dict[str, Any]]:
    """Read what earlier sittings saved."""
    lines = [line for file in files for line in file.read_text(encoding="utf-8").splitlines()]
    return [json.loads(line) for line in lines]


def make_data(engines: Sequence[Engine], folder: Path) -> None:
    """Write the data of the workloads, and make `noise.Noise` a data set, as a package would."""
    import workloads

    info = folder / "fedsim_bench-1.dist-info"
    info.mkdir()
    (info / "METADATA").write_text("Metadata-Version: 2.1\nName: fedsim-bench\nVersion: 1\n")
    (info / "entry_points.txt").write_text("[fedsim.data]\nnoise = noise:Noise\n")
    for workload in {engine.workload for engine in engines}:
        workloads.make_data(folder, workload)


def deal_out(engines: Sequence[Engine], folder: Path) -> None:
    """Write the data, and have ours deal them out to clients in a run that does not count."""
    make_data(engines, folder)
    ours = {engine.workload: engine for engine in engines if engine.command[0] == "ours.py"}
    for workload, engine in ours.items():
        command = ("ours.py", "resident", "sgd", '{"grid": "inprocess", "workers": null}')
        few = {"FEDSIM_BENCH_SIZES": _with_cohort(1, workload, engine.environment)}
        _measure(Engine(workload, "", command, 2, environment=few), folder, None)


def _with_cohort(cohort: int, workload: str, environment: Mapping[str, str]) -> str:
    sizes = json.loads((os.environ | environment).get("FEDSIM_BENCH_SIZES", "{}"))
    return json.dumps(sizes | {workload: sizes.get(workload, {}) | {"cohort": cohort}})


def _measure(engine: Engine, folder: Path, pfl: str | None) -> dict[str, Any]:
    """Run an engine once."""
    script, *options = engine.command
    start = [sys.executable]
    if script == "peer_pfl.py":
        start = [str(pfl)]
        if engine.processes > 1:
            start += ["-m", "torch.distributed.run", "--nproc-per-node", str(engine.processes)]
    for remembered in (folder / "runs" / "cache").glob("tier-*.json"):
        remembered.unlink()  # what choosing a tier takes belongs to starting
    places = [str(folder), str(HERE), *filter(None, [os.environ.get("PYTHONPATH")])]
    return watch(
        [*start, str(HERE / script), str(folder), engine.workload, str(engine.rounds), *options],
        folder,
        {
            "OMP_NUM_THREADS": "1",
            "PYTHONPATH": os.pathsep.join(places),
            "FEDSIM_BENCH": str(folder),
            "FEDSIM_WORKLOAD": engine.workload,
            "FLWR_TELEMETRY_ENABLED": "0",
            # As where fedsim is installed: what Python compiles of it is kept.
            "PYTHONDONTWRITEBYTECODE": "",
            "RAY_USAGE_STATS_ENABLED": "0",
            **engine.environment,
        },
    )


def watch(command: Sequence[str], folder: Path, environment: Mapping[str, str]) -> dict[str, Any]:
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
    start_up = found["first_end"] - launched - median
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
