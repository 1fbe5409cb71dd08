"""The control channel as the agent speaks on it."""

import pytest

from agents.errors import Refused, Unavailable
from agents.replays.control import FINISHED, PROGRESS, ControlMessage, Counts
from agents.replays.request import ControlChannel
from agents.replays.teller import (
    DOUBTS_MAX,
    PROGRESS_TIMEOUT_SECONDS,
    TELL_TIMEOUT_SECONDS,
    ControlTeller,
)


class Wire:
    def __init__(self, failure=None):
        self.failure, self.calls = failure, []

    def publish(self, destination, messages, timeout_s):
        self.calls.append((destination, messages[0].body, timeout_s))
        if self.failure:
            raise self.failure


def message(stage):
    return ControlMessage(stage, "r1", Counts())


def test_messages_go_to_the_channel_with_little_time_for_progress():
    wire = Wire()
    teller = ControlTeller(wire, ControlChannel("x", "k"))
    teller.tell(message(PROGRESS))
    teller.tell(message(FINISHED))
    assert wire.calls == [
        ("/exchange/x/k", message(PROGRESS).encode(), PROGRESS_TIMEOUT_SECONDS),
        ("/exchange/x/k", message(FINISHED).encode(), TELL_TIMEOUT_SECONDS),
    ]


def test_a_sender_who_went_away_is_left_alone(caplog):
    wire = Wire(Refused("no exchange 'x' in vhost '/'"))
    teller = ControlTeller(wire, ControlChannel("x", "k"))
    teller.tell(message(PROGRESS))
    teller.tell(message(FINISHED))
    assert len(wire.calls) == 1
    assert "nobody listens" in caplog.text


def test_a_text_without_a_receipt_is_believed_when_it_is_repeated(caplog):
    wire = Wire(Unavailable("NOT_FOUND - no exchange 'x' in vhost '/'"))
    teller = ControlTeller(wire, ControlChannel("x", "k"))
    for _ in range(DOUBTS_MAX - 1):
        with pytest.raises(Unavailable):
            teller.tell(message(FINISHED))
    teller.tell(message(FINISHED))
    teller.tell(message(FINISHED))
    assert len(wire.calls) == DOUBTS_MAX
    assert "nobody listens" in caplog.text


def test_a_stale_text_about_another_sender_is_not_believed():
    wire = Wire(Unavailable("NOT_FOUND - no exchange 'other' in vhost '/'"))
    teller = ControlTeller(wire, ControlChannel("x", "k"))
    with pytest.raises(Unavailable):
        teller.tell(message(FINISHED))
    wire.failure = None
    teller.tell(message(FINISHED))
    assert len(wire.calls) == 2


def test_a_lost_broker_is_for_the_caller_to_wait_for():
    with pytest.raises(Unavailable):
        ControlTeller(Wire(Unavailable("gone")), ControlChannel("x", "k")).tell(message(FINISHED))


def test_without_a_channel_nothing_is_sent():
    wire = Wire()
    ControlTeller(wire, None).tell(message(FINISHED))
    assert wire.calls == []
