"""The control channel as the agent speaks on it."""

import pytest

from agents.errors import Refused, Unavailable
from agents.replays.control import FINISHED, PROGRESS, ControlMessage, Counts
from agents.replays.request import ControlChannel
from agents.replays.teller import (
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


@pytest.mark.parametrize(
    "failure", [Refused("no"), Unavailable("NOT_FOUND - no exchange 'x' in vhost '/'")]
)
def test_a_sender_who_went_away_is_left_alone(failure, caplog):
    wire = Wire(failure)
    teller = ControlTeller(wire, ControlChannel("x", "k"))
    teller.tell(message(PROGRESS))
    teller.tell(message(FINISHED))
    assert len(wire.calls) == 1
    assert "nobody listens" in caplog.text


def test_a_lost_broker_is_for_the_caller_to_wait_for():
    with pytest.raises(Unavailable):
        ControlTeller(Wire(Unavailable("gone")), ControlChannel("x", "k")).tell(message(FINISHED))


def test_without_a_channel_nothing_is_sent():
    wire = Wire()
    ControlTeller(wire, None).tell(message(FINISHED))
    assert wire.calls == []
