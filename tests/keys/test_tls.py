"""Certificates: other TLS libraries take them for what they are, and for nothing else."""

import socket
import ssl
import subprocess
import threading
from datetime import timedelta

import pytest
from cryptography import x509
from cryptography.hazmat.primitives.serialization import load_ssh_private_key
from cryptography.x509.verification import PolicyBuilder, Store, VerificationError

from fedsim import certificates, keys
from fedsim.crypto import CryptoError
from fedsim.errors import ConfigError


def handshake(folder, *, host, node=None, crl=False, authority=None):
    """Let a client and a server of the `ssl` module talk over a socket pair; return the answer."""
    ca = str(authority or folder.authority / "ca.crt")
    server = ssl.SSLContext(ssl.PROTOCOL_TLS_SERVER)
    server.load_cert_chain(folder.server / "server.crt", folder.server / "server.key")
    client = ssl.create_default_context(cafile=ca)
    if node is not None:
        server.verify_mode = ssl.CERT_REQUIRED
        server.load_verify_locations(ca)
        if crl:
            server.load_verify_locations(folder.authority / "ca.crl")
            server.verify_flags |= ssl.VERIFY_CRL_CHECK_LEAF
        client.load_cert_chain(node / "tls.crt", node / "tls.key")
    here, there = socket.socketpair()
    here.settimeout(20)
    there.settimeout(20)
    failures = []

    def serve():
        try:
            with server.wrap_socket(there, server_side=True) as secure:
                secure.sendall(secure.recv(5))
        except (OSError, ssl.SSLError) as error:
            failures.append(error)
            there.close()

    thread = threading.Thread(target=serve)
    thread.start()
    try:
        with client.wrap_socket(here, server_hostname=host) as secure:
            secure.sendall(b"hello")
            answer = secure.recv(5)
    finally:
        here.close()
        thread.join()
    if failures:
        raise failures[0]
    return answer


@pytest.mark.parametrize("host", ["localhost", "127.0.0.1", "::1"])
def test_a_client_with_the_authority_talks_to_the_server(folder, host):
    assert handshake(folder, host=host) == b"hello"


def test_a_client_does_not_talk_to_another_name_or_authority(folder, tmp_path, now):
    with pytest.raises(ssl.SSLCertVerificationError, match="Hostname mismatch"):
        handshake(folder, host="example.org")
    other = keys.init(tmp_path / "o", profile="standard", now=now, days=9, authority_days=99)
    with pytest.raises(ssl.SSLCertVerificationError, match="verify failed"):
        handshake(folder, host="localhost", authority=other.authority / "ca.crt")


def test_both_sides_know_each_other(folder, now):
    keys.add(folder, "hospital-a", now=now, days=30)
    assert handshake(folder, host="localhost", node=folder.node("hospital-a")) == b"hello"


def test_a_revoked_certificate_is_refused_by_who_reads_the_list(folder, now, tmp_path):
    for name in ("a", "b"):
        keys.add(folder, name, now=now, days=30)
    kept = tmp_path / "kept"
    folder.node("b").rename(kept)  # what the node has, wherever it is
    kept_copy = folder.node("b")
    kept_copy.mkdir()
    (kept_copy / "tls.crt").write_bytes((kept / "tls.crt").read_bytes())
    assert handshake(folder, host="localhost", node=kept, crl=True) == b"hello"
    keys.revoke(folder, "b", now=now)
    with pytest.raises((ssl.SSLError, OSError)):
        handshake(folder, host="localhost", node=kept, crl=True)
    assert handshake(folder, host="localhost", node=folder.node("a"), crl=True) == b"hello"


def test_a_rotated_certificate_is_refused_and_the_new_one_taken(folder, now, tmp_path):
    keys.add(folder, "a", now=now, days=30)
    old = tmp_path / "old"
    old.mkdir()
    for name in ("tls.crt", "tls.key"):
        (old / name).write_bytes((folder.node("a") / name).read_bytes())
    keys.rotate_node(folder, "a", now=now, days=30)
    with pytest.raises((ssl.SSLError, OSError)):
        handshake(folder, host="localhost", node=old, crl=True)
    assert handshake(folder, host="localhost", node=folder.node("a"), crl=True) == b"hello"


def verified(pem, folder, when, *, host=None):
    """Let the verifier of `cryptography`, which follows the rules for the web, look at a chain."""
    root = x509.load_pem_x509_certificate((folder.authority / "ca.crt").read_bytes())
    builder = PolicyBuilder().store(Store([root])).time(when)
    leaf = x509.load_pem_x509_certificate(pem)
    if host:
        return builder.build_server_verifier(x509.DNSName(host)).verify(leaf, [])
    return builder.build_client_verifier().verify(leaf, [])


def test_certificates_are_good_for_their_purpose_and_time(folder, now):
    keys.add(folder, "a", now=now, days=30)
    server = (folder.server / "server.crt").read_bytes()
    node = (folder.node("a") / "tls.crt").read_bytes()
    assert len(verified(server, folder, now, host="localhost")) == 2
    assert verified(node, folder, now).subjects == [x509.DNSName("a")]
    assert verified(node, folder, now + timedelta(days=29))
    with pytest.raises(VerificationError):
        verified(node, folder, now + timedelta(days=31))
    with pytest.raises(VerificationError):
        verified(server, folder, now)  # a server is no client
    with pytest.raises(VerificationError):
        verified(node, folder, now, host="a")  # and a client no server


def test_no_certificate_outlives_its_authority(tmp_path, now):
    folder = keys.init(tmp_path, profile="standard", now=now, days=90, authority_days=30)
    ends = certificates.describe((folder.server / "server.crt").read_bytes()).ends
    assert ends <= certificates.describe((folder.authority / "ca.crt").read_bytes()).ends
    with pytest.raises(ConfigError, match="authority's certificate ends on"):
        keys.rotate_server(folder, now=now + timedelta(days=30), days=90)


def test_openssl_agrees(folder, now):
    keys.add(folder, "a", now=now, days=30)
    ca, crl = folder.authority / "ca.crt", folder.authority / "ca.crl"
    for path in (folder.server / "server.crt", folder.node("a") / "tls.crt"):
        command = [
            "openssl",
            "verify",
            "-x509_strict",
            "-crl_check",
            "-CAfile",
            ca,
            "-CRLfile",
            crl,
        ]
        try:
            done = subprocess.run([*command, path], capture_output=True, text=True, check=False)
        except FileNotFoundError:
            pytest.skip("there is no openssl command here")
        assert done.returncode == 0, done.stderr


def test_flower_reads_the_keys_of_supernodes(folder, now):
    from flwr.cli.supernode.register import try_load_public_key
    from flwr.supercore.primitives.asymmetric import (
        bytes_to_public_key,
        sign_message,
        verify_signature,
    )

    keys.add(folder, "a", now=now, days=30)
    public = bytes_to_public_key(try_load_public_key(folder.node("a") / "supernode.pub"))
    private = load_ssh_private_key((folder.node("a") / "supernode.key").read_bytes(), None)
    assert verify_signature(public, b"time", sign_message(private, b"time"))
    listed = folder.load_identities().nodes[0]
    shown = certificates.login_fingerprint((folder.node("a") / "supernode.pub").read_bytes())
    assert listed.login == shown


def test_new_server_certificates_keep_their_names(folder, now):
    before = certificates.describe((folder.server / "server.crt").read_bytes())
    keys.rotate_server(folder, now=now, days=30)
    after = certificates.describe((folder.server / "server.crt").read_bytes())
    assert (after.names, after.subject) == (before.names, before.subject)
    assert after.serial != before.serial
    assert before.serial in folder.revoked_certificates()
    keys.rotate_server(folder, hosts=["fed.example.org", "10.0.0.1"], now=now, days=30)
    assert handshake(folder, host="fed.example.org") == handshake(folder, host="10.0.0.1")


def test_signatures_and_garbage():
    with pytest.raises(CryptoError, match="no certificate"):
        certificates.describe(b"-----BEGIN CERTIFICATE-----\nx\n-----END CERTIFICATE-----\n")
    with pytest.raises(CryptoError, match="no unencrypted private key"):
        certificates.sign(b"x", b"message")
    with pytest.raises(CryptoError, match="no public key"):
        certificates.login_fingerprint(b"x")


def test_hosts_that_are_none(tmp_path, now):
    with pytest.raises(ConfigError, match="neither a host name nor an IP address"):
        keys.init(
            tmp_path, profile="standard", hosts=["bücher.example"], now=now, days=1,
            authority_days=9,
        )  # fmt: skip


def test_the_authority_certifies(folder, tmp_path, now):
    ca = (folder.authority / "ca.crt").read_bytes()
    server = (folder.server / "server.crt").read_bytes()
    certificates.must_be_issued_by(server, ca)
    other = keys.init(tmp_path / "o", profile="standard", now=now, days=9, authority_days=99)
    with pytest.raises(CryptoError, match="not signed by the authority"):
        certificates.must_be_issued_by(server, (other.authority / "ca.crt").read_bytes())
    crl = (folder.authority / "ca.crl").read_bytes()
    with pytest.raises(CryptoError, match="not signed by the authority"):
        certificates.revoked_serials(crl, (other.authority / "ca.crt").read_bytes())
    with pytest.raises(CryptoError, match="no certificate revocation list"):
        certificates.revoked_serials(b"x", ca)
