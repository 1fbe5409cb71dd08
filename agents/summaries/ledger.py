"""The summary agent's memory: what each day was computed to, and who has been sent it.

Invariants: each change is on disk when its method returns; a copy is marked as sent only after the
broker has confirmed every row of it, so a crash repeats a day and never skips one; generations of
a day only grow.
Must not know: brokers, record stores.
Tests: tests/unit/agents/test_summary_ledger.py
"""

from __future__ import annotations

import sqlite3
from collections.abc import Iterable, Mapping
from datetime import date
from pathlib import Path
from typing import Final, NamedTuple, final

from agents.errors import AgentError
from agents.ledgerfile import LedgerFile

SCHEMA_VERSION: Final = 1

_SCHEMA: Final = """
CREATE TABLE days (
    day TEXT PRIMARY KEY, generation INTEGER NOT NULL, digest TEXT NOT NULL, row_count INTEGER NOT NULL
);
CREATE TABLE copies (
    day TEXT NOT NULL, destination TEXT NOT NULL, generation INTEGER NOT NULL,
    PRIMARY KEY (day, destination)
);
CREATE TABLE dirty (day TEXT PRIMARY KEY, mark INTEGER NOT NULL);
CREATE TABLE facts (name TEXT PRIMARY KEY, value TEXT NOT NULL);
"""


class SummaryLedgerError(AgentError):
    """The ledger file cannot be used now; the text says why."""


class ComputedDay(NamedTuple):
    """What a day was computed to, last."""

    day: date
    generation: int
    digest: str
    row_count: int


@final
class SummaryLedger:
    """Days, copies and marks, durable; safe to share between threads."""

    def __init__(self, path: Path) -> None:
        self._file = LedgerFile(path, _SCHEMA, SCHEMA_VERSION, SummaryLedgerError)

    def close(self) -> None:
        """Let go of the file."""
        self._file.close()

    def computed(self, day: date) -> ComputedDay | None:
        """Give what a day was computed to; None when it never was."""
        with self._file.use() as database:
            found = database.execute(
                "SELECT day, generation, digest, row_count FROM days WHERE day = ?",
                (day.isoformat(),),
            ).fetchone()
        return None if found is None else ComputedDay(date.fromisoformat(found[0]), *found[1:])

    def computed_days(self) -> list[date]:
        """Give every day that was ever computed."""
        with self._file.use() as database:
            found = database.execute("SELECT day FROM days ORDER BY day").fetchall()
        return [date.fromisoformat(each[0]) for each in found]

    def note_computed(self, computed: ComputedDay) -> None:
        """Keep what a day was computed to; its copies are due from now on."""
        with self._file.use() as database:
            database.execute(
                "INSERT INTO days (day, generation, digest, row_count) VALUES (?, ?, ?, ?)"
                " ON CONFLICT (day) DO UPDATE SET generation = excluded.generation,"
                " digest = excluded.digest, row_count = excluded.row_count",
                (computed.day.isoformat(), *computed[1:]),
            )

    def due_copies(self, destination: str) -> list[ComputedDay]:
        """Give the days whose present generation this destination has not confirmed, oldest first."""
        with self._file.use() as database:
            found = database.execute(
                "SELECT d.day, d.generation, d.digest, d.row_count FROM days d LEFT JOIN copies c"
                " ON c.day = d.day AND c.destination = ?"
                " WHERE c.generation IS NULL OR c.generation < d.generation ORDER BY d.day",
                (destination,),
            ).fetchall()
        return [ComputedDay(date.fromisoformat(each[0]), *each[1:]) for each in found]

    def note_sent(self, day: date, destination: str, generation: int) -> None:
        """Keep that a destination has confirmed a generation of a day."""
        with self._file.use() as database:
            database.execute(
                "INSERT INTO copies (day, destination, generation) VALUES (?, ?, ?)"
                " ON CONFLICT (day, destination) DO UPDATE SET generation = excluded.generation",
                (day.isoformat(), destination, generation),
            )

    def mark_dirty(self, days: Iterable[date], facts: Mapping[str, str] | None = None) -> None:
        """Keep days to compute, together with `facts` (how far changes were read): all or nothing."""
        with self._file.use() as database:
            database.execute("BEGIN IMMEDIATE")
            try:
                database.executemany(
                    "INSERT INTO dirty (day, mark) VALUES (?, 1)"
                    " ON CONFLICT (day) DO UPDATE SET mark = mark + 1",
                    [(day.isoformat(),) for day in days],
                )
                database.executemany(
                    "INSERT INTO facts (name, value) VALUES (?, ?)"
                    " ON CONFLICT (name) DO UPDATE SET value = excluded.value",
                    list((facts or {}).items()),
                )
                database.execute("COMMIT")
            except sqlite3.Error:
                # A full disk has rolled it back already, and to say so would hide why.
                if database.in_transaction:
                    database.execute("ROLLBACK")
                raise

    def dirty_days(self) -> list[date]:
        """Give the days to compute, newest first."""
        with self._file.use() as database:
            found = database.execute("SELECT day FROM dirty ORDER BY day DESC").fetchall()
        return [date.fromisoformat(each[0]) for each in found]

    def dirty_mark(self, day: date) -> int:
        """Give a day's mark, which grows whenever it is marked again; 0 when it has none."""
        with self._file.use() as database:
            found = database.execute(
                "SELECT mark FROM dirty WHERE day = ?", (day.isoformat(),)
            ).fetchone()
        return 0 if found is None else int(found[0])

    def clear_dirty(self, day: date, mark: int) -> None:
        """Take a day's mark away, unless it was marked again after `mark` was read."""
        with self._file.use() as database:
            database.execute(
                "DELETE FROM dirty WHERE day = ? AND mark = ?", (day.isoformat(), mark)
            )

    def fact(self, name: str) -> str:
        """Read a kept value; empty when there is none."""
        with self._file.use() as database:
            found = database.execute("SELECT value FROM facts WHERE name = ?", (name,)).fetchone()
        return "" if found is None else str(found[0])
