"""TLS for listeners: the context, and one log line for each handshake that is refused (dialed links: link_tls.py).

Knows nothing of the broker: the collector uses it too.  TLS 1.2 and 1.3 only; forward secrecy and authenticated ciphers only; no
resumption, so that every connection is checked against today's certificates.  Loaded only when a listener speaks TLS.
Tests: tests/unit/broker/net/test_tls.py, tests/interop/test_tls.py.
"""

from __future__ import annotations

import logging
import stat
from pathlib import Path
from typing import Any, Final, final

from OpenSSL import SSL, crypto
from twisted.internet.interfaces import IOpenSSLServerConnectionCreator
from twisted.protocols.tls import BufferingTLSTransport, TLSMemoryBIOFactory
from twisted.python.failure import Failure
from zope.interface import implementer

from broker.net.tls_files import TlsFiles

log = logging.getLogger(__name__)

CIPHERS: Final = b"ECDHE+AESGCM:ECDHE+CHACHA20:!aNULL:!PSK"
"""For TLS 1.2; those of 1.3 are all good."""
CHAIN_DEPTH_MAX: Final = 10

_REASONS: Final = {
    9: "is not valid yet (it begins {start})",
    10: "expired {end}",
    23: "was revoked",
    26: "is not for clients (extended key usage)",
}
"""OpenSSL's verification errors (X509_V_ERR_…) as what is wrong with a certificate."""
_FOREIGN: Final = (18, 19, 20, 21)
_TEXTS: Final = (
    ("did not return a certificate", "it has shown no client certificate, which is required here"),
    ("http request", "it speaks plain HTTP, not TLS"),
    ("https proxy request", "it does not speak TLS"),
    ("wrong version number", "it does not speak TLS"),
    ("unsupported protocol", "its TLS is older than our least (min-version)"),
    ("version too low", "its TLS is older than our least (min-version)"),
    ("no shared cipher", "it has no cipher in common with us"),
    ("alert unknown ca", "it does not trust our certificate: the authority is unknown to it"),
    ("alert certificate expired", "it does not trust our certificate: expired"),
    ("alert certificate unknown", "it does not trust our certificate (wrong host name?)"),
    ("alert unsupported certificate", "it does not trust our certificate: it is not a host's"),
    # What Python and Twisted say when the host's name is another.
    ("alert internal error", "it does not trust our certificate (wrong host name?)"),
    ("alert bad certificate", "it does not trust our certificate (wrong host name?)"),
)
"""Pieces of OpenSSL's texts, and what they mean."""


class TlsFailure(Exception):
    """Files that cannot be used for TLS; the text names the file and says what to do."""


@final
@implementer(IOpenSSLServerConnectionCreator)
class TlsContext:
    """A context that Twisted makes server connections of; raises TlsFailure when files are no good."""

    def __init__(self, files: TlsFiles) -> None:
        self.context = make_context(files)

    def serverConnectionForTLS(self, protocol: object) -> SSL.Connection:  # noqa: N802 - Twisted's name
        """Make the connection of one handshake."""
        connection = SSL.Connection(self.context, None)
        # The verification finds its way back to the transport by it.
        connection.set_app_data(protocol)
        return connection


def make_context(files: TlsFiles) -> SSL.Context:
    """Load the files into a context; raises TlsFailure."""
    context = bare_context(SSL.TLS_SERVER_METHOD)
    if files.min_version == "1.3":
        context.set_min_proto_version(SSL.TLS1_3_VERSION)
    context.set_options(SSL.OP_NO_TICKET | SSL.OP_CIPHER_SERVER_PREFERENCE)
    show_certificate(context, files.certificate, files.key)
    if files.ca is not None:
        check_readable(files.ca)
    if files.verify == "none" or files.ca is None:
        if files.verify == "required":
            raise TlsFailure("client certificates are required, but no authorities (ca) are named")
        context.set_verify(SSL.VERIFY_NONE)
        return context
    try:
        context.load_verify_locations(str(files.ca))
        context.load_client_ca(str(files.ca).encode())
    except SSL.Error:
        raise TlsFailure(f"{files.ca}: no certificates in PEM") from None
    mode = SSL.VERIFY_PEER
    if files.verify == "required":
        mode |= SSL.VERIFY_FAIL_IF_NO_PEER_CERT
    context.set_verify_depth(CHAIN_DEPTH_MAX)
    context.set_verify(mode, _verified)
    return context


def bare_context(method: int) -> SSL.Context:
    """What both ends of our connections agree on, before any file: versions, ciphers, memory."""
    context = SSL.Context(method)
    context.set_min_proto_version(SSL.TLS1_2_VERSION)
    context.set_options(SSL.OP_NO_COMPRESSION | SSL.OP_NO_RENEGOTIATION)
    # An idle connection then holds 43 KiB instead of 70 (measured, 500 STOMP logins).
    context.set_mode(SSL.MODE_RELEASE_BUFFERS)
    context.set_session_cache_mode(SSL.SESS_CACHE_OFF)
    context.set_cipher_list(CIPHERS)
    return context


def show_certificate(context: SSL.Context, certificate: Path, key: Path) -> None:
    """Have a certificate, with its chain, shown to peers; raises TlsFailure."""
    for file in (certificate, key):
        check_readable(file)
    _look_at_mode(key)
    try:
        context.use_certificate_chain_file(str(certificate))
    except SSL.Error:
        raise TlsFailure(f"{certificate}: no certificate in PEM") from None
    try:
        if b"ENCRYPTED" in key.read_bytes():
            # OpenSSL would ask for the pass phrase on the terminal: a broker has none.
            raise TlsFailure(f"{key}: a key without a pass phrase expected")
        context.use_privatekey_file(str(key))
    except SSL.Error:
        raise TlsFailure(
            f"{key}: no private key in PEM without a pass phrase, or not that of {certificate}"
        ) from None
    try:
        context.check_privatekey()
    except SSL.Error:
        raise TlsFailure(f"{key} is not the key of {certificate}") from None


def check_readable(file: Path) -> None:
    """Raise TlsFailure for a file that is not there, or not ours to read."""
    try:
        with file.open("rb"):
            pass
    except OSError as error:
        raise TlsFailure(f"{file}: {error.strerror}") from None


def _look_at_mode(key: Path) -> None:
    """Warn of a key that more than its owner and group may read: whoever has it can be us."""
    mode = stat.S_IMODE(key.stat().st_mode)
    if mode & 0o007:
        log.warning("%s may be read by others (mode %o): chmod 600 it", key, mode)


def _verified(
    connection: SSL.Connection, certificate: crypto.X509, error: int, depth: int, is_good: int
) -> bool:
    """Note why OpenSSL refuses a client's certificate; what it says is what counts."""
    if not is_good:
        transport = connection.get_app_data()
        if isinstance(transport, _LoggedTransport):
            transport.refusal = refusal_of(certificate, error, depth)
    return bool(is_good)


def refusal_of(certificate: crypto.X509, error: int, depth: int) -> str:
    """What is wrong with a peer's certificate, by OpenSSL's number for it."""
    try:
        found = certificate.to_cryptography()
        subject, issuer = found.subject.rfc4514_string(), found.issuer.rfc4514_string()
        start, end = found.not_valid_before_utc.date(), found.not_valid_after_utc.date()
    except ValueError:
        return f"its certificate cannot be read (OpenSSL error {error})"
    if error in _FOREIGN:
        whose = f"its certificate {_line(subject)}" if depth == 0 else "its certificate"
        return f"{whose} is foreign: {_line(issuer)} is no authority of ours"
    reason = _REASONS.get(error, "failed verification (OpenSSL error {error})")
    whose = "its certificate" if depth == 0 else "an authority of its certificate,"
    text = reason.format(start=start, end=end, error=error)
    return f"{whose} {_line(subject)} {text}"


def _line(text: str) -> str:
    """A peer's text for a log line: bounded, without control characters."""
    return "".join(one if one.isprintable() else "?" for one in text[:300])


class _LoggedTransport(BufferingTLSTransport):
    """A TLS transport that says in one line why it was refused; `refusal` is what its verification found."""

    refusal = ""

    def loseWriteConnection(self) -> None:  # noqa: N802 - Twisted's name
        """Close: half a TLS connection cannot be closed, and that of the socket below would cut off what waits."""
        self.loseConnection()

    def connectionLost(self, reason: Failure | None = None) -> None:  # noqa: N802 - Twisted's name
        # `_reason` is what the TLS layer itself ended with; Twisted hands it to the wrapped protocol only.
        failure = getattr(self, "_reason", None) or reason
        factory = self.factory
        if isinstance(failure, Failure) and isinstance(factory, TlsFactory):
            text = _text_of(failure.value, self.refusal)
            if text:
                peer = getattr(self.transport, "getPeer", lambda: None)()
                log.warning(
                    "%s listener: TLS with %s:%s refused: %s",
                    factory.listener_name,
                    getattr(peer, "host", "?"),
                    getattr(peer, "port", "?"),
                    text,
                )
        super().connectionLost(reason)  # type: ignore[arg-type]


def _text_of(error: BaseException | None, refusal: str) -> str:
    """Why a TLS connection failed; empty when it just ended."""
    if not isinstance(error, SSL.Error) or isinstance(
        error, (SSL.ZeroReturnError, SSL.SysCallError)
    ):
        return ""
    if refusal:
        return refusal
    raw = words_of(error)
    for piece, meaning in _TEXTS:
        if piece in raw:
            return meaning
    return f"it gave up: {_line(raw)}" if " alert " in raw else _line(raw)


def words_of(error: SSL.Error) -> str:
    """What OpenSSL says of a failure, in its words."""
    stack = error.args[0] if error.args and isinstance(error.args[0], list) else []
    return "; ".join(str(one[-1]) for one in stack) or str(error)


@final
class TlsFactory(TLSMemoryBIOFactory):
    """Wraps a listener's factory in TLS."""

    noisy = False
    protocol = _LoggedTransport

    def __init__(self, context: TlsContext, listener_name: str, wrapped: Any) -> None:
        super().__init__(context, False, wrapped)  # type: ignore[arg-type]
        self.listener_name = listener_name

    def buildProtocol(self, addr: Any) -> Any:  # noqa: N802 - Twisted's name
        """Wrap the protocol that the listener makes, unless it refuses the connection."""
        inner = self.wrappedFactory.buildProtocol(addr)
        return None if inner is None else self.protocol(self, inner)


def client_subject(transport: Any) -> list[list[tuple[str, str]]] | None:
    """The subject of a peer's verified certificate: levels of (object identifier, value); None without one."""
    certificate = transport.getPeerCertificate()
    if certificate is None:
        return None
    subject = certificate.to_cryptography().subject
    return [[(one.oid.dotted_string, str(one.value)) for one in level] for level in subject.rdns]
