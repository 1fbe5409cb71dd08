"""The record store as the agents see it: records by id, pages in time order, sums by group, whole days.

`recordstore.sqlite.SqliteRecordStore` is the embedded default; the suite that every
implementation passes: tests/suites/record_store_suite.py.

Invariants: `put` and `replace_day` are durable when they return; a record put again under its id is
harmless; the order of a scan is (timestamp, id), so a cursor taken from any record resumes after it.
A store object is safe to share between threads; its iterators belong to the thread that reads them.
Must not know: SQL, Elasticsearch, transports.
Tests: tests/unit/agents/recordstore/test_interface.py, test_sqlite.py.
"""

from __future__ import annotations

import json
import re
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass
from datetime import UTC, date, datetime, timedelta
from enum import StrEnum
from typing import Final, NamedTuple, Protocol, final

import msgspec

from agents.dimensions import Dimension, Group, Sum
from agents.errors import AgentError
from agents.recordstore.condition import Condition

MILLISECONDS_A_DAY: Final = 86_400_000
PAGE_RECORDS: Final = 1_000
ID_LENGTH_MAX: Final = 256


class RecordStoreError(AgentError):
    """Any failure of the record store; the text says what to do."""


class StoreUnavailable(RecordStoreError):
    """The store cannot do it now (busy, disk full, no permission, I/O error): try again later."""


class SchemaMismatch(RecordStoreError):
    """A store written by a version, or for a purpose, that this program cannot use."""


class UnstorableRecord(RecordStoreError):
    """One record that no try can store; `id` names it."""

    def __init__(self, record_id: str, reason: str) -> None:
        super().__init__(f"record {record_id!r}: {reason}")
        self.id = record_id
        self.reason = reason


class Kind(StrEnum):
    """Where a record is kept; each kind is searched and scanned on its own."""

    RAW = "raw"
    SUMMARY = "summary"
    QUARANTINE = "quarantine"


@final
class StoredRecord:
    """One record as a store keeps it: `text` is its JSON, `timestamp_ms` its place in time.

    `end_ms` is the record's own EndTime: None without one, else equal to `timestamp_ms`.  Times are
    milliseconds since 1970, UTC.
    """

    __slots__ = ("end_ms", "id", "kind", "text", "timestamp_ms")

    def __init__(
        self, kind: Kind, record_id: str, timestamp_ms: int, end_ms: int | None, text: str
    ) -> None:
        self.kind = kind
        self.id = record_id
        self.timestamp_ms = timestamp_ms
        self.end_ms = end_ms
        self.text = text

    @classmethod
    def of(
        cls, kind: Kind, record_id: str, document: Mapping[str, object], at_ms: int | None = None
    ) -> StoredRecord:
        """Make a record of a JSON object; its time is EndTime, else `@timestamp`, else `at_ms`.

        Raises UnstorableRecord when the id is empty or too long, when there is no time, or when
        the object is not JSON (NaN, lone surrogates, other types).
        """
        if not record_id or len(record_id) > ID_LENGTH_MAX:
            raise UnstorableRecord(record_id[:80], f"an id has 1 to {ID_LENGTH_MAX} characters")
        end_ms = time_ms(document.get("EndTime"))
        timestamp_ms = end_ms
        if timestamp_ms is None:
            timestamp_ms = time_ms(document.get("@timestamp"))
        if timestamp_ms is None:
            timestamp_ms = at_ms
        if timestamp_ms is None:
            raise UnstorableRecord(record_id, "no time: neither EndTime nor @timestamp can be read")
        try:
            text = _ENCODER.encode(document).decode()
        except (TypeError, ValueError, RecursionError, msgspec.MsgspecError) as error:
            raise UnstorableRecord(record_id, f"cannot be written as JSON: {error}") from error
        if "null" in text:
            # msgspec writes null for what is no number in JSON; a real null passes this stricter writer.
            try:
                json.dumps(document, allow_nan=False)
            except ValueError as error:
                raise UnstorableRecord(record_id, f"cannot be written as JSON: {error}") from error
        return cls(kind, record_id, timestamp_ms, end_ms, text)

    @property
    def document(self) -> dict[str, object]:
        """Read the JSON object; a new one at each call."""
        return _DECODER.decode(self.text)

    @property
    def cursor(self) -> Cursor:
        """Give the place just after this record in a scan."""
        return Cursor(self.timestamp_ms, self.id)


class Cursor(NamedTuple):
    """A place in a scan: everything up to and with this record has been read."""

    timestamp_ms: int
    id: str

    def text(self) -> str:
        """Write the cursor as one line, for a checkpoint."""
        return f"{self.timestamp_ms},{self.id}"

    @classmethod
    def parse(cls, text: str) -> Cursor:
        """Read a cursor back; ValueError when it is not one."""
        milliseconds, comma, record_id = text.partition(",")
        if not comma or not record_id:
            raise ValueError(f"not a cursor: {text[:80]!r}")
        return cls(int(milliseconds), record_id)


@final
@dataclass(frozen=True, slots=True)
class Selection:
    """Which records: a kind, a time range (`from_ms` ≤ time < `to_ms`) and a condition."""

    kind: Kind = Kind.RAW
    from_ms: int | None = None
    to_ms: int | None = None
    condition: Condition | None = None


class PutCount(NamedTuple):
    """What a put did: new ids, ids whose record changed, ids that were there just so (but for `@received`)."""

    inserted: int
    replaced: int
    unchanged: int


class GroupRow(NamedTuple):
    """One group of one day: the dimensions' values and the sums, in the order asked for."""

    day: date
    values: Group
    sums: tuple[float, ...]
    records: int


class RecordStore(Protocol):
    """Keep records; every failure is a RecordStoreError whose text says what to do."""

    def put(self, records: Sequence[StoredRecord]) -> PutCount:
        """Store the records, all or none; durable when it returns.  The last of one id stays.

        A record that differs from the stored one in nothing but `@received` changes nothing.
        """
        ...

    def get(self, kind: Kind, record_id: str) -> StoredRecord | None:
        """Find one record by its id."""
        ...

    def delete(self, kind: Kind, record_ids: Sequence[str]) -> int:
        """Delete records by id, durably; give how many were there."""
        ...

    def page(
        self, selection: Selection, after: Cursor | None = None, records_max: int = PAGE_RECORDS
    ) -> list[StoredRecord]:
        """Read the next records in the order (time, id); an empty list is the end."""
        ...

    def scan(
        self, selection: Selection, after: Cursor | None = None, page_records: int = PAGE_RECORDS
    ) -> Iterator[StoredRecord]:
        """Read all records in the order (time, id), page by page: writers are never held up."""
        ...

    def count(self, selection: Selection) -> int:
        """Count records."""
        ...

    def groups(
        self,
        day_from: date,
        day_to: date,
        dimensions: Sequence[Dimension],
        sums: Sequence[Sum],
        condition: Condition | None = None,
    ) -> Iterator[GroupRow]:
        """Sum the raw records by UTC day of EndTime and dimensions, from `day_from` to `day_to`, both included.

        Rows come in the order of days, all of one state of the store.  Values are as
        `agents.dimensions.dimension_value` gives them; a record without a readable number
        adds its sum's `missing`.
        """
        ...

    def replace_day(self, day: date, generation: int, rows: Sequence[StoredRecord]) -> bool:
        """Put these summary rows in the place of all of the day's, at once, durably.

        False, and nothing is changed, unless `generation` is above the day's.  ValueError for a
        row of another day or kind.
        """
        ...

    def day_generation(self, day: date) -> int | None:
        """Give the generation of the day's summary rows; None when there never were any."""
        ...

    def close(self) -> None:
        """Let go of the files or connections; a second call does nothing."""
        ...


def time_ms(value: object) -> int | None:
    """Read an RFC 3339 time (no zone: UTC) as milliseconds since 1970; None when it is none."""
    if not isinstance(value, str) or len(value) < 10 or not value[:4].isascii():
        return None
    try:
        moment = datetime.fromisoformat(value)
    except ValueError:
        return None
    if moment.tzinfo is None:
        moment = moment.replace(tzinfo=UTC)
    try:
        return (moment - _EPOCH) // _MILLISECOND
    except OverflowError:
        return None


def says_the_same(text: str, other: str) -> bool:
    """Tell whether two records' JSON texts differ in nothing but `@received`, when each arrived."""
    # A quote before a name and a colon after it stand in no string, where quotes are escaped.
    return text == other or _ARRIVAL.sub("", text, 1) == _ARRIVAL.sub("", other, 1)


def day_start_ms(day: date) -> int:
    """Give the first millisecond of a UTC day."""
    return (day.toordinal() - _EPOCH_ORDINAL) * MILLISECONDS_A_DAY


def day_of_ms(timestamp_ms: int) -> date:
    """Give the UTC day of a time."""
    return date.fromordinal(timestamp_ms // MILLISECONDS_A_DAY + _EPOCH_ORDINAL)


_ENCODER: Final = msgspec.json.Encoder()
_DECODER: Final = msgspec.json.Decoder(dict[str, object])
_ARRIVAL: Final = re.compile(r'"@received":"[^"]*"')
_EPOCH: Final = datetime(1970, 1, 1, tzinfo=UTC)
_MILLISECOND: Final = timedelta(milliseconds=1)
_EPOCH_ORDINAL: Final = date(1970, 1, 1).toordinal()
