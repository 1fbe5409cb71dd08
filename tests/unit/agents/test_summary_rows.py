"""Summary rows: dimensions, defaults, sums and ids."""

import math
from datetime import date

import pytest

from agents.dimensions import (
    DIMENSIONS,
    day_of,
    day_text,
    group_of,
    production_id,
    row_id,
)
from agents.summaries.corrections import Corrections
from agents.summaries.rows import DayRows, ExactSum, definition_digest, rows_digest

DAY = date(2016, 5, 27)
JOB = {
    "type": "JobUsageRecord",
    "EndTime": "2016-05-27T11:00:00Z",
    "VOName": "cms",
    "WallDuration": 617,
    "CpuDuration_user": 0,
    "CpuDuration_system": 18,
    "CpuDuration": 18,
    "CoreHours": 617 / 3600,
}


def rows_of(*records):
    gathered = DayRows(DAY)
    gathered.add_all(records)
    return gathered.rows(Corrections().apply)


def test_the_documented_example():
    (row,) = rows_of(
        {
            **JOB,
            "VOName": "/cms/Role=production/Capability=NULL",
            "ReportableVOName": "cms",
            "DN": "/DC=x",
            "ResourceType": "Batch",
            "Grid": "OSG",
            "ProbeName": "condor:gw.example",
            "SiteName": "EX",
            "Processors": 1,
        }
    )
    vo_name = "/cms/Role=production/Capability=NULL"
    assert row == {
        "EndTime": "2016-05-27T00:00:00.000Z",
        "VOName": vo_name,
        "RawVOName": vo_name,
        "ReportableVOName": "cms",
        "ProjectName": vo_name,
        "RawProjectName": "N/A",
        "DN": "/DC=x",
        "Processors": 1,
        "GPUs": 0,
        "ResourceType": "Batch",
        "CommonName": "N/A",
        "Host_description": "N/A",
        "Resource_ExitCode": 0,
        "Grid": "OSG",
        "ProbeName": "condor:gw.example",
        "SiteName": "EX",
        "RawOIM_Site": "",
        "WallDuration": 617.0,
        "CpuDuration_user": 0.0,
        "CpuDuration_system": 18.0,
        "CpuDuration": 18.0,
        "CoreHours": 617 / 3600,
        "Njobs": 1.0,
        "Count": 1,
        "GPUHours": 0.0,
    }


def test_missing_njobs_count_as_one_and_missing_times_as_nothing():
    (row,) = rows_of(JOB, {**JOB, "Njobs": 5}, {"VOName": "cms"}, {**JOB, "Njobs": 0})
    assert (row["Njobs"], row["Count"], row["WallDuration"]) == (7.0, 4, 3 * 617.0)


def test_numbers_are_read_from_texts():
    (row,) = rows_of(
        {**JOB, "Processors": "4", "GPUs": "2", "Resource_ExitCode": "0"},
        {**JOB, "Processors": 4, "GPUs": 2.0},
        {**JOB, "Processors": 4, "GPUs": 2, "Resource_ExitCode": 0, "Njobs": "3"},
    )
    assert (row["Processors"], row["GPUs"], row["Njobs"], row["Count"]) == (4, 2, 5.0, 3)
    assert row["GPUHours"] == 3 * 617 / 3600 * 2


def test_unreadable_numbers_are_taken_as_missing_and_counted():
    gathered = DayRows(DAY)
    for value in ("many", math.inf, math.nan, 1e300, True, [], "1" * 5000):
        gathered.add({**JOB, "Njobs": value, "Processors": value if value is not True else "x"})
    assert gathered.unreadable_count == 6
    rows = gathered.rows(Corrections().apply)
    assert sum(row["Njobs"] for row in rows) == 7.0


def test_storage_and_quarantined_records_do_not_count():
    gathered = DayRows(DAY)
    gathered.add_all(
        [{**JOB, "type": "StorageElement"}, {**JOB, "Quarantine": "EpochStartTime"}, JOB]
    )
    assert (gathered.record_count, gathered.skipped_count) == (1, 2)


@pytest.mark.parametrize("dimension", DIMENSIONS, ids=lambda d: d.name)
def test_every_dimension_separates_groups_and_ids(dimension):
    other = 7 if isinstance(dimension.default, int) else "other"
    first, second = rows_of(JOB, {**JOB, dimension.name: other})
    assert row_id(first) != row_id(second)
    assert first["Count"] == second["Count"] == 1


def test_sites_share_the_production_id_but_not_ours():
    first, second = rows_of({**JOB, "SiteName": "A"}, {**JOB, "SiteName": "B"})
    assert production_id(first) == production_id(second)
    assert row_id(first) != row_id(second)


def test_the_ids_are_fixed():
    # Receivers find rows by these: a change here is a change of format.
    (row,) = rows_of({"VOName": "cms"})
    assert row_id(row) == "4f84106fa3c61831fbdd2005e6fc16269bfd06c96967c8cb109cf53881a3ca02"
    assert production_id(row) == "8f3513495e84470165dc37624bfce2cd"


def test_the_id_looks_at_raw_values_and_does_without_them():
    (row,) = rows_of(JOB)
    corrected = {**row, "VOName": "CMS (corrected)"}
    assert row_id(corrected) == row_id(row)
    old = {k: v for k, v in row.items() if not k.startswith("Raw") and k != "ProjectName"}
    assert row_id(old) == row_id(row)


def test_sums_do_not_depend_on_the_order():
    values = [0.1, 1e16, -1e16, 1e-9, 3.3] * 200
    expected = math.fsum(values)
    for order in (values, sorted(values), sorted(values, reverse=True)):
        total = ExactSum()
        for value in order:
            total.add(value)
        assert total.value == expected
        assert len(total._parts) <= 257


def test_days():
    assert day_text(DAY) == "2016-05-27T00:00:00.000Z"
    assert day_of("2016-05-28T01:00:00+02:00") == DAY
    with pytest.raises(ValueError, match="without a zone"):
        day_of("2016-05-28T01:00:00")


def test_digests_see_every_change():
    rows = rows_of(JOB)
    assert rows_digest(rows) == rows_digest(rows_of(JOB))
    assert rows_digest(rows) != rows_digest(rows_of({**JOB, "WallDuration": 618}))
    assert definition_digest("") != definition_digest("x")


def test_other_types_become_text():
    assert group_of({"VOName": ["a"], "DN": 5})[:3] == ('["a"]', "N/A", "5")
