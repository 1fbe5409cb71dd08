"""A broker process from start to end: standby or active, again and again, until it is told to stop.

One `Server` for each ownership of the store; the management listener outlives them.  A clean stop is a checkpoint, a
release of the lease and an exit; `kill -9` at any moment is as good.  Tests: tests/crash/test_failover.py, tests/interop/.
"""

from __future__ import annotations

import contextlib
import gc
import importlib
import logging
import os
import signal
import socket
import sys
import threading
from typing import TYPE_CHECKING, Any, Final, final

from broker.failover import Failover, Locker
from broker.listening import StartFailed, listen, secured
from broker.net.checks import Checks
from broker.net.reactor import import_reactor
from broker.net.switch import SwitchFactory
from broker.server import Server
from store.errors import Fenced, StoreError
from store.files import RealFiles
from store.layout import Layout
from store.lease.directory import DirectoryLocker, Terms
from store.lease.host import RealHost, boot_seconds
from store.lease.survey import fitting_margin, look_at_mount, objections, try_folder, warnings

if TYPE_CHECKING:
    from broker.config import Config, Listener
    from store.lease.held import Lease

log = logging.getLogger("gridmsg.broker")

LISTEN_AGAIN_SECONDS: Final = 0.25
LISTEN_SECONDS_MAX: Final = 60.0
"""How long a new owner tries to get ports that the former one, on the same host, may still hold."""
SERVING_MODULES: Final = {
    "stomp": ("broker.session.stomp",),
    "amqp": ("broker.session.amqp_connection",),
    "websocket": ("broker.session.stomp", "broker.net.websocket"),
    "management": ("broker.management.api",),
}
"""What a listener's protocol imports when the broker begins to serve, or soon after."""
CLOSE_SECONDS_MAX: Final = 30.0
"""A clean stop that takes longer loses its lease, so that another may serve."""


def run(config: Config) -> int:
    """Run a broker until it is told to stop; returns the exit status (0, or 1 when it could not start or its store failed)."""
    # Until it serves it only makes what stays: the collector would look at all of it again and again.
    gc.disable()
    reactor = import_reactor()
    try:
        duty = Duty(config, reactor)
        duty.start()
    except (StartFailed, StoreError) as error:
        sys.stderr.write(f"gridmsg broker: {error}\n")
        return 1
    # Twisted would put its own handlers over ours, and stop without a farewell.
    reactor.run(installSignalHandlers=False)
    return duty.exit_status


@final
class Duty:
    """One broker process."""

    def __init__(self, config: Config, reactor: Any) -> None:
        self._config = config
        self._reactor = reactor
        self._server: Server | None = None
        self._checks: Checks | None = None
        """Logins of the standby's management; its thread begins with the first."""
        self._failover: Failover | None = None
        self._kept: dict[int, Any] = {}
        self._warnings: list[str] = []
        self._is_stopping = False
        self.exit_status = 0

    def start(self) -> None:
        """Serve, or stand by if another owns the store.  Raises StartFailed, StoreError with nothing left open."""
        self._check_folder()
        for number in (signal.SIGTERM, signal.SIGINT):
            signal.signal(number, lambda *_: self._reactor.callFromThread(self.stop))
        lease = None
        if self._config.failover.locker != "none":
            # The lease runs from the claim on, and until the reactor runs nobody can say that it moves.
            self._load(is_all=False)
            try:
                self._failover = self._make_failover()
                lease = self._failover.claim_at_once()
            except OSError as error:
                raise StartFailed(
                    f"the lease in {self._config.broker_folder} cannot be read or claimed: {error}"
                ) from None
        if lease is not None or self._failover is None:
            self._serve_now(lease)
        else:
            self._stand_by()

    def _check_folder(self) -> None:
        folder = self._config.broker_folder
        try:
            # What others of this machine must not read: messages, and what passwords are known by.
            folder.parent.mkdir(mode=0o750, parents=True, exist_ok=True)
            folder.mkdir(mode=0o750, exist_ok=True)
        except OSError as error:
            raise StartFailed(
                f"cannot make the data folder {folder}: {error.strerror}; choose one you may write to with --data"
            ) from None
        if not os.access(folder, os.W_OK | os.X_OK):
            raise StartFailed(
                f"no permission to write to {folder}; change its owner, or choose another with --data"
            )

    def _make_failover(self) -> Failover:
        settings = self._config.failover
        terms = fitting_margin(Terms(settings.lease, settings.margin, settings.drift))
        layout = Layout(RealFiles(), str(self._config.broker_folder))
        layout.make_folders()
        layout.check_format()
        self._survey(layout, terms)
        host = self._host()
        directory = DirectoryLocker(
            layout.files,
            layout.lease,
            host,
            terms,
            layout.highest_epoch,
            addresses=" ".join(
                f"{one.protocol}={one.host}:{one.port}" for one in self._config.listeners
            ),
            make_room=layout.give_up_reserve,
        )
        locker: Locker = directory
        if settings.locker == "postgresql":
            from store.lease.postgresql import PostgresqlLocker, load_psycopg

            load_psycopg()
            locker = PostgresqlLocker(
                settings.postgresql, settings.name, terms, host, directory, boot_seconds
            )
        return Failover(
            locker, terms, self._reactor.callFromThread, self._won, self._closed, self._cut
        )

    def _host(self) -> RealHost:
        """This machine, in lease and store; without its boot's name none of our deaths can be proved from it."""
        return RealHost() if self._config.failover.prove_death else RealHost(boot_id="")

    def _survey(self, layout: Layout, terms: Terms) -> None:
        """Try what the lease needs of the folder; raises StartFailed with what it cannot do."""
        trial = try_folder(layout.files, layout.lease, boot_seconds)
        found = objections(terms)
        if trial.missing:
            found.append(
                f"the file system of {layout.folder} cannot do {', '.join(trial.missing)}: with one broker only, "
                'say locker = "none"'
            )
        if found:
            raise StartFailed(f"[failover] {'; '.join(found)}")
        mount = look_at_mount(layout.files, layout.folder)
        self._warnings = warnings(terms, mount, trial)
        for text in self._warnings:
            log.warning("failover: %s", text)

    # Serving

    def _make_server(self, lease: Lease | None) -> Server:
        failover = self._failover
        server = Server(
            self._config,
            self._reactor,
            self._host(),
            lease,
            is_open=failover.is_open if failover is not None else None,
            on_failed=self._store_failed,
            describe_failover=self._describe_failover,
        )
        self._server = server
        return server

    def _serve_now(self, lease: Lease | None) -> None:
        """Open and listen before the reactor runs: the start of a broker that nobody stands against."""
        server = self._make_server(lease)
        try:
            server.open_store()
            if self._failover is not None:
                self._failover.opened(server.prod_store)
            server.serve()
            server.listen(self._kept)
        except BaseException as error:
            self._server = None
            with contextlib.suppress(StoreError, OSError):
                server.abandon()
            failover = self._failover
            if failover is not None and isinstance(error, Fenced):
                # Followed before it served, as on a machine that stood still: be a standby, not a failure.
                failover.fence(str(error))
                self._switch_to_standby()
                failover.let_go()
                self._wait_warm()
                return
            if failover is not None:
                failover.stop()
            raise
        self._reactor.addSystemEventTrigger("after", "startup", self._serving, server)

    def _won(self, lease: Lease) -> None:
        """The store is ours: open it in a thread, so that health is answered meanwhile."""
        if self._is_stopping:
            return
        server = self._make_server(lease)

        def open_store() -> None:
            try:
                server.open_store()
            except BaseException as error:
                self._reactor.callFromThread(self._not_opened, server, error)
            else:
                self._reactor.callFromThread(self._opened, server)

        threading.Thread(target=open_store, name="store-opening", daemon=True).start()

    def _not_opened(self, server: Server, error: BaseException) -> None:
        if server is not self._server:
            return
        self._server = None
        failover = self._failover
        if failover is None or self._is_stopping:
            return
        if failover.is_fenced or isinstance(error, Fenced) or failover.is_followed():
            if not failover.is_fenced:
                failover.fence(str(error))
            failover.let_go()
        else:
            failover.give_up(error)

    def _opened(self, server: Server) -> None:
        failover = self._failover
        assert failover is not None, "a store is opened in a thread after a claim only"
        if server is not self._server or self._is_stopping or failover.is_fenced:
            self._close_aside(server)
            return
        failover.opened(server.prod_store)
        try:
            server.serve()
        except Exception as error:
            log.debug("the core could not be rebuilt", exc_info=True)
            self._server = None
            with contextlib.suppress(StoreError, OSError):
                server.abandon()
            failover.give_up(error)
            return
        self._listen(server, self._reactor.seconds() + LISTEN_SECONDS_MAX)

    def _listen(self, server: Server, deadline: float) -> None:
        """Listen; ports that a stopped or dying former owner on this host still holds are tried again."""
        if server is not self._server or self._is_stopping:
            return
        try:
            server.listen(self._kept)
        except StartFailed as error:
            if self._reactor.seconds() > deadline:
                log.critical("%s", error)
                self.exit_status = 1
                self.stop()
                return
            self._reactor.callLater(LISTEN_AGAIN_SECONDS, self._listen, server, deadline)
            return
        except Exception:
            # Owning the store and serving nobody would be the worst of all.
            log.exception("the broker cannot serve, stopping")
            self.exit_status = 1
            self.stop()
            return
        self._serving(server)

    def _serving(self, server: Server) -> None:
        if server is not self._server or self._is_stopping:
            return
        if self._failover is not None:
            if self._failover.is_fenced:
                return
            self._failover.serving()
        self._config.pid_file.write_text(f"{os.getpid()}\n")
        server.started()

    # Standing by

    def _stand_by(self) -> None:
        self._wait_warm()
        assert self._failover is not None, "without a locker nobody stands by"
        self._failover.stand_by()

    def _wait_warm(self) -> None:
        """Show on the management listener what is waited for, and import meanwhile."""
        for index, listener in enumerate(self._config.listeners):
            if listener.protocol == "management" and index not in self._kept:
                self._keep_management(index, listener)
        threading.Thread(target=self._warm, name="standby-warming", daemon=True).start()

    def _warm(self) -> None:
        """Import now what serving needs: at a take-over it would be most of the work (measured: 130 of 165 ms)."""
        self._load(is_all=True)
        # Long-lived from here on; the collection before serving has little left to look at.
        gc.collect()
        gc.freeze()
        gc.enable()

    def _load(self, is_all: bool) -> None:
        """Import what the listeners need; management, which no start waits for, only if all is wanted."""
        for listener in self._config.listeners:
            if is_all or listener.protocol != "management":
                for name in SERVING_MODULES[listener.protocol]:
                    importlib.import_module(name)

    def _keep_management(self, index: int, listener: Listener) -> None:
        """Listen for health and status; where the active broker of this host has the port, do without."""
        try:
            self._kept[index] = listen(
                self._reactor, listener, SwitchFactory(self._standby_factory(listener))
            )
        except StartFailed as error:
            log.warning("no health endpoint while standby: %s", error)

    def _standby_factory(self, listener: Listener) -> Any:
        from broker.management.standby import standby_site

        accounts = self._config.accounts()
        if self._checks is None:
            self._checks = Checks(self._reactor.callFromThread)
        accounts.check_later = self._checks
        accounts.slow_down(self._reactor.seconds, self._reactor.callLater)
        return secured(listener, standby_site(accounts, self.describe))

    # The guard

    def _store_failed(self, server: Server, error: BaseException) -> None:
        if server is not self._server:
            return
        failover = self._failover
        if failover is not None and (isinstance(error, Fenced) or failover.is_followed()):
            failover.fence(str(error))
            return
        self.exit_status = 1
        self.stop()

    def _closed(self, reason: str) -> None:
        """The guard is closed: sockets first, then the store, then standby."""
        server = self._server
        if server is None:
            return
        server.cut()
        self._switch_to_standby()
        if server.is_open:
            self._close_aside(server)

    def _switch_to_standby(self) -> None:
        for index, port in self._kept.items():
            port.factory.switch(self._standby_factory(self._config.listeners[index]))

    def _close_aside(self, server: Server) -> None:
        """Close a fenced store in a thread: it may hang, and then the watchdog ends the process."""

        def close() -> None:
            with contextlib.suppress(StoreError, OSError):
                server.close_store()
            self._reactor.callFromThread(self._let_go, server)

        threading.Thread(target=close, name="store-closing", daemon=True).start()

    def _let_go(self, server: Server) -> None:
        if server is self._server:
            self._server = None
        self._remove_pid_file()
        # What served is gone: its objects may be collected again.
        gc.unfreeze()
        gc.collect()
        failover = self._failover
        if failover is None or self._is_stopping:
            return
        if failover.is_fenced:
            failover.let_go()

    def _cut(self) -> None:
        """In the watchdog's thread, when the reactor hangs: shut every socket."""
        server = self._server
        if server is not None:
            server.shut_sockets()

    # Stopping

    def stop(self) -> None:
        """Stop cleanly: tell the peers, keep the promises under way, checkpoint, release, exit."""
        if self._is_stopping:
            return
        self._is_stopping = True
        log.info("stopping")
        failover = self._failover
        server = self._server
        if failover is not None and failover.lease is not None:
            # The reactor is busy closing from here on; a close that hangs must not keep the lease.
            failover.closing(CLOSE_SECONDS_MAX)
        if server is None or not server.is_open:
            self._finish()
            return
        server.stop(self.exit_status == 0, self._finish)

    def _finish(self) -> None:
        if self._checks is not None:
            self._checks.stop_soon()
        server = self._server
        if server is not None:
            try:
                server.close_store()
            except (StoreError, OSError) as error:
                log.critical("the store did not close cleanly: %s", error)
                self.exit_status = 1
        if self._failover is not None:
            self._failover.stop()
        self._remove_pid_file()
        if self._reactor.running:
            self._reactor.stop()

    def _remove_pid_file(self) -> None:
        path = self._config.pid_file
        with contextlib.suppress(OSError):
            if path.read_text().strip() == str(os.getpid()):
                path.unlink()

    def _describe_failover(self) -> dict[str, Any]:
        described = self._failover.describe() if self._failover is not None else {}
        described["warnings"] = self._warnings
        return described

    def describe(self) -> dict[str, Any]:
        """What a standby shows."""
        described = self._describe_failover()
        if self._is_stopping:
            described["role"] = "stopping"
        return {
            **described,
            "name": self._config.broker.name or f"gridmsg@{socket.gethostname()}",
            "pid": os.getpid(),
            "data": str(self._config.data_folder),
        }
