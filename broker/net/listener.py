"""Listening sockets: which protocol is spoken where, and how many may come.

Tests: tests/unit/broker/net/test_listener.py, tests/interop/.
"""

from __future__ import annotations

import logging
from typing import TYPE_CHECKING, Any, final

from twisted.internet.protocol import Factory

from broker.net.connection import Connection, SessionFactory, Sniff

if TYPE_CHECKING:
    from broker.core.broker import Broker
    from broker.net.turn import Turn

log = logging.getLogger(__name__)


@final
class ConnectionFactory(Factory):
    """Makes the connections of one listener, up to `connections_max` at a time.

    One more is accepted and closed at once: left in the kernel's queue it would look like a broker that hangs.
    """

    noisy = False

    def __init__(
        self,
        broker: Broker,
        turn: Turn,
        make_session: SessionFactory,
        call_later: Any,
        listing: dict[Connection, None],
        protocol: str,
        connections_max: int,
        sniff: Sniff | None = None,
    ) -> None:
        self._broker = broker
        self._turn = turn
        self._make_session = make_session
        self._call_later = call_later
        self._listing = listing
        self._connections_max = connections_max
        self._sniff = sniff
        self._open: dict[Connection, None] = {}
        self.protocol_name = protocol

    def buildProtocol(self, addr: Any) -> Connection | None:  # noqa: N802 - Twisted's name
        if len(self._open) >= self._connections_max:
            log.warning(
                "%s listener: refused %s: %d connections are open, its bound (max-connections)",
                self.protocol_name,
                addr,
                self._connections_max,
            )
            return None
        return Connection(
            self._broker,
            self._turn,
            self._make_session,
            self._call_later,
            (self._open, self._listing),
            self._sniff,
        )
