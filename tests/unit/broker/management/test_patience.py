"""broker.management.patience: bytes gain no time, neither for headers nor for a body; connections may be kept."""

from __future__ import annotations

import pytest
from twisted.internet.address import IPv4Address
from twisted.internet.task import Clock
from twisted.internet.testing import StringTransport

from broker.management import patience
from tests.support.management import Management

HEALTH = b"GET /health/live HTTP/1.1\r\nHost: x\r\n\r\n"
LOGIN = b"Authorization: Basic Z3Vlc3Q6Z3Vlc3Q=\r\n"


class Caller:
    """A connection to the management site, with a clock that is told the time."""

    def __init__(self) -> None:
        self.clock = Clock()
        self.transport = StringTransport(peerAddress=IPv4Address("TCP", "127.0.0.1", 50000))
        self.channel = Management().site.buildProtocol(self.transport.getPeer())
        self.channel.callLater = self.clock.callLater
        self.channel.makeConnection(self.transport)

    def send(self, data: bytes) -> None:
        self.channel.dataReceived(data)

    def drip(self, data: bytes, seconds: float) -> float:
        """One byte after the other, so many seconds apart, until it is closed; returns when that was."""
        for at in range(len(data)):
            self.send(data[at : at + 1])
            self.clock.advance(seconds)
            if self.is_closed:
                break
        return self.clock.seconds()

    @property
    def is_closed(self) -> bool:
        return self.transport.disconnecting

    @property
    def answers(self) -> int:
        return self.transport.value().count(b"HTTP/1.1 200")


@pytest.fixture
def caller():
    return Caller()


def test_headers_that_come_byte_by_byte_have_their_time(caller, caplog):
    assert caller.drip(b"GET /health/live HTTP/1.1\r\nA: " + b"b" * 500, 0.5) == 10.0
    assert caller.is_closed and not caller.answers
    assert "management: 127.0.0.1 did not send its request in time, closed" in caplog.text


def test_who_says_nothing_has_no_more(caller, caplog):
    caller.clock.advance(patience.HEADERS_SECONDS - 0.1)
    assert not caller.is_closed
    caller.clock.advance(0.2)
    assert caller.is_closed
    assert not caplog.text


def test_a_body_has_its_time_from_the_headers_on(caller):
    caller.drip(b"PUT /api/queues/%2F/q HTTP/1.1\r\nHost: x\r\n", 0.1)
    caller.send(LOGIN + b"Content-Length: 4000\r\n\r\n")
    began_at = caller.clock.seconds()
    assert caller.drip(b" " * 4000, 1.0) == began_at + patience.REQUEST_SECONDS


def test_a_slow_but_honest_caller_is_answered(caller):
    assert caller.drip(HEALTH, 0.2) < patience.HEADERS_SECONDS
    assert caller.answers == 1 and not caller.is_closed


def test_a_connection_may_be_kept_and_each_request_has_its_own_time(caller):
    for count in range(1, 6):
        caller.clock.advance(9.0 if count == 1 else patience.IDLE_SECONDS - 1)
        caller.drip(HEALTH, 0.2)
        assert caller.answers == count and not caller.is_closed
    caller.clock.advance(patience.IDLE_SECONDS + 1)
    assert caller.is_closed


def test_requests_that_come_together_are_answered_and_the_piece_behind_them_has_its_time(caller):
    caller.send(HEALTH + HEALTH + HEALTH[:30])
    assert caller.answers == 2
    assert caller.drip(b"x" * 200, 0.5) <= patience.HEADERS_SECONDS
    assert caller.is_closed
