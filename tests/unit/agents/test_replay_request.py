"""Replay requests: what is taken, and what the refusals say."""

import json
from datetime import UTC, date, datetime

import pytest

from agents.replays.request import (
    ControlChannel,
    RequestError,
    read_control,
    read_id,
    read_request,
)

OLD_CLIENT = {
    "from": "2016-05-10T00:00:00",
    "to": "2016-05-27T12:30:00.500000",
    "kind": "raw",
    "destination": "gracc.osg.raw",
    "routing_key": "data-key-ABCDEF",
    "control": "control-exchange-ABCDEF",
    "control_key": "control-key-ABCDEF",
}


def body(**changes):
    fields = {**OLD_CLIENT, **changes}
    return json.dumps({k: v for k, v in fields.items() if v is not ...}).encode()


def test_takes_the_form_of_old_clients():
    request = read_request(body())
    assert request.kind == "raw"
    assert request.start == datetime(2016, 5, 10, tzinfo=UTC)
    assert request.end == datetime(2016, 5, 27, 12, 30, 0, 500000, tzinfo=UTC)
    assert request.destination == "gracc.osg.raw"
    assert request.routing_key == "data-key-ABCDEF"
    assert request.control == ControlChannel("control-exchange-ABCDEF", "control-key-ABCDEF")
    assert request.filter_text == ""
    assert request.request_id is None


def test_times_with_a_zone_are_brought_to_utc():
    request = read_request(body(**{"from": "2016-05-10T00:00:00-05:00"}))
    assert request.start == datetime(2016, 5, 10, 5, tzinfo=UTC)


def test_a_bare_day_as_the_end_is_the_whole_day():
    request = read_request(body(**{"from": "2016-05-10", "to": "2016-05-11"}))
    assert request.start == datetime(2016, 5, 10, tzinfo=UTC)
    assert request.end == datetime(2016, 5, 11, 23, 59, 59, 999999, tzinfo=UTC)
    assert request.days() == [date(2016, 5, 10), date(2016, 5, 11)]


def test_filter_as_object_and_as_text():
    query = {"query": {"query_string": {"query": "vo=cms"}}}
    assert json.loads(read_request(body(filter=query)).filter_text) == query
    assert read_request(body(filter="vo=cms")).filter_text == "vo=cms"
    assert read_request(body(filter={})).filter_text == ""
    assert read_request(body(filter=None)).filter_text == ""


@pytest.mark.parametrize(
    ("changes", "field", "says"),
    [
        ({"kind": ...}, "kind", "missing"),
        ({"kind": "transfer_summary"}, "kind", "write raw or summary"),
        ({"kind": ["raw"]}, "kind", "not offered"),
        ({"from": ...}, "from", "missing"),
        ({"from": 5}, "from", "must be a text"),
        ({"from": "last week"}, "from", "not an ISO 8601 time"),
        ({"from": "0001-01-01T00:00:00+14:00"}, "from", "not an ISO 8601 time"),
        ({"to": "2016-05-09T23:59:59"}, "to", "before from"),
        ({"to": "9999-01-01"}, "to", "days after from"),
        ({"destination": ""}, "destination", "missing"),
        ({"destination": "///"}, "destination", "names nothing"),
        ({"destination": "a\nreceipt:1"}, "destination", "control character"),
        ({"destination": "x" * 256}, "destination", "longer than 255"),
        ({"destination": 7}, "destination", "must be a text"),
        ({"destination": "\ud800"}, "destination", "not valid Unicode"),
        ({"routing_key": ["k"]}, "routing_key", "must be a text"),
        ({"id": "a b"}, "id", "1 to 64"),
        ({"id": "a" * 65}, "id", "1 to 64"),
        ({"filter": 5}, "filter", "query object or a query string"),
        ({"filter": "x" * 70_000}, "filter", "longer than"),
    ],
)
def test_refusals_name_the_field_and_the_fault(changes, field, says):
    with pytest.raises(RequestError) as caught:
        read_request(body(**changes))
    assert caught.value.field == field
    assert str(caught.value).startswith(f"{field}: ")
    assert says in str(caught.value)


@pytest.mark.parametrize(
    "text", [b"", b"{", b"[]", b"5", b"\xff\xfe", b"[" * 100_000, b'{"a":' * 20_000, b" " * 200_000]
)
def test_what_is_no_json_object_is_refused(text):
    with pytest.raises(RequestError):
        read_request(text)
    assert read_control(text) is None
    assert read_id(text) is None


def test_the_control_channel_is_read_from_wrong_requests():
    assert read_control(body(kind="nonsense", destination=...)) == ControlChannel(
        "control-exchange-ABCDEF", "control-key-ABCDEF"
    )
    assert read_control(body(control=..., control_key=...)) is None
    assert read_control(body(control=5)) is None
    assert read_id(body(id="one", kind=5)) == "one"
