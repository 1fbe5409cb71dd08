"""The listening sockets of one ownership of the store: opened, told of, stopped, shut.

The management listener outlives an ownership: a standby's port is handed over, not opened anew.
Tests: tests/unit/broker/test_listening.py, tests/interop/, tests/crash/test_failover.py.
"""

from __future__ import annotations

import contextlib
import logging
import socket
from collections.abc import Callable, Sequence
from typing import TYPE_CHECKING, Any, final

from twisted.internet.error import CannotListenError

from broker.net.admission import AdmittedFactory, Sockets, raise_open_files
from broker.net.switch import SwitchFactory

if TYPE_CHECKING:
    from broker.config import Listener

log = logging.getLogger("gridmsg.broker")


class StartFailed(Exception):
    """The broker cannot start; the text says what to do."""


def warn_of_clear_text(listener: Listener, host: str) -> None:
    """Say so if other machines reach a listener without TLS; `host` is the address it got."""
    if listener.tls is None and host != "::1" and not host.startswith("127."):
        log.warning(
            "%s on %s:%d is open to other machines without TLS, passwords in the clear: see docs/security.md",
            listener.protocol,
            host,
            listener.port,
        )


def listen(reactor: Any, listener: Listener, factory: Any) -> Any:
    """Listen for a protocol; returns the port.  Raises StartFailed."""
    try:
        return reactor.listenTCP(listener.port, factory, backlog=1024, interface=listener.host)
    except CannotListenError as error:
        reason = error.socketError
        text = getattr(reason, "strerror", None) or str(reason)
        raise StartFailed(
            f"cannot listen for {listener.protocol} on {listener.host}:{listener.port}: {text}; stop what "
            "listens there, or shift all default ports with --port-offset N"
        ) from None


def secured(listener: Listener, factory: Any) -> Any:
    """The factory with bounds on its connections, and behind TLS where the listener wants it.  Raises StartFailed."""
    if listener.tls is None:
        return _admitted(listener, factory)
    from broker.net.tls import TlsContext, TlsFactory, TlsFailure

    try:
        return _admitted(listener, TlsFactory(TlsContext(listener.tls), listener.protocol, factory))
    except TlsFailure as error:
        raise StartFailed(
            f"TLS for {listener.protocol}: {error}; make the files with `gridmsg certs`, and name them in [tls]"
        ) from None


def _admitted(listener: Listener, factory: Any) -> Any:
    return AdmittedFactory(factory, all_sockets(), listener.protocol, listener.connections_max)


def all_sockets() -> Sockets:
    """The one count of the process: it is the process that has so many open files."""
    if not _sockets:
        _sockets.append(raise_open_files())
    return _sockets[0]


_sockets: list[Sockets] = []


@final
class Ports:
    """The ports of an active broker's listeners; `make` gives the factory of one."""

    def __init__(
        self, reactor: Any, listeners: Sequence[Listener], make: Callable[[Listener], Any]
    ) -> None:
        self._reactor = reactor
        self._listeners = listeners
        self._make = make
        self._ports: dict[int, Any] = {}

    def open(self, kept: dict[int, Any]) -> None:
        """Listen where we do not yet.  `kept` has the ports that outlive an ownership, by listener.  Raises StartFailed."""
        for index, listener in enumerate(self._listeners):
            if index in self._ports:
                continue
            factory = secured(listener, self._make(listener))
            if listener.protocol != "management":
                self._ports[index] = listen(self._reactor, listener, factory)
                continue
            if index in kept:
                kept[index].factory.switch(factory)
            else:
                kept[index] = listen(self._reactor, listener, SwitchFactory(factory))
            self._ports[index] = kept[index]

    def warn(self) -> None:
        """Say which listeners let passwords pass in the clear."""
        for listener, port in self._open():
            warn_of_clear_text(listener, port.getHost().host)

    def places(self) -> str:
        """Where what is spoken, in one line."""
        return ", ".join(
            f"{one.protocol}{' with TLS' if one.tls else ''} {port.getHost().host}:{port.getHost().port}"
            for one, port in self._open()
        )

    def describe(self) -> list[dict[str, Any]]:
        """The listeners, for status."""
        return [
            {
                "protocol": one.protocol,
                "is_tls": one.tls is not None,
                "host": port.getHost().host,
                "port": port.getHost().port,
            }
            for one, port in self._open()
        ]

    def _open(self) -> list[tuple[Listener, Any]]:
        return [
            (one, self._ports[index])
            for index, one in enumerate(self._listeners)
            if index in self._ports
        ]

    def _own(self) -> list[Any]:
        """The ports that end with the ownership: the management listener's does not."""
        return [port for one, port in self._open() if one.protocol != "management"]

    def stop(self) -> None:
        """Stop listening."""
        for port in self._own():
            port.stopListening()
        self._ports.clear()

    def shut(self) -> None:
        """Shut the sockets below Twisted, in any thread."""
        for port in self._own():
            with contextlib.suppress(Exception):
                port.socket.shutdown(socket.SHUT_RDWR)
