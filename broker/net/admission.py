"""How many sockets there may be: of a listener, of those who have not logged in, and of the process, which needs files for its store too.

A connection beyond a bound is accepted and closed at once, before TLS and before anything is kept of it.  Invariant: so many files
stay free that neither the journal nor the lease ever fails to open one because of who connects.  Refusals are logged
once in a while with their number: who is refused could otherwise fill the disk with lines.
Tests: tests/unit/broker/net/test_admission.py, tests/interop/test_attacks.py.
"""

from __future__ import annotations

import logging
import resource
from typing import Any, Final, final

from twisted.internet.protocol import Factory

from broker.clock import Clock, SystemClock
from broker.net.strangers import Strangers

log = logging.getLogger(__name__)

FILES_RESERVED: Final = 128
"""Open files kept for the store, the lease, the listeners and a connection on its way out."""
FILES_WANTED: Final = 65_536
TOLD_SECONDS: Final = 10.0
"""Between two lines about refused connections."""


@final
class Sockets:
    """The sockets of the process: how many are open, of at most `count_max`, and whose are `strangers`."""

    __slots__ = ("count", "count_max", "strangers")

    def __init__(self, count_max: int) -> None:
        self.count = 0
        self.count_max = count_max
        self.strangers = Strangers()


def raise_open_files() -> Sockets:
    """Take as many open files as the system gives this process (`ulimit -n`), and share them out."""
    soft, hard = resource.getrlimit(resource.RLIMIT_NOFILE)
    infinity = resource.RLIM_INFINITY
    wanted = FILES_WANTED if hard == infinity else min(hard, max(FILES_WANTED, soft))
    if soft != infinity and soft < wanted:
        try:
            resource.setrlimit(resource.RLIMIT_NOFILE, (wanted, hard))
            soft = wanted
        except (OSError, ValueError):
            log.debug("the bound of open files stays at %d", soft)
    files = FILES_WANTED if soft == infinity else soft
    return Sockets(max(16, files - FILES_RESERVED))


@final
class AdmittedFactory(Factory):
    """A listener's factory that makes nothing for connections beyond the bounds."""

    noisy = False

    def __init__(
        self,
        wrapped: Factory,
        sockets: Sockets,
        name: str,
        connections_max: int,
        clock: Clock | None = None,
    ) -> None:
        self._wrapped = wrapped
        wrapped.noisy = False
        self._sockets = sockets
        self._name = name
        self._connections_max = connections_max
        self._clock = clock or SystemClock()
        self._open_count = 0
        self._refused_count = 0
        self._tell_at = 0.0

    def startFactory(self) -> None:  # noqa: N802 - Twisted's name
        """Start with the port."""
        self._wrapped.doStart()

    def stopFactory(self) -> None:  # noqa: N802 - Twisted's name
        """Stop with the port."""
        self._wrapped.doStop()

    def buildProtocol(self, addr: Any) -> Any:  # noqa: N802 - Twisted's name
        """Make what the listener makes, or nothing."""
        if self._open_count >= self._connections_max:
            return self._refuse(addr, self._connections_max, "its bound (max-connections)")
        if self._sockets.count >= self._sockets.count_max:
            return self._refuse(addr, self._sockets.count_max, "what the system allows (ulimit -n)")
        strangers = self._sockets.strangers
        host = getattr(addr, "host", "")
        peer = f"{host}:{addr.port}" if host else ""
        if peer and not strangers.come(peer):
            why = "of there without a login, its bound ([auth] max-strangers)"
            return self._refuse(addr, strangers.bound(peer), why)
        made: Any = self._wrapped.buildProtocol(addr)
        if made is None:
            strangers.go(peer)
            return None
        self._open_count += 1
        self._sockets.count += 1
        lost = made.connectionLost

        def connection_lost(*reason: Any) -> None:
            # Once only, whoever calls; and nothing is left that points from the connection to itself.
            del made.connectionLost
            self._open_count -= 1
            self._sockets.count -= 1
            strangers.go(peer)
            lost(*reason)

        made.connectionLost = connection_lost
        return made

    def _refuse(self, addr: Any, bound: int, why: str) -> None:
        self._refused_count += 1
        now = self._clock.now()
        if now >= self._tell_at:
            self._tell_at = now + TOLD_SECONDS
            log.warning(
                "%s listener: refused %s: %d connections are open, %s; %d refused by now",
                self._name,
                getattr(addr, "host", addr),
                bound,
                why,
                self._refused_count,
            )
