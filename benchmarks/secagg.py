"""What a secure sum costs, beside Flower's SecAgg+ and a plain sum, on one machine in one run.

python benchmarks/secagg.py [--length 1000000] [--ckks] [--write]

Whole sessions of ours, every client masked and every sum compared with the plain one; clients are
lost after they sent their shares, when their masks are dearest to remove. A client's seconds are
processor time of one thread, the mean of the first few, each with nothing that another client of
the process computed before. The server's are by the clock: it takes masks off in several threads.
Bytes are what one client sends in all phases, per coordinate of its
vector.

Flower's 100 clients would take minutes for making shares alone, so its seconds are put together
from its own functions, timed here one by one and multiplied by how often its client and its server
call them (its server puts secrets together from all shares that came, not from a threshold of
them). The threshold is ours. `--write`: put the table into docs/secure-aggregation.md.
"""

import argparse
import sys
import time
from collections.abc import Callable, Iterator
from dataclasses import dataclass

import numpy as np
import page
from flwr.common.secure_aggregation.crypto import shamir as flower_shamir
from flwr.common.secure_aggregation.crypto.symmetric_encryption import (
    decrypt,
    encrypt,
    generate_shared_key,
)
from flwr.common.secure_aggregation.ndarrays_arithmetic import parameters_addition, parameters_mod
from flwr.common.secure_aggregation.secaggplus_utils import (
    pseudo_rand_gen,
    share_keys_plaintext_concat,
)
from flwr.supercore.primitives.asymmetric import (
    bytes_to_private_key,
    bytes_to_public_key,
    generate_key_pairs,
    private_key_to_bytes,
    public_key_to_bytes,
)
from numpy.typing import NDArray

from fedsim.crypto import random_key
from fedsim.secagg import ckks
from fedsim.secagg import session as common
from fedsim.secagg.client import ClientSession, Reply
from fedsim.secagg.identities import simulated
from fedsim.secagg.parameters import Graph, Parameters, Policy, shape
from fedsim.secagg.server import ServerSession

PAGE = page.PAGE.with_name("secure-aggregation.md")
TIMED = 5  # clients of a session; the others only take part
PLAIN_BYTES = 4  # of a coordinate as float32
FLOWER_BYTES = 8  # it sends int64
SEED = bytes(32)

Words = NDArray[np.uint32]


@dataclass(frozen=True)
class Case:
    """A cohort, and what it is held to."""

    clients: int
    lost: float
    bits: int = 32
    graph: Graph = "full"
    client_s: float = 0.25
    server_s: float = 0.5
    bytes_ratio: float | None = 1.02

    @property
    def cells(self) -> list[str]:
        """What a row of a table begins with."""
        return [f"{self.clients}", self.graph, f"{self.lost:.0%}", f"{self.bits}"]


CASES = (
    Case(100, 0.0),
    Case(100, 0.1, server_s=1.5),
    Case(100, 0.3, server_s=3.5),
    Case(100, 0.0, bits=24, bytes_ratio=0.78),
    Case(100, 0.0, bits=20, bytes_ratio=0.66),
    Case(1000, 0.1, graph="sparse", client_s=0.3, server_s=15.0, bytes_ratio=None),
)


@dataclass(frozen=True)
class Cost:
    """Seconds of a client and of the server, and bytes of a client per coordinate."""

    client_s: float
    server_s: float
    bytes_each: float
    threshold: int = 0


class Cohort:
    """The clients of one session: who is lost, what they send, how long the first few took."""

    def __init__(self, case: Case, length: int) -> None:
        secret = random_key()
        seed, self.directory = simulated(secret, "standard")
        for client in range(case.clients):
            self.directory(client)  # a deployed client has its directory in memory
        self.length = length
        self.clients = [
            ClientSession(client, seed(client), self.directory, Policy())
            for client in range(case.clients)
        ]
        self.states = [b""] * case.clients
        order = np.random.default_rng(5).permutation(case.clients)
        self.lost = set(order[: round(case.lost * case.clients)].tolist())
        self.sum = np.zeros(length, np.uint32)
        self.seconds, self.sent, self.outside = [0.0] * TIMED, [0] * TIMED, 0.0

    def vector(self, client: int) -> Words:
        """Draw a client's vector and add it to the plain sum."""
        words = np.random.default_rng(client).integers(0, 2**12, self.length, dtype=np.uint32)
        self.sum += words
        return words

    def replies(self, session: ServerSession) -> Iterator[tuple[int, bytes, object]]:
        """Yield the replies of a phase; the time that they take is not the server's."""
        for client, message in session.messages.items():
            start = time.perf_counter()
            if session.phase == "masked" and client in self.lost:
                continue
            vector = self.vector(client) if session.phase == "masked" else None
            reply = self.answer(client, message, vector)
            self.outside += time.perf_counter() - start
            yield client, reply.message, reply.vector

    def answer(self, client: int, message: bytes, vector: Words | None) -> Reply:
        """Let a client answer; note what the first few need and send."""
        is_timed = client < TIMED
        if is_timed:
            forget()
        start = time.process_time()
        self.states[client], reply = self.clients[client].step(
            self.states[client], message, vector, now=0.0
        )
        if is_timed:
            self.seconds[client] += time.process_time() - start
            size = 0 if reply.vector is None else reply.vector.nbytes
            self.sent[client] += len(reply.message) + size
        if reply.reason:
            raise RuntimeError(f"client {client} stopped: {reply.reason}")
        return reply


def forget() -> None:
    """Empty what a process remembers: one client does not profit from another's work."""
    common.read_asked.cache_clear()
    common._graph.cache_clear()


def run(case: Case, length: int) -> Cost:
    parameters = Parameters(
        run="benchmark",
        round=1,
        length=length,
        bits=case.bits,
        graph=case.graph,
        threshold=2 / 3,
        adversaries=0.2,
        dropouts=0.1,
        semi_malicious=True,
        min_cohort=3,
        profile="standard",
        nonce=random_key(),
    )
    cohort = Cohort(case, length)
    session = ServerSession.begin(parameters, range(case.clients), cohort.directory)
    start = time.perf_counter()
    while session.phase != "done":
        session = session.step(cohort.replies(session))
    server_s = time.perf_counter() - start - cohort.outside
    expected = cohort.sum & np.uint32(2**case.bits - 1)
    if not np.array_equal(session.total, expected) or cohort.lost & set(session.survivors):
        raise RuntimeError(f"{case}: the sum is not the sum of the survivors")
    finished = [client for client in range(TIMED) if client not in cohort.lost]
    return Cost(
        float(np.mean([cohort.seconds[client] for client in finished])),
        server_s,
        float(np.mean([cohort.sent[client] for client in finished])) / length,
        shape(parameters, case.clients).threshold,
    )


def least(task: Callable[[], object], times: int = 3) -> float:
    found = []
    for _ in range(times):
        start = time.process_time()
        task()
        found.append(time.process_time() - start)
    return min(found)


def plain(case: Case, length: int) -> Cost:
    """Return what a sum costs in clear: a client copies its vector, the server adds up."""
    vector, total = np.ones(length, np.float32), np.zeros(length, np.float32)
    survivors = case.clients - round(case.lost * case.clients)
    added = least(lambda: np.add(total, np.frombuffer(bytes(4 * length), np.float32), out=total))
    return Cost(least(vector.tobytes), survivors * added, PLAIN_BYTES)


def encrypted(case: Case, length: int) -> Cost:
    """Return what CKKS costs: the first few clients and their sum, the server's for all of them.

    The one client that opens the sum does that besides; see `opened`.
    """
    key, total = ckks.open_key(ckks.new_key()), ckks.EncryptedSum(length)
    client_s = server_s = sent = 0.0
    clear = np.zeros(length, np.uint32)
    for client in range(TIMED):
        vector = np.random.default_rng(client).integers(0, 2**12, length, dtype=np.uint32)
        clear += vector
        start = time.process_time()
        ciphertexts = ckks.encrypt(key, vector, case.bits)
        client_s += time.process_time() - start
        sent += ciphertexts.nbytes
        start = time.process_time()
        total.add(ciphertexts)
        server_s += time.process_time() - start
    if not np.array_equal(ckks.decrypt(key, total.write(), length, case.bits), clear):
        raise RuntimeError(f"{case}: CKKS opens to another sum")
    each = 1 / TIMED
    written = least(total.write, 1)
    return Cost(client_s * each, server_s * each * case.clients + written, sent * each / length)


def opened(case: Case, length: int) -> float:
    """Return the seconds in which a client opens a sum under CKKS."""
    key, total = ckks.open_key(ckks.new_key()), ckks.EncryptedSum(length)
    total.add(ckks.encrypt(key, np.ones(length, np.uint32), case.bits))
    ciphertexts = total.write()
    return least(lambda: ckks.decrypt(key, ciphertexts, length, case.bits), 1)


def flower(case: Case, length: int, threshold: int) -> Cost:
    """Return a client's and the server's seconds in Flower's SecAgg of the full graph."""
    n, lost = case.clients, round(case.lost * case.clients)
    others, survivors = n - 1, n - lost
    (key, _), (_, peer) = key_pair(), key_pair()
    secret = shared(key, peer)
    plaintext = share_keys_plaintext_concat(1, 2, *map(bytes, share_sizes(key)))
    sealed = encrypt(secret, plaintext)
    agreed = least(lambda: shared(key, peer), 20)
    mask = least(lambda: flower_mask(length))
    zeros = [np.zeros(length, np.int64)]
    add, modulus = (
        least(lambda: parameters_addition(zeros, zeros)),
        least(lambda: parameters_mod(zeros, 2**32)),
    )
    split = least(lambda: flower_shamir._shamir_split(threshold, n, bytes(16)), 2)
    shares = flower_shamir._shamir_split(survivors, n, bytes(16))[:survivors]
    joined = least(lambda: flower_shamir._shamir_combine(shares), 2)
    client_s = (
        2 * least(key_pair, 20)
        + (pieces(key) + pieces(SEED)) * split
        + others * (least(lambda: encrypt(secret, plaintext), 20) + agreed)
        + others * (least(lambda: decrypt(secret, sealed), 20) + agreed + mask)
        + mask
        + modulus
    )
    server_s = (
        survivors * add
        + survivors * (pieces(SEED) * joined + mask)
        + lost * (pieces(key) * joined + survivors * (agreed + mask))
        + modulus
    )
    return Cost(client_s, server_s, FLOWER_BYTES, threshold)


def pieces(secret: bytes) -> int:
    """Return in how many pieces of 16 bytes, the padding included, Flower shares a secret."""
    return len(secret) // 16 + 1


def share_sizes(key: bytes) -> tuple[int, int]:
    return 4 + 16 * pieces(SEED), 4 + 16 * pieces(key)


def key_pair() -> tuple[bytes, bytes]:
    private, public = generate_key_pairs()
    return private_key_to_bytes(private), public_key_to_bytes(public)


def flower_mask(length: int) -> object:
    """Expand a key and add its mask; the extra coordinate is the weight's."""
    shapes = [(1,), (length,)]
    vector = [np.zeros(size, np.int64) for size in shapes]
    return parameters_addition(vector, pseudo_rand_gen(SEED, 2**32, shapes))


def shared(key: bytes, peer: bytes) -> bytes:
    return generate_shared_key(bytes_to_private_key(key), bytes_to_public_key(peer))


@dataclass(frozen=True)
class Bar:
    """A number of a case that must not be above another, or not below."""

    case: Case
    name: str
    found: float
    bound: float
    unit: str = "s"
    is_ceiling: bool = True

    @property
    def holds(self) -> bool:
        """Whether the number is on the right side."""
        return self.found <= self.bound if self.is_ceiling else self.found >= self.bound

    @property
    def cells(self) -> list[str]:
        """The row of a table."""
        sign = "at most" if self.is_ceiling else "at least"
        found = f"{self.found:.4g} {self.unit}"
        bound = f"{sign} {self.bound:g} {self.unit}"
        return [*self.case.cells, self.name, found, bound, "PASS" if self.holds else "FAIL"]


def bars(case: Case, ours: Cost, theirs: Cost | None) -> Iterator[Bar]:
    yield Bar(case, "client", ours.client_s, case.client_s)
    yield Bar(case, "server", ours.server_s, case.server_s)
    if case.bytes_ratio is not None:
        ratio = ours.bytes_each / PLAIN_BYTES
        yield Bar(case, "bytes to float32's", ratio, case.bytes_ratio, "x")
    if theirs is not None:
        client, server = theirs.client_s / ours.client_s, theirs.server_s / ours.server_s
        yield Bar(case, "client, Flower to ours", client, 10, "x", is_ceiling=False)
        yield Bar(case, "server, Flower to ours", server, 30, "x", is_ceiling=False)


def cells(case: Case, name: str, cost: Cost) -> list[str]:
    numbers = [f"{cost.client_s:.3g}", f"{cost.server_s:.3g}", f"{cost.bytes_each:.2f}"]
    return [*case.cells, name, *numbers]


def measure(cases: tuple[Case, ...], length: int) -> tuple[list[list[str]], list[Bar]]:
    rows, found = [], []
    for case in cases:
        ours, theirs = run(case, length), None
        rows.append(cells(case, "fedsim", ours))
        print(*rows[-1], sep=" | ", file=sys.stderr, flush=True)
        if case.graph == "full" and case.bits == 32:
            theirs = flower(case, length, ours.threshold)
            rows.append(cells(case, "Flower SecAgg, composed", theirs))
            rows.append(cells(case, "plain, float32", plain(case, length)))
        found += bars(case, ours, theirs)
    return rows, found


def with_ckks(case: Case, length: int) -> str:
    """Return the table of CKKS beside masks and a plain sum."""
    rows = [
        cells(case, "fedsim, masks", run(case, length)),
        cells(case, "CKKS, composed", encrypted(case, length)),
        cells(case, "plain, float32", plain(case, length)),
    ]
    head = ["clients", "graph", "lost", "bits", "sum", "client s", "server s"]
    found = page.table([*head, "bytes per coordinate"], rows)
    last = f"A client opens the sum in {opened(case, length):.2g} s."
    return "\n".join([f"{length:,} coordinates:", "", *found, "", last])


def main() -> int:
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--length", type=int, default=1_000_000, help="coordinates of a vector")
    parser.add_argument("--cohort", type=int, help="only the cases of so many clients")
    parser.add_argument("--write", action="store_true", help=f"put the tables into {PAGE.name}")
    parser.add_argument("--ckks", action="store_true", help="CKKS beside masks, and nothing else")
    arguments = parser.parse_args()
    if arguments.ckks:
        print(text := with_ckks(CASES[0], arguments.length))
        if arguments.write:
            page.put("ckks", text, PAGE)
        return 0
    cases = tuple(case for case in CASES if arguments.cohort in (None, case.clients))
    rows, found = measure(cases, arguments.length)
    head = ["clients", "graph", "lost", "bits"]
    costs = page.table([*head, "sum", "client s", "server s", "bytes per coordinate"], rows)
    held = page.table([*head, "bar", "measured", "target", ""], [bar.cells for bar in found])
    text = "\n".join([f"{arguments.length:,} coordinates:", "", *costs, "", *held])
    print(text)
    if arguments.write:
        page.put("secure sums", text, PAGE)
    return 0 if all(bar.holds for bar in found) else 1


if __name__ == "__main__":
    sys.exit(main())
