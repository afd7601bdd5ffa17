"""A cohort in one process: real clients, a real server, and a wire that a test can tamper with."""

from dataclasses import replace

import numpy as np
import pytest

from fedsim import crypto
from fedsim.secagg import wire
from fedsim.secagg._state import read_state
from fedsim.secagg.client import ClientSession
from fedsim.secagg.identities import simulated
from fedsim.secagg.parameters import PHASES, Parameters, Policy
from fedsim.secagg.server import ServerSession

PARAMETERS = Parameters(
    run="run",
    round=1,
    length=3,
    bits=32,
    graph="full",
    threshold=2 / 3,
    adversaries=0.05,
    dropouts=0.05,
    semi_malicious=True,
    min_cohort=3,
    profile="standard",
    nonce=bytes(32),
)


class Party:
    """Clients that keep their states, and what the server saw of them."""

    def __init__(self, members, *, policy=None, **parameters):
        self.members = tuple(range(members)) if isinstance(members, int) else tuple(members)
        self.parameters = replace(PARAMETERS, **{"nonce": crypto.random_key(), **parameters})
        self.seed, self.directory = simulated(bytes(32), self.parameters.profile)
        self.clients = {
            i: ClientSession(i, self.seed(i), self.directory, policy or Policy())
            for i in self.members
        }
        self.states = dict.fromkeys(self.members, b"")
        rng = np.random.default_rng(len(self.members))
        self.vectors = {
            i: rng.integers(0, 2**32, self.parameters.length, dtype=np.uint32) for i in self.members
        }
        self.now = 0.0
        self.adverts = {}

    def begin(self):
        return ServerSession.begin(self.parameters, self.members, self.directory)

    def again(self, **parameters):
        """The same clients, with their states, in another session."""
        fresh = {"nonce": crypto.random_key(), **parameters}
        self.parameters = replace(self.parameters, **fresh)
        return self.begin()

    def ask(self, client, message, phase=""):
        """Let a client answer and keep its new state."""
        vector = self.vectors[client] if phase == "masked" else None
        self.states[client], reply = self.clients[client].step(
            self.states[client], message, vector, now=self.now, content=self.content(client)
        )
        return reply

    def content(self, client):
        """The hash of the model that a client was given: the one that the session is about."""
        return self.parameters.content

    def replies(self, server, lost=(), tamper=None):
        """Yield what all but some clients reply; `tamper` is an evil server: it sends the rest."""
        for client, message in server.messages.items():
            if client not in lost:
                sent = tamper(client, message) if tamper else message
                reply = self.ask(client, sent, server.phase)
                yield client, reply.message, reply.vector

    def play(self, server, lost=None, until="done"):
        """Go on to a phase; `lost` says in which phase a client is lost."""
        lost = lost or {}
        while server.phase != until:
            self.note(server)
            place = PHASES.index(server.phase)
            gone = [i for i, phase in lost.items() if PHASES.index(phase) <= place]
            server = server.step(self.replies(server, gone))
        return server

    def note(self, server):
        """Remember the roster that the server sends."""
        if server.phase == "shares":
            message = next(iter(server.messages.values()))
            self.adverts = {a.client: a for a in wire.decode(message, wire.AskShares).adverts}

    def expected(self, survivors):
        """The sum as integers of Python: the oracle."""
        modulus = 2**self.parameters.bits
        columns = zip(*(self.vectors[i].tolist() for i in survivors), strict=True)
        return [sum(column) % modulus for column in columns]

    def secrets(self, client):
        """Every secret seed and key in a client's state."""
        session = read_state(self.states[client], client).open_session()
        names = ("agreement_seed", "masking_seed", "self_seed")
        found = [getattr(session, name) for name in names if hasattr(session, name)]
        found += [peer.key for peer in getattr(session, "neighbours", ())]
        pairs = [*getattr(session, "own", ()), *getattr(session, "shares", ())]
        return found + [half for pair in pairs for half in (pair.content[:33], pair.content[33:])]

    def neighbours(self, client):
        """The ids of a client's neighbours, from the shares that it holds."""
        rows = read_state(self.states[client], client).open_session().shares
        return [row.client for row in rows if row.client != client]

    def refuses(self, client, message, why, phase=""):
        """Check that a client stops for a reason, says no more than that, and erases."""
        secrets = self.secrets(client)
        reply = self.ask(client, message, phase)
        assert why in reply.reason
        assert reply.vector is None
        assert wire.decode(reply.message, wire.Aborted).reason == reply.reason
        assert read_state(self.states[client], client).session == b""
        for secret in secrets:
            assert secret not in self.states[client]
            assert secret not in reply.message


@pytest.fixture(scope="session")
def party():
    """Make a cohort."""
    return Party


@pytest.fixture(params=["standard", "fips"])
def profile(request):
    return request.param
