"""What a broker rebuilds from its store."""

from __future__ import annotations

from broker.core.broker import Broker
from broker.core.message import Message
from broker.wire.properties import AMQP
from store.interface import LaneState, Recovered, UnitOfWork
from tests.support.core import Core, FakeClock


def definitions_of(core: Core) -> dict[str, dict[str, object]]:
    """The definitions that the core told its unit so far."""
    found: dict[str, dict[str, object]] = {}
    unit: UnitOfWork = core.broker.unit
    for change in unit.changes:
        if change[0] == 1:
            _, key, value = change
            if value is None:
                found.pop(key, None)
            else:
                found[key] = value
    return found


def restarted(definitions: dict[str, dict[str, object]], lanes: dict[int, LaneState]) -> Broker:
    core = Core()
    broker = Broker(core.store, FakeClock(), lambda: "n")
    broker.restore(Recovered(definitions, lanes, 1, 2, "x"))
    return broker


def test_topology_comes_back_whole() -> None:
    """Durable exchanges, queues and bindings with their arguments; nothing else."""
    core = Core()
    vhost = core.vhost
    vhost.declare_exchange("x", "headers", durable=True)
    vhost.declare_exchange("y", "topic", durable=True, arguments={"alternate-exchange": "x"})
    vhost.declare_exchange("gone", "fanout")
    vhost.declare_queue("q", durable=True, arguments={"x-max-priority": 3})
    vhost.declare_queue("transient")
    vhost.bind_queue("q", "x", "", {"x-match": "any", "a": 1})
    vhost.bind_exchange("x", "y", "a.#")
    vhost.bind_queue("transient", "y", "b")
    broker = restarted(definitions_of(core), {})
    found = broker.vhosts["/"]
    assert "gone" not in found.exchanges
    assert set(found.queues) == {"q"}
    assert len(found.queues["q"].lanes) == 4
    assert found.exchanges["y"].alternate == "x"
    message = Message(found.destination("y", "a.b"), AMQP, b"\0\0", b"m", True, 0, 1, 0)
    assert found.publish(message) == 0, "headers do not match"
    assert len(found.bindings()) == 2


def test_lanes_of_unused_queues_are_not_given_again() -> None:
    """The store does not know a lane that nothing was published to; the definitions do."""
    core = Core()
    core.vhost.declare_queue("a", durable=True)
    core.vhost.declare_queue("b", durable=True)
    broker = restarted(definitions_of(core), {})
    fresh = broker.vhosts["/"].declare_queue("c", durable=True)
    taken = {lane.number for name in "ab" for lane in broker.vhosts["/"].queues[name].lanes}
    assert fresh.lane.number not in taken


def test_backlog_and_horizon_come_back() -> None:
    """What may have been handed out is redelivered, the rest is not; new positions start behind the horizon."""
    core = Core()
    core.vhost.declare_queue("q", durable=True)
    number = core.vhost.queues["q"].lane.number
    broker = restarted(definitions_of(core), {number: LaneState(3, 10, 7, 700, 10_005)})
    queue = broker.vhosts["/"].queues["q"]
    assert queue.depth == 7
    assert queue.lane.next == 10_005
    assert queue.lane.redelivered_before == 10_005


def test_spilled_lanes_without_owner_are_dropped() -> None:
    """A queue that does not outlive the broker leaves no messages behind."""
    broker = restarted({}, {7: LaneState(0, 5, 5, 50, 0)})
    assert broker.unit.changes == [(2, 7)]
