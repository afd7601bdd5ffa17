"""The client's half of the secure sum.

Bonawitz et al. 2017, figure 4, in the form for a server that may do anything; Bell et al. 2020 for
sparse graphs.

A client trusts its own directory and policy, and nothing that the server says. Five messages come,
in order; each is checked whole before anything leaves:

    keys     -> a signed advert: two public keys, a nonce, a commitment
    shares   -> shares of the secrets behind it, encrypted for each neighbour
    masked   -> the vector under the masks of all neighbours and one of its own
    confirm  -> a signature over the survivor set
    unmask   -> for each neighbour one share: of its own mask if it survived, else of its pair masks

Whatever is wrong ends the session: the secrets are gone from the state, and the reply says why.
Handing out both shares of one client would open its vector, so the client itself decides from the
survivor set which kind each gets, once, after at least a threshold of neighbours have signed that
they see the same set.
"""

from dataclasses import dataclass, field, replace

import numpy as np
from numpy.typing import NDArray

from fedsim import crypto
from fedsim.crypto import CryptoError, Suite
from fedsim.secagg import masks, shamir, wire
from fedsim.secagg import session as common
from fedsim.secagg._state import (
    Advertised,
    Confirmed,
    MaskedIn,
    Neighbour,
    Release,
    Shared,
    State,
    read_state,
)
from fedsim.secagg.parameters import (
    CONTENT_BYTES,
    Parameters,
    Policy,
    least_survivors,
    shape,
)
from fedsim.secagg.session import Directory, Roster
from fedsim.secagg.shamir import SHARE_BYTES
from fedsim.secagg.wire import (
    Advert,
    AskConfirm,
    AskKeys,
    AskMasked,
    AskUnmask,
    Row,
    WireError,
)

__all__ = ["ClientSession", "Reply"]

_REMEMBERED = 8  # released sums, against differencing
Answer = tuple[State, object, NDArray[np.uint8] | None]
Made = tuple[NDArray[np.uint32], bytes]  # a vector, and the hash of what it was made from


class _Refused(Exception):  # noqa: N818 - never leaves this file
    """Why the client stops."""


@dataclass(frozen=True, slots=True, eq=False)
class Reply:
    """What goes to the server: a message, the packed masked vector beside it in phase `masked`.

    `reason` says why the client stopped, and is empty if it did not.
    """

    message: bytes
    vector: NDArray[np.uint8] | None = None
    reason: str = ""


@dataclass(frozen=True, slots=True)
class ClientSession:
    """One client: who it is, whom it knows and what it accepts.

    `identity` is the secret seed of its signatures; `directory` gives everybody's public identity
    key, its own included.
    """

    client: int
    identity: bytes
    directory: Directory
    policy: Policy = field(default_factory=Policy)

    def step(
        self,
        state: bytes,
        message: bytes,
        vector: NDArray[np.uint32] | None = None,
        *,
        now: float,
        content: bytes = bytes(CONTENT_BYTES),
    ) -> tuple[bytes, Reply]:
        """Answer a message; return the state to keep (`b""` at first) and the reply.

        `vector` is what phase `masked` adds to the sum, modulo 2^bits; it is left as it is;
        `content` is the hash of what it was made from: see `Parameters`. Store
        the state before the reply leaves: whoever could make a client answer twice from one state
        could ask it for both kinds of shares. `now` are seconds on any clock that goes on.

        Never raises for what a server sends. Raises `ValueError` for a state that is not of this
        client and for a vector that is not a flat array of uint32.
        """
        if vector is not None and (vector.dtype != np.uint32 or vector.ndim != 1):
            raise ValueError(f"vector is {vector.ndim}-d {vector.dtype}: a flat uint32 array")
        held = read_state(state, self.client)
        try:
            made = None if vector is None else (vector, content)
            held, answer, packed = self._answer(held, common.read_asked(message), made, now)
        except (_Refused, WireError, CryptoError) as error:
            stopped = wire.aborted(str(error))
            held = replace(held, session=b"")
            return wire.encode(held), Reply(wire.encode(stopped), reason=stopped.reason)
        return wire.encode(held), Reply(wire.encode(answer), packed)

    def _answer(self, held: State, asked: common.Asked, made: Made | None, now: float) -> Answer:
        if isinstance(asked, AskKeys):
            return self._keys(held, asked, now)
        session = held.open_session()
        if session is not None and now - session.started > self.policy.ttl_s:
            raise _Refused(f"the session is older than ttl_s = {self.policy.ttl_s}")
        match session, asked:
            case Advertised(), Roster():
                return self._shares(held, session, asked)
            case Shared(), AskMasked():
                return self._masked(held, session, asked, made)
            case MaskedIn(), AskConfirm():
                return self._confirm(held, session, asked)
            case Confirmed(), AskUnmask():
                return self._unmask(held, session, asked)
        raise _Refused(f"{type(asked).__name__} is not what comes next: no such session is open")

    def _keys(self, held: State, asked: AskKeys, now: float) -> Answer:
        parameters = Parameters.decode(asked.parameters)
        refusal = self.policy.refusal(parameters)
        if refusal:
            raise _Refused(refusal)
        if held.sessions >= self.policy.max_sessions:
            raise _Refused(f"max_sessions = {self.policy.max_sessions} are used up")
        suite = crypto.suite(parameters.profile)
        if self.directory(self.client) != suite.signing_public(self.identity):
            raise _Refused(f"identity of client {self.client} is not the one in its directory")
        agreement, masking, own = (crypto.random_key() for _ in range(3))
        unsigned = Advert(
            self.client,
            suite.agreement_public(agreement),
            suite.agreement_public(masking),
            crypto.random_key(),
            common.commitment(asked.parameters, self.client, own),
            b"",
        )
        statement = common.advert_statement(asked.parameters, unsigned)
        advert = unsigned._replace(signature=suite.sign(self.identity, statement))
        session = Advertised(asked.parameters, now, agreement, masking, own, advert)
        return held.begin(session), wire.Keys(advert), None

    def _shares(self, held: State, session: Advertised, roster: Roster) -> Answer:
        parameters = Parameters.decode(session.parameters)
        suite = crypto.suite(parameters.profile)
        index = _own_place(roster, session.advert, parameters)
        known = self._identities(roster)
        name = common.session_id(session.parameters, roster, known)
        n = len(roster.ids)
        size = shape(parameters, n)
        around = common.neighbours_of(name, size, index, n)
        mine = suite.agreement(session.agreement_seed)
        neighbours = []
        for j in around:
            peer = roster.adverts[j]
            _verify(suite, known[j], peer, session.parameters)
            key = common.share_key(mine, peer.agreement, name, (self.client, peer.client))
            neighbours.append(Neighbour(peer.client, peer.masking, key))
        members = sorted([*around, *([index] if size.own else [])])
        points = [1 + j for j in members]
        shares = {
            roster.ids[j]: own + pair
            for j, own, pair in zip(
                members,
                shamir.split(session.self_seed, points, size.threshold),
                shamir.split(session.masking_seed, points, size.threshold),
                strict=True,
            )
        }
        following = Shared(
            session.parameters,
            session.started,
            name,
            roster.ids,
            session.masking_seed,
            session.self_seed,
            tuple(neighbours),
            tuple(Row(c, pair) for c, pair in shares.items() if c == self.client),
        )
        sealed = tuple(
            Row(peer.client, _seal(peer.key, name, (self.client, peer.client), shares[peer.client]))
            for peer in neighbours
        )
        return held.go_on(following), wire.Shares(sealed), None

    def _masked(self, held: State, session: Shared, asked: AskMasked, made: Made | None) -> Answer:
        parameters = Parameters.decode(session.parameters)
        if made is None or len(made[0]) != parameters.length:
            got = "no vector" if made is None else f"a vector of {len(made[0])}"
            raise _Refused(f"length = {parameters.length}: {got} is to be masked here")
        vector, content = made
        if content != parameters.content:
            raise _Refused("content: this client works on another model than the session is about")
        neighbours = {peer.client: peer for peer in session.neighbours}
        strangers = [row.client for row in asked.shares if row.client not in neighbours]
        if strangers:
            raise _Refused(f"client {strangers[0]} is not a neighbour in this session")
        _need_threshold(parameters, session.roster, len(session.own) + len(asked.shares), "shares")
        shares = list(session.own)
        for row in asked.shares:
            pair = (row.client, self.client)
            opened = _open(neighbours[row.client].key, session.session, pair, row.content)
            shares.append(Row(row.client, opened))
        mine = crypto.suite(parameters.profile).agreement(session.masking_seed)
        keys: list[tuple[bytes, masks.Sign]] = []
        for row in asked.shares:
            peer = neighbours[row.client]
            pair = (self.client, peer.client)
            key = common.mask_key(mine, peer.masking, session.session, pair)
            keys.append((key, 1 if self.client < peer.client else -1))
        keys.append((common.self_key(session.self_seed, session.session, self.client), 1))
        masked = vector.copy()
        masks.add_masks(masked, keys)
        following = MaskedIn(
            session.parameters,
            session.started,
            session.session,
            session.roster,
            tuple(sorted(shares)),
        )
        return held.go_on(following), wire.Masked(), masks.pack(masked, parameters.bits)

    def _confirm(self, held: State, session: MaskedIn, asked: AskConfirm) -> Answer:
        parameters = Parameters.decode(session.parameters)
        survivors = set(asked.survivors)
        n, around = len(session.roster), self._around(session)
        if not survivors <= set(session.roster):
            raise _Refused("survivors: clients that are not in the roster")
        if self.client not in survivors:
            raise _Refused(f"survivors: client {self.client} is not among them")
        least = least_survivors(parameters, n)
        if len(survivors) < least:
            raise _Refused(f"survivors: {len(survivors)} of {n}, at least {least} are needed")
        held_of = {row.client for row in session.shares}
        if not survivors & around <= held_of:
            raise _Refused("survivors: a neighbour whose shares never came")
        _need_threshold(parameters, session.roster, len(survivors & held_of), "survivors")
        _refuse_differencing(held.releases_read(), parameters, survivors)
        statement = common.survivors_statement(session.session, asked.survivors)
        signature = crypto.suite(parameters.profile).sign(self.identity, statement)
        following = Confirmed(
            session.parameters,
            session.started,
            session.session,
            session.roster,
            session.shares,
            asked.survivors,
        )
        return held.go_on(following), wire.Confirmed(signature), None

    def _unmask(self, held: State, session: Confirmed, asked: AskUnmask) -> Answer:
        parameters = Parameters.decode(session.parameters)
        suite = crypto.suite(parameters.profile)
        survivors = set(session.survivors)
        alive = tuple(row for row in session.shares if row.client in survivors)
        lost = tuple(row for row in session.shares if row.client not in survivors)
        witnesses = {row.client for row in alive} - {self.client}
        statement = common.survivors_statement(session.session, session.survivors)
        for row in asked.signatures:
            if row.client not in witnesses:
                raise _Refused(f"signatures: client {row.client} is no surviving neighbour")
            suite.verify(self.directory(row.client) or b"", row.content, statement)
        own = len(alive) - len(witnesses)
        _need_threshold(parameters, session.roster, own + len(asked.signatures), "signatures")
        answer = wire.Unmasked(
            tuple(Row(row.client, row.content[:SHARE_BYTES]) for row in alive),
            tuple(Row(row.client, row.content[SHARE_BYTES:]) for row in lost),
        )
        release = Release(parameters.run, parameters.round, session.survivors)
        return held.release(release, _REMEMBERED), answer, None

    def _identities(self, roster: Roster) -> list[bytes]:
        known = [self.directory(client) for client in roster.ids]
        for client, key in zip(roster.ids, known, strict=True):
            if key is None:
                raise _Refused(f"client {client} is not in the directory")
        return [key for key in known if key is not None]

    def _around(self, session: MaskedIn) -> set[int]:
        """Return the neighbours of a client, from the session id as before."""
        parameters, n = Parameters.decode(session.parameters), len(session.roster)
        index = session.roster.index(self.client)
        size = shape(parameters, n)
        around = common.neighbours_of(session.session, size, index, n)
        return {session.roster[j] for j in around}


def _own_place(roster: Roster, advert: Advert, parameters: Parameters) -> int:
    n = len(roster.ids)
    if n < parameters.min_cohort:
        raise _Refused(f"adverts: {n}, at least min_cohort = {parameters.min_cohort} are needed")
    if advert not in roster.adverts:
        raise _Refused(f"adverts: that of client {advert.client} is missing or was changed")
    return roster.adverts.index(advert)


def _verify(suite: Suite, identity: bytes, advert: Advert, parameters: bytes) -> None:
    try:
        statement = common.advert_statement(parameters, advert)
        suite.verify(identity, advert.signature, statement)
    except CryptoError as error:
        raise _Refused(f"advert of client {advert.client}: {error}") from error


def _seal(key: bytes, session: bytes, pair: tuple[int, int], shares: bytes) -> bytes:
    """Encrypt a pair of shares. The nonce is drawn, so that an answer repeated is not harmful."""
    nonce = crypto.random_key()[: crypto.NONCE_BYTES]
    return nonce + crypto.seal(key, nonce, shares, common.pair_label(session, *pair))


def _open(key: bytes, session: bytes, pair: tuple[int, int], sealed: bytes) -> bytes:
    nonce, content = sealed[: crypto.NONCE_BYTES], sealed[crypto.NONCE_BYTES :]
    try:
        return crypto.open_sealed(key, nonce, content, common.pair_label(session, *pair))
    except CryptoError as error:
        raise _Refused(f"shares of client {pair[0]}: {error}") from error


def _need_threshold(parameters: Parameters, roster: tuple[int, ...], count: int, what: str) -> None:
    threshold = shape(parameters, len(roster)).threshold
    if count < threshold:
        raise _Refused(f"{what}: of {count} in this neighbourhood, at least {threshold} are needed")


def _refuse_differencing(
    releases: list[Release], parameters: Parameters, survivors: set[int]
) -> None:
    """Refuse a second sum of a round that a few clients only tell from the first.

    The difference of two such sums would be a sum over less than a cohort. A round so old that it
    is not remembered may have been released, so it is refused as well.
    """
    rounds = [known.round for known in releases if known.run == parameters.run]
    is_new = parameters.round not in rounds
    if len(releases) == _REMEMBERED and is_new and parameters.round < max(rounds, default=0):
        raise _Refused(f"round = {parameters.round}: older than the sums remembered here")
    for known in releases:
        if (known.run, known.round) == (parameters.run, parameters.round):
            apart = len(survivors ^ set(known.survivors))
            if 0 < apart < parameters.min_cohort:
                raise _Refused(
                    f"survivors: {apart} clients differ from a sum of this round that was opened,"
                    f" at least min_cohort = {parameters.min_cohort} must"
                )
