"""The public fixtures, key by key (gracc.md 1.2); skipped where they are not on the machine."""

from __future__ import annotations

import json
from datetime import UTC, datetime
from pathlib import Path

import pytest

from agents.records.files import read_records
from agents.records.parse import parse_record
from agents.records.payload import Form, split_payload
from agents.records.stored import stored_record
from agents.records.wire import encode_record

FIXTURES = Path(__file__).parents[5] / "shared/data/gracc"
GOLDEN = Path(__file__).parents[3] / "golden/records"
NEVER_EMITTED = {
    "JobUsageRecord02": {"ServiceLevel_type"},
    "JobUsageRecord03": {"Memory_type", "Host_primary"},
}
needs_fixtures = pytest.mark.skipif(
    not FIXTURES.is_dir(), reason="the public GRACC fixtures (../shared/data/gracc) are not here"
)


def exact(record: dict[str, object]) -> dict[str, str]:
    """Compare 0 and 0.0 and False as what they are on the wire."""
    return {key: repr(value) for key, value in record.items()}


def xml_names() -> list[str]:
    return sorted(path.stem for path in (FIXTURES / "records").glob("*.xml")) or ["none"]


@needs_fixtures
@pytest.mark.parametrize("name", xml_names())
def test_fixture_equals_its_expected_json(name):
    [found] = read_records(FIXTURES / "records" / f"{name}.xml")
    assert found.problem == ""
    record = json.loads(encode_record(found.record))
    expected = json.loads((FIXTURES / "records" / f"{name}.json").read_text())
    for key in NEVER_EMITTED.get(name, set()):
        del expected[key]
    raw_xml = record.pop("RawXML")
    assert raw_xml.startswith(f"<{name[:-2]}>") and raw_xml.endswith(f"</{name[:-2]}>")
    assert exact(record) == exact(expected)


@needs_fixtures
@pytest.mark.parametrize("name", xml_names())
def test_raw_xml_can_be_sent_again_though_its_prefixes_are_undeclared(name):
    [found] = read_records(FIXTURES / "records" / f"{name}.xml")
    again = parse_record(found.record["RawXML"].encode())
    assert exact(again) == exact(found.record)


@needs_fixtures
@pytest.mark.parametrize(
    ("name", "form", "count"),
    [
        ("replication-15.bundle", Form.REPLICATION, 15),
        ("multiupdate-11.xml", Form.ENVELOPE, 11),
        ("multiupdate-missing-endtime.xml", Form.ENVELOPE, 4),
    ],
)
def test_bundle_splits_into_its_records(name, form, count):
    payload = split_payload((FIXTURES / "bundles" / name).read_bytes())
    assert payload.form is form
    assert len(payload.items) == count
    for item in payload.items:
        assert item.problem == ""
        assert parse_record(item.source)["type"]


@needs_fixtures
def test_records_without_times_are_repaired_or_marked():
    received = datetime(2026, 1, 1, tzinfo=UTC)
    stored = [
        stored_record(found.record, received)
        for found in read_records(FIXTURES / "bundles/multiupdate-missing-endtime.xml")
    ]
    for record in stored:
        assert record.get("Quarantine") or (record["StartTime"] and record["EndTime"])
    assert len({record["checksum"] for record in stored}) == 4


@pytest.mark.parametrize("path", sorted(GOLDEN.glob("*.xml")), ids=lambda path: path.stem)
def test_golden_record(path):
    expected = json.loads(path.with_suffix(".json").read_text())
    found = read_records(path)
    assert [entry.problem for entry in found] == [""] * len(found)
    assert [exact(entry.record) for entry in found] == [exact(record) for record in expected]
