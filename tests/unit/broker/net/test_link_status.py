"""The rows that status, API and metrics show of links."""

from __future__ import annotations

from types import SimpleNamespace

from broker.cli.site import link_lines
from broker.link.foreign_stomp import StompLink
from broker.link.settings import LinkSettings, Stream
from broker.link.trace import WINDOW
from broker.management.metrics import render
from broker.net.link_status import describe
from tests.support.link_house import World

MOVE = Stream("queue", True, "work", "there")


def node():
    world = World(1)
    (made,) = world.add("a")
    made.vhost.declare_queue("work", durable=True)
    made.vhost.declare_exchange("ex", "topic", durable=True)
    return world, made


def foreign(world, made, stream=MOVE):
    settings = LinkSettings("far", (("far", 1),), (stream,), protocol="stomp")
    session = StompLink(made.table, world.clock, made.turn.wake, settings)
    session.receive_data(b"CONNECTED\nversion:1.2\nserver:Peer/1\n\n\0")
    assert session.is_up
    return session


def dial(session):
    return SimpleNamespace(
        session=session,
        settings=session.settings,
        address=("far", 1),
        attempt_count=1,
        up_count=1,
        failing_since_ms=0,
        last_error="",
    )


def rows(made, dials=()):
    return describe(SimpleNamespace(table=made.table, dials=dict(dials)))


def test_a_foreign_link_shows_its_protocol_up_and_away():
    world, made = node()
    session = foreign(world, made)
    (row,) = rows(made, {"far": dial(session)})
    assert (row["protocol"], row["state"], row["peer"]) == ("stomp", "up", "Peer/1")
    session.connection_lost("gone")
    (row,) = rows(made)
    assert (row["protocol"], row["state"]) == ("stomp", "not configured")


def test_what_a_foreign_link_left_is_named():
    world, made = node()
    stream = Stream("exchange", True, "ex", "ex")
    session = foreign(world, made, stream)
    made.publish("ex", "k", b"m0")
    session.connection_lost("gone")
    ((name, count),) = made.table.drop_stream("far", stream).items()
    assert count == 1
    (row,) = rows(made)
    assert (row["protocol"], row["state"]) == ("stomp", "not configured")
    assert name in row["reason"]
    assert row["streams"][0]["backlog"] == 1
    made.publish("ex", "k", b"m1")
    assert made.vhost.queues[name].depth == 1, "nothing new enters"


def test_the_share_of_the_window_is_shown_and_measured():
    world = World(1)
    a, b = world.add("a", "b")
    for one in (a, b):
        one.vhost.declare_exchange("ex", "topic", durable=True)
        one.turn.schedule()
    b.vhost.declare_queue("sink", durable=True)
    b.vhost.bind_queue("sink", "ex", "#")
    world.link(b, a, "ab", Stream("exchange", False, "ex", "ex"))
    world.settle()
    a.publish("ex", "k", b"m0")
    world.settle()
    (opening,) = b.table.origins._windows
    b.table.origins.apply(opening, 1 + WINDOW // 2)
    b.table.origins.take_behind()
    a.publish("ex", "k", b"m1")
    world.settle()
    (session,) = b.table.sessions.values()
    (row,) = rows(b, {"ab": dial(session)})
    assert 0.49 < row["streams"][0]["window_share"] < 0.5
    origins = b.table.origins.describe()
    text = render(b.broker, {"links": [row], "link_origins": origins})
    assert 'gridmsg_link_window_share{link="ab",direction="dialed",peer="a"} 0.49' in text
    assert "gridmsg_origins 1\n" in text
    assert f"gridmsg_origin_bytes {origins['bytes']}\n" in text
    assert any("% of the window used" in line for line in link_lines([row], origins))
