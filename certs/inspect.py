"""Looks at certificates: what they say, when they expire, whether key, chain and permissions are right.

Reads only.  Tests: tests/unit/certs/test_inspect.py.
"""

from __future__ import annotations

import datetime as dt
import stat
from collections.abc import Iterator
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any, Final, final

from cryptography import x509
from cryptography.exceptions import InvalidSignature
from cryptography.hazmat.primitives import serialization

from certs.authority import AUTHORITY_CERTIFICATE
from certs.dn import comma_form, slash_form
from certs.errors import CertsFailure

SOON_DAYS: Final = 30


@final
@dataclass(frozen=True, slots=True)
class Finding:
    """What was found about one certificate; `faults` are errors, `warnings` want attention soon."""

    file: Path
    subject: str
    expires_at: dt.datetime
    days_left: int
    faults: list[str] = field(default_factory=list)
    warnings: list[str] = field(default_factory=list)


def load(file: Path) -> list[x509.Certificate]:
    """The certificates of a PEM file, first the one itself; raises CertsFailure."""
    try:
        return x509.load_pem_x509_certificates(file.read_bytes())
    except OSError as error:
        raise CertsFailure(f"{file}: {error.strerror}") from None
    except ValueError:
        raise CertsFailure(f"{file}: no certificate in PEM") from None


def describe(certificate: x509.Certificate) -> dict[str, Any]:
    """What a certificate says, for people and for JSON."""
    names: list[str] = []
    usages: list[str] = []
    is_authority = False
    try:
        alternative = certificate.extensions.get_extension_for_class(x509.SubjectAlternativeName)
        names = [str(one.value) for one in alternative.value]
    except x509.ExtensionNotFound:
        pass
    try:
        extended = certificate.extensions.get_extension_for_class(x509.ExtendedKeyUsage)
        usages = [one._name for one in extended.value]
    except x509.ExtensionNotFound:
        pass
    try:
        basic = certificate.extensions.get_extension_for_class(x509.BasicConstraints)
        is_authority = basic.value.ca
    except x509.ExtensionNotFound:
        pass
    return {
        "subject": slash_form(certificate.subject),
        "subject_rfc4514": comma_form(certificate.subject),
        "issuer": slash_form(certificate.issuer),
        "serial": f"{certificate.serial_number:x}",
        "not_before": certificate.not_valid_before_utc.isoformat(),
        "not_after": certificate.not_valid_after_utc.isoformat(),
        "is_authority": is_authority,
        "names": names,
        "usages": usages,
    }


def check_folder(folder: Path, now: dt.datetime) -> list[Finding]:
    """Check the authority of a folder and all that it made; raises CertsFailure if there is none."""
    authority_file = folder / AUTHORITY_CERTIFICATE
    if not authority_file.exists():
        raise CertsFailure(f"no authority in {folder}: make one with `gridmsg certs init`")
    authority = load(authority_file)[0]
    files = [
        authority_file,
        *sorted(folder.glob("hosts/*.pem")),
        *sorted(folder.glob("clients/*.pem")),
    ]
    return [check(file, now, authority) for file in files]


def check(
    file: Path, now: dt.datetime, authority: x509.Certificate, key_file: Path | None = None
) -> Finding:
    """Check one certificate with its key (default: beside it) against an authority."""
    try:
        certificate = load(file)[0]
    except CertsFailure as error:
        return Finding(file, "-", now, 0, [str(error)])
    end = certificate.not_valid_after_utc
    days_left = (end - now).days
    faults = list(_faults(certificate, now, authority))
    key_file = key_file or file.with_suffix(".key")
    faults += _key_faults(certificate, key_file)
    warnings = []
    if not faults and days_left < SOON_DAYS:
        warnings.append(f"expires in {days_left} days")
    if not key_file.exists():
        warnings.append(f"no key beside it ({key_file.name})")
    return Finding(file, slash_form(certificate.subject), end, days_left, faults, warnings)


def _faults(
    certificate: x509.Certificate, now: dt.datetime, authority: x509.Certificate
) -> Iterator[str]:
    if certificate.not_valid_after_utc < now:
        yield f"expired {certificate.not_valid_after_utc:%Y-%m-%d}"
    if certificate.not_valid_before_utc > now:
        yield f"not valid before {certificate.not_valid_before_utc:%Y-%m-%d}"
    try:
        certificate.verify_directly_issued_by(authority)
    except (InvalidSignature, ValueError, TypeError):
        yield f"foreign: not signed by {slash_form(authority.subject)}"
    if authority.not_valid_after_utc < certificate.not_valid_after_utc:
        yield "outlives its authority"


def _key_faults(certificate: x509.Certificate, key_file: Path) -> Iterator[str]:
    try:
        raw = key_file.read_bytes()
        mode = key_file.stat().st_mode
        folder_mode = key_file.parent.stat().st_mode
    except FileNotFoundError:
        return
    except OSError as error:
        yield f"{key_file}: {error.strerror}"
        return
    try:
        key = serialization.load_pem_private_key(raw, None)
    except (ValueError, TypeError):
        yield f"{key_file}: no private key in PEM without a pass phrase"
        return
    if key.public_key() != certificate.public_key():
        yield f"{key_file} is not its key"
    if stat.S_IMODE(mode) & 0o077:
        yield f"{key_file} may be read by others (mode {stat.S_IMODE(mode):o}): chmod 600"
    if stat.S_IMODE(folder_mode) & 0o022:
        yield f"{key_file.parent} may be written by others: chmod 700"
