"""The server's half of the secure sum: it carries messages, adds masked vectors, removes masks.

The server is not trusted with anything that could open a single vector, but it has every reason to
get the sum right: it drops clients that answer nonsense, says who and why, and gives up with
`SecAggAborted` when too few are left, before anything was released. Each step makes a new session;
nothing is changed in place.
"""

from collections.abc import Callable, Iterable, Iterator, Mapping, Sequence
from dataclasses import dataclass, field, replace
from types import MappingProxyType
from typing import Literal, TypeVar

import numpy as np
from numpy.typing import NDArray

from fedsim import crypto
from fedsim.crypto import CryptoError, Suite
from fedsim.environment import cpu_limit
from fedsim.errors import SecAggAborted
from fedsim.secagg import masks, wire
from fedsim.secagg import session as common
from fedsim.secagg._opening import Opened, Opener
from fedsim.secagg.parameters import Parameters, Phase, required, shape
from fedsim.secagg.session import Directory, Roster
from fedsim.secagg.wire import Aborted, Advert, Row, WireError, is_client_id

__all__ = ["ServerSession"]

Answer = TypeVar("Answer")
Vector = NDArray[np.uint8] | None
Replies = Iterable[tuple[int, bytes, Vector]]
Shares = Mapping[int, bytes]  # by holder
_ANY_SEED = bytes(31) + b"1"
_MOST_THREADS, _LONG = 4, 2**17  # each thread has a vector of its own
Stage = Phase | Literal["done"]


@dataclass(frozen=True, slots=True)
class _Known:
    """What the server knows, growing from phase to phase."""

    invited: tuple[int, ...]
    roster: Roster
    session: bytes = b""
    neighbours: Mapping[int, tuple[int, ...]] = field(default_factory=dict)  # by id
    sharing: tuple[int, ...] = ()  # whose shares came
    sum: NDArray[np.uint32] | None = None
    survivors: tuple[int, ...] = ()

    @property
    def ids(self) -> tuple[int, ...]:
        return self.roster.ids

    @property
    def adverts(self) -> tuple[Advert, ...]:
        return self.roster.adverts


@dataclass(frozen=True, slots=True, eq=False, repr=False)
class ServerSession:
    """A session as the server sees it: begin, send `messages`, give `step` the replies, repeat.

    `phase` is what the messages ask for, `done` at the end; `lost` says which clients are out and
    why. All values are only to be read.
    """

    parameters: Parameters
    directory: Directory
    phase: Stage
    messages: Mapping[int, bytes]
    lost: Mapping[int, str]
    _known: _Known

    @staticmethod
    def begin(
        parameters: Parameters, members: Iterable[int], directory: Directory
    ) -> "ServerSession":
        """Invite a cohort.

        Raises `SecAggAborted` for a cohort smaller than `min_cohort`, `ValueError` for ids that are
        none or come twice.
        """
        invited = tuple(members)
        for client in invited:
            if not is_client_id(client):
                raise ValueError(f"client = {client!r}: an id from 0 to 2^64 - 1")
        if len(set(invited)) < len(invited) or len(invited) > wire.MOST_CLIENTS:
            raise ValueError(
                f"members: {len(invited)} of which {len(set(invited))} differ: each id once,"
                f" at most {wire.MOST_CLIENTS}"
            )
        _need("cohort", len(invited), parameters.min_cohort)
        ask = wire.encode(wire.AskKeys(parameters.encode()))
        messages = MappingProxyType(dict.fromkeys(sorted(invited), ask))
        known = _Known(tuple(sorted(invited)), common.roster_of(()))
        return ServerSession(parameters, directory, "keys", messages, MappingProxyType({}), known)

    @property
    def survivors(self) -> tuple[int, ...]:
        """The clients whose vectors are in the sum; known once the masked vectors are in."""
        return self._known.survivors

    @property
    def total(self) -> NDArray[np.uint32]:
        """The sum of the survivors' vectors modulo 2^bits. Raises `ValueError` before the end."""
        if self.phase != "done" or self._known.sum is None:
            raise ValueError(f"total: the session is in phase {self.phase}, not done")
        return self._known.sum

    def step(self, replies: Replies) -> "ServerSession":
        """Take the replies to `messages` and go on to the next phase.

        A client that does not reply, replies nonsense or says that it stopped is lost; what a
        client sends that was asked for nothing counts for nothing, and of two replies of a client
        the first counts. Replies are read one after the other, so masked vectors may come as a
        stream: none is kept. Raises `SecAggAborted` when too few clients are left, `ValueError`
        after the end.
        """
        match self.phase:
            case "keys":
                return self._keys(replies)
            case "shares":
                return self._shares(replies)
            case "masked":
                return self._masked(replies)
            case "confirm":
                return self._confirm(replies)
            case "unmask":
                return self._unmask(replies)
        raise ValueError("step: the session is done")

    def _keys(self, replies: Replies) -> "ServerSession":
        suite, encoded = crypto.suite(self.parameters.profile), self.parameters.encode()
        adverts: dict[int, Advert] = {}
        identities: dict[int, bytes] = {}

        def take(client: int, answer: wire.Keys, vector: Vector) -> None:
            identity = self.directory(client)
            if identity is None:
                raise WireError("not in the directory")
            _check_advert(suite, identity, client, answer.advert, encoded)
            adverts[client], identities[client] = answer.advert, identity

        lost = self._gather(replies, wire.Keys, take)
        self._need_enough(len(adverts), len(adverts), lost)
        roster = common.roster_of(adverts[client] for client in sorted(adverts))
        name = common.session_id(encoded, roster, [identities[client] for client in roster.ids])
        ask = wire.encode(wire.AskShares(roster.adverts))
        known = replace(
            self._known, roster=roster, session=name, neighbours=self._graph(name, roster.ids)
        )
        return self._next("shares", dict.fromkeys(roster.ids, ask), lost, known)

    def _shares(self, replies: Replies) -> "ServerSession":
        known, sealed = self._known, dict[int, dict[int, bytes]]()

        def take(client: int, answer: wire.Shares, vector: Vector) -> None:
            _need_ids("shares", answer.shares, known.neighbours[client])
            sealed[client] = dict(answer.shares)

        lost = self._gather(replies, wire.Shares, take)
        self._need_enough(len(sealed), len(known.ids), lost)
        messages = {}
        for client in sorted(sealed):
            around = [j for j in known.neighbours[client] if j in sealed]
            inbound = tuple(Row(j, sealed[j][client]) for j in around)
            messages[client] = wire.encode(wire.AskMasked(inbound))
        return self._next("masked", messages, lost, replace(known, sharing=tuple(sorted(sealed))))

    def _masked(self, replies: Replies) -> "ServerSession":
        known, bits = self._known, self.parameters.bits
        total = np.zeros(self.parameters.length, np.uint32)
        arrived: list[int] = []

        def take(client: int, answer: wire.Masked, vector: Vector) -> None:
            _add(total, vector, bits)
            arrived.append(client)

        lost = self._gather(replies, wire.Masked, take)
        self._need_enough(len(arrived), len(known.ids), lost)
        survivors = tuple(sorted(arrived))
        ask = wire.encode(wire.AskConfirm(survivors))
        known = replace(known, sum=total, survivors=survivors)
        return self._next("confirm", dict.fromkeys(survivors, ask), lost, known)

    def _confirm(self, replies: Replies) -> "ServerSession":
        known, suite = self._known, crypto.suite(self.parameters.profile)
        statement = common.survivors_statement(known.session, known.survivors)
        signatures: dict[int, bytes] = {}

        def take(client: int, answer: wire.Confirmed, vector: Vector) -> None:
            suite.verify(self.directory(client) or b"", answer.signature, statement)
            signatures[client] = answer.signature

        lost = self._gather(replies, wire.Confirmed, take)
        self._need_enough(len(signatures), len(known.ids), lost)
        size = shape(self.parameters, len(known.ids))
        enough = size.threshold - size.own
        messages = {}
        for client in sorted(signatures):
            signed = [j for j in known.neighbours[client] if j in signatures][:enough]
            rows = tuple(Row(j, signatures[j]) for j in signed)
            messages[client] = wire.encode(wire.AskUnmask(rows))
        return self._next("unmask", messages, lost, known)

    def _unmask(self, replies: Replies) -> "ServerSession":
        known, survivors = self._known, frozenset(self._known.survivors)
        gone = frozenset(known.sharing) - survivors
        self_shares: dict[int, dict[int, bytes]] = {client: {} for client in survivors}
        pair_shares: dict[int, dict[int, bytes]] = {client: {} for client in gone}

        own = shape(self.parameters, len(known.ids)).own

        def take(client: int, answer: wire.Unmasked, vector: Vector) -> None:
            circle = sorted((*known.neighbours[client], *[client] * own))
            _need_ids("self_shares", answer.self_shares, [j for j in circle if j in survivors])
            _need_ids("pair_shares", answer.pair_shares, [j for j in circle if j in gone])
            for owner, share in answer.self_shares:
                self_shares[owner][client] = share
            for owner, share in answer.pair_shares:
                pair_shares[owner][client] = share

        lost = self._gather(replies, wire.Unmasked, take)
        self._need_enough(len(self.messages.keys() - lost.keys()), len(known.ids), lost)
        opened = self._open(self_shares, pair_shares)
        lost |= opened.wrong
        total = self._unmasked(opened)
        return self._next("done", {}, lost, replace(known, sum=total))

    def _open(self, self_shares: Mapping[int, Shares], pair_shares: Mapping[int, Shares]) -> Opened:
        """Put secrets together, each checked against what its owner committed to in its advert."""
        known, suite = self._known, crypto.suite(self.parameters.profile)
        encoded = self.parameters.encode()
        places = {client: index for index, client in enumerate(known.ids)}
        adverts = {advert.client: advert for advert in known.adverts}
        threshold = shape(self.parameters, len(known.ids)).threshold

        def is_self_seed(owner: int, seed: bytes) -> bool:
            return common.commitment(encoded, owner, seed) == adverts[owner].commitment

        def is_masking_seed(owner: int, seed: bytes) -> bool:
            return suite.agreement_public(seed) == adverts[owner].masking

        opener = Opener(places, threshold)
        return Opened(
            {i: opener.open(i, self_shares[i], is_self_seed) for i in sorted(self_shares)},
            {i: opener.open(i, pair_shares[i], is_masking_seed) for i in sorted(pair_shares)},
            opener.wrong,
        )

    def _unmasked(self, opened: Opened) -> NDArray[np.uint32]:
        known = self._known
        assert known.sum is not None  # set in phase masked
        total = known.sum.copy()
        masks.add_masks(total, self._keys_left(opened), threads=_threads(total.size))
        total &= np.uint32(2**self.parameters.bits - 1)
        total.flags.writeable = False
        return total

    def _keys_left(self, opened: Opened) -> Iterator[tuple[bytes, masks.Sign]]:
        """Yield the masks that are in the sum of the survivors, with the signs to take them off."""
        known, suite = self._known, crypto.suite(self.parameters.profile)
        adverts = {advert.client: advert for advert in known.adverts}
        for client, seed in opened.self_seeds.items():
            yield common.self_key(seed, known.session, client), -1
        for client, seed in opened.masking_seeds.items():
            theirs = suite.agreement(seed)
            for j in known.neighbours[client]:
                if j in opened.self_seeds:  # it survived with this mask on
                    pair = (client, j)
                    key = common.mask_key(theirs, adverts[j].masking, known.session, pair)
                    yield key, -1 if j < client else 1

    def _gather(
        self,
        replies: Replies,
        kind: type[Answer],
        take: Callable[[int, Answer, Vector], None],
    ) -> dict[int, str]:
        """Give each awaited client's first reply to `take`; return who is lost by that, and why."""
        kinds: tuple[type[Answer | Aborted], ...] = (kind, Aborted)
        lost: dict[int, str] = {}
        seen: set[int] = set()
        for client, message, vector in replies:
            if client not in self.messages or client in seen:
                continue
            seen.add(client)
            try:
                answer: Answer | Aborted = wire.decode(message, *kinds)
                if isinstance(answer, Aborted):
                    raise WireError(f"stopped: {_printable(answer.reason)}")
                take(client, answer, vector)
            except (WireError, CryptoError) as error:
                lost[client] = f"{self.phase}: {error}"
        silent = self.messages.keys() - seen
        return lost | dict.fromkeys(sorted(silent), f"{self.phase}: no answer")

    def _graph(self, name: bytes, ids: tuple[int, ...]) -> dict[int, tuple[int, ...]]:
        n = len(ids)
        size = shape(self.parameters, n)
        return {
            client: tuple(ids[j] for j in common.neighbours_of(name, size, index, n))
            for index, client in enumerate(ids)
        }

    def _need_enough(self, count: int, n: int, lost: Mapping[int, str]) -> None:
        assert self.phase != "done"
        _need(self.phase, count, required(self.parameters, n, self.phase), {**self.lost, **lost})

    def _next(
        self, phase: Stage, messages: dict[int, bytes], lost: dict[int, str], known: _Known
    ) -> "ServerSession":
        return ServerSession(
            self.parameters,
            self.directory,
            phase,
            MappingProxyType(messages),
            MappingProxyType({**self.lost, **lost}),
            known,
        )


def _need(
    reason: str, count: int, least: int, lost: Mapping[int, str] = MappingProxyType({})
) -> None:
    if count < least:
        raise SecAggAborted(reason, count, least, lost=lost)


def _threads(length: int) -> int:
    """Return in how many threads masks are taken off: short vectors are not worth any."""
    return min(cpu_limit(), _MOST_THREADS) if length >= _LONG else 1


def _need_ids(name: str, rows: tuple[Row, ...], clients: Sequence[int]) -> None:
    if [row.client for row in rows] != list(clients):
        raise WireError(f"{name}: not those of the clients asked about")


def _check_advert(
    suite: Suite, identity: bytes, client: int, advert: Advert, parameters: bytes
) -> None:
    if advert.client != client:
        raise WireError(f"advert: says it is of client {advert.client}")
    for key in (advert.agreement, advert.masking):
        suite.agree(_ANY_SEED, key)  # a key that is none would stop all of its neighbours
    suite.verify(identity, advert.signature, common.advert_statement(parameters, advert))


def _add(total: NDArray[np.uint32], vector: Vector, bits: int) -> None:
    if not isinstance(vector, np.ndarray):
        raise WireError("masked vector: none came")
    try:
        masks.add_packed(total, vector, bits)
    except ValueError as error:
        raise WireError(f"masked vector: {error}") from error


def _printable(reason: str) -> str:
    return "".join(letter if letter.isprintable() else "?" for letter in reason)
