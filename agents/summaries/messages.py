"""A day of summary rows as messages, each saying which part of which whole it is.

A receiver gathers the rows of one day and generation and puts them in the place of the day's old
ones once it has all `gridmsg-summary-rows` of them; a day without rows is one message with an
empty object, so that vanished groups vanish there too.

Invariants: the rows of one (day, generation) are always the same and in the same order, so a
repeated message is the same part again.
Tests: tests/unit/agents/test_summary_messages.py
"""

from __future__ import annotations

from collections.abc import Sequence
from datetime import date
from typing import Final

from agents.transport import Outgoing

DAY_HEADER: Final = "gridmsg-summary-day"
GENERATION_HEADER: Final = "gridmsg-summary-generation"
ROWS_HEADER: Final = "gridmsg-summary-rows"
ROW_HEADER: Final = "gridmsg-summary-row"
EMPTY_BODY: Final = b"{}"


def day_messages(day: date, generation: int, bodies: Sequence[bytes]) -> list[Outgoing]:
    """Give the messages of one day; without rows it is a single one with an empty object."""
    whole = {
        "content-type": "application/json",
        "mandatory": "true",
        DAY_HEADER: day.isoformat(),
        GENERATION_HEADER: str(generation),
        ROWS_HEADER: str(len(bodies)),
    }
    return [
        Outgoing(body, {**whole, ROW_HEADER: str(position)})
        for position, body in enumerate(bodies or (EMPTY_BODY,))
    ]
