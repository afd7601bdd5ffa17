"""What callers may do wrong, and what a client's state holds between sessions."""

import numpy as np
import pytest
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st

from fedsim.secagg import wire
from fedsim.secagg._state import read_state


@pytest.mark.parametrize(
    "vector",
    [np.zeros(3), np.zeros(3, np.int32), np.zeros((1, 3), np.uint32), np.uint32(3)],
    ids=["float64", "int32", "table", "number"],
)
def test_a_vector_of_another_type_is_the_callers_mistake(party, vector):
    found = party(3)
    server = found.play(found.begin(), until="masked")
    before = found.states[1]
    with pytest.raises(ValueError, match="a flat uint32 array"):
        found.clients[1].step(before, server.messages[1], vector, now=0.0)


@pytest.mark.parametrize(
    ("vector", "why"),
    [(None, "no vector"), (np.zeros(4, np.uint32), "a vector of 4")],
    ids=["none", "longer"],
)
def test_a_length_that_is_not_the_clients_ends_the_session(party, vector, why):
    found = party(3)
    server = found.play(found.begin(), until="masked")
    found.vectors[1] = vector
    found.refuses(1, server.messages[1], f"length = 3: {why} is to be masked", "masked")


def test_a_vector_outside_its_phase_is_not_used(party):
    found = party(3)
    server = found.begin()
    _, reply = found.clients[1].step(b"", server.messages[1], found.vectors[1], now=0.0)
    assert reply.vector is None
    assert wire.decode(reply.message, wire.Keys).advert.client == 1


def test_a_state_of_another_client_is_refused(party):
    found = party(3)
    server = found.play(found.begin(), until="shares")
    with pytest.raises(ValueError, match="state is of client 2: this is client 1"):
        found.clients[1].step(found.states[2], server.messages[1], now=0.0)


@given(place=st.integers(0, 10_000), change=st.integers(1, 255))
@settings(suppress_health_check=[HealthCheck.function_scoped_fixture], deadline=None)
def test_a_broken_state_is_refused_or_read(kept, place, change):
    client, state, message = kept
    broken = bytearray(state)
    broken[place % len(broken)] ^= change
    refusal = "state is as good as any"
    try:
        client.step(bytes(broken), message, now=0.0)
    except ValueError as error:
        refusal = str(error)
    assert refusal.startswith("state is ")


@pytest.fixture(scope="module")
def kept(party):
    found = party(3)
    server = found.play(found.begin(), until="shares")
    return found.clients[1], found.states[1], server.messages[1]


def test_a_state_between_sessions_is_small_and_counts_them(party):
    found = party(3)
    for number in range(1, 13):
        found.play(found.again(round=number))
    state = read_state(found.states[1], 1)
    assert state.session == b""
    assert state.sessions == 12
    assert [release.round for release in state.releases_read()] == [5, 6, 7, 8, 9, 10, 11, 12]
    assert len(found.states[1]) < 1000


def test_a_session_that_was_left_makes_room_for_the_next(party):
    found = party(3)
    found.play(found.begin(), until="unmask")
    old = {secret for client in found.members for secret in found.secrets(client)}
    server = found.play(found.again(), until="shares")
    for client in found.members:
        assert not [secret for secret in old if secret in found.states[client]]
    assert found.play(server).survivors == (0, 1, 2)


def test_an_answer_from_one_state_twice_uses_no_nonce_twice(party):
    """A worker may die after its answer left: the message is then answered again."""
    found = party(4)
    server = found.play(found.begin(), until="shares")
    state, message = found.states[1], server.messages[1]
    answers = [found.clients[1].step(state, message, now=0.0)[1].message for _ in range(2)]
    rows = [row for m in answers for row in wire.decode(m, wire.Shares).shares]
    assert len({row.content[:12] for row in rows}) == len(rows) == 6
