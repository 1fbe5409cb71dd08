"""The database agent: raw records and summary rows from their queues into a record store.

Raw messages are JSON records (XML ones are read too); each becomes a stored record (`agents.records.stored`) under its
checksum, those that make no sense in the kind `quarantine`.  Summary rows are gathered in `staged.sqlite` of the
agent's folder until a day and generation is whole, then the day is replaced (`agents.staging`).

Invariants: a message is acknowledged only once it is on disk; a message delivered again changes nothing; a kill at
any moment loses nothing, as whatever was gathered is looked at again at the start.
Tests: tests/unit/agents/test_database.py, tests/interop/test_database_broker.py, tests/crash/test_database_kill.py.
"""

from __future__ import annotations

import logging
import threading
from collections.abc import Sequence
from datetime import UTC, datetime
from pathlib import Path
from typing import Final, NamedTuple, final

from agents.config import DatabaseSettings
from agents.errors import BadRecord, BadRequest, SettingsError
from agents.lifetime import held
from agents.records.parse import parse_record
from agents.records.payload import split_payload
from agents.records.stored import stored_record
from agents.records.wire import decode_record
from agents.recordstore.interface import Kind, RecordStore, StoredRecord, UnstorableRecord
from agents.recordstore.sqlite import SqliteRecordStore
from agents.staging import BadRow, DayStaging, StagedRow, is_part_of_day, single_row, staged_row
from agents.transport import Incoming, Transport
from agents.worker import BadMessageFolder, BatchLimits, Rejection, Worker

log = logging.getLogger(__name__)

REPORT_SECONDS: Final = 60.0
QUARANTINE_KEY: Final = "Quarantine"


def agent_folder(settings: DatabaseSettings, data_folder: Path) -> Path:
    """Give the folder of a database agent: `database` for the one named `site`, else `database-NAME`."""
    return data_folder / ("database" if settings.name == "site" else f"database-{settings.name}")


def open_store(settings: DatabaseSettings, data_folder: Path) -> RecordStore:
    """Open the record store of a database entry."""
    if settings.store != "sqlite":
        raise SettingsError(
            f'database.store: "{settings.store}" is not in this version: write store = "sqlite"'
        )
    return SqliteRecordStore(settings.store_path(data_folder))


def records_of(body: bytes, received: datetime) -> list[StoredRecord]:
    """Make the stored records of a raw message: one, or those of an XML envelope.

    Raises BadRecord with the reason when any of it cannot be read or stored.
    """
    if body.lstrip()[:1] != b"<":
        return [_stored(decode_record(body), received)]
    try:
        items = split_payload(body).items
    except BadRequest as error:
        raise BadRecord(error.text) from error
    records: list[StoredRecord] = []
    for item in items:
        if item.problem:
            raise BadRecord(item.problem)
        records.append(_stored(dict(parse_record(item.source)), received))
    if not records:
        raise BadRecord("the message has no record in it")
    return records


def _stored(raw: dict[str, object], received: datetime) -> StoredRecord:
    try:
        document = stored_record(raw, received)
        kind = Kind.QUARANTINE if QUARANTINE_KEY in document else Kind.RAW
        return StoredRecord.of(kind, str(document["checksum"]), document)
    except (UnstorableRecord, ValueError, TypeError, OverflowError, RecursionError) as error:
        raise BadRecord(f"cannot be stored: {error}") from error


class _Made(NamedTuple):
    """What a raw message was made to: its records, or why it is none."""

    content: list[StoredRecord] | BadRecord


@final
class RawCommit:
    """Stores batches of raw messages.

    `prepare` may make a message's records beforehand, in the thread that receives: the batch before is being
    written to disk meanwhile, which leaves the processor free.
    """

    def __init__(self, store: RecordStore) -> None:
        self.inserted = 0
        self.replaced = 0
        self.unchanged = 0
        self._store = store

    def prepare(self, message: Incoming) -> None:
        """Make the records of a message, which stay with it."""
        message.prepared = _Made(_records_or_reason(message, datetime.now(UTC)))

    def __call__(self, messages: Sequence[Incoming]) -> list[Rejection]:
        """Store a batch; give the messages that are no records."""
        received = datetime.now(UTC)
        records: list[StoredRecord] = []
        rejections: list[Rejection] = []
        for message in messages:
            prepared = message.prepared
            made = (
                prepared.content
                if isinstance(prepared, _Made)
                else _records_or_reason(message, received)
            )
            if isinstance(made, BadRecord):
                rejections.append(Rejection(message, made.text))
            else:
                records += made
        count = self._store.put(records)
        self.inserted += count.inserted
        self.replaced += count.replaced
        self.unchanged += count.unchanged
        return rejections


def _records_or_reason(message: Incoming, received: datetime) -> list[StoredRecord] | BadRecord:
    try:
        return records_of(message.body, received)
    except BadRecord as error:
        return error


@final
class SummaryCommit:
    """Gathers batches of summary rows, and replaces each day that is whole.

    Rows that are no part of a day are stored one by one under their ids, until a generation replaces their day.
    """

    def __init__(self, store: RecordStore, staging: DayStaging) -> None:
        self.single_rows = 0
        self.days_replaced = 0
        self.days_refused = 0
        self._store = store
        self._staging = staging

    def __call__(self, messages: Sequence[Incoming]) -> list[Rejection]:
        """Stage a batch and replace what is whole; give the messages that are no rows."""
        rows: list[StagedRow] = []
        singles: list[StoredRecord] = []
        rejections: list[Rejection] = []
        for message in messages:
            try:
                if is_part_of_day(message.headers):
                    rows.append(staged_row(message.headers, message.body))
                else:
                    singles.append(single_row(message.body))
            except BadRow as error:
                rejections.append(Rejection(message, error.text))
        if singles:
            self._store.put(singles)
            self.single_rows += len(singles)
        days = {row.day for row in rows}
        known = {day: self._store.day_generation(day) for day in days}
        wanted = []
        for row in rows:
            generation = known[row.day]
            if generation is None or row.generation > generation:
                wanted.append(row)
        self._staging.add(wanted)
        self.replace_whole_days()
        return rejections

    def replace_whole_days(self) -> None:
        """Replace each day of which all rows are staged, then forget them."""
        for day, generation in self._staging.whole_days():
            rows = self._staging.rows(day, generation)
            try:
                is_replaced = self._store.replace_day(day, generation, rows)
            except ValueError as error:
                # Its sender made two rows of one group; the day's rows before stay, and no try would change that.
                self.days_refused += 1
                log.error("summary of %s, generation %d, refused: %s", day, generation, error)
            else:
                if is_replaced:
                    self.days_replaced += 1
                    text = "summary of %s replaced: generation %d, %d rows"
                    log.info(text, day, generation, len(rows))
            self._staging.forget(day, generation)


@final
class DatabaseAgent:
    """One entry of `[[database]]` at work, from `start` to `stop`."""

    def __init__(
        self, settings: DatabaseSettings, data_folder: Path, transport: Transport | None = None
    ) -> None:
        self._settings = settings
        folder = agent_folder(settings, data_folder)
        self._store = open_store(settings, data_folder)
        self._staging = DayStaging(folder / "staged.sqlite")
        self._transport = transport or Transport(settings.broker, f"database-{settings.name}")
        self._raw_commit = RawCommit(self._store)
        self._summary_commit = SummaryCommit(self._store, self._staging)
        bad_messages = BadMessageFolder(folder / "quarantine")
        limits = BatchLimits(
            messages_max=settings.batch_records,
            bytes_max=settings.batch_bytes,
            wait_seconds=settings.batch_wait_seconds,
            # After a reconnect the broker gives again what still waits here from before.
            waiting_messages_max=2 * settings.prefetch,
            retry_max_seconds=settings.retry_max_seconds,
        )
        name = f"database-{settings.name}"
        self.raw = Worker(f"{name}-raw", self._transport, self._raw_commit, bad_messages, limits)
        self.summary = Worker(
            f"{name}-summary", self._transport, self._summary_commit, bad_messages, limits
        )

    def start(self) -> None:
        """Finish what a kill interrupted, then receive."""
        self._summary_commit.replace_whole_days()
        self.raw.start()
        self.summary.start()
        self._transport.start()
        prefetch = self._settings.prefetch
        self._transport.subscribe(self._settings.raw_queue, prefetch, self._receive_raw)
        self._transport.subscribe(self._settings.summary_queue, prefetch, self._receive_row)

    def _receive_raw(self, message: Incoming) -> None:
        self._raw_commit.prepare(message)
        self.raw.receive(message)

    def _receive_row(self, message: Incoming) -> None:
        self.summary.receive(message)

    def stop(self) -> bool:
        """Finish the batches in hand, disconnect, close the files; False when a worker would not end in time."""
        seconds = self._settings.stop_timeout_seconds / 2
        has_ended = [worker.stop(seconds) for worker in (self.raw, self.summary)]
        self._transport.stop()
        if all(has_ended):
            self._store.close()
            self._staging.close()
        return all(has_ended)

    def report(self) -> str:
        """Say in one line what was done so far."""
        commit = self._raw_commit
        raw, summary = self.raw.counts, self.summary.counts
        return (
            f"records: {commit.inserted} new, {commit.replaced} replaced, {commit.unchanged} known already;"
            f" summary rows: {summary.committed}, days replaced: {self._summary_commit.days_replaced}"
            f" (refused: {self._summary_commit.days_refused}), single rows: {self._summary_commit.single_rows};"
            f" bad messages: {raw.rejected + summary.rejected}; failed tries: {raw.failures + summary.failures}"
        )


def run(
    settings: DatabaseSettings, data_folder: Path, stopping: threading.Event | None = None
) -> None:
    """Run a database agent until SIGTERM, SIGINT or `stopping`.

    Raises SettingsError (a folder in use, a store that is not offered) or RecordStoreError.
    """
    with held(agent_folder(settings, data_folder), stopping) as stop_asked:
        agent = DatabaseAgent(settings, data_folder)
        agent.start()
        log.info(
            "database %s: stores %s in %s",
            settings.name,
            settings.raw_queue,
            settings.store_path(data_folder),
        )
        last_report = agent.report()
        while not stop_asked.wait(REPORT_SECONDS):
            report = agent.report()
            if report != last_report:
                log.info("database %s: %s", settings.name, report)
                last_report = report
        agent.stop()
        log.info("database %s stopped: %s", settings.name, agent.report())
