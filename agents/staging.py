"""Summary rows on their way: gathered on disk until a day's generation is whole.

Each message is one row with headers that say its day, generation, place and how many there are (`agents.summaries.messages`);
a day without rows is one message with an empty object.  A row without any of these headers (of a filtered replay, or of
a sender that knows no generations) stands for itself: `single_row`.

Invariants: `add` is durable when it returns; the same part again is the same part; what is whole stays until it is
forgotten, so a kill between replacing a day and forgetting it only replaces it again, which changes nothing.
Tests: tests/unit/agents/test_database_staging.py.
"""

from __future__ import annotations

import sqlite3
import threading
from collections.abc import Iterator, Mapping, Sequence
from contextlib import contextmanager
from datetime import date
from pathlib import Path
from typing import Final, final

from agents.dimensions import row_id
from agents.errors import AgentError, BadRecord
from agents.records.wire import decode_record
from agents.recordstore.interface import (
    Kind,
    SchemaMismatch,
    StoredRecord,
    StoreUnavailable,
    UnstorableRecord,
    day_of_ms,
)
from agents.summaries.messages import (
    DAY_HEADER,
    GENERATION_HEADER,
    ROW_HEADER,
    ROWS_HEADER,
)

ROWS_MAX: Final = 5_000_000
STAGED_ROWS_MAX: Final = 20_000_000
_NUMBER_MAX: Final = 2**63 - 1


class BadRow(AgentError):
    """A message that is no summary row, or no part of a day of them."""


@final
class StagedRow:
    """One part of a day: `record` is None for the only part of a day without rows."""

    __slots__ = ("day", "generation", "place", "record", "rows_count")

    def __init__(
        self, day: date, generation: int, rows_count: int, place: int, record: StoredRecord | None
    ) -> None:
        self.day = day
        self.generation = generation
        self.rows_count = rows_count
        self.place = place
        self.record = record


def is_part_of_day(headers: Mapping[str, str]) -> bool:
    """Tell whether a message says of which day and generation it is a part."""
    return any(name in headers for name in (DAY_HEADER, GENERATION_HEADER, ROWS_HEADER, ROW_HEADER))


def single_row(body: bytes) -> StoredRecord:
    """Read a summary row that belongs to no generation; raise BadRow with the reason when it is none."""
    try:
        row = decode_record(body)
        if not row:
            raise BadRow(
                f"an empty object is no row (a day without rows has the header {DAY_HEADER})"
            )
        return StoredRecord.of(Kind.SUMMARY, row_id(row), row)
    except (BadRecord, UnstorableRecord) as error:
        raise BadRow(error.text) from error


def staged_row(headers: Mapping[str, str], body: bytes) -> StagedRow:
    """Read a summary message; raise BadRow with the reason when it is none."""
    try:
        day = date.fromisoformat(headers.get(DAY_HEADER, ""))
    except ValueError as error:
        raise BadRow(f"header {DAY_HEADER}: {error}") from error
    generation = _number(headers, GENERATION_HEADER)
    rows_count = _number(headers, ROWS_HEADER)
    place = _number(headers, ROW_HEADER)
    if rows_count > ROWS_MAX or place >= max(1, rows_count):
        raise BadRow(
            f"row {place} of {rows_count}: the place must be below it, and at most {ROWS_MAX}"
        )
    try:
        row = decode_record(body)
        if rows_count == 0:
            if row:
                raise BadRow(f"{ROWS_HEADER} is 0, but the body is not an empty object")
            return StagedRow(day, generation, 0, 0, None)
        record = StoredRecord.of(Kind.SUMMARY, row_id(row), row)
    except (BadRecord, UnstorableRecord) as error:
        raise BadRow(error.text) from error
    if day_of_ms(record.timestamp_ms) != day:
        raise BadRow(f"EndTime of the row is not on {day}, the day of its header")
    return StagedRow(day, generation, rows_count, place, record)


def _number(headers: Mapping[str, str], name: str) -> int:
    text = headers.get(name, "")
    if not text.isascii() or not text.isdigit() or len(text) > 19 or int(text) > _NUMBER_MAX:
        raise BadRow(f"header {name} is not a whole number: {text[:40]!r}")
    return int(text)


@final
class DayStaging:
    """The rows gathered so far, in an SQLite file of the agent's own.

    Raises StoreUnavailable when the file cannot be used now.
    """

    def __init__(self, path: Path) -> None:
        self._path = path
        self._lock = threading.Lock()
        with self._failures():
            path.parent.mkdir(parents=True, exist_ok=True)
            self._connection = sqlite3.connect(
                path, timeout=30.0, isolation_level=None, check_same_thread=False
            )
            try:
                self._prepare()
            except BaseException:
                self._connection.close()
                raise

    def add(self, rows: Sequence[StagedRow]) -> None:
        """Keep the rows durably.

        A row that names another number of rows than its generation had so far starts the
        generation over: its sender began again.
        """
        if not rows:
            return
        with self._lock, self._failures(), self._writing():
            (total,) = self._connection.execute(
                "SELECT coalesce(sum(staged), 0) FROM day"
            ).fetchone()
            if total + len(rows) > STAGED_ROWS_MAX:
                raise StoreUnavailable(
                    f"{self._path} holds {total} rows of unfinished days: have the summary agent send them again,"
                    " or stop this agent and delete the file"
                )
            for row in rows:
                self._add(row)

    def _add(self, row: StagedRow) -> None:
        key = (row.day.isoformat(), row.generation)
        known = self._connection.execute(
            "SELECT rows FROM day WHERE day = ? AND generation = ?", key
        ).fetchone()
        if known is not None and known[0] != row.rows_count:
            self._delete("day = ? AND generation = ?", key)
            known = None
        if known is None:
            self._connection.execute("INSERT INTO day VALUES (?, ?, ?, 0)", (*key, row.rows_count))
        if row.record is not None:
            record = row.record
            added = self._connection.execute(
                "INSERT INTO part VALUES (?, ?, ?, ?, ?, ?, ?) ON CONFLICT DO NOTHING",
                (*key, row.place, record.id, record.timestamp_ms, record.end_ms, record.text),
            ).rowcount
            self._connection.execute(
                "UPDATE day SET staged = staged + ? WHERE day = ? AND generation = ?", (added, *key)
            )

    def whole_days(self) -> list[tuple[date, int]]:
        """Give days and generations of which every row is here, the newest generation of each day only."""
        with self._lock, self._failures():
            rows = self._connection.execute(
                "SELECT day, max(generation) FROM day WHERE staged = rows GROUP BY day ORDER BY day"
            ).fetchall()
        return [(date.fromisoformat(day), generation) for day, generation in rows]

    def rows(self, day: date, generation: int) -> list[StoredRecord]:
        """Give the rows of a day, in their order."""
        with self._lock, self._failures():
            rows = self._connection.execute(
                "SELECT id, time_ms, end_ms, doc FROM part WHERE day = ? AND generation = ? ORDER BY place",
                (day.isoformat(), generation),
            ).fetchall()
        return [StoredRecord(Kind.SUMMARY, *row) for row in rows]

    def forget(self, day: date, generation: int) -> None:
        """Drop the day's rows of this generation and of all older ones."""
        with self._lock, self._failures(), self._writing():
            self._delete("day = ? AND generation <= ?", (day.isoformat(), generation))

    def close(self) -> None:
        """Close the file."""
        with self._lock:
            self._connection.close()

    def _delete(self, clause: str, parameters: tuple[str, int]) -> None:
        for table in ("part", "day"):
            self._connection.execute(f"DELETE FROM {table} WHERE {clause}", parameters)  # noqa: S608 - ours

    def _prepare(self) -> None:
        connection = self._connection
        connection.execute("PRAGMA journal_mode = WAL")
        connection.execute("PRAGMA synchronous = FULL")
        with self._writing():
            connection.execute(
                "CREATE TABLE IF NOT EXISTS day(day TEXT NOT NULL, generation INTEGER NOT NULL, rows INTEGER NOT NULL,"
                " staged INTEGER NOT NULL, PRIMARY KEY (day, generation)) WITHOUT ROWID"
            )
            connection.execute(
                "CREATE TABLE IF NOT EXISTS part(day TEXT NOT NULL, generation INTEGER NOT NULL, place INTEGER NOT NULL,"
                " id TEXT NOT NULL, time_ms INTEGER NOT NULL, end_ms INTEGER, doc TEXT NOT NULL,"
                " PRIMARY KEY (day, generation, place)) WITHOUT ROWID"
            )

    @contextmanager
    def _writing(self) -> Iterator[None]:
        self._connection.execute("BEGIN IMMEDIATE")
        try:
            yield
            self._connection.execute("COMMIT")
        except BaseException:
            if self._connection.in_transaction:
                self._connection.execute("ROLLBACK")
            raise

    @contextmanager
    def _failures(self) -> Iterator[None]:
        try:
            yield
        except sqlite3.OperationalError as error:
            raise StoreUnavailable(f"staged rows in {self._path}: {error}") from error
        except sqlite3.DatabaseError as error:
            raise SchemaMismatch(
                f"{self._path} cannot be used ({error}): delete it and have the summaries sent again"
            ) from error
        except OSError as error:
            raise StoreUnavailable(f"staged rows in {self._path}: {error}") from error
