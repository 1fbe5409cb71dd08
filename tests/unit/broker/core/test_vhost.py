"""Declarations, bindings, routing and dead letters of a vhost."""

from __future__ import annotations

import pytest

from broker.errors import (
    AccessRefused,
    NotFound,
    PreconditionFailed,
    ResourceLocked,
)
from tests.support.core import Core, RecordingSink


def test_default_exchange_reaches_the_queue_named_by_the_key() -> None:
    """AMQP 0-9-1, 3.1.3.1: every queue is bound to the default exchange by its name."""
    core = Core()
    core.vhost.declare_queue("q")
    assert core.publish("", "q", b"a") == 1
    assert core.publish("", "other", b"b") == 0
    _, sink = core.subscribe("q")
    core.turn()
    assert sink.bodies() == [b"a"]


@pytest.mark.parametrize(
    ("kind", "binding", "key", "is_reached"),
    [
        ("direct", "a", "a", True),
        ("direct", "a", "b", False),
        ("fanout", "a", "b", True),
        ("topic", "a.*", "a.b", True),
        ("topic", "a.*", "a.b.c", False),
        ("topic", "a.#", "a", True),
        ("topic", "#.c", "a.b.c", True),
        ("topic", "#", "", True),
        ("topic", "*", "", True),
    ],
)
def test_kinds_choose_by_key(kind: str, binding: str, key: str, is_reached: bool) -> None:
    """Each exchange kind matches as the specification says."""
    core = Core()
    core.vhost.declare_exchange("x", kind)
    core.vhost.declare_queue("q")
    core.vhost.bind_queue("q", "x", binding)
    assert core.publish("x", key, b"m") == int(is_reached)


@pytest.mark.parametrize(
    ("mode", "headers", "is_reached"),
    [
        ("all", {"a": 1, "b": "two"}, True),
        ("all", {"a": 1}, False),
        ("any", {"a": 1}, True),
        ("any", {"c": 1}, False),
    ],
)
def test_headers_exchange(mode: str, headers: dict[str, object], is_reached: bool) -> None:
    """A headers exchange compares each message's headers, whatever its key."""
    core = Core()
    core.vhost.declare_exchange("x", "headers")
    core.vhost.declare_queue("q")
    core.vhost.bind_queue("q", "x", "", {"x-match": mode, "a": 1, "b": "two"})
    assert core.publish("x", "k", b"m", headers=headers) == int(is_reached)


def test_cached_routes_follow_the_topology() -> None:
    """A destination used before a binding came or went is routed anew."""
    core = Core()
    core.vhost.declare_exchange("x", "topic")
    core.vhost.declare_queue("q")
    assert core.publish("x", "a", b"1") == 0
    core.vhost.bind_queue("q", "x", "a")
    assert core.publish("x", "a", b"2") == 1
    core.vhost.unbind_queue("q", "x", "a")
    assert core.publish("x", "a", b"3") == 0
    core.vhost.delete_exchange("x")
    with pytest.raises(NotFound, match="no exchange 'x' in vhost '/'"):
        core.publish("x", "a", b"4")


def test_exchange_to_exchange_and_cycles() -> None:
    """A message goes through bound exchanges once, whatever circles they make, and once to each queue."""
    core = Core()
    for name in "abc":
        core.vhost.declare_exchange(name, "fanout")
    for source, target in ("ab", "bc", "ca", "ac"):
        core.vhost.bind_exchange(target, source, "")
    core.vhost.declare_queue("q")
    core.vhost.bind_queue("q", "c", "")
    core.vhost.bind_queue("q", "b", "")
    assert core.publish("a", "", b"m") == 1


def test_alternate_exchange_takes_what_is_not_routed() -> None:
    """`alternate-exchange` gets what no binding wants."""
    core = Core()
    core.vhost.declare_exchange("rest", "fanout")
    core.vhost.declare_queue("q")
    core.vhost.bind_queue("q", "rest", "")
    core.vhost.declare_exchange("x", "direct", arguments={"alternate-exchange": "rest"})
    assert core.publish("x", "nowhere", b"m") == 1


def test_accounting_names_keep_what_is_unroutable() -> None:
    """An address with unroutable=dead-letter never loses a record for want of a binding."""
    core = Core()
    core.vhost.declare_exchange("gracc.site.raw", "fanout", durable=True)
    assert core.publish("gracc.site.raw", "", b"record", delivery_mode=2) == 1
    _, sink = core.subscribe("dead-letter")
    core.turn()
    headers = sink.taken[0].message.properties.headers
    assert headers is not None
    assert headers["x-first-death-reason"] == "unroutable"
    assert "gracc.site.raw" in headers["x-gridmsg-cause"]


def test_redeclaration_texts_are_rabbitmqs() -> None:
    """406 with RabbitMQ's text for each difference."""
    core = Core()
    core.vhost.declare_queue("q", durable=True, arguments={"x-max-length": 10})
    with pytest.raises(PreconditionFailed) as caught:
        core.vhost.declare_queue("q", durable=False, arguments={"x-max-length": 10})
    assert caught.value.text == (
        "inequivalent arg 'durable' for queue 'q' in vhost '/': received 'false' but current is 'true'"
    )
    with pytest.raises(PreconditionFailed) as caught:
        core.vhost.declare_queue("q", durable=True)
    assert caught.value.text == (
        "inequivalent arg 'x-max-length' for queue 'q' in vhost '/': "
        "received none but current is the value '10' of type 'signedint'"
    )
    core.vhost.declare_exchange("x", "direct")
    with pytest.raises(PreconditionFailed, match="inequivalent arg 'type' for exchange 'x'"):
        core.vhost.declare_exchange("x", "fanout")


def test_refused_names_and_kinds() -> None:
    """Reserved names, the default exchange and unknown kinds are refused."""
    core = Core()
    with pytest.raises(AccessRefused, match=r"queue name 'amq.q' contains reserved prefix"):
        core.vhost.declare_queue("amq.q")
    with pytest.raises(AccessRefused, match="operation not permitted on the default exchange"):
        core.vhost.declare_exchange("")
    with pytest.raises(PreconditionFailed, match="unknown exchange type 'nonsense'"):
        core.vhost.declare_exchange("x", "nonsense")
    with pytest.raises(PreconditionFailed, match="value_negative,-1"):
        core.vhost.declare_queue("q", arguments={"x-message-ttl": -1})
    assert core.vhost.delete_queue("missing") == 0


def test_exclusive_queues_belong_to_their_owner() -> None:
    """405 for everybody else, and gone with the owner."""
    core = Core()
    me, other = object(), object()
    core.vhost.declare_queue("q", exclusive=True, owner=me)
    with pytest.raises(ResourceLocked):
        core.vhost.queue("q", other)
    with pytest.raises(ResourceLocked):
        core.vhost.declare_queue("q", exclusive=True, owner=other)
    core.broker.forget_owner(me)
    assert "q" not in core.vhost.queues


def test_auto_delete_queue_and_exchange_go_with_their_last_use() -> None:
    """An auto-delete queue goes with its last consumer, and takes an auto-delete exchange along."""
    core = Core()
    core.vhost.declare_exchange("x", "fanout", auto_delete=True)
    core.vhost.declare_queue("q", auto_delete=True)
    core.vhost.bind_queue("q", "x", "")
    subscription, _ = core.subscribe("q")
    core.vhost.unsubscribe(subscription)
    assert "q" not in core.vhost.queues
    assert "x" not in core.vhost.exchanges


def test_deleting_a_queue_cancels_its_consumers() -> None:
    """The sinks are told, and settling what they held is harmless."""
    core = Core()
    core.vhost.declare_queue("q")
    core.publish("", "q", b"m")
    _, sink = core.subscribe("q")
    core.turn()
    core.vhost.delete_queue("q")
    assert sink.cancelled_tags == ["t"]
    core.broker.acknowledge(sink.taken)
    core.broker.requeue(sink.taken)
    core.turn()


def test_rejected_goes_to_the_dead_letter_exchange_with_its_history() -> None:
    """`x-death` as RabbitMQ lays it out, plus the cause."""
    core = Core()
    core.vhost.declare_queue("dead")
    core.vhost.declare_queue(
        "q", arguments={"x-dead-letter-exchange": "", "x-dead-letter-routing-key": "dead"}
    )
    core.publish("", "q", b"m", headers={"k": "v"}, expiration="60000")
    _, sink = core.subscribe("q")
    core.turn()
    core.broker.reject(sink.taken, "no such site")
    _, dead = core.subscribe("dead")
    core.turn()
    properties = dead.taken[0].message.properties
    assert properties.headers is not None
    assert properties.expiration is None
    assert properties.headers["k"] == "v"
    row = properties.headers["x-death"][0]
    assert (row["queue"], row["reason"], row["count"]) == ("q", "rejected", 1)
    assert row["routing-keys"] == ["q"]
    assert row["original-expiration"] == "60000"
    assert properties.headers["x-gridmsg-cause"] == "no such site"


def test_rejected_without_dead_letter_exchange() -> None:
    """Without a cause dropped, as RabbitMQ does; with one kept in `dead-letter`."""
    core = Core()
    core.vhost.declare_queue("q")
    core.publish("", "q", b"1")
    core.publish("", "q", b"2")
    _, sink = core.subscribe("q")
    core.turn()
    core.broker.reject(sink.taken[:1])
    assert "dead-letter" not in core.vhost.queues
    core.broker.reject(sink.taken[1:], "bad record")
    core.turn()
    assert core.vhost.queues["dead-letter"].depth == 1


def test_too_many_deliveries_end_in_the_dead_letter_queue() -> None:
    """The default limit is 20 deliveries; nothing circles for ever and nothing vanishes."""
    core = Core()
    core.vhost.declare_queue("q", durable=True)
    core.publish("", "q", b"poison", delivery_mode=2)
    sink = RecordingSink()
    core.subscribe("q", sink=sink)
    for _ in range(21):
        core.turn()
        core.broker.requeue(sink.taken)
        sink.taken.clear()
    core.turn()
    assert sink.taken == []
    assert core.vhost.queues["dead-letter"].depth == 1


def test_lost_consumers_do_not_use_up_the_delivery_limit() -> None:
    """What a consumer held when it went away comes back redelivered however often that happens."""
    core = Core()
    core.vhost.declare_queue("q", durable=True)
    core.publish("", "q", b"good", delivery_mode=2)
    for _ in range(50):
        subscription, sink = core.subscribe("q")
        core.turn()
        assert sink.bodies() == [b"good"]
        core.vhost.unsubscribe(subscription)
        core.broker.release(sink.taken)
    _, sink = core.subscribe("q")
    core.turn()
    assert sink.taken[0].count == 1


def test_expired_messages_cycle_ends() -> None:
    """A queue that dead-letters into itself by expiry drops the message at the second death."""
    core = Core()
    core.vhost.declare_queue(
        "q",
        arguments={
            "x-dead-letter-exchange": "",
            "x-dead-letter-routing-key": "q",
            "x-message-ttl": 1000,
        },
    )
    core.publish("", "q", b"m")
    for _ in range(3):
        core.clock.seconds += 2
        core.broker.tick()
        core.turn()
    assert core.vhost.queues["q"].depth == 0
