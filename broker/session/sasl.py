"""What a peer shows to log in, and the SASL mechanisms that carry it.

A mechanism reads its response into credentials; `Accounts` (session.auth) says whose they are.  Credentials never show a
password in a text.  Tests: tests/unit/broker/session/test_sasl.py.
"""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass, field
from typing import Final, final

from broker.errors import AccessRefused
from broker.session.dn import DN
from broker.session.passwords import PASSWORD_BYTES_MAX
from broker.wire.amqp.values import decode_table, encode_long_string


@final
@dataclass(frozen=True, slots=True)
class PasswordLogin:
    """A user name and a password."""

    name: str
    password: str = field(repr=False)


@final
@dataclass(frozen=True, slots=True)
class CertificateLogin:
    """The subject of the client certificate that the TLS handshake has verified."""

    subject: DN


Credentials = PasswordLogin | CertificateLogin


def _read_plain(response: bytes, certificate: DN | None) -> Credentials:
    """SASL PLAIN (RFC 4616); the authorization identity is not looked at, as in RabbitMQ."""
    parts = response.split(b"\0")
    if len(parts) != 3:
        raise AccessRefused("malformed PLAIN response")
    return PasswordLogin(parts[1].decode(errors="replace"), parts[2].decode(errors="replace"))


def _read_amqplain(response: bytes, certificate: DN | None) -> Credentials:
    """AMQPLAIN: a field table without its length; one that is none is a syntax error (502)."""
    table, _ = decode_table(encode_long_string(response), 0)
    login, password = table.get("LOGIN"), table.get("PASSWORD")
    if not isinstance(login, str) or not isinstance(password, str):
        raise AccessRefused("AMQPLAIN auth info is missing LOGIN or PASSWORD field")
    return PasswordLogin(login, password)


def _read_external(response: bytes, certificate: DN | None) -> Credentials:
    """SASL EXTERNAL: the certificate counts; what clients put into the response differs and says nothing."""
    if certificate is None:
        raise AccessRefused("EXTERNAL needs a client certificate")
    return CertificateLogin(certificate)


MECHANISMS: Final[dict[str, Callable[[bytes, DN | None], Credentials]]] = {
    "PLAIN": _read_plain,
    "AMQPLAIN": _read_amqplain,
    "EXTERNAL": _read_external,
}
"""SASL mechanisms by name, in the order in which they are offered."""


def offered(certificate: DN | None) -> tuple[str, ...]:
    """The mechanisms for a peer: EXTERNAL only if it has shown a certificate."""
    return tuple(name for name in MECHANISMS if name != "EXTERNAL" or certificate is not None)


def read(mechanism: str, response: bytes, certificate: DN | None) -> Credentials:
    """Read a response; raises AccessRefused.  The mechanism must be one of MECHANISMS."""
    if len(response) > PASSWORD_BYTES_MAX:
        raise AccessRefused("login is too long")
    return MECHANISMS[mechanism](response, certificate)
