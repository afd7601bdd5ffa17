"""What runs in a worker process: it opens the app once, keeps the current content, runs blocks.

A worker that cannot start says so, by the name of its node, in place of dying: what is missing
there (a package, a folder, data) another node may have.
"""

import gc
import os
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from flwr.app import Message, RecordDict

from fedsim.engine import shipping
from fedsim.engine.arrays import keep_numbers
from fedsim.engine.blocks import Block, Handlers, Population, WorkerCode, run_block
from fedsim.environment import keep_freed_memory, package_versions, seed_what_is_there
from fedsim.errors import FedsimError, SetupError

__all__ = ["Actor", "Started", "WorkerSettings", "public_versions"]

_SAME = ("fedsim", "torch", "numpy", "flwr")  # another version may give other bits, or no answer


@dataclass(frozen=True, slots=True)
class WorkerSettings:
    """What one worker asks Ray for, and how it runs: in `folder`, if it exists on its node.

    `accelerator`: the type of GPU, in Ray's words, if one is asked for. `shipped`: folders of the
    user's code for nodes that do not have them. `versions`: of the packages that must be the same
    everywhere; none are compared where it is empty.
    """

    cpus: float = 1.0
    gpus: float = 0.0
    threads: int = 1
    code: tuple[str, ...] = ()
    folder: str = ""
    accelerator: str = ""
    shipped: tuple[shipping.Folder, ...] = ()
    versions: tuple[tuple[str, str], ...] = ()


@dataclass(frozen=True, slots=True)
class Started:
    """A worker that is up: on which node of Ray's, and what keeps it from running clients."""

    node: str
    pid: int
    problem: str = ""


class Actor:
    """A worker of a run; Ray makes one process of each."""

    def __init__(self, told: tuple[WorkerCode, Population, WorkerSettings]) -> None:
        import signal

        code, population, settings = told

        # Ctrl-C is for the driver: it lets the round finish.
        signal.signal(signal.SIGINT, signal.SIG_IGN)
        self._population = population
        self._content: tuple[Any, RecordDict] | None = None
        self._problem = ""
        try:
            self._handlers = _open(code, population, settings)
            from fedsim.engine.pooling import pool_channels_last  # with torch, which is here now

            self._pooling = pool_channels_last()
        except (Exception, SystemExit) as error:
            is_ours = isinstance(error, FedsimError)
            self._problem = str(error) if is_ours else f"{type(error).__name__}: {error}"

    def up(self) -> Started:
        """Say where this worker is, and whether it can run clients."""
        import ray

        return Started(ray.get_runtime_context().get_node_id(), os.getpid(), self._problem)

    def run(
        self, reference: list[Any], block: Block
    ) -> tuple[list[Message], dict[int, RecordDict], str]:
        """Run a block of clients that answer the content behind `reference`."""
        import ray

        if self._content is None or self._content[0] != reference[0]:
            self._content = (reference[0], ray.get(reference[0]))
        return run_block(self._handlers, self._population, self._content[1], block)


def public_versions() -> tuple[tuple[str, str], ...]:
    """Return the versions that workers must have too, without what tells builds of one apart."""
    found = package_versions(_SAME)
    return tuple((name, found[name].partition("+")[0]) for name in _SAME)


def _open(code: WorkerCode, population: Population, settings: WorkerSettings) -> Handlers:
    """Make this process one in which clients can run."""
    import torch

    _compare(settings.versions)
    torch.set_num_threads(settings.threads)
    _enter(settings)
    keep_freed_memory()
    keep_numbers()
    seed_what_is_there()
    handlers = code.open(population.run_config)
    gc.freeze()  # see `fedsim.environment.settled`; this process ends with the run
    return handlers


def _enter(settings: WorkerSettings) -> None:
    """Let this process import the user's code, and be in their folder: Ray was started anywhere."""
    import sys

    where = shipping.arrive(settings.shipped, _session_folder()) if settings.shipped else {}
    folders = [where.get(folder, folder) for folder in settings.code]
    sys.path[:0] = [folder for folder in folders if folder not in sys.path]
    folder = where.get(settings.folder, settings.folder)
    if folder and Path(folder).is_dir():
        os.chdir(folder)


def _compare(wanted: Sequence[tuple[str, str]]) -> None:
    """Raise `SetupError` where this node has other versions than the run began with."""
    found = dict(public_versions()) if wanted else {}
    if others := [f"{name} {found[name]}" for name, version in wanted if found[name] != version]:
        run = ", ".join(f"{name} {version}" for name, version in wanted)
        raise SetupError(f"has {', '.join(others)}, where the run has {run}: install the same")


def _session_folder() -> Path:
    import ray

    return Path(ray._private.worker._global_node.get_session_dir_path()) / "fedsim"
