"""A gap behind consume-ok: what its consumer gets is written some turns later, and so in a TLS record of its own.

py-amqp (5.4, below kombu and Celery) reads consume-ok and then waits for its socket to become readable.  What came in the same record
lies decrypted in its TLS library, where no poll sees it: the consumer would sleep until something else comes.  GAP_TURNS, because
Twisted's TLS joins what is written within one iteration of the reactor, and ends the record in the next, after the turn.
Tests: tests/unit/broker/session/test_amqp_gap.py, tests/interop/test_tls.py.
"""

from __future__ import annotations

from typing import Final, final

GAP_TURNS: Final = 2
"""Turns in which nothing is written."""


@final
class Gap:
    """Where in the output a gap begins, and how long it still is; `is_open`: there is one."""

    __slots__ = ("_end", "_turns_left", "is_open")

    def __init__(self) -> None:
        self.is_open = False
        self._end = 0
        self._turns_left = 0

    def begin(self, end: int) -> None:
        """Have what comes behind so many pieces of the output wait."""
        self.is_open = True
        self._end = end
        self._turns_left = GAP_TURNS

    def cut(self, out: list[bytes]) -> tuple[list[bytes], list[bytes]]:
        """The pieces to be written now, and those that wait; called once a turn while the gap is open."""
        end, self._end = self._end, 0
        if end:
            return out[:end], out[end:]
        if self._turns_left:
            self._turns_left -= 1
            return [], out
        self.is_open = False
        return out, []
