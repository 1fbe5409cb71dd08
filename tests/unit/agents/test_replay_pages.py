"""Pages of a replay from a real record store: ranges, filters, whole days."""

import json
from datetime import date

import pytest

from agents.recordstore.filter import read_filter
from agents.recordstore.interface import Kind, StoredRecord
from agents.recordstore.sqlite import SqliteRecordStore
from agents.replays.pages import end_time_text, pages_of
from agents.replays.request import read_request
from agents.summaries.messages import DAY_HEADER, GENERATION_HEADER, ROW_HEADER, ROWS_HEADER

DAY = date(2016, 5, 27)


@pytest.fixture
def store(tmp_path):
    store = SqliteRecordStore(tmp_path / "records.sqlite")
    yield store
    store.close()


def request(start="2016-05-27", end="2016-05-27", kind="raw"):
    fields = {"from": start, "to": end, "kind": kind, "destination": "x"}
    return read_request(json.dumps(fields).encode())


def put_raw(store, *times, **fields):
    store.put(
        [
            StoredRecord.of(Kind.RAW, f"r{n}", {"EndTime": each, "LocalJobId": f"{n}", **fields})
            for n, each in enumerate(times)
        ]
    )


def row(day, number, **fields):
    document = {"EndTime": f"{day}T00:00:00.000Z", "Count": number, **fields}
    return StoredRecord.of(Kind.SUMMARY, f"{day}-{number}", document)


def read_all(pages):
    found, cursor = [], ""
    while (page := pages.after(cursor)) is not None:
        cursor = page.cursor
        found.append(page)
    return found


def test_both_ends_of_the_range_belong_to_it(store):
    put_raw(store, "2016-05-26T23:59:59Z", "2016-05-27T00:00:00Z", "2016-05-28T01:00:00+01:00",
            "2016-05-28T00:00:01Z")  # fmt: skip
    pages = pages_of(request("2016-05-27T00:00:00", "2016-05-28T00:00:00"), store, store, None, 10)
    assert pages.count() == 2
    (page,) = read_all(pages)
    assert [json.loads(m.body)["LocalJobId"] for m in page.messages] == ["1", "2"]
    assert end_time_text(page.first_ms) == "2016-05-27T00:00:00Z"
    assert end_time_text(page.last_ms) == "2016-05-28T00:00:00Z"
    assert page.messages[0].headers["mandatory"] == "true"


def test_pages_follow_each_other_without_gap_or_overlap(store):
    put_raw(store, *["2016-05-27T12:00:00Z"] * 10)
    pages = read_all(pages_of(request(), store, store, None, 3))
    assert [page.record_count for page in pages] == [3, 3, 3, 1]
    bodies = [m.body for page in pages for m in page.messages]
    assert len(set(bodies)) == 10


def test_the_filter_is_honoured(store):
    put_raw(store, "2016-05-27T12:00:00Z", VOName="/cms/Role=x")
    store.put(
        [StoredRecord.of(Kind.RAW, "o", {"EndTime": "2016-05-27T12:00:00Z", "VOName": "osg"})]
    )
    condition = read_filter('{"query":{"query_string":{"query":"vo=cms"}}}')
    pages = pages_of(request(), store, store, condition, 10)
    assert pages.count() == 1
    assert json.loads(read_all(pages)[0].messages[0].body)["VOName"] == "/cms/Role=x"


def test_summaries_go_out_as_whole_days(store):
    store.replace_day(DAY, 7, [row(DAY, n) for n in range(3)])
    store.replace_day(date(2016, 5, 29), 8, [])
    store.replace_day(date(2016, 6, 1), 9, [row("2016-06-01", 1)])
    pages = pages_of(request("2016-05-01", "2016-05-31", "summary"), store, store, None, 2)
    assert pages.count() == 3
    first, second = read_all(pages)
    assert (first.record_count, first.cursor, len(first.messages)) == (3, "2016-05-27", 3)
    headers = [m.headers for m in first.messages]
    assert {h[DAY_HEADER] for h in headers} == {"2016-05-27"}
    assert {h[GENERATION_HEADER] for h in headers} == {"7"}
    assert {h[ROWS_HEADER] for h in headers} == {"3"}
    assert [h[ROW_HEADER] for h in headers] == ["0", "1", "2"]
    assert (second.record_count, second.first_ms, len(second.messages)) == (0, None, 1)
    assert second.messages[0].body == b"{}" and second.messages[0].headers[ROWS_HEADER] == "0"


def test_filtered_summary_rows_do_not_pose_as_whole_days(store):
    store.replace_day(DAY, 7, [row(DAY, 1, VOName="cms"), row(DAY, 2, VOName="osg")])
    condition = read_filter("VOName:cms")
    pages = pages_of(request(kind="summary"), store, store, condition, 10)
    (page,) = read_all(pages)
    assert (pages.count(), page.record_count) == (1, 1)
    assert DAY_HEADER not in page.messages[0].headers


def test_a_day_replaced_while_it_is_read_is_read_again(store):
    store.replace_day(DAY, 7, [row(DAY, n) for n in range(3)])
    pages = pages_of(request(kind="summary"), store, store, None, 2)
    real = store.scan

    def scan(*arguments):
        yield from real(*arguments)
        store.scan = real
        store.replace_day(DAY, 8, [row(DAY, 9)])

    store.scan = scan
    (page,) = read_all(pages)
    assert page.record_count == 1
    assert page.messages[0].headers[GENERATION_HEADER] == "8"


def test_times_in_control_messages():
    assert end_time_text(0) == "1970-01-01T00:00:00Z"
    assert end_time_text(86_399_001) == "1970-01-01T23:59:59.001Z"
