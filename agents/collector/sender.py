"""The thread between the collector and the broker: joins what came in at the same time, publishes, spools.

Invariants: a parcel is answered exactly once, with None only when every record of it is confirmed by the broker or
lies synced in the spool; HTTP threads never wait for the broker; what is spooled is drained in order, and a message
that the broker refuses by itself goes to quarantine, so that it cannot hold up the others.
Tests: tests/unit/agents/collector/test_sender.py.
"""

from __future__ import annotations

import logging
import threading
import time
from collections import deque
from collections.abc import Callable, Sequence
from typing import Final, Protocol, final

from agents.collector.quarantine import Quarantine, Rejected
from agents.errors import Refused, SpoolFull, Unavailable
from agents.outbox import Outbox, SpooledBatch
from agents.records.wire import CONTENT_TYPE
from agents.transport import Outgoing

log = logging.getLogger(__name__)

HEADERS: Final = {"content-type": CONTENT_TYPE, "mandatory": "true"}
"""With `mandatory` our broker refuses what would reach no queue; others ignore the header."""
PARCELS_MAX: Final = 256
MESSAGES_MAX: Final = 5_000
IDLE_SECONDS: Final = 0.5
REFUSED_PAUSE_SECONDS: Final = 30.0
FAILED_PAUSE_SECONDS: Final = 5.0
"""After a batch that the broker has could not be taken out of the spool: without a pause it would go out all the time."""
REFUSALS_MAX: Final = 4
"""Messages of one batch that may be refused by themselves; each costs a handful of connections."""
ACCEPTED_LATELY_SECONDS: Final = 60.0

Answer = Callable[[str | None], None]


class Publisher(Protocol):
    """What the sender needs of a transport."""

    def is_connected(self) -> bool:
        """Whether publishing is worth trying."""
        ...

    def publish(self, destination: str, messages: Sequence[Outgoing], timeout_s: float) -> None:
        """Publish and return when confirmed; raise Unavailable or Refused."""
        ...


@final
class _Parcel:
    __slots__ = ("answer", "bodies")

    def __init__(self, bodies: list[bytes], answer: Answer) -> None:
        self.bodies = bodies
        self.answer = answer


class Sender:
    """Takes parcels of message bodies and sees them to the broker or to the spool."""

    def __init__(
        self,
        publisher: Publisher,
        outbox: Outbox,
        quarantine: Quarantine,
        destination: str,
        confirm_timeout_s: float,
    ) -> None:
        self._publisher = publisher
        self._outbox = outbox
        self._quarantine = quarantine
        self._destination = destination
        self._timeout_s = confirm_timeout_s
        self._waiting: deque[_Parcel] = deque()
        self._changed = threading.Condition()
        self._is_stopping = False
        self._refused_until = 0.0
        self._drain_from = 0.0
        self._accepted_at = float("-inf")
        self._is_spool_refusing = False
        self._thread = threading.Thread(target=self._run, name="collector-sender", daemon=True)
        self.published_count = 0
        self.spooled_count = 0
        self.drained_count = 0

    @property
    def waiting_count(self) -> int:
        """Parcels not yet taken up."""
        return len(self._waiting)

    def start(self) -> None:
        """Start the thread."""
        self._thread.start()

    def stop(self, timeout_s: float) -> None:
        """Finish what was submitted (by the spool if the broker is slow) and end the thread."""
        with self._changed:
            self._is_stopping = True
            self._changed.notify_all()
        self._thread.join(timeout_s)

    def submit(self, bodies: list[bytes], answer: Answer) -> None:
        """Queue a parcel; `answer` is called from the sender's thread, with None or why it was not taken."""
        with self._changed:
            if not self._is_stopping:
                self._waiting.append(_Parcel(bodies, answer))
                self._changed.notify()
                return
        answer("the collector is stopping")

    def _run(self) -> None:
        while True:
            parcels = self._next_parcels()
            try:
                if parcels:
                    self._send(parcels)
                elif self._is_stopping:
                    return
                if not self._is_stopping:
                    self._drain_one()
            except Exception as error:
                # The thread must live: without it every POST would hang.  The sender keeps its records.
                log.exception("sending failed")
                self._drain_from = time.monotonic() + FAILED_PAUSE_SECONDS
                for parcel in parcels:
                    parcel.answer(f"internal error: {type(error).__name__}")

    def _next_parcels(self) -> list[_Parcel]:
        parcels: list[_Parcel] = []
        message_count = 0
        with self._changed:
            if not self._waiting and not self._is_stopping and not self._can_drain():
                self._changed.wait(IDLE_SECONDS)
            while self._waiting and len(parcels) < PARCELS_MAX and message_count < MESSAGES_MAX:
                parcel = self._waiting.popleft()
                parcels.append(parcel)
                message_count += len(parcel.bodies)
        return parcels

    def _send(self, parcels: list[_Parcel]) -> None:
        bodies = [body for parcel in parcels for body in parcel.bodies]
        if self._may_publish() and not self._is_stopping:
            try:
                self._publish(bodies)
            except Unavailable as error:
                log.warning("%d records go to the spool: %s", len(bodies), error.text)
            except Refused as error:
                self._pause_for(error)
            else:
                self.published_count += len(bodies)
                self._answer(parcels, None)
                return
        self._spool(parcels, bodies)

    def _spool(self, parcels: list[_Parcel], bodies: list[bytes]) -> None:
        try:
            self._outbox.put(self._destination, HEADERS, bodies)
        except SpoolFull as error:
            if len(parcels) == 1:
                # Probes come again at once, so a line for each refusal would be thousands.
                if not self._is_spool_refusing:
                    log.error("records are refused until this is over: %s", error.text)
                self._is_spool_refusing = True
                self._answer(parcels, error.text)
                return
            # Perhaps there is room for some of them.
            for parcel in parcels:
                self._spool([parcel], parcel.bodies)
            return
        if self._is_spool_refusing:
            log.warning("the spool takes records again")
            self._is_spool_refusing = False
        self.spooled_count += len(bodies)
        self._answer(parcels, None)

    def _drain_one(self) -> None:
        """Publish the oldest spooled batch, if there is one and the broker is there."""
        if not self._can_drain():
            return
        batch = self._outbox.oldest()
        if batch is None:
            return
        messages = [Outgoing(body, batch.headers) for body in batch.bodies]
        try:
            self._publisher.publish(batch.destination, messages, self._timeout_s)
        except Unavailable as error:
            log.warning("the spool waits: %s", error.text)
            return
        except Refused as error:
            self._sort_out(batch, messages, error)
            return
        self._accepted_at = time.monotonic()
        self.drained_count += len(messages)
        self._outbox.remove(batch)

    def _sort_out(self, batch: SpooledBatch, messages: list[Outgoing], first: Refused) -> None:
        """Find the messages that the broker refuses by themselves and put them into quarantine.

        When nothing was accepted lately the fault is not theirs (a missing destination, a right): the batch waits.
        """
        rejected: list[Rejected] = []
        try:
            self._bisect(batch.destination, messages, rejected, first)
        except Unavailable as error:
            log.warning("the spool waits: %s", error.text)
            return
        except Refused:
            self._pause_for(first)
            return
        if rejected and time.monotonic() - self._accepted_at > ACCEPTED_LATELY_SECONDS:
            self._pause_for(first)
            return
        try:
            self._quarantine.keep(rejected, "spool", "refused")
        except SpoolFull as error:
            # The batch stays where it is, the rest of the spool behind it: somebody must look.
            log.error("the spool waits: %s", error.text)
            self._drain_from = time.monotonic() + REFUSED_PAUSE_SECONDS
            return
        self.drained_count += len(messages) - len(rejected)
        self._outbox.remove(batch)

    def _bisect(
        self, destination: str, messages: list[Outgoing], rejected: list[Rejected], refusal: Refused
    ) -> None:
        """Publish the halves of a refused run; raise Refused when there are too many refusals to go on."""
        if len(messages) == 1:
            if len(rejected) >= REFUSALS_MAX:
                raise refusal
            reason = f"refused by the broker: {refusal.text}"
            rejected.append(Rejected(messages[0].body, reason))
            return
        middle = len(messages) // 2
        for half in (messages[:middle], messages[middle:]):
            try:
                self._publisher.publish(destination, half, self._timeout_s)
            except Refused as error:
                self._bisect(destination, half, rejected, error)
            else:
                self._accepted_at = time.monotonic()

    def _publish(self, bodies: list[bytes]) -> None:
        messages = [Outgoing(body, HEADERS) for body in bodies]
        self._publisher.publish(self._destination, messages, self._timeout_s)
        self._accepted_at = time.monotonic()

    def _pause_for(self, error: Refused) -> None:
        self._refused_until = time.monotonic() + REFUSED_PAUSE_SECONDS
        log.error("the broker refuses records, they wait in the spool: %s", error.text)

    def _may_publish(self) -> bool:
        return self._publisher.is_connected() and time.monotonic() >= self._refused_until

    def _can_drain(self) -> bool:
        return (
            self._outbox.file_count > 0
            and time.monotonic() >= self._drain_from
            and self._may_publish()
        )

    def _answer(self, parcels: list[_Parcel], problem: str | None) -> None:
        for parcel in parcels:
            parcel.answer(problem)
