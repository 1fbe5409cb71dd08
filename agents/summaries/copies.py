"""Sends copies of finished days to other databases, and remembers who has them.

Invariants: a day is marked as sent once every row of it was confirmed; a crash or a lost broker
before that sends the whole day again, which a receiver recognizes by day, generation and row.
Tests: tests/unit/agents/test_summary_copies.py
"""

from __future__ import annotations

import logging
from collections.abc import Callable, Sequence
from typing import Final, Protocol, final

from agents.errors import Refused, Unavailable
from agents.summaries.days import Days
from agents.summaries.ledger import ComputedDay, SummaryLedger
from agents.summaries.messages import day_messages
from agents.transport import Outgoing

log = logging.getLogger(__name__)

BATCH_ROWS: Final = 500


class Publisher(Protocol):
    """What sending needs of a transport."""

    def publish(self, destination: str, messages: Sequence[Outgoing], timeout_s: float) -> None:
        """Send messages and return when each is confirmed; Unavailable or Refused otherwise."""
        ...


@final
class Copies:
    """The copies that some destinations are due."""

    def __init__(
        self,
        days: Days,
        ledger: SummaryLedger,
        publisher: Publisher,
        destinations: Sequence[str],
        *,
        batch_rows: int = BATCH_ROWS,
        confirm_timeout_s: float = 60.0,
        is_stopping: Callable[[], bool] = lambda: False,
    ) -> None:
        self._days = days
        self._ledger = ledger
        self._publisher = publisher
        self._destinations = tuple(destinations)
        self._batch_rows = batch_rows
        self._confirm_timeout_s = confirm_timeout_s
        self._is_stopping = is_stopping

    def send_due(self) -> bool:
        """Send what is due; False when a destination could not take it, which stays due."""
        is_all_sent = True
        for destination in self._destinations:
            try:
                for due in self._ledger.due_copies(destination):
                    if self._is_stopping():
                        return False
                    self._send(destination, due)
            except (Unavailable, Refused) as error:
                if self._is_stopping():
                    return False
                log.warning("summaries for %s wait: %s", destination, error)
                is_all_sent = False
        return is_all_sent

    def _send(self, destination: str, due: ComputedDay) -> None:
        bodies = [each.text.encode() for each in self._days.stored_rows(due.day)]
        if self._days.generation(due.day) != due.generation or len(bodies) != due.row_count:
            # Computed again while it was read, or written by somebody else: its turn comes.
            self._ledger.mark_dirty([due.day])
            return
        messages = day_messages(due.day, due.generation, bodies)
        for start in range(0, len(messages), self._batch_rows):
            batch = messages[start : start + self._batch_rows]
            self._publisher.publish(destination, batch, self._confirm_timeout_s)
        self._ledger.note_sent(due.day, destination, due.generation)
        log.info("summary of %s (%d rows) sent to %s", due.day, due.row_count, destination)
