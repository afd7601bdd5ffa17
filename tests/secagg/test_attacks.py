"""A server that may do anything, against clients: each attack ends before a share leaves.

The attacks are those of Bonawitz et al. 2017 (section 6.2), of Bell et al. 2020, and what opens
Flower 1.41's SecAgg+ (its issue 7522, and `_unmask`, which gives both shares of one client).
"""

from dataclasses import replace

import msgpack
import pytest

from fedsim import crypto
from fedsim.errors import SecAggAborted
from fedsim.secagg import session as common
from fedsim.secagg import wire
from fedsim.secagg._state import read_state
from fedsim.secagg.client import ClientSession
from fedsim.secagg.identities import simulated
from fedsim.secagg.parameters import Policy

VICTIM = 2


def at(party, phase, **options):
    """A cohort of six (five needed) whose server asks for a phase."""
    found = party(6, **options)
    return found, found.play(found.begin(), until=phase)


def asked(server, kind, client=VICTIM):
    return wire.decode(server.messages[client], kind)


def shares_of(replies, owner):
    """What shares of one client's two secrets the server got: (of its own mask, of its pairs)."""
    answers = [wire.decode(message, wire.Unmasked, wire.Aborted) for _, message, _ in replies]
    given = [answer for answer in answers if isinstance(answer, wire.Unmasked)]
    return tuple(
        sum(row.client == owner for answer in given for row in getattr(answer, name))
        for name in ("self_shares", "pair_shares")
    )


# 1. Both shares of one client (Flower: active = dead = all).


def test_a_request_in_the_form_that_opens_flower_is_none_of_ours(party, profile):
    found, _ = at(party, "unmask", profile=profile)
    everybody = list(found.members)
    flower = {"kind": "AskUnmask", "active": everybody, "dead": everybody, "signatures": []}
    found.refuses(VICTIM, msgpack.packb(flower), "fields are missing or unknown")


def test_no_client_hands_out_both_shares_of_anyone(party):
    found, server = at(party, "masked")
    server = server.step(found.replies(server, lost=[0]))
    server = server.step(found.replies(server))
    for _, message, _ in found.replies(server):
        answer = wire.decode(message, wire.Unmasked)
        own = {row.client for row in answer.self_shares}
        pair = {row.client for row in answer.pair_shares}
        assert (own, pair) == ({1, 2, 3, 4, 5}, {0})


def test_flowers_exploit_opens_no_vector_here(party):
    """Open a sum with everybody in it; then ask for the shares of the victim as if it were lost."""
    found, _ = at(party, "confirm")
    given = []
    for survivors in (found.members, (0, 1, 3, 4, 5)):
        signed = {}
        for i in survivors:
            message = found.ask(i, wire.encode(wire.AskConfirm(survivors))).message
            answer = wire.decode(message, wire.Confirmed, wire.Aborted)
            if isinstance(answer, wire.Confirmed):
                signed[i] = answer.signature
        for i in survivors:
            rows = tuple(wire.Row(j, signed[j]) for j in sorted(signed) if j != i)
            given.append((i, found.ask(i, wire.encode(wire.AskUnmask(rows))).message, None))
    assert shares_of(given, VICTIM) == (6, 0)


# 2. Two unmasks.


def test_unmasking_twice(party, profile):
    found, server = at(party, "unmask", profile=profile)
    assert not found.ask(VICTIM, server.messages[VICTIM]).reason
    found.refuses(VICTIM, server.messages[VICTIM], "no such session is open")


def test_a_second_sum_of_the_round_without_one_client(party, profile):
    found = party(6, profile=profile)
    found.play(found.begin())
    server = found.play(found.again(), {0: "masked"}, until="confirm")
    for client in server.messages:
        found.refuses(client, server.messages[client], "1 clients differ from a sum of this round")


def test_a_second_sum_of_the_round_over_the_same_clients_or_quite_others_is_fine(party):
    found = party(9, threshold=0.51, policy=Policy(min_threshold=0.51))
    assert len(found.play(found.begin()).survivors) == 9
    assert len(found.play(found.again()).survivors) == 9
    lost = dict.fromkeys((0, 1, 2), "masked")
    assert len(found.play(found.again(), lost).survivors) == 6


def test_a_round_older_than_what_is_remembered(party):
    found = party(3)
    for number in range(2, 10):
        found.play(found.again(round=number))
    server = found.play(found.again(round=1), until="confirm")
    found.refuses(VICTIM, server.messages[VICTIM], "round = 1: older than the sums remembered")


def test_an_older_round_that_is_remembered_may_be_summed_again(party):
    """A run that is resumed from an earlier round asks for the same sums again."""
    found = party(3)
    for number in (*range(1, 10), 5):
        server = found.play(found.again(round=number))
        assert server.survivors == (0, 1, 2)


# 3. Id flip: a client that survived is called lost, or the other way round.


def test_a_survivor_called_lost_after_it_was_confirmed(party, profile):
    found, server = at(party, "confirm", profile=profile)
    without = wire.encode(wire.AskConfirm((1, 2, 3, 4, 5)))
    assert not found.ask(VICTIM, server.messages[VICTIM]).reason
    found.refuses(VICTIM, without, "AskConfirm is not what comes next")


def test_a_client_without_shares_called_a_survivor(party):
    found = party(6)
    found.play(found.begin(), {0: "shares"}, until="confirm")
    found.refuses(
        VICTIM,
        wire.encode(wire.AskConfirm((0, 1, 2, 3, 4, 5))),
        "a neighbour whose shares never came",
    )
    found.refuses(3, wire.encode(wire.AskConfirm((1, 2, 3, 4, 5, 9))), "not in the roster")
    found.refuses(4, wire.encode(wire.AskConfirm((1, 2, 3, 5))), "client 4 is not among them")


# 4. Substituted public keys.


@pytest.mark.parametrize("whose", [VICTIM, 4])
@pytest.mark.parametrize("field", ["agreement", "masking", "nonce", "commitment", "signature"])
def test_a_substituted_advert(party, profile, whose, field):
    found, server = at(party, "shares", profile=profile)
    adverts = list(asked(server, wire.AskShares).adverts)
    mine = crypto.suite(profile).agreement_public(bytes([7]) * 32)
    false = mine if field in ("agreement", "masking") else getattr(adverts[1], field)
    adverts[whose] = adverts[whose]._replace(**{field: false})
    why = "missing or was changed" if whose == VICTIM else "advert of client 4"
    found.refuses(VICTIM, wire.encode(wire.AskShares(tuple(adverts))), why)


def test_an_advert_of_another_session(party):
    found, server = at(party, "shares")
    old = asked(server, wire.AskShares).adverts[4]
    server = found.play(found.again(), until="shares")
    adverts = list(asked(server, wire.AskShares).adverts)
    adverts[4] = old
    found.refuses(VICTIM, wire.encode(wire.AskShares(tuple(adverts))), "advert of client 4")


# 5. Unknown identities.


def test_an_unknown_client_in_the_roster(party, profile):
    found, server = at(party, "shares", profile=profile)
    seed, directory = simulated(bytes([9]) * 32, profile)  # other identities than the cohort's
    sybil = ClientSession(9, seed(9), directory)
    _, reply = sybil.step(b"", wire.encode(wire.AskKeys(found.parameters.encode())), now=0.0)
    advert = wire.decode(reply.message, wire.Keys).advert
    roster = wire.encode(wire.AskShares((*asked(server, wire.AskShares).adverts, advert)))
    known = {i: found.directory(i) for i in found.members}
    found.clients[VICTIM] = replace(found.clients[VICTIM], directory=known.get)
    found.refuses(VICTIM, roster, "client 9 is not in the directory")
    found.refuses(4, roster, "advert of client 9")  # knows a client 9: this one is an impostor


def test_a_client_whose_own_identity_is_another_one(party):
    found = party(3)
    server = found.begin()
    found.clients[VICTIM] = replace(found.clients[VICTIM], identity=bytes(32))
    found.states[VICTIM], reply = found.clients[VICTIM].step(b"", server.messages[VICTIM], now=0.0)
    assert "not the one in its directory" in reply.reason


# 6. Inconsistent survivor sets.


def test_two_views_of_the_survivors(party, profile):
    found = party(9, profile=profile)  # seven of nine must agree
    found.play(found.begin(), until="confirm")
    views = [tuple(found.members), tuple(i for i in found.members if i != 8)]
    signed = {}
    for i in range(8):
        view = views[i % 2]
        reply = found.ask(i, wire.encode(wire.AskConfirm(view)))
        signed[i] = wire.decode(reply.message, wire.Confirmed).signature
    for i in range(8):
        others = tuple(wire.Row(j, s) for j, s in signed.items() if j != i)
        same = tuple(wire.Row(j, s) for j, s in signed.items() if j != i and j % 2 == i % 2)
        if i < 4:
            found.refuses(i, wire.encode(wire.AskUnmask(others)), "does not fit")
        else:
            found.refuses(i, wire.encode(wire.AskUnmask(same)), "of 4 in this neighbourhood")


def test_signatures_of_others_than_surviving_neighbours(party):
    found = party(6)
    server = found.play(found.begin(), {0: "masked"}, until="unmask")
    rows = asked(server, wire.AskUnmask).signatures
    swapped = (wire.Row(0, rows[0].content), *rows[1:])
    found.refuses(
        VICTIM, wire.encode(wire.AskUnmask(swapped)), "client 0 is no surviving neighbour"
    )
    own = wire.Row(3, rows[0].content)
    rows = (rows[0], own)
    found.refuses(3, wire.encode(wire.AskUnmask(rows)), "client 3 is no surviving neighbour")


def test_a_survivor_set_too_small(party):
    found, _ = at(party, "confirm")
    few = wire.encode(wire.AskConfirm((1, 2, 3, 4)))
    found.refuses(VICTIM, few, "survivors: 4 of 6, at least 5 are needed")


# 7. Replays.


@pytest.mark.parametrize("phase", ["shares", "masked", "confirm", "unmask"])
def test_a_message_of_an_earlier_session(party, profile, phase):
    found, old = at(party, phase, profile=profile)
    recorded = old.messages[VICTIM]
    # The very same parameters, so that nothing but the clients' own nonces tells sessions apart.
    server = found.play(found.again(nonce=found.parameters.nonce, round=2), until=phase)
    if phase == "confirm":  # a list of ids, which nothing ties to a session but its signatures
        signed = wire.decode(found.ask(VICTIM, recorded).message, wire.Confirmed).signature
        statement = common.survivors_statement(old._known.session, found.members)
        with pytest.raises(crypto.CryptoError):
            crypto.suite(profile).verify(found.directory(VICTIM), signed, statement)
        return
    why = {
        "shares": "missing or was changed",
        "masked": "shares of client 0",
        "unmask": "does not fit",
    }[phase]
    assert server.messages[VICTIM] != recorded
    found.refuses(VICTIM, recorded, why, phase)


@pytest.mark.parametrize("phase", ["shares", "masked", "confirm", "unmask"])
def test_a_message_that_was_answered_already(party, phase):
    found, server = at(party, phase)
    assert not found.ask(VICTIM, server.messages[VICTIM], phase).reason
    if phase == "unmask":
        found.refuses(VICTIM, server.messages[VICTIM], "no such session is open")
    else:
        found.refuses(VICTIM, server.messages[VICTIM], "is not what comes next", phase)


# 8. Lowered thresholds; 9. cohorts below the policy.


@pytest.mark.parametrize(
    ("weaker", "why"),
    [
        ({"threshold": 0.6}, "threshold = 0.6: at least 0.666"),
        ({"min_cohort": 2}, "min_cohort = 2: at least 3"),
        ({"graph": "sparse", "adversaries": 0.01}, "adversaries = 0.01: at least 0.05"),
        ({"graph": "sparse", "semi_malicious": False}, "semi_malicious = False: True here"),
    ],
    ids=["threshold", "min_cohort", "adversaries", "semi_malicious"],
)
def test_weaker_parameters(party, profile, weaker, why):
    found = party(6, profile=profile, **weaker)
    server = found.begin()
    for client in found.members:
        assert why in found.ask(client, server.messages[client]).reason
        assert read_state(found.states[client], client).session == b""
    with pytest.raises(SecAggAborted, match="keys"):
        server.step(found.replies(server))


def test_a_profile_that_is_not_accepted(party, profile):
    other = {"standard": "fips", "fips": "standard"}[profile]
    found = party(3, profile=profile, policy=Policy(profiles=(other,)))
    reply = found.ask(VICTIM, found.begin().messages[VICTIM])
    assert reply.reason == f"profile = '{profile}': {other} here"


def test_clients_of_one_session_under_different_parameters(party, profile):
    found = party(6, profile=profile)
    server = found.begin()
    weaker = replace(found.parameters, threshold=0.7).encode()
    other = wire.encode(wire.AskKeys(weaker))
    replies = list(found.replies(server, tamper=lambda i, m: other if i == 4 else m))
    adverts = tuple(wire.decode(message, wire.Keys).advert for _, message, _ in replies)
    found.refuses(VICTIM, wire.encode(wire.AskShares(adverts)), "advert of client 4")
    found.refuses(4, wire.encode(wire.AskShares(adverts)), "advert of client 0")


def test_a_roster_smaller_than_the_policy(party, profile):
    found, server = at(party, "shares", profile=profile)
    few = asked(server, wire.AskShares).adverts[1:3]
    found.refuses(VICTIM, wire.encode(wire.AskShares(few)), "2, at least min_cohort = 3")


def test_more_sessions_than_the_policy(party):
    found = party(3, policy=Policy(max_sessions=2))
    found.play(found.begin())
    found.play(found.again(round=2))
    reply = found.ask(VICTIM, found.again(round=3).messages[VICTIM])
    assert reply.reason == "max_sessions = 2 are used up"


def test_a_session_older_than_the_policy(party):
    found = party(3, policy=Policy(ttl_s=60.0))
    server = found.play(found.begin(), until="confirm")
    found.now = 61.0
    found.refuses(VICTIM, server.messages[VICTIM], "older than ttl_s = 60.0")


# 10. A neighbour list that is not the session's.


def test_shares_of_a_client_that_is_no_neighbour(party):
    found = party(64, graph="sparse")
    server = found.play(found.begin(), until="masked")
    rows = asked(server, wire.AskMasked).shares
    stranger = next(i for i in found.members if i != VICTIM and i not in dict(rows))
    more = sorted([*rows, wire.Row(stranger, rows[0].content)])
    message = wire.encode(wire.AskMasked(tuple(more)))
    found.refuses(VICTIM, message, f"client {stranger} is not a neighbour", "masked")


def test_rosters_that_differ_share_no_key(party, profile):
    """Another session id is another graph; a server that shows two of them gets nothing across."""
    found, server = at(party, "shares", profile=profile)
    adverts = asked(server, wire.AskShares).adverts
    sent = {}
    for client in range(5):
        view = adverts if client % 2 else adverts[:5]
        reply = found.ask(client, wire.encode(wire.AskShares(view)))
        sent[client] = dict(wire.decode(reply.message, wire.Shares).shares)
    rows = tuple(wire.Row(i, sent[i][VICTIM]) for i in (0, 1, 3, 4))
    message = wire.encode(wire.AskMasked(rows))
    found.refuses(VICTIM, message, "shares of client 1", "masked")


def test_too_few_neighbours(party):
    found, server = at(party, "masked")
    rows = asked(server, wire.AskMasked).shares[:3]
    message = wire.encode(wire.AskMasked(rows))
    found.refuses(VICTIM, message, "of 4 in this neighbourhood, at least 5", "masked")


# 11. Tampered ciphertexts.


@pytest.mark.parametrize("place", [0, 11, 12, 50, 77, 93])
def test_a_tampered_ciphertext(party, profile, place):
    found, server = at(party, "masked", profile=profile)
    rows = list(asked(server, wire.AskMasked).shares)
    broken = bytearray(rows[3].content)
    broken[place] ^= 1
    rows[3] = rows[3]._replace(content=bytes(broken))
    message = wire.encode(wire.AskMasked(tuple(rows)))
    found.refuses(VICTIM, message, f"shares of client {rows[3].client}", "masked")


def test_ciphertexts_of_other_senders_or_for_other_receivers(party):
    found, server = at(party, "masked")
    rows = list(asked(server, wire.AskMasked).shares)
    rows[0], rows[1] = (
        rows[0]._replace(content=rows[1].content),
        rows[1]._replace(content=rows[0].content),
    )
    found.refuses(VICTIM, wire.encode(wire.AskMasked(tuple(rows))), "shares of client 0", "masked")
    reflected = asked(server, wire.AskMasked, client=4)
    for_other = tuple(
        wire.Row(row.client, row.content) for row in reflected.shares if row.client != 3
    )
    found.refuses(3, wire.encode(wire.AskMasked(for_other)), "shares of client", "masked")


# Beyond the eleven: a model for one client alone, whose sum then tells its update (Pasquini 2022).


def test_a_client_that_is_given_a_model_of_its_own_stops(party, profile, monkeypatch):
    found, server = at(party, "masked", profile=profile, content=bytes([7]) * 32)
    others = found.content(0)
    monkeypatch.setattr(found, "content", lambda i: bytes([8]) * 32 if i == VICTIM else others)
    server = server.step(found.replies(server))
    assert "another model" in server.lost[VICTIM]
    assert VICTIM not in server.survivors
    assert not read_state(found.states[VICTIM], VICTIM).session


def test_an_abort_says_why_each_client_stopped(party):
    found, server = at(party, "keys", policy=Policy(min_cohort=50))
    with pytest.raises(SecAggAborted) as aborted:
        server.step(found.replies(server))
    assert set(aborted.value.lost) == set(found.members)
    assert all("at least 50 here" in reason for reason in aborted.value.lost.values())


def test_what_is_worked_on_is_part_of_the_session(party):
    """Told one hash and the others another, a client is in a session with nobody."""
    found, server = at(party, "keys")
    own = replace(found.parameters, content=bytes([9]) * 32)

    def tamper(client, message):
        return wire.encode(wire.AskKeys(own.encode())) if client == VICTIM else message

    server = server.step(found.replies(server, tamper=tamper))
    assert VICTIM in server.lost
    assert VICTIM not in server.messages
