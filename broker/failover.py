"""Between the store's lease and the process: looks, claims, renews, and says when to serve and when to stop.

Looking and claiming run in a thread of their own, as a shared file system may hang; what they lead to is told in the reactor's
thread.  Knows nothing of clients.  Tests: tests/crash/test_failover.py, tests/unit/broker/test_failover.py.
"""

from __future__ import annotations

import contextlib
import logging
import os
import threading
from collections.abc import Callable
from pathlib import Path
from typing import TYPE_CHECKING, Any, Final, Protocol, final

from broker.standby import LOOK_SECONDS, Phase, Standby
from store.errors import Corrupt, Fenced, StoreError, VersionMismatch
from store.lease.directory import Terms
from store.lease.held import OPENING_BEAT, REACTOR_BEAT, WRITER_BEAT, Lease
from store.lease.host import boot_seconds
from store.lease.renewal import Renewer, Watchdog

if TYPE_CHECKING:
    from store.lease.watch import Sight

log = logging.getLogger("gridmsg.failover")

EXIT_HUNG: Final = 75
"""Exit status of a process that ended itself because its file system hung past its lease."""
GRACE_SECONDS: Final = 2.0
"""How long a fenced process may take to close its sockets and its store before it is ended."""
DAMAGE: Final = (Corrupt, VersionMismatch)


class Locker(Protocol):
    """Where leases are: looks at the newest, and claims the next."""

    def look(self) -> Sight:
        """Read the newest lease anew.  Raises OSError, StoreError."""
        ...

    def claim(self, sight: Sight) -> Lease | None:
        """Claim the epoch after the one that was seen; None when another was faster.  Raises OSError, StoreError."""
        ...


@final
class Failover:
    """One process's part in the failover of its store.

    `on_won(lease)` is called in the reactor's thread when the store may be opened; `on_closed(reason)` when the guard
    closed: shut every socket first, close the store, then call `let_go`.  `cut` shuts sockets from another thread, `end` ends
    the process.
    """

    def __init__(
        self,
        locker: Locker,
        terms: Terms,
        call_from_thread: Callable[..., Any],
        on_won: Callable[[Lease], None],
        on_closed: Callable[[str], None],
        cut: Callable[[], None],
        end: Callable[[str], None] | None = None,
    ) -> None:
        self._end = end or _end
        self._locker = locker
        self._call_from_thread = call_from_thread
        self._on_won = on_won
        self._on_closed = on_closed
        self._cut = cut
        self._clock = boot_seconds
        self._stopping = threading.Event()
        self._thread: threading.Thread | None = None
        self._renewer: Renewer | None = None
        self._watchdog: Watchdog | None = None
        self._is_asked = False
        self._prod_store: Callable[[], None] = _nothing
        self._last_said: dict[int, str] = {}
        self.machine = Standby(terms.duration_seconds, terms.drift)
        self.lease: Lease | None = None

    # Claiming

    def claim_at_once(self) -> Lease | None:
        """Look and claim in the caller's thread; None when another holds the store.  Raises OSError, StoreError."""
        sight = self._locker.look()
        if not self.machine.saw(sight, self._clock()):
            return None
        lease = self._locker.claim(sight)
        if lease is not None:
            self._hold(lease)
        return lease

    def stand_by(self) -> None:
        """Look again and again, in a thread, until the store is ours."""
        if self._stopping.is_set():
            return
        self._thread = threading.Thread(target=self._contend, name="lease-standby", daemon=True)
        self._thread.start()

    def _contend(self) -> None:
        while not self._stopping.wait(LOOK_SECONDS):
            try:
                lease = self._look_once()
            except (OSError, StoreError) as error:
                text = _reason(error)
                self._say(logging.ERROR, f"the lease cannot be read or claimed: {text}")
                self.machine.missed(text)
                continue
            except Exception as error:
                # A standby that has ceased to look would stand by for ever: better one that is started anew.
                log.critical("the lease cannot be looked at", exc_info=True)
                self._end(f"a fault of this program: {error!r}")
                return
            if lease is not None:
                self._call_from_thread(self._on_won, lease)
                return

    def _look_once(self) -> Lease | None:
        machine = self.machine
        sight = self._locker.look()
        is_claimable = machine.saw(sight, self._clock())
        block = sight.block
        if machine.verdict.is_claimable:
            word = f"epoch {sight.epoch}: {machine.verdict.value}"
        elif block is not None:
            word = f"process {block.owner.pid} on {block.owner.host} is active, epoch {sight.epoch}"
        else:
            word = f"the lease of epoch {sight.epoch} is torn"
        self._say(
            logging.INFO, f"standby: {word}" + (f"; {machine.reason}" if machine.reason else "")
        )
        if not is_claimable:
            return None
        lease = self._locker.claim(sight)
        if lease is None:
            self._say(logging.INFO, "another standby was faster")
            return None
        self._hold(lease)
        return lease

    def _say(self, level: int, text: str) -> None:
        """Log what changed, not every look: what is seen and what fails are told apart, as they may take turns."""
        if text != self._last_said.get(level):
            self._last_said[level] = text
            log.log(level, "%s", text)

    def _hold(self, lease: Lease) -> None:
        """Begin to renew, before anything is read."""
        self.lease = lease
        self._prod_store = _nothing
        lease.expect(OPENING_BEAT)
        self.machine.won(lease.epoch)
        log.info("claimed epoch %d", lease.epoch)
        self._renewer = Renewer(lease, self._clock, self._prod)
        self._watchdog = Watchdog(lease, GRACE_SECONDS, self._guard_closed, self._cut, self._hung)
        self._renewer.start()
        self._watchdog.start()

    # Holding

    def opened(self, prod_store: Callable[[], None]) -> None:
        """The store is open: from now on its writer must move, and the reactor."""
        lease = self._held()
        self._prod_store = prod_store
        lease.beat(REACTOR_BEAT)
        lease.expect(WRITER_BEAT, REACTOR_BEAT)

    def serving(self) -> None:
        """Clients may come."""
        self.machine.opened()

    def is_open(self) -> bool:
        """The clock fence: whether anything may still be delivered."""
        lease = self.lease
        return lease is not None and lease.is_valid()

    @property
    def is_fenced(self) -> bool:
        """Whether the guard closed and the process has not let go yet."""
        return self.machine.phase is Phase.FENCED

    def closing(self, seconds_max: float) -> None:
        """The process stops and nobody moves any more: the lease is renewed only so much longer."""
        lease = self._held()
        lease.expect()
        timer = threading.Timer(seconds_max, lease.lose, ("closing the store took too long",))
        timer.daemon = True
        timer.start()

    def _held(self) -> Lease:
        assert self.lease is not None, "there is no lease"
        return self.lease

    def _prod(self) -> None:
        """Ask those who must move for a sign of life; in the renewer's thread."""
        self._prod_store()
        if not self._is_asked:
            self._is_asked = True
            self._call_from_thread(self._answer)

    def _answer(self) -> None:
        self._is_asked = False
        if self.lease is not None:
            self.lease.beat(REACTOR_BEAT)

    def _guard_closed(self, reason: str) -> None:
        """In the watchdog's thread."""
        self._call_from_thread(self._closed, self.lease, reason)

    def _hung(self, reason: str) -> None:
        """In the watchdog's thread, when everything was cut."""
        self._end(f"the store does not let go: {reason}")

    def _closed(self, lease: Lease, reason: str) -> None:
        if lease is not self.lease or self.machine.phase not in (Phase.RECOVERING, Phase.ACTIVE):
            return
        log.critical("fenced, closing all connections: %s", reason)
        self.machine.fenced(reason)
        self._on_closed(reason)

    # Letting go

    def is_followed(self) -> bool:
        """Whether a failure of the store is only what being followed looks like: the guard is closed."""
        lease = self.lease
        if lease is None:
            return False
        try:
            lease.check()
        except Fenced:
            return True
        except OSError:
            return False
        return False

    def fence(self, reason: str) -> None:
        """The store met the guard closed."""
        lease = self._held()
        lease.lose(reason)
        self._closed(lease, reason)

    def let_go(self) -> None:
        """The fenced owner has closed everything: be a standby again."""
        self._drop()
        self.machine.let_go()
        self.stand_by()

    def give_up(self, error: BaseException) -> None:
        """The store could not be opened: release, say so, be a standby again; after damage one that claims no more."""
        self._release()
        is_damage = isinstance(error, DAMAGE)
        log.critical(
            "the store could not be opened, the lease is released%s: %s",
            "; this process claims no more by itself" if is_damage else "",
            error,
        )
        self.machine.gave_up(str(error), self._clock(), is_damage)
        self.stand_by()

    def _release(self) -> None:
        lease = self.lease
        if lease is not None:
            with contextlib.suppress(OSError):
                lease.release()
        self._drop()

    def _drop(self) -> None:
        if self._renewer is not None:
            self._renewer.stop()
        if self._watchdog is not None:
            self._watchdog.let_go()
        self._renewer = self._watchdog = self.lease = None

    def stop(self) -> None:
        """End for good; the store, closed before, has released the lease."""
        self._stopping.set()
        self._release()

    def describe(self) -> dict[str, Any]:
        """What status, health and metrics show."""
        lease = self.lease
        if lease is None or self.machine.phase not in (Phase.RECOVERING, Phase.ACTIVE):
            return self.machine.describe(self._clock())
        now = self._clock()
        return {
            "role": self.machine.phase.value,
            "epoch": lease.epoch,
            "lease_seconds": lease.block.duration_seconds,
            "renewed_seconds_ago": round(now - lease.renewed_at, 2),
            "left_seconds": round(lease.valid_until - now, 2),
            "slowest_renewal_seconds": round(lease.slowest_seconds, 4),
        }


def _reason(error: OSError | StoreError) -> str:
    """What failed, without the name of a claim's draft, which is another each time."""
    if isinstance(error, OSError) and error.strerror and isinstance(error.filename, str):
        return f"{error.strerror}: {Path(error.filename).parent}"
    return str(error)


def _nothing() -> None:
    return None


def _end(reason: str) -> None:
    log.critical("ending the process: %s", reason)
    os._exit(EXIT_HUNG)
