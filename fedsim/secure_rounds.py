"""A round's secure sum on the server: phase after phase, until the sum of a cohort is open.

`ideal` goes through the same phases without masks: who is lost, and when a sum is given up, is the
same, and so is every bit of what comes out. `ckks` does too: there vectors are encrypted, and a
client opens their sum. No number of a single client is in what is recorded.
"""

import hashlib
import json
from collections.abc import Callable, Collection, Iterable, Iterator, Mapping, Sequence
from contextlib import contextmanager
from dataclasses import dataclass, field
from importlib import metadata
from time import perf_counter
from types import MappingProxyType
from typing import Any

import numpy as np
from flwr.app import Message, RecordDict
from numpy.typing import NDArray

from fedsim import ckks_messages, distributed, exact, messages, ring, sampling, secure_messages
from fedsim import config as configuration
from fedsim.carrier import Carrier
from fedsim.config.schema import RunConfig
from fedsim.core import ClientRecord, broadcast, lost_record
from fedsim.errors import SecAggAborted
from fedsim.exact import InvalidUpdateError, PartialSum
from fedsim.federation import Federation
from fedsim.secagg import ckks, lanes
from fedsim.secagg.identities import Directory
from fedsim.secagg.parameters import Parameters, Phase, least_survivors, required, shape
from fedsim.secagg.server import ServerSession

__all__ = [
    "Collected",
    "Question",
    "Total",
    "collect",
    "experiment_name",
    "facts",
    "parameters",
    "payload_bytes",
    "summed",
]

# Bytes of the protocol's messages, to and from a client, apart from the vector: what encryption,
# signatures and ids take for itself, for every client of the cohort and for every neighbour.
_DOWN = {"itself": 410, "client": 213, "neighbour": 143}
_UP = {"itself": 426, "client": 0, "neighbour": 135}
_LONGER_KEYS = 66  # of an advert with points on P-256


@dataclass(frozen=True, slots=True)
class Collected:
    """The sum of a cohort, the means of its metrics, and a row for each client: who was lost."""

    total: PartialSum
    metrics: Mapping[str, float]
    records: dict[int, ClientRecord]


@dataclass(frozen=True, slots=True)
class Question:
    """What a secure sum is of, and what its clients are sent when it is their vector's turn.

    `told`: the session's parameters. `content` and the `size_bytes` of it that count; `masked` and
    `clear`: the types of the message, under masks and without. `gone`: who drops out, in which
    phase. `is_whole`: nothing is opened unless everybody's vector is in it.
    """

    told: Parameters
    content: RecordDict
    size_bytes: int
    masked: str
    clear: str
    timeout_s: float | None
    gone: Mapping[int, Phase]
    is_whole: bool = False


@dataclass(slots=True)
class _Round:
    """A sum in work: who is asked, who was lost why, what each has got and sent."""

    grid: Carrier
    nodes: Sequence[int]
    question: Question
    lost: dict[int, str] = field(default_factory=dict)
    down: dict[int, int] = field(default_factory=dict)
    up: dict[int, int] = field(default_factory=dict)

    def present(self, clients: Collection[int], phase: Phase) -> list[int]:
        """Return who does not drop out in a phase; write down who does."""
        gone = self.question.gone
        for client in clients:
            if gone.get(client) == phase:
                self.lost[client] = sampling.dropped_out(phase)
        return [client for client in clients if gone.get(client) != phase]

    def need_all(self, clients: Collection[int], ids: Sequence[int], phase: Phase) -> None:
        """Raise `SecAggAborted` where somebody's vector would be missing that has to be there."""
        if self.question.is_whole and len(clients) < len(ids):
            raise SecAggAborted(f"in phase {phase}", len(clients), len(ids))

    def scatter(self, contents: Sequence[tuple[int, RecordDict]], kind: str) -> Iterable[Message]:
        """Send each client a content of its own; return the replies as they come."""
        return self.grid.scatter(
            [(self.nodes[client], content) for client, content in contents],
            kind,
            ttl=self.question.timeout_s,
            group_id=str(self.question.told.round),
        )

    def answered(
        self, replies: Iterable[Message], asked: Collection[int]
    ) -> Iterator[tuple[int, RecordDict]]:
        """Return who answered what, of those asked; write down whose reply is an error."""
        owners = {self.nodes[client]: client for client in asked}
        for reply in replies:
            client = owners.get(reply.metadata.src_node_id)
            if client is None:
                continue
            if reply.has_error():
                self.lost[client] = reply.error.reason or "no reason given"
            else:
                yield client, reply.content

    def records(self, counted: Collection[int], ids: Sequence[int]) -> dict[int, ClientRecord]:
        """Return a row for each client, without a number that tells clients apart."""
        found = {}
        for client in ids:
            down = self.down.get(client, 0)
            if client in counted:
                found[client] = ClientRecord(
                    client, bytes_down=down, bytes_up=self.up.get(client, 0)
                )
            else:
                reason = self.lost.get(client, "no answer within the time allowed")
                found[client] = lost_record(client, "train", reason, bytes_down=down)
        return found


def collect(
    grid: Carrier,
    nodes: Sequence[int],
    federation: Federation,
    order: messages.Train,
    ids: Sequence[int],
    seconds: dict[str, float],
    directory: Directory,
    *,
    gone: Mapping[int, Phase] = MappingProxyType({}),
) -> Collected:
    """Have clients train and add their updates up by the secure sum of the configuration.

    `directory` has the clients' identity keys (`ideal` needs none). `gone`: who is lost by the
    virtual clock, in which phase; others drop out by chance. `seconds` gets the time of each phase.
    Raises `SecAggAborted` where too few clients are left, or where the sum is none that
    updates can have; its `records` say who was lost.
    """
    config = federation.config
    assert order.form is not None
    lost = sampling.dropouts(ids, config.rounds.dropout, seed=config.seed, round=order.round)
    layout = ring.layout(federation, order.form)
    question = Question(
        told=parameters(config, order, layout.length),
        content=messages.model_content(order),
        size_bytes=order.size_bytes,
        masked=secure_messages.MASKED,
        clear=messages.TRAIN,
        timeout_s=config.rounds.timeout_s,
        gone={**lost, **gone},
    )
    own = _Round(grid, nodes, question)
    with _told_of(own, ids):
        total, members = _total(own, ids, seconds, directory, config.secure_sum.name)
        try:
            decoded = lanes.decode(total, layout, len(members))
        except lanes.GarbledSumError as error:
            least, reason = config.secure_sum.min_cohort, f"{error.reason}: {error}"
            raise SecAggAborted(reason, len(members), least) from error
    return Collected(decoded.total, decoded.metrics, own.records(members, ids))


def summed(
    grid: Carrier,
    nodes: Sequence[int],
    question: Question,
    ids: Sequence[int],
    seconds: dict[str, float],
    directory: Directory,
    name: str,
) -> "Total":
    """Return the sum of what clients answer to a question, and whose it is; `name`: of its kind.

    Raises as `collect` does.
    """
    own = _Round(grid, nodes, question)
    with _told_of(own, ids):
        return _total(own, ids, seconds, directory, name)


@contextmanager
def _told_of(own: _Round, ids: Sequence[int]) -> Iterator[None]:
    """Have a sum that is given up say who was lost."""
    try:
        yield
    except SecAggAborted as error:
        for client, reason in error.lost.items():
            own.lost.setdefault(client, reason)
        lost = _lost(own, ids)
        raise SecAggAborted(error.reason, error.survivors, error.threshold, lost) from error


def _total(
    own: _Round, ids: Sequence[int], seconds: dict[str, float], directory: Directory, name: str
) -> "Total":
    if name == "ideal":
        return _ideal(own, ids, seconds, _added)
    if name == "ckks":
        return _ideal(own, ids, seconds, _encrypted)
    return _masked(own, ids, seconds, directory)


def parameters(config: RunConfig, order: messages.Train, length: int) -> Parameters:
    """Return the parameters of a round's session."""
    return configuration.session_parameters(
        config.secure_sum,
        run=f"{config.name[:100]}/{experiment_name(config)}",
        round=order.round,
        length=length,
        bits=distributed.ring_bits(config),
        content=messages.hash_of(order),
    )


def facts(federation: Federation, form: exact.FixedPoint) -> dict[str, Any]:
    """Return what a run's record says of its secure sum; plain data, nothing for a plain sum."""
    config, secure = federation.config, federation.config.secure_sum
    if not ring.is_secure(config):
        return {}
    layout = ring.layout(federation, form)
    told = parameters(config, messages.Train(federation.initial, 0), layout.length)
    cohort = min(config.rounds.cohort or federation.population, federation.population)
    size = shape(told, cohort)
    has_graph = ring.is_masked(config)
    libraries = ("tenseal",) if ring.is_encrypted(config) else ("cryptography", "msgpack")
    versions = {name: metadata.version(name) for name in libraries}
    return {
        "name": secure.name,
        "graph": _graph(size.degree, cohort) if has_graph else "none",
        "neighbours": size.degree if has_graph else 0,
        "threshold": size.threshold,
        "least_survivors": least_survivors(told, cohort),
        "cohort": cohort,
        "bits": layout.bits,
        "fraction_bits": form.fraction_bits,
        "max_abs": form.max_abs,
        "length": layout.length,
        "metrics": list(layout.metrics),
        "profile": secure.profile,
        "identities": "simulated" if has_graph else "none",
        "versions": versions,
    }


def _graph(degree: int, cohort: int) -> str:
    return "full" if degree >= cohort - 1 else "sparse"


def payload_bytes(federation: Federation, form: exact.FixedPoint) -> tuple[int, int]:
    """Estimate the bytes that a client gets and sends in a round of a secure sum.

    The vector's are exact, those of keys and shares right to a few percent.
    """
    found = facts(federation, form)
    strategy, model = federation.config.strategy, federation.initial
    extras = broadcast(strategy, strategy.init(model.double()))
    down = messages.Train(model, 1, extras=extras).size_bytes
    if ring.is_encrypted(federation.config):
        size, opened = ckks.size_bytes(found["length"]), messages.FLOAT_BYTES * found["length"]
        return down + size // found["cohort"], size + opened // found["cohort"]  # one opens the sum
    up = -(-found["length"] * found["bits"] // 8)
    if not ring.is_masked(federation.config):
        return down, up
    counts = {"itself": 1, "client": found["cohort"], "neighbour": found["neighbours"]}
    more = [sum(size[k] * n for k, n in counts.items()) for size in (_DOWN, _UP)]
    longer = _LONGER_KEYS if found["profile"] == "fips" else 0
    return down + more[0] + longer * found["cohort"], up + more[1] + longer


def experiment_name(config: RunConfig) -> str:
    """Name an experiment by its settings: sums of one round of it must not be subtracted."""
    text = json.dumps(configuration.to_dict(config), sort_keys=True, default=str)
    return hashlib.sha256(text.encode()).hexdigest()[:32]


def _lost(own: _Round, ids: Sequence[int]) -> tuple[ClientRecord, ...]:
    return tuple(record for client, record in own.records((), ids).items() if client in own.lost)


Total = tuple[NDArray[np.uint32], Sequence[int]]


#: Gives the sum when it is asked for, and whose it is: `open(clients)` may ask some of these.
Unopened = tuple[Callable[[Sequence[int]], NDArray[np.uint32]], Sequence[int]]


def _ideal(
    own: _Round,
    ids: Sequence[int],
    seconds: dict[str, float],
    add: Callable[[_Round, Sequence[int]], Unopened],
) -> Total:
    """Add up vectors without masks; abort where masked ones would."""
    told = own.question.told
    advertised = own.present(ids, "keys")

    def need(clients: Sequence[int], phase: Phase) -> None:
        least = required(told, len(advertised), phase)
        if len(clients) < least:
            raise SecAggAborted(f"in phase {phase}", len(clients), least)

    need(advertised, "keys")
    sharing = own.present(advertised, "shares")
    need(sharing, "shares")
    started = perf_counter()
    opened, members = add(own, own.present(sharing, "masked"))
    seconds["train"] = seconds.get("train", 0.0) + perf_counter() - started
    own.need_all(members, ids, "masked")
    need(members, "masked")
    confirming = [client for client in members if own.question.gone.get(client) != "confirm"]
    need(confirming, "confirm")
    unmasking = [client for client in confirming if own.question.gone.get(client) != "unmask"]
    need(unmasking, "unmask")
    started = perf_counter()
    total = opened(unmasking)
    seconds["unmask"] = seconds.get("unmask", 0.0) + perf_counter() - started
    return total, members


def _added(own: _Round, clients: Sequence[int]) -> Unopened:
    """Ask clients for their vectors and add them up; workers may have added some already."""
    question, told = own.question, own.question.told
    total = np.zeros(told.length, dtype=np.uint32)
    members: list[int] = []
    replies = own.grid.broadcast(
        question.content,
        [own.nodes[client] for client in clients],
        question.clear,
        ttl=question.timeout_s,
        group_id=str(told.round),
    )
    own.down.update(dict.fromkeys(clients, question.size_bytes))
    for client, answer in own.answered(replies, clients):
        try:
            vector, named = messages.read_ring(answer)
            if client not in named or not set(named) <= set(clients) - set(members):
                raise InvalidUpdateError(f"client {client} answers for others")
            if len(vector) != told.length:
                raise InvalidUpdateError(f"a vector of {len(vector)} numbers")
        except InvalidUpdateError as error:
            own.lost[client] = str(error)
        else:
            total += vector
            members += named
    own.up.update(dict.fromkeys(members, -(-told.length * told.bits // 8)))
    return lambda _: lanes.modulo(total, told.bits), sorted(members)


def _encrypted(own: _Round, clients: Sequence[int]) -> Unopened:
    """Ask clients for encrypted vectors and add them up.

    Clients with another key than most of a cohort are lost: nobody could open a sum with them.
    """
    question = own.question
    replies = own.scatter(
        [(client, question.content) for client in clients], ckks_messages.ENCRYPTED
    )
    own.down.update(dict.fromkeys(clients, question.size_bytes))
    sums: dict[bytes, ckks.EncryptedSum] = {}
    senders: dict[bytes, list[int]] = {}
    for client, answer in own.answered(replies, clients):
        try:
            key, vector = ckks_messages.read_encrypted(answer)
            if client in own.up:
                raise InvalidUpdateError("a second answer")
            sums.setdefault(key, ckks.EncryptedSum(question.told.length)).add(vector)
        except (InvalidUpdateError, ckks.CkksError) as error:
            own.lost[client] = str(error)
        else:
            senders.setdefault(key, []).append(client)
            own.up[client] = vector.nbytes
    most = max(senders, key=lambda key: len(senders[key]), default=b"")
    for key, others in senders.items():
        if key != most:
            own.lost.update(dict.fromkeys(others, "it encrypts under another key than the others"))
    members = sorted(senders.get(most, []))
    return lambda present: _opened(own, sums[most], members, present), members


def _opened(
    own: _Round, total: ckks.EncryptedSum, members: Sequence[int], present: Sequence[int]
) -> NDArray[np.uint32]:
    """Have one client open the sum, in turn of rounds; another, where that one does not."""
    told = own.question.told
    opening = ckks_messages.Opening(told.run, told.round, tuple(members), told.length, told.bits)
    ciphertexts = total.write()
    content = ckks_messages.opening_content(opening, ciphertexts)
    first = told.round % len(present)
    for client in (*present[first:], *present[:first]):
        replies = own.scatter([(client, content)], ckks_messages.OPEN)
        own.down[client] += ciphertexts.nbytes
        for _, answer in own.answered(replies, [client]):
            try:
                found = ckks_messages.read_opened(answer)
            except InvalidUpdateError as error:
                own.lost[client] = str(error)
                continue
            own.up[client] += found.nbytes
            if found.shape == (told.length,):
                return lanes.modulo(found, told.bits)
            own.lost[client] = f"it opened {found.shape} numbers"
    reasons = sorted({own.lost[client] for client in present if client in own.lost})
    raise SecAggAborted(f"no client opened it: {'; '.join(reasons)}", 0, 1)


def _masked(
    own: _Round, ids: Sequence[int], seconds: dict[str, float], directory: Directory
) -> Total:
    """Run the protocol: five exchanges, each with who is left."""
    session = ServerSession.begin(own.question.told, ids, directory)
    while session.phase != "done":
        phase, started = session.phase, perf_counter()
        present = own.present([c for c in ids if c in session.messages], phase)
        asked = {client: session.messages[client] for client in present}
        session = session.step(_replies(own, phase, asked))
        for client, reason in session.lost.items():
            own.lost.setdefault(client, reason)
        if phase in sampling.BEFORE_THE_SUM:
            own.need_all(session.messages, ids, phase)
        name = "train" if phase == "masked" else phase
        seconds[name] = seconds.get(name, 0.0) + perf_counter() - started
    return session.total, session.survivors


def _replies(
    own: _Round, phase: Phase, asked: Mapping[int, bytes]
) -> Iterator[tuple[int, bytes, NDArray[np.uint8] | None]]:
    """Send clients what a phase asks of each; return the answers as they come."""
    question = own.question
    content, size = (question.content, question.size_bytes) if phase == "masked" else (None, 0)
    replies = own.scatter(
        [(client, secure_messages.ask_content(text, content)) for client, text in asked.items()],
        question.masked if phase == "masked" else secure_messages.KINDS[phase],
    )
    for client, text in asked.items():
        own.down[client] = own.down.get(client, 0) + len(text) + size
    for client, reply in own.answered(replies, asked):
        try:
            message, vector = secure_messages.read_answer(reply)
        except InvalidUpdateError as error:
            own.lost[client] = str(error)
            continue
        sent = len(message) + (vector.nbytes if vector is not None else 0)
        own.up[client] = own.up.get(client, 0) + sent
        yield client, message, vector
