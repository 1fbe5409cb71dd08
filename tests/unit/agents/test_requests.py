"""The asking side: what is sent, which messages count, how it ends."""

import json
from datetime import UTC, date, datetime, timedelta, timezone

import pytest

from agents import requests
from agents.replays.control import ControlMessage, Counts
from agents.replays.request import RequestError
from agents.requests import Asked, NoSignOfLife, ReplayFailed, follow
from agents.transport import Incoming

DAY = date(2016, 5, 27)


class Wire:
    """Answers a request with the given control messages at once."""

    def __init__(self, *answers):
        self.answers = answers
        self.sent = []
        self.acknowledged = 0

    def is_connected(self):
        return True

    def subscribe(self, destination, prefetch, on_message, headers=None):
        self.listening, self.on_message = destination, on_message

    def publish(self, destination, messages, timeout_s):
        self.sent.append((destination, json.loads(messages[0].body), dict(messages[0].headers)))
        for answer in self.answers:
            self.on_message(Incoming(answer, {}, self.listening))

    def acknowledge(self, messages):
        self.acknowledged += len(messages)


class Clock:
    """Jumps past the silence time once everything was heard."""

    def __init__(self):
        self.time = 0.0

    def __call__(self):
        self.time += 0.001
        return self.time


def asked(**changes):
    return Asked(DAY, DAY, "/grace.other.raw", **changes)


def answer(stage, request_id=None, text=None, **counts):
    return ControlMessage(stage, request_id, Counts(**counts), text).encode()


def test_the_request_names_its_own_control_channel():
    request = asked(filter_text="vo=cms", kind="summary", routing_key="k")
    wire = Wire(answer("finished", request.request_id))
    list(follow(wire, "/grace.site.requests", request))
    ((destination, fields, headers),) = wire.sent
    assert destination == "/grace.site.requests"
    assert headers["mandatory"] == "true"
    assert wire.listening == f"/exchange/amq.direct/{request.control_key}"
    assert fields == {
        "id": request.request_id,
        "from": "2016-05-27T00:00:00",
        "to": "2016-05-27T23:59:59.999999",
        "kind": "summary",
        "destination": "/grace.other.raw",
        "routing_key": "k",
        "control": "amq.direct",
        "control_key": request.control_key,
        "filter": {"query": {"query_string": {"query": "vo=cms"}}},
    }


def test_json_filters_and_times_with_zones():
    east = timezone(timedelta(hours=2))
    start = datetime(2016, 5, 27, 1, tzinfo=east)
    request = Asked(start, datetime(2016, 5, 27, tzinfo=UTC), "x", filter_text=' {"match_all":{}}')
    fields = json.loads(request.body)
    assert (fields["from"], fields["filter"]) == ("2016-05-26T23:00:00", {"match_all": {}})


def test_a_request_that_cannot_be_understood_is_not_sent():
    with pytest.raises(RequestError, match="kind"):
        asked(kind="nonsense")
    with pytest.raises(RequestError, match="filter: not JSON"):
        asked(filter_text="{nonsense")
    with pytest.raises(RequestError, match="before from"):
        Asked(DAY, DAY - timedelta(days=1), "x")


def test_all_messages_up_to_the_end_are_given():
    request = asked()
    wire = Wire(
        answer("starting", request.request_id, expected=5),
        b"nonsense",
        answer("finished", "another request"),
        answer("progress", request.request_id, expected=5, sent=2),
        answer("finished", request.request_id, expected=5, sent=5),
        answer("finished", request.request_id, expected=5, sent=5),
    )
    heard = list(follow(wire, "q", request))
    assert [(m.stage, m.counts.sent) for m in heard] == [
        ("starting", 0),
        ("progress", 2),
        ("finished", 5),
    ]
    assert wire.acknowledged == 5


def test_an_old_agent_without_ids_is_understood():
    wire = Wire(b'{"status":"ok","stage":"starting"}', b'{"status":"ok","stage":"finished"}')
    assert [m.stage for m in follow(wire, "q", asked())] == ["starting", "finished"]


def test_an_error_ends_it_with_the_reason():
    request = asked()
    wire = Wire(answer("error", request.request_id, "no exchange 'x'", sent=3))
    with pytest.raises(ReplayFailed, match="no exchange 'x'") as caught:
        list(follow(wire, "q", request))
    assert caught.value.message.counts.sent == 3


def test_silence_ends_it_too():
    request = asked()
    wire = Wire(answer("starting", request.request_id))
    heard = follow(wire, "q", request, silence_seconds=0.01, now=Clock())
    assert next(heard).stage == "starting"
    with pytest.raises(NoSignOfLife, match="is the replay agent running"):
        next(heard)


def test_a_last_word_that_was_lost_is_asked_for_again(monkeypatch):
    monkeypatch.setattr(requests, "ASK_AGAIN_SECONDS", 0.001)
    request = asked()
    wire = Wire(answer("starting", request.request_id))
    heard = follow(wire, "q", request)
    assert next(heard).stage == "starting"
    wire.answers = (answer("finished", request.request_id, sent=5),)
    assert next(heard).counts.sent == 5
    assert len(wire.sent) == 2 and wire.sent[0] == wire.sent[1]


def test_an_agent_without_ids_is_never_asked_again(monkeypatch):
    monkeypatch.setattr(requests, "ASK_AGAIN_SECONDS", 0.001)
    wire = Wire(b'{"status":"ok","stage":"starting"}')
    heard = follow(wire, "q", asked(), silence_seconds=0.02)
    assert next(heard).stage == "starting"
    with pytest.raises(NoSignOfLife):
        next(heard)
    assert len(wire.sent) == 1
