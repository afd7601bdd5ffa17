"""The files of a run's folder: checkpoint, model and log, readable or sealed.

Sealed files have names that end in `.sealed`, and a run only ever reads its own kind: a readable
file put beside a sealed one is not taken for it.
"""

import fcntl
from collections.abc import Iterator, Mapping
from contextlib import contextmanager
from dataclasses import dataclass, field
from pathlib import Path
from time import monotonic, sleep
from typing import Any

from fedsim.engine.checkpoint import (
    Checkpoint,
    decode_checkpoint,
    encode_checkpoint,
    load_checkpoint,
    save_checkpoint,
    write_atomically,
)
from fedsim.engine.memos import MemoStore
from fedsim.errors import RunFailedError, SealingError, SetupError
from fedsim.sealing import (
    SUFFIX,
    Label,
    LogText,
    SealedLog,
    StorageKeys,
    open_log,
    read_log,
    read_sealed,
    rewrap_file,
    seal_chunks,
    sealed_files,
    storage_keys,
)

__all__ = [
    "Rewrapped",
    "RunFiles",
    "RunLog",
    "files_of",
    "only_one",
    "rewrap_all",
    "unsealed",
    "wait_until_free",
]

CHECKPOINT, MODEL, LOG = "checkpoint.safetensors", "model.safetensors", "run.log"
MEMOS = "memos"
_LOOK_S = 0.1


@dataclass(frozen=True, slots=True)
class RunFiles:
    """Reads and writes the files of one run; sealed where there are keys."""

    folder: Path
    run: str
    keys: StorageKeys | None = None

    def path(self, name: str) -> Path:
        """Return where a file is."""
        return self.folder / (name + SUFFIX if self.keys else name)

    def save_checkpoint(self, checkpoint: Checkpoint, model_sha256: str) -> None:
        """Replace the checkpoint; raises `SetupError`, and the last one is then intact."""
        if not self.keys:
            save_checkpoint(self.path(CHECKPOINT), checkpoint)
        else:
            facts: dict[str, str | int] = {"round": checkpoint.round, "model_sha256": model_sha256}
            self._seal(CHECKPOINT, encode_checkpoint(checkpoint), facts)
        if isinstance(checkpoint.memos, MemoStore):
            checkpoint.memos.sweep()

    def load_checkpoint(self) -> Checkpoint | None:
        """Return the checkpoint, None where there is none.

        Raises `RunFailedError` for a file that is none, `SealingError` for one that was changed.
        """
        path = self.path(CHECKPOINT)
        if not self.keys:
            return load_checkpoint(path)
        return decode_checkpoint(self._open(CHECKPOINT), path) if path.exists() else None

    def memos(self, found: Checkpoint | None = None) -> MemoStore:
        """Return what clients remember, as a checkpoint says: at first nothing."""
        store = MemoStore(self.folder / MEMOS, self.run, self.keys)
        if found is None:
            store.sweep()  # of a stretch that was killed before its first checkpoint
        elif found.index:
            store.restore(found.index)
        else:
            store.update(found.memos)
        return store

    def save_model(self, content: bytes, model_sha256: str) -> None:
        """Replace the model, a safetensors file; raises `SetupError`."""
        if not self.keys:
            write_atomically(self.path(MODEL), content)
            return
        self._seal(MODEL, content, {"model_sha256": model_sha256})

    def model(self) -> bytes:
        """Return the model's file as it was before sealing; raises `SetupError` if it is not there.

        Raises `SealingError` for one that was changed.
        """
        return self._open(MODEL)

    def log(self) -> LogText:
        """Return the log; raises as `model` does."""
        path = self.path(LOG)
        try:
            if not self.keys:
                return LogText(path.read_text(encoding="utf-8", errors="replace"))
            return read_log(path, self._label(LOG), self.keys)
        except OSError as error:
            raise SetupError(f"cannot read {path}: {error.strerror or error}") from error

    def writer(self) -> "RunLog":
        """Return what appends to the log."""
        return RunLog(self.path(LOG), self._label(LOG), self.keys)

    def _seal(self, name: str, content: bytes, facts: Mapping[str, str | int]) -> None:
        assert self.keys is not None
        label = self._label(name)
        own = Label(label.purpose, {**label.facts, **facts})
        write_atomically(self.path(name), seal_chunks([content], own, self.keys))

    def _open(self, name: str) -> bytes:
        path = self.path(name)
        try:
            if not self.keys:
                return path.read_bytes()
            return read_sealed(path, self._label(name), self.keys)
        except OSError as error:
            raise SetupError(f"cannot read {path}: {error.strerror or error}") from error

    def _label(self, name: str) -> Label:
        return Label(name.partition(".")[0], {"run": self.run})


@dataclass(slots=True)
class RunLog:
    """Appends to a run's log. A sealed one stays open, and is begun anew after `close`."""

    path: Path
    label: Label
    keys: StorageKeys | None = field(repr=False)
    _sealed: SealedLog | None = None

    def append(self, text: str) -> None:
        """Append text; raises `OSError`, or `SealingError` for a sealed log that was changed."""
        if not self.keys:
            with self.path.open("a", encoding="utf-8") as file:
                file.write(text)
            return
        if self._sealed is None:
            self._sealed = self._opened(self.keys)
        self._sealed.append(text)

    def close(self) -> None:
        """End a sealed log for now."""
        if self._sealed is not None:
            self._sealed.close()
            self._sealed = None

    def _opened(self, keys: StorageKeys) -> SealedLog:
        try:
            log = open_log(self.path, self.label, keys)
        except SealingError as error:
            hint = "Keep the file as evidence under another name; the run then begins a new log"
            raise SealingError(f"{error}. {hint}") from error
        if log.dropped_bytes:
            log.append(_torn(log.dropped_bytes))
        return log


def unsealed(folder: Path, run: str, config: Mapping[str, Any], target: Path) -> list[Path]:
    """Write a run's model and log, as far as they are there, into a folder; return their paths.

    Everything is opened before anything is written. Raises as `RunFiles.model` and `.log` do.
    """
    files = files_of(folder, run, config)
    found: dict[str, bytes] = {}
    if files.path(MODEL).exists():
        found[MODEL] = files.model()
    if files.path(LOG).exists():
        log = files.log()
        found[LOG] = (log.text + (_torn(log.torn_bytes) if log.torn_bytes else "")).encode()
    try:
        target.mkdir(parents=True, exist_ok=True)
    except OSError as error:
        raise SetupError(f"cannot write to {target}: {error.strerror or error}") from error
    for name, content in found.items():
        write_atomically(target / name, content)
    return [target / name for name in found]


@dataclass(frozen=True, slots=True)
class Rewrapped:
    """What `rewrap_all` did: files under the new key, files that were, runs that are going on."""

    done: int
    unchanged: int
    running: tuple[str, ...]


def rewrap_all(root: Path, keys: StorageKeys) -> Rewrapped:
    """Wrap the data keys of everything sealed under a folder of runs with the current storage key.

    Runs that are going on in another process are left as they are. Raises `SetupError` for files
    whose storage key is not among the keys, `SealingError` for changed ones; what was rewrapped
    before stays so.
    """
    done, unchanged, running = 0, 0, []
    folders = sorted(path for path in root.iterdir() if path.is_dir()) if root.is_dir() else []
    for folder in folders:
        with _unless_running(folder) as is_free:
            if not is_free:
                running.append(folder.name)
                continue
            for path in sealed_files(folder):
                try:
                    is_due = rewrap_file(path, keys)
                except OSError as error:
                    raise SetupError(f"cannot write {path}: {error.strerror or error}") from error
                done, unchanged = done + is_due, unchanged + (not is_due)
    return Rewrapped(done, unchanged, tuple(running))


def wait_until_free(folder: Path, patience_s: float) -> None:
    """Wait until no other process has the run of a folder, as long as `patience_s` at most."""
    give_up = monotonic() + patience_s
    while monotonic() < give_up:
        with _unless_running(folder) as is_free:
            if is_free:
                return
        sleep(_LOOK_S)


@contextmanager
def _unless_running(folder: Path) -> Iterator[bool]:
    """Hold a run's lock, if it has one; give False where another process does."""
    try:
        file = (folder / "lock").open("r")
    except OSError:  # no run: the cache
        yield True
        return
    with file:
        try:
            fcntl.flock(file, fcntl.LOCK_EX | fcntl.LOCK_NB)
        except BlockingIOError:
            yield False
        else:
            yield True


def _torn(size_bytes: int) -> str:
    return f"({size_bytes} bytes of a line that a crash cut short are left out here)\n"


def files_of(folder: Path, run: str, config: Mapping[str, Any]) -> RunFiles:
    """Return the files of a stored run: sealed where its configuration says so.

    Raises `SetupError` where that needs a storage key and there is none.
    """
    is_sealed = bool((config.get("storage") or {}).get("encrypt"))
    return RunFiles(folder, run, storage_keys() if is_sealed else None)


@contextmanager
def only_one(folder: Path, run_id: str) -> Iterator[None]:
    """Hold a run's lock; a second process that wants the same run is refused: `RunFailedError`."""
    with (folder / "lock").open("w") as file:
        try:
            fcntl.flock(file, fcntl.LOCK_EX | fcntl.LOCK_NB)
        except OSError:
            raise RunFailedError(f"run {run_id} is going on in another process") from None
        yield
