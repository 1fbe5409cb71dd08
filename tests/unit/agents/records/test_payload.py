from __future__ import annotations

import time

import pytest

from agents.errors import BadRequest
from agents.records import payload as module
from agents.records.payload import Form, split_payload


def envelope(*records: bytes) -> bytes:
    return (
        b'<?xml version="1.0"?>\n<RecordEnvelope>\n'
        + b"\n".join(records)
        + b"\n</RecordEnvelope>\n"
    )


GOOD = b"<JobUsageRecord><Host>h</Host></JobUsageRecord>"
OTHER = b"<UsageRecord><Host>h</Host></UsageRecord>"


def sources(payload):
    return [(item.name, item.source, bool(item.problem)) for item in payload.items]


def test_bare_record_with_a_prolog():
    payload = split_payload(b'\xef\xbb\xbf<?xml version="1.0"?><!-- c --> ' + GOOD + b"\n")
    assert payload.form is Form.BARE and sources(payload) == [("JobUsageRecord", GOOD, False)]


def test_envelope_with_everything_between():
    payload = split_payload(
        envelope(GOOD, b"<!-- <JobUsageRecord> -->", b"<?pi?>", OTHER, b"<ProbeDetails/>")
    )
    assert [item.name for item in payload.items] == [
        "JobUsageRecord",
        "UsageRecord",
        "ProbeDetails",
    ]
    assert not any(item.problem for item in payload.items)


def test_prefixed_envelope_and_empty_ones():
    assert sources(split_payload(b"<g:RecordEnvelope xmlns:g='u'>" + GOOD + b"</g:RecordEnvelope>"))
    assert split_payload(b"<RecordEnvelope/>").items == []
    assert split_payload(envelope()).items == []


def test_end_tags_in_cdata_comments_and_children_are_not_the_end():
    tricky = b"<JobUsageRecord><![CDATA[</JobUsageRecord>]]><!-- </JobUsageRecord> --><a/></JobUsageRecord>"
    nested = b"<JobUsageRecord><x><JobUsageRecord/></x></JobUsageRecord>"
    assert sources(split_payload(envelope(tricky, nested, GOOD))) == [
        ("JobUsageRecord", tricky, False),
        ("JobUsageRecord", nested, False),
        ("JobUsageRecord", GOOD, False),
    ]


@pytest.mark.parametrize(
    "broken",
    [
        b"<JobUsageRecord><Host>h</Host>",
        b"<JobUsageRecord><Host>",
        b'<JobUsageRecord a="1><Host/>',
        b"<JobUsageRecord",
        b"</JobUsageRecord>",
        b"text",
    ],
)
def test_a_broken_record_leaves_its_neighbors_alone(broken):
    payload = split_payload(envelope(GOOD, broken, GOOD, OTHER))
    whole = [item.source for item in payload.items if not item.problem]
    assert whole.count(GOOD) == 2 and whole.count(OTHER) == 1 and len(whole) == 3
    assert any(item.problem and broken in item.source for item in payload.items)


def test_an_envelope_that_was_cut_off_is_refused_as_a_whole():
    for end in (2, 12, 30):
        with pytest.raises(BadRequest, match="no end"):
            split_payload(envelope(GOOD, GOOD)[:-end])


@pytest.mark.parametrize(
    "payload", [b"", b"hello", b"{}", b"replicatio", b"<html>", b"<!DOCTYPE a ["]
)
def test_what_is_none_of_the_forms_is_refused(payload):
    with pytest.raises(BadRequest, match="error unmarshalling xml"):
        split_payload(payload)


def test_document_types_are_stepped_over_and_never_expanded():
    payload = split_payload(
        b'<!DOCTYPE a [<!ENTITY x "y">]><RecordEnvelope>' + GOOD + b"</RecordEnvelope>"
    )
    assert sources(payload) == [("JobUsageRecord", GOOD, False)]


def test_latin_1_is_understood_when_declared():
    source = "<?xml version='1.0' encoding='ISO-8859-1'?><JobUsageRecord>é</JobUsageRecord>".encode(
        "latin-1"
    )
    assert split_payload(source).items[0].source == "<JobUsageRecord>é</JobUsageRecord>".encode()


def test_replication_with_raw_parts():
    bundle = (
        b"replication|" + GOOD + b"\n|" + GOOD + b"|null|"
        b'replication|<?xml version="1.0"?>' + OTHER + b"|||"
        b"replication|" + b'<JobUsageRecord><Host d="|">a | "b</Host></JobUsageRecord>' + b"|a|b|\n"
    )
    payload = split_payload(bundle)
    assert payload.form is Form.REPLICATION
    assert [item.name for item in payload.items] == [
        "JobUsageRecord",
        "UsageRecord",
        "JobUsageRecord",
    ]
    assert not any(item.problem for item in payload.items)


@pytest.mark.parametrize(
    "broken", [b"<JobUsageRecord><a>", b"text", b"", GOOD + b"x", b"<JobUsageRecord"]
)
def test_a_broken_replicated_record_leaves_its_neighbors_alone(broken):
    bundle = (
        b"replication|" + GOOD + b"|||replication|" + broken + b"|||replication|" + OTHER + b"|||"
    )
    items = split_payload(bundle).items
    assert [item.source for item in items if not item.problem] == [GOOD, OTHER]
    assert len(items) == 3 and items[1].problem


def test_a_replication_form_that_was_cut_off_is_not_taken_as_whole():
    items = split_payload(b"replication|" + GOOD + b"|||replication|" + OTHER + b"|").items
    assert not items[0].problem and items[1].problem


def test_broken_raw_part_does_not_cost_the_record():
    items = split_payload(b"replication|" + GOOD + b"|<a><b>||replication|" + OTHER + b"|||").items
    assert [(item.source, item.problem) for item in items] == [(GOOD, ""), (OTHER, "")]


@pytest.mark.parametrize(
    "hostile",
    [
        b"<RecordEnvelope>" + b"<a>" * 30_000 + b"</RecordEnvelope>",
        b"<RecordEnvelope>"
        + b"".join(b"<JobUsageRecord><a%d>" % i for i in range(1_000))
        + b"</RecordEnvelope>",
        b"<RecordEnvelope><a " + b"x" * 100_000 + b"</RecordEnvelope>",
        b"replication|" * 2_000,
        b"<RecordEnvelope>" + b"<a/>" * 1_001 + b"</RecordEnvelope>",
    ],
)
def test_hostile_payloads_end_soon(hostile, monkeypatch):
    monkeypatch.setattr(module, "ITEMS_MAX", 1_000)
    started = time.thread_time()
    try:
        split_payload(hostile)
    except BadRequest:
        pass
    assert time.thread_time() - started < 10
