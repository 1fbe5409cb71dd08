"""Control messages: written as old clients read them, read from old agents and ours."""

import json

from agents.replays.control import (
    ERROR,
    FINISHED,
    STARTING,
    ControlMessage,
    Counts,
    read_control_message,
)


def test_old_clients_find_what_they_look_for():
    for stage in (STARTING, FINISHED):
        fields = json.loads(ControlMessage(stage, "r1", Counts(expected=3)).encode())
        assert (fields["status"], fields["stage"]) == ("ok", stage)


def test_counts_and_reason_come_back():
    counts = Counts(10, 7, 3, "2016-05-10T00:00:00Z", "2016-05-11T00:00:00Z")
    message = ControlMessage(ERROR, "r1", counts, "no such exchange")
    assert json.loads(message.encode())["status"] == "error"
    assert read_control_message(message.encode()) == message
    assert message.is_end and message.is_error


def test_messages_of_the_old_agent():
    starting = read_control_message(b'{"status": "ok", "stage": "starting"}')
    finished = read_control_message(b'{"status": "ok", "stage": "finished"}')
    assert starting is not None and not starting.is_end and starting.request_id is None
    assert finished is not None and finished.is_end and finished.counts == Counts()


def test_other_messages_are_passed_over():
    for body in (b"", b"[]", b"{}", b'{"stage":5}', b"\xff", b'{"status":"ok"}'):
        assert read_control_message(body) is None
    odd = read_control_message(b'{"stage":"progress","sent":true,"expected":"9","id":4}')
    assert odd is not None
    assert odd.counts == Counts() and odd.request_id is None
