"""Finding and counting from a file that an agent has open."""

from __future__ import annotations

import pytest

from agents.recordstore.find import count, find
from agents.recordstore.interface import Kind, StoredRecord, StoreUnavailable
from agents.recordstore.sqlite import SqliteRecordStore
from agents.recordstore.terms import UntranslatableFilter


@pytest.fixture
def path(tmp_path):
    path = tmp_path / "records.sqlite"
    store = SqliteRecordStore(path)
    store.put([StoredRecord.of(Kind.RAW, f"r{n}", {"VOName": f"/cms/{n}"}, n) for n in range(5)])
    store.put([StoredRecord.of(Kind.QUARANTINE, "q", {"VOName": "cms"}, 1)])
    yield path
    store.close()


def test_find_by_string_or_json_in_order_with_a_limit(path):
    assert [r.id for r in find(path, "vo=cms")] == ["r0", "r1", "r2", "r3", "r4"]
    assert [r.id for r in find(path, '{"query":{"query_string":{"query":"VOName:*1"}}}')] == ["r1"]
    assert [r.id for r in find(path, limit=2)] == ["r0", "r1"]
    assert list(find(path, limit=0)) == []
    assert [r.document for r in find(path, "", Kind.QUARANTINE)] == [{"VOName": "cms"}]
    assert [r.id for r in find(path, from_ms=1, to_ms=3)] == ["r1", "r2"]


def test_count(path):
    assert count(path) == 5
    assert count(path, "VOName:*3 OR VOName:*4", from_ms=4) == 1
    assert count(path, "*", Kind.SUMMARY) == 0


def test_what_cannot_be_done_is_said(path, tmp_path):
    with pytest.raises(UntranslatableFilter, match="write FIELD:cms"):
        list(find(path, "cms"))
    with pytest.raises(StoreUnavailable, match="no record store at"):
        count(tmp_path / "other.sqlite")


def test_an_abandoned_search_closes_its_file(path):
    records = find(path)
    next(records)
    records.close()
    with pytest.raises(StopIteration):
        next(records)
