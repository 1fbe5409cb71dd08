"""TLS for who dials: the far side's certificate and name are verified, an own certificate is shown.

What goes wrong is told in words that say what to do: they are the link's last error.  Files are read for each connection, so
a renewed certificate needs no restart.  Loaded only for links with TLS.
Tests: tests/interop/test_link_tls.py, tests/unit/broker/net/test_link_tls.py.
"""

from __future__ import annotations

from pathlib import Path
from typing import TYPE_CHECKING, Any, Final, final

from OpenSSL import SSL, crypto
from service_identity.cryptography import (
    verify_certificate_hostname,
    verify_certificate_ip_address,
)
from service_identity.exceptions import CertificateError, VerificationError
from twisted.internet.abstract import isIPAddress, isIPv6Address
from twisted.internet.interfaces import IOpenSSLClientConnectionCreator
from twisted.protocols.tls import BufferingTLSTransport, TLSMemoryBIOFactory
from twisted.python.failure import Failure
from zope.interface import implementer

from broker.net.tls import (
    TlsFailure,
    bare_context,
    check_readable,
    refusal_of,
    show_certificate,
    words_of,
)

if TYPE_CHECKING:
    from broker.link.settings import LinkTls

_TEXTS: Final = (
    ("alert unknown ca", "it does not know the authority of our certificate: its [tls] ca must have it"),
    ("alert certificate expired", "our certificate expired: renew it (`gridmsg certs renew`)"),
    ("alert certificate revoked", "our certificate was revoked"),
    ("alert certificate required", "it wants a certificate: name certificate and key of this link"),
    ("alert bad certificate", "it does not take our certificate (not valid yet?): its log says why"),
    ("alert certificate unknown", "it does not take our certificate: its log says why"),
    ("alert unsupported certificate", "our certificate is not for clients: make one with `gridmsg certs client`"),
    ("alert handshake failure", "it broke off: does it want a certificate, or have no cipher in common with us?"),
    ("alert protocol version", "it speaks no version of TLS that we do (1.2, 1.3)"),
    ("wrong version number", "it does not speak TLS there: is the port that of a listener with tls = true?"),
)  # fmt: skip
"""Pieces of OpenSSL's texts, and what they mean to who dialed."""


class TlsRefused(Exception):
    """A TLS connection that did not come about; the text says why and what to do."""


def secured_client(tls: LinkTls, host: str, factory: Any) -> Any:
    """Wrap a dialed connection in TLS; raises OSError, ValueError for files that are no good."""
    try:
        return _DialedFactory(FarSide(tls, host), True, factory)
    except TlsFailure as error:
        raise ValueError(str(error)) from None


@final
@implementer(IOpenSSLClientConnectionCreator)
class FarSide:
    """Who is dialed: makes the TLS connection, and finds out whether it is who it should be.

    `refusal` says what is wrong with its certificate, empty as long as nothing is.  Raises TlsFailure.
    """

    def __init__(self, tls: LinkTls, host: str) -> None:
        self.refusal = ""
        self._host = tls.server_name or host
        self._is_address = isIPAddress(self._host) or isIPv6Address(self._host)
        self._context = context = bare_context(SSL.TLS_CLIENT_METHOD)
        if tls.certificate:
            show_certificate(context, Path(tls.certificate), Path(tls.key))
        if not tls.ca:
            context.set_default_verify_paths()
            return
        check_readable(Path(tls.ca))
        try:
            context.load_verify_locations(tls.ca)
        except SSL.Error:
            raise TlsFailure(f"{tls.ca}: no certificates in PEM") from None

    def clientConnectionForTLS(self, protocol: object) -> SSL.Connection:  # noqa: N802 - Twisted's name
        """Make the connection of one handshake."""
        connection = SSL.Connection(self._context, None)
        if not self._is_address:
            connection.set_tlsext_host_name(self._host.encode("idna"))
        connection.set_verify(SSL.VERIFY_PEER | SSL.VERIFY_FAIL_IF_NO_PEER_CERT, self._verified)
        return connection

    def _verified(
        self, connection: SSL.Connection, certificate: crypto.X509, error: int, depth: int, ok: int
    ) -> bool:
        if not ok:
            self.refusal = refusal_of(certificate, error, depth)
            if self.refusal.endswith("no authority of ours"):
                self.refusal += ": if it should be, name its file in ca"
            return False
        if depth == 0:
            self.refusal = self._name_refusal(certificate)
        return not self.refusal

    def _name_refusal(self, certificate: crypto.X509) -> str:
        """Why the far side's certificate is not that of the host that was dialed; empty if it is."""
        verify = verify_certificate_ip_address if self._is_address else verify_certificate_hostname
        try:
            verify(certificate.to_cryptography(), self._host)
        except (VerificationError, CertificateError, ValueError):
            subject = certificate.to_cryptography().subject.rfc4514_string()
            return (
                f"its certificate {ascii(subject[:300])[1:-1]} is not for {self._host}: dial it by a name that is in it, "
                "or say which with server-name"
            )
        return ""

    def explain(self, error: BaseException | None) -> str:
        """Why a connection failed; empty when it just ended."""
        if self.refusal:
            return self.refusal
        if not isinstance(error, SSL.Error) or isinstance(
            error, (SSL.ZeroReturnError, SSL.SysCallError)
        ):
            return ""
        raw = words_of(error)
        return next((meaning for piece, meaning in _TEXTS if piece in raw), raw[:300])


class _DialedTransport(BufferingTLSTransport):
    """A TLS transport that tells the link in words why it failed."""

    def connectionLost(self, reason: Failure | None = None) -> None:  # noqa: N802 - Twisted's name
        failure = getattr(self, "_reason", None) or reason
        factory = self.factory
        if isinstance(factory, _DialedFactory) and isinstance(failure, Failure):
            text = factory.far_side.explain(failure.value)
            if text:
                # What Twisted hands to the wrapped protocol.
                self._reason = Failure(TlsRefused(f"TLS: {text}"))
        super().connectionLost(reason)  # type: ignore[arg-type]


@final
class _DialedFactory(TLSMemoryBIOFactory):
    """Wraps a dialed connection's factory in TLS."""

    noisy = False
    protocol = _DialedTransport

    def __init__(self, far_side: FarSide, is_client: bool, wrapped: Any) -> None:
        super().__init__(far_side, is_client, wrapped)  # type: ignore[arg-type]
        self.far_side = far_side
