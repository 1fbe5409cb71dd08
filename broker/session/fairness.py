"""Slow work of many sources, one piece at a time: sources take turns, so that who asks much holds up only itself.

Bounded: when all places are taken, the source with the most gives up its last one.  Pure: who runs the work is handed in.
Tests: tests/unit/broker/session/test_fairness.py.
"""

from __future__ import annotations

from collections import deque
from collections.abc import Callable
from typing import Final, final

CHECKS_WAITING_MAX: Final = 200
"""Pieces of work that wait; one is some tens of milliseconds of Argon2."""

RunLater = Callable[[Callable[[], bool], Callable[[bool], None]], None]
"""Runs slow work in another thread and hands its result to the second argument in the reactor thread."""


@final
class _Piece:
    __slots__ = ("done", "refused", "work")

    def __init__(
        self,
        work: Callable[[], bool],
        done: Callable[[bool], None],
        refused: Callable[[], None],
    ) -> None:
        self.work = work
        self.done = done
        self.refused = refused


@final
class FairQueue:
    """Hands work to `run`, one piece at a time, the sources in turn."""

    __slots__ = ("_is_running", "_run", "_waiting", "_waiting_count")

    def __init__(self, run: RunLater) -> None:
        self._run = run
        self._is_running = False
        self._waiting: dict[str, deque[_Piece]] = {}
        self._waiting_count = 0

    def add(
        self,
        source: str,
        work: Callable[[], bool],
        done: Callable[[bool], None],
        refused: Callable[[], None],
    ) -> None:
        """Queue work; `done` gets its result, or `refused` is called because there is too much of it."""
        piece = _Piece(work, done, refused)
        own = self._waiting.get(source)
        if self._waiting_count >= CHECKS_WAITING_MAX:
            longest = max(self._waiting, key=lambda one: len(self._waiting[one]))
            if len(self._waiting[longest]) <= len(own or ()) + 1:
                refused()
                return
            given_up = self._waiting[longest].pop()
            self._waiting_count -= 1
            given_up.refused()
        self._waiting.setdefault(source, deque()).append(piece)
        self._waiting_count += 1
        if not self._is_running:
            self._next()

    def _next(self) -> None:
        source = next(iter(self._waiting), None)
        if source is None:
            return
        pieces = self._waiting.pop(source)
        piece = pieces.popleft()
        self._waiting_count -= 1
        if pieces:
            # Behind the others.
            self._waiting[source] = pieces
        self._is_running = True

        def done(result: bool) -> None:
            self._is_running = False
            try:
                piece.done(result)
            finally:
                if not self._is_running:
                    self._next()

        self._run(piece.work, done)
