"""Clients agree on one generalization: the sums that `fedsim.anonymize.shared` grows a cut from.

Each level is a secure sum of its own, by the protocol that updates go through in a run: keys,
shares, masked vectors, signatures over who is in the sum, unmasking. The content that clients sign
is the hash of the cut as it is so far, so no client counts by another tree than the others. `ideal`
adds up without masks: simulated, and said to be.

Where a level's sums get noise, the server adds it to the sum: the noise hides a record from whoever
sees the cut, and not from the server, which sees the sums before. Every level is in the ledger
before it is opened.

Between SuperNodes there is no agreement yet: `refuse_deployed`.
"""

import hashlib
import json
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, replace
from datetime import UTC, datetime
from pathlib import Path
from typing import Any

import numpy as np
from numpy.typing import NDArray

from fedsim.anonymize import shared
from fedsim.anonymize.protection import Protection
from fedsim.anonymize.shared import Cut, cut_from_dict
from fedsim.anonymize.table import Encoded
from fedsim.config import session_parameters
from fedsim.config.schema import SecureSum
from fedsim.crypto import random_key
from fedsim.errors import ConfigError, DataError, Problem, RunFailedError, SecAggAborted
from fedsim.files import replacing
from fedsim.privacy import accounting
from fedsim.privacy.accounting import ADJACENCY
from fedsim.privacy.budget import Budget
from fedsim.privacy.events import Release
from fedsim.privacy.ledger import Entry, Ledger, Receipt, Spend
from fedsim.privacy.noise import Stream, integer_gaussian
from fedsim.secagg.client import ClientSession
from fedsim.secagg.identities import simulated
from fedsim.secagg.parameters import Parameters, Policy
from fedsim.secagg.server import ServerSession

__all__ = [
    "CUT_FILE",
    "Agreed",
    "Charging",
    "Seen",
    "agree",
    "agreed_from_dict",
    "keep",
    "load",
    "refuse_deployed",
    "refuse_open",
    "to_text",
    "without_cut",
]

CUT_FILE = "cut.json"  # in the folder of a run
_BITS = 32
_MOST_ROWS = 2**_BITS - 1
_MOST_SESSIONS = 10_000

Integers = NDArray[np.int64]

#: (phase, client, message, masked vector): what the server of a secure sum receives
Seen = Callable[[str, int, bytes, NDArray[np.uint8] | None], None]


@dataclass(frozen=True, slots=True)
class Agreed:
    """A finished cut, and how it came about.

    `secure_sum`: its name; `sums`: how many there were; `longest`: numbers in the longest; `noise`:
    the noise multiplier, 0 for none; `delta`: that epsilon is stated at.
    """

    cut: Cut
    secure_sum: str
    sums: int
    longest: int
    noise: float = 0.0
    delta: float = 0.0

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


def agree(
    tables: Sequence[Encoded],
    schema: str,
    protection: Protection,
    secure: SecureSum,
    *,
    how: shared.How = "sets",
    k_over: shared.KOver = "federation",
    set_aside: bool = True,
    run: str = "",
    noise_multiplier: float = 0.0,
    delta: float = 0.0,
    stream: Stream | None = None,
    charge: Callable[[int, Release], None] | None = None,
    seen: Seen = lambda phase, client, message, vector: None,
) -> Agreed:
    """Have the clients of a simulation, `tables[i]` being client i's, agree on a cut.

    `schema`: its fingerprint. `noise_multiplier`: standard deviation of the noise on the sums, in
    units of what one record moves them by; `stream` draws it, `charge` writes it down, and `delta`
    is what its epsilon is stated at. `seen` is told all that the server of the secure sum receives.
    Raises `ConfigError` for secure sums that show single clients' counts, `SecAggAborted` where
    there are too few clients, `DataError` where all rows together have not what the protection asks
    for.
    """
    refuse_open(secure)
    if noise_multiplier and (charge is None or stream is None):
        raise ValueError("noise_multiplier: noise that no ledger knows of promises nothing")
    if sum(table.rows for table in tables) > _MOST_ROWS:
        raise DataError(f"clients have more than {_MOST_ROWS:,} rows together")
    same = [replace(table, trees=tables[0].trees) for table in tables]
    cut = shared.start(
        same[0],
        schema,
        protection,
        how=how,
        k_over=k_over,
        set_aside=set_aside,
        noise_multiplier=noise_multiplier,
    )
    clients = _Clients.of(same, secure, seen)
    longest = 0
    while cut.open:
        if charge is not None and noise_multiplier:
            charge(cut.sums, Release("gaussian", noise_multiplier))
        total = clients.total(cut, run)
        if stream is not None and noise_multiplier:
            total = total + integer_gaussian(cut.deviation, len(total), stream).numpy()
        longest = max(longest, len(total))
        cut = shared.grow(cut, total, same[0])
    if k_over == "client":
        _must_hold_everywhere(cut, same)
    return Agreed(cut, secure.name, cut.sums, longest, noise_multiplier, delta)


def refuse_open(secure: SecureSum) -> None:
    """Raise `ConfigError` for sums from which somebody learns what one client counted."""
    if secure.name in ("plain", "ckks"):
        hint = "or cut locally: anonymization.cut=local"
        accepted = "'secagg', 'secagg+' or 'ideal' (simulated): clients' counts would leak"
        if secure.name == "ckks":
            accepted = "'secagg', 'secagg+' or 'ideal' (simulated): counts are not encrypted"
        raise ConfigError([Problem("secure_sum.name", secure.name, accepted, hint)])


def refuse_deployed(cut: str) -> None:
    """Raise `ConfigError` where SuperNodes would have to agree on a cut: they cannot yet."""
    if cut != "local":
        accepted = "'local' between SuperNodes: clients agree on a cut in simulations only"
        hint = "Each client then has k by itself; features are the same on all clients"
        raise ConfigError([Problem("anonymization.cut", cut, accepted, hint)])


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
    )


@dataclass(slots=True)
class _Clients:
    """The clients of a simulation: their tables, and what each keeps between sums."""

    tables: Sequence[Encoded]
    secure: SecureSum
    seen: Seen
    sessions: Sequence[ClientSession]
    kept: dict[int, bytes]
    directory: Any

    @staticmethod
    def of(tables: Sequence[Encoded], secure: SecureSum, seen: Seen) -> "_Clients":
        """Give every client an identity that follows from a secret that nobody keeps."""
        seed, public = simulated(random_key(), secure.profile)
        policy = Policy(
            min_cohort=secure.min_cohort,
            min_threshold=secure.threshold,
            max_sessions=_MOST_SESSIONS,
            min_adversaries=secure.adversaries,
            semi_malicious=secure.semi_malicious,
            profiles=(secure.profile,),
        )
        everybody = range(len(tables))
        sessions = [ClientSession(i, seed(i), public, policy) for i in everybody]
        return _Clients(tables, secure, seen, sessions, dict.fromkeys(everybody, b""), public)

    def total(self, cut: Cut, run: str) -> Integers:
        """Return the sums of a level."""
        if self.secure.name == "ideal":
            if len(self.tables) < self.secure.min_cohort:
                raise SecAggAborted("cohort", len(self.tables), self.secure.min_cohort)
            total = np.zeros(shared.length(cut, self.tables[0]), dtype=np.uint32)
            for client in range(len(self.tables)):
                total += self._vector(client, cut)
            return total.astype(np.int64)
        content = hashlib.sha256(cut.encode()).digest()
        told = self._parameters(cut, run, content)
        server = ServerSession.begin(told, range(len(self.tables)), self.directory)
        while server.phase != "done":
            phase = server.phase
            server = server.step(
                [
                    (client, *self._answer(client, phase, message, cut, content))
                    for client, message in server.messages.items()
                ]
            )
        return server.total.astype(np.int64)

    def _parameters(self, cut: Cut, run: str, content: bytes) -> Parameters:
        return session_parameters(
            self.secure,
            run=f"{run[:100]}/cut/{cut.schema[:32]}",
            round=cut.sums,
            length=shared.length(cut, self.tables[0]),
            bits=_BITS,
            content=content,
        )

    def _answer(
        self, client: int, phase: str, message: bytes, cut: Cut, content: bytes
    ) -> tuple[bytes, NDArray[np.uint8] | None]:
        vector = self._vector(client, cut) if phase == "masked" else None
        session = self.sessions[client]
        self.kept[client], reply = session.step(
            self.kept[client], message, vector, now=0.0, content=content
        )
        self.seen(phase, client, reply.message, reply.vector)
        return reply.message, reply.vector

    def _vector(self, client: int, cut: Cut) -> NDArray[np.uint32]:
        table = self.tables[client]
        return _blinded(cut, shared.counts(cut, table)).astype(np.uint32)


def _blinded(cut: Cut, vector: Integers) -> Integers:
    """Return counts with each veto as a random number that is not 0.

    The sum then says that somebody is against a cut, not how many are; that several happen to sum
    to 0 has a probability of 2^-32.
    """
    if cut.k_over != "client" or not cut.entries:
        return vector
    first = len(vector) - sum(len(own.leaf) for own in cut.entries)
    if first < 0 or (cut.protection.is_about_values and not cut.references):
        return vector
    drawn = Stream.secret().integers(len(vector) - first, _MOST_ROWS).numpy() + 1
    found = vector.copy()
    found[first:] *= drawn
    return found


def _must_hold_everywhere(cut: Cut, tables: Sequence[Encoded]) -> None:
    """Raise `DataError` where a client has a class that has not what was asked for, by itself."""
    lacking = sum(not shared.holds(cut, table) for table in tables)
    if lacking and cut.classes > 1:
        raise DataError("vetoes cancelled out (probability 2^-32): agree again")
    if lacking:
        raise DataError(
            f"{lacking} of {len(tables)} clients have not what [anonymization] asks for even with "
            "all their rows in one class, and are against every cut: ask for less, or "
            "anonymization.k_over=federation, or anonymization.cut=local"
        )
