"""Keeps a lease alive while its owner moves, and ends the process when its file system hangs past it.

`Renewer` writes; it may hang with the disk.  `Watchdog` never touches a file: it looks at the clock, tells that the guard is
closed, and if the process does not let go in time, cuts its sockets and ends it.  Both are daemon threads.
Tests: tests/unit/store/test_lease_renewal.py, tests/crash/test_failover.py.
"""

from __future__ import annotations

import logging
import threading
from collections.abc import Callable
from typing import Final, final

from store.lease.held import Lease

_LOG: Final = logging.getLogger("store")
RENEWALS_PER_LEASE: Final = 4
_LOOKS_PER_RENEWAL: Final = 4
_LOOK_SECONDS_MAX: Final = 0.25
WATCH_SECONDS_MAX: Final = 0.1


@final
class Rhythm:
    """When to renew: every quarter of the lease, if everyone who must move has moved since the last time.  Pure."""

    __slots__ = ("_lease", "_seen")

    def __init__(self, lease: Lease) -> None:
        self._lease = lease
        self._seen: dict[str, int] = {}

    @property
    def look_seconds(self) -> float:
        """How often to ask `is_due`."""
        period = self._lease.block.duration_seconds / RENEWALS_PER_LEASE
        return min(period / _LOOKS_PER_RENEWAL, _LOOK_SECONDS_MAX)

    def is_due(self, now: float) -> bool:
        """Whether a renewal should start now."""
        lease = self._lease
        period = lease.block.duration_seconds / RENEWALS_PER_LEASE
        # A look earlier than a period: the next look would be late.
        is_time = now - lease.renewed_at >= period - self.look_seconds
        return (is_time or lease.is_urgent) and not self.idle()

    def idle(self) -> list[str]:
        """Who has not moved since the last good renewal."""
        beats = self._lease.beats
        return [
            name for name in self._lease.expected if beats.get(name, 0) == self._seen.get(name, 0)
        ]

    def renew(self) -> bool:
        """Renew; signs of life given before do not count for the next time.  Raises OSError."""
        seen = dict(self._lease.beats)
        is_good = self._lease.renew()
        if is_good:
            self._seen = seen
        return is_good


@final
class Renewer:
    """The thread that renews."""

    __slots__ = ("_clock", "_lease", "_prod", "_rhythm", "_stopping", "_thread")

    def __init__(self, lease: Lease, clock: Callable[[], float], prod: Callable[[], None]) -> None:
        self._lease = lease
        self._clock = clock
        self._prod = prod
        self._rhythm = Rhythm(lease)
        self._stopping = threading.Event()
        self._thread = threading.Thread(target=self._run, name="lease-renewal", daemon=True)

    def start(self) -> None:
        """Start the thread."""
        self._thread.start()

    def stop(self) -> None:
        """Ask the thread to end; it may hang with the disk, so nobody waits for it."""
        self._stopping.set()

    def _run(self) -> None:
        while not self._stopping.wait(self._rhythm.look_seconds):
            self._prod()
            if not self._lease.is_valid():
                return
            if not self._rhythm.is_due(self._clock()):
                continue
            try:
                self._rhythm.renew()
            except OSError as error:
                left = self._lease.valid_until - self._clock()
                _LOG.error("the lease could not be renewed (%.1f s are left): %s", left, error)


@final
class Watchdog:
    """The thread that looks at the clock, and at nothing that could hang.

    `on_closed(reason)` is called once when the guard is closed; unless `let_go` is called within `grace_seconds`,
    `cut` closes what is open to the outside and `end` ends the process.
    """

    __slots__ = ("_cut", "_end", "_gone", "_grace_seconds", "_lease", "_on_closed", "_thread")

    def __init__(
        self,
        lease: Lease,
        grace_seconds: float,
        on_closed: Callable[[str], None],
        cut: Callable[[], None],
        end: Callable[[str], None],
    ) -> None:
        self._lease = lease
        self._grace_seconds = grace_seconds
        self._on_closed = on_closed
        self._cut = cut
        self._end = end
        self._gone = threading.Event()
        self._thread = threading.Thread(target=self._run, name="lease-watchdog", daemon=True)

    def start(self) -> None:
        """Start the thread."""
        self._thread.start()

    def let_go(self) -> None:
        """The store is closed and nothing is open to the outside: the process may live."""
        self._gone.set()

    def _run(self) -> None:
        lease = self._lease
        period = min(lease.block.duration_seconds / 20, WATCH_SECONDS_MAX)
        while not self._gone.wait(period):
            if lease.is_valid():
                continue
            self._on_closed(lease.lost_reason)
            if not self._gone.wait(self._grace_seconds):
                self._cut()
                self._end(lease.lost_reason)
            return
