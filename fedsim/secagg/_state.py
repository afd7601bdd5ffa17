"""What a client keeps between two messages of a session, and between two sessions.

The state is one blob of bytes. The open session lies inside it as bytes of its own, so that erasing
its secrets is leaving one field empty.
"""

from dataclasses import dataclass, replace
from typing import Annotated, NamedTuple

from fedsim.secagg import wire
from fedsim.secagg.shamir import SHARE_BYTES
from fedsim.secagg.wire import Advert, Row, WireError

_MOST_SESSION = 2**27  # bytes
_MOST_RELEASES = 64

_PARAMETERS = wire.blob(1, 4096)
_PAIRS = wire.rows(Row, wire.CLIENT_ID, wire.blob(2 * SHARE_BYTES))  # self, then pair share


class Neighbour(NamedTuple):
    """A neighbour: its public key for masks, and the key under which it and we send shares."""

    client: int
    masking: bytes
    key: bytes


@dataclass(frozen=True, slots=True)
class Advertised:
    """After `keys`: three secret seeds, and the advert that must be in the roster."""

    parameters: Annotated[bytes, _PARAMETERS]
    started: Annotated[float, wire.number]
    agreement_seed: Annotated[bytes, wire.SEED]
    masking_seed: Annotated[bytes, wire.SEED]
    self_seed: Annotated[bytes, wire.SEED]
    advert: Annotated[Advert, wire.row(Advert, *wire.ADVERT)]


@dataclass(frozen=True, slots=True)
class Shared:
    """After `shares`: the neighbours; and the client's share of its own secrets, if it has one."""

    parameters: Annotated[bytes, _PARAMETERS]
    started: Annotated[float, wire.number]
    session: Annotated[bytes, wire.SEED]
    roster: Annotated[tuple[int, ...], wire.ids, wire.pack_ids]
    masking_seed: Annotated[bytes, wire.SEED]
    self_seed: Annotated[bytes, wire.SEED]
    neighbours: Annotated[
        tuple[Neighbour, ...], wire.rows(Neighbour, wire.CLIENT_ID, wire.PUBLIC_KEY, wire.SEED)
    ]
    own: Annotated[tuple[Row, ...], _PAIRS]


@dataclass(frozen=True, slots=True)
class MaskedIn:
    """After `masked`: the pairs of shares held, own ones among them; the seeds are gone."""

    parameters: Annotated[bytes, _PARAMETERS]
    started: Annotated[float, wire.number]
    session: Annotated[bytes, wire.SEED]
    roster: Annotated[tuple[int, ...], wire.ids, wire.pack_ids]
    shares: Annotated[tuple[Row, ...], _PAIRS]


@dataclass(frozen=True, slots=True)
class Confirmed:
    """After `confirm`: the survivor set that was signed."""

    parameters: Annotated[bytes, _PARAMETERS]
    started: Annotated[float, wire.number]
    session: Annotated[bytes, wire.SEED]
    roster: Annotated[tuple[int, ...], wire.ids, wire.pack_ids]
    shares: Annotated[tuple[Row, ...], _PAIRS]
    survivors: Annotated[tuple[int, ...], wire.ids, wire.pack_ids]


Session = Advertised | Shared | MaskedIn | Confirmed


@dataclass(frozen=True, slots=True)
class Release:
    """A sum that this client helped to open."""

    run: Annotated[str, wire.text(200)]
    round: Annotated[int, wire.integer(0, 2**53)]
    survivors: Annotated[tuple[int, ...], wire.ids, wire.pack_ids]


@dataclass(frozen=True, slots=True)
class State:
    """Everything that a client keeps; `session` is empty while none is open."""

    client: Annotated[int, wire.CLIENT_ID]
    sessions: Annotated[int, wire.integer(0, 2**53)]
    releases: Annotated[tuple[bytes, ...], wire.blobs(1, _MOST_SESSION, _MOST_RELEASES)]
    session: Annotated[bytes, wire.blob(0, _MOST_SESSION)]

    def open_session(self) -> Session | None:
        """Return the session that is open."""
        if not self.session:
            return None
        kinds: tuple[type[Session], ...] = (Advertised, Shared, MaskedIn, Confirmed)
        return wire.decode(self.session, *kinds)

    def begin(self, session: Session) -> "State":
        """Open a session; one that was open is gone."""
        return replace(self, sessions=self.sessions + 1, session=wire.encode(session))

    def go_on(self, session: Session) -> "State":
        """Move the open session to its next phase."""
        return replace(self, session=wire.encode(session))

    def release(self, release: Release, remembered: int) -> "State":
        """Close the session and remember what it opened, among the last few different ones."""
        opened = wire.encode(release)
        kept = (*(one for one in self.releases if one != opened), opened)[-remembered:]
        return replace(self, session=b"", releases=kept)

    def releases_read(self) -> list[Release]:
        """Return the sums remembered, the oldest first."""
        return [wire.decode(release, Release) for release in self.releases]


def read_state(blob: bytes, client: int) -> State:
    """Read a state; raise `ValueError` unless it is empty or one of this client."""
    if blob == b"":
        return State(client, 0, (), b"")
    try:
        state = wire.decode(blob, State)
        state.open_session()
        state.releases_read()
    except WireError as error:
        raise ValueError(f"state is none that step returned: {error}") from error
    if state.client != client:
        raise ValueError(f"state is of client {state.client}: this is client {client}")
    return state
