"""The suite of record stores on SQLite, and what is SQLite's own."""

from __future__ import annotations

import os
import sqlite3
import subprocess
import sys
import tempfile
from contextlib import closing
from datetime import date
from pathlib import Path

import pytest

from agents.recordstore.interface import (
    Kind,
    RecordStoreError,
    SchemaMismatch,
    Selection,
    StoreUnavailable,
)
from agents.recordstore.sqlite import SqliteRecordStore
from tests.suites.record_store_suite import DAY, RecordStoreSuite, job, row


@pytest.fixture
def path(tmp_path: Path) -> Path:
    return tmp_path / "deep" / "records.sqlite"


@pytest.fixture
def store(path: Path):
    made = SqliteRecordStore(path, busy_seconds=0.05)
    yield made
    made.close()


class TestSqliteRecordStore(RecordStoreSuite):
    """Everything that a record store must do."""


def test_commits_are_synced(store, path):
    with sqlite3.connect(path) as raw:
        assert raw.execute("PRAGMA journal_mode").fetchone() == ("wal",)
    assert store._writer.execute("PRAGMA synchronous").fetchone() == (2,)


def test_another_connection_reads_while_one_writes(store, path):
    store.put([job(1)])
    with closing(SqliteRecordStore(path, is_read_only=True)) as reader:
        with store._writing() as connection:
            connection.execute("DELETE FROM raw")
            assert reader.count(Selection()) == 1
        assert reader.count(Selection()) == 0


def test_read_only_never_writes(store, path):
    reader = SqliteRecordStore(path, is_read_only=True)
    with pytest.raises(StoreUnavailable, match="reading only"):
        reader.put([job(1)])
    reader.close()


def test_missing_file_for_reading_says_what_to_do(tmp_path):
    with pytest.raises(StoreUnavailable, match="start the database agent"):
        SqliteRecordStore(tmp_path / "none.sqlite", is_read_only=True)


def test_an_empty_file_for_reading_is_not_ready_yet(tmp_path):
    (tmp_path / "r.sqlite").touch()
    with pytest.raises(StoreUnavailable, match="empty yet"):
        SqliteRecordStore(tmp_path / "r.sqlite", is_read_only=True)
    SqliteRecordStore(tmp_path / "r.sqlite").close()


def test_a_busy_store_is_unavailable_and_stays_usable(store, path):
    other = sqlite3.connect(path, isolation_level=None)
    other.execute("BEGIN IMMEDIATE")
    with pytest.raises(StoreUnavailable, match="another process writes"):
        store.put([job(1)])
    other.execute("ROLLBACK")
    other.close()
    assert store.put([job(1)]).inserted == 1


def test_a_full_disk_is_unavailable_and_stays_usable(store):
    pages = store._writer.execute("PRAGMA page_count").fetchone()[0]
    store._writer.execute(f"PRAGMA max_page_count = {pages + 1}")
    with pytest.raises(StoreUnavailable, match="make room"):
        store.put([job(n, RawXML="x" * 4000) for n in range(50)])
    assert store.count(Selection()) == 0
    store._writer.execute("PRAGMA max_page_count = 1000000")
    assert store.put([job(1)]).inserted == 1


def test_a_failure_half_way_leaves_nothing(store):
    store.replace_day(DAY, 1, [row(1)])
    store._writer.execute(
        "CREATE TRIGGER stop BEFORE INSERT ON summary BEGIN SELECT RAISE(ABORT, 'no'); END"
    )
    with pytest.raises(RecordStoreError):
        store.replace_day(DAY, 2, [row(2)])
    assert [r.id for r in store.scan(Selection(Kind.SUMMARY))] == ["2026-03-14-1"]
    assert store.day_generation(DAY) == 1


def test_another_version_is_refused_with_words(store, path):
    store._writer.execute("PRAGMA user_version = 7")
    with pytest.raises(SchemaMismatch, match=r"schema version 7, written by a newer gridmsg"):
        SqliteRecordStore(path)
    with pytest.raises(SchemaMismatch, match="version 7"):
        SqliteRecordStore(path, is_read_only=True)


def test_a_file_of_something_else_is_refused(tmp_path):
    path = tmp_path / "other.sqlite"
    with sqlite3.connect(path) as raw:
        raw.execute("CREATE TABLE mail(text)")
    with pytest.raises(SchemaMismatch, match="something else"):
        SqliteRecordStore(path)
    text = tmp_path / "text.sqlite"
    text.write_text("no database at all " * 100)
    with pytest.raises(SchemaMismatch, match="not an SQLite file"):
        SqliteRecordStore(text)


READ_ONLY = """
import os, pathlib, sys
path = pathlib.Path(sys.argv[1])
from agents.recordstore.sqlite import SqliteRecordStore
if os.getuid() == 0:
    os.setgid(65534)
    os.setuid(65534)
try:
    SqliteRecordStore(path)
except Exception as error:
    print(type(error).__name__, error)
"""


@pytest.mark.parametrize("name", ["records.sqlite", "new/records.sqlite"])
def test_a_folder_without_write_permission_says_so(name):
    with tempfile.TemporaryDirectory() as folder:
        os.chmod(folder, 0o555)
        path = Path(folder) / name
        done = subprocess.run(
            [sys.executable, "-c", READ_ONLY, str(path)],
            capture_output=True,
            text=True,
            check=False,
            cwd=Path(__file__).parents[4],
        )
    assert done.stdout.startswith("StoreUnavailable"), done
    assert "ermission" in done.stdout


def test_closed_store_says_so(store):
    store.put([job(1)])
    store.close()
    with pytest.raises(RecordStoreError, match="closed"):
        store.count(Selection())
    with pytest.raises(RecordStoreError, match="closed"):
        store.put([job(2)])


def test_days_that_changed(store):
    store.put([job(1), job(2, EndTime="2026-03-15T00:00:00Z")])
    assert store.changed_days(0) == [(date(2026, 3, 14), 1), (date(2026, 3, 15), 1)]
    store.put([job(1), job(2, EndTime="2026-03-15T00:00:00Z")])
    assert store.changed_days(1) == []
    store.put([job(2, EndTime="2026-03-16T00:00:00Z")])
    assert store.changed_days(1) == [(date(2026, 3, 15), 2), (date(2026, 3, 16), 2)]
    store.delete(Kind.RAW, ["id00001"])
    assert store.changed_days(2) == [(date(2026, 3, 14), 3)]
    store.put([row(1)])
    assert store.changed_days(3) == []


def test_end_time_filters_use_the_index_on_time(store):
    from agents.recordstore.filter import read_filter
    from agents.recordstore.sqlite import _selection_sql

    clause, parameters = _selection_sql(
        Selection(condition=read_filter("EndTime:2026-03-14 AND VOName:cms")), None
    )
    plan = store._writer.execute(
        f"EXPLAIN QUERY PLAN SELECT count(*) FROM raw WHERE {clause}", parameters
    ).fetchall()
    assert "raw_time (time_ms>? AND time_ms<?)" in plan[0][3]
