"""Bytes that nobody should send: a server loses the client and says why, a client stops."""

from dataclasses import replace

import msgpack
import numpy as np
import pytest
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st

from fedsim import crypto
from fedsim.errors import SecAggAborted
from fedsim.secagg import session as common
from fedsim.secagg import wire
from fedsim.secagg._state import read_state
from fedsim.secagg.parameters import PHASES, Policy, shape

POLICY = Policy(min_threshold=0.51)
ANSWERS = {
    "keys": wire.Keys,
    "shares": wire.Shares,
    "masked": wire.Masked,
    "confirm": wire.Confirmed,
    "unmask": wire.Unmasked,
}

fuzz = settings(
    deadline=None,
    max_examples=120,
    suppress_health_check=[HealthCheck.function_scoped_fixture, HealthCheck.too_slow],
)
leaves = (
    st.none()
    | st.booleans()
    | st.integers(-(2**63), 2**64 - 1)
    | st.floats()
    | st.binary(max_size=40)
    | st.text(max_size=10)
)
trees = st.recursive(
    leaves,
    lambda inner: st.lists(inner, max_size=4) | st.dictionaries(st.text(max_size=5), inner),
    max_leaves=12,
)


@st.composite
def changes(draw):
    """Return a function that spoils a message: its bytes, or the content of one of its fields."""
    kind = draw(st.sampled_from(["bytes", "cut", "noise", "field", "drop", "add", "nested"]))
    place, value, raw = draw(st.integers(0, 2**20)), draw(trees), draw(st.binary(max_size=60))

    def change(message):
        if kind == "bytes":
            spoiled = bytearray(message)
            spoiled[place % len(spoiled)] ^= 1 + place % 255
            return bytes(spoiled)
        if kind in ("cut", "noise"):
            return message[: place % len(message)] if kind == "cut" else raw
        content = msgpack.unpackb(message)
        names = sorted(content)
        name = names[place % len(names)]
        if kind == "drop":
            del content[name]
        elif kind == "nested" and isinstance(content[name], list) and content[name]:
            rows = content[name]
            rows[place % len(rows)] = value
        else:
            content[name if kind == "field" else "more"] = value
        return msgpack.packb(content)

    return change


@pytest.fixture(scope="module")
def recorded(party):
    """Five clients' honest session: the server, the states and the replies of each phase."""
    found = party(5)
    server, kept = found.begin(), {}
    while server.phase != "done":
        before = dict(found.states)
        replies = list(found.replies(server))
        kept[server.phase] = (found, server, before, replies)
        server = server.step(replies)
    return kept.get


@pytest.mark.parametrize("phase", PHASES)
@given(change=changes())
@fuzz
def test_a_server_loses_who_replies_nonsense(recorded, phase, change):
    found, server, _, replies = recorded(phase)
    client, message, vector = replies[3]
    spoiled = change(message)
    following = server.step([*replies[:3], (client, spoiled, vector), replies[4]])
    if client in following.lost:
        assert following.lost[client].startswith(f"{phase}: ")
        assert client not in following.messages
    elif phase == "shares":  # what is encrypted is not the server's to check
        rows, honest = (wire.decode(m, wire.Shares).shares for m in (spoiled, message))
        assert [row.client for row in rows] == [row.client for row in honest]
    else:
        assert wire.decode(spoiled, ANSWERS[phase]) == wire.decode(message, ANSWERS[phase])
    if phase == "unmask":
        assert following.total.tolist() == found.expected(range(5))


@pytest.mark.parametrize("phase", PHASES)
@given(change=changes())
@fuzz
def test_a_client_stops_at_nonsense(recorded, phase, change):
    found, server, states, _ = recorded(phase)
    honest, spoiled = server.messages[1], change(server.messages[1])
    found.states[1] = states[1]
    before = found.secrets(1) if phase != "keys" else []
    reply = found.ask(1, spoiled, phase)
    if reply.reason:
        assert wire.decode(reply.message, wire.Aborted).reason == reply.reason
        assert read_state(found.states[1], 1).session == b""
        assert not [secret for secret in before if secret in found.states[1] + reply.message]
    else:
        # Parameters of another run or round are the server's to choose, and so are, within the
        # policy, the clients that it calls survivors; all else is as the honest server sent it.
        assert phase in ("keys", "confirm") or msgpack.unpackb(spoiled) == msgpack.unpackb(honest)


@pytest.mark.parametrize("phase", PHASES)
@given(noise=st.binary(max_size=200))
@fuzz
def test_neither_crashes_at_noise(recorded, phase, noise):
    found, server, states, replies = recorded(phase)
    following = server.step([*replies[:4], (replies[4][0], noise, replies[4][2])])
    assert following.lost[replies[4][0]].startswith(f"{phase}: ")
    found.states[1] = states[1]
    assert found.ask(1, noise, phase).reason


@pytest.mark.parametrize(
    "vector",
    [
        None,
        np.zeros(11, np.uint8),
        np.zeros(13, np.uint8),
        np.zeros((3, 4), np.uint8),
        np.zeros(3, np.uint32),
        np.zeros(12, np.int8),
        [0] * 12,
    ],
    ids=["none", "short", "long", "table", "uint32", "int8", "list"],
)
def test_a_masked_vector_of_another_form_is_lost(recorded, vector):
    _, server, _, replies = recorded("masked")
    following = server.step([(0, replies[0][1], vector), *replies[1:]])
    assert following.lost[0].startswith("masked: masked vector: ")
    assert following.survivors == (1, 2, 3, 4)


def test_a_client_that_stops_is_lost_with_its_reason(party):
    found = party(5)
    server = found.play(found.begin(), until="shares")
    bad = wire.encode(wire.aborted("policy\n" + "\x1b[2J" + "x" * 1000))
    replies = [(i, bad if i == 3 else m, v) for i, m, v in found.replies(server)]
    lost = server.step(replies).lost
    assert lost[3] == ("shares: stopped: policy??[2J" + "x" * 1000)[: len(lost[3])]
    assert len(lost[3]) < 450


def test_strangers_and_second_replies_count_for_nothing(party):
    found = party(4)
    server = found.play(found.begin(), until="masked")
    replies = list(found.replies(server))
    others = [(i, m, v + np.uint8(1)) for i, m, v in replies]
    stranger = (9, replies[0][1], replies[0][2])
    after = server.step([stranger, *replies, *others, (1, b"", None)])
    assert after.lost == {}
    assert found.play(after).total.tolist() == found.expected(range(4))


def test_an_advert_under_another_name_is_lost(party):
    found = party(4)
    server = found.begin()
    replies = list(found.replies(server))
    replies[0] = (0, replies[1][1], None)
    assert server.step(replies).lost == {0: "keys: advert: says it is of client 1"}


def test_a_client_that_the_directory_does_not_know_is_lost(party):
    found = party(4)
    directory = {i: found.directory(i) for i in range(3)}
    server = type(found.begin()).begin(found.parameters, range(4), directory.get)
    assert server.step(found.replies(server)).lost == {3: "keys: not in the directory"}


def wrong(reply, owner):
    """The reply to `unmask` with another share of one client."""
    client, message, vector = reply
    answer = wire.decode(message, wire.Unmasked)
    false = bytes(1) + crypto.random_key()
    rows = tuple(
        row._replace(content=false) if row.client == owner else row for row in answer.self_shares
    )
    return client, wire.encode(wire.Unmasked(rows, answer.pair_shares)), vector


def test_wrong_shares_are_found_and_done_without(party):
    found = party(12, policy=POLICY, threshold=0.51)
    server = found.play(found.begin(), {11: "masked"}, until="unmask")
    replies = list(found.replies(server))
    for liar in (0, 5):  # of 11 shares 7 are needed: two wrong ones can be told
        for owner in (1, 2, 3):
            replies[liar] = wrong(replies[liar], owner)
    after = server.step(replies)
    assert after.total.tolist() == found.expected(range(11))
    assert after.lost == {
        11: "masked: no answer",
        0: "unmask: its share of client 1 is wrong",
        5: "unmask: its share of client 1 is wrong",
    }


def test_one_wrong_share_beyond_the_threshold_is_left_out(party):
    found = party(6)  # five are needed: too few to decode, but there is a commitment to compare
    server = found.play(found.begin(), until="unmask")
    replies = list(found.replies(server))
    replies[0] = wrong(replies[0], 3)
    after = server.step(replies)
    assert after.lost == {0: "unmask: its share of client 3 is wrong"}
    assert after.total.tolist() == found.expected(range(6))


def test_more_wrong_shares_than_can_be_told_give_the_sum_up(party):
    found = party(6)
    server = found.play(found.begin(), until="unmask")
    replies = list(found.replies(server))
    replies[:2] = [wrong(reply, 3) for reply in replies[:2]]
    with pytest.raises(SecAggAborted, match="wrong shares of client 3"):
        server.step(replies)


def test_shares_out_of_the_field_are_wrong_ones(party):
    found = party(12, policy=POLICY, threshold=0.51)
    server = found.play(found.begin(), until="unmask")
    replies = list(found.replies(server))
    answer = wire.decode(replies[0][1], wire.Unmasked)
    rows = tuple(row._replace(content=b"\xff" * 33) for row in answer.self_shares)
    replies[0] = (0, wire.encode(wire.Unmasked(rows, answer.pair_shares)), None)
    after = server.step(replies)
    assert after.lost == {0: "unmask: its share of client 0 is wrong"}
    assert after.total.tolist() == found.expected(range(12))


@pytest.mark.parametrize("field", ["agreement", "masking"])
@pytest.mark.parametrize("content", [bytes(31), bytes(32), bytes(65)], ids=len)
def test_keys_that_are_none_are_lost_though_they_are_signed(party, profile, field, content):
    """A point of low order, or off the curve, would make every neighbour stop."""
    found = party(4, profile=profile)
    server = found.begin()
    replies = list(found.replies(server))
    advert = wire.decode(replies[2][1], wire.Keys).advert._replace(**{field: content})
    statement = common.advert_statement(found.parameters.encode(), advert)
    signature = crypto.suite(profile).sign(found.seed(2), statement)
    replies[2] = (2, wire.encode(wire.Keys(advert._replace(signature=signature))), None)
    assert "public key" in server.step(replies).lost[2]


@pytest.mark.parametrize("phase", ["shares", "unmask"])
def test_shares_for_less_than_all_neighbours_are_lost(recorded, phase):
    _, server, _, replies = recorded(phase)
    name = {"shares": "shares", "unmask": "self_shares"}[phase]
    answer = wire.decode(replies[0][1], ANSWERS[phase])
    less = replace(answer, **{name: getattr(answer, name)[1:]})
    after = server.step([(0, wire.encode(less), None), *replies[1:]])
    assert after.lost == {0: f"{phase}: {name}: not those of the clients asked about"}


def test_too_few_shares_in_one_neighbourhood_give_the_sum_up(party):
    found = party(64, graph="sparse")
    server = found.play(found.begin(), until="unmask")
    around = found.neighbours(2)
    least = shape(found.parameters, 64).threshold
    silent = around[: len(around) - least + 1]
    with pytest.raises(SecAggAborted, match="unmask: shares of client") as stopped:
        server.step(found.replies(server, lost=silent))
    assert stopped.value.survivors == least - 1 < stopped.value.threshold == least
