"""The library's front door: `run`, `resume` and `plan`, used alike by the CLI and by notebooks."""

import os
import signal
import threading
from collections.abc import Callable, Mapping, Sequence
from contextlib import closing
from dataclasses import asdict, dataclass, field, replace
from datetime import UTC, datetime
from functools import partial
from pathlib import Path
from time import perf_counter
from types import MappingProxyType
from typing import Any

from torch import Tensor

from fedsim import (
    agreement,
    comparison,
    environment,
    models,
    privacy_check,
    report,
    ring,
    secure_rounds,
    spending,
    tiers,
)
from fedsim import config as configuration
from fedsim import data as datasets
from fedsim.anonymized import Charged
from fedsim.behind import Behind
from fedsim.clients import _ckks
from fedsim.clients._secure_sum import SECRET, simulated_directory
from fedsim.config.schema import RunConfig
from fedsim.core import ClientContext, RoundRecord
from fedsim.crypto import random_key
from fedsim.engine.blocks import Population
from fedsim.engine.checkpoint import (
    Checkpoint,
    write_atomically,
)
from fedsim.engine.cluster import Resources, joined, started_behind
from fedsim.engine.launch import OpenGrid, open_grid, worker_count
from fedsim.errors import FedsimError, Interrupted, RunFailedError
from fedsim.events import ClientsDone, Event, RoundDone, RunDone, RunStarted, Stage
from fedsim.federation import Federation, Places, build, to_text
from fedsim.privacy.check import Finding
from fedsim.rounds import Admit, ServerState, number_format, run_rounds, start_state
from fedsim.run_files import RunFiles, RunLog, only_one
from fedsim.sealing import storage_keys
from fedsim.secagg import ckks
from fedsim.store import RunStore, StoredRun, append_receipt

__all__ = ["Listener", "Result", "check_privacy", "plan", "resume", "run", "write_report"]

_LONG_S = 1.0  # a round: its writing is then not worth hiding
_MOST_INCIDENTS = 50  # kept with the run; all of them are in its log

Listener = Callable[[Event], None]
Experiment = str | Path | Mapping[str, Any] | RunConfig


@dataclass(frozen=True, slots=True)
class Result:
    """What a run came to. `metrics` are the last ones known, `history` one dict per round."""

    run_id: str
    status: str
    metrics: Mapping[str, float]
    history: Sequence[Mapping[str, Any]]
    model_sha256: str
    folder: Path
    report: Path
    stored: StoredRun

    def _repr_html_(self) -> str:
        return report.fragment(self.stored)


def run(
    experiment: Experiment = "digits",
    overrides: Sequence[str] = (),
    *,
    runs: str | Path | None = None,
    data_dir: str | Path | None = None,
    listener: Listener | None = None,
) -> Result:
    """Run an experiment: a TOML file, a built-in name, a mapping or a `RunConfig`.

    Raises `ConfigError` for everything wrong with it, before anything starts; `RunFailedError`
    when it cannot go on, and `Interrupted` after Ctrl-C: both leave a run that `resume` continues.
    A run on anonymized records may be followed by its twin on raw ones (`fedsim.comparison`).

    >>> import fedsim  # doctest: +SKIP
    >>> fedsim.run("digits", ["rounds.count=3"])  # doctest: +SKIP
    """
    config, tell = _configuration(experiment, overrides), listener or (lambda event: None)
    _must_have_key(config)
    with joined(config.engine) as resources:  # before anything is made on the disk
        store = RunStore(runs)
        around = _Around(store, _places(store, data_dir, experiment), resources, tell)
        return _with_twin(_run(config, around), config, around)


@dataclass(frozen=True, slots=True)
class _Around:
    """What runs one after the other have in common."""

    store: RunStore
    places: Places
    resources: Resources
    tell: Listener


def _with_twin(result: Result, config: RunConfig, around: _Around) -> Result:
    """Run the same on raw records, where that is asked for; return the run with both."""
    twin = comparison.twin_of(config)
    if twin is None or result.stored.summary.get("raw"):
        return result
    around.tell(Stage("the same on raw records, to compare"))
    _run(twin, around, {comparison.BESIDE: result.run_id})
    return replace(result, stored=around.store.get(result.run_id))


def _run(
    config: RunConfig, around: _Around, more: Mapping[str, Any] = MappingProxyType({})
) -> Result:
    """Run an experiment; `more`: facts that are kept with it."""
    store, resources, tell = around.store, around.resources, around.tell
    charging = spending.charged(config, store.root)
    federation = _open_federation(config, around.places, tell, charging)
    places = replace(around.places, cut=agreement.to_text(federation.anonymization))
    with started_behind(config.engine, resources):
        if config.privacy.unit != "none":
            tell(Stage("finding the noise that keeps the privacy budget"))
            federation = spending.settled(federation)
            found = federation.config
            config = replace(config, privacy=found.privacy, secure_sum=found.secure_sum)
        state = start_state(federation)
        _preflight(store, federation, state)
        tell(Stage("choosing how clients are trained"))
        execution = tiers.choose(federation, store.root / "cache")
        facts = {**_facts(federation, places, execution, resources), **more}
        run_id = store.create(
            config.name,
            configuration.to_dict(config),
            environment.describe(places.code),
            datasets.summarize(federation.real_clients),
            facts,
        )
        folder = store.folder(run_id)
        write_atomically(folder / "config.toml", configuration.dump_toml(config).encode())
        agreement.keep(federation.anonymization, folder)
        session = _Session(store, run_id, folder, federation, places, execution, resources, tell)
        return session.go(state, {})


def resume(
    run_id: str,
    *,
    runs: str | Path | None = None,
    data_dir: str | Path | None = None,
    listener: Listener | None = None,
) -> Result:
    """Go on with a run after its last checkpoint; the result is that of an uninterrupted run.

    Raises `UnknownRunError`, and `RunFailedError` where the run is finished, is still going on in
    another process, or where its data are not what they were.
    """
    tell = listener or (lambda event: None)
    store = RunStore(runs)
    stored = store.get(run_id)
    if stored.status == "finished":
        raise RunFailedError(f"run {stored.id} is finished: there is nothing to resume")
    config = _joining(configuration.from_dict(stored.config))
    _must_have_key(config)
    code = tuple(stored.facts.get("code", ()))
    places = replace(_places(store, data_dir, None), code=code)
    if "agreed" in stored.facts.get("anonymization", {}):
        cut = agreement.to_text(agreement.load(store.folder(stored.id)).to_dict())
        places = replace(places, cut=cut)
    with joined(config.engine) as resources:
        federation = _open_federation(config, places, tell)
        if federation.clients.meta.sha256 != stored.facts["data_sha256"]:
            raise RunFailedError(
                f"the data of run {stored.id} have changed since it began (sha256 "
                f"{federation.clients.meta.sha256[:12]}, was {stored.facts['data_sha256'][:12]}): "
                "its remaining rounds would not belong to its first ones. Start a new run instead"
            )
        with started_behind(config.engine, resources):
            folder = store.folder(stored.id)
            execution = tiers.Execution(**stored.facts["execution"])
            session = _Session(
                store, stored.id, folder, federation, places, execution, resources, tell
            )
            with only_one(session.folder, stored.id), closing(session.writer):
                found = session.files.load_checkpoint()
                done = found.round if found else 0
                store.truncate(stored.id, done)
                session.log(f"resumed after round {done}")
            state = ServerState(found.round, found.state) if found else start_state(federation)
            result = session.go(state, dict(found.memos) if found else {})
        around = _Around(store, replace(places, cut=""), resources, tell)
        return _with_twin(result, config, around)


def plan(
    experiment: Experiment = "digits",
    overrides: Sequence[str] = (),
    *,
    data_dir: str | Path | None = None,
) -> dict[str, Any]:
    """Say what an experiment would do and cost. Trains nothing that is kept, writes nothing.

    The time is extrapolated from one client of median size, trained once and thrown away; memory
    is this process's, per worker. Raises what `run` would raise before its first round.
    """
    config = _configuration(experiment, overrides)
    code = _code_folders(experiment)
    folder = str(Path(data_dir).resolve()) if data_dir else datasets.default_data_dir()
    federation = spending.settled(build(config, Places(data_dir=folder, code=code)))
    config, form = federation.config, number_format(federation)
    sizes, rounds = federation.clients.sizes(), config.rounds
    cohort = min(rounds.cohort or len(sizes), len(sizes))
    with joined(config.engine) as resources:
        workers = worker_count(config.engine, resources, len(sizes))
    state = start_state(federation)
    seconds, memory = _probe(federation, state)
    model_bytes = 4 * form.dimension
    down, up = model_bytes, config.transform.size_bytes(form.dimension) + 64
    if ring.is_secure(config):
        down, up = secure_rounds.payload_bytes(federation, form)
    return {
        "name": config.name,
        "clients": len(sizes),
        "cohort": cohort,
        "rounds": rounds.count,
        "examples": int(sizes.sum()),
        "smallest": int(sizes.min()),
        "largest": int(sizes.max()),
        "parameters": form.dimension,
        "model_bytes": model_bytes,
        "bytes_down": down * cohort * rounds.count,
        "bytes_up": up * cohort * rounds.count,
        "secure_sum": secure_rounds.facts(federation, form),
        "grid": config.engine.grid,
        "device": str(federation.device),
        "workers": workers,
        "memory_bytes": memory * (workers + 1 if config.engine.grid == "ray" else 1),
        "checkpoint_bytes": _state_bytes(state),
        "fraction_bits": form.fraction_bits,
        "client_seconds": seconds,
        "estimated_seconds": seconds * cohort * rounds.count / workers,
    }


def check_privacy(
    experiment: Experiment = "digits",
    overrides: Sequence[str] = (),
    *,
    runs: str | Path | None = None,
    data_dir: str | Path | None = None,
) -> list[Finding]:
    """Look for what could make a run less private than its epsilon says; trains nothing.

    Raises what `run` would raise before its first round, but for what has to do with privacy.
    """
    config, store = _configuration(experiment, overrides), RunStore(runs)
    return privacy_check.examine(config, _places(store, data_dir, experiment), store)


def write_report(store: RunStore, run_id: str) -> Path:
    """Write a run's report (HTML and JSON) into its folder; return the path of the HTML."""
    stored = store.get(run_id)
    rounds = [entry["round"] for entry in stored.rounds if _has_spread(entry["metrics"])]
    last = store.clients(stored.id, round=rounds[-1], phase="evaluate") if rounds else []
    return report.write(stored, [*last, *store.lost_clients(stored.id)], stored.folder)[0]


@dataclass(slots=True)
class _Session:
    """One stretch of a run, from a state to its end, a failure or an interruption."""

    store: RunStore
    run_id: str
    folder: Path
    federation: Federation
    places: Places
    execution: tiers.Execution
    resources: Resources
    tell: Listener
    seen_incidents: list[str] = field(default_factory=list)
    files: RunFiles = field(init=False)
    writer: RunLog = field(init=False)

    def __post_init__(self) -> None:
        self.files = RunFiles(self.folder, self.run_id, self.federation.keys)
        self.writer = self.files.writer()

    def go(self, state: ServerState, memos: Mapping[int, Any]) -> Result:
        config = self.federation.config
        clients = self.federation.clients.clients
        self.tell(
            RunStarted(
                self.run_id, config, self.folder, state.round + 1, config.rounds.count, clients
            )
        )
        text = to_text(_unresolved(self.store, self.run_id), self.places)
        at_once = self.execution.block_size or 0
        told: dict[str, Any] = {"experiment": text, "tier": self.execution.tier}
        told["at-once"] = at_once
        if ring.is_masked(config):  # known to this run's processes alone, and stored nowhere
            told[SECRET] = random_key().hex()
        if ring.is_encrypted(config):
            told[_ckks.KEY] = ckks.new_key().hex()
        population = Population(clients, told)
        engine = replace(config.engine, block_size=self._travelling(at_once))
        lock = only_one(self.folder, self.run_id)
        with lock, closing(self.writer), _Interruption(self.tell) as interruption:
            try:
                self._set_status("running", state)
                kind = "Ray workers" if config.engine.grid == "ray" else "clients in this process"
                self.tell(Stage(f"starting {kind}"))
                with open_grid(engine, population, code=self.places.code) as opened:
                    interruption.listen()
                    state = self._rounds(opened, state, memos, interruption)
            except KeyboardInterrupt:
                self._end("interrupted", state)
                raise Interrupted(self._hint("stopped at once")) from None
            except FedsimError as error:
                self._lost(getattr(error, "records", ()), "?")
                self.log(f"failed: {error}")
                self._end("failed", state)
                raise
            except BaseException as error:
                self.log(f"failed: {error!r}")
                self._end("failed", state)
                raise
            if interruption.is_asked and state.round < config.rounds.count:
                self._end("interrupted", state)
                raise Interrupted(self._hint(f"stopped after round {state.round}"))
            return self._end("finished", state)

    def _travelling(self, at_once: int) -> int | None:
        """Return how many clients go to a worker together: whole groups trained at once."""
        if not at_once or self.execution.tier in (tiers.MESSAGES, tiers.RESIDENT):
            return at_once or None
        config, population = self.federation.config, self.federation.population
        workers = worker_count(config.engine, self.resources, population)
        cohort = min(config.rounds.cohort or population, population)
        return tiers.travelling(at_once, cohort, workers)

    def log(self, text: str) -> None:
        """Append to the run's log; a log that cannot be written must not end a run."""
        now = datetime.now(UTC).strftime("%Y-%m-%dT%H:%M:%SZ")
        try:
            self.writer.append(f"{now} {text}\n")
        except OSError as error:
            self.tell(Stage(f"cannot write the log: {error}"))

    def _rounds(
        self,
        opened: OpenGrid,
        state: ServerState,
        memos: Mapping[int, Any],
        interruption: "_Interruption",
    ) -> ServerState:
        grid = opened.grid
        grid.states.update(memos)
        number = state.round + 1

        def progress(done: int, asked: int) -> None:
            behind.collect(wait=False)
            self.tell(ClientsDone(number, done, asked))

        grid.on_progress = progress
        nodes = grid.population.nodes
        told = Behind[RoundRecord](lambda record: self.tell(RoundDone(record)))
        with environment.settled(), told as behind:
            directory = simulated_directory(grid.population.run_config, self.federation.config)
            rounds = run_rounds(
                grid, nodes, self.federation, state, self._admit(), directory=directory
            )
            for record, state in rounds:
                self._lost(record.clients, str(record.round))
                self._incidents(opened)
                number = record.round + 1
                behind.submit(partial(self._write, record, state, grid.states))
                # Clients' states change in place; and a long round has time to wait.
                if grid.states or record.real_seconds > _LONG_S:
                    behind.collect(wait=True)
                if interruption.is_asked:
                    break
        self._incidents(opened)
        return state

    def _admit(self) -> Admit:
        """Return what a round has to pass before anybody is asked."""
        if self.federation.config.privacy.unit == "none":
            return lambda number, cohort: cohort
        ledger = spending.open_ledger(self.store.root, self.federation)
        keep = partial(append_receipt, self.store)
        return spending.Spending(ledger, self.run_id, self.federation, keep)

    def _write(
        self, record: RoundRecord, state: ServerState, memos: Mapping[int, Any]
    ) -> RoundRecord:
        """Put a round on disk, its rows first: resume drops rows that no checkpoint covers."""
        started = perf_counter()
        self.store.append(self.run_id, record)
        self._checkpoint(state, memos, record.model_sha256)
        return _with_stage(record, "checkpoint", perf_counter() - started)

    def _checkpoint(self, state: ServerState, memos: Mapping[int, Any], model_sha256: str) -> None:
        checkpoint = Checkpoint(state.round, state.strategy, memos)
        self.files.save_checkpoint(checkpoint, model_sha256)

    def _lost(self, records: Sequence[Any], number: str) -> None:
        for client in records:
            if client.lost:
                self.log(
                    f"round {number}: client {client.client} (node {client.client + 1}) lost in "
                    f"{client.phase}: {client.lost}\n{client.traceback}"
                )

    def _incidents(self, opened: OpenGrid) -> None:
        while opened.grid.incidents:
            text = opened.grid.incidents.pop(0)
            self.seen_incidents.append(text)
            self.log(f"incident: {text}")
            self.tell(Stage(text))

    def _set_status(self, status: str, state: ServerState) -> None:
        self.store.set_status(self.run_id, status)
        self.log(f"{status} from round {state.round + 1}")

    def _end(self, status: str, state: ServerState) -> Result:
        """Record how the run ended, save the model, write the report."""
        vector = state.strategy["model"].float()
        named = models.named(self.federation.module, vector)
        from safetensors.torch import save

        own = {name: tensor.contiguous().clone() for name, tensor in named.items()}
        summary = _summary(self.store.get(self.run_id))
        self.files.save_model(save(own), summary["model_sha256"])
        summary["incidents"] = self.seen_incidents[:_MOST_INCIDENTS]
        if privacy := self._privacy():
            summary["privacy"] = privacy
        self.store.finish(self.run_id, status, summary)
        self.log(status)
        path = write_report(self.store, self.run_id)
        stored = self.store.get(self.run_id)
        if beside := comparison.record(self.store, stored, stored.summary["metrics"]):
            write_report(self.store, beside)
        result = Result(
            run_id=self.run_id,
            status=status,
            metrics=stored.summary["metrics"],
            history=stored.rounds,
            model_sha256=stored.summary["model_sha256"],
            folder=self.folder,
            report=path,
            stored=stored,
        )
        self.tell(RunDone(result))
        return result

    def _privacy(self) -> dict[str, Any]:
        """Return what has been spent of the data set's budget; nothing where none is kept."""
        privacy = self.federation.config.privacy
        if privacy.unit == "none":
            return {}
        try:
            ledger = spending.open_ledger(self.store.root, self.federation)
            return spending.summary_of(ledger, privacy)
        except FedsimError as error:  # the run has ended; how, is what must be kept
            self.log(f"the ledger cannot be read: {error}")
            return {}

    def _hint(self, what: str) -> str:
        return f"{what}; go on with: fedsim resume {self.run_id}"


class _Interruption:
    """Ctrl-C (and SIGTERM): once, the round is finished; twice, `KeyboardInterrupt` at once.

    Only in the main thread, where Python allows it; elsewhere the caller's handling stays.
    """

    def __init__(self, tell: Listener) -> None:
        self.is_asked = False
        self._tell = tell
        self._before: dict[int, Any] = {}

    def __enter__(self) -> "_Interruption":
        self.listen()
        return self

    def listen(self) -> None:
        """Take the signals; once more where something has taken them since (Ray takes SIGTERM)."""
        if threading.current_thread() is threading.main_thread():
            for number in (signal.SIGINT, signal.SIGTERM):
                self._before.setdefault(number, signal.signal(number, self._asked))

    def __exit__(self, *_: object) -> None:
        for number, handler in self._before.items():
            signal.signal(number, handler)

    def _asked(self, *_: object) -> None:
        if self.is_asked:
            raise KeyboardInterrupt
        self.is_asked = True
        self._tell(Stage("finishing the round; Ctrl-C again stops at once"))


def _configuration(experiment: Experiment, overrides: Sequence[str]) -> RunConfig:
    if isinstance(experiment, RunConfig):
        if overrides:
            return configuration.load(configuration.to_dict(experiment), overrides)
        configuration.check(experiment)
        return experiment
    return configuration.load(experiment, overrides)


def _must_have_key(config: RunConfig) -> None:
    """Raise `SetupError` where files are to be sealed and there is no key to do it with."""
    if config.storage.encrypt:
        storage_keys()


def _joining(config: RunConfig) -> RunConfig:
    """Have a resumed run join what RAY_ADDRESS says, if set: where it began may be gone."""
    if not os.environ.get("RAY_ADDRESS"):
        return config
    return replace(config, engine=replace(config.engine, ray_address=None))


def _places(store: RunStore, data_dir: str | Path | None, experiment: Experiment | None) -> Places:
    """Say where data, the cache and the user's code are."""
    return Places(
        data_dir=str(Path(data_dir).resolve()) if data_dir else datasets.default_data_dir(),
        cache_dir=str(store.root / "cache"),
        code=_code_folders(experiment),
    )


def _code_folders(experiment: Experiment | None) -> tuple[str, ...]:
    """Return where a user's model may be: beside the experiment file, and where we run."""
    code = [str(Path.cwd())]
    if isinstance(experiment, (str, Path)) and Path(experiment).is_file():
        code.insert(0, str(Path(experiment).resolve().parent))
    return tuple(dict.fromkeys(code))


def _probe(federation: Federation, state: ServerState) -> tuple[float, int]:
    """Train a client of median size twice, in memory; return (seconds of the second, memory)."""
    import psutil

    sizes = federation.clients.sizes()
    client = int(sizes.argsort()[len(sizes) // 2])
    seconds = 0.0
    for _ in range(2):  # the first pays for what is loaded on first use
        started = perf_counter()
        shard = federation.clients.train(client)
        task = federation.task(state.strategy["model"].float(), [shard])
        federation.config.local.train(task, {}, ClientContext(federation.config.seed, 1, client))
        seconds = perf_counter() - started
    return seconds, int(psutil.Process().memory_info().rss)


def _state_bytes(state: ServerState) -> int:
    return sum(int(v.nbytes) for v in state.strategy.values() if isinstance(v, Tensor))


def _open_federation(
    config: RunConfig, places: Places, tell: Listener, charging: Charged | None = None
) -> Federation:
    tell(Stage("loading data"))
    environment.keep_freed_memory()
    federation = build(config, places, charging=charging)
    number_format(federation)  # refuses a run whose sums could overflow
    privacy_check.must_fit(federation)
    return federation


def _preflight(store: RunStore, federation: Federation, state: ServerState) -> None:
    """Refuse a run whose checkpoints and rows would not fit on the disk."""
    rounds = federation.config.rounds
    clients = min(rounds.cohort or federation.population, federation.population)
    store.preflight(3 * _state_bytes(state) + 300 * clients * rounds.count + 2**20)


def _facts(
    federation: Federation, places: Places, execution: tiers.Execution, resources: Resources
) -> dict[str, Any]:
    config, form = federation.config, number_format(federation)
    clients = federation.clients
    return {
        "mode": config.mode,
        "grid": config.engine.grid,
        "workers": worker_count(config.engine, resources, federation.population),
        "device": str(federation.device),
        "execution": asdict(execution),
        "notice": spending.notice(config),
        "privacy": spending.facts(federation),
        "secure_sum": secure_rounds.facts(federation, form),
        "anonymization": agreement.without_cut(federation.anonymization),
        "dimension": form.dimension,
        "fraction_bits": form.fraction_bits,
        "max_abs_update": form.max_abs,
        "data_sha256": clients.meta.sha256,
        "data_source": clients.meta.source,
        "kind": clients.meta.kind,
        "metrics": list(federation.metrics),
        "clients": federation.population,
        "code": list(places.code),
    }


def _summary(stored: StoredRun) -> dict[str, Any]:
    """Reduce the rounds to what a list of runs shows."""
    latest: dict[str, float] = {}
    for entry in stored.rounds:
        latest |= entry["metrics"]
    totals = {
        key: sum(entry[key] for entry in stored.rounds)
        for key in ("bytes_down", "bytes_up", "real_seconds", "lost")
    }
    sha = stored.rounds[-1]["model_sha256"] if stored.rounds else ""
    return {"metrics": latest, "rounds": len(stored.rounds), "model_sha256": sha, **totals}


def _has_spread(values: Mapping[str, float]) -> bool:
    return any(name.startswith("federated/") for name in values)


def _with_stage(record: RoundRecord, stage: str, seconds: float) -> RoundRecord:
    return replace(record, seconds={**record.seconds, stage: seconds})


def _unresolved(store: RunStore, run_id: str) -> RunConfig:
    """Return the configuration as the user gave it: every process applies the mode by itself."""
    return configuration.from_dict(store.get(run_id).config)
