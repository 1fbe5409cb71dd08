"""The exchange kind `x-delayed-message` (RabbitMQ's plugin), and copies by CC and BCC at the core."""

from __future__ import annotations

import pytest

from broker.errors import PreconditionFailed
from tests.support.core import Core


@pytest.fixture
def core() -> Core:
    made = Core()
    made.vhost.declare_exchange(
        "x", "x-delayed-message", durable=True, arguments={"x-delayed-type": "topic"}
    )
    made.vhost.declare_queue("q", durable=True)
    made.vhost.bind_queue("q", "x", "a.*")
    return made


def pass_time(core: Core, seconds: float) -> None:
    core.clock.seconds += seconds
    core.broker.tick()
    core.turn()


def test_a_delayed_message_is_routed_when_its_time_comes(core: Core) -> None:
    assert core.publish("x", "a.b", b"later", headers={"x-delay": 5000}, delivery_mode=2) == 1
    core.turn()
    pass_time(core, 4.9)
    assert core.vhost.queues["q"].depth == 0
    pass_time(core, 0.2)
    taken = core.vhost.get("q", True)
    assert taken is not None
    message = taken[0].message
    assert (message.body, message.routing_key) == (b"later", "a.b")
    assert (message.properties.headers or {})["x-delay"] == -5000, "so that it is not delayed again"


def test_without_a_delay_it_goes_on_at_once(core: Core) -> None:
    for headers in (None, {}, {"x-delay": 0}, {"x-delay": -3}, {"x-delay": "soon"}):
        assert core.publish("x", "a.b", b"now", headers=headers) == 1
    core.turn()
    assert core.vhost.queues["q"].depth == 5
    assert core.publish("x", "no.match.here", b"lost") == 0


def test_expiry_counts_from_the_due_time(core: Core) -> None:
    core.publish("x", "a.b", b"m", headers={"x-delay": 5000}, expiration="1000")
    core.turn()
    pass_time(core, 5.1)
    assert core.vhost.queues["q"].depth == 1
    pass_time(core, 1.2)
    assert core.vhost.queues["q"].depth == 0


def test_copies_are_routed_after_the_delay(core: Core) -> None:
    core.vhost.declare_queue("blind")
    core.vhost.bind_queue("blind", "x", "b.c")
    core.publish("x", "none", b"m", headers={"x-delay": 10, "CC": ["a.z"], "BCC": ["b.c"]})
    core.turn()
    pass_time(core, 0.1)
    for queue in ("q", "blind"):
        taken = core.vhost.get(queue, True)
        assert taken is not None
        headers = taken[0].message.properties.headers or {}
        assert "BCC" not in headers
        assert headers["CC"] == ["a.z"]


def test_the_kind_needs_a_kind(core: Core) -> None:
    for arguments in ({}, {"x-delayed-type": "nonsense"}, {"x-delayed-type": "x-delayed-message"}):
        with pytest.raises(PreconditionFailed, match="x-delayed-type"):
            core.vhost.declare_exchange("y", "x-delayed-message", arguments=arguments)
