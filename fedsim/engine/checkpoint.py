"""Checkpoints: the server state and every client's memo in one file, replaced atomically.

A checkpoint is written to a temporary file, synced to disk and renamed over the last one: after a
crash at any point there is the old one or the new one, complete. Format: safetensors; tensors are
`state/NAME` and `memo/NODE/NAME`, numbers and the round are in the header.
"""

import json
from collections.abc import Iterable, Mapping
from dataclasses import dataclass, field
from pathlib import Path

import torch
from flwr.app import RecordDict
from safetensors import SafetensorError, safe_open
from safetensors.torch import load, save
from torch import Tensor

from fedsim.core import State
from fedsim.engine.memos import MemoStore
from fedsim.errors import RunFailedError, SetupError
from fedsim.files import replacing
from fedsim.messages import memo_of, set_memo

__all__ = [
    "Checkpoint",
    "decode_checkpoint",
    "encode_checkpoint",
    "load_checkpoint",
    "save_checkpoint",
    "write_atomically",
]

_VERSION = "1"


@dataclass(frozen=True, slots=True)
class Checkpoint:
    """A point to go on from: the last finished round, the strategy's state, the clients' memos.

    `index`: where memos are that are kept in files beside it (`fedsim.engine.memos`).
    """

    round: int
    state: State
    memos: Mapping[int, RecordDict]
    index: Mapping[str, Tensor] = field(default_factory=dict)


def save_checkpoint(path: Path, checkpoint: Checkpoint) -> None:
    """Replace the checkpoint at `path`.

    Raises `SetupError` when the disk is full or read-only; the previous checkpoint is then intact.
    """
    write_atomically(path, encode_checkpoint(checkpoint))


def encode_checkpoint(checkpoint: Checkpoint) -> bytes:
    """Return a checkpoint as the content of a file."""
    tensors: dict[str, Tensor] = {}
    numbers: dict[str, float | int | bool | str] = {}
    for name, value in checkpoint.state.items():
        if isinstance(value, Tensor):
            tensors[f"state/{name}"] = value
        elif isinstance(value, (int, float, str)):
            numbers[name] = value
        else:
            raise TypeError(f"strategy state {name!r} is a {type(value).__name__}, not a tensor")
    memos = checkpoint.memos
    inline = {} if isinstance(memos, MemoStore) else memos
    for node, record in inline.items():
        for name, tensor in memo_of(record).items():
            tensors[f"memo/{node}/{name}"] = tensor
    index = memos.index() if isinstance(memos, MemoStore) else checkpoint.index
    tensors |= {f"index/{name}": rows for name, rows in index.items()}
    header = {
        "version": _VERSION,
        "round": str(checkpoint.round),
        "numbers": json.dumps(numbers),
        "memos": json.dumps(sorted(inline)),
    }
    own = {name: tensor.detach().cpu().contiguous().clone() for name, tensor in tensors.items()}
    return bytes(save(own, metadata=header))


def load_checkpoint(path: Path) -> Checkpoint | None:
    """Read a checkpoint; None where there is none.

    Raises `RunFailedError` for a file that is not a checkpoint of this version.
    """
    if not path.exists():
        return None
    try:
        with safe_open(path, framework="pt") as file:
            header = file.metadata() or {}
            tensors = {name: file.get_tensor(name) for name in file.keys()}  # noqa: SIM118
    except (SafetensorError, OSError) as error:
        raise _unreadable(path, error) from error
    return _decoded(header, tensors, path)


def decode_checkpoint(content: bytes, name: object) -> Checkpoint:
    """Undo `encode_checkpoint`; raises `RunFailedError` as `load_checkpoint` does."""
    try:
        tensors = load(content)
    except SafetensorError as error:
        raise _unreadable(name, error) from error
    size = int.from_bytes(content[:8], "little")  # the format's own header, with our metadata in it
    return _decoded(json.loads(content[8 : 8 + size]).get("__metadata__", {}), tensors, name)


def _decoded(header: Mapping[str, str], tensors: Mapping[str, Tensor], name: object) -> Checkpoint:
    if header.get("version") != _VERSION:
        raise RunFailedError(
            f"{name} has checkpoint version {header.get('version')!r}, this fedsim reads {_VERSION}"
        )
    state: State = dict(json.loads(header["numbers"]))
    memos: dict[int, dict[str, Tensor]] = {node: {} for node in json.loads(header["memos"])}
    index: dict[str, Tensor] = {}
    for key, tensor in tensors.items():
        kind, rest = key.split("/", 1)
        if kind == "state":
            state[rest] = tensor
        elif kind == "index":
            index[rest] = tensor
        else:
            node, own = rest.split("/", 1)
            memos[int(node)][own] = tensor
    records = {node: _record(memo) for node, memo in memos.items()}
    return Checkpoint(int(header["round"]), state, records, index)


def _unreadable(name: object, error: Exception) -> RunFailedError:
    return RunFailedError(f"{name} cannot be read as a checkpoint: {error}")


def write_atomically(path: Path, content: bytes | Iterable[bytes]) -> None:
    """Replace a file's content so that a crash leaves the old or the new one, never a part.

    Raises `SetupError` when it cannot be written.
    """
    try:
        with replacing(path) as file:
            for part in [content] if isinstance(content, bytes) else content:
                file.write(part)
    except OSError as error:
        raise SetupError(
            f"cannot write {path}: {error.strerror or error}. Free some space or make the folder "
            "writable, then resume the run; nothing already done is lost"
        ) from error


def _record(memo: Mapping[str, torch.Tensor]) -> RecordDict:
    record = RecordDict()
    set_memo(record, dict(memo))
    return record
