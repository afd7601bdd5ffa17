"""What a session of the secure sum is about, and what a client accepts.

The parameters are the server's to choose, once: they are part of what every client signs and of the
session id, so no two clients can be in one session under different ones. Everything else that
matters (degree of the graph, threshold, who must survive) each side computes from them and the
number of adverts. A client compares them with its own `Policy` and refuses weaker ones: the server
is not trusted to protect clients from itself.
"""

import math
from dataclasses import dataclass
from functools import lru_cache
from typing import Annotated, Literal, NamedTuple, get_args

from fedsim.crypto import KEY_BYTES, Profile
from fedsim.secagg import graph, masks, wire
from fedsim.secagg.wire import WireError

__all__ = [
    "BITS",
    "CONTENT_BYTES",
    "PHASES",
    "Graph",
    "Neighbourhood",
    "Parameters",
    "Phase",
    "Policy",
    "least_survivors",
    "required",
    "shape",
]

Graph = Literal["full", "sparse"]
Phase = Literal["keys", "shares", "masked", "confirm", "unmask"]
PHASES: tuple[Phase, ...] = get_args(Phase)
BITS = masks.WIDTHS
CONTENT_BYTES = 32  # SHA-256
_MOST_ROUND = 2**53
_MOST_LENGTH = 2**40


class Neighbourhood(NamedTuple):
    """How many neighbours a client has, and how many shares give one of its secrets.

    `own` is 1 where the client holds a share of its own secrets, which then counts, as in the full
    graph (Bonawitz et al. 2017); and 0 in a sparse one, whose plan is for neighbours only.
    """

    degree: int
    threshold: int
    own: int


@dataclass(frozen=True, slots=True)
class Parameters:
    """The parameters of a session.

    `threshold` is the fraction of a neighbourhood that opens a secret in the full graph; in a
    sparse graph degree and threshold follow from `adversaries` (fraction of clients that collude
    with the server), `dropouts` (fraction that may be lost) and `semi_malicious` (whether the
    server may show clients different survivors). `nonce` makes sessions of equal parameters differ.
    `content` is the hash of what clients work on, the model above all: one who is given something
    else stops, so that no client's vector can be told from the others' by a model of its own
    (Pasquini, Francati and Ateniese, "Eluding Secure Aggregation in Federated Learning via Model
    Inconsistency", CCS 2022).
    Raises `ValueError` naming the field that is out of range.
    """

    run: Annotated[str, wire.text(200)]
    round: Annotated[int, wire.integer(0, _MOST_ROUND)]
    length: Annotated[int, wire.integer(1, _MOST_LENGTH)]
    bits: Annotated[int, wire.integer(min(BITS), max(BITS))]
    graph: Annotated[Graph, wire.text(6)]
    threshold: Annotated[float, wire.number]
    adversaries: Annotated[float, wire.number]
    dropouts: Annotated[float, wire.number]
    semi_malicious: Annotated[bool, wire.boolean]
    min_cohort: Annotated[int, wire.integer(2, wire.MOST_CLIENTS)]
    profile: Annotated[Profile, wire.text(8)]
    nonce: Annotated[bytes, wire.blob(KEY_BYTES)]
    content: Annotated[bytes, wire.blob(CONTENT_BYTES)] = bytes(CONTENT_BYTES)

    def __post_init__(self) -> None:
        for name, check in wire.checks(Parameters).items():
            _check(name, getattr(self, name), check)
        _need("bits", self.bits, self.bits in BITS, f"one of {BITS}")
        _need("graph", self.graph, self.graph in get_args(Graph), "full or sparse")
        _need("profile", self.profile, self.profile in get_args(Profile), "standard or fips")
        _need("threshold", self.threshold, 0.5 < self.threshold < 1, "more than 1/2, less than 1")
        _need("adversaries", self.adversaries, 0 <= self.adversaries < 0.5, "0 to less than 1/2")
        _need("dropouts", self.dropouts, 0 <= self.dropouts < 0.5, "0 to less than 1/2")

    def encode(self) -> bytes:
        """Write the parameters: the bytes that are signed and are part of the session id."""
        return wire.encode(self)

    @staticmethod
    def decode(encoded: bytes) -> "Parameters":
        """Read parameters; raise `WireError` unless they are what `encode` writes."""
        try:
            parameters = wire.decode(encoded, Parameters)
        except ValueError as error:
            raise WireError(str(error)) from error
        if parameters.encode() != encoded:
            raise WireError("parameters: not in their canonical form")
        return parameters


@dataclass(frozen=True, slots=True)
class Policy:
    """What a client accepts. The defaults fit a server that may do anything.

    `min_cohort` clients at least are in a sum; `min_threshold` of them at least must agree to open
    it: 2/3 withstands colluders up to a third (Bonawitz et al. 2017, section 6.2). A client
    takes part in at most `max_sessions` sessions, since sums over many rounds tell about single
    clients (So et al., AAAI 2023), each open for `ttl_s` seconds at most. In a sparse graph
    `min_adversaries` is the share of colluders that it must withstand at least, and
    `semi_malicious` whether it must withstand a server that shows clients different survivors.
    """

    min_cohort: int = 3
    min_threshold: float = 2 / 3
    max_sessions: int = 100_000
    min_adversaries: float = 0.05
    semi_malicious: bool = True
    profiles: tuple[Profile, ...] = ("standard", "fips")
    ttl_s: float = 24 * 3600.0

    def __post_init__(self) -> None:
        _need("min_cohort", self.min_cohort, self.min_cohort >= 2, "at least 2")
        _need("min_threshold", self.min_threshold, 0.5 < self.min_threshold < 1, "1/2 to 1")
        _need("max_sessions", self.max_sessions, self.max_sessions >= 1, "at least 1")
        ok = 0 <= self.min_adversaries < 0.5
        _need("min_adversaries", self.min_adversaries, ok, "0 to less than 1/2")
        known = bool(self.profiles) and set(self.profiles) <= set(get_args(Profile))
        _need("profiles", self.profiles, known, "standard, fips or both")
        _need("ttl_s", self.ttl_s, self.ttl_s > 0, "more than 0 seconds")

    def refusal(self, parameters: Parameters) -> str:
        """Return why a client refuses these parameters, or nothing if it accepts them."""
        weak = [
            f"{name} = {value!r}: at least {least!r} here"
            for name, value, least in (
                ("min_cohort", parameters.min_cohort, self.min_cohort),
                ("threshold", parameters.threshold, self.min_threshold),
            )
            if value < least
        ]
        if parameters.graph == "sparse" and parameters.adversaries < self.min_adversaries:
            weak.append(
                f"adversaries = {parameters.adversaries!r}: at least {self.min_adversaries!r} here"
            )
        if parameters.graph == "sparse" and self.semi_malicious and not parameters.semi_malicious:
            weak.append("semi_malicious = False: True here")
        if parameters.profile not in self.profiles:
            weak.append(f"profile = {parameters.profile!r}: {' or '.join(self.profiles)} here")
        return "; ".join(weak)


@lru_cache(maxsize=64)
def shape(parameters: Parameters, n: int) -> Neighbourhood:
    """Return degree and threshold of a session that `n` clients advertised for.

    >>> nonce = bytes(32)
    >>> full = Parameters("a", 1, 9, 32, "full", 2 / 3, 0.0, 0.0, True, 3, "standard", nonce)
    >>> shape(full, 100)
    Neighbourhood(degree=99, threshold=67, own=1)
    """
    if parameters.graph == "sparse":
        plan = _planned(parameters, n)
        if plan is not None:
            return plan
    return Neighbourhood(n - 1, math.floor(parameters.threshold * n) + 1, own=1)


def _planned(parameters: Parameters, n: int) -> Neighbourhood | None:
    """Return the sparse graph, where there is one: not for few clients or very many adversaries."""
    if n < graph.FULL_BELOW:
        return None
    try:
        plan = graph.plan(
            n,
            adversaries=parameters.adversaries,
            dropouts=parameters.dropouts,
            semi_malicious=parameters.semi_malicious,
        )
    except ValueError:
        return None
    return Neighbourhood(plan.degree, plan.threshold, own=0) if plan.degree < n - 1 else None


def least_survivors(parameters: Parameters, n: int) -> int:
    """Return how many masked vectors must be in a sum of `n` advertised clients.

    In a sparse graph it is more than half: what graph and thresholds are planned for.
    """
    return max(parameters.min_cohort, _quorum(parameters, n))


def required(parameters: Parameters, n: int, phase: Phase) -> int:
    """Return how many clients must answer in a phase; `n` advertised (any `n` for `keys`).

    After the masked vectors the sum stands; who answers later only opens it. In a sparse graph
    each neighbourhood needs its own threshold besides, which fails with the probability that
    the graph was planned for.
    """
    if phase == "keys":
        return parameters.min_cohort
    if phase in ("shares", "masked"):
        return least_survivors(parameters, n)
    return _quorum(parameters, n)


def _quorum(parameters: Parameters, n: int) -> int:
    size = shape(parameters, n)
    return size.threshold if size.degree == n - 1 else n // 2 + 1


def _need(name: str, value: object, ok: bool, accepted: str) -> None:
    if not ok:
        raise ValueError(f"{name} = {value!r}: {accepted}")


def _check(name: str, value: object, check: wire.Check) -> None:
    try:
        check(value, name)
    except WireError as error:
        raise ValueError(f"{name} = {value!r}: {str(error).partition(': ')[2]}") from error
