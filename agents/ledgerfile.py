"""An agent's memory in one SQLite file: opened, made with its schema, used by one thread at a time.

Invariants: WAL and synchronous=FULL, so each change is on disk when it returns; a file of another version is refused and
left as it is; every failure is the owner's error, with the file's name.
Tests: tests/unit/agents/test_replay_ledger.py, tests/unit/agents/test_summary_days.py.
"""

from __future__ import annotations

import sqlite3
import threading
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Final, final

from agents.errors import AgentError

BUSY_TIMEOUT_SECONDS: Final = 5.0


@final
class LedgerFile:
    """One file and the lock around its one connection; `error` is what its owner raises."""

    def __init__(self, path: Path, schema: str, version: int, error: type[AgentError]) -> None:
        self._lock = threading.Lock()
        self._path = path
        self._error = error
        with self._failures():
            self._database = sqlite3.connect(
                path, timeout=BUSY_TIMEOUT_SECONDS, isolation_level=None, check_same_thread=False
            )
            try:
                self._prepare(schema, version)
            except BaseException:
                self._database.close()
                raise

    def _prepare(self, schema: str, version: int) -> None:
        database = self._database
        database.execute("PRAGMA journal_mode=WAL")
        database.execute("PRAGMA synchronous=FULL")
        (found,) = database.execute("PRAGMA user_version").fetchone()
        if found == 0:
            database.executescript(f"BEGIN IMMEDIATE;{schema}PRAGMA user_version={version};COMMIT;")
        elif found != version:
            raise self._error(
                f"{self._path} has version {found}; this program reads {version}:"
                " use the gridmsg that wrote it, or move the file away"
            )

    @contextmanager
    def use(self) -> Iterator[sqlite3.Connection]:
        """Give the connection to one thread; SQLite's failures become the owner's error."""
        with self._lock, self._failures():
            yield self._database

    def close(self) -> None:
        """Let go of the file."""
        with self._lock:
            self._database.close()

    @contextmanager
    def _failures(self) -> Iterator[None]:
        try:
            yield
        except sqlite3.Error as error:
            raise self._error(f"{self._path}: {error}") from error
