"""The two messages of secure sums by CKKS: a client's encrypted vector, and a sum to be opened.

A vector goes one way only, encrypted; what comes back open is a sum. Nothing else of a client is
sent: neither weight nor metrics, which are in the vector.
"""

from dataclasses import dataclass
from typing import TypeVar

import numpy as np
from flwr.app import Array, ArrayRecord, ConfigRecord, RecordDict
from numpy.typing import NDArray

from fedsim.client_table import understood
from fedsim.exact import InvalidUpdateError

__all__ = [
    "ENCRYPTED",
    "KINDS",
    "OPEN",
    "Opening",
    "encrypted_content",
    "opened_content",
    "opened_of",
    "opening_content",
    "read_encrypted",
    "read_opened",
    "read_opening",
    "set_opened",
]

#: Asks for an update, as `fedsim.messages.model_content` writes it; the answer is encrypted.
ENCRYPTED = "train.ckks_encrypted"
#: Asks for a sum to be opened.
OPEN = "query.ckks_open"
KINDS = (ENCRYPTED, OPEN)

Number = TypeVar("Number", bound=np.generic)

_CONTENT, _STATE = "ckks", "fedsim.ckks"


@dataclass(frozen=True, slots=True)
class Opening:
    """What a client is told of a sum: of which run and round it is, and whose vectors are in it."""

    run: str
    round: int
    clients: tuple[int, ...]
    length: int
    bits: int


def encrypted_content(fingerprint: bytes, ciphertexts: NDArray[np.uint8]) -> RecordDict:
    """Build a client's answer: its vector encrypted, and the name of the key."""
    return RecordDict(
        {
            _CONTENT: ArrayRecord({"vector": Array(ciphertexts)}),
            f"{_CONTENT}-config": ConfigRecord({"key": fingerprint}),
        }
    )


def read_encrypted(content: RecordDict) -> tuple[bytes, NDArray[np.uint8]]:
    """Return what `encrypted_content` wrote; raises `InvalidUpdateError` for anything else."""
    with understood("the encrypted vector"):
        fingerprint = content.config_records[f"{_CONTENT}-config"]["key"]
        if not isinstance(fingerprint, bytes):
            raise InvalidUpdateError("the encrypted vector does not name its key")
        return fingerprint, _array(content, np.uint8)


def opening_content(opening: Opening, ciphertexts: NDArray[np.uint8]) -> RecordDict:
    """Build what a client is sent to open."""
    told = ConfigRecord(
        {
            "run": opening.run,
            "round": opening.round,
            "clients": list(opening.clients),
            "length": opening.length,
            "bits": opening.bits,
        }
    )
    return RecordDict(
        {_CONTENT: ArrayRecord({"vector": Array(ciphertexts)}), f"{_CONTENT}-config": told}
    )


def read_opening(content: RecordDict) -> tuple[Opening, NDArray[np.uint8]]:
    """Return what `opening_content` wrote; raises `InvalidUpdateError` for anything else."""
    with understood("the sum to be opened"):
        told = content.config_records[f"{_CONTENT}-config"]
        run, number, clients = told["run"], told["round"], told["clients"]
        length, bits = told["length"], told["bits"]
        whole = isinstance(clients, list) and _are_whole([number, length, bits, *clients])
        if not whole or not isinstance(run, str):
            raise InvalidUpdateError("the sum to be opened is not told apart from others")
        opening = Opening(run, number, tuple(clients), length, bits)
        return opening, _array(content, np.uint8)


def opened_content(total: NDArray[np.uint32]) -> RecordDict:
    """Build the answer: the numbers of the sum."""
    return RecordDict({_CONTENT: ArrayRecord({"vector": Array(total)})})


def read_opened(content: RecordDict) -> NDArray[np.uint32]:
    """Return what `opened_content` wrote; raises `InvalidUpdateError` for anything else."""
    with understood("the opened sum"):
        return _array(content, np.uint32)


def opened_of(state: RecordDict) -> dict[str, int]:
    """Return the last round of each run of which a client has opened a sum."""
    record = state.config_records.get(_STATE)
    return {} if record is None else {str(run): int(last) for run, last in record.items()}


def set_opened(state: RecordDict, run: str, number: int) -> None:
    """Keep that a client has opened the sum of a round."""
    state[_STATE] = ConfigRecord({**opened_of(state), run: number})


def _array(content: RecordDict, kind: type[Number]) -> NDArray[Number]:
    found: NDArray[Number] = content.array_records[_CONTENT]["vector"].numpy()
    if found.dtype != kind or found.ndim != 1:
        wanted = np.dtype(kind).name
        raise InvalidUpdateError(f"{found.dtype.name} {found.shape}, no vector of {wanted}")
    return found


def _are_whole(values: list[object]) -> bool:
    return all(isinstance(value, int) and not isinstance(value, bool) for value in values)
