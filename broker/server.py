"""The composition root: a broker process from its configuration.

Opens the store, rebuilds the core, listens, and stops cleanly on SIGTERM or SIGINT.  Stopping is a checkpoint and an
exit; `kill -9` at any moment is as good.  Tests: tests/interop/, tests/crash/.
"""

from __future__ import annotations

import gc
import logging
import os
import secrets
import signal
import socket
import sys
from typing import TYPE_CHECKING, Any, final

from twisted.internet.error import CannotListenError

from broker.clock import SystemClock
from broker.core.broker import Broker
from broker.core.destination import AddressTable
from broker.errors import BrokerError
from broker.net.checks import Checks
from broker.net.connection import BLOCKED_REASON, Connection, SessionFactory
from broker.net.late import LateFactory
from broker.net.listener import ConnectionFactory
from broker.net.turn import Turn
from broker.session.accounts import AccountRegister
from store.errors import StoreError

if TYPE_CHECKING:
    from broker.config import Config, Listener
    from broker.net.tls_files import TlsFiles
    from broker.session.base import Session, Wake
    from store.interface import Store

log = logging.getLogger("gridmsg.broker")

SWITCH_SECONDS = 0.0005
TICK_SECONDS = 0.1
LATE_SECONDS = 2.0
"""How long after its start a broker imports what no client needed yet."""
WEBSOCKET_SLACK_BYTES = 64 << 10
"""A WebSocket message may hold so much beside the largest frame."""
STOP_SECONDS = 1.0
"""How long a clean stop lets connections write their farewells."""


class StartFailed(Exception):
    """The broker cannot start; the text says what to do."""


def run(config: Config) -> int:
    """Run a broker until it is told to stop; returns the exit status (0, or 1 when it could not start or its store failed)."""
    from twisted.internet import reactor as installed

    reactor: Any = installed
    try:
        server = Server(config, reactor)
        server.start()
    except (StartFailed, StoreError) as error:
        sys.stderr.write(f"gridmsg broker: {error}\n")
        return 1
    # Twisted would put its own handlers over ours, and stop without a farewell.
    reactor.run(installSignalHandlers=False)
    return server.exit_status


@final
class Server:
    """One broker with its store and listeners."""

    def __init__(self, config: Config, reactor: Any) -> None:
        self._config = config
        self._reactor = reactor
        self._connections: dict[Connection, None] = {}
        self._ports: list[Any] = []
        self._checks = Checks(reactor.callFromThread)
        self._is_stopping = False
        self._late: LateFactory | None = None
        self.exit_status = 0

    def start(self) -> None:
        """Open the store and listen; raises StartFailed or StoreError with nothing left open."""
        config = self._config
        folder = config.broker_folder
        try:
            folder.mkdir(parents=True, exist_ok=True)
        except OSError as error:
            raise StartFailed(
                f"cannot make the data folder {folder}: {error.strerror}; choose one you may write to with --data"
            ) from None
        if not os.access(folder, os.W_OK | os.X_OK):
            raise StartFailed(
                f"no permission to write to {folder}; change its owner, or choose another with --data"
            )
        self._store = self._make_store()
        try:
            self._open()
            self._listen()
        except BaseException:
            for port in self._ports:
                port.stopListening()
            self._store.close()
            raise
        self._config.pid_file.write_text(f"{os.getpid()}\n")
        self._reactor.addSystemEventTrigger("after", "startup", self._started)
        for number in (signal.SIGTERM, signal.SIGINT):
            signal.signal(number, lambda *_: self._reactor.callFromThread(self.stop))

    def _make_store(self) -> Store:
        from store.journal import Journal

        return Journal(str(self._config.broker_folder), self._config.store_settings())

    def _open(self) -> None:
        config = self._config
        reactor = self._reactor
        recovered = self._store.open(
            reactor.callFromThread, self._durable, self._failed, self._blocked
        )
        self._epoch = recovered.epoch
        self._broker = Broker(
            self._store,
            SystemClock(),
            lambda: secrets.token_urlsafe(16),
            limits=config.core_limits(),
            addresses=AddressTable(config.addresses),
        )
        self._turn = Turn(self._broker, self._store, lambda call: reactor.callLater(0, call))
        self._broker.restore(recovered)
        for name in config.broker.vhosts:
            self._broker.add_vhost(name)
        self._accounts = config.accounts()
        self._accounts.check_later = self._checks
        self._register = AccountRegister(self._broker, self._accounts, config.broker.vhosts)
        self._register.restore(recovered.definitions)
        self._register.on_changed = self._recheck
        self._make_routes()
        self._turn.schedule()

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

    def _listen(self) -> None:
        for listener in self._config.listeners:
            factory = self._factory(listener)
            if listener.tls is not None:
                factory = self._secured(listener.tls, listener.protocol, factory)
            try:
                port = self._reactor.listenTCP(
                    listener.port, factory, backlog=1024, interface=listener.host
                )
            except CannotListenError as error:
                reason = error.socketError
                text = getattr(reason, "strerror", None) or str(reason)
                raise StartFailed(
                    f"cannot listen for {listener.protocol} on {listener.host}:{listener.port}: {text}; stop what "
                    "listens there, or shift all default ports with --port-offset N"
                ) from None
            self._ports.append(port)

    def _factory(self, listener: Listener) -> Any:
        if listener.protocol == "management":
            self._late = LateFactory("broker.management.api", self._make_management)
            return self._late
        factory = ConnectionFactory(
            self._broker,
            self._turn,
            self._session_factory(listener),
            self._reactor.callLater,
            self._connections,
            listener.protocol,
            listener.connections_max,
        )
        if listener.protocol != "websocket":
            return factory
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

    @staticmethod
    def _secured(files: TlsFiles, name: str, factory: Any) -> Any:
        from broker.net.tls import TlsContext, TlsFactory, TlsFailure

        try:
            return TlsFactory(TlsContext(files), name, factory)
        except TlsFailure as error:
            raise StartFailed(
                f"TLS for {name}: {error}; make the files with `gridmsg certs`, and name them in [tls]"
            ) from None

    def _recheck(self) -> None:
        """Accounts or vhosts changed."""
        for connection in list(self._connections):
            connection.recheck()

    def _make_management(self) -> Any:
        from broker.management.api import site

        return site(self._broker, self._accounts, self.describe, self._turn, self._register)

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
        log.warning(
            "publishers %s: %s",
            "blocked" if is_blocked else "unblocked",
            self._store.stat().get("blocked_reason", "store"),
        )
        for connection in list(self._connections):
            connection.set_blocked(BLOCKED_REASON if is_blocked else None)

    def _failed(self, error: BaseException) -> None:
        log.critical(
            "the store failed, nothing more is promised, stopping: %s: %s",
            type(error).__name__,
            error,
        )
        self.exit_status = 1
        self._turn.fail()
        for connection in list(self._connections):
            connection.abort()
        self._reactor.callLater(0, self._finish)

    # Life

    def _started(self) -> None:
        self._tick()
        if self._late is not None:
            self._reactor.callLater(LATE_SECONDS, self._late.prepare)
        # Long-lived from here on: the collector need not look at it again (performance.md, "How to keep it").
        gc.collect()
        gc.freeze()
        gc.set_threshold(50_000, 50, 50)
        # The journal's thread needs the interpreter for microseconds after each sync; at the default of 5 ms it
        # would wait that long for a busy reactor (measured: a quarter off the cost of T2).
        sys.setswitchinterval(SWITCH_SECONDS)
        places = ", ".join(
            f"{one.protocol}{' with TLS' if one.tls else ''} {port.getHost().host}:{port.getHost().port}"
            for one, port in zip(self._config.listeners, self._ports, strict=True)
        )
        log.info(
            "broker active, epoch %d, data %s: %s", self._epoch, self._config.data_folder, places
        )

    def _tick(self) -> None:
        if self._is_stopping:
            return
        if self._broker.needs_ticks:
            self._broker.tick()
            self._turn.schedule()
        self._reactor.callLater(TICK_SECONDS, self._tick)

    def stop(self) -> None:
        """Stop cleanly: tell the peers, keep the promises under way, checkpoint, exit."""
        if self._is_stopping:
            return
        self._is_stopping = True
        log.info("stopping")
        for port in self._ports:
            port.stopListening()
        for connection in list(self._connections):
            connection.shutdown("broker forced connection closure with reason 'shutdown'")
        self._wait_for_connections(self._reactor.seconds() + STOP_SECONDS)

    def _wait_for_connections(self, deadline: float) -> None:
        if self._connections and self._reactor.seconds() < deadline:
            self._reactor.callLater(0.02, self._wait_for_connections, deadline)
            return
        for connection in list(self._connections):
            connection.abort()
        self._reactor.callLater(0.01, self._finish)

    def _finish(self) -> None:
        self._is_stopping = True
        self._checks.stop()
        if self.exit_status == 0:
            self._turn.end()
        try:
            self._store.close()
        except (StoreError, OSError) as error:
            log.critical("the store did not close cleanly: %s", error)
            self.exit_status = 1
        self._config.pid_file.unlink(missing_ok=True)
        if self._reactor.running:
            self._reactor.stop()

    # For status and management

    def describe(self) -> dict[str, Any]:
        """What the management API shows besides the core: role, listeners, connections, store."""
        return {
            "role": "stopping" if self._is_stopping else "active",
            "name": self._config.broker.name or f"gridmsg@{socket.gethostname()}",
            "epoch": self._epoch,
            "pid": os.getpid(),
            "data": str(self._config.data_folder),
            "listeners": [
                {
                    "protocol": one.protocol,
                    "is_tls": one.tls is not None,
                    "host": port.getHost().host,
                    "port": port.getHost().port,
                }
                for one, port in zip(self._config.listeners, self._ports, strict=True)
            ],
            "connections": [
                {
                    "peer": connection.peer,
                    "opened_at_ms": connection.opened_at_ms,
                    "protocol": type(connection.session).__name__,
                    "is_publisher": connection.is_publisher,
                }
                for connection in self._connections
            ],
            "is_blocked": self._store.is_blocked,
            "store": self._store.stat(),
        }
