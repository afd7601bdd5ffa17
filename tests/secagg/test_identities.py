import pytest

from fedsim import crypto
from fedsim.secagg.identities import directory, simulated


def test_simulated_identities_are_pairs_that_sign_and_verify(profile):
    seed, public = simulated(bytes(32), profile)
    suite = crypto.suite(profile)
    for client in (0, 7, 2**64 - 1):
        suite.verify(public(client), suite.sign(seed(client), b"m"), b"m")
    assert len({seed(client) for client in range(50)}) == 50


def test_simulated_identities_follow_from_secret_profile_and_client():
    seed, public = simulated(bytes(32), "standard")
    again, _ = simulated(bytes(32), "standard")
    others = [simulated(bytes([1]) * 32, "standard")[0], simulated(bytes(32), "fips")[0]]
    assert seed(3) == again(3)
    assert seed(3) not in [other(3) for other in others]
    assert public(3) == public(3) != public(4)


def test_a_secret_of_another_size_is_refused():
    with pytest.raises(ValueError, match="secret has 5 bytes: 32"):
        simulated(b"short", "standard")


def test_a_directory_knows_its_clients_only(profile):
    size = crypto.suite(profile).signing_public_bytes
    keys = {1: bytes(size), 2**64 - 1: b"k" * size}
    known = directory(keys, profile)
    keys[5] = bytes(size)  # later: not in it
    assert (known(1), known(2**64 - 1), known(5)) == (bytes(size), b"k" * size, None)


@pytest.mark.parametrize("client", [-1, 2**64, "1", True, 1.0], ids=repr)
def test_a_directory_refuses_what_is_no_id(client):
    with pytest.raises(ValueError, match="client = "):
        directory({client: bytes(32)}, "standard")


def test_a_directory_refuses_keys_of_another_profile():
    with pytest.raises(ValueError, match="client 4 has 32 bytes: 65 in the fips"):
        directory({4: bytes(32)}, "fips")
