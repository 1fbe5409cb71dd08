"""Distinguished names as a certificate holds them, from both spellings: `/DC=ch/CN=me` and `CN=me,DC=ch`.

Tests: tests/unit/certs/test_dn.py.
"""

from __future__ import annotations

import re
from typing import Final

from cryptography import x509
from cryptography.x509.oid import NameOID

from certs.errors import CertsFailure

TYPES: Final = {
    "C": NameOID.COUNTRY_NAME,
    "ST": NameOID.STATE_OR_PROVINCE_NAME,
    "S": NameOID.STATE_OR_PROVINCE_NAME,
    "L": NameOID.LOCALITY_NAME,
    "O": NameOID.ORGANIZATION_NAME,
    "OU": NameOID.ORGANIZATIONAL_UNIT_NAME,
    "CN": NameOID.COMMON_NAME,
    "DC": NameOID.DOMAIN_COMPONENT,
    "UID": NameOID.USER_ID,
    "EMAILADDRESS": NameOID.EMAIL_ADDRESS,
    "EMAIL": NameOID.EMAIL_ADDRESS,
    "E": NameOID.EMAIL_ADDRESS,
    "SERIALNUMBER": NameOID.SERIAL_NUMBER,
}
_SHOWN: Final = {identifier: kind for kind, identifier in reversed(TYPES.items())}
_SLASH: Final = re.compile(r"/(?=[A-Za-z]+=)")


def read_name(text: str) -> x509.Name:
    """Read a name in either spelling, or a bare common name; raises CertsFailure."""
    text = text.strip()
    if "=" not in text:
        return _made([("CN", text)], text)
    if text.startswith("/"):
        parts = [part.partition("=") for part in _SLASH.split(text)[1:]]
        return _made([(kind, value) for kind, _, value in parts], text)
    try:
        # The library wants the short types that RFC 4514 names.
        names = {"EMAILADDRESS": NameOID.EMAIL_ADDRESS, "E": NameOID.EMAIL_ADDRESS}
        bare = re.sub(r"(?<!\\),\s+", ",", text)
        return _checked(x509.Name.from_rfc4514_string(bare, names), text)
    except ValueError as error:
        raise _wrong(text, str(error)) from None


def slash_form(name: x509.Name) -> str:
    """The spelling of grid tools: `/DC=ch/CN=me`."""
    return "".join(
        f"/{_SHOWN.get(one.oid, one.oid.dotted_string)}={one.value!s}"
        for level in name.rdns
        for one in level
    )


def comma_form(name: x509.Name) -> str:
    """The spelling of RFC 4514: `CN=me,DC=ch`."""
    return name.rfc4514_string({NameOID.EMAIL_ADDRESS: "emailAddress"})


def _made(parts: list[tuple[str, str]], text: str) -> x509.Name:
    attributes = []
    for kind, value in parts:
        identifier = TYPES.get(kind.strip().upper())
        if identifier is None:
            raise _wrong(text, f"'{kind}' is not among {', '.join(TYPES)}")
        try:
            attributes.append(x509.NameAttribute(identifier, value))
        except ValueError as error:
            raise _wrong(text, str(error)) from None
    return _checked(x509.Name(attributes), text)


def _checked(name: x509.Name, text: str) -> x509.Name:
    values = name.get_attributes_for_oid(NameOID.COMMON_NAME)
    if not values:
        raise _wrong(text, "it has no common name (CN)")
    if not all(str(one.value).isprintable() and str(one.value) for one in name):
        raise _wrong(text, "printable values expected")
    return name


def _wrong(text: str, why: str) -> CertsFailure:
    return CertsFailure(
        f"'{text}': no distinguished name such as /DC=ch/DC=site/CN=me or CN=me,DC=site,DC=ch: {why}"
    )
