"""Ports of an ownership: what is told of them, which outlive it; with real sockets in tests/interop and tests/crash."""

from __future__ import annotations

from pathlib import Path
from types import SimpleNamespace
from typing import Any

import pytest
from twisted.internet.error import CannotListenError

from broker.config import Listener
from broker.listening import Ports, StartFailed, warn_of_clear_text
from broker.net.tls_files import TlsFiles
from broker.sections import LimitsSection

TLS = TlsFiles(Path("host.pem"), Path("host.key"))


@pytest.mark.parametrize(
    ("host", "tls", "is_told"),
    [
        ("127.0.0.1", None, False),
        ("127.0.0.2", None, False),
        ("::1", None, False),
        ("0.0.0.0", None, True),  # noqa: S104 - told, not listened on
        ("192.0.2.7", None, True),
        ("::", None, True),
        ("0.0.0.0", TLS, False),  # noqa: S104
    ],
)
def test_passwords_in_the_clear_are_told(host, tls, is_told, caplog):
    warn_of_clear_text(Listener("amqp", host, 5672, 10, LimitsSection(), tls), host)
    assert (f"amqp on {host}:5672 is open to other machines" in caplog.text) is is_told


class Port:
    """A listening socket that is none."""

    def __init__(self, number: int, factory: Any, host: str) -> None:
        self.number = number
        self.factory = factory
        self.host = host
        self.is_stopped = False
        self.is_shut = False
        self.socket = SimpleNamespace(shutdown=self._shut)

    def getHost(self) -> Any:  # noqa: N802 - Twisted's name
        return SimpleNamespace(host=self.host, port=self.number)

    def stopListening(self) -> None:  # noqa: N802 - Twisted's name
        self.is_stopped = True

    def _shut(self, how: int) -> None:
        self.is_shut = True


class Reactor:
    """Listens on any port but those that are taken."""

    def __init__(self) -> None:
        self.ports: list[Port] = []
        self.taken: set[int] = set()

    def listenTCP(self, number: int, factory: Any, backlog: int, interface: str) -> Port:  # noqa: N802
        if number in self.taken:
            raise CannotListenError(interface, number, OSError(98, "Address already in use"))
        port = Port(number, factory, interface)
        self.ports.append(port)
        return port


LISTENERS = tuple(
    Listener(protocol, "127.0.0.1", number, 10, LimitsSection(), None)
    for protocol, number in (("stomp", 61613), ("amqp", 5672), ("management", 8163))
)


@pytest.fixture
def reactor() -> Reactor:
    return Reactor()


def ports(reactor: Reactor) -> Ports:
    return Ports(reactor, LISTENERS, lambda listener: SimpleNamespace(noisy=True, numPorts=0))


def test_a_taken_port_is_tried_again_and_the_others_are_not_opened_twice(reactor: Reactor) -> None:
    reactor.taken.add(5672)
    opened = ports(reactor)
    with pytest.raises(StartFailed, match=r"amqp on 127\.0\.0\.1:5672: Address already in use"):
        opened.open({})
    reactor.taken.clear()
    kept: dict[int, Any] = {}
    opened.open(kept)
    assert [one.number for one in reactor.ports] == [61613, 5672, 8163]
    assert kept == {2: reactor.ports[2]}
    assert (
        opened.places() == "stomp 127.0.0.1:61613, amqp 127.0.0.1:5672, management 127.0.0.1:8163"
    )
    assert [one["port"] for one in opened.describe()] == [61613, 5672, 8163]


@pytest.mark.parametrize("end", ["stop", "shut"])
def test_the_management_port_outlives_an_ownership(reactor: Reactor, end: str) -> None:
    kept: dict[int, Any] = {}
    first = ports(reactor)
    first.open(kept)
    getattr(first, end)()
    ended = [one.is_stopped if end == "stop" else one.is_shut for one in reactor.ports]
    assert ended == [True, True, False]
    ports(reactor).open(kept)
    assert [one.number for one in reactor.ports] == [61613, 5672, 8163, 61613, 5672]
