"""A listening factory whose work is handed over."""

from twisted.internet.protocol import Factory, Protocol
from twisted.internet.testing import StringTransport

from broker.net.switch import SwitchFactory


class Made(Protocol):
    """A protocol that knows which factory made it."""


def factory():
    made = Factory.forProtocol(Made)
    made.started = 0

    def start():
        made.started += 1

    def stop():
        made.started -= 1

    made.startFactory, made.stopFactory = start, stop
    return made


def test_connections_go_to_the_factory_of_the_moment_and_former_ones_are_dropped():
    first, second = factory(), factory()
    switch = SwitchFactory(first)
    switch.doStart()
    old = switch.buildProtocol(None)
    transport = StringTransport()
    old.makeConnection(transport)
    assert old.factory is first and first.started == 1
    switch.switch(second)
    assert transport.disconnected
    assert switch.buildProtocol(None).factory is second
    assert (first.started, second.started) == (0, 1)
    switch.doStop()
    assert second.started == 0


def test_before_it_listens_nothing_is_started():
    first, second = factory(), factory()
    SwitchFactory(first).switch(second)
    assert (first.started, second.started) == (0, 0)
