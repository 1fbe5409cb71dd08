"""What every record store must do.  A test module subclasses the suite and gives a `store` fixture (empty)."""

from __future__ import annotations

import threading
from datetime import date
from typing import Any

import pytest

from agents.dimensions import DIMENSIONS, SUMS, Dimension, Sum, group_of
from agents.recordstore.filter import read_filter
from agents.recordstore.interface import (
    Cursor,
    Kind,
    RecordStore,
    Selection,
    StoredRecord,
    day_of_ms,
    day_start_ms,
)

DAY = date(2026, 3, 14)


def job(number: int, **fields: Any) -> StoredRecord:
    document: dict[str, Any] = {
        "type": "JobUsageRecord",
        "EndTime": f"2026-03-14T{number // 3600 % 24:02}:{number // 60 % 60:02}:{number % 60:02}Z",
        "VOName": ("cms", "atlas")[number % 2],
        "WallDuration": number,
        "LocalJobId": str(number),
        **fields,
    }
    return StoredRecord.of(Kind.RAW, f"id{number:05}", document)


def row(number: int, day: date = DAY, **fields: Any) -> StoredRecord:
    document = {
        "EndTime": f"{day}T00:00:00.000Z",
        "VOName": f"vo{number}",
        "Count": number,
        **fields,
    }
    return StoredRecord.of(Kind.SUMMARY, f"{day}-{number}", document)


def ids(records: Any) -> list[str]:
    return [record.id for record in records]


class RecordStoreSuite:
    """Tests on the fixture `store`."""

    def test_put_gives_back_the_same_record(self, store: RecordStore):
        put = job(1, CommonName="Zoë \U0001f600", Nested={"a": [1, None]})
        assert store.put([put]) == (1, 0, 0)
        got = store.get(Kind.RAW, "id00001")
        assert got is not None
        assert (got.document, got.timestamp_ms, got.end_ms) == (
            put.document,
            put.timestamp_ms,
            put.end_ms,
        )
        assert store.get(Kind.RAW, "id00002") is None
        assert store.get(Kind.QUARANTINE, "id00001") is None

    def test_put_again_is_harmless_and_counted(self, store: RecordStore):
        store.put([job(1), job(2)])
        assert store.put([job(1), job(2, VOName="changed"), job(3)]) == (1, 1, 1)
        assert store.count(Selection()) == 3
        changed = store.get(Kind.RAW, "id00002")
        assert changed is not None
        assert changed.document["VOName"] == "changed"

    def test_only_another_arrival_changes_nothing(self, store: RecordStore):
        xml = '<a b="@received":"x">'
        first = job(1, **{"@received": "2026-03-15T00:00:00Z", "RawXML": xml})
        store.put([first])
        later = job(1, **{"@received": "2026-03-16T00:00:00Z", "RawXML": xml})
        assert store.put([later]) == (0, 0, 1)
        assert store.put([job(1, **{"@received": "2026-03-16T00:00:00Z", "RawXML": xml + "y"})])[1]
        found = store.get(Kind.RAW, "id00001")
        assert found is not None
        assert found.document["RawXML"] == xml + "y"

    def test_last_of_one_id_in_a_batch_stays(self, store: RecordStore):
        store.put([job(1, VOName="first"), job(1, VOName="last")])
        found = store.get(Kind.RAW, "id00001")
        assert found is not None
        assert found.document["VOName"] == "last"
        assert store.count(Selection()) == 1

    def test_put_of_nothing(self, store: RecordStore):
        assert store.put([]) == (0, 0, 0)

    def test_kinds_are_kept_apart(self, store: RecordStore):
        bad = StoredRecord.of(Kind.QUARANTINE, "id00001", {"Quarantine": "MissingEndTime"}, 5)
        store.put([job(1), bad, row(1)])
        for kind in Kind:
            assert store.count(Selection(kind)) == 1
        assert ids(
            store.scan(Selection(Kind.QUARANTINE, condition=read_filter("Quarantine:Missing*")))
        ) == ["id00001"]

    def test_delete(self, store: RecordStore):
        store.put([job(1), job(2)])
        assert store.delete(Kind.RAW, ["id00001", "id00009"]) == 1
        assert store.delete(Kind.RAW, []) == 0
        assert ids(store.scan(Selection())) == ["id00002"]

    def test_scan_is_in_order_of_time_then_id(self, store: RecordStore):
        records = [job(n % 7, LocalJobId=str(n)) for n in range(40)]
        records = [
            StoredRecord(r.kind, f"x{n:02}", r.timestamp_ms, r.end_ms, r.text)
            for n, r in enumerate(records)
        ]
        store.put(list(reversed(records)))
        expected = ids(sorted(records, key=lambda r: (r.timestamp_ms, r.id)))
        for page_records in (1, 3, 40, 1000):
            assert ids(store.scan(Selection(), page_records=page_records)) == expected

    def test_scan_resumes_after_any_record(self, store: RecordStore):
        store.put([job(n) for n in range(10)])
        everything = list(store.scan(Selection(), page_records=3))
        for i, record in enumerate(everything):
            place = Cursor.parse(record.cursor.text())
            assert ids(store.scan(Selection(), place, 2)) == ids(everything[i + 1 :])
            assert ids(store.page(Selection(), place, 2)) == ids(everything[i + 1 : i + 3])

    def test_time_range_has_its_first_and_not_its_last_moment(self, store: RecordStore):
        store.put([job(n) for n in range(10)])
        start = day_start_ms(DAY)
        assert ids(store.scan(Selection(Kind.RAW, start + 2000, start + 5000))) == [
            "id00002",
            "id00003",
            "id00004",
        ]
        assert (
            store.count(Selection(Kind.RAW, start + 2000, start + 5000, read_filter("vo=cms"))) == 2
        )

    def test_filter_and_cursor_together(self, store: RecordStore):
        store.put([job(n) for n in range(30)])
        selection = Selection(condition=read_filter("vo:atlas AND WallDuration:[5 TO 20]"))
        found = list(store.scan(selection, page_records=4))
        assert [r.document["WallDuration"] for r in found] == [5, 7, 9, 11, 13, 15, 17, 19]
        assert ids(store.scan(selection, found[3].cursor)) == ids(found[4:])

    def test_thousands_of_terms_and_hundreds_of_conditions(self, store: RecordStore):
        store.put([job(n) for n in range(20)])
        many = ", ".join(f'"{n}"' for n in range(10, 9000))
        assert (
            store.count(
                Selection(condition=read_filter(f'{{"terms": {{"LocalJobId": [{many}]}}}}'))
            )
            == 10
        )
        text = " OR ".join(f"LocalJobId:{n}" for n in range(5, 900))
        assert store.count(Selection(condition=read_filter(text))) == 15

    def test_groups_equal_python(self, store: RecordStore):
        records = [
            job(1, Processors=8, GPUs="2", Njobs=3, DN="a"),
            job(2, Processors="8", Resource_ExitCode="1", CpuDuration=2.5),
            job(3, Processors=8, GPUs="2", DN="a", CpuDuration=0.5),
            job(5, Processors=8, GPUs="2", DN="a", VOName=""),
            job(7, Processors="many", WallDuration="12", SiteName="x" * 300),
            job(9, EndTime="2026-03-15T00:00:00+02:00"),
            job(11, EndTime="2026-03-15T00:00:00Z"),
        ]
        storage = StoredRecord.of(
            Kind.RAW, "s", {"Timestamp": "2026-03-14T01:00:00Z", "UniqueID": "s"}, day_start_ms(DAY)
        )
        store.put([*records, storage])
        expected: dict[Any, list[float]] = {}
        for record in records:
            assert record.end_ms is not None
            day = day_of_ms(record.end_ms)
            if day != DAY:
                continue
            document = record.document
            sums = expected.setdefault((day, group_of(document)), [0.0] * (len(SUMS) + 1))
            for i, total in enumerate(SUMS):
                value = document.get(total.name)
                sums[i] += float(value) if value is not None else total.missing  # type: ignore[arg-type]
            sums[-1] += 1
        got = {
            (group.day, tuple(group.values)): [*group.sums, group.records]
            for group in store.groups(DAY, DAY, DIMENSIONS, SUMS)
        }
        assert got == expected
        assert len(got) == 5

    def test_groups_by_few_and_by_unlisted_fields(self, store: RecordStore):
        store.put([job(n, Queue=("long", "short")[n % 3 == 0], Disk=str(n)) for n in range(6)])
        found = list(
            store.groups(DAY, DAY, [Dimension("Queue")], [Sum("Disk"), Sum("WallDuration")])
        )
        assert found == [(DAY, ("long",), (12.0, 12.0), 4), (DAY, ("short",), (3.0, 3.0), 2)]
        assert list(store.groups(DAY, DAY, [], [Sum("Disk")])) == [(DAY, (), (15.0,), 6)]
        only = store.groups(DAY, DAY, [Dimension("Queue")], [], read_filter("Queue:short"))
        assert list(only) == [(DAY, ("short",), (), 2)]
        assert list(store.groups(date(2026, 3, 15), date(2026, 3, 20), [], [Sum("Disk")])) == []

    def test_replace_day_replaces_that_day_only(self, store: RecordStore):
        other = date(2026, 3, 15)
        assert store.replace_day(DAY, 5, [row(1), row(2)])
        assert store.replace_day(other, 1, [row(1, other)])
        assert store.day_generation(DAY) == 5
        assert store.replace_day(DAY, 6, [row(3)])
        assert ids(store.scan(Selection(Kind.SUMMARY))) == ["2026-03-14-3", "2026-03-15-1"]
        assert (store.day_generation(DAY), store.day_generation(other)) == (6, 1)

    def test_older_or_equal_generations_change_nothing(self, store: RecordStore):
        store.replace_day(DAY, 5, [row(1)])
        for generation in (4, 5):
            assert not store.replace_day(DAY, generation, [row(2)])
        assert ids(store.scan(Selection(Kind.SUMMARY))) == ["2026-03-14-1"]
        assert store.day_generation(DAY) == 5

    def test_a_day_can_become_empty(self, store: RecordStore):
        store.replace_day(DAY, 1, [row(1)])
        assert store.replace_day(DAY, 2, [])
        assert store.count(Selection(Kind.SUMMARY)) == 0
        assert store.day_generation(DAY) == 2
        assert store.day_generation(date(2026, 3, 15)) is None

    @pytest.mark.parametrize("rows", [[row(1), row(1)], [row(1, date(2026, 3, 15))], [job(1)]])
    def test_replace_day_refuses_rows_that_are_not_its_own(self, store: RecordStore, rows):
        store.replace_day(DAY, 1, [row(7)])
        with pytest.raises(ValueError, match=r"2026-03-14"):
            store.replace_day(DAY, 2, rows)
        assert ids(store.scan(Selection(Kind.SUMMARY))) == ["2026-03-14-7"]
        assert store.day_generation(DAY) == 1

    def test_a_summary_scan_never_mixes_generations(self, store: RecordStore):
        store.replace_day(DAY, 1, [row(n) for n in range(6)])
        scan = store.scan(Selection(Kind.SUMMARY), page_records=2)
        first = next(scan)
        store.replace_day(DAY, 2, [row(n + 100) for n in range(6)])
        assert ids([first, *scan]) == [f"2026-03-14-{n}" for n in range(6)]
        assert store.count(Selection(Kind.SUMMARY, condition=read_filter("Count:>=100"))) == 6

    def test_threads_share_a_store(self, store: RecordStore):
        failures: list[BaseException] = []

        def write(start: int) -> None:
            try:
                for n in range(start, start + 30, 10):
                    store.put([job(m) for m in range(n, n + 10)])
                    store.count(Selection())
            except BaseException as error:
                failures.append(error)

        threads = [threading.Thread(target=write, args=(start,)) for start in (0, 100, 200)]
        for thread in threads:
            thread.start()
        for thread in threads:
            thread.join()
        assert not failures
        assert store.count(Selection()) == 90

    def test_close_twice(self, store: RecordStore):
        store.close()
        store.close()
