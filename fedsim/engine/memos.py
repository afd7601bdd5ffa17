"""What simulated clients remember between rounds: on disk, in files that are written once.

A memo is read where a block of clients is sent out and written when it comes back, so that neither
the process that carries the messages nor a worker ever holds more than those of blocks in flight,
whatever the population. A checkpoint names where each client's memo is: what a round costs is what
its cohort remembers, not what everybody does. Files that no checkpoint needs any more are deleted
after the next one is on the disk; those with little in them that is still wanted are written anew.

What else a client keeps (sessions of secure sums, which have keys) stays in memory: it is of no use
to another process.
"""

from collections import OrderedDict
from collections.abc import Collection, Iterator, Mapping, MutableMapping, Sequence
from pathlib import Path
from typing import Any

import torch
from flwr.app import RecordDict
from safetensors.torch import load, save
from torch import Tensor

from fedsim.errors import RunFailedError, SetupError
from fedsim.files import replacing
from fedsim.messages import memo_of, set_memo
from fedsim.sealing import SUFFIX, Label, StorageKeys, read_sealed, seal_chunks

__all__ = ["MemoStore", "View", "part_of"]

_FILE_BYTES = 4 << 20  # of a file, about
_OPENED = 4  # sealed files, opened, that are held in memory
_LEAST_LIVE = 0.5  # of a file's bytes; a file with fewer is written anew
_RECORD = "memo"

#: Where a memo is: file, first byte, bytes.
Place = tuple[int, int, int]


class MemoStore(MutableMapping[int, RecordDict]):
    """States of clients by node; memos in files in `folder`, sealed where there are `keys`.

    A state comes back as it was put in, bit by bit. One without a memo is not written.
    """

    def __init__(self, folder: Path, run: str = "", keys: StorageKeys | None = None) -> None:
        """Name the folder; it is made when there is something to write."""
        self._folder, self._run, self._keys = folder, run, keys
        self._places: dict[int, Place] = {}
        self._waiting: dict[int, bytes] = {}  # not written yet
        self._waiting_bytes = 0
        self._others: dict[int, RecordDict] = {}  # of states, what is no memo
        self._sizes: dict[int, int] = {}  # of files, in bytes
        self._opened: OrderedDict[int, bytes] = OrderedDict()

    def __getitem__(self, node: int) -> RecordDict:
        """Read a client's state; raises `RunFailedError` for a file that is not as it was."""
        if node not in self:
            raise KeyError(node)
        state = RecordDict(dict(self._others.get(node, {})))
        if (content := self._content(node)) is not None:
            set_memo(state, load(content))
        return state

    def __setitem__(self, node: int, state: RecordDict) -> None:
        """Keep a client's state; raises `SetupError` where the disk is full."""
        memo = {name: tensor.contiguous() for name, tensor in memo_of(state).items()}
        others = {name: record for name, record in state.items() if name != _RECORD}
        content = save(memo) if memo else None
        if content is None or content != self._content(node):  # who is tested changes nothing
            self._forget(node)
            if content is not None:
                self._put(node, content)
        self._others.pop(node, None)
        if others:
            self._others[node] = RecordDict(others)

    def __delitem__(self, node: int) -> None:
        """Forget a client."""
        if node not in self:
            raise KeyError(node)
        self._forget(node)

    def __iter__(self) -> Iterator[int]:
        """Go through the clients that keep something."""
        return iter(list({**self._places, **self._waiting, **self._others}))

    def __len__(self) -> int:
        """Return how many clients keep something."""
        return len(self._places.keys() | self._waiting.keys() | self._others.keys())

    def __contains__(self, node: object) -> bool:
        """Say whether a client keeps something."""
        return any(node in known for known in (self._places, self._waiting, self._others))

    def view(self, nodes: Sequence[int]) -> "View":
        """Return the states of some clients, which are read when they are asked for."""
        if not self:
            return View(self, ())
        return View(self, tuple(node for node in nodes if node in self))

    def index(self) -> dict[str, Tensor]:
        """Write everything down, and return where each memo is: what `restore` goes on from."""
        self._compact()
        self._flush()
        rows = [[node, *place] for node, place in sorted(self._places.items())]
        sizes = [[file, size] for file, size in sorted(self._sizes.items())]
        return {
            "places": torch.tensor(rows, dtype=torch.int64).view(-1, 4),
            "sizes": torch.tensor(sizes, dtype=torch.int64).view(-1, 2),
        }

    def restore(self, index: Mapping[str, Tensor]) -> None:
        """Go on from an index; files that it does not know are of after it, and deleted."""
        self._places = {node: (f, a, n) for node, f, a, n in index["places"].tolist()}
        self._sizes = dict(index["sizes"].tolist())
        self.sweep()

    def sweep(self) -> None:
        """Delete the files in which nothing is that the last index names: it is on the disk now."""
        wanted = {self._path(file).name for file in {place[0] for place in self._places.values()}}
        for path in self._folder.glob("*") if self._folder.is_dir() else ():
            if path.name not in wanted:
                path.unlink(missing_ok=True)
        self._sizes = {f: n for f, n in self._sizes.items() if self._path(f).name in wanted}

    def _forget(self, node: int) -> None:
        self._waiting_bytes -= len(self._waiting.pop(node, b""))
        self._places.pop(node, None)
        self._others.pop(node, None)

    def _put(self, node: int, content: bytes) -> None:
        self._waiting[node] = content
        self._waiting_bytes += len(content)
        if self._waiting_bytes >= _FILE_BYTES:
            self._flush()

    def _flush(self) -> None:
        """Write what waits into a file of its own."""
        if not self._waiting:
            return
        file, start = max(self._sizes, default=0) + 1, 0
        for node, content in self._waiting.items():
            self._places[node] = (file, start, len(content))
            start += len(content)
        path, content = self._path(file), b"".join(self._waiting.values())
        try:
            self._folder.mkdir(parents=True, exist_ok=True)
            with replacing(path) as out:
                for piece in self._sealed(file, content):
                    out.write(piece)
        except OSError as error:
            raise SetupError(
                f"cannot write {path}: {error.strerror or error}. Free some space or make the "
                "folder writable, then resume the run; nothing already done is lost"
            ) from error
        self._sizes[file] = start
        self._waiting, self._waiting_bytes = {}, 0

    def _compact(self) -> None:
        """Write anew what is wanted of files in which most is not."""
        live = dict.fromkeys(self._sizes, 0)
        for file, _, size in self._places.values():
            live[file] += size
        sparse = {f for f, n in live.items() if 0 < n < _LEAST_LIVE * self._sizes[f]}
        if not sparse:
            return
        for node in [node for node, place in self._places.items() if place[0] in sparse]:
            content = self._content(node)
            del self._places[node]
            if content is not None:
                self._put(node, content)

    def _content(self, node: int) -> bytes | None:
        """Return a client's memo as bytes, None where it has none."""
        if node in self._waiting:
            return self._waiting[node]
        if node not in self._places:
            return None
        file, start, size = self._places[node]
        path = self._path(file)
        try:
            if self._keys is None:
                with path.open("rb") as opened:
                    opened.seek(start)
                    content = opened.read(size)
            else:
                content = self._unsealed(file, self._keys)[start : start + size]
        except OSError as error:
            raise RunFailedError(f"cannot read {path}: {error.strerror or error}") from error
        if len(content) < size:
            raise RunFailedError(f"{path} is shorter than what the run wrote into it")
        return content

    def _unsealed(self, file: int, keys: StorageKeys) -> bytes:
        """Return a sealed file's content; what was opened last is held."""
        if file not in self._opened:
            self._opened[file] = read_sealed(self._path(file), self._label(file), keys)
            while len(self._opened) > _OPENED:
                self._opened.popitem(last=False)
        self._opened.move_to_end(file)
        return self._opened[file]

    def _sealed(self, file: int, content: bytes) -> Iterator[bytes]:
        if self._keys is None:
            return iter([content])
        return iter(seal_chunks([content], self._label(file), self._keys))

    def _label(self, file: int) -> Label:
        return Label("memos", {"run": self._run, "file": file})

    def _path(self, file: int) -> Path:
        return self._folder / f"{file:08d}.memos{SUFFIX if self._keys else ''}"


class View(Mapping[int, RecordDict]):
    """States of some clients of a store, read when they are asked for; elsewhere, a plain dict."""

    def __init__(self, store: MemoStore, nodes: tuple[int, ...]) -> None:
        """Look at the clients `nodes`, all of which keep something."""
        self._store, self._nodes = store, nodes

    def __getitem__(self, node: int) -> RecordDict:
        """Read a client's state."""
        if node not in self._nodes:
            raise KeyError(node)
        return self._store[node]

    def __iter__(self) -> Iterator[int]:
        """Go through the clients."""
        return iter(self._nodes)

    def __len__(self) -> int:
        """Return how many there are."""
        return len(self._nodes)

    def __contains__(self, node: object) -> bool:
        """Say whether a client is among them, without reading its state."""
        return node in self._nodes

    def part(self, nodes: Collection[int]) -> "View":
        """Return the states of fewer clients."""
        wanted = set(nodes)
        return View(self._store, tuple(node for node in self._nodes if node in wanted))

    def __reduce__(self) -> tuple[Any, ...]:
        """Cross to a worker as what was read."""
        return dict, (dict(self),)


def part_of(states: Mapping[int, RecordDict], nodes: Sequence[int]) -> Mapping[int, RecordDict]:
    """Return the states of those of some clients that keep something; nothing is read for it."""
    if isinstance(states, MemoStore):
        return states.view(nodes)
    if isinstance(states, View):
        return states.part(nodes)
    return {node: states[node] for node in nodes if node in states}
