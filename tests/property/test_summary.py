"""Summaries equal an independent computation, row by row, also after corrections and removals."""

import tempfile
from collections import defaultdict
from datetime import UTC, date, datetime, timedelta
from fractions import Fraction
from pathlib import Path

from hypothesis import given, settings
from hypothesis import strategies as st

from agents.recordstore.interface import Kind, StoredRecord
from agents.recordstore.sqlite import SqliteRecordStore
from agents.summaries.corrections import Corrections
from agents.summaries.days import Days
from agents.summaries.ledger import SummaryLedger
from agents.summaries.rows import ExactSum

FIRST = date(2016, 5, 26)
DAYS = [FIRST + timedelta(days=n) for n in range(3)]

# Written out again on purpose: this is what gracc.md says, not what agents/dimensions.py says.
TEXT_FIELDS = ["VOName", "ProjectName", "DN", "ResourceType", "CommonName", "Host_description",
               "Grid", "ReportableVOName", "ProbeName", "SiteName"]  # fmt: skip
NUMBER_FIELDS = {"Processors": 1, "GPUs": 0, "Resource_ExitCode": 0}
SUM_FIELDS = {"WallDuration": 0, "CpuDuration_user": 0, "CpuDuration_system": 0, "CpuDuration": 0,
              "CoreHours": 0, "Njobs": 1}  # fmt: skip

numbers = st.one_of(
    st.integers(0, 10**6), st.floats(0, 1e9), st.floats(allow_nan=False, allow_infinity=False)
)
texts = st.sampled_from(["cms", "osg", "/cms/Role=x", "N/A", "unknown", "", "é"])


@st.composite
def jobs(draw):
    seconds = draw(st.integers(0, 3 * 86_400 - 1))
    moment = datetime(2016, 5, 26, tzinfo=UTC) + timedelta(seconds=seconds)
    zone = timedelta(hours=draw(st.sampled_from([0, -7, 14])))
    record = {"type": "JobUsageRecord", "EndTime": (moment + zone).strftime("%Y-%m-%dT%H:%M:%S")}
    hours = int(zone.total_seconds() // 3600)
    record["EndTime"] += "Z" if hours == 0 else f"{hours:+03d}:00"
    for name in draw(st.lists(st.sampled_from(TEXT_FIELDS), max_size=3)):
        record[name] = draw(texts)
    for name in draw(st.lists(st.sampled_from(list(NUMBER_FIELDS)), max_size=2)):
        value = draw(st.integers(0, 4))
        record[name] = draw(st.sampled_from([value, str(value)]))
    for name in draw(st.lists(st.sampled_from(list(SUM_FIELDS)), max_size=4)):
        record[name] = draw(numbers)
    return record


# Records by id: putting again under an id corrects, None removes.
steps = st.lists(
    st.dictionaries(st.integers(0, 6), st.one_of(st.none(), jobs()), max_size=7),
    min_size=1,
    max_size=3,
)


def independent(records):
    """Group and add with fractions, straight from the description."""
    groups = defaultdict(list)
    for record in records:
        end = datetime.fromisoformat(record["EndTime"]).astimezone(UTC)
        key = (end.date(),)
        key += tuple(record.get(name, "N/A") for name in TEXT_FIELDS)
        key += tuple(int(record.get(name, default)) for name, default in NUMBER_FIELDS.items())
        groups[key].append(record)
    rows = {}
    for key, members in groups.items():
        row = {"EndTime": f"{key[0]}T00:00:00.000Z", "Count": len(members)}
        row |= dict(zip([*TEXT_FIELDS, *NUMBER_FIELDS], key[1:], strict=True))
        for name, missing in SUM_FIELDS.items():
            usable = [m.get(name, missing) for m in members]
            usable = [v if -1e290 < v < 1e290 else missing for v in usable]
            row[name] = float(sum(map(Fraction, usable)))
        row["GPUHours"] = row["WallDuration"] / 3600 * row["GPUs"]
        row["RawVOName"], row["RawProjectName"] = row["VOName"], row["ProjectName"]
        row["RawOIM_Site"] = ""
        if row["ProjectName"].lower() in ("n/a", "unknown", ""):
            row["ProjectName"] = row["VOName"]
        rows[key] = row
    return rows


@given(steps)
@settings(max_examples=40, deadline=None)
def test_rows_equal_an_independent_computation(all_steps):
    with tempfile.TemporaryDirectory() as name:
        folder = Path(name)
        raw = SqliteRecordStore(folder / "records.sqlite")
        summary = SqliteRecordStore(folder / "summary.sqlite")
        ledger = SummaryLedger(folder / "ledger.sqlite")
        days = Days(raw, summary, ledger, Corrections(), folder / "lock", lambda: 1)
        kept = {}
        for step in all_steps:
            raw.put(
                [
                    StoredRecord.of(Kind.RAW, f"r{key}", record)
                    for key, record in step.items()
                    if record is not None
                ]
            )
            raw.delete(Kind.RAW, [f"r{key}" for key, record in step.items() if record is None])
            kept = {k: v for k, v in {**kept, **step}.items() if v is not None}
            expected = independent(kept.values())
            for day in DAYS:
                days.compute(day)
                found = [each.document for each in days.stored_rows(day)]
                ids = {each.id for each in days.stored_rows(day)}
                wanted = [row for key, row in expected.items() if key[0] == day]
                for row in found:
                    del row["checksum"]
                assert len(ids) == len(found), "no two rows share an id"
                assert sorted(map(sorted_items, found)) == sorted(map(sorted_items, wanted))
        for each in (ledger, raw, summary):
            each.close()


@given(st.lists(st.floats(-1e250, 1e250), max_size=700))
@settings(max_examples=50, deadline=None)
def test_sums_are_exact(values):
    total = ExactSum()
    for value in values:
        total.add(value)
    assert total.value == float(sum(map(Fraction, values)))


def sorted_items(row):
    return sorted((name, repr(value)) for name, value in row.items())
