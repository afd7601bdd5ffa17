"""Primitives against published vectors and other libraries; refusals of what must be refused."""

import hashlib
import hmac

import pytest
from Crypto.Cipher import AES
from Crypto.Hash import SHA256
from Crypto.PublicKey import ECC
from Crypto.Signature import DSS
from cryptography.hazmat.primitives.asymmetric import ec
from hypothesis import given
from hypothesis import strategies as st

from fedsim import crypto
from fedsim.crypto import CryptoError, suite

PROFILES = ("standard", "fips")
KEYS = st.binary(min_size=32, max_size=32)
ORDER = int("ffffffff00000000ffffffffffffffffbce6faada7179e84f3b9cac2fc632551", 16)
unhex = bytes.fromhex


@pytest.mark.parametrize(
    ("scalar", "point", "secret"),
    [  # RFC 7748, section 5.2
        (
            "a546e36bf0527c9d3b16154b82465edd62144c0ac1fc5a18506a2244ba449ac4",
            "e6db6867583030db3594c1a424b15f7c726624ec26b3353b10a903a6d0ab1c4c",
            "c3da55379de9c6908e94ea4df28d084f32eccf03491c71f754b4075577a28552",
        ),
        (
            "4b66e9d4d1b4673c5ad22691957d6af5c11b6421e0ea01d42ca4169e7918ba0d",
            "e5210f12786811d3f4b7959d0538ae2c31dbe7106fc03c3efc4cd549c715a493",
            "95cbde9476e8907d7aade45cb4b873f88b595a68799fa152e6f8f7647aac7957",
        ),
    ],
    ids=("first", "second"),
)
def test_x25519_is_the_one_of_the_rfc(scalar, point, secret):
    assert suite("standard").agree(unhex(scalar), unhex(point)).hex() == secret


def test_x25519_a_thousand_times():
    """RFC 7748, section 5.2: the iterated test."""
    scalar = point = unhex("09" + 31 * "00")
    for step in range(1000):
        scalar, point = suite("standard").agree(scalar, point), scalar
        if step == 0:
            assert scalar.hex()[:32] == "422c8e7a6227d7bca1350b3e2bb7279f"
    assert scalar.hex() == "684cf59ba83309552800ef566f2f4d3c1c3887c49360e3875f2eb94d99532c51"


@pytest.mark.parametrize(
    ("seed", "public", "message", "signature"),
    [  # RFC 8032, section 7.1
        (
            "9d61b19deffd5a60ba844af492ec2cc44449c5697b326919703bac031cae7f60",
            "d75a980182b10ab7d54bfed3c964073a0ee172f3daa62325af021a68f707511a",
            "",
            "e5564300c360ac729086e2cc806e828a84877f1eb8e5d974d873e065224901555fb8821590a33bacc61e"
            "39701cf9b46bd25bf5f0595bbe24655141438e7a100b",
        ),
        (
            "4ccd089b28ff96da9db6c346ec114e0f5b8a319f35aba624da8cf6ed4fb8a6fb",
            "3d4017c3e843895a92b70aa74d1b7ebc9c982ccf2ec4968cc0cd55f12af4660c",
            "72",
            "92a009a9f0d4cab8720e820b5f642540a2b27b5416503f8fb3762223ebdb69da085ac1e43e15996e458f"
            "3613d0f11d8c387b2eaeb4302aeeb00d291612bb0c00",
        ),
        (
            "c5aa8df43f9f837bedb7442f31dcb7b166d38535076f094b85ce3a2e0b4458f7",
            "fc51cd8e6218a1a38da47ed00230f0580816ed13ba3303ac5deb911548908025",
            "af82",
            "6291d657deec24024827e69c3abe01a30ce548a284743a445e3680d7db5ac3ac18ff9b538d16f290ae67"
            "f760984dc6594a7c15e9716ed28dc027beceea1ec40a",
        ),
    ],
    ids=("first", "second", "third"),
)
def test_ed25519_is_the_one_of_the_rfc(seed, public, message, signature):
    keys = suite("standard")
    assert keys.signing_public(unhex(seed)).hex() == public
    assert keys.sign(unhex(seed), unhex(message)).hex() == signature
    keys.verify(unhex(public), unhex(signature), unhex(message))


def test_p256_agreement_is_the_one_of_the_rfc():
    """RFC 5903, section 8.1; private keys are given there, so seeds are passed by."""
    numbers = (
        0xC88F01F510D9AC3F70A292DAA2316DE544E9AAB8AFE84049C62A9C57862D1433,
        0xC6EF9C5D78AE012A011164ACB397CE2088685D8F06BF9BE0B283AB46476BEE53,
    )
    first, second = (crypto._P256(ec.derive_private_key(d, ec.SECP256R1())) for d in numbers)
    assert first.public == unhex(
        "04DAD0B65394221CF9B051E1FECA5787D098DFE637FC90B9EF945D0C37725811805271A0461CDB8252D61F1C45"
        "6FA3E59AB1F45B33ACCF5F58389E0577B8990BB3"
    )
    secret = unhex("D6840F6B42F6EDAFD13116E0E12565202FEF8E9ECE7DCE03812464D04B9442DE")
    assert first.agree(second.public) == second.agree(first.public) == secret


def test_ecdsa_verifies_the_signature_of_the_rfc():
    """RFC 6979, appendix A.2.5: "sample" with SHA-256."""
    public = unhex(
        "0460FED4BA255A9D31C961EB74C6356D68C049B8923B61FA6CE669622E60F29FB6"
        "7903FE1008B8BC99A41AE9E95628BC64F2F1B20C2D7E9F5177A3C294D4462299"
    )
    signature = unhex(
        "EFD48B2AACB6A8FD1140DD9CD45E81D69D2C877B56AAF991C34D0EA84EAF3716"
        "F7CB1C942D657C41D436C7A1B6E29F65F3E900DBB9AFF4064DC4AB2F843ACDA8"
    )
    suite("fips").verify(public, signature, b"sample")
    with pytest.raises(CryptoError, match="does not fit"):
        suite("fips").verify(public, signature, b"samplf")


def hkdf(secret, info, length):
    """RFC 5869 from HMAC alone."""
    pseudorandom = hmac.digest(bytes(32), secret, "sha256")
    block = found = b""
    for index in range(1, -(-length // 32) + 1):
        block = hmac.digest(pseudorandom, block + info + bytes([index]), "sha256")
        found += block
    return found[:length]


@given(KEYS, st.binary(max_size=40))
def test_p256_keys_and_signatures_are_those_of_another_library(seed, message):
    """Also how a seed becomes a key: 48 bytes of HKDF, reduced (FIPS 186-5, A.2.1)."""
    wide = int.from_bytes(hkdf(seed, b"fedsim/p256/v1|signing", 48), "big")
    key = ECC.construct(curve="P-256", d=wide % (ORDER - 1) + 1)
    keys = suite("fips")
    assert keys.signing_public(seed) == key.public_key().export_key(format="raw")
    signer = DSS.new(key, "deterministic-rfc6979", encoding="binary")
    assert keys.sign(seed, message) == signer.sign(SHA256.new(message))
    assert keys.signing_public(seed) != keys.agreement_public(seed)


@pytest.mark.parametrize("profile", PROFILES)
@given(first=KEYS, second=KEYS, message=st.binary(max_size=50))
def test_two_sides_agree_and_signatures_hold(profile, first, second, message):
    keys = suite(profile)
    public = keys.agreement_public(second)
    assert keys.agree(first, public) == keys.agree(second, keys.agreement_public(first))
    assert keys.agreement(first).public == keys.agreement_public(first)
    assert len(public) == keys.agreement_public_bytes
    signature = keys.sign(first, message)
    assert (len(signature), len(keys.signing_public(first))) == (
        crypto.SIGNATURE_BYTES,
        keys.signing_public_bytes,
    )
    keys.verify(keys.signing_public(first), signature, message)
    for wrong in (signature[:-1], signature + b"\0", bytes(64), signature[32:] + signature[:32]):
        with pytest.raises(CryptoError, match="signature"):
            keys.verify(keys.signing_public(first), wrong, message)
    with pytest.raises(CryptoError, match="does not fit"):
        keys.verify(keys.signing_public(first), signature, message + b"!")
    if first != second:
        with pytest.raises(CryptoError, match="does not fit"):
            keys.verify(keys.signing_public(second), signature, message)


FIELD = 2**255 - 19
LOW_ORDER = [  # Bernstein, "Curve25519: new Diffie-Hellman speed records", and his list of points
    0,
    1,
    325606250916557431795983626356110631294008115727848805560023387167927233504,
    39382357235489614581723060781553021112529911719440698176882885853963445705823,
    FIELD - 1,
    FIELD,
    FIELD + 1,
]


@pytest.mark.parametrize("point", LOW_ORDER, ids=str)
def test_points_of_low_order_are_refused(point):
    with pytest.raises(CryptoError, match="low order"):
        suite("standard").agree(bytes(range(32)), point.to_bytes(32, "little"))


@pytest.mark.parametrize(
    "point",
    [
        b"\x04" + bytes(64),  # not on the curve
        bytes(65),
        b"\x00",  # infinity
        b"",
        b"\x02" + unhex("60FED4BA255A9D31C961EB74C6356D68C049B8923B61FA6CE669622E60F29FB6"),
    ],
    ids=("off", "zeros", "infinity", "empty", "compressed"),
)
def test_points_that_are_none_are_refused(point):
    keys = suite("fips")
    with pytest.raises(CryptoError, match="P-256 public key"):
        keys.agree(bytes(range(32)), point)
    with pytest.raises(CryptoError, match="P-256 public key"):
        keys.verify(point, bytes(range(64)), b"")


def test_hybrid_points_are_refused():
    """One point, one encoding: who signs and hashes public keys relies on it."""
    public = suite("fips").agreement_public(bytes(32))
    with pytest.raises(CryptoError, match="uncompressed"):
        suite("fips").agree(bytes(32), bytes([6 + public[-1] % 2]) + public[1:])


@pytest.mark.parametrize("profile", PROFILES)
def test_wrong_sizes_are_refused_with_both_sizes(profile):
    keys = suite(profile)
    for call in (keys.agreement, keys.agreement_public, keys.signing_public):
        with pytest.raises(CryptoError, match="seed has 31 bytes: 32 are needed"):
            call(bytes(31))
    with pytest.raises(CryptoError, match="seed has 33 bytes"):
        keys.sign(bytes(33), b"")
    with pytest.raises(CryptoError, match="public key has 3 bytes"):
        keys.agree(bytes(32), b"abc")
    with pytest.raises(CryptoError, match="public key has 3 bytes"):
        keys.verify(b"abc", bytes(64), b"")


def test_a_profile_that_is_none_is_refused():
    with pytest.raises(CryptoError, match="profile = 'rot13': one of standard, fips"):
        suite("rot13")


def test_derivation_is_the_one_of_the_rfc():
    """RFC 5869, appendix A.3: no salt."""
    assert crypto.derive(unhex(22 * "0b"), b"", 42).hex() == (
        "8da4e775a563c18f715f802a063c5a31b8a11f5c5ee1879ec3454e5f3c738d2d9d201395faa4b61a96c8"
    )


@given(st.binary(max_size=80), st.binary(max_size=80), st.integers(1, 255 * 32))
def test_derivation_is_hkdf(secret, info, length):
    assert crypto.derive(secret, info, length) == hkdf(secret, info, length)


@pytest.mark.parametrize("length", [-1, 0, 255 * 32 + 1])
def test_derivation_has_bounds(length):
    with pytest.raises(CryptoError, match=f"length = {length}"):
        crypto.derive(b"secret", b"", length)


def test_sealing_is_the_one_of_nist():
    """CAVP gcmEncryptExtIV256, 408 bits with 160 bits of associated data, count 0."""
    key = unhex("24501ad384e473963d476edcfe08205237acfd49b5b8f33857f8114e863fec7f")
    nonce = unhex("9ff18563b978ec281b3f2794")
    plaintext = unhex(
        "27f348f9cdc0c5bd5e66b1ccb63ad920ff2219d14e8d631b3872265cf117ee86757accb158bd9abb3868fdc0d0"
        "b074b5f01b2c"
    )
    aad = unhex("adb5ec720ccf9898500028bf34afccbcaca126ef")
    sealed = unhex(
        "eb7cb754c824e8d96f7c6d9b76c7d26fb874ffbf1d65c6f64a698d839b0b06145dae82057ad55994cf59ad7f67"
        "c0fa5e85fab8bc95c532fecc594c36d1550286a7a3f0"
    )
    assert crypto.seal(key, nonce, plaintext, aad) == sealed
    assert crypto.open_sealed(key, nonce, sealed, aad) == plaintext


@given(KEYS, st.binary(min_size=12, max_size=12), st.binary(max_size=50), st.binary(max_size=20))
def test_sealed_is_opened_by_the_same_only(key, nonce, plaintext, aad):
    sealed = crypto.seal(key, nonce, plaintext, aad)
    assert len(sealed) == len(plaintext) + crypto.TAG_BYTES
    assert crypto.open_sealed(key, nonce, sealed, aad) == plaintext
    other = bytes([key[0] ^ 1]) + key[1:]
    wrong = [
        (other, nonce, sealed, aad),
        (key, nonce[:-1] + bytes([nonce[-1] ^ 1]), sealed, aad),
        (key, nonce, sealed[:-1], aad),
        (key, nonce, sealed[:5], aad),
        (key, nonce, sealed, aad + b"\0"),
        *(
            (key, nonce, sealed[:i] + bytes([sealed[i] ^ 1]) + sealed[i + 1 :], aad)
            for i in range(len(sealed))
        ),
    ]
    for arguments in wrong:
        with pytest.raises(CryptoError, match="sealed bytes were changed"):
            crypto.open_sealed(*arguments)


def test_sealing_takes_no_other_sizes():
    for call in (crypto.seal, crypto.open_sealed):
        with pytest.raises(CryptoError, match="key has 16 bytes: 32"):
            call(bytes(16), bytes(12), bytes(20), b"")
        with pytest.raises(CryptoError, match="nonce has 16 bytes: 12"):
            call(bytes(32), bytes(16), bytes(20), b"")


@pytest.mark.parametrize(
    ("size", "wrapped"),
    [  # RFC 3394, sections 4.3, 4.5 and 4.6
        (16, "64E8C3F9CE0F5BA263E9777905818A2A93C8191E7D6E8AE7"),
        (24, "A8F9BC1612C68B3FF6E6F4FBE30E71E4769C8B80A32CB8958CD5D17D6B254DA1"),
        (32, "28C9F404C4B810F4CBCCB35CFB87F8263F5786E2D80ED326CBC7F0E71A99F43BFB988B9B7A02DD21"),
    ],
    ids=("128", "192", "256"),
)
def test_key_wrap_is_the_one_of_the_rfc(size, wrapped):
    kek = bytes(range(32))
    key = unhex("00112233445566778899AABBCCDDEEFF000102030405060708090A0B0C0D0E0F")[:size]
    assert crypto.wrap_key(kek, key) == unhex(wrapped)
    assert crypto.unwrap_key(kek, unhex(wrapped)) == key


@given(KEYS, KEYS, st.integers(0, 39))
def test_wrapped_keys_are_unwrapped_by_the_same_only(kek, key, place):
    wrapped = crypto.wrap_key(kek, key)
    assert crypto.unwrap_key(kek, wrapped) == key
    changed = bytearray(wrapped)
    changed[place] ^= 1
    for other in (bytes(changed), wrapped[:-1], wrapped[:-8], b""):
        with pytest.raises(CryptoError, match="wrapped key was changed"):
            crypto.unwrap_key(kek, other)
    with pytest.raises(CryptoError, match="wrapped key was changed"):
        crypto.unwrap_key(bytes([kek[0] ^ 1]) + kek[1:], wrapped)


def test_key_wrap_takes_no_other_sizes():
    with pytest.raises(CryptoError, match="a key of 12 bytes: key wrap takes multiples of 8"):
        crypto.wrap_key(bytes(32), bytes(12))
    for call in (crypto.wrap_key, crypto.unwrap_key):
        with pytest.raises(CryptoError, match="key-encryption key has 16 bytes: 32"):
            call(bytes(16), bytes(32))


@pytest.mark.parametrize(
    ("key", "block"),
    [  # NIST AESAVS: encryptions of a block of zeros, KeySbox and VarKey, which begin our streams
        (
            "c47b0294dbbbee0fec4757f22ffeee3587ca4730c3d33b691df38bab076bc558",
            "46f2fb342d6f0ab477476fc501242c5f",
        ),
        (
            "28d46cffa158533194214a91e712fc2b45b518076675affd910edeca5f41ac64",
            "4bf3b0a69aeb6657794f2901b1440ad4",
        ),
        ("80" + 31 * "00", "e35a6dcb19b201a01ebcfa8aa22b5759"),
        ("f0" + 31 * "00", "1c777679d50037c79491a94da76a9a35"),
    ],
    ids=("KeySbox-0", "KeySbox-1", "VarKey-0", "VarKey-3"),
)
def test_a_stream_begins_as_nist_says(key, block):
    assert crypto.ctr_stream(unhex(key)).read(16).hex() == block


@given(KEYS, st.lists(st.integers(0, 1000), max_size=5), st.integers(0, 2))
def test_a_stream_is_the_cipher_of_a_counter(key, counts, large):
    """SP 800-38A, section 6.5, block by block; however it is cut into reads."""
    counts = [*counts, large * 70_000]
    stream = crypto.ctr_stream(key)
    found = b"".join(stream.read(count) for count in counts)
    blocks = b"".join(i.to_bytes(16, "big") for i in range(len(found) // 16 + 1))
    assert found == AES.new(key, AES.MODE_ECB).encrypt(blocks)[: len(found)]


def test_a_stream_overwrites_memory():
    target = bytearray(b"\xff" * 100)
    crypto.ctr_stream(bytes(32)).read_into(memoryview(target)[:40])
    assert target[:40] == crypto.ctr_stream(bytes(32)).read(40)
    assert target[40:] == b"\xff" * 60


def test_a_stream_needs_a_key_of_full_length():
    for size in (0, 4, 16, 31, 33):
        with pytest.raises(CryptoError, match=f"key has {size} bytes: 32"):
            crypto.ctr_stream(bytes(size))


def test_keys_of_texts_and_of_the_system():
    assert crypto.key_of("fedsim") == hashlib.sha256(b"fedsim").digest()
    assert len({crypto.random_key() for _ in range(100)}) == 100
