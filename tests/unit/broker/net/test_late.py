"""A late factory makes the real one at its first connection, once."""

from twisted.internet.protocol import Factory

from broker.net.late import LateFactory


class Real(Factory):
    def __init__(self):
        self.built = []
        self.stopped = 0

    def buildProtocol(self, addr):
        self.built.append(addr)
        return "protocol"

    def stopFactory(self):
        self.stopped += 1


def test_the_real_factory_is_made_by_the_first_connection_and_stopped_with_the_late_one():
    made = []

    def make():
        made.append(Real())
        return made[-1]

    late = LateFactory("json", make)
    late.doStart()
    assert not made
    assert late.buildProtocol("a") == late.buildProtocol("b") == "protocol"
    assert len(made) == 1 and made[0].built == ["a", "b"]
    late.doStop()
    assert made[0].stopped == 1


def test_what_never_was_made_is_not_stopped():
    late = LateFactory("json", lambda: 1 / 0)
    late.doStart()
    late.doStop()
    late.prepare()
