"""The lease in a row of a PostgreSQL database, whose clock alone decides when it runs out.

The right comes from the row; the epoch is claimed in the store's folder too, while the row is locked, so that the lookup fence, the
marks of recovery and brokers with another locker see it.  An epoch is never below the store's.  Needs psycopg 3.
Tests: tests/crash/test_failover_postgresql.py.
"""

from __future__ import annotations

import contextlib
from collections.abc import Callable, Iterator
from typing import TYPE_CHECKING, Any, Final, final

from store.errors import Fenced, StoreError
from store.lease.block import BLOCK_BYTES, Block, LeaseFile, decode_block, encode_block
from store.lease.directory import DirectoryLocker, Terms
from store.lease.held import Lease, Ledger
from store.lease.host import Host
from store.lease.watch import Sight, Verdict

if TYPE_CHECKING:
    import psycopg

_TABLE: Final = """
CREATE TABLE IF NOT EXISTS gridmsg_lease (
    name text PRIMARY KEY,
    epoch bigint NOT NULL,
    claim text NOT NULL,
    block bytea NOT NULL,
    expires_at timestamptz NOT NULL,
    is_released boolean NOT NULL)"""
_ROW: Final = """
SELECT epoch, claim, block, is_released, expires_at <= clock_timestamp()
FROM gridmsg_lease WHERE name = %s"""
_LOCK: Final = """
SELECT epoch FROM gridmsg_lease
WHERE name = %s AND claim = %s AND (is_released OR expires_at <= clock_timestamp() OR %s)
FOR UPDATE NOWAIT"""
_TAKE: Final = """
INSERT INTO gridmsg_lease VALUES (%s, %s, %s, %s, clock_timestamp() + %s * interval '1 second', false)
ON CONFLICT (name) DO UPDATE SET epoch = excluded.epoch, claim = excluded.claim,
    block = excluded.block, expires_at = excluded.expires_at, is_released = false
WHERE gridmsg_lease.claim = %s"""
_RENEW: Final = """
UPDATE gridmsg_lease SET block = %s, is_released = %s,
    expires_at = clock_timestamp() + %s * interval '1 second'
WHERE name = %s AND claim = %s AND NOT is_released AND expires_at > clock_timestamp()"""
CONNECT_SECONDS_MIN: Final = 2


@final
class Database:
    """A connection that is made when needed, and anew after an error; every failure is an OSError."""

    __slots__ = ("_address", "_connection", "_timeout_seconds")

    def __init__(self, address: str, timeout_seconds: float) -> None:
        self._address = address
        self._timeout_seconds = timeout_seconds
        self._connection: psycopg.Connection[Any] | None = None

    @contextlib.contextmanager
    def transaction(self) -> Iterator[psycopg.Cursor[Any]]:
        """Run statements in one transaction."""
        psycopg = load_psycopg()
        try:
            connection = self._connection
            if connection is None or connection.closed:
                connection = self._connection = self._connect()
            with connection.transaction(), connection.cursor() as cursor:
                yield cursor
        except psycopg.Error as error:
            self.close()
            text = " ".join(str(error).split())
            raise OSError(f"PostgreSQL: {text or type(error).__name__}") from error

    def _connect(self) -> psycopg.Connection[Any]:
        milliseconds = max(100, round(self._timeout_seconds * 1000))
        connection: psycopg.Connection[Any] = load_psycopg().connect(
            self._address,
            autocommit=True,
            # A server that vanished is an error, not a wait without end.
            tcp_user_timeout=milliseconds,
            connect_timeout=max(CONNECT_SECONDS_MIN, round(self._timeout_seconds)),
            # A claimer stopped with the row locked must not keep it.
            options=f"-c statement_timeout={milliseconds} -c lock_timeout={milliseconds} "
            f"-c idle_in_transaction_session_timeout={milliseconds}",
            application_name="gridmsg",
        )
        connection.execute(_TABLE)
        return connection

    def close(self) -> None:
        """Drop the connection."""
        connection, self._connection = self._connection, None
        if connection is not None:
            with contextlib.suppress(Exception):
                connection.close()


@final
class PostgresqlLedger:
    """The row of our epoch, and its lease file beside it."""

    __slots__ = ("_claim", "_database", "_file", "_name")

    def __init__(self, database: Database, name: str, claim: str, file: Ledger) -> None:
        self._database = database
        self._name = name
        self._claim = claim
        self._file = file

    def write(self, block: Block) -> None:
        """Renew or release, if the row is still ours and has not run out by the database's clock."""
        self._file.write(block)
        seconds = block.duration_seconds
        raw = encode_block(block)
        with self._database.transaction() as cursor:
            cursor.execute(_RENEW, (raw, block.is_released, seconds, self._name, self._claim))
            is_ours = cursor.rowcount == 1
        if block.is_released:
            self._database.close()
        elif not is_ours:
            raise Fenced(f"the lease {self._name!r} in the database is not ours any more")

    def is_superseded(self) -> bool:
        """One stat in the store's folder."""
        return self._file.is_superseded()


@final
class PostgresqlLocker:
    """Looks at the row and at the folder, and claims both."""

    __slots__ = ("_address", "_database", "_directory", "_host", "_name", "_seconds", "_terms")

    def __init__(
        self,
        address: str,
        name: str,
        terms: Terms,
        host: Host,
        directory: DirectoryLocker,
        clock: Callable[[], float],
    ) -> None:
        self._address = address
        self._name = name
        self._terms = terms
        self._host = host
        self._directory = directory
        self._seconds = clock
        self._database = Database(address, terms.duration_seconds)

    def look(self) -> Sight:
        """Read row and folder; the later epoch of the two counts.  Raises OSError."""
        started_at = self._seconds()
        in_folder = self._directory.look()
        with self._database.transaction() as cursor:
            row = cursor.execute(_ROW, (self._name,)).fetchone()
        if row is None or row[0] < in_folder.epoch:
            return in_folder
        epoch, _, raw, is_released, is_expired = row
        block = decode_block(bytes(raw).ljust(BLOCK_BYTES, b"\0"))
        is_dead = block is not None and self._host.is_dead(block.owner)
        verdict = Verdict.HELD
        if is_released:
            verdict = Verdict.RELEASED
        elif is_dead:
            verdict = Verdict.DEAD
        elif is_expired:
            verdict = Verdict.EXPIRED
        file = LeaseFile(block, block)
        return Sight(epoch, file, is_dead, started_at, self._seconds(), verdict)

    def claim(self, sight: Sight) -> Lease | None:
        """Lock the row as it was seen, claim the epoch in the folder, take the row.  Raises OSError, StoreError."""
        lease = None
        try:
            with self._database.transaction() as cursor:
                row = cursor.execute(_ROW, (self._name,)).fetchone()
                former = row[1] if row is not None else ""
                if row is not None:
                    is_judged = sight.is_proved_dead or row[0] < sight.epoch
                    locked = cursor.execute(_LOCK, (self._name, former, is_judged)).fetchone()
                    if locked is None or locked[0] > sight.epoch:
                        return None
                lease = self._directory.claim(sight)
                if lease is None:
                    return None
                raw = encode_block(lease.block)
                seconds = self._terms.duration_seconds
                claim = lease.block.claim
                cursor.execute(_TAKE, (self._name, lease.epoch, claim, raw, seconds, former))
                is_taken = cursor.rowcount == 1
        except (OSError, StoreError):
            if lease is not None:
                lease.release()
            raise
        if not is_taken:
            lease.release()
            return None
        database = Database(self._address, self._terms.duration_seconds)
        lease.write_to(lambda file: PostgresqlLedger(database, self._name, claim, file))
        return lease


def load_psycopg() -> Any:
    """Import psycopg.  Raises StoreError that says how to get it."""
    try:
        import psycopg
    except ImportError:
        raise StoreError(
            'the locker postgresql needs psycopg 3: pip install "psycopg[binary]"'
        ) from None
    return psycopg
