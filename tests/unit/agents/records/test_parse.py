from __future__ import annotations

import pytest

from agents.errors import BadRecord
from agents.records.parse import parse_record


def job(inside: str) -> dict[str, object]:
    return dict(parse_record(f"<JobUsageRecord>{inside}</JobUsageRecord>".encode()))


def test_empty_job_has_its_durations_and_type():
    assert job("") == {
        "type": "JobUsageRecord",
        "CpuDuration": 0,
        "WallDuration": 0,
        "ResourceType": "Batch",
        "RawXML": "<JobUsageRecord></JobUsageRecord>",
    }


def test_self_closing_root():
    assert parse_record(b"<x:UsageRecord a='>'/>")["RawXML"] == "<UsageRecord></UsageRecord>"


def test_attributes_of_an_earlier_sibling_stay():
    record = job('<Network description="first">1</Network><Network>2</Network>')
    assert (record["Network"], record["Network_description"]) == ("2", "first")


def test_other_resources_vanish_without_a_plain_one():
    assert "Resource_x" not in job('<VolumeResource description="x">1</VolumeResource>')
    record = job('<VolumeResource description="x">1</VolumeResource><Resource>2</Resource>')
    assert (record["Resource_x"], record["Resource_unknown"]) == ("1", "2")


@pytest.mark.parametrize(
    ("given", "kind"),
    [("", "Batch"), ("Batch", "Batch"), ("BatchPilot", "Payload"), ("AWSVM", "AWSVM")],
)
def test_resource_type(given, kind):
    record = job(f'<Resource description="ResourceType">{given}</Resource>')
    assert record["ResourceType"] == kind and "Resource_ResourceType" not in record


def test_only_positive_processor_time_is_summed_and_always_there():
    record = job(
        '<CpuDuration usageType="user">PT0.55S</CpuDuration>'
        '<CpuDuration usageType="system">PT0.26S</CpuDuration>'
        "<CpuDuration>rubbish</CpuDuration>"
    )
    assert record["CpuDuration"] == 0.81
    assert (record["CpuDuration_user"], record["CpuDuration_system"]) == (0.55, 0.26)


def test_one_process_id_and_several():
    assert job("<JobIdentity><ProcessId>7</ProcessId></JobIdentity>")["ProcessId"] == "7"
    several = job("<JobIdentity><ProcessId>7</ProcessId><ProcessId>8</ProcessId></JobIdentity>")
    assert (several["ProcessId0"], several["ProcessId1"]) == (
        "7",
        "8",
    ) and "ProcessId" not in several


def test_dropped_attributes():
    record = job(
        '<Host primary="true">h</Host><Memory type="virtual" consumptionRate="2">1</Memory>'
    )
    assert {key for key in record if key.startswith(("Host", "Memory"))} == {"Host", "Memory"}


def test_an_element_named_type_cannot_change_the_type():
    assert job("<type>Other</type>")["type"] == "JobUsageRecord"


@pytest.mark.parametrize(
    ("inside", "reason"),
    [
        ("<EndTime>yesterday</EndTime>", "EndTime 'yesterday'"),
        ("<StartTime></StartTime>", "StartTime"),
        ('<RecordIdentity createTime="x"/>', "CreateTime"),
        ('<TimeInstant type="a">x</TimeInstant>', "TimeInstant_a"),
        ("<Origin hop='x'/>", "Origin hop"),
    ],
)
def test_bad_values_fail_with_their_name(inside, reason):
    with pytest.raises(BadRecord, match=reason):
        job(inside)


def test_empty_create_time_is_left_out():
    assert "CreateTime" not in job('<RecordIdentity recordId="a" createTime=""/>')


@pytest.mark.parametrize("number", ["-1", "1.5", "many", "18446744073709551616", "٣"])
def test_storage_numbers_are_whole(number):
    with pytest.raises(BadRecord, match="TotalSpace"):
        parse_record(
            f"<StorageElementRecord><TotalSpace>{number}</TotalSpace></StorageElementRecord>".encode()
        )


def test_storage_element_keeps_spaces_as_text():
    record = parse_record(
        b"<StorageElement><UniqueID>u</UniqueID><TotalSpace>5</TotalSpace></StorageElement>"
    )
    assert record["TotalSpace"] == "5" and record["type"] == "StorageElement"


def test_unknown_root_is_refused():
    with pytest.raises(BadRecord, match="ProbeDetails is not a kind"):
        parse_record(b"<ProbeDetails/>")
