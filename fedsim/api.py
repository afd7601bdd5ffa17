"""The library's front door: `run`, `resume` and `plan`, used alike by the CLI and by notebooks."""

import os
from collections.abc import Callable, Iterator, Mapping, MutableMapping, Sequence
from contextlib import contextmanager
from dataclasses import asdict, dataclass, replace
from functools import partial
from pathlib import Path
from time import perf_counter
from types import MappingProxyType
from typing import Any, Literal

from flwr.app import RecordDict

from fedsim import (
    agreement,
    comparison,
    privacy_check,
    ring,
    secure_rounds,
    sending,
    spending,
    tiers,
    timing,
)
from fedsim import config as configuration
from fedsim import data as datasets
from fedsim.clients import _ckks
from fedsim.clients._secure_sum import SECRET, simulated_directory
from fedsim.config.schema import RunConfig
from fedsim.core import ClientContext
from fedsim.crypto import random_key
from fedsim.engine.agreeing import opened
from fedsim.engine.blocks import Population
from fedsim.engine.cluster import Resources, joined, started_behind
from fedsim.engine.launch import open_grid, worker_count
from fedsim.errors import RunFailedError
from fedsim.events import Stage
from fedsim.federation import Federation, Places, to_text
from fedsim.privacy.check import Finding
from fedsim.rounds import ServerState, number_format, start_state
from fedsim.sealing import storage_keys
from fedsim.secagg import ckks
from fedsim.session import (
    Carriage,
    Listener,
    Result,
    Session,
    create,
    open_federation,
    preflight,
    settle,
    state_bytes,
    write_report,
)
from fedsim.store import RunStore

__all__ = ["Listener", "Result", "check_privacy", "plan", "resume", "run", "write_report"]

Experiment = str | Path | Mapping[str, Any] | RunConfig


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
        _tell_notice(resources, tell)
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
    opening = partial(opened, charging=charging)
    federation = open_federation(config, around.places, tell, opening)
    places = replace(around.places, cut=agreement.to_text(federation.anonymization))
    with started_behind(config.engine, resources):
        federation, config = settle(federation, config, tell)
        preflight(store, federation)
        tell(Stage("choosing how clients are trained"))
        cores = max(resources.cpus, config.engine.workers or 0)
        execution = tiers.choose(federation, store.root / "cache", cores=cores)
        facts = {**_facts(federation, places, execution, resources), **more}
        run_id = create(store, federation, config, places, facts)
        session = _session(run_id, federation, replace(around, places=places), execution)
        return session.go(start_state(federation))


def resume(
    run_id: str,
    *,
    runs: str | Path | None = None,
    data_dir: str | Path | None = None,
    ray_address: str | None = None,
    listener: Listener | None = None,
) -> Result:
    """Go on with a run after its last checkpoint; the result is that of an uninterrupted run.

    `ray_address`: the Ray cluster to go on with, or "local", in place of where the run began.
    Raises `UnknownRunError`, and `RunFailedError` where the run is finished, is still going on in
    another process, or where its data are not what they were.
    """
    tell = listener or (lambda event: None)
    store = RunStore(runs)
    stored = store.get(run_id)
    if stored.status == "finished":
        raise RunFailedError(f"run {stored.id} is finished: there is nothing to resume")
    if stored.facts.get("grid") == "flower":
        raise RunFailedError(
            f"run {stored.id} is of a federation: its nodes go on with it, not a simulation. Use "
            f"fedsim deploy submit --resume {stored.id}, or fedsim deploy local --resume "
            f"{stored.id}"
        )
    config = _joining(configuration.from_dict(stored.config), ray_address)
    _must_have_key(config)
    code = tuple(stored.facts.get("code", ()))
    places = replace(_places(store, data_dir, None), code=code)
    if "agreed" in stored.facts.get("anonymization", {}):
        cut = agreement.to_text(agreement.load(store.folder(stored.id)).to_dict())
        places = replace(places, cut=cut)
    with joined(config.engine) as resources:
        _tell_notice(resources, tell)
        federation = open_federation(config, places, tell)
        if federation.clients.meta.sha256 != stored.facts["data_sha256"]:
            raise RunFailedError(
                f"the data of run {stored.id} have changed since it began (sha256 "
                f"{federation.clients.meta.sha256[:12]}, was {stored.facts['data_sha256'][:12]}): "
                "its remaining rounds would not belong to its first ones. Start a new run instead"
            )
        timing.must_be_same(config, stored.facts)
        with started_behind(config.engine, resources):
            execution = tiers.Execution(**stored.facts["execution"])
            around = _Around(store, places, resources, tell)
            result = _session(stored.id, federation, around, execution).go_on()
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
    federation = spending.settled(opened(config, Places(data_dir=folder, code=code)))
    config, form = federation.config, number_format(federation)
    sizes, rounds = federation.clients.sizes(), config.rounds
    cohort = min(rounds.cohort or len(sizes), len(sizes))
    with joined(config.engine) as resources:
        workers = worker_count(config.engine, resources, len(sizes))
    state = start_state(federation)
    seconds, memory = _probe(federation, state)
    parameters = federation.initial.numel()
    model_bytes = 4 * parameters
    down, up = model_bytes, sending.size_bytes(federation) + 64
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
        "parameters": parameters,
        "model_bytes": model_bytes,
        "bytes_down": down * cohort * rounds.count,
        "bytes_up": up * cohort * rounds.count,
        "secure_sum": secure_rounds.facts(federation, form),
        "grid": config.engine.grid,
        "device": str(federation.device),
        "workers": workers,
        "memory_bytes": memory * (workers + 1 if config.engine.grid == "ray" else 1),
        "checkpoint_bytes": state_bytes(state),
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


def _session(
    run_id: str, federation: Federation, around: _Around, execution: tiers.Execution
) -> Session:
    """Return a stretch of a simulation."""
    is_ray = federation.config.engine.grid == "ray"
    return Session(
        store=around.store,
        run_id=run_id,
        federation=federation,
        opened=partial(_simulated, run_id, federation, around, execution),
        tell=around.tell,
        starting="Ray workers" if is_ray else "clients in this process",
    )


@contextmanager
def _simulated(
    run_id: str,
    federation: Federation,
    around: _Around,
    execution: tiers.Execution,
    memos: MutableMapping[int, RecordDict],
    progress: Callable[[int, int], None],
) -> Iterator[Carriage]:
    """Have simulated clients, in this process or in Ray workers."""
    config, places = federation.config, around.places
    # Another kind of device rounds differently: all clients have the one that the server found.
    given = _unresolved(around.store, run_id)
    device: Literal["cpu", "cuda"] = "cuda" if federation.device.type == "cuda" else "cpu"
    given = replace(given, engine=replace(given.engine, device=device))
    text = to_text(given, places)
    at_once = execution.block_size or 0
    told: dict[str, Any] = {"experiment": text, "tier": execution.tier}
    told["at-once"] = at_once
    told["data-sha256"] = federation.clients.meta.sha256
    if ring.is_masked(config):  # known to this run's processes alone, and stored nowhere
        told[SECRET] = random_key().hex()
    if ring.is_encrypted(config):
        told[_ckks.KEY] = ckks.new_key().hex()
    population = Population(federation.clients.clients, told)
    size = _travelling(federation, execution, around.resources)
    engine = replace(config.engine, block_size=size)
    with open_grid(engine, population, code=places.code, run=run_id) as opened:
        grid = opened.grid
        grid.states = memos
        grid.on_progress = progress
        directory = simulated_directory(told, config)
        yield Carriage(grid, population.nodes, directory, grid.states, grid.incidents)


def _travelling(
    federation: Federation, execution: tiers.Execution, resources: Resources
) -> int | None:
    """Return how many clients go to a worker together: whole groups trained at once."""
    at_once = execution.block_size
    if not at_once or execution.tier in (tiers.MESSAGES, tiers.RESIDENT):
        return at_once or None
    config, population = federation.config, federation.population
    workers = worker_count(config.engine, resources, population)
    cohort = min(config.rounds.cohort or population, population)
    is_even = len(resources.nodes) == 1 and tiers.are_even(federation)
    return tiers.travelling(at_once, cohort, workers, is_even=is_even)


def _configuration(experiment: Experiment, overrides: Sequence[str]) -> RunConfig:
    if isinstance(experiment, RunConfig):
        if overrides:
            experiment = configuration.load(configuration.to_dict(experiment), overrides)
        configuration.check(experiment)
        config = experiment
    else:
        config = configuration.load(experiment, overrides)
    timing.must_simulate(config)
    return config


def _must_have_key(config: RunConfig) -> None:
    """Raise `SetupError` where files are to be sealed and there is no key to do it with."""
    if config.storage.encrypt:
        storage_keys()


def _tell_notice(resources: Resources, tell: Listener) -> None:
    """Say what of a cluster a run leaves alone, or who uses the machine besides."""
    if resources.notice:
        tell(Stage(resources.notice))


def _joining(config: RunConfig, ray_address: str | None) -> RunConfig:
    """Have a resumed run join what it is told to, or RAY_ADDRESS: where it began may be gone."""
    if ray_address is not None:
        changed = replace(config, engine=replace(config.engine, ray_address=ray_address))
        configuration.check(changed)
        return changed
    if not os.environ.get("RAY_ADDRESS"):
        return config
    return replace(config, engine=replace(config.engine, ray_address=None))


def _places(store: RunStore, data_dir: str | Path | None, experiment: Experiment | None) -> Places:
    """Say where data, the cache and the user's code are."""
    return Places(
        data_dir=str(Path(data_dir).resolve()) if data_dir else datasets.default_data_dir(),
        cache_dir=str(store.root / "cache"),
        code=_code_folders(experiment),
        is_default=data_dir is None,
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


def _facts(
    federation: Federation, places: Places, execution: tiers.Execution, resources: Resources
) -> dict[str, Any]:
    """Return what a record says of how a simulation is run."""
    config = federation.config
    return {
        "grid": config.engine.grid,
        "workers": worker_count(config.engine, resources, federation.population),
        "device": str(federation.device),
        "execution": asdict(execution),
        "code": list(places.code),
        **timing.facts(config),
    }


def _unresolved(store: RunStore, run_id: str) -> RunConfig:
    """Return the configuration as the user gave it: every process applies the mode by itself."""
    return configuration.from_dict(store.get(run_id).config)
