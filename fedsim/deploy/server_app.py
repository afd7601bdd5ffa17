"""The ServerApp: an experiment's rounds inside a SuperLink, with the record that a simulation has.

Store, checkpoints, ledger and report are the server's, in the places that its own settings name
(`fedsim.deploy.settings`), not in what is submitted. What happens is told line by line on standard
output, which Flower hands on to whoever submitted the run.
"""

import json
import os
import sys
from collections.abc import Callable, Iterator, Mapping, Sequence
from contextlib import contextmanager
from dataclasses import replace
from functools import partial
from pathlib import Path
from typing import Any

from flwr.app import Context, RecordDict
from flwr.serverapp import Grid, ServerApp

from fedsim import adversaries, agreement, cut_rounds, root, secure_rounds, spending
from fedsim import config as configuration
from fedsim import data as datasets
from fedsim.carrier import Carrier
from fedsim.clients._secure_sum import server_directory
from fedsim.config.schema import RunConfig
from fedsim.core import is_asynchronous
from fedsim.deploy.settings import SERVER_FOLDER, ServerSettings, read_server
from fedsim.deploy.told import Teller, failure_line
from fedsim.engine.flower import FlowerCarrier
from fedsim.engine.members import Members
from fedsim.environment import one_thread
from fedsim.errors import ConfigError, Problem, RunFailedError
from fedsim.events import Event, RoundDone, Stage
from fedsim.federation import Federation, Places, build
from fedsim.node.approval import SIGNATURE, TEXT
from fedsim.node.experiment import read_experiment
from fedsim.registry import name_of
from fedsim.rounds import number_format
from fedsim.run_files import wait_until_free
from fedsim.secagg.identities import Directory
from fedsim.session import Carriage, Listener, Session, create, open_federation, preflight, settle
from fedsim.store import RunStore

__all__ = ["SUBMITTED", "make_server_app", "run_deployed"]

#: File of a run's folder with what was submitted: the experiment's text and its signature.
SUBMITTED = "submitted.json"
_FORMER_S = 120.0
_RETRIES = 3  # of a round that too few clients answered


def make_server_app() -> ServerApp:
    """Return the ServerApp: rounds as in a simulation, told on standard output.

    `output`, where the app's configuration names one, gets a JSON line for each round as well.
    """
    app = ServerApp()

    @app.main()  # type: ignore[untyped-decorator]
    def main(grid: Grid, context: Context) -> None:
        tell = _told(str(context.run_config.get("output") or ""))
        try:
            run_deployed(grid, context, tell)
        except BaseException as error:
            sys.stdout.write(failure_line(error))
            sys.stdout.flush()
            raise

    return app


def run_deployed(grid: Grid, context: Context, tell: Listener) -> None:
    """Run an experiment, or go on with a run, on the nodes behind Flower's grid.

    Raises `ConfigError` for what cannot be run here, before any node is asked, and what
    `fedsim.run` raises.
    """
    submitted, settings = dict(context.run_config), _settings()
    text = str(submitted.get(TEXT) or "")
    store = RunStore(settings.runs or str(submitted.get("runs") or "") or None)
    places = Places(
        data_dir=settings.data_dir
        or str(submitted.get("data-dir") or "")
        or datasets.default_data_dir(),
        cache_dir=str(store.root / "cache"),
        code=settings.code or _code(submitted),
    )
    if run_id := str(submitted.get("resume") or ""):
        session = _resumed(store, run_id, text, places, tell)
    else:
        session = _begun(store, submitted, text, places, tell, context.run_id)
    identities = settings.identities() or submitted
    session.opened = partial(_deployed, grid, session, identities, settings.wait_s)
    session.go_on()


def _begun(
    store: RunStore,
    submitted: Mapping[str, Any],
    text: str,
    places: Places,
    tell: Listener,
    flower_run: int,
) -> Session:
    """Begin a run in the store."""
    config = _fit(_configuration(submitted, text), is_signed=bool(text))
    federation = open_federation(config, _without_rows(config, places, text), tell, build)
    if federation.awaits_cut and is_asynchronous(config.strategy):
        accepted = "a strategy with rounds: clients agree on a cut in them ([anonymization])"
        raise ConfigError(
            [Problem("strategy.name", name_of("strategies", config.strategy), accepted)]
        )
    federation, config = settle(federation, config, tell)
    preflight(store, federation)
    run_id = create(store, federation, config, places, _facts(federation, places, flower_run))
    kept = {TEXT: text, SIGNATURE: str(submitted.get(SIGNATURE) or "")}
    (store.folder(run_id) / SUBMITTED).write_text(json.dumps(kept), encoding="utf-8")
    return _session(store, run_id, federation, tell)


def _resumed(store: RunStore, run_id: str, text: str, places: Places, tell: Listener) -> Session:
    """Go on with a run of this store, which has to be the experiment that was submitted again."""
    stored = store.get(run_id)
    if stored.status == "finished":
        raise RunFailedError(f"run {stored.id} is finished: there is nothing to resume")
    path = store.folder(stored.id) / SUBMITTED
    before = json.loads(path.read_text(encoding="utf-8")) if path.exists() else {}
    if before.get(TEXT) != text:
        raise RunFailedError(
            f"run {stored.id} is of another experiment than the one that was submitted"
        )
    config = configuration.from_dict(stored.config)
    federation = open_federation(config, _without_rows(config, places, text), tell, build)
    if federation.clients.meta.sha256 != stored.facts["data_sha256"]:
        raise RunFailedError(
            f"the data of run {stored.id} have changed since it began: its remaining rounds would "
            "not belong to its first ones. Start a new run instead"
        )
    # Its former process may still be finding out that its SuperLink is gone.
    wait_until_free(store.folder(stored.id), _FORMER_S)
    return _session(store, stored.id, federation, tell)


def _without_rows(config: RunConfig, places: Places, text: str) -> Places:
    """Return the places of a server whose clients keep their rows: it knows what they declare."""
    is_kept = bool(text) and datasets.declared_of(config.data) is not None
    return replace(places, own=datasets.OwnRows()) if is_kept else places


def _session(store: RunStore, run_id: str, federation: Federation, tell: Listener) -> Session:
    def nowhere(memos: Any, progress: Any) -> Any:
        raise AssertionError("a carrier is set before the session begins")

    return Session(
        store=store,
        run_id=run_id,
        federation=federation,
        opened=nowhere,
        tell=tell,
        starting="rounds on the federation's nodes",
        resuming="fedsim deploy submit --resume",
        at_once=True,  # who asks is a SuperLink that stops
    )


@contextmanager
def _deployed(
    grid: Grid,
    session: Session,
    identities: Mapping[str, Any],
    wait_s: float,
    memos: Mapping[int, RecordDict],
    progress: Callable[[int, int], None],
) -> Iterator[Carriage]:
    """Have the nodes behind Flower's grid; what clients remember stays with them."""
    federation = session.federation
    directory = server_directory(identities, federation.config)
    members = Members(
        FlowerCarrier(grid, on_progress=progress),
        federation.population,
        tell=lambda text: session.tell(Stage(text)),
    )
    members.gather(_fewest(federation), wait_s=wait_s)
    nodes = range(federation.population)
    with one_thread():
        carrier = _with_cut(session, members, nodes, directory)
        yield Carriage(carrier, nodes, directory, incidents=members.incidents, retries=_RETRIES)


def _fewest(federation: Federation) -> int:
    """Return how many clients an experiment needs for a round: with fewer none can be finished."""
    config = federation.config
    secure = secure_rounds.facts(federation, number_format(federation))
    return max(config.rounds.min_results, int(secure.get("least_survivors", 1)))


def _with_cut(
    session: Session, carrier: Carrier, nodes: Sequence[int], directory: Directory
) -> Carrier:
    """Have the nodes agree on a cut, where they share one, or go on with the one of the run."""
    federation, folder = session.federation, session.folder
    if not federation.awaits_cut:
        return carrier
    session.tell(Stage("clients agree on how records are generalized"))
    known = agreement.load(folder) if (folder / agreement.CUT_FILE).exists() else None
    meta = federation.clients.meta
    charge = spending.charged(federation.config, session.store.root)(meta.name, meta.sha256)
    carrier, declared = cut_rounds.joined(
        carrier, nodes, federation, directory, agreed=known, charge=charge
    )
    agreement.keep(declared.anonymization, folder)
    told = agreement.without_cut(declared.anonymization)
    session.store.set_status(session.run_id, "running", {"anonymization": told})
    return carrier


def _configuration(submitted: Mapping[str, Any], text: str) -> RunConfig:
    if text:
        return read_experiment(text)
    return configuration.load(str(submitted["experiment"]), str(submitted["overrides"]).split())


def _fit(config: RunConfig, *, is_signed: bool) -> RunConfig:
    """Refuse what a deployed run cannot do."""
    adversaries.must_be_simulated(config)
    root.must_have_rows(config.strategy, has_own=True)
    problems = []
    if config.mode == "pooled":
        accepted = "'federated' or 'local-only': nodes do not give their data away"
        problems.append(Problem("mode", config.mode, accepted))
    if config.privacy.unit != "none" and not is_signed:
        accepted = "'none', unless the run is submitted by fedsim deploy: nodes need its text"
        problems.append(Problem("privacy.unit", config.privacy.unit, accepted))
    if config.secure_sum.name == "ideal":
        accepted = "'plain', 'secagg', 'secagg+' or 'ckks': 'ideal' is for simulations"
        problems.append(Problem("secure_sum.name", config.secure_sum.name, accepted))
    if (devices := name_of("devices", config.devices)) != "untimed":
        accepted = "'untimed' between real machines: their clocks are real"
        problems.append(Problem("devices.name", devices, accepted))
    if problems:
        raise ConfigError(problems)
    return config


def _facts(federation: Federation, places: Places, flower_run: int) -> dict[str, Any]:
    """Return what a record says of how a deployed run is run."""
    return {
        "grid": "flower",
        "workers": federation.population,
        "device": "the nodes'",
        "execution": {
            "tier": "messages",
            "block_size": None,
            "reason": "every client is a node of its own",
        },
        "code": list(places.code),
        "flower_run": str(flower_run),
    }


def _settings() -> ServerSettings:
    folder = os.environ.get(SERVER_FOLDER)
    return read_server(Path(folder)) if folder else ServerSettings()


def _code(submitted: Mapping[str, Any]) -> tuple[str, ...]:
    experiment = str(submitted.get("experiment") or "")
    return (str(Path(experiment).resolve().parent),) if Path(experiment).is_file() else ()


def _told(output: str) -> Listener:
    """Return who tells of a run on standard output, and of its rounds in a file too."""
    teller = Teller(_write)

    def tell(event: Event) -> None:
        teller(event)
        if output and isinstance(event, RoundDone):
            record = event.record
            line = {
                "round": record.round,
                "metrics": dict(record.metrics),
                "lost": record.lost,
                "model_sha256": record.model_sha256,
            }
            with Path(output).open("a", encoding="utf-8") as file:
                file.write(json.dumps(line) + "\n")

    return tell


def _write(text: str) -> None:
    sys.stdout.write(text)  # one call for one line: Flower's log takes it whole
    sys.stdout.flush()
