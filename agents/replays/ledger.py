"""The replay agent's memory: every accepted request and how far it is, in one SQLite file.

Invariants: each change is on disk when its method returns (WAL, synchronous FULL); a request is
in the ledger before its message is acknowledged, and a page is counted only after the broker has
confirmed all of it, so a crash at any moment repeats a page at most and never skips or counts one
twice; states only move along TRANSITIONS.
Must not know: brokers, record stores.
Tests: tests/unit/agents/test_replay_ledger.py
"""

from __future__ import annotations

import hashlib
import sqlite3
import uuid
from dataclasses import dataclass
from enum import StrEnum
from pathlib import Path
from typing import Any, Final, final

from agents.errors import AgentError
from agents.ledgerfile import LedgerFile
from agents.replays.control import Counts

SCHEMA_VERSION: Final = 1
ENDED_KEPT_MAX: Final = 1_000


class State(StrEnum):
    """Where a request is."""

    ACCEPTED = "accepted"
    RUNNING = "running"
    FINISHING = "finishing"
    FAILING = "failing"
    FINISHED = "finished"
    FAILED = "failed"


TRANSITIONS: Final[dict[State, frozenset[State]]] = {
    State.ACCEPTED: frozenset({State.RUNNING, State.FAILING}),
    State.RUNNING: frozenset({State.RUNNING, State.FINISHING, State.FAILING}),
    State.FINISHING: frozenset({State.FINISHED}),
    State.FAILING: frozenset({State.FAILED}),
    State.FINISHED: frozenset(),
    State.FAILED: frozenset(),
}
ENDED: Final = (State.FINISHED, State.FAILED)


class LedgerError(AgentError):
    """The ledger file cannot be used now; the text says why."""


class IdTaken(AgentError):
    """The id that a request gives itself belongs to another request."""


@final
@dataclass(slots=True)
class Entry:
    """One request as the ledger has it; `cursor` is the place after the last confirmed page."""

    number: int
    request_id: str
    body: bytes
    state: State
    cursor: str
    address: str
    counts: Counts
    error: str | None
    accepted_ms: int


_SCHEMA: Final = """
CREATE TABLE requests (
    number INTEGER PRIMARY KEY AUTOINCREMENT,
    request_id TEXT NOT NULL UNIQUE,
    digest TEXT NOT NULL,
    body BLOB NOT NULL,
    state TEXT NOT NULL,
    accepted_ms INTEGER NOT NULL,
    cursor TEXT NOT NULL DEFAULT '',
    address TEXT NOT NULL DEFAULT '',
    expected INTEGER NOT NULL DEFAULT 0,
    sent INTEGER NOT NULL DEFAULT 0,
    failed INTEGER NOT NULL DEFAULT 0,
    first_end_time TEXT,
    last_end_time TEXT,
    error TEXT
);
CREATE INDEX requests_by_digest ON requests (digest);
CREATE INDEX requests_by_state ON requests (state);
"""
_COLUMNS: Final = (
    "number, request_id, body, state, cursor, address, expected, sent, failed,"
    " first_end_time, last_end_time, error, accepted_ms"
)


@final
class ReplayLedger:
    """Requests and their progress, durable; safe to share between threads."""

    def __init__(self, path: Path) -> None:
        self._file = LedgerFile(path, _SCHEMA, SCHEMA_VERSION, LedgerError)

    def close(self) -> None:
        """Let go of the file."""
        self._file.close()

    def accept(
        self, body: bytes, given_id: str | None, is_redelivered: bool, now_ms: int
    ) -> tuple[Entry, bool]:
        """Keep a request; gives its entry and whether it is new.

        The same id is the same request.  Without one it is the same body: delivered again by the broker, or
        while the request has not ended (a broker that was killed does not know that it delivered before).
        IdTaken for an id that another request has used.
        """
        digest = hashlib.sha256(body).hexdigest()
        with self._file.use() as database:
            if given_id is not None:
                known = self._find(database, "request_id = ?", given_id)
                if known is not None:
                    if known.body != body:
                        raise IdTaken(
                            f"id {given_id!r} was used by another request; take a new one"
                        )
                    return known, False
            else:
                known = self._find(database, "digest = ?", digest)
                if known is not None and (is_redelivered or known.state not in ENDED):
                    return known, False
            request_id = given_id or uuid.uuid4().hex
            database.execute(
                "INSERT INTO requests (request_id, digest, body, state, accepted_ms)"
                " VALUES (?, ?, ?, ?, ?)",
                (request_id, digest, body, State.ACCEPTED, now_ms),
            )
            entry = self._find(database, "request_id = ?", request_id)
            assert entry is not None, "just inserted"
            return entry, True

    def move(self, entry: Entry, state: State) -> None:
        """Write an entry's progress and its next state at once."""
        assert state in TRANSITIONS[entry.state], f"{entry.state} to {state}"
        counts = entry.counts
        with self._file.use() as database:
            database.execute(
                "UPDATE requests SET state = ?, cursor = ?, address = ?, expected = ?, sent = ?,"
                " failed = ?, first_end_time = ?, last_end_time = ?, error = ? WHERE number = ?",
                (
                    state,
                    entry.cursor,
                    entry.address,
                    counts.expected,
                    counts.sent,
                    counts.failed,
                    counts.first_end_time,
                    counts.last_end_time,
                    entry.error,
                    entry.number,
                ),
            )
        entry.state = state

    def open_entries(self) -> list[Entry]:
        """Give the requests that have not ended, oldest first."""
        with self._file.use() as database:
            found = database.execute(
                f"SELECT {_COLUMNS} FROM requests WHERE state NOT IN (?, ?) ORDER BY number",  # noqa: S608
                ENDED,
            ).fetchall()
        return [_entry(each) for each in found]

    def open_count(self) -> int:
        """Count the requests that have not ended."""
        with self._file.use() as database:
            (count,) = database.execute(
                "SELECT count(*) FROM requests WHERE state NOT IN (?, ?)", ENDED
            ).fetchone()
        return int(count)

    def open_count_before(self, entry: Entry) -> int:
        """Count the requests that have not ended and came before this one."""
        with self._file.use() as database:
            (count,) = database.execute(
                "SELECT count(*) FROM requests WHERE state NOT IN (?, ?) AND number < ?",
                (*ENDED, entry.number),
            ).fetchone()
        return int(count)

    def find(self, request_id: str) -> Entry | None:
        """Find a request by its id."""
        with self._file.use() as database:
            return self._find(database, "request_id = ?", request_id)

    def forget_old(self) -> int:
        """Drop all but the last ENDED_KEPT_MAX ended requests; gives how many went."""
        with self._file.use() as database:
            return database.execute(
                "DELETE FROM requests WHERE state IN (?, ?) AND number NOT IN (SELECT number FROM"
                " requests WHERE state IN (?, ?) ORDER BY number DESC LIMIT ?)",
                (*ENDED, *ENDED, ENDED_KEPT_MAX),
            ).rowcount

    def _find(self, database: sqlite3.Connection, where: str, value: str) -> Entry | None:
        found = database.execute(
            f"SELECT {_COLUMNS} FROM requests WHERE {where} ORDER BY number DESC LIMIT 1",  # noqa: S608
            (value,),
        ).fetchone()
        return None if found is None else _entry(found)


def _entry(values: tuple[Any, ...]) -> Entry:
    number, request_id, body, state, cursor, address, *rest = values
    expected, sent, failed, first, last, error, accepted_ms = rest
    counts = Counts(expected, sent, failed, first, last)
    return Entry(
        number, request_id, body, State(state), cursor, address, counts, error, accepted_ms
    )
