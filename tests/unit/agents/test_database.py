"""The database agent's commits: raw messages and summary rows into a record store."""

from __future__ import annotations

import json
import threading
from datetime import UTC, date, datetime

import pytest

from agents.config import DatabaseSettings
from agents.database import (
    DatabaseAgent,
    RawCommit,
    SummaryCommit,
    agent_folder,
    open_store,
    records_of,
)
from agents.errors import BadRecord, SettingsError
from agents.recordstore.interface import Kind, RecordStoreError, Selection, StoredRecord
from agents.recordstore.sqlite import SqliteRecordStore
from agents.staging import DayStaging
from agents.summaries.messages import day_messages
from agents.transport import Incoming
from tests.support.usage import record_xml
from tests.support.waiting import PATIENCE_SECONDS

DAY = date(2026, 3, 14)
NOW = datetime(2026, 3, 20, tzinfo=UTC)


def raw(number=1, **fields):
    document = {
        "type": "JobUsageRecord",
        "EndTime": "2026-03-14T01:00:00Z",
        "WallDuration": 60,
        "LocalJobId": str(number),
        **fields,
    }
    return Incoming(json.dumps(document).encode(), {}, "/grace.site.raw")


def summary(generation, names, day=DAY):
    bodies = [
        json.dumps({"EndTime": f"{day}T00:00:00.000Z", "VOName": name, "Count": 1}).encode()
        for name in names
    ]
    return [
        Incoming(m.body, dict(m.headers), "/grace.site.summary")
        for m in day_messages(day, generation, bodies)
    ]


@pytest.fixture
def store(tmp_path):
    made = SqliteRecordStore(tmp_path / "records.sqlite")
    yield made
    made.close()


@pytest.fixture
def staging(tmp_path):
    made = DayStaging(tmp_path / "staged.sqlite")
    yield made
    made.close()


def vo_names(store):
    return sorted(r.document["VOName"] for r in store.scan(Selection(Kind.SUMMARY)))


def test_raw_records_are_stored_under_their_checksum(store):
    commit = RawCommit(store)
    assert commit([raw(1, VOName="cms", Processors="4"), raw(2)]) == []
    (found, _) = store.scan(Selection())
    document = found.document
    assert found.id == document["checksum"]
    assert (document["Processors"], document["CoreHours"], document["@timestamp"][:10]) == (
        4,
        60 * 4 / 3600,
        "2026-03-14",
    )
    assert (commit.inserted, commit.replaced, commit.unchanged) == (2, 0, 0)


def test_a_record_that_comes_again_is_one_record(store):
    commit = RawCommit(store)
    commit([raw(1), raw(1)])
    commit([raw(1)])
    assert store.count(Selection()) == 1


def test_prepared_messages_are_stored_the_same(store):
    commit = RawCommit(store)
    good, bad = raw(1), Incoming(b"no record", {}, "/q")
    for message in (good, bad):
        commit.prepare(message)
    (rejection,) = commit([good, bad])
    assert rejection.message is bad
    assert [r.document["LocalJobId"] for r in store.scan(Selection())] == ["1"]


def test_a_record_sent_again_is_known_already_and_keeps_its_arrival(store):
    commit = RawCommit(store)
    commit([raw(1)])
    (first,) = store.scan(Selection())
    before = store.changed_days(0)
    again = raw(1)
    again.prepared = None
    commit([again])
    assert (commit.inserted, commit.replaced, commit.unchanged) == (1, 0, 1)
    (second,) = store.scan(Selection())
    assert second.document["@received"] == first.document["@received"]
    assert store.changed_days(0) == before
    commit([raw(1, VOName="cms")])
    assert commit.replaced == 1


def test_a_batch_is_made_again_when_the_store_fails(store):
    commit = RawCommit(store)
    message = raw(1)
    commit.prepare(message)
    store.close()
    with pytest.raises(RecordStoreError):
        commit([message])
    commit._store = SqliteRecordStore(store._path)
    assert commit([message]) == []
    assert commit.inserted == 1
    commit._store.close()


def test_a_replayed_record_keeps_its_id(store):
    RawCommit(store)([raw(1)])
    (first,) = store.scan(Selection())
    RawCommit(store)([Incoming(first.text.encode(), {}, "/q")])
    assert [r.document for r in store.scan(Selection())] == [first.document]


def test_nonsense_is_kept_apart_and_found(store):
    RawCommit(store)(
        [raw(1, EndTime="1970-01-01T01:00:00Z", StartTime="1970-01-01T00:00:00Z"), raw(2)]
    )
    assert store.count(Selection()) == 1
    (bad,) = store.scan(Selection(Kind.QUARANTINE))
    assert bad.document["Quarantine"] == "EpochStartTime"


@pytest.mark.parametrize(
    "body",
    [
        b"",
        b"text",
        b"[1]",
        b'{"a":',
        b"\xff\xfe",
        b'{"a": NaN}',
        b"<nonsense/>",
        b"<JobUsageRecord>",
        b'<!DOCTYPE x [<!ENTITY a "b">]><JobUsageRecord>&a;</JobUsageRecord>',
        b"[" * 100_000,
    ],
)
def test_bad_messages_are_rejected_and_the_others_stored(store, body):
    bad = Incoming(body, {}, "/q")
    (rejection,) = RawCommit(store)([raw(1), bad, raw(2)])
    assert rejection.message is bad
    assert rejection.reason
    assert store.count(Selection()) == 2


def test_xml_messages_are_records_too(store):
    one, two = record_xml(1), record_xml(2)
    messages = [
        Incoming(body.encode(), {}, "/q")
        for body in (one, f'<?xml version="1.0"?><RecordEnvelope>{one}{two}</RecordEnvelope>')
    ]
    assert RawCommit(store)(messages) == []
    assert store.count(Selection()) == 2
    with pytest.raises(BadRecord):
        records_of(
            f"<RecordEnvelope>{one}<JobUsageRecord><EndTime>x</EndTime></JobUsageRecord></RecordEnvelope>".encode(),
            NOW,
        )


def test_a_day_is_replaced_when_its_last_row_arrives(store, staging):
    commit = SummaryCommit(store, staging)
    first = summary(1, ["a", "b", "c"])
    commit(first[:2])
    assert vo_names(store) == []
    commit(first[2:])
    assert vo_names(store) == ["a", "b", "c"]
    second = summary(2, ["a", "d"])
    commit(second[1:])
    assert vo_names(store) == ["a", "b", "c"]
    commit(second[:1])
    assert vo_names(store) == ["a", "d"]
    assert store.day_generation(DAY) == 2


def test_rows_without_a_day_are_stored_one_by_one_until_a_generation_comes(store, staging):
    commit = SummaryCommit(store, staging)
    commit(summary(1, ["a", "b"]))
    single = [
        Incoming(m.body, {"content-type": "application/json"}, m.destination)
        for m in summary(1, ["b", "c"])
    ]
    assert commit(single) == []
    assert commit(single) == []
    assert vo_names(store) == ["a", "b", "c"]
    assert store.day_generation(DAY) == 1
    assert commit.single_rows == 4
    commit(summary(2, ["a", "b"]))
    assert vo_names(store) == ["a", "b"]


@pytest.mark.parametrize("body", [b"{}", b"no row", b'{"VOName":"a"}'])
def test_what_is_no_single_row_is_rejected_with_the_reason(store, staging, body):
    (rejection,) = SummaryCommit(store, staging)([Incoming(body, {}, "/grace.site.summary")])
    assert rejection.reason
    assert vo_names(store) == []


def test_older_generations_and_repeats_are_taken_and_change_nothing(store, staging):
    commit = SummaryCommit(store, staging)
    commit(summary(5, ["a"]))
    for generation in (4, 5):
        assert commit(summary(generation, ["x", "y"])) == []
    assert vo_names(store) == ["a"]
    assert staging.whole_days() == []
    assert commit.days_replaced == 1


def test_an_empty_day_makes_the_groups_vanish(store, staging):
    commit = SummaryCommit(store, staging)
    commit([*summary(1, ["a"]), *summary(1, ["o"], date(2026, 3, 15))])
    commit(summary(2, []))
    assert vo_names(store) == ["o"]


def test_a_day_whose_rows_share_an_id_is_refused_once(store, staging):
    commit = SummaryCommit(store, staging)
    commit(summary(1, ["a"]))
    commit(summary(2, ["b", "b"]))
    assert (vo_names(store), commit.days_refused, staging.whole_days()) == (["a"], 1, [])


def test_bad_rows_are_rejected_and_the_others_staged(store, staging):
    bad = Incoming(b"{}", {}, "/q")
    (rejection,) = SummaryCommit(store, staging)([*summary(1, ["a"]), bad])
    assert rejection.message is bad
    assert "gridmsg-summary-day" in rejection.reason
    assert vo_names(store) == ["a"]


def test_a_kill_between_replacing_and_forgetting_changes_nothing(store, staging):
    from agents.staging import staged_row

    rows = [staged_row(m.headers, m.body) for m in summary(3, ["a", "b"])]
    staging.add(rows)
    store.replace_day(DAY, 3, staging.rows(DAY, 3))
    SummaryCommit(store, staging).replace_whole_days()
    assert vo_names(store) == ["a", "b"]
    assert staging.whole_days() == []


class NoBroker:
    """A transport whose broker sends what the test says."""

    def __init__(self):
        self.subscribed = {}
        self.acknowledged = []
        self.all_taken = threading.Event()
        self.is_stopped = False

    def start(self):
        pass

    def stop(self):
        self.is_stopped = True

    def subscribe(self, destination, prefetch, on_message):
        self.subscribed[destination] = on_message

    def acknowledge(self, messages):
        self.acknowledged.extend(messages)
        if len(self.acknowledged) == 3:
            self.all_taken.set()

    def reject(self, message, cause, requeue):
        raise AssertionError(cause)


def test_agent_from_start_to_stop(tmp_path):
    settings = DatabaseSettings(batch_wait_seconds=0.001)
    transport = NoBroker()
    agent = DatabaseAgent(settings, tmp_path, transport)
    agent.start()
    messages = [raw(1), raw(2)]
    for message in messages:
        transport.subscribed["/grace.site.raw"](message)
    (row,) = summary(1, ["a"])
    transport.subscribed["/grace.site.summary"](row)
    assert transport.all_taken.wait(PATIENCE_SECONDS)
    assert agent.stop()
    assert transport.is_stopped
    assert "records: 2 new" in agent.report()
    store = SqliteRecordStore(tmp_path / "records.sqlite", is_read_only=True)
    assert store.count(Selection()) == 2
    assert vo_names(store) == ["a"]
    store.close()
    assert (tmp_path / "database" / "staged.sqlite").exists()


def test_folders_and_stores_of_several_databases(tmp_path):
    assert agent_folder(DatabaseSettings(), tmp_path) == tmp_path / "database"
    other = DatabaseSettings(name="transfer")
    assert agent_folder(other, tmp_path) == tmp_path / "database-transfer"
    store = open_store(other, tmp_path)
    store.put([StoredRecord.of(Kind.RAW, "1", {}, 0)])
    store.close()
    assert (tmp_path / "transfer.sqlite").exists()
    with pytest.raises(SettingsError, match='write store = "sqlite"'):
        open_store(DatabaseSettings(store="elasticsearch"), tmp_path)
