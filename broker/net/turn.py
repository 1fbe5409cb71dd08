"""One batch a reactor iteration: dispatch, one unit to the store, one write a connection.

The end of a turn is scheduled when the first session wakes and runs after the reactor has read what was ready, so
everything that arrived together shares one commit and one write.  Promises (confirms, receipts, durable -ok) are released when
the store says that their commit is on stable storage.  So is all output when messages are handed out whose mark as handed out is
in that very commit (once in some thousand messages of a queue): delivered again after a crash, they must say so.
Nothing is written once the lease's clock fence is closed.  Tests: tests/unit/broker/net/test_turn.py.
"""

from __future__ import annotations

from collections.abc import Callable
from typing import TYPE_CHECKING, Protocol, final

if TYPE_CHECKING:
    from broker.core.broker import Broker
    from broker.session.base import Session
    from store.interface import Store


class Writer(Protocol):
    """The connection of a session: writes what the session has to say."""

    def flush(self) -> None:
        """Write the session's output to the socket, and close it if the session wants that."""
        ...


@final
class Turn:
    """Collects what one reactor iteration did and ends it."""

    def __init__(
        self,
        broker: Broker,
        store: Store,
        call_soon: Callable[[Callable[[], None]], object],
        is_open: Callable[[], bool] | None = None,
    ) -> None:
        self._broker = broker
        self._store = store
        self._call_soon = call_soon
        self._is_open = is_open or _always
        self._writers: dict[Session, Writer] = {}
        self._woken: dict[Session, None] = {}
        self._waiting: dict[Session, int] = {}
        self._held: dict[Session, None] = {}
        self._held_until = 0
        self._is_scheduled = False
        self._is_failed = False

    def add(self, session: Session, writer: Writer) -> None:
        """A connection with its session has come."""
        self._writers[session] = writer

    def remove(self, session: Session) -> None:
        """The connection is gone; nothing is written to it any more."""
        self._writers.pop(session, None)
        self._woken.pop(session, None)
        self._waiting.pop(session, None)
        self._held.pop(session, None)
        self.schedule()

    def begin(self) -> None:
        """Something comes in: unless a turn is under way, one starts with the time of now.

        Within a turn time stands still, so that a message with a time to live of 0 reaches who waits for it.
        """
        if not self._is_scheduled:
            broker = self._broker
            broker.now_ms = broker.clock.wall_ms()

    def wake(self, session: Session) -> None:
        """The session has output or promises: see to it at the end of this turn."""
        self._woken[session] = None
        if not self._is_scheduled:
            self._is_scheduled = True
            self._call_soon(self._end_soon)

    def schedule(self) -> None:
        """End the turn soon: the core was changed by something other than a session."""
        if not self._is_scheduled:
            self._is_scheduled = True
            self._call_soon(self._end_soon)

    def _end_soon(self) -> None:
        # The store may have ended this turn meanwhile.
        if self._is_scheduled:
            self.end()

    def end(self) -> None:
        """Deliver, commit, write."""
        self._is_scheduled = False
        broker = self._broker
        store = self._store
        if self._is_failed or not self._is_open():
            return
        broker.dispatch()
        commit = store.commit(broker.take_unit())
        durable = store.durable
        is_awaited = False
        if broker.is_early:
            broker.is_early = False
            self._held_until = commit
        is_held = durable < self._held_until
        woken = self._woken
        is_open = self._is_open
        self._woken = {}
        for session in woken:
            has_promises = session.end_turn(commit)
            if commit > durable:
                if has_promises:
                    self._waiting[session] = commit
                    is_awaited = True
            else:
                session.on_durable(commit)
            if is_held:
                self._held[session] = None
                continue
            writer = self._writers.get(session)
            if writer is not None and is_open():
                writer.flush()
        if is_awaited:
            store.hurry()
        broker.now_ms = broker.clock.wall_ms()
        if broker.touched or broker.has_changes or self._woken:
            self.schedule()

    def on_durable(self, commit: int) -> None:
        """Everything up to `commit` is on stable storage: keep the promises that waited for it."""
        if self._is_failed or not (self._waiting or self._held):
            return
        for session in list(self._waiting):
            if self._waiting[session] <= commit:
                del self._waiting[session]
            session.on_durable(commit)
            self._woken[session] = None
        if self._held and commit >= self._held_until:
            self._woken.update(self._held)
            self._held.clear()
        self.end()

    def fail(self) -> None:
        """The store can promise nothing any more: no promise is kept, nothing more is delivered."""
        self._is_failed = True
        self._waiting.clear()
        self._held.clear()
        self._woken.clear()


def _always() -> bool:
    return True
