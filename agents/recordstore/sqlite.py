"""The record store in one SQLite file: the default, with nothing to install or start.

Layout (schema version 1): a table for each kind (`raw`, `summary`, `quarantine`) with the record's id, time,
EndTime and JSON, and a column for each key field (`recordstore.keys`); `day` holds the generation of each day of summary
rows, `change` the number of the last change of each day of raw records.  docs/database.md describes it.  One file holds all kinds, so one copy of one file is a backup; the
summary agent writes its rows to a file of its own, so it never waits for the raw records' writer.

Invariants: WAL and synchronous=FULL, so a commit that returned is on disk; one writer at a time, any number of
processes read meanwhile; a transaction is never left open when a method returns.
Tests: tests/unit/agents/recordstore/test_sqlite.py, tests/suites/record_store_suite.py, tests/crash/.
"""

# ruff: noqa: S608 - names of tables and columns are our own constants; values are parameters.

from __future__ import annotations

import sqlite3
import threading
from collections.abc import Callable, Iterator, Sequence
from contextlib import contextmanager
from datetime import date, timedelta
from pathlib import Path
from typing import Final, final

from agents.dimensions import Dimension, Sum
from agents.recordstore.condition import Condition
from agents.recordstore.fields import FieldType, field_type
from agents.recordstore.interface import (
    MILLISECONDS_A_DAY,
    PAGE_RECORDS,
    Cursor,
    GroupRow,
    Kind,
    PutCount,
    RecordStoreError,
    SchemaMismatch,
    Selection,
    StoredRecord,
    StoreUnavailable,
    day_of_ms,
    day_start_ms,
    says_the_same,
)
from agents.recordstore.keys import KEY_FIELDS, KeyValue, key_values
from agents.recordstore.sql import (
    column_name,
    number_of,
    text_of,
    where,
)

SCHEMA_VERSION: Final = 1
# "GMRS": what `file` and PRAGMA application_id show of our files.
APPLICATION_ID: Final = 0x474D5253
BUSY_SECONDS: Final = 30.0
WAL_PAGES: Final = 8_192
CACHE_KIBIBYTES: Final = 65_536
_READERS_KEPT_MAX: Final = 4
_GROUP_FETCH: Final = 1_000
_COLUMNS: Final = ("id", "time_ms", "end_ms", *KEY_FIELDS, "doc")
_PLACES: Final = f"({', '.join('?' * len(_COLUMNS))})"
_INTO: Final = f"({', '.join(_COLUMNS)}) VALUES {_PLACES}"
_UNLESS_THERE: Final = " ON CONFLICT(id) DO NOTHING"
_STATEMENT_ROWS: Final = 100
"""Rows of one INSERT: its parameters stay far below SQLite's least bound of 32,766."""
_INSERTS: Final = {
    kind: f"INSERT INTO {kind.value}{_INTO}{f', {_PLACES}' * (_STATEMENT_ROWS - 1)}{_UNLESS_THERE}"
    for kind in Kind
}


@final
class SqliteRecordStore:
    """Keep records in one SQLite file; made with its schema when it is missing.

    `is_read_only` opens an existing file and never writes.  Raises StoreUnavailable when the file cannot be
    opened, SchemaMismatch when it is not ours or of another version.
    """

    def __init__(
        self, path: Path, *, is_read_only: bool = False, busy_seconds: float = BUSY_SECONDS
    ) -> None:
        self._path = path
        self._is_read_only = is_read_only
        self._busy_seconds = busy_seconds
        self._is_closed = False
        self._write_lock = threading.Lock()
        self._readers_lock = threading.Lock()
        self._readers: list[sqlite3.Connection] = []
        if is_read_only and not path.exists():
            raise StoreUnavailable(
                f"no record store at {path}: start the database agent, or name another data folder"
            )
        self._writer = self._open()
        try:
            with self._failures():
                self._check_schema()
        except BaseException:
            self._writer.close()
            raise

    # -- writing ---------------------------------------------------------------------------

    def put(self, records: Sequence[StoredRecord]) -> PutCount:
        """Store the records, all or none; durable when it returns."""
        if not records:
            return PutCount(0, 0, 0)
        by_kind: dict[Kind, list[StoredRecord]] = {}
        for record in records:
            by_kind.setdefault(record.kind, []).append(record)
        inserted = replaced = 0
        with self._writing() as connection:
            for kind, some in by_kind.items():
                new = _insert(connection, kind, some)
                inserted += new
                days = {day_of_ms(record.timestamp_ms) for record in some} if new else set()
                if new < len(some):
                    changed, changed_days = _replace_changed(connection, kind, some)
                    replaced += changed
                    days |= changed_days
                if kind is Kind.RAW:
                    _mark_changed(connection, days)
        return PutCount(inserted, replaced, max(0, len(records) - inserted - replaced))

    def delete(self, kind: Kind, record_ids: Sequence[str]) -> int:
        """Delete records by id, durably; give how many were there."""
        with self._writing() as connection:
            days: set[date] = set()
            deleted = 0
            for record_id in record_ids:
                row = connection.execute(
                    f"DELETE FROM {kind.value} WHERE id = ? RETURNING time_ms", (record_id,)
                ).fetchone()
                if row is not None:
                    deleted += 1
                    days.add(day_of_ms(row[0]))
            if kind is Kind.RAW:
                _mark_changed(connection, days)
        return deleted

    def replace_day(self, day: date, generation: int, rows: Sequence[StoredRecord]) -> bool:
        """Put these summary rows in the place of all of the day's, at once, durably."""
        _check_day(day, rows)
        first_ms = day_start_ms(day)
        with self._writing() as connection:
            known = _generation(connection, day)
            if known is not None and generation <= known:
                return False
            connection.execute(
                "DELETE FROM summary WHERE time_ms >= ? AND time_ms < ?",
                (first_ms, first_ms + MILLISECONDS_A_DAY),
            )
            _insert(connection, Kind.SUMMARY, rows)
            connection.execute(
                "INSERT INTO day(day, generation, rows) VALUES (?, ?, ?)"
                " ON CONFLICT(day) DO UPDATE SET generation = excluded.generation, rows = excluded.rows",
                (day.isoformat(), generation, len(rows)),
            )
        return True

    # -- reading ---------------------------------------------------------------------------

    def get(self, kind: Kind, record_id: str) -> StoredRecord | None:
        """Find one record by its id."""
        with self._reading() as connection:
            row = connection.execute(
                f"SELECT id, time_ms, end_ms, doc FROM {kind.value} WHERE id = ?", (record_id,)
            ).fetchone()
        return None if row is None else StoredRecord(kind, *row)

    def page(
        self, selection: Selection, after: Cursor | None = None, records_max: int = PAGE_RECORDS
    ) -> list[StoredRecord]:
        """Read the next records in the order (time, id); an empty list is the end."""
        with self._reading() as connection:
            return _page(connection, selection, after, records_max)

    def scan(
        self, selection: Selection, after: Cursor | None = None, page_records: int = PAGE_RECORDS
    ) -> Iterator[StoredRecord]:
        """Read all records in the order (time, id), page by page.

        Summary rows are all of one state of the store, so that no day comes half old, half new.
        """
        if selection.kind is Kind.SUMMARY:
            with self._reading() as connection, _snapshot(connection):
                yield from _pages(
                    lambda place: _page(connection, selection, place, page_records), after
                )
        else:
            yield from _pages(lambda place: self.page(selection, place, page_records), after)

    def count(self, selection: Selection) -> int:
        """Count records."""
        clause, parameters = _selection_sql(selection, None)
        with self._reading() as connection:
            row = connection.execute(
                f"SELECT count(*) FROM {selection.kind.value} WHERE {clause}", parameters
            ).fetchone()
        return int(row[0])

    def groups(
        self,
        day_from: date,
        day_to: date,
        dimensions: Sequence[Dimension],
        sums: Sequence[Sum],
        condition: Condition | None = None,
    ) -> Iterator[GroupRow]:
        """Sum the raw records by UTC day of EndTime and dimensions, both days included."""
        keys = [_dimension_sql(dimension) for dimension in dimensions]
        totals = [_sum_sql(total) for total in sums]
        numbers = ", ".join(str(i + 2) for i in range(len(keys)))
        with self._reading() as connection, _snapshot(connection):
            day = day_from
            while day <= day_to:
                # A day at a time bounds the memory of SQLite's sort.
                selection = Selection(
                    Kind.RAW,
                    day_start_ms(day),
                    day_start_ms(day) + MILLISECONDS_A_DAY,
                    condition,
                )
                clause, parameters = _selection_sql(selection, None)
                cursor = connection.execute(
                    f"SELECT count(*){''.join(', ' + key for key in keys + totals)} FROM raw"
                    f" WHERE {clause} AND end_ms IS NOT NULL"
                    + (
                        f" GROUP BY {numbers} ORDER BY {numbers}"
                        if keys
                        else " HAVING count(*) > 0"
                    ),
                    parameters,
                )
                while rows := cursor.fetchmany(_GROUP_FETCH):
                    for row in rows:
                        values = row[1 : len(keys) + 1]
                        yield GroupRow(day, values, row[len(keys) + 1 :], row[0])
                day += timedelta(days=1)

    def day_generation(self, day: date) -> int | None:
        """Give the generation of the day's summary rows; None when there never were any."""
        with self._reading() as connection:
            return _generation(connection, day)

    def changed_days(self, after: int) -> list[tuple[date, int]]:
        """Give the days whose raw records were put, changed or deleted after a change, with their last change.

        Changes are numbered from 1, one number a transaction.
        """
        with self._reading() as connection:
            rows = connection.execute(
                "SELECT day, number FROM change WHERE number > ? ORDER BY number, day", (after,)
            ).fetchall()
        return [(date.fromisoformat(day), number) for day, number in rows]

    def close(self) -> None:
        """Close the file; a second call does nothing."""
        with self._readers_lock:
            self._is_closed = True
            readers, self._readers = self._readers, []
        for connection in readers:
            connection.close()
        with self._write_lock:
            self._writer.close()

    # -- connections -----------------------------------------------------------------------

    def _open(self) -> sqlite3.Connection:
        with self._failures():
            if not self._is_read_only:
                self._path.parent.mkdir(parents=True, exist_ok=True)
            mode = "ro" if self._is_read_only else "rwc"
            connection = sqlite3.connect(
                f"{self._path.absolute().as_uri()}?mode={mode}",
                uri=True,
                timeout=self._busy_seconds,
                isolation_level=None,
                check_same_thread=False,
            )
            connection.execute(f"PRAGMA cache_size = -{CACHE_KIBIBYTES}")
            connection.execute("PRAGMA synchronous = FULL")
            connection.execute(f"PRAGMA wal_autocheckpoint = {WAL_PAGES}")
            connection.execute(f"PRAGMA journal_size_limit = {WAL_PAGES * 4096 * 2}")
            return connection

    def _check_schema(self) -> None:
        connection = self._writer
        if self._version(connection) == 0 and not self._is_read_only:
            connection.execute("PRAGMA journal_mode = WAL")
            connection.execute("BEGIN IMMEDIATE")
            try:
                # Another process may have made it while this one waited.
                if self._version(connection) == 0:
                    _create(connection)
                connection.execute("COMMIT")
            except BaseException:
                _roll_back(connection)
                raise
        version = self._version(connection)
        if version == 0:
            raise StoreUnavailable(f"{self._path} is empty yet: start the database agent")
        if version != SCHEMA_VERSION:
            age = "a newer" if version > SCHEMA_VERSION else "another"
            raise SchemaMismatch(
                f"{self._path} has schema version {version}, written by {age} gridmsg; this one reads version"
                f" {SCHEMA_VERSION}: use that gridmsg, or move the file away and replay the records"
            )

    def _version(self, connection: sqlite3.Connection) -> int:
        # In this order: the file may be made by another process between the reads.
        tables = connection.execute("SELECT count(*) FROM sqlite_schema").fetchone()[0]
        application = connection.execute("PRAGMA application_id").fetchone()[0]
        version = connection.execute("PRAGMA user_version").fetchone()[0]
        if tables and application != APPLICATION_ID:
            raise SchemaMismatch(
                f"{self._path} is an SQLite file of something else: name another path for the record store"
            )
        return int(version)

    @contextmanager
    def _writing(self) -> Iterator[sqlite3.Connection]:
        if self._is_read_only:
            raise StoreUnavailable(f"{self._path} was opened for reading only")
        with self._write_lock, self._failures():
            connection = self._writer
            connection.execute("BEGIN IMMEDIATE")
            try:
                yield connection
                connection.execute("COMMIT")
            except BaseException:
                _roll_back(connection)
                raise

    @contextmanager
    def _reading(self) -> Iterator[sqlite3.Connection]:
        with self._readers_lock:
            if self._is_closed:
                raise RecordStoreError(f"the record store {self._path} is closed")
            connection = self._readers.pop() if self._readers else None
        if connection is None:
            connection = self._open()
        try:
            with self._failures():
                yield connection
        finally:
            with self._readers_lock:
                is_kept = not self._is_closed and len(self._readers) < _READERS_KEPT_MAX
                if is_kept:
                    self._readers.append(connection)
            if not is_kept:
                connection.close()

    @contextmanager
    def _failures(self) -> Iterator[None]:
        """Say SQLite's failures in the interface's words."""
        try:
            yield
        except sqlite3.OperationalError as error:
            raise StoreUnavailable(f"record store {self._path}: {_advice(str(error))}") from error
        except sqlite3.ProgrammingError as error:
            raise RecordStoreError(f"the record store {self._path} is closed: {error}") from error
        except sqlite3.DatabaseError as error:
            raise SchemaMismatch(
                f"record store {self._path} cannot be used ({error}): it is damaged or not an SQLite file;"
                " move it away, then replay the records or restore a copy"
            ) from error
        except OSError as error:
            raise StoreUnavailable(f"record store {self._path}: {error}") from error


def _advice(text: str) -> str:
    if "readonly" in text or "unable to open" in text:
        return f"{text}: check the permissions of the file and of its folder"
    if "full" in text:
        return f"{text}: make room on its disk"
    if "locked" in text or "busy" in text:
        return f"{text}: another process writes for long"
    return text


def _create(connection: sqlite3.Connection) -> None:
    columns = "".join(f', "{field}"' for field in KEY_FIELDS)
    for kind in Kind:
        table = kind.value
        connection.execute(
            f"CREATE TABLE {table}(id TEXT NOT NULL PRIMARY KEY, time_ms INTEGER NOT NULL, end_ms INTEGER"
            f"{columns}, doc TEXT NOT NULL)"
        )
        connection.execute(f"CREATE INDEX {table}_time ON {table}(time_ms, id)")
    connection.execute(
        "CREATE TABLE day(day TEXT NOT NULL PRIMARY KEY, generation INTEGER NOT NULL, rows INTEGER NOT NULL)"
        " WITHOUT ROWID"
    )
    connection.execute(
        "CREATE TABLE change(day TEXT NOT NULL PRIMARY KEY, number INTEGER NOT NULL) WITHOUT ROWID"
    )
    connection.execute("CREATE INDEX change_number ON change(number)")
    connection.execute(f"PRAGMA application_id = {APPLICATION_ID}")
    connection.execute(f"PRAGMA user_version = {SCHEMA_VERSION}")


def _insert(connection: sqlite3.Connection, kind: Kind, records: Sequence[StoredRecord]) -> int:
    """Insert the records whose ids are not there; give their number.

    Many rows a statement: the interpreter is let go once for all of them, so that other threads make the next
    batch ready meanwhile.  After each single row this thread would have to wait for its turn again.
    """
    inserted = 0
    whole = len(records) - len(records) % _STATEMENT_ROWS
    for first in range(0, whole, _STATEMENT_ROWS):
        values: list[KeyValue] = []
        for record in records[first : first + _STATEMENT_ROWS]:
            values += _row(record)
        cursor = connection.execute(_INSERTS[kind], values)
        inserted += max(0, cursor.rowcount)
    if whole < len(records):
        cursor = connection.executemany(
            f"INSERT INTO {kind.value}{_INTO}{_UNLESS_THERE}",
            [_row(record) for record in records[whole:]],
        )
        inserted += max(0, cursor.rowcount)
    return inserted


def _replace_changed(
    connection: sqlite3.Connection, kind: Kind, records: Sequence[StoredRecord]
) -> tuple[int, set[date]]:
    """Replace the records that differ; give their number and the days they were and are in."""
    days: set[date] = set()
    replaced = 0
    table = kind.value
    for record in records:
        old = connection.execute(
            f"SELECT time_ms, doc FROM {table} WHERE id = ? AND doc IS NOT ?",
            (record.id, record.text),
        ).fetchone()
        if old is not None and not says_the_same(old[1], record.text):
            connection.execute(f"REPLACE INTO {table}{_INTO}", _row(record))
            replaced += 1
            days |= {day_of_ms(old[0]), day_of_ms(record.timestamp_ms)}
    return replaced, days


def _row(record: StoredRecord) -> list[KeyValue]:
    keys = key_values(record.text)
    return [record.id, record.timestamp_ms, record.end_ms, *keys, record.text]


def _mark_changed(connection: sqlite3.Connection, days: set[date]) -> None:
    if not days:
        return
    number = connection.execute("SELECT coalesce(max(number), 0) + 1 FROM change").fetchone()[0]
    connection.executemany(
        "INSERT INTO change(day, number) VALUES (?, ?)"
        " ON CONFLICT(day) DO UPDATE SET number = excluded.number",
        [(day.isoformat(), number) for day in sorted(days)],
    )


def _check_day(day: date, rows: Sequence[StoredRecord]) -> None:
    ids = set()
    for row in rows:
        if row.kind is not Kind.SUMMARY or day_of_ms(row.timestamp_ms) != day:
            raise ValueError(f"row {row.id} is not a summary row of {day}")
        ids.add(row.id)
    if len(ids) != len(rows):
        raise ValueError(f"two summary rows of {day} have one id")


def _generation(connection: sqlite3.Connection, day: date) -> int | None:
    row = connection.execute(
        "SELECT generation FROM day WHERE day = ?", (day.isoformat(),)
    ).fetchone()
    return None if row is None else int(row[0])


def _selection_sql(
    selection: Selection, after: Cursor | None
) -> tuple[str, list[str | int | float | bool]]:
    clauses: list[str] = ["1"]
    parameters: list[str | int | float | bool] = []
    if selection.from_ms is not None:
        clauses.append("time_ms >= ?")
        parameters.append(selection.from_ms)
    if selection.to_ms is not None:
        clauses.append("time_ms < ?")
        parameters.append(selection.to_ms)
    if after is not None:
        clauses.append("(time_ms, id) > (?, ?)")
        parameters.extend(after)
    if selection.condition is not None:
        clause, values = where(selection.condition)
        clauses.append(f"({clause})")
        parameters.extend(values)
    return " AND ".join(clauses), parameters


def _page(
    connection: sqlite3.Connection, selection: Selection, after: Cursor | None, records_max: int
) -> list[StoredRecord]:
    clause, parameters = _selection_sql(selection, after)
    table = selection.kind.value
    rows = connection.execute(
        f"SELECT id, time_ms, end_ms, doc FROM {table} INDEXED BY {table}_time WHERE {clause}"
        " ORDER BY time_ms, id LIMIT ?",
        [*parameters, records_max],
    )
    return [StoredRecord(selection.kind, *row) for row in rows]


def _pages(
    read: Callable[[Cursor | None], list[StoredRecord]], place: Cursor | None
) -> Iterator[StoredRecord]:
    while records := read(place):
        yield from records
        place = records[-1].cursor


@contextmanager
def _snapshot(connection: sqlite3.Connection) -> Iterator[None]:
    """Hold one state of the file for several reads."""
    connection.execute("BEGIN")
    try:
        yield
    finally:
        _roll_back(connection)


def _roll_back(connection: sqlite3.Connection) -> None:
    if connection.in_transaction:
        connection.execute("ROLLBACK")


def _dimension_sql(dimension: Dimension) -> str:
    is_number = isinstance(dimension.default, int)
    default = str(dimension.default) if is_number else f"'{dimension.default}'"
    has_column = dimension.name in KEY_FIELDS
    if is_number:
        number = column_name(dimension.name) if has_column else f"({number_of(dimension.name)})"
        return f"CAST(coalesce({number}, {default}) AS INTEGER)"
    text = column_name(dimension.name) if has_column else f"({text_of(dimension.name)})"
    return f"coalesce({text}, {default})"


def _sum_sql(total: Sum) -> str:
    is_column = total.name in KEY_FIELDS and field_type(total.name) is not FieldType.KEYWORD
    number = column_name(total.name) if is_column else f"({number_of(total.name)})"
    return f"total(coalesce({number}, {total.missing!r}))"
