"""One replay, from its ledger entry to its end: starting, pages, finished or error.

Invariants: every step ends with a durable ledger entry and may be repeated from there (after a
crash, a lost broker or a busy store alike), so there is one way of going on and no second one for
recovery; a page is counted after its last confirm; `finished` and `error` are told before the
entry ends, so a crash between repeats them.
Tests: tests/unit/agents/test_replay_task.py (a crash at every step)
"""

from __future__ import annotations

import logging
from collections.abc import Callable, Sequence
from typing import Final, Protocol, final

from agents.errors import AgentError, Refused, Unavailable
from agents.recordstore.interface import StoreUnavailable
from agents.replays.control import ERROR, FINISHED, PROGRESS, STARTING, ControlMessage
from agents.replays.destination import addresses_of, says_no_such_name, says_nobody_there
from agents.replays.ledger import Entry, LedgerError, ReplayLedger, State
from agents.replays.pages import Page, Pages, end_time_text
from agents.transport import Outgoing

log = logging.getLogger(__name__)

FAILED_RECORDS_MAX: Final = 20
RETRY_MIN_SECONDS: Final = 0.5
END_TELL_TRIES_MAX: Final = 20
NAME_TRIES: Final = 3
NAME_RETRY_SECONDS: Final = 0.3
# What another try may cure; everything else ends the request with an error.
PASSING: Final = (Unavailable, StoreUnavailable, LedgerError)


class Publisher(Protocol):
    """What a replay needs of a transport."""

    def publish(self, destination: str, messages: Sequence[Outgoing], timeout_s: float) -> None:
        """Send messages and return when each is confirmed; Unavailable or Refused otherwise."""
        ...


class Teller(Protocol):
    """How the sender of a request hears of it."""

    def tell(self, message: ControlMessage) -> None:
        """Send a control message; Unavailable when it should be tried again, nothing for a sender who went away."""
        ...


class Pause(Protocol):
    """Waiting that a stop cuts short."""

    def is_stopping(self) -> bool:
        """Whether the agent stops."""
        ...

    def wait(self, seconds: float) -> None:
        """Wait, or less when the agent stops."""
        ...


class GivenUp(AgentError):
    """The request cannot be done; the text is told to its sender."""


@final
class ReplayTask:
    """Brings one request to its end, or to a stop from which it goes on later."""

    def __init__(
        self,
        entry: Entry,
        names: tuple[str, str],
        pages: Callable[[], Pages],
        ledger: ReplayLedger,
        publisher: Publisher,
        teller: Teller,
        pause: Pause,
        *,
        now: Callable[[], float],
        confirm_timeout_s: float = 60.0,
        progress_seconds: float = 2.0,
        prober: Publisher | None = None,
        retry_max_seconds: float = 60.0,
    ) -> None:
        self._entry = entry
        self._destination, self._routing_key = names
        self._make_pages = pages
        self._ledger = ledger
        self._publisher = publisher
        self._prober = prober or publisher
        self._teller = teller
        self._pause = pause
        self._now = now
        self._confirm_timeout_s = confirm_timeout_s
        self._progress_seconds = progress_seconds
        self._retry_max_seconds = retry_max_seconds
        self._told_at = now()
        self._made: Pages | None = None
        self._end_tell_tries = 0
        self._refusal = ""

    def run(self) -> State:
        """Go on until the request has ended or the agent stops; gives the state reached."""
        wait_seconds = RETRY_MIN_SECONDS
        while not self._pause.is_stopping():
            try:
                if not self.step():
                    break
                wait_seconds = RETRY_MIN_SECONDS
            except PASSING as error:
                if self._pause.is_stopping():
                    break
                log.warning("replay %s waits: %s", self._entry.request_id, error)
                self._pause.wait(wait_seconds)
                wait_seconds = min(wait_seconds * 2, self._retry_max_seconds)
                self._reload()
        return self._entry.state

    def step(self) -> bool:
        """Do one durable step; False when the request has ended."""
        entry = self._entry
        try:
            if entry.state == State.ACCEPTED:
                entry.counts.expected = self._pages().count()
                self._tell(STARTING)
                self._ledger.move(entry, State.RUNNING)
            elif entry.state == State.RUNNING:
                self._send_page()
            elif entry.state == State.FINISHING:
                self._tell_end(FINISHED)
                self._ledger.move(entry, State.FINISHED)
            elif entry.state == State.FAILING:
                self._tell_end(ERROR, entry.error)
                self._ledger.move(entry, State.FAILED)
            else:
                return False
        except PASSING:
            raise
        except Exception as error:
            # Whatever it is, the sender must hear of it; an ending state is only left by PASSING.
            if entry.state not in (State.ACCEPTED, State.RUNNING):
                raise
            if not isinstance(error, AgentError):
                log.exception("replay %s failed", entry.request_id)
            self._reload()
            self._entry.error = str(error) or type(error).__name__
            self._ledger.move(self._entry, State.FAILING)
        return True

    def _pages(self) -> Pages:
        if self._made is None:
            self._made = self._make_pages()
        return self._made

    def _reload(self) -> None:
        known = None
        while known is None and not self._pause.is_stopping():
            try:
                known = self._ledger.find(self._entry.request_id)
                assert known is not None, "an open request stays in the ledger"
            except LedgerError as error:
                log.warning("replay %s: %s", self._entry.request_id, error)
                self._pause.wait(RETRY_MIN_SECONDS)
        if known is not None:
            self._entry = known

    def _send_page(self) -> None:
        entry = self._entry
        page = self._pages().after(entry.cursor)
        if page is None:
            self._ledger.move(entry, State.FINISHING)
            return
        failed_count = self._publish(page.messages)
        counts = entry.counts
        if page.record_count:
            counts.sent += page.record_count - failed_count
            counts.failed += failed_count
        if counts.failed > FAILED_RECORDS_MAX:
            raise GivenUp(f"more than {FAILED_RECORDS_MAX} records were refused: {self._refusal}")
        self._note_times(page)
        entry.cursor = page.cursor
        self._ledger.move(entry, State.RUNNING)
        if self._now() - self._told_at >= self._progress_seconds:
            self._tell_progress()

    def _note_times(self, page: Page) -> None:
        counts = self._entry.counts
        if page.first_ms is not None and counts.first_end_time is None:
            counts.first_end_time = end_time_text(page.first_ms)
        if page.last_ms is not None:
            counts.last_end_time = end_time_text(page.last_ms)

    def _publish(self, messages: list[Outgoing]) -> int:
        """Publish a page; gives how many of its messages the broker refused one by one."""
        entry = self._entry
        if not entry.address:
            entry.address, is_taken = self._find_address(messages[0])
            messages = messages[is_taken:]
        try:
            self._publisher.publish(entry.address, messages, self._confirm_timeout_s)
        except Refused as error:
            if says_nobody_there(error) or says_no_such_name(error):
                raise GivenUp(f"{entry.address}: {error}") from error
            self._refusal = error.text
            if len(messages) == 1:
                log.warning("replay %s: a record was refused: %s", entry.request_id, error)
                return 1
            # One message spoils the batch: halve until it stands alone.
            if self._pause.is_stopping():
                raise Unavailable("the agent stops") from error
            half = len(messages) // 2
            failed = self._publish(messages[:half])
            if failed + entry.counts.failed > FAILED_RECORDS_MAX:
                return failed
            return failed + self._publish(messages[half:])
        return 0

    def _find_address(self, first: Outgoing) -> tuple[str, bool]:
        """Try the meanings of the destination; gives the one that exists, and whether it took the message.

        It is tried with one message: while more are being written, a broker's refusal may be lost
        with the connection.  A destination that refuses the message for its own sake exists, too.
        """
        refusals: list[str] = []
        addresses = addresses_of(self._destination, self._routing_key)
        for address in addresses:
            # A refusal costs the connection: all but the last try go over one kept for that.
            publisher = self._publisher if address == addresses[-1] else self._prober
            try:
                refusal = self._refusal_of_name(publisher, address, first)
            except Refused as error:
                if says_nobody_there(error):
                    raise GivenUp(f"{address}: {error}") from error
                return address, False
            if not refusal:
                return address, True
            refusals.append(f"{address}: {refusal}")
        raise GivenUp(
            f"destination {self._destination!r} is not there ({'; '.join(refusals)});"
            " make the exchange or queue first, or write another name"
        )

    def _refusal_of_name(self, publisher: Publisher, address: str, first: Outgoing) -> str:
        """Publish one message; gives the broker's text when the name is not there, else nothing."""
        for tries_left in reversed(range(NAME_TRIES)):
            try:
                publisher.publish(address, [first], self._confirm_timeout_s)
            except Refused as error:
                if not says_no_such_name(error):
                    raise
                return error.text
            except Unavailable as error:
                # RabbitMQ's text comes without a receipt; but a connection that was just lost
                # repeats its last text, which may be about another name: ask again.
                if not says_no_such_name(error):
                    raise
                if not tries_left:
                    return error.text
                self._pause.wait(NAME_RETRY_SECONDS)
            else:
                return ""
        raise AssertionError("the last try returns or raises")

    def _tell_end(self, stage: str, text: str | None = None) -> None:
        try:
            self._tell(stage, text)
        except Unavailable as error:
            self._end_tell_tries += 1
            if self._end_tell_tries < END_TELL_TRIES_MAX or self._pause.is_stopping():
                raise
            log.error("replay %s ended (%s) and its sender could not be told: %s", self._entry.request_id, stage, error)  # fmt: skip

    def _tell_progress(self) -> None:
        try:
            self._tell(PROGRESS)
        except Unavailable as error:
            log.info("replay %s: progress not told: %s", self._entry.request_id, error)

    def _tell(self, stage: str, text: str | None = None) -> None:
        self._told_at = self._now()
        self._teller.tell(ControlMessage(stage, self._entry.request_id, self._entry.counts, text))
