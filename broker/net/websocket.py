# ruff: noqa: N802 - method names are Twisted's
"""STOMP over WebSocket (RFC 6455): the handshake at /ws, and a transport whose bytes travel in messages.

The connection behind it is the same `Connection` as on a plain socket, which takes `Messages` for its transport.  What comes in, text
or binary, whole or in pieces, goes on as bytes at once; what goes out is one message of whole frames a write, text
where it is UTF-8 and binary where not.  Compression is not offered.  Tests: tests/unit/broker/net/test_websocket.py,
tests/interop/test_stomp_clients.py.
"""

from __future__ import annotations

import logging
from collections.abc import Callable, Iterable, Sequence
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any, Final, final

from twisted.internet.interfaces import IHandshakeListener
from twisted.internet.protocol import Factory, Protocol
from twisted.python.failure import Failure
from wsproto import ConnectionType, WSConnection
from wsproto.connection import ConnectionState
from wsproto.events import (
    AcceptConnection,
    BytesMessage,
    CloseConnection,
    Event,
    Message,
    Ping,
    RejectConnection,
    RejectData,
    Request,
    TextMessage,
)
from wsproto.utilities import LocalProtocolError, RemoteProtocolError
from zope.interface import implementer

from broker.session.origin import PROXY_HEADERS, is_own_page

if TYPE_CHECKING:
    from broker.net.connection import Connection
    from broker.net.listener import ConnectionFactory

log = logging.getLogger(__name__)

PATHS: Final = ("/ws", "/ws/")
SUBPROTOCOLS: Final = ("v12.stomp", "v11.stomp", "v10.stomp")
"""In the order of preference; a client that names none of them is served all the same."""
MESSAGE_BYTES: Final = 65_536
"""A message that goes out ends after the frame with which it reaches so much."""
NORMAL, GOING_AWAY, PROTOCOL_ERROR, TOO_BIG = 1000, 1001, 1002, 1009


@dataclass(frozen=True, slots=True)
class WebSocketLimits:
    """What a WebSocket peer may do: bytes of one message, seconds until the handshake is done, and whose pages may connect.

    `origins` empty: all; else the `Origin` header must be one of them (a client that is no browser sends none, and may connect).
    """

    message_bytes_max: int
    handshake_seconds: float
    origins: tuple[str, ...] = ()
    connections_max: int = 10_000


@final
class WebSocketFactory(Factory):
    """Makes the WebSocket connections of one listener, each with a connection of `inner` behind it."""

    noisy = False

    def __init__(
        self, inner: ConnectionFactory, limits: WebSocketLimits, call_later: Callable[..., Any]
    ) -> None:
        self._inner = inner
        self._limits = limits
        self._call_later = call_later
        self._open: dict[WebSocket, None] = {}

    def buildProtocol(self, addr: Any) -> WebSocket | None:
        if len(self._open) >= self._limits.connections_max:
            log.warning("websocket listener: refused %s: its bound (max-connections)", addr)
            return None
        inner = self._inner.buildProtocol(addr)
        if inner is None:
            return None
        return WebSocket(inner, self._limits, self._call_later, self._open)


@implementer(IHandshakeListener)
@final
class WebSocket(Protocol):
    """One WebSocket connection: handshake, messages in, close."""

    def __init__(
        self,
        inner: Connection,
        limits: WebSocketLimits,
        call_later: Callable[..., Any],
        listing: dict[WebSocket, None],
    ) -> None:
        self._inner = inner
        self._limits = limits
        self._call_later = call_later
        self._listing = listing
        self._wire = WSConnection(ConnectionType.SERVER)
        self._timer: Any = None
        self._is_open = False
        self._has_tls = False
        self._message_bytes = 0

    # Twisted's side

    def connectionMade(self) -> None:
        self._listing[self] = None
        self._timer = self._call_later(self._limits.handshake_seconds, self._late)

    def handshakeCompleted(self) -> None:
        """TLS is done: the connection behind is told once it is there."""
        self._has_tls = True

    def dataReceived(self, data: bytes) -> None:
        if self._wire.state in (ConnectionState.CLOSED, ConnectionState.REJECTING):
            return
        try:
            self._wire.receive_data(data)
            for event in self._wire.events():
                self._take(event)
        except RemoteProtocolError as error:
            self._refuse(error)

    def connectionLost(self, reason: Failure | None = None) -> None:
        self._listing.pop(self, None)
        self._stop_timer()
        if self._is_open:
            self._is_open = False
            self._inner.connectionLost(reason)

    def _late(self) -> None:
        self._timer = None
        transport: Any = self.transport
        transport.abortConnection()

    def _stop_timer(self) -> None:
        if self._timer is not None:
            self._timer.cancel()
            self._timer = None

    # Events

    def _take(self, event: Event) -> None:
        if isinstance(event, Request):
            self._answer(event)
        elif isinstance(event, Message):
            self._receive(event)
        elif isinstance(event, Ping):
            if self._inner._is_writable:
                # To a peer that does not read, a pong would only be kept.
                self.send(event.response())
        elif isinstance(event, CloseConnection):
            if self._wire.state is ConnectionState.REMOTE_CLOSING:
                self.send(event.response())
            elif self._wire.state is ConnectionState.OPEN:
                # Not the peer's, but wsproto's verdict on what came from it.
                self.send(event)
            transport: Any = self.transport
            transport.loseConnection()

    def _answer(self, request: Request) -> None:
        self._stop_timer()
        path = request.target.partition("?")[0]
        origin = next((v.decode("latin-1") for n, v in request.extra_headers if n == b"origin"), "")
        if path not in PATHS:
            self._reject(404, f"STOMP over WebSocket is at {PATHS[0]}\n")
            return
        if origin and self._limits.origins and origin not in self._limits.origins:
            log.warning("websocket: refused a page of %s: not among `origins`", origin[:200])
            self._reject(403, "Pages of this origin may not connect\n")
            return
        is_proxied = any(
            name.decode("latin-1") in PROXY_HEADERS for name, _ in request.extra_headers
        )
        # Everybody knows guest's password: a page of anywhere, in a browser of this machine, must not be guest.
        is_foreign = is_proxied or not (is_own_page(origin) or origin in self._limits.origins)
        chosen = next((one for one in SUBPROTOCOLS if one in request.subprotocols), None)
        self.send(AcceptConnection(subprotocol=chosen))
        self._is_open = True
        inner: Any = self._inner
        inner.makeConnection(Messages(self, self.transport, is_foreign))
        if self._has_tls:
            self._inner.handshakeCompleted()

    def _reject(self, status: int, text: str) -> None:
        headers = [(b"content-type", b"text/plain"), (b"content-length", b"%d" % len(text))]
        self.send(RejectConnection(status_code=status, headers=headers, has_body=True))
        self.send(RejectData(data=text.encode(), body_finished=True))
        transport: Any = self.transport
        transport.loseConnection()

    def _receive(self, event: Message[Any]) -> None:
        data = event.data
        piece = data.encode() if isinstance(data, str) else bytes(data)
        self._message_bytes += len(piece)
        if self._message_bytes > self._limits.message_bytes_max:
            self.close(TOO_BIG, f"a message of more than {self._limits.message_bytes_max} bytes")
            transport: Any = self.transport
            transport.loseConnection()
            return
        if event.message_finished:
            self._message_bytes = 0
        if piece:
            self._inner.dataReceived(piece)

    def _refuse(self, error: RemoteProtocolError) -> None:
        """Say what was wrong, as far as the state of the connection allows, and close."""
        hint = error.event_hint
        if isinstance(hint, RejectConnection):
            self._reject(hint.status_code if hint.status_code >= 400 else 400, f"{error}\n")
            return
        if hint is not None and self._is_open:
            self.send(hint)
        transport: Any = self.transport
        transport.loseConnection()

    # Out

    def send(self, event: Event) -> None:
        """Write an event, unless the connection has got too far for it."""
        transport: Any = self.transport
        try:
            transport.write(self._wire.send(event))
        except LocalProtocolError:
            log.debug("websocket: %s came too late", type(event).__name__)

    def send_frames(self, pieces: Sequence[bytes]) -> None:
        """Write STOMP frames as one message, text if they are."""
        joined = b"".join(pieces)
        try:
            self.send(TextMessage(data=joined.decode()))
        except UnicodeDecodeError:
            self.send(BytesMessage(data=joined))

    def close(self, code: int, reason: str = "") -> None:
        """Begin to close; the socket follows when the peer has answered."""
        self.send(CloseConnection(code=code, reason=reason or None))


@final
class Messages:
    """The transport that a `Connection` sees: writes become messages, the rest is the socket's."""

    takes_whole_frames = True

    def __init__(self, socket: WebSocket, transport: Any, is_foreign: bool = False) -> None:
        self.is_foreign = is_foreign
        """Whether it speaks for somebody who is not at the peer's address, so that a loopback one says nothing."""
        self._socket = socket
        self._transport = transport
        self._code = NORMAL

    def __getattr__(self, name: str) -> Any:
        return getattr(self._transport, name)

    def write(self, data: bytes) -> None:
        """Write whole frames."""
        self.writeSequence([data])

    def writeSequence(self, pieces: Iterable[bytes]) -> None:
        """Write pieces of whole frames each."""
        group: list[bytes] = []
        size_bytes = 0
        for piece in pieces:
            group.append(piece)
            size_bytes += len(piece)
            if size_bytes >= MESSAGE_BYTES:
                self._socket.send_frames(group)
                group = []
                size_bytes = 0
        if group:
            self._socket.send_frames(group)
            self._note(group[-1])

    def _note(self, last: bytes) -> None:
        """What the last frame says is why the connection closes after it."""
        if last.startswith(b"ERROR\n"):
            is_stopping = last.startswith(b"ERROR\nmessage:Server shutdown")
            self._code = GOING_AWAY if is_stopping else PROTOCOL_ERROR
        else:
            self._code = NORMAL

    def loseConnection(self) -> None:
        """Close in WebSocket's manner; `Connection` aborts if the peer does not answer."""
        self._socket.close(self._code)

    def loseWriteConnection(self) -> None:
        """The same: a WebSocket is closed by both sides."""
        self.loseConnection()
