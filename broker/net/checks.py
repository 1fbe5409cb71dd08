"""Slow checks (Argon2) in a thread of their own, so that logins never hold the reactor up.

One thread: a check takes a core for tens of milliseconds, and its memory.  It is started with the first check.
Tests: tests/unit/broker/net/test_checks.py.
"""

from __future__ import annotations

import logging
import threading
from collections.abc import Callable
from typing import Any, Final, final

from twisted.python.threadpool import ThreadPool

log = logging.getLogger(__name__)

THREADS_MAX: Final = 1


@final
class Checks:
    """Runs checks one after the other; results come back in the reactor thread."""

    def __init__(self, call_from_thread: Callable[..., Any]) -> None:
        self._call_from_thread = call_from_thread
        self._pool: ThreadPool | None = None
        self._is_stopped = False

    def __call__(self, check: Callable[[], bool], done: Callable[[bool], None]) -> None:
        """Run `check` in the thread, then `done` with its result in the reactor; one that fails is False."""
        if self._is_stopped:
            return
        if self._pool is None:
            self._pool = ThreadPool(0, THREADS_MAX, "logins")
            self._pool.start()
        self._pool.callInThread(self._run, check, done)

    def _run(self, check: Callable[[], bool], done: Callable[[bool], None]) -> None:
        if self._is_stopped:
            return
        try:
            is_right = check()
        except Exception:
            log.exception("a login could not be checked")
            is_right = False
        self._call_from_thread(done, is_right)

    def stop_soon(self) -> None:
        """Drop what waits, without waiting for the check under way."""
        self._is_stopped = True
        pool, self._pool = self._pool, None
        if pool is not None:
            threading.Thread(target=pool.stop, name="logins-end", daemon=True).start()

    def stop(self) -> None:
        """Wait for the check under way; those that wait are dropped with their connections."""
        self._is_stopped = True
        if self._pool is not None:
            self._pool.stop()
            self._pool = None
