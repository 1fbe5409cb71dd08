from __future__ import annotations

import json
from urllib.parse import urlencode

import pytest

from agents.collector.intake import take_form, take_json
from agents.errors import BadRequest

GOOD = "<JobUsageRecord><EndTime>2024-01-01T00:00:00Z</EndTime></JobUsageRecord>"
POISON = "<JobUsageRecord><EndTime>yesterday</EndTime></JobUsageRecord>"
LIMIT = 4 * 1024 * 1024


def take(command="multiupdate", arg1="", limit=LIMIT, **fields):
    form = {"command": command, "arg1": arg1, "from": "probe:x", **fields}
    body = urlencode({name: value for name, value in form.items() if value is not None})
    return take_form(b"", body.encode(), limit)


def envelope(*records: str) -> str:
    return f"<RecordEnvelope>{''.join(records)}</RecordEnvelope>"


def test_one_wrong_timestamp_among_99_goes_to_quarantine_alone():
    records = [GOOD] * 60 + [POISON] + [GOOD] * 39
    intake = take(arg1=envelope(*records))
    assert len(intake.bodies) == 99
    [rejected] = intake.rejected
    assert rejected.original == POISON.encode() and "EndTime 'yesterday'" in rejected.reason


@pytest.mark.parametrize("command", ["multiupdate", "URLEncodedUpdate", "update", "UPDATE"])
@pytest.mark.parametrize("payload", [GOOD, envelope(GOOD), f"replication|{GOOD}|||"])
def test_every_form_by_every_command(command, payload):
    intake = take(command, payload)
    assert len(intake.bodies) == 1 and intake.sender == "probe:x"
    assert json.loads(intake.bodies[0])["EndTime"] == "2024-01-01T00:00:00Z"


def test_ping_takes_nothing_and_needs_no_name():
    intake = take_form(b"", b"command=update&arg1=xxx", LIMIT)
    assert (intake.how, intake.bodies, intake.rejected) == ("ping", [], [])


def test_bundlesize_of_a_probe_is_its_maximum_and_of_a_collector_the_count():
    assert len(take(arg1=envelope(GOOD), bundlesize="100").bodies) == 1
    bundle = f"replication|{GOOD}|||" * 2
    assert len(take("update", bundle, bundlesize="2").bodies) == 2
    with pytest.raises(
        BadRequest,
        match=r"^Error handling request: number of records in bundle \(2\) different than expected \(3\)$",
    ):
        take("update", bundle, bundlesize="3")
    with pytest.raises(BadRequest, match="error interpreting bundlesize"):
        take("update", bundle, bundlesize="two")


@pytest.mark.parametrize(
    ("fields", "text"),
    [
        ({"command": "delete", "arg1": GOOD}, "Error: Unknown Command: delete"),
        ({"command": None}, 'Error handling request: missing key "command"'),
        ({"arg1": None}, 'Error handling request: missing key "arg1"'),
        ({"arg1": GOOD, "from": None}, 'Error handling request: missing key "from"'),
        ({"arg1": "hello"}, "Error handling request: error unmarshalling xml"),
        ({"arg1": "<RecordEnvelope>" + GOOD}, "the envelope has no end"),
    ],
)
def test_requests_that_are_refused_as_a_whole(fields, text):
    with pytest.raises(BadRequest) as caught:
        take(**{"command": "multiupdate", **fields})
    assert text in caught.value.text


def test_unknown_elements_are_counted_and_details_kept():
    details = (
        '<ProbeDetails><ProbeName>p</ProbeName><Reporter version="2.8">r</Reporter></ProbeDetails>'
    )
    intake = take(
        arg1=envelope(details, "<Odd/>", GOOD), xmlfiles="7", tarfiles="2", maxpendingfiles="100"
    )
    assert intake.unknown_count == 2 and len(intake.bodies) == 1 and not intake.rejected
    assert intake.details == {"ProbeName": "p", "Reporter.version": "2.8", "Reporter": "r"}
    assert intake.backlog == {"xmlfiles": 7, "tarfiles": 2, "maxpendingfiles": 100}


def test_a_record_over_the_limit_goes_to_quarantine():
    intake = take(
        arg1=envelope(GOOD, GOOD.replace("<EndTime>", f"<A>{'x' * 500}</A><EndTime>")), limit=300
    )
    assert len(intake.bodies) == 1 and "more than 300" in intake.rejected[0].reason


def test_entity_bomb_and_bytes_that_are_no_utf_8():
    bomb = '<!DOCTYPE x [<!ENTITY a "b"><!ENTITY c "&a;&a;">]>'
    intake = take(arg1=bomb + envelope("<JobUsageRecord><Host>&c;</Host></JobUsageRecord>", GOOD))
    assert len(intake.bodies) == 1 and "undefined entity" in intake.rejected[0].reason
    body = (
        b"command=multiupdate&from=x&arg1="
        b"%3CRecordEnvelope%3E%3CJobUsageRecord%3E%ff%3C/JobUsageRecord%3E"
    )
    intake = take_form(b"", body + GOOD.encode() + b"%3C/RecordEnvelope%3E", LIMIT)
    assert len(intake.bodies) == 1
    assert "not UTF-8" in intake.rejected[0].reason and b"\xff" in intake.rejected[0].original


def test_the_one_known_piece_of_broken_markup_is_repaired():
    record = "<JobUsageRecord><JobIdentity><LocalJobId><undefined></LocalJobId></JobIdentity></JobUsageRecord>"
    [body] = take("update", record).bodies
    assert json.loads(body)["LocalJobId"] == "<undefined>"


def test_json_object_array_and_lines():
    one = {"EndTime": "2024-01-01T00:00:00Z", "WallDuration": 1}
    assert len(take_json(json.dumps(one).encode(), "h", LIMIT).bodies) == 1
    assert len(take_json(json.dumps([one, one], indent=2).encode(), "h", LIMIT).bodies) == 2
    lines = "\n".join([json.dumps(one), "", "{broken", json.dumps(one)])
    intake = take_json(lines.encode(), "h", LIMIT)
    assert len(intake.bodies) == 2 and intake.rejected[0].original == b"{broken"
    assert json.loads(intake.bodies[0])["type"] == "JobUsageRecord"


@pytest.mark.parametrize(
    "value",
    [
        1,
        {},
        {"a": None},
        {"a": {"b": 1}},
        {"a": [1]},
        {"EndTime": "soon"},
        {"EndTime": 5},
        {"WallDuration": "PT1H"},
        {"WallDuration": True},
    ],
)
def test_json_that_is_no_record_goes_to_quarantine(value):
    intake = take_json(json.dumps([value, {"a": 1}]).encode(), "h", LIMIT)
    assert len(intake.bodies) == 1 and len(intake.rejected) == 1


@pytest.mark.parametrize("body", [b"", b"  ", b"hello", b"{", b"\xff\xfe", b"a\nb"])
def test_bodies_without_json_are_refused(body):
    with pytest.raises(BadRequest, match="^Error: "):
        take_json(body, "h", LIMIT)
