"""The composition root of an active broker: one ownership of the store, from opening it to letting it go.

Opens the store, rebuilds the core, listens (`broker.listening`), and stops; `broker.duty` decides when.
Tests: tests/interop/, tests/crash/.
"""

from __future__ import annotations

import contextlib
import gc
import logging
import os
import secrets
import socket
import sys
from collections.abc import Callable
from typing import TYPE_CHECKING, Any, final

from broker.clock import SystemClock
from broker.config import split_address
from broker.core.broker import Broker
from broker.core.destination import AddressTable
from broker.errors import BrokerError
from broker.link_config import row_settings, shown_row
from broker.listening import Ports, StartFailed, all_sockets
from broker.net.checks import Checks
from broker.net.connection import Connection, SessionFactory
from broker.net.late import LateFactory
from broker.net.links import Links
from broker.net.listener import ConnectionFactory
from broker.net.turn import Turn
from broker.session.accounts import AccountRegister
from store.journal import Journal

if TYPE_CHECKING:
    from broker.config import Config, Listener
    from broker.session.base import Session, Wake
    from store.interface import Recovered
    from store.lease.held import Lease
    from store.lease.host import RealHost

log = logging.getLogger("gridmsg.broker")

SWITCH_SECONDS = 0.0005
TICK_SECONDS = 0.1
LATE_SECONDS = 2.0
"""How long after its start a broker imports what no client needed yet."""
WEBSOCKET_SLACK_BYTES = 64 << 10
"""A WebSocket message may hold so much beside the largest frame."""
STOP_SECONDS = 1.0
"""How long a clean stop lets connections write their farewells."""


@final
class Server:
    """An active broker with its store and listeners.

    `host` is this machine, as the store's marks name it.  `is_open` is the clock fence: nothing is delivered once it says
    no.  `on_failed(server, error)` is called once when the store can promise nothing any more; every socket is closed by then.
    """

    def __init__(
        self,
        config: Config,
        reactor: Any,
        host: RealHost,
        lease: Lease | None,
        is_open: Callable[[], bool] | None,
        on_failed: Callable[[Server, BaseException], None],
        describe_failover: Callable[[], dict[str, Any]],
    ) -> None:
        self._config = config
        self._reactor = reactor
        self._lease = lease
        self._is_open = is_open
        self._on_failed = on_failed
        self._describe_failover = describe_failover
        self._connections: dict[Connection, None] = {}
        self._ports = Ports(reactor, config.listeners, self._factory)
        self._checks = Checks(reactor.callFromThread)
        self._is_stopping = False
        self._late: list[LateFactory] = []
        self._told_reason: str | None = None
        self._recovered: Recovered | None = None
        self._store = Journal(
            str(config.broker_folder), config.store_settings(), host=host, lease=lease
        )
        self.is_open = False
        """Whether the store is open."""

    def open_store(self) -> None:
        """Open the store, in any thread.  Raises StoreError, OSError with nothing left open."""
        self._recovered = self._store.open(
            self._reactor.callFromThread, self._durable, self._failed, self._blocked
        )
        self.is_open = True

    def serve(self) -> None:
        """Rebuild the core from what the store held.  Raises StartFailed."""
        config = self._config
        reactor = self._reactor
        recovered, self._recovered = self._recovered, None
        assert recovered is not None, "the store is opened first"
        self._epoch = recovered.epoch
        self._broker = Broker(
            self._store,
            SystemClock(),
            lambda: secrets.token_urlsafe(16),
            limits=config.core_limits(),
            addresses=AddressTable(config.addresses),
        )
        self._turn = Turn(
            self._broker, self._store, lambda call: reactor.callLater(0, call), self._is_open
        )
        self._broker.restore(recovered)
        for name in config.broker.vhosts:
            self._broker.add_vhost(name)
        self._accounts = config.accounts()
        self._accounts.check_later = self._checks
        self._accounts.slow_down(self._broker.clock.now, reactor.callLater)
        strangers = all_sockets().strangers
        strangers.count_max = config.auth.max_strangers
        self._accounts.on_entered = strangers.go
        self._register = AccountRegister(self._broker, self._accounts, config.broker.vhosts)
        self._register.restore(recovered.definitions)
        self._register.on_changed = self._recheck
        self._links = self._make_links(recovered)
        self._make_routes()
        self._turn.schedule()

    def _make_links(self, recovered: Recovered) -> Links:
        links = Links(
            self._broker,
            self._turn,
            self._reactor,
            self._connections,
            self._accounts,
            self._config.broker.name or f"gridmsg@{socket.gethostname()}",
            lambda row: row_settings(row, split_address),
            shown_row,
            self._config.read_links,
        )
        links.restore(recovered)
        links.configure(self._config.links, recovered.definitions)
        if self._config.is_file_changed:
            # A standby that takes over: `[[link]]` may have been reloaded since it read its file.
            try:
                links.reload()
            except BrokerError as error:
                log.error("links are those of this process's start: %s", error.text)
        return links

    def prod_store(self) -> None:
        """Ask the store's writer for a sign of life; in any thread."""
        self._store.prod()

    def _make_routes(self) -> None:
        vhost = self._broker.vhosts["/"]
        for route in self._config.routes:
            try:
                if route.queue not in vhost.queues:
                    vhost.declare_queue(route.queue, durable=True)
                if not route.exchange:
                    continue
                if route.exchange not in vhost.exchanges:
                    address = vhost.addresses.match_exchange(route.exchange)
                    kind = address.exchange_kind if address is not None else "fanout"
                    vhost.declare_exchange(route.exchange, kind, durable=True)
                vhost.bind_queue(route.queue, route.exchange, route.key)
            except BrokerError as error:
                raise StartFailed(f"[[route]] {route.exchange} → {route.queue}: {error}") from None

    # Listeners

    def listen(self, kept: dict[int, Any]) -> None:
        """Listen where we do not yet.  `kept` has the ports that outlive an ownership, by listener.  Raises StartFailed."""
        self._ports.open(kept)

    def _factory(self, listener: Listener) -> Any:
        if listener.protocol == "management":
            self._late.append(LateFactory("broker.management.api", self._make_management))
            return self._late[-1]
        factory = ConnectionFactory(
            self._broker,
            self._turn,
            self._session_factory(listener),
            self._reactor.callLater,
            self._connections,
            listener.protocol,
            listener.connections_max,
            self._links.sniff if listener.protocol == "amqp" else None,
        )
        if listener.protocol != "websocket":
            return factory
        self._late.append(
            LateFactory("broker.net.websocket", lambda: self._make_websocket(listener, factory))
        )
        return self._late[-1]

    def _make_websocket(self, listener: Listener, factory: ConnectionFactory) -> Any:
        from broker.net.websocket import WebSocketFactory, WebSocketLimits

        limits = listener.limits
        return WebSocketFactory(
            factory,
            WebSocketLimits(
                message_bytes_max=limits.body_size + limits.header_size + WEBSOCKET_SLACK_BYTES,
                handshake_seconds=limits.login_timeout,
                origins=listener.origins,
                connections_max=listener.connections_max,
            ),
            self._reactor.callLater,
        )

    def _recheck(self) -> None:
        """Accounts or vhosts changed."""
        for connection in list(self._connections):
            connection.recheck()

    def _make_management(self) -> Any:
        from broker.management.api import site

        return site(
            self._broker,
            self._accounts,
            self.describe,
            self._turn,
            self._register,
            self._links,
            self._close_connection,
        )

    def _close_connection(self, name: str, text: str) -> bool:
        """End the connections of that name (`describe`); whether there are any."""
        found = [one for one in self._connections if one.peer == name]
        for connection in found:
            log.info("connection %s is closed by an administrator: %s", name, text)
            connection.shutdown(text)
        return bool(found)

    def _session_factory(self, listener: Listener) -> SessionFactory:
        broker, accounts, clock = self._broker, self._accounts, self._broker.clock
        if listener.protocol in ("stomp", "websocket"):
            from broker.session.stomp import StompSession

            stomp_limits = self._config.stomp_limits(listener)

            def make_stomp(peer: str, is_loopback: bool, wake: Wake) -> Session:
                return StompSession(
                    broker, accounts, stomp_limits, wake, peer, is_loopback, clock.now()
                )

            return make_stomp
        from broker.session.amqp_connection import AmqpConnection

        amqp_limits = self._config.amqp_limits(listener)

        def make_amqp(peer: str, is_loopback: bool, wake: Wake) -> Session:
            return AmqpConnection(
                broker, accounts, amqp_limits, wake, peer, is_loopback, clock.now()
            )

        return make_amqp

    # The store's side

    def _durable(self, commit: int) -> None:
        self._turn.on_durable(commit)

    def _blocked(self, is_blocked: bool) -> None:
        self._tell_blocked()

    def _tell_blocked(self) -> None:
        """Tell publishers to wait, or to go on, when that has changed."""
        reason = self._broker.blocked_reason
        if (reason is None) == (self._told_reason is None):
            return
        detail = self._store.blocked_reason
        log.warning(
            "publishers %s: %s",
            "may go on" if reason is None else "wait",
            f"{self._told_reason if reason is None else reason}{f' ({detail})' if detail else ''}",
        )
        self._told_reason = reason
        for connection in list(self._connections):
            connection.set_blocked(reason)

    def _failed(self, error: BaseException) -> None:
        log.critical(
            "the store failed, nothing more is promised: %s: %s",
            type(error).__name__,
            error,
        )
        self.cut()
        self._on_failed(self, error)

    # Life

    def started(self) -> None:
        """Clients may come: begin to tick."""
        self._tick()
        self._links.start()
        for late in self._late:
            self._reactor.callLater(LATE_SECONDS, late.prepare)
        # Long-lived from here on: the collector need not look at it again (performance.md, "How to keep it"), not even
        # once: ten thousand queues would wait 0.1 s for it.
        gc.freeze()
        gc.set_threshold(50_000, 50, 50)
        gc.enable()
        # The journal's thread needs the interpreter for microseconds after each sync; at the default of 5 ms it
        # would wait that long for a busy reactor (measured: a quarter off the cost of T2).
        sys.setswitchinterval(SWITCH_SECONDS)
        log.info(
            "broker active, epoch %d, data %s: %s",
            self._epoch,
            self._config.data_folder,
            self._ports.places(),
        )
        self._ports.warn()

    def _tick(self) -> None:
        if self._is_stopping:
            return
        if self._broker.needs_ticks:
            self._broker.tick()
            self._turn.schedule()
        if self._broker.memory.look():
            self._tell_blocked()
        self._links.look()
        self._reactor.callLater(TICK_SECONDS, self._tick)

    def stop(self, is_polite: bool, done: Callable[[], None]) -> None:
        """Stop listening, tell the peers, keep the promises under way; `done` is called when all are gone."""
        if self._is_stopping:
            done()
            return
        self._is_stopping = True
        self._ports.stop()
        self._links.stop()
        for connection in list(self._connections):
            connection.shutdown("broker forced connection closure with reason 'shutdown'")

        def gone() -> None:
            self._checks.stop()
            if is_polite:
                self._turn.end()
            done()

        self._wait_for_connections(self._reactor.seconds() + STOP_SECONDS, gone)

    def _wait_for_connections(self, deadline: float, gone: Callable[[], None]) -> None:
        if self._connections and self._reactor.seconds() < deadline:
            self._reactor.callLater(0.02, self._wait_for_connections, deadline, gone)
            return
        for connection in list(self._connections):
            connection.abort()
        self._reactor.callLater(0.01, gone)

    def cut(self) -> None:
        """Close every socket at once and promise nothing more: the guard is closed, or the store failed."""
        if self._is_stopping:
            return
        self._is_stopping = True
        self.shut_sockets()
        self._ports.stop()
        if hasattr(self, "_turn"):
            self._turn.fail()
        for connection in list(self._connections):
            connection.abort()
        self._checks.stop_soon()

    def shut_sockets(self) -> None:
        """Shut every socket below Twisted, in any thread: peers see it even if the reactor hangs."""
        for connection in list(self._connections):
            with contextlib.suppress(Exception):
                transport: Any = connection.transport
                transport.getHandle().shutdown(socket.SHUT_RDWR)
        self._ports.shut()

    def close_store(self) -> None:
        """Write what waits, checkpoint, release; in any thread.  Raises StoreError, OSError."""
        self.is_open = False
        self._store.close()

    def abandon(self) -> None:
        """Undo a start that failed.  Raises StoreError, OSError."""
        self._is_stopping = True
        self._ports.stop()
        self.close_store()

    # For status and management

    def describe(self) -> dict[str, Any]:
        """What the management API shows besides the core: role, listeners, connections, store."""
        return {
            "role": "stopping" if self._is_stopping else "active",
            "name": self._config.broker.name or f"gridmsg@{socket.gethostname()}",
            "epoch": self._epoch,
            "pid": os.getpid(),
            "data": str(self._config.data_folder),
            "listeners": self._ports.describe(),
            "connections": [
                {
                    "peer": connection.peer,
                    "opened_at_ms": connection.opened_at_ms,
                    "protocol": type(connection.session).__name__,
                    "client_properties": getattr(connection.session, "client_properties", {}),
                    "is_publisher": connection.is_publisher,
                    "state": "closing" if connection.is_closing else "running",
                }
                for connection in self._connections
            ],
            "is_blocked": self._broker.blocked_reason is not None,
            "blocked_reason": self._broker.blocked_reason or "",
            "memory": {
                "used_bytes": self._broker.memory.used_bytes,
                "limit_bytes": self._broker.memory.limit_bytes,
                "window_bytes": self._broker.memory.window.bytes,
            },
            "store": self._store.stat(),
            "links": self._links.describe(),
            "link_origins": self._links.table.origins.describe(),
            "failover": self._describe_failover(),
        }
