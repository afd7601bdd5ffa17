"""A secure sum equals the plain one, to the bit, or nothing comes out."""

import math
from itertools import combinations
from types import SimpleNamespace

import numpy as np
import pytest

from fedsim.errors import SecAggAborted
from fedsim.secagg.parameters import BITS, PHASES, Policy, least_survivors, required, shape
from fedsim.secagg.server import ServerSession


def subsets(members):
    return [set(c) for size in range(len(members) + 1) for c in combinations(members, size)]


def opens(sizes, threshold, min_cohort):
    """Bonawitz et al. 2017, figure 4, said once more: do |U1| ... |U5| open a sum?"""
    needed = math.floor(threshold * sizes[0]) + 1
    least = max(needed, min_cohort)
    bars = (min_cohort, least, least, needed, needed)
    return all(size >= bar for size, bar in zip(sizes, bars, strict=False))


def explore(party, server, states, sets, seen):
    """Follow every way in which clients can be lost from here.

    A step is a function of state and message, so sessions with the same past share it: the tree
    of pasts has all 6^n assignments of "lost in phase p, or never" to n clients as its leaves.
    """
    if server.phase == "done":
        assert server.survivors == tuple(sorted(sets[2]))
        assert server.total.tolist() == party.expected(server.survivors)
        seen.opened += 1
        seen.leaves += 1
        return
    answers = {}
    for client, message in server.messages.items():
        party.states[client] = states[client]
        reply = party.ask(client, message, server.phase)
        answers[client] = (reply, party.states[client])
    for alive in subsets(sorted(answers)):
        following = [*sets, alive]
        sizes = [len(found) for found in following]
        replies = [(i, answers[i][0].message, answers[i][0].vector) for i in sorted(alive)]
        threshold, least = party.parameters.threshold, party.parameters.min_cohort
        if opens(sizes, threshold, least):
            states_then = {i: answers[i][1] for i in alive}
            explore(party, server.step(replies), states_then, following, seen)
        else:
            with pytest.raises(SecAggAborted) as stopped:
                server.step(replies)
            assert stopped.value.survivors == len(alive) < stopped.value.threshold
            seen.leaves += (len(PHASES) - len(sets)) ** len(alive)


@pytest.mark.parametrize("threshold", [0.51, 2 / 3])
def test_every_loss_of_five_clients_is_exact_or_aborts(party, profile, threshold):
    policy = Policy(min_threshold=threshold)
    found = party(5, policy=policy, bits=20, threshold=threshold, profile=profile)
    seen = SimpleNamespace(leaves=0, opened=0)
    explore(found, found.begin(), found.states.copy(), [], seen)
    by_sizes = [
        opens([sum(p >= phase for p in lost_in) for phase in range(1, 6)], threshold, 3)
        for lost_in in np.ndindex(*[6] * 5)
    ]
    assert seen.leaves == len(by_sizes) == 6**5
    assert seen.opened == sum(by_sizes) > 100


def sample(party, server, states, rng, branches):
    """Follow a few random ways to lose clients, `branches[p]` in phase p; count the sums opened."""
    if server.phase == "done":
        assert server.total.tolist() == party.expected(server.survivors)
        return 1
    answers = {}
    for client, message in server.messages.items():
        party.states[client] = states[client]
        reply = party.ask(client, message, server.phase)
        assert not reply.reason
        answers[client] = (reply, party.states[client])
    opened = 0
    for _ in range(branches[PHASES.index(server.phase)]):
        alive = [i for i in sorted(answers) if rng.random() > 0.05]
        replies = [(i, answers[i][0].message, answers[i][0].vector) for i in alive]
        try:
            following = server.step(replies)
        except SecAggAborted:
            assert len(alive) < required(party.parameters, len(party.members), server.phase)
            continue
        assert set(following.lost) == set(server.lost) | (set(answers) - set(alive))
        left = {i: answers[i][1] for i in alive}
        opened += sample(party, following, left, rng, branches)
    return opened


@pytest.mark.parametrize("bits", BITS)
def test_random_losses_in_every_phase_are_exact(party, bits):
    found = party(12, bits=bits, length=7)
    rng = np.random.default_rng(bits)
    assert sample(found, found.begin(), found.states.copy(), rng, (2, 2, 2, 1, 2)) > 0


def test_random_losses_of_thirty_clients_are_exact(party, profile):
    found = party(30, bits=24, length=50, profile=profile)
    rng = np.random.default_rng(30)
    assert sample(found, found.begin(), found.states.copy(), rng, (1, 2, 2, 1, 2)) > 0


@pytest.mark.slow
@pytest.mark.parametrize("draw", range(4))
@pytest.mark.parametrize("n", [30, 100])
def test_fifty_random_losses_of_each_of_four_rosters_are_exact(party, profile, n, draw):
    found = party(n, bits=24, length=50, profile=profile)
    rng = np.random.default_rng([n, draw])
    assert sample(found, found.begin(), found.states.copy(), rng, (1, 2, 5, 1, 5)) >= 10


@pytest.mark.parametrize("n", [64, 100])
def test_a_sparse_graph_is_exact(party, n):
    found = party(n, graph="sparse", length=5, bits=16, adversaries=0.1, dropouts=0.1)
    size = shape(found.parameters, n)
    assert size.degree < n - 1
    assert size.own == 0
    lost = {3: "keys", 8: "shares", 17: "masked", 20: "masked", 33: "confirm", 51: "unmask"}
    server = found.play(found.begin(), lost)
    assert server.survivors == tuple(i for i in range(n) if i not in (3, 8, 17, 20))
    assert server.total.tolist() == found.expected(server.survivors)
    assert server.lost == {i: f"{phase}: no answer" for i, phase in lost.items()}


@pytest.mark.slow
@pytest.mark.parametrize("draw", range(4))
def test_random_losses_in_a_sparse_graph_are_exact(party, draw):
    found = party(100, graph="sparse", length=20, dropouts=0.2, adversaries=0.1)
    assert shape(found.parameters, 100).degree < 60
    rng = np.random.default_rng(draw)
    assert sample(found, found.begin(), found.states.copy(), rng, (1, 2, 4, 1, 3)) > 0


def test_ids_may_be_any_64_bit_integers_in_any_order(party, profile):
    members = (2**64 - 1, 5, 0, 2**63, 77)
    found = party(members, profile=profile)
    server = found.play(found.begin())
    assert server.survivors == tuple(sorted(members))
    assert server.total.tolist() == found.expected(members)


@pytest.mark.parametrize("phase", PHASES)
def test_below_the_threshold_nothing_is_released(party, phase):
    found = party(6)  # 5 are needed
    server = found.play(found.begin(), until=phase)
    replies = list(found.replies(server, lost=(0, 1)))
    if phase == "keys":  # four make a smaller session, two are no cohort
        replies = replies[:2]
    with pytest.raises(SecAggAborted) as stopped:
        server.step(replies)
    assert stopped.value.reason == phase
    assert stopped.value.survivors == len(replies)
    assert stopped.value.threshold == (3 if phase == "keys" else 5)
    assert stopped.value.exit_code == 1
    with pytest.raises(ValueError, match=f"total: the session is in phase {phase}"):
        _ = server.total


def test_a_step_changes_nothing_in_place(party):
    found = party(4)
    server = found.play(found.begin(), until="masked")
    replies = list(found.replies(server))
    with pytest.raises(SecAggAborted):
        server.step(replies[:1])
    total = found.play(server.step(iter(replies))).total
    assert total.tolist() == found.expected(range(4))
    with pytest.raises(ValueError, match="read-only"):
        total += 1


def test_a_vector_is_left_as_it_is(party):
    found = party(3)
    before = {i: vector.copy() for i, vector in found.vectors.items()}
    found.play(found.begin())
    for i, vector in found.vectors.items():
        assert vector.tolist() == before[i].tolist()


def test_a_session_that_is_done_takes_no_step(party):
    found = party(3)
    server = found.play(found.begin())
    assert server.messages == {}
    with pytest.raises(ValueError, match="done"):
        server.step([])


def test_one_client_after_the_other_session_after_session(party):
    found = party(5, length=2)
    for number in range(1, 5):
        server = found.play(found.again(round=number), {number: "masked"})
        assert server.survivors == tuple(i for i in range(5) if i != number)
        assert server.total.tolist() == found.expected(server.survivors)


def test_what_a_phase_requires_is_what_the_server_asks_for(party):
    full = party(3, min_cohort=5).parameters
    assert [required(full, 100, phase) for phase in PHASES] == [5, 67, 67, 67, 67]
    assert [required(full, 6, phase) for phase in PHASES] == [5, 5, 5, 5, 5]
    assert [required(full, 5, phase) for phase in PHASES] == [5, 5, 5, 4, 4]
    sparse = party(3, graph="sparse").parameters
    assert [required(sparse, 100, phase) for phase in PHASES] == [3, 51, 51, 51, 51]
    assert least_survivors(sparse, 30) == 21  # so few that the graph is full


@pytest.mark.parametrize("members", [(0, 0, 1), (0, 1, -1), (0, 1, 2**64), (0, 1, True)], ids=str)
def test_members_are_different_ids(party, members):
    found = party(3)
    with pytest.raises(ValueError, match=r"members|client = "):
        ServerSession.begin(found.parameters, members, found.directory)


def test_a_cohort_smaller_than_the_least_is_not_even_invited(party):
    with pytest.raises(SecAggAborted) as stopped:
        party(3, min_cohort=4).begin()
    assert (stopped.value.survivors, stopped.value.threshold) == (3, 4)
