"""What a server sees of a session: nothing about a vector but the sum it is in."""

import numpy as np
import pytest
from scipy import stats

from fedsim.secagg import session as common
from fedsim.secagg import shamir, wire
from fedsim.secagg.parameters import BITS

VICTIM = 2


@pytest.mark.parametrize("bits", BITS)
def test_a_masked_vector_of_zeros_is_uniform(party, profile, bits):
    """Bytes by chi-square; and the next bit of a place is no better guessed than by a coin."""
    found = party(4, length=50_000, bits=bits, profile=profile)
    found.vectors = {i: np.zeros(50_000, np.uint32) for i in found.members}
    server = found.play(found.begin(), until="masked")
    for client, _, vector in found.replies(server):
        assert stats.chisquare(np.bincount(vector, minlength=256)).pvalue > 1e-6, client
        low = vector & 1
        changes = int(np.count_nonzero(low[1:] ^ low[:-1]))
        assert stats.binomtest(changes, len(low) - 1).pvalue > 1e-6, client


def test_two_masked_vectors_of_one_client_have_nothing_in_common(party):
    found = party(3, length=1000)
    seen = []
    for number in (1, 2):
        server = found.play(found.again(round=number), until="masked")
        seen.append({client: vector for client, _, vector in found.replies(server)})
    for client in found.members:
        # Equal bytes by chance: 4000 trials of 1/256, so 16 on average.
        assert np.count_nonzero(seen[0][client] == seen[1][client]) < 50


def test_messages_do_not_depend_on_the_vectors(party):
    """All that travels beside the masked vectors has the same size and kind whatever they hold."""
    sizes = []
    for scale in (0, 1):
        found = party(5, length=10)
        found.vectors = {i: scale * vector for i, vector in found.vectors.items()}
        server = found.begin()
        seen = []
        while server.phase != "done":
            replies = list(found.replies(server))
            seen.append([(i, len(message)) for i, message, _ in replies])
            server = server.step(replies)
        sizes.append(seen)
    assert sizes[0] == sizes[1]


def test_shares_of_the_threshold_less_one_fit_every_seed(party):
    """With a share made up, they give any seed that one likes; with the true one, the true seed."""
    found = party(6)  # five shares are needed
    server = found.play(found.begin(), until="unmask")
    replies = list(found.replies(server))
    answers = {i: wire.decode(message, wire.Unmasked) for i, message, _ in replies}
    *four, fifth = [dict(answers[i].self_shares)[VICTIM] for i in range(5)]
    weights = shamir.weights([1, 2, 3, 4, 5])
    seed = shamir.combine(weights, [*four, fifth])
    advert = found.adverts[VICTIM]
    assert common.commitment(found.parameters.encode(), VICTIM, seed) == advert.commitment
    wanted = int.from_bytes(b"a seed of thirty-two bytes to be", "big")
    known = sum(w * int.from_bytes(s, "big") for w, s in zip(weights[:4], four, strict=True))
    made_up = (wanted - known) * pow(weights[4], -1, shamir.PRIME) % shamir.PRIME
    other = shamir.combine(weights, [*four, made_up.to_bytes(33, "big")])
    assert int.from_bytes(other, "big") == wanted


def test_secrets_are_gone_after_each_phase_that_was_their_last(party, profile):
    found = party(4, profile=profile)
    server = found.begin()
    known = {i: set() for i in found.members}  # every secret that a client ever had
    while server.phase != "done":
        phase = server.phase
        server = server.step(found.replies(server))
        for client in found.members:
            known[client] |= set(found.secrets(client)) if server.phase != "done" else set()
            left = {secret for secret in known[client] if secret in found.states[client]}
            assert left == (set(found.secrets(client)) if server.phase != "done" else set())
            seeds = {"keys": 3, "shares": 2}.get(phase, 0)
            assert sum(len(secret) == 32 for secret in left) == seeds + 3 * (phase == "shares")
    assert all(len(secrets) > 10 for secrets in known.values())
