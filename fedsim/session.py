"""One stretch of a run: rounds on some carrier, with store, checkpoint, ledger, log and report.

The same for a simulation and for a federation: who carries the messages is opened by the caller.
"""

import signal
import threading
from collections.abc import Callable, Iterator, Mapping, MutableMapping, Sequence
from contextlib import AbstractContextManager, closing
from dataclasses import dataclass, field, replace
from datetime import UTC, datetime
from functools import partial
from pathlib import Path
from time import perf_counter
from typing import Any

from flwr.app import RecordDict
from torch import Tensor

from fedsim import (
    adversaries,
    agreement,
    comparison,
    environment,
    models,
    privacy_check,
    report,
    secure_rounds,
    spending,
)
from fedsim import config as configuration
from fedsim import data as datasets
from fedsim.behind import Behind
from fedsim.config.schema import RunConfig
from fedsim.core import RoundRecord
from fedsim.engine.agreeing import opened
from fedsim.engine.checkpoint import Checkpoint, write_atomically
from fedsim.engine.memos import MemoStore
from fedsim.errors import BudgetExceededError, FedsimError, Interrupted, RunFailedError
from fedsim.events import ClientsDone, Event, RoundDone, RunDone, RunStarted, Stage
from fedsim.federation import Federation, Places
from fedsim.rounds import (
    Admit,
    Carrier,
    Charge,
    ServerState,
    number_format,
    run_rounds,
    start_state,
)
from fedsim.run_files import RunFiles, RunLog, only_one
from fedsim.secagg.identities import Directory
from fedsim.store import RunStore, StoredRun, append_receipt, held

__all__ = [
    "Carriage",
    "Listener",
    "Open",
    "Result",
    "Session",
    "create",
    "open_federation",
    "preflight",
    "settle",
    "state_bytes",
    "write_report",
]

_LONG_S = 1.0  # a round: its writing is then not worth hiding
_MOST_INCIDENTS = 50  # kept with the run; all of them are in its log

Listener = Callable[[Event], None]


@dataclass(frozen=True, slots=True)
class Result:
    """What a run came to. `metrics` are the last ones known, `history` one dict per round.

    `report`: None where `storage.report` is false.
    """

    run_id: str
    status: str
    metrics: Mapping[str, float]
    history: Sequence[Mapping[str, Any]]
    model_sha256: str
    folder: Path
    report: Path | None
    stored: StoredRun

    def _repr_html_(self) -> str:
        return report.fragment(self.stored)


def write_report(store: RunStore, run_id: str) -> Path:
    """Write a run's report (HTML and JSON) into its folder; return the path of the HTML."""
    stored = store.get(run_id)
    rounds = [entry["round"] for entry in stored.rounds if _has_spread(entry["metrics"])]
    last = store.clients(stored.id, round=rounds[-1], phase="evaluate") if rounds else []
    return report.write(stored, [*last, *store.lost_clients(stored.id)], stored.folder)[0]


@dataclass(slots=True)
class Carriage:
    """Who carries a stretch of a run: `nodes[i]` is the address of client i.

    `directory`: identity keys of the clients, for secure sums. `memos`: what clients remember,
    where that is kept here. `incidents` grows with what goes wrong. `retries`: how often a round
    that too few clients answered may be tried again.
    """

    carrier: Carrier
    nodes: Sequence[int]
    directory: Directory = lambda client: None
    memos: MutableMapping[int, RecordDict] = field(default_factory=dict)
    incidents: list[str] = field(default_factory=list)
    retries: int = 0


#: Opens who carries a stretch of a run, told what clients remember and whom to tell of progress
#: (done, asked).
Open = Callable[
    [MutableMapping[int, RecordDict], Callable[[int, int], None]], AbstractContextManager[Carriage]
]


@dataclass(slots=True)
class Session:
    """One stretch of a run, from a state to its end, a failure or an interruption.

    `opened` opens who carries it; `starting` says what that is, and `resuming` how to go on with
    what was stopped. `at_once`: a signal does not wait for the round to end.
    """

    store: RunStore
    run_id: str
    federation: Federation
    opened: Open
    tell: Listener
    starting: str = "the carrier"
    resuming: str = "fedsim resume"
    at_once: bool = False
    seen_incidents: list[str] = field(default_factory=list)
    files: RunFiles = field(init=False)
    writer: RunLog = field(init=False)
    _state: ServerState = field(init=False)

    def __post_init__(self) -> None:
        self.files = RunFiles(self.folder, self.run_id, self.federation.keys)
        self.writer = self.files.writer()

    @property
    def folder(self) -> Path:
        """The folder of the run's files."""
        return self.store.folder(self.run_id)

    def go_on(self) -> Result:
        """Go on after the last checkpoint; what was done after it is dropped and done again."""
        with only_one(self.folder, self.run_id), closing(self.writer):
            found = self.files.load_checkpoint()
            done = found.round if found else 0
            self.store.truncate(self.run_id, done)
            self.log(f"resumed after round {done}")
        if found is None:
            return self.go(start_state(self.federation))
        return self.go(ServerState(found.round, found.state), self.files.memos(found))

    def go(self, state: ServerState, memos: MemoStore | None = None) -> Result:
        """Run the rounds after `state`; `memos`: what clients remember, at first nothing.

        Raises `Interrupted`, and what stopped the run: either way it can be gone on with.
        """
        config, clients = self.federation.config, self.federation.clients.clients
        self._state, rounds = state, config.rounds.count
        self.tell(RunStarted(self.run_id, config, self.folder, state.round + 1, rounds, clients))
        lock = only_one(self.folder, self.run_id)
        with (
            lock,
            held(self.store),
            closing(self.writer),
            _Interruption(self.tell, at_once=self.at_once) as interruption,
        ):
            try:
                self._set_status("running")
                self.tell(Stage(f"starting {self.starting}"))
                with Behind[RoundRecord](lambda record: self.tell(RoundDone(record))) as behind:
                    progress = partial(self._progress, behind)
                    kept = self.files.memos() if memos is None else memos
                    with self.opened(kept, progress) as carriage, environment.settled():
                        interruption.listen()
                        self._rounds(carriage, behind, interruption)
            except KeyboardInterrupt:
                self._end("interrupted")
                raise Interrupted(self._hint("stopped at once")) from None
            except FedsimError as error:
                self._lost(getattr(error, "records", ()), "?")
                self.log(f"failed: {error}")
                self._end("failed")
                raise
            except BaseException as error:
                self.log(f"failed: {error!r}")
                self._end("failed")
                raise
            if self._state.round < rounds:
                self._end("interrupted")
                raise Interrupted(self._hint(f"stopped after round {self._state.round}"))
            return self._end("finished")

    def _progress(self, behind: Behind[RoundRecord], done: int, asked: int) -> None:
        behind.collect(wait=False)
        self.tell(ClientsDone(self._state.round + 1, done, asked))

    def log(self, text: str) -> None:
        """Append to the run's log; a log that cannot be written must not end a run."""
        now = datetime.now(UTC).strftime("%Y-%m-%dT%H:%M:%SZ")
        try:
            self.writer.append(f"{now} {text}\n")
        except OSError as error:
            self.tell(Stage(f"cannot write the log: {error}"))

    def _rounds(
        self, carriage: Carriage, behind: Behind[RoundRecord], interruption: "_Interruption"
    ) -> None:
        for record, state in self._tried(carriage):
            self._state = state
            self._lost(record.clients, str(record.round))
            self._incidents(carriage)
            behind.submit(partial(self._write, record, state, carriage.memos))
            # Clients' states change in place; and a long round has time to wait.
            if carriage.memos or record.real_seconds > _LONG_S:
                behind.collect(wait=True)
            if interruption.is_asked:
                break
        self._incidents(carriage)

    def _tried(self, carriage: Carriage) -> Iterator[tuple[RoundRecord, ServerState]]:
        """Run the rounds; one that too few clients answered is begun anew, as often as it may be.

        What such a round spent stays spent, and its second try is paid for like any other.
        """
        (admit, charge), failures = self._budget(), 0
        failed: RunFailedError | None = None
        carrier, nodes, directory = carriage.carrier, carriage.nodes, carriage.directory
        while True:
            try:
                for found in run_rounds(
                    carrier,
                    nodes,
                    self.federation,
                    self._state,
                    admit,
                    charge=charge,
                    directory=directory,
                ):
                    failures, failed = 0, None
                    yield found
                return
            except BudgetExceededError as error:
                if failed is None:
                    raise
                raise BudgetExceededError(f"{failed} Not tried again: {error}") from failed
            except RunFailedError as error:
                failures, failed = failures + 1, error
                if failures > carriage.retries:
                    raise
                number = self._state.round + 1
                self._lost(error.records, str(number))
                carriage.incidents.append(f"round {number} is tried again: {error}")
                self._incidents(carriage)

    def _budget(self) -> tuple[Admit, Charge]:
        """Return what a round has to pass before anybody is asked, and before it is released."""
        if self.federation.config.privacy.unit == "none":
            return (lambda number, cohort: cohort), (lambda number, norms: None)
        ledger = spending.open_ledger(self.store.root, self.federation)
        keep = partial(append_receipt, self.store)
        spent = spending.Spending(ledger, self.run_id, self.federation, keep)
        return spent, spent.charge

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

    def _incidents(self, carriage: Carriage) -> None:
        while carriage.incidents:
            text = carriage.incidents.pop(0)
            self.seen_incidents.append(text)
            self.log(f"incident: {text}")
            self.tell(Stage(text))

    def _set_status(self, status: str) -> None:
        self.store.set_status(self.run_id, status)
        self.log(f"{status} from round {self._state.round + 1}")

    def _end(self, status: str) -> Result:
        """Record how the run ended, save the model, write the report."""
        vector = self._state.strategy["model"].float()
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
        path = self._report(self.run_id)
        stored = self.store.get(self.run_id)
        if beside := comparison.record(self.store, stored, stored.summary["metrics"]):
            self._report(beside)
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

    def _report(self, run_id: str) -> Path | None:
        """Write a run's report, where that is wanted."""
        is_wanted = self.federation.config.storage.report
        return write_report(self.store, run_id) if is_wanted else None

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
        return f"{what}; go on with: {self.resuming} {self.run_id}"


class _Interruption:
    """Ctrl-C (and SIGTERM): once, the round is finished; twice, `KeyboardInterrupt` at once.

    Only in the main thread, where Python allows it; elsewhere the caller's handling stays.
    """

    def __init__(self, tell: Listener, *, at_once: bool) -> None:
        self.is_asked = False
        self._tell, self._at_once = tell, at_once
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
        if self.is_asked or self._at_once:
            raise KeyboardInterrupt
        self.is_asked = True
        self._tell(Stage("finishing the round; Ctrl-C again stops at once"))


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


def open_federation(
    config: RunConfig,
    places: Places,
    tell: Listener,
    opening: Callable[[RunConfig, Places], Federation] = opened,
) -> Federation:
    """Open a run's data and build its model; refuse what could not be run to its end.

    `opening`: does so; where clients share a cut, by default all of them are here to agree on it.
    """
    tell(Stage("loading data"))
    environment.keep_freed_memory()
    federation = opening(config, places)
    number_format(federation)  # refuses a run whose sums could overflow
    privacy_check.must_fit(federation)
    return federation


def settle(
    federation: Federation, config: RunConfig, tell: Listener
) -> tuple[Federation, RunConfig]:
    """Find what privacy leaves open; return the federation and the configuration with it."""
    if config.privacy.unit == "none":
        return federation, config
    tell(Stage("finding the noise that keeps the privacy budget"))
    federation = spending.settled(federation)
    found = federation.config
    return federation, replace(config, privacy=found.privacy, secure_sum=found.secure_sum)


def preflight(store: RunStore, federation: Federation) -> None:
    """Refuse a run whose checkpoints and rows would not fit on the disk."""
    rounds, state = federation.config.rounds, start_state(federation)
    clients = min(rounds.cohort or federation.population, federation.population)
    store.preflight(3 * state_bytes(state) + 300 * clients * rounds.count + 2**20)


def create(
    store: RunStore,
    federation: Federation,
    config: RunConfig,
    places: Places,
    facts: Mapping[str, Any],
) -> str:
    """Begin a run in the store and return its id. `facts`: how it is run."""
    run_id = store.create(
        config.name,
        configuration.to_dict(config),
        environment.describe(places.code),
        datasets.summarize(federation.real_clients),
        {**_facts(federation), **facts},
    )
    folder = store.folder(run_id)
    write_atomically(folder / "config.toml", configuration.dump_toml(config).encode())
    agreement.keep(federation.anonymization, folder)
    return run_id


def state_bytes(state: ServerState) -> int:
    """Return the size of a strategy's state."""
    return sum(int(v.nbytes) for v in state.strategy.values() if isinstance(v, Tensor))


def _facts(federation: Federation) -> dict[str, Any]:
    """Return what a record says of what is run, whoever carries it."""
    config, form = federation.config, number_format(federation)
    meta = federation.clients.meta
    return {
        "mode": config.mode,
        "notice": spending.notice(config),
        "privacy": spending.facts(federation),
        "secure_sum": secure_rounds.facts(federation, form),
        "anonymization": agreement.without_cut(federation.anonymization),
        "attack": adversaries.facts(config, federation.adversaries, federation.population),
        "dimension": federation.initial.numel(),
        "fraction_bits": form.fraction_bits,
        "max_abs_update": form.max_abs,
        "data_sha256": meta.sha256,
        "data_source": meta.source,
        "kind": meta.kind,
        "metrics": list(federation.metrics),
        "clients": federation.population,
    }
