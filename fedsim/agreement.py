"""The cut that clients agree on: what a level's sum is of, and what is kept of a finished one.

Each level is a secure sum of its own, by the protocol that updates go through in a run
(`fedsim.cut_rounds` asks, `fedsim.clients._cut` answers). The content that clients sign is the hash
of the cut as it is so far, so no client counts by another tree than the others. All levels are one
round to the protocol: a client refuses a sum over almost the same clients as one that it helped to
open, whose difference would be the counts of a few. `ideal` adds up without masks: simulated, and
said to be.

Where a level's sums get noise, the server adds it to the sum: the noise hides a record from whoever
sees the cut, and not from the server, which sees the sums before. Every level is in the ledger
before it is opened.
"""

import hashlib
import json
from collections.abc import Callable, Mapping
from dataclasses import dataclass
from datetime import UTC, datetime
from pathlib import Path
from typing import Any

import numpy as np
from numpy.typing import NDArray

from fedsim.anonymize import shared
from fedsim.anonymize.shared import Cut, cut_from_dict
from fedsim.anonymize.table import Encoded
from fedsim.config import session_parameters
from fedsim.config.schema import SecureSum
from fedsim.errors import ConfigError, DataError, Problem, RunFailedError
from fedsim.files import replacing
from fedsim.privacy import accounting
from fedsim.privacy.accounting import ADJACENCY
from fedsim.privacy.budget import Budget
from fedsim.privacy.events import Release
from fedsim.privacy.ledger import Entry, Ledger, Receipt, Spend
from fedsim.privacy.noise import Stream
from fedsim.secagg.parameters import Parameters

__all__ = [
    "CUT_FILE",
    "MOST_ROWS",
    "Agreed",
    "Charging",
    "agreed_from_dict",
    "content_of",
    "keep",
    "load",
    "question",
    "refuse_open",
    "to_text",
    "vector",
    "without_cut",
]

CUT_FILE = "cut.json"  # in the folder of a run
_BITS = 32
MOST_ROWS = 2**_BITS - 1  # of all clients: what a sum can hold


@dataclass(frozen=True, slots=True)
class Agreed:
    """A finished cut, and how it came about.

    `secure_sum`: its name; `sums`: how many there were; `longest`: numbers in the longest; `noise`:
    the noise multiplier, 0 for none; `delta`: that epsilon is stated at. `late`: clients that are
    in no sum. `early`: why it ended before its time, because clients were gone; "" if it did not.
    """

    cut: Cut
    secure_sum: str
    sums: int
    longest: int
    noise: float = 0.0
    delta: float = 0.0
    late: tuple[int, ...] = ()
    early: str = ""

    @property
    def epsilon(self) -> float | None:
        """Return what the sums tell of a record to whoever sees the cut alone; None: no bound."""
        if not self.noise:
            return None
        spent = Release("gaussian", self.noise, count=self.sums)
        return accounting.epsilon([spent], self.delta, ADJACENCY["example"])

    def facts(self) -> dict[str, Any]:
        """Return what a report says of it; plain data, no count of rows."""
        return {
            "sha256": self.cut.fingerprint(),
            "schema": self.cut.schema,
            "how": self.cut.how,
            "k_over": self.cut.k_over,
            "secure_sum": self.secure_sum,
            "protects": self.secure_sum != "ideal",
            "sums": self.sums,
            "longest": self.longest,
            "classes": self.cut.classes - len(self.cut.refused),
            "noise_multiplier": self.noise,
            "noise_by": "server" if self.noise else "nobody",
            "epsilon": self.epsilon,
            "delta": self.delta,
            "late": list(self.late),
            "early": self.early,
        }

    def to_dict(self) -> dict[str, Any]:
        """Return plain data for JSON: the cut, and the facts."""
        return {"tree": self.cut.to_dict(), "agreed": self.facts()}


@dataclass(frozen=True, slots=True)
class Charging:
    """Writes each level's noise into the ledger of single examples, before the level is opened.

    Everybody is charged: a client's records are in the sums whoever it is. Neighbours differ by a
    record that is in no bin, which is the ledger's "zero-out".
    """

    ledger: Ledger
    run: str
    dataset: str
    budget: Budget | None
    on_receipt: Callable[[Receipt], None] = lambda receipt: None

    def __call__(self, level: int, release: Release) -> None:
        """Spend a level. Raises `BudgetExceededError`, `LedgerError` or `SetupError`."""
        entry = Entry(
            run=f"{self.run}/cut",
            round=level,
            unit="example",
            dataset=self.dataset,
            time=datetime.now(UTC).strftime("%Y-%m-%dT%H:%M:%SZ"),
            adjacency=ADJACENCY["example"],
            spends=(Spend(release),),
        )
        self.on_receipt(self.ledger.admit(entry, self.budget))


def question(secure: SecureSum, *, run: str, length: int, encoded: bytes) -> Parameters:
    """Return the parameters of a level's session; `encoded`: the cut as it is sent."""
    return session_parameters(
        secure, run=run, round=0, length=length, bits=_BITS, content=content_of(encoded)
    )


def content_of(encoded: bytes) -> bytes:
    """Return what clients sign of a cut that they count by: no order to train has the same."""
    return hashlib.sha256(b"fedsim/cut/v1|" + encoded).digest()


def vector(cut: Cut, table: Encoded) -> NDArray[np.uint32]:
    """Return what a client adds to the sum of a level, modulo 2^32.

    Each of its vetoes is a random number that is not 0: the sum then says that somebody is against
    a cut, not how many are. That several happen to sum to 0 has a probability of 2^-32.
    """
    found = shared.counts(cut, table)
    first = len(found) - shared.vetoes(cut)
    found[first:] *= Stream.secret().integers(len(found) - first, MOST_ROWS).numpy() + 1
    return found.astype(np.uint32)


def refuse_open(secure: SecureSum) -> None:
    """Raise `ConfigError` for sums from which somebody learns what one client counted."""
    if secure.name in ("plain", "ckks"):
        hint = "or cut locally: anonymization.cut=local"
        accepted = "'secagg', 'secagg+' or 'ideal' (simulated): clients' counts would leak"
        if secure.name == "ckks":
            accepted = "'secagg', 'secagg+' or 'ideal' (simulated): counts are not encrypted"
        raise ConfigError([Problem("secure_sum.name", secure.name, accepted, hint)])


def to_text(plain: Mapping[str, Any]) -> str:
    """Write what `Agreed.to_dict` returned as one line, "" where no cut was agreed on."""
    if "tree" not in plain:
        return ""
    kept = {name: plain[name] for name in ("tree", "agreed")}
    return json.dumps(kept, sort_keys=True, separators=(",", ":"))


def keep(plain: Mapping[str, Any], folder: Path) -> None:
    """Write what `Agreed.to_dict` returned, if a cut was agreed on, into the folder of a run."""
    if text := to_text(plain):
        with replacing(folder / CUT_FILE) as file:
            file.write(f"{text}\n".encode())


def without_cut(plain: Mapping[str, Any]) -> dict[str, Any]:
    """Return what is reported of an agreement: all but the cut itself."""
    return {name: value for name, value in plain.items() if name != "tree"}


def load(folder: Path) -> Agreed:
    """Return the cut of a run, which whoever joins it later gets: it is never agreed on again.

    Raises `RunFailedError` for a file that is missing, or whose cut is not the one that was agreed:
    a second cut of the same rows, beside the first, narrows people down.
    """
    path = folder / CUT_FILE
    try:
        plain: Mapping[str, Any] = json.loads(path.read_bytes())
        found = agreed_from_dict(plain)
    except (OSError, ValueError, KeyError, TypeError, DataError) as error:
        raise RunFailedError(f"{path} is no agreed cut ({error}): restore it") from error
    if found.cut.fingerprint() != plain["agreed"]["sha256"]:
        raise RunFailedError(f"{path} was changed since the clients agreed: restore it")
    return found


def agreed_from_dict(plain: Mapping[str, Any]) -> Agreed:
    """Read what `Agreed.to_dict` wrote. Raises other than that for anything else."""
    facts = plain["agreed"]
    return Agreed(
        cut_from_dict(plain["tree"]),
        str(facts["secure_sum"]),
        int(facts["sums"]),
        int(facts["longest"]),
        float(facts["noise_multiplier"]),
        float(facts["delta"]),
        tuple(map(int, facts["late"])),
        str(facts["early"]),
    )
