"""X.509 certificates of a private authority (RFC 5280), and Flower's keys for SuperNodes.

With `fedsim.crypto` the only door to the `cryptography` package. Everything is ECDSA: on P-256 with
SHA-256 for the authority and for TLS, which all TLS libraries and FIPS 186-5 accept; on P-384 in
OpenSSH's format for Flower's SuperNode authentication, as its documentation makes them. Times come
in from the caller.
"""

import ipaddress
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from datetime import datetime, timedelta
from typing import Literal

from cryptography import x509
from cryptography.exceptions import InvalidSignature
from cryptography.hazmat.primitives import hashes
from cryptography.hazmat.primitives.asymmetric import ec
from cryptography.hazmat.primitives.serialization import (
    Encoding,
    NoEncryption,
    PrivateFormat,
    PublicFormat,
    load_pem_private_key,
    load_ssh_public_key,
)
from cryptography.x509.oid import ExtendedKeyUsageOID, NameOID

from fedsim.crypto import CryptoError

__all__ = [
    "CertificateFacts",
    "Credential",
    "Purpose",
    "describe",
    "issue",
    "login_fingerprint",
    "must_be_issued_by",
    "new_authority",
    "new_login",
    "revocation_list",
    "revoked_serials",
    "sign",
    "verify",
]

Purpose = Literal["server", "node"]

_LEEWAY = timedelta(minutes=5)  # clocks of other machines may be behind
_USAGES = {"server": ExtendedKeyUsageOID.SERVER_AUTH, "node": ExtendedKeyUsageOID.CLIENT_AUTH}


@dataclass(frozen=True, slots=True)
class Credential:
    """A private key and the certificate of its public half, both PEM."""

    key: bytes = field(repr=False)
    certificate: bytes


@dataclass(frozen=True, slots=True)
class CertificateFacts:
    """What a certificate says. `fingerprint`: SHA-256 of all of it, as browsers show it."""

    subject: str
    names: tuple[str, ...]
    serial: int
    fingerprint: str
    begins: datetime
    ends: datetime


def new_authority(name: str, *, now: datetime, days: int) -> Credential:
    """Make a certificate authority: it signs certificates of servers and nodes, nothing else."""
    key, subject = ec.generate_private_key(ec.SECP256R1()), _name(name)
    builder = _builder(subject, subject, key.public_key(), now, days)
    certificate = (
        builder.add_extension(x509.BasicConstraints(ca=True, path_length=0), critical=True)
        .add_extension(_usage(is_authority=True), critical=True)
        .sign(key, hashes.SHA256())
    )
    return Credential(_private_pem(key), certificate.public_bytes(Encoding.PEM))


def issue(
    authority: Credential,
    subject: str,
    names: Sequence[str],
    purpose: Purpose,
    *,
    now: datetime,
    days: int,
) -> Credential:
    """Make a key and have the authority certify it for one side of TLS.

    `names`: host names and IP addresses that it stands for. It ends no later than the authority.
    Raise `CryptoError` for what is neither a name nor an address, and where the authority is at its
    end.
    """
    issuer = _certificate(authority.certificate)
    key = ec.generate_private_key(ec.SECP256R1())
    left = (issuer.not_valid_after_utc - now).days
    if left < 1:
        raise CryptoError(f"the authority's certificate ends on {issuer.not_valid_after_utc:%F}")
    builder = _builder(_name(subject), issuer.subject, key.public_key(), now, min(days, left))
    certificate = (
        builder.add_extension(x509.BasicConstraints(ca=False, path_length=None), critical=True)
        .add_extension(_usage(is_authority=False), critical=True)
        .add_extension(x509.ExtendedKeyUsage([_USAGES[purpose]]), critical=False)
        .add_extension(
            x509.SubjectAlternativeName([_general_name(name) for name in names]), critical=False
        )
        .add_extension(_authority_key_id(issuer), critical=False)
        .sign(_private_key(authority.key), hashes.SHA256())
    )
    return Credential(_private_pem(key), certificate.public_bytes(Encoding.PEM))


def revocation_list(
    authority: Credential, revoked: Mapping[int, datetime], *, number: int, now: datetime
) -> bytes:
    """Return a certificate revocation list (RFC 5280, section 5) as PEM.

    `revoked`: serial numbers, and since when. It holds until the authority ends or a list with a
    larger number is there.
    """
    issuer = _certificate(authority.certificate)
    builder = (
        x509.CertificateRevocationListBuilder()
        .issuer_name(issuer.subject)
        .last_update(now - _LEEWAY)
        .next_update(issuer.not_valid_after_utc)
        .add_extension(x509.CRLNumber(number), critical=False)
        .add_extension(_authority_key_id(issuer), critical=False)
    )
    for serial, since in revoked.items():
        entry = x509.RevokedCertificateBuilder().serial_number(serial).revocation_date(since)
        builder = builder.add_revoked_certificate(entry.build())
    found = builder.sign(_private_key(authority.key), hashes.SHA256())
    return found.public_bytes(Encoding.PEM)


def revoked_serials(pem: bytes, authority: bytes) -> dict[int, datetime]:
    """Return the serial numbers in a revocation list, and since when they are.

    Raise `CryptoError` for a list that the authority did not sign.
    """
    try:
        found = x509.load_pem_x509_crl(pem)
    except ValueError as error:
        raise CryptoError("this is no certificate revocation list") from error
    if not found.is_signature_valid(_public_key(authority)):
        raise CryptoError("the revocation list is not signed by the authority")
    return {entry.serial_number: entry.revocation_date_utc for entry in found}


def sign(key: bytes, message: bytes) -> bytes:
    """Sign with a private key, PEM: ECDSA with SHA-256, DER."""
    return _private_key(key).sign(message, ec.ECDSA(hashes.SHA256()))


def verify(certificate: bytes, signature: bytes, message: bytes) -> None:
    """Raise `CryptoError` unless the certificate's key signed exactly this message."""
    try:
        _public_key(certificate).verify(signature, message, ec.ECDSA(hashes.SHA256()))
    except InvalidSignature as error:
        raise CryptoError("the signature does not fit the message and the certificate") from error


def must_be_issued_by(certificate: bytes, authority: bytes) -> None:
    """Raise `CryptoError` unless the authority signed the certificate."""
    try:
        _certificate(certificate).verify_directly_issued_by(_certificate(authority))
    except (InvalidSignature, ValueError, TypeError) as error:
        raise CryptoError("the certificate is not signed by the authority") from error


def describe(certificate: bytes) -> CertificateFacts:
    """Return what a certificate says; raise `CryptoError` for what is none."""
    found = _certificate(certificate)
    names: tuple[str, ...] = ()
    for extension in found.extensions:
        if isinstance(extension.value, x509.SubjectAlternativeName):
            names = tuple(str(name.value) for name in extension.value)
    return CertificateFacts(
        subject=found.subject.rfc4514_string(),
        names=names,
        serial=found.serial_number,
        fingerprint=found.fingerprint(hashes.SHA256()).hex(),
        begins=found.not_valid_before_utc,
        ends=found.not_valid_after_utc,
    )


def new_login() -> tuple[bytes, bytes]:
    """Return the private and the public key of a SuperNode, as OpenSSH writes them."""
    key = ec.generate_private_key(ec.SECP384R1())
    private = key.private_bytes(Encoding.PEM, PrivateFormat.OpenSSH, NoEncryption())
    public = key.public_key().public_bytes(Encoding.OpenSSH, PublicFormat.OpenSSH)
    return private, public + b"\n"


def login_fingerprint(public: bytes) -> str:
    """Return the SHA-256 of a public key that `new_login` made, in its DER form."""
    try:
        key = load_ssh_public_key(public)
    except ValueError as error:
        raise CryptoError("this is no public key in OpenSSH's format") from error
    digest = hashes.Hash(hashes.SHA256())
    digest.update(key.public_bytes(Encoding.DER, PublicFormat.SubjectPublicKeyInfo))
    return digest.finalize().hex()


def _builder(
    subject: x509.Name,
    issuer: x509.Name,
    key: ec.EllipticCurvePublicKey,
    now: datetime,
    days: int,
) -> x509.CertificateBuilder:
    return (
        x509.CertificateBuilder()
        .subject_name(subject)
        .issuer_name(issuer)
        .public_key(key)
        .serial_number(x509.random_serial_number())
        .not_valid_before(now - _LEEWAY)
        .not_valid_after(now + timedelta(days=days))
        .add_extension(x509.SubjectKeyIdentifier.from_public_key(key), critical=False)
    )


def _usage(*, is_authority: bool) -> x509.KeyUsage:
    return x509.KeyUsage(
        digital_signature=not is_authority,
        content_commitment=False,
        key_encipherment=False,
        data_encipherment=False,
        key_agreement=False,
        key_cert_sign=is_authority,
        crl_sign=is_authority,
        encipher_only=False,
        decipher_only=False,
    )


def _authority_key_id(issuer: x509.Certificate) -> x509.AuthorityKeyIdentifier:
    extension = issuer.extensions.get_extension_for_class(x509.SubjectKeyIdentifier)
    return x509.AuthorityKeyIdentifier.from_issuer_subject_key_identifier(extension.value)


def _name(text: str) -> x509.Name:
    return x509.Name([x509.NameAttribute(NameOID.COMMON_NAME, text)])


def _general_name(text: str) -> x509.GeneralName:
    try:
        return x509.IPAddress(ipaddress.ip_address(text))
    except ValueError:
        pass
    try:
        return x509.DNSName(text)
    except ValueError as error:
        raise CryptoError(f"{text!r} is neither a host name nor an IP address") from error


def _certificate(pem: bytes) -> x509.Certificate:
    try:
        return x509.load_pem_x509_certificate(pem)
    except ValueError as error:
        raise CryptoError("this is no certificate in PEM format") from error


def _public_key(pem: bytes) -> ec.EllipticCurvePublicKey:
    key = _certificate(pem).public_key()
    if not isinstance(key, ec.EllipticCurvePublicKey):
        raise CryptoError("the certificate's key is not an elliptic-curve key")
    return key


def _private_key(pem: bytes) -> ec.EllipticCurvePrivateKey:
    try:
        key = load_pem_private_key(pem, None)
    except (ValueError, TypeError) as error:
        raise CryptoError("this is no unencrypted private key in PEM format") from error
    if not isinstance(key, ec.EllipticCurvePrivateKey):
        raise CryptoError("the private key is not an elliptic-curve key")
    return key


def _private_pem(key: ec.EllipticCurvePrivateKey) -> bytes:
    return key.private_bytes(Encoding.PEM, PrivateFormat.PKCS8, NoEncryption())
