from __future__ import annotations

import gc
import resource
import weakref

import pytest
from twisted.internet.address import IPv4Address, UNIXAddress
from twisted.internet.protocol import Factory, Protocol
from twisted.internet.testing import StringTransport

from broker.net import admission
from broker.net.admission import AdmittedFactory, Sockets, raise_open_files

PEER = IPv4Address("TCP", "192.0.2.7", 1000)


class Made(Protocol):
    lost = 0

    def connectionLost(self, reason=None):
        self.lost += 1


class Clock:
    seconds = 0.0

    def now(self):
        return self.seconds

    def wall_ms(self):
        return 0


@pytest.fixture
def sockets():
    return Sockets(5)


def admitted(sockets, name="stomp", connections_max=3, clock=None):
    made = AdmittedFactory(
        Factory.forProtocol(Made), sockets, name, connections_max, clock or Clock()
    )
    made.doStart()
    return made


def connect(factory):
    made = factory.buildProtocol(PEER)
    if made is not None:
        made.makeConnection(StringTransport())
    return made


def test_a_listener_has_its_bound_and_places_become_free(sockets):
    factory = admitted(sockets)
    three = [connect(factory) for _ in range(3)]
    assert connect(factory) is None and sockets.count == 3
    three[0].connectionLost("closed")
    assert three[0].lost == 1 and sockets.count == 2
    assert connect(factory) is not None and connect(factory) is None


def test_all_listeners_share_the_files(sockets):
    one, two = admitted(sockets), admitted(sockets)
    made = [connect(factory) for factory in (one, one, one, two, two)]
    assert connect(two) is None
    made[0].connectionLost("closed")
    assert connect(two) is not None


def test_an_end_that_is_told_twice_counts_once(sockets):
    made = connect(admitted(sockets))
    made.connectionLost("closed")
    made.connectionLost("closed")
    assert sockets.count == 0 and made.lost == 2


def test_a_connection_that_has_ended_needs_no_collector(sockets):
    factory = admitted(sockets)
    gc.collect()
    gc.disable()
    try:
        made = connect(factory)
        made.connectionLost("closed")
        seen = weakref.ref(made)
        made.transport.protocol = None
        del made
        assert seen() is None
    finally:
        gc.enable()


def test_what_the_wrapped_factory_refuses_is_not_counted(sockets):
    wrapped = Factory()
    wrapped.buildProtocol = lambda _: None
    factory = AdmittedFactory(wrapped, sockets, "stomp", 3, Clock())
    assert factory.buildProtocol(PEER) is None and sockets.count == 0
    assert sockets.strangers.count("192.0.2.7:1000") == 0


def test_who_has_not_logged_in_is_bounded_over_all_listeners(sockets, caplog):
    sockets.strangers.count_max = 2
    one, two = admitted(sockets), admitted(sockets, "amqp")
    first = one.buildProtocol(IPv4Address("TCP", "192.0.2.7", 1))
    assert two.buildProtocol(IPv4Address("TCP", "192.0.2.7", 2)) is not None
    assert two.buildProtocol(IPv4Address("TCP", "192.0.2.7", 3)) is None
    (line,) = caplog.messages
    assert line.startswith("amqp listener: refused 192.0.2.7: 2 connections are open, of there")
    assert line.endswith("without a login, its bound ([auth] max-strangers); 1 refused by now")
    elsewhere = two.buildProtocol(IPv4Address("TCP", "192.0.2.8", 3))
    assert elsewhere is not None, "others are not held up"
    sockets.strangers.go("192.0.2.7:2")
    assert one.buildProtocol(IPv4Address("TCP", "192.0.2.7", 4)) is not None, "one has logged in"
    assert one.buildProtocol(IPv4Address("TCP", "192.0.2.7", 5)) is None
    first.connectionLost("closed")
    assert one.buildProtocol(IPv4Address("TCP", "192.0.2.7", 6)) is not None, "one is gone"
    assert sockets.count == 4


def test_a_unix_socket_has_no_address(sockets):
    sockets.strangers.count_max = 0
    assert admitted(sockets).buildProtocol(UNIXAddress("/x")) is not None


def test_a_flood_leaves_few_lines(sockets, caplog):
    clock = Clock()
    factory = admitted(sockets, connections_max=0, clock=clock)
    for number in range(1000):
        clock.seconds = number / 40
        assert connect(factory) is None
    lines = [one.getMessage() for one in caplog.records]
    assert len(lines) == 3
    assert lines[0] == (
        "stomp listener: refused 192.0.2.7: 0 connections are open, its bound (max-connections); 1 refused by now"
    )
    assert lines[1].endswith("401 refused by now")


def test_the_wrapped_factory_starts_and_stops_with_the_port(sockets):
    wrapped = Factory.forProtocol(Made)
    factory = AdmittedFactory(wrapped, sockets, "stomp", 3)
    factory.doStart()
    assert wrapped.numPorts == 1
    factory.doStop()
    assert wrapped.numPorts == 0


@pytest.mark.parametrize(
    ("soft", "hard", "asked", "places"),
    [
        (1024, 4096, 4096, 4096 - 128),
        (1024, 1 << 20, 65_536, 65_536 - 128),
        (1 << 20, 1 << 20, None, (1 << 20) - 128),
        (1024, resource.RLIM_INFINITY, 65_536, 65_536 - 128),
        (resource.RLIM_INFINITY, resource.RLIM_INFINITY, None, 65_536 - 128),
        (100, 100, None, 16),
    ],
)
def test_open_files_are_asked_for_and_some_kept_back(monkeypatch, soft, hard, asked, places):
    said = []
    monkeypatch.setattr(admission.resource, "getrlimit", lambda _: (soft, hard))
    monkeypatch.setattr(admission.resource, "setrlimit", lambda _, pair: said.append(pair))
    assert raise_open_files().count_max == places
    assert said == ([] if asked is None else [(asked, hard)])


def test_a_system_that_gives_no_more(monkeypatch):
    def refuse(*_):
        raise ValueError("not allowed")

    monkeypatch.setattr(admission.resource, "getrlimit", lambda _: (1024, 1 << 20))
    monkeypatch.setattr(admission.resource, "setrlimit", refuse)
    assert raise_open_files().count_max == 1024 - 128
