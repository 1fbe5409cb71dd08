"""Find and count stored records by a filter, for the command line and for scripts.

Invariant: the file is opened for reading only, so a running database agent is not disturbed.
Tests: tests/unit/agents/recordstore/test_find.py.
"""

from __future__ import annotations

from collections.abc import Iterator
from contextlib import closing
from itertools import islice
from pathlib import Path

from agents.recordstore.filter import read_filter
from agents.recordstore.interface import PAGE_RECORDS, Kind, Selection, StoredRecord
from agents.recordstore.sqlite import SqliteRecordStore


def find(
    path: Path,
    filter_text: str = "",
    kind: Kind = Kind.RAW,
    limit: int | None = None,
    *,
    from_ms: int | None = None,
    to_ms: int | None = None,
) -> Iterator[StoredRecord]:
    """Give the matching records in the order of time; `.text` is the JSON, `.document` the object.

    `filter_text` is a Lucene string or Elasticsearch JSON.  Raises UntranslatableFilter, StoreUnavailable or
    SchemaMismatch at the first record asked for.
    """
    selection = Selection(kind, from_ms, to_ms, read_filter(filter_text))
    page_records = PAGE_RECORDS if limit is None else max(1, min(limit, PAGE_RECORDS))
    with closing(SqliteRecordStore(path, is_read_only=True)) as store:
        yield from islice(store.scan(selection, page_records=page_records), limit)


def count(
    path: Path,
    filter_text: str = "",
    kind: Kind = Kind.RAW,
    *,
    from_ms: int | None = None,
    to_ms: int | None = None,
) -> int:
    """Count the matching records; raises as `find` does."""
    selection = Selection(kind, from_ms, to_ms, read_filter(filter_text))
    with closing(SqliteRecordStore(path, is_read_only=True)) as store:
        return store.count(selection)
