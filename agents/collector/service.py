"""The collector as a process: puts the parts together, runs until told to stop.

Invariants: stops within two seconds, with every request that was answered `OK` at the broker or in the spool.
Tests: tests/interop/test_collector.py.
"""

from __future__ import annotations

import logging
import time
from collections.abc import Callable
from pathlib import Path
from typing import Final, Protocol, cast, final

from twisted.internet import reactor as _reactor
from twisted.internet.address import IPv4Address
from twisted.internet.defer import Deferred
from twisted.internet.error import CannotListenError
from twisted.internet.task import LoopingCall
from twisted.internet.threads import deferToThread
from twisted.python.threadpool import ThreadPool

from agents.collector.http import CollectorFactory, Gate
from agents.collector.probes import ProbeBook
from agents.collector.quarantine import Quarantine
from agents.collector.sender import Publisher, Sender
from agents.config import CollectorSettings, split_address
from agents.errors import AgentError
from agents.outbox import Outbox
from agents.transport import Transport

log = logging.getLogger(__name__)

FOLDER: Final = "collector"
WORKERS_MAX: Final = 2
PROBES_SAVE_SECONDS: Final = 5.0
GRACE_SECONDS: Final = 0.5
"""How long stopping waits for the broker before what is left goes to the spool."""


class _Port(Protocol):
    """A listening port."""

    def getHost(self) -> IPv4Address: ...  # noqa: N802
    def stopListening(self) -> object: ...  # noqa: N802


class _Reactor(Protocol):
    """What we use of Twisted's reactor (its interfaces cannot say it to a type checker)."""

    def listenTCP(  # noqa: N802
        self, port: int, factory: object, backlog: int, interface: str
    ) -> _Port: ...
    def callFromThread(self, call: Callable[[], None]) -> None: ...  # noqa: N802
    def callWhenRunning(self, call: Callable[[str], None], text: str) -> None: ...  # noqa: N802
    def addSystemEventTrigger(  # noqa: N802
        self, phase: str, event: str, call: Callable[[], object]
    ) -> object: ...
    def run(self) -> None: ...


@final
class Collector:
    """The parts of a collector over one data folder, and their start and stop."""

    def __init__(
        self, settings: CollectorSettings, data_folder: Path, publisher: Publisher | None = None
    ) -> None:
        """Open the folders; raise AgentError when they cannot be used. `publisher` is for tests."""
        folder = data_folder / FOLDER
        self.settings = settings
        self._data_folder = data_folder
        self._reactor = cast("_Reactor", _reactor)
        self._transport = None
        if publisher is None:
            publisher = self._transport = Transport(settings.broker, settings.name)
        self._outbox = Outbox(folder / "spool", settings.spool_bytes_max, settings.spool_files_max)
        try:
            self._quarantine = Quarantine(folder / "quarantine", settings.quarantine_files_max)
            self._probes = ProbeBook(folder / "probes.json", settings.probes_max)
        except OSError as error:
            raise AgentError(f"cannot use the folder {folder}: {error.strerror}") from error
        self._sender = Sender(
            publisher,
            self._outbox,
            self._quarantine,
            settings.destination,
            settings.confirm_timeout_seconds,
        )
        self._workers = ThreadPool(1, WORKERS_MAX, "collector-intake")
        self.gate = Gate(
            settings,
            self._sender,
            self._outbox,
            self._quarantine,
            self._probes,
            self._workers.callInThread,
            self._reactor.callFromThread,
        )
        self._saving = LoopingCall(self._save_probes)
        self.url = ""

    def start(self) -> None:
        """Listen and connect; raise AgentError when the port cannot be had."""
        host, port = split_address(self.settings.address)
        try:
            self._port = self._reactor.listenTCP(port, self._factory(), backlog=511, interface=host)
        except CannotListenError as error:
            reason = getattr(error.socketError, "strerror", None) or error.socketError
            raise AgentError(
                f"cannot listen on {self.settings.address}: {reason};"
                " stop the other program or set [collector] address"
            ) from error
        shown = f"[{host}]" if ":" in host else host
        scheme = "https" if self.settings.tls.certificate else "http"
        self.url = f"{scheme}://{shown}:{self._port.getHost().port}"
        if self._transport is not None:
            self._transport.start()
            self._transport.open_publisher()
        self._workers.start()
        self._sender.start()
        self._saving.start(PROBES_SAVE_SECONDS, now=False)
        log.info("collector %s takes records at %s", self.settings.name, self.url)

    def _factory(self) -> object:
        """What listens, with TLS if it is configured; raises AgentError when its files are no good."""
        factory = CollectorFactory(self.gate)
        tls = self.settings.tls
        if not tls.certificate:
            return factory
        from broker.net.tls import TlsContext, TlsFactory, TlsFailure
        from broker.net.tls_files import TlsFiles

        files = TlsFiles(
            self._data_folder / tls.certificate,
            self._data_folder / tls.key,
            self._data_folder / tls.ca if tls.ca else None,
            tls.verify if tls.ca else "none",
            tls.min_version,
        )
        try:
            return TlsFactory(TlsContext(files), "collector", factory)
        except TlsFailure as error:
            raise AgentError(f"[collector.tls]: {error}") from None

    def stop(self) -> Deferred[None]:
        """Stop listening, finish what was taken, close the folders."""
        self.gate.is_stopping = True
        self._port.stopListening()
        if self._saving.running:
            self._saving.stop()
        return deferToThread(self._finish)

    def _finish(self) -> None:
        deadline = time.monotonic() + self.settings.stop_timeout_seconds
        self._wait_idle(min(deadline, time.monotonic() + GRACE_SECONDS))
        if self._transport is not None and self.gate.busy_count:
            self._transport.stop()
        self._sender.stop(max(0.1, deadline - time.monotonic() - 0.3))
        if self._transport is not None:
            self._transport.stop()
        self._wait_idle(deadline)
        self._workers.stop()
        content = self._probes.snapshot()
        if content is not None:
            self._probes.save(content)
        self._outbox.close()

    def _wait_idle(self, deadline: float) -> None:
        while self.gate.busy_count and time.monotonic() < deadline:
            time.sleep(0.01)

    def _save_probes(self) -> None:
        content = self._probes.snapshot()
        if content is not None:
            self._workers.callInThread(self._probes.save, content)


def run(
    settings: CollectorSettings,
    data_folder: Path,
    on_ready: Callable[[str], None] | None = None,
) -> None:
    """Run the collector until SIGTERM or Ctrl-C; `on_ready` gets its URL once it listens.

    Blocks; runs Twisted's reactor, so once per process.  Raises AgentError when it cannot start.
    """
    collector = Collector(settings, data_folder)
    collector.start()
    reactor = cast("_Reactor", _reactor)
    reactor.addSystemEventTrigger("before", "shutdown", collector.stop)
    if on_ready is not None:
        reactor.callWhenRunning(on_ready, collector.url)
    reactor.run()
