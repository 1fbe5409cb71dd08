"""A site's own certificate authority: makes it, and certificates of hosts and clients, in one folder.

Invariants: keys are written with mode 0600 before they have a name, into a folder of mode 0700; a file appears
whole or not at all, and is never written over; each serial number is random (CA/Browser Forum: 64 bits at least); a
certificate never outlives its authority.  Must not know the broker.  Tests: tests/unit/certs/test_authority.py.
"""

from __future__ import annotations

import datetime as dt
import ipaddress
import os
import re
import stat
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Final, final

from cryptography import x509
from cryptography.hazmat.primitives import hashes, serialization
from cryptography.hazmat.primitives.asymmetric import ec
from cryptography.x509.oid import ExtendedKeyUsageOID, NameOID

from certs.dn import comma_form, read_name, slash_form
from certs.errors import CertsFailure

AUTHORITY_DAYS: Final = 3653
HOST_DAYS: Final = 397
CLIENT_DAYS: Final = 365
SKEW: Final = dt.timedelta(minutes=5)
"""Certificates begin a little before now: clocks of a grid differ."""

AUTHORITY_CERTIFICATE: Final = "ca.pem"
AUTHORITY_KEY: Final = "ca.key"
LOOPBACK_NAMES: Final = ("localhost", "127.0.0.1", "::1")
_HOST_NAME: Final = re.compile(
    r"(?=.{1,253}\Z)(?:\*\.)?(?:[A-Za-z0-9_](?:[A-Za-z0-9_-]{0,61}[A-Za-z0-9_])?)"
    r"(?:\.[A-Za-z0-9_](?:[A-Za-z0-9_-]{0,61}[A-Za-z0-9_])?)*\Z"
)


@final
@dataclass(frozen=True, slots=True)
class Made:
    """A certificate that was made, and where it lies."""

    subject: x509.Name
    certificate: Path
    key: Path
    expires_at: dt.datetime

    @property
    def slash_name(self) -> str:
        """The subject as `/DC=ch/CN=me`."""
        return slash_form(self.subject)

    @property
    def comma_name(self) -> str:
        """The subject as `CN=me,DC=ch`."""
        return comma_form(self.subject)


@final
class Authority:
    """The authority in a folder: `ca.pem` and `ca.key`, hosts in `hosts/`, clients in `clients/`."""

    def __init__(self, folder: Path, now: dt.datetime) -> None:
        """Nothing is read before it is needed.  `now` in UTC."""
        self.folder = folder
        self._now = now.replace(microsecond=0)

    @property
    def certificate(self) -> Path:
        """The authority's certificate: what everybody may have."""
        return self.folder / AUTHORITY_CERTIFICATE

    @property
    def key(self) -> Path:
        """The authority's key: whoever has it is the authority."""
        return self.folder / AUTHORITY_KEY

    def init(self, subject: str, days: int = AUTHORITY_DAYS) -> Made:
        """Make the authority; raises CertsFailure if there is one."""
        for file in (self.certificate, self.key):
            if file.exists():
                raise CertsFailure(
                    f"{file} is there: an authority is made once; choose another folder, or move it away"
                )
        name = read_name(subject)
        key = ec.generate_private_key(ec.SECP256R1())
        builder = (
            self._builder(name, name, key.public_key(), days)
            .add_extension(x509.BasicConstraints(ca=True, path_length=0), critical=True)
            .add_extension(_usage(is_authority=True), critical=True)
        )
        made = builder.sign(key, hashes.SHA256())
        _make_folder(self.folder)
        _write_pair(self.key, key, self.certificate, made.public_bytes(serialization.Encoding.PEM))
        return Made(name, self.certificate, self.key, made.not_valid_after_utc)

    def host(self, name: str, also: Sequence[str] = (), days: int = HOST_DAYS) -> Made:
        """Make a host's certificate: for DNS names and addresses, as server and (for its services) as client."""
        names = [_alternative(one) for one in dict.fromkeys((name, *also))]
        usages = [ExtendedKeyUsageOID.SERVER_AUTH, ExtendedKeyUsageOID.CLIENT_AUTH]
        authority = self._read_certificate()
        subject = _beside(authority.subject, name)
        return self._issue(subject, "hosts", _file_name(name), names, usages, days)

    def client(self, subject: str, days: int = CLIENT_DAYS) -> Made:
        """Make a client's certificate for a distinguished name, or a bare name that goes beside the authority's."""
        authority = self._read_certificate()
        name = read_name(subject) if "=" in subject else _beside(authority.subject, subject)
        common = str(name.get_attributes_for_oid(NameOID.COMMON_NAME)[-1].value)
        usages = [ExtendedKeyUsageOID.CLIENT_AUTH]
        return self._issue(name, "clients", _file_name(common), [], usages, days)

    def _issue(
        self,
        subject: x509.Name,
        folder_name: str,
        file_name: str,
        names: Sequence[x509.GeneralName],
        usages: Sequence[x509.ObjectIdentifier],
        days: int,
    ) -> Made:
        authority = self._read_certificate()
        authority_key = self._read_key(authority)
        folder = self.folder / folder_name
        certificate_file, key_file = folder / f"{file_name}.pem", folder / f"{file_name}.key"
        for file in (certificate_file, key_file):
            if file.exists():
                raise CertsFailure(f"{file} is there: move it away first, or choose another name")
        key = ec.generate_private_key(ec.SECP256R1())
        builder = self._builder(
            subject, authority.subject, key.public_key(), days, authority.not_valid_after_utc
        )
        builder = (
            builder.add_extension(x509.BasicConstraints(ca=False, path_length=None), critical=True)
            .add_extension(_usage(is_authority=False), critical=True)
            .add_extension(x509.ExtendedKeyUsage(usages), critical=False)
            .add_extension(_authority_identifier(authority), critical=False)
        )
        if names:
            builder = builder.add_extension(x509.SubjectAlternativeName(names), critical=False)
        made = builder.sign(authority_key, hashes.SHA256())
        pem = serialization.Encoding.PEM
        chain = made.public_bytes(pem) + authority.public_bytes(pem)
        _make_folder(self.folder)
        _make_folder(folder)
        _write_pair(key_file, key, certificate_file, chain)
        return Made(subject, certificate_file, key_file, made.not_valid_after_utc)

    def _builder(
        self,
        subject: x509.Name,
        issuer: x509.Name,
        key: ec.EllipticCurvePublicKey,
        days: int,
        latest: dt.datetime | None = None,
    ) -> x509.CertificateBuilder:
        if days < 1:
            raise CertsFailure(f"{days} days: one at least expected")
        end = self._now + dt.timedelta(days=days)
        if latest is not None:
            if latest <= self._now:
                raise CertsFailure(
                    f"the authority {self.certificate} expired {latest:%Y-%m-%d}: make a new one"
                )
            end = min(end, latest)
        return (
            x509.CertificateBuilder()
            .subject_name(subject)
            .issuer_name(issuer)
            .public_key(key)
            .serial_number(x509.random_serial_number())
            .not_valid_before(self._now - SKEW)
            .not_valid_after(end)
            .add_extension(x509.SubjectKeyIdentifier.from_public_key(key), critical=False)
        )

    def _read_certificate(self) -> x509.Certificate:
        try:
            return x509.load_pem_x509_certificate(self.certificate.read_bytes())
        except FileNotFoundError:
            raise CertsFailure(
                f"no authority in {self.folder}: make one with `gridmsg certs init`"
            ) from None
        except (OSError, ValueError) as error:
            raise CertsFailure(f"{self.certificate}: {_why(error)}") from None

    def _read_key(self, authority: x509.Certificate) -> ec.EllipticCurvePrivateKey:
        try:
            key = serialization.load_pem_private_key(self.key.read_bytes(), None)
        except FileNotFoundError:
            raise CertsFailure(
                f"{self.key} is missing: bring the authority's key back to sign with it"
            ) from None
        except (OSError, ValueError, TypeError) as error:
            raise CertsFailure(f"{self.key}: {_why(error)}") from None
        if not isinstance(key, ec.EllipticCurvePrivateKey):
            raise CertsFailure(f"{self.key}: an elliptic-curve key expected")
        if key.public_key() != authority.public_key():
            raise CertsFailure(f"{self.key} is not the key of {self.certificate}")
        return key


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


def _authority_identifier(authority: x509.Certificate) -> x509.AuthorityKeyIdentifier:
    found = authority.extensions.get_extension_for_class(x509.SubjectKeyIdentifier)
    return x509.AuthorityKeyIdentifier.from_issuer_subject_key_identifier(found.value)


def _beside(authority: x509.Name, common_name: str) -> x509.Name:
    """The authority's name with another common name: what it issues stands beside it."""
    levels = [
        level
        for level in authority.rdns
        if not any(one.oid == NameOID.COMMON_NAME for one in level)
    ]
    try:
        last = x509.NameAttribute(NameOID.COMMON_NAME, common_name)
    except ValueError as error:
        raise CertsFailure(f"'{common_name}': {error}") from None
    if not common_name.isprintable():
        raise CertsFailure("a printable name expected")
    return x509.Name([*levels, x509.RelativeDistinguishedName([last])])


def _alternative(name: str) -> x509.GeneralName:
    try:
        return x509.IPAddress(ipaddress.ip_address(name))
    except ValueError:
        pass
    if not _HOST_NAME.match(name):
        raise CertsFailure(f"'{name}': a host name or an address expected")
    return x509.DNSName(name)


def _file_name(name: str) -> str:
    """A name as a file name: nothing that leads out of the folder, or hides."""
    cleaned = re.sub(r"[^A-Za-z0-9._@-]+", "_", name).strip("._") or "unnamed"
    return cleaned[:100]


def _make_folder(folder: Path) -> None:
    """Make a folder for keys; one that is there keeps its mode, but must not be writable by others."""
    try:
        if not folder.exists():
            folder.parent.mkdir(parents=True, exist_ok=True)
            folder.mkdir(mode=0o700)
        mode = stat.S_IMODE(folder.stat().st_mode)
    except OSError as error:
        raise CertsFailure(f"cannot make {folder}: {error.strerror}") from None
    if mode & 0o022:
        raise CertsFailure(f"{folder} may be written by others (mode {mode:o}): chmod 700 it first")


def _write_pair(
    key_file: Path, key: ec.EllipticCurvePrivateKey, certificate_file: Path, certificate: bytes
) -> None:
    """Write a key and its certificate; the key first, so that no certificate stands without one."""
    secret = key.private_bytes(
        serialization.Encoding.PEM,
        serialization.PrivateFormat.PKCS8,
        serialization.NoEncryption(),
    )
    _write_new(key_file, secret, 0o600)
    try:
        _write_new(certificate_file, certificate, 0o644)
    except CertsFailure:
        key_file.unlink(missing_ok=True)
        raise


def _write_new(file: Path, content: bytes, mode: int) -> None:
    """Write a file that was not there, whole or not at all."""
    draft = file.with_name(f".{file.name}.{os.getpid()}.new")
    try:
        draft.unlink(missing_ok=True)
        number = os.open(draft, os.O_WRONLY | os.O_CREAT | os.O_EXCL, mode)
        with os.fdopen(number, "wb") as stream:
            os.fchmod(number, mode)
            stream.write(content)
            stream.flush()
            os.fsync(number)
        try:
            # A link, unlike a rename, refuses to replace what somebody made meanwhile.
            os.link(draft, file)
        finally:
            draft.unlink()
        folder = os.open(file.parent, os.O_RDONLY)
        try:
            os.fsync(folder)
        finally:
            os.close(folder)
    except FileExistsError:
        raise CertsFailure(f"{file} is there: move it away first") from None
    except OSError as error:
        raise CertsFailure(f"cannot write {file}: {error.strerror}") from None


def _why(error: Exception) -> str:
    return getattr(error, "strerror", None) or "no PEM file without a pass phrase"
