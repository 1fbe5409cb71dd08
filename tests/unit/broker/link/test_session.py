"""A link's session against peers that err, lie or stall; rights; and what is shown of it."""

from __future__ import annotations

from typing import Any

import pytest

from broker.errors import AccessRefused
from broker.link import frames
from broker.link.frames import OPENING, FrameParser, encode, pack, unpack
from broker.link.ports import Login
from broker.link.session import LinkSession
from broker.link.settings import LinkSettings, Stream
from broker.link.strand import Strand
from tests.support.link_house import Anyone, Node, World

PULL = Stream("exchange", False, "ex", "ex")


class Peer:
    """Speaks frames to an accepting session of a node."""

    def __init__(self, node: Node, login: Any = None) -> None:
        self.node = node
        self.woken: list[Any] = []
        login = login or Anyone()
        self.session = LinkSession(
            node.table,
            node.world.clock,
            self.woken.append,
            b"",
            authenticate=lambda *_: login,
        )
        self._parser = FrameParser(1 << 20)
        self._sequence = 0

    def feed(self, raw: bytes) -> list[tuple[int, Any]]:
        self.session.receive_data(raw)
        return self.got()

    def got(self) -> list[tuple[int, Any]]:
        raw = b"".join(self.session.output())
        return [(kind, unpack(payload)) for kind, _, payload in self._parser.feed(raw)]

    def say(self, kind: int, value: object) -> list[tuple[int, Any]]:
        self._sequence += 1
        return self.feed(encode(kind, self._sequence - 1, pack(value)))

    def hello(self, **more: Any) -> list[tuple[int, Any]]:
        said = {
            "id": b"p" * 16,
            "name": "peer",
            "link": "ab",
            "user": "guest",
            "password": "guest",
            "token": b"t" * 16,
            "window": 1 << 20,
            "heartbeat": 5.0,
            "packs": "none",
            **more,
        }
        self.feed(OPENING)
        return self.say(frames.HELLO, said)

    def open(self, **more: Any) -> list[tuple[int, Any]]:
        said = {
            "stream": 0,
            "kind": "exchange",
            "push": False,
            "source": "ex",
            "target": "ex",
            "vhost": "/",
            "declared": {},
            "hops": 8,
            "buffer": 1 << 20,
            "on_demand": False,
            **more,
        }
        return self.say(frames.OPEN, said)


@pytest.fixture
def node() -> Node:
    (made,) = World(1).add("near")
    return made


def refusal(got: list[tuple[int, Any]]) -> str:
    return next((str(said[1]) for kind, said in got if kind == frames.REFUSED), "")


def test_a_greeting_is_answered(node):
    got = Peer(node).hello()
    assert [kind for kind, _ in got] == [frames.WELCOME, frames.PING]
    assert got[0][1] == {"id": node.table.id, "name": "near", "codec": "zlib"}


@pytest.mark.parametrize(
    ("more", "wanted"),
    [
        ({"id": b"short"}, "sound id"),
        ({"link": "a\nb"}, "sound link"),
        ({"name": 5}, "sound name"),
        ({"token": "text"}, "sound token"),
        ({"window": "much"}, "no sense"),
    ],
)
def test_senseless_greetings(node, more, wanted):
    peer = Peer(node)
    assert wanted in refusal(peer.hello(**more))
    assert peer.session.is_closing


def test_a_link_to_oneself_is_refused(node):
    assert "oneself" in refusal(Peer(node).hello(id=node.table.id))


def test_another_protocol_is_refused(node):
    peer = Peer(node)
    peer.feed(b"GMLK\x00\x00\x00\x09")
    assert peer.session.is_closing


@pytest.mark.parametrize(
    ("answer", "said"),
    [
        (b"AMQP\0\0\x09\x01", 'say protocol = "amqp"'),
        (b"\x15\x03\x03\0\x02\x02\x46", "say tls = true"),
        (b"HTTP/1.1 400", "AMQP listener"),
        (b"", "does it speak TLS there"),
    ],
)
def test_who_dials_a_wrong_port_is_told_what_to_do(node, answer, said):
    told = []
    settings = LinkSettings("ab", (("far", 1),), (PULL,))
    session = LinkSession(
        node.table,
        node.world.clock,
        node.turn.wake,
        b"t" * 16,
        settings=settings,
        on_ended=told.append,
    )
    if answer:
        session.receive_data(answer)
    session.connection_lost("Connection was closed cleanly.")
    assert said in told[0]


def test_frames_before_the_greeting_are_refused(node):
    peer = Peer(node)
    peer.feed(OPENING)
    assert "before the greeting" in refusal(peer.say(frames.PING, 1.0))


def test_a_peer_that_has_not_logged_in_may_not_send_much(node):
    peer = Peer(node)
    peer.feed(OPENING)
    assert "at most" in refusal(
        peer.feed(encode(frames.HELLO, 0, bytes(frames.GREETING_BYTES_MAX + 1)))
    )


def test_a_user_without_the_tag_is_refused(node):
    class Plain(Anyone):
        tags = ()

    assert "lacks the tag link" in refusal(Peer(node, Plain()).hello())


def test_a_wrong_password_is_refused(node):
    class Wrong(Anyone):
        def identity(self) -> Anyone:
            raise AccessRefused("Access refused for user 'guest'")

    assert "refused for user" in refusal(Peer(node, Wrong()).hello())


def test_a_login_may_take_its_time(node):
    class Slow(Anyone):
        is_settled = False

    login: Login = Slow()  # type: ignore[assignment]
    peer = Peer(node, login)
    assert peer.hello() == []
    assert peer.session.is_holding
    peer.open()
    login.is_settled = True
    assert login.on_settled is not None
    login.on_settled()
    assert [kind for kind, _ in peer.got()][:2] == [frames.WELCOME, frames.PING]
    assert 0 in peer.session.outflows


@pytest.mark.parametrize(
    ("operation", "more"),
    [
        ("read", {}),
        ("configure", {}),
        ("write", {"push": True}),
        ("read", {"kind": "queue", "source": "q"}),
        ("write", {"kind": "queue", "target": "q", "push": True}),
    ],
)
def test_a_stream_takes_rights(node, operation, more):
    class Limited(Anyone):
        def check(self, *what: str) -> None:
            if what[1] == operation:
                raise AccessRefused(f"{operation} access refused")

    peer = Peer(node, Limited())
    peer.hello()
    assert f"{operation} access refused" in refusal(peer.open(**more))
    assert not peer.session.outflows
    assert not peer.session.inflows


@pytest.mark.parametrize(
    ("kind", "value"),
    [
        (frames.BATCH, [0, []]),
        (frames.BATCH, [9, [[0] * 10]]),
        (frames.BATCH, "text"),
        (frames.ACKNOWLEDGED, [0, 5]),
        (frames.RESUME, [0, None]),
        (frames.SETTLED, [0, [1, 2]]),
        (frames.DEMAND, [0, True, [["k", "", {}, ["x"]]], []]),
        (frames.WELCOME, {}),
        (frames.HELLO, {}),
        (frames.OPEN, {}),
        (frames.PONG, "never"),
        (99, None),
    ],
)
def test_frames_out_of_turn_end_the_link_and_nothing_else(node, kind, value):
    peer = Peer(node)
    peer.hello()
    peer.say(kind, value)
    assert peer.session.is_closing
    peer.session.connection_lost("closed")
    assert not node.table.sessions


def test_a_batch_that_breaks_off_counts_what_was_applied(node):
    node.vhost.declare_exchange("ex", "topic", durable=True)
    node.vhost.declare_queue("sink", durable=True)
    node.vhost.bind_queue("sink", "ex", "#")
    peer = Peer(node)
    peer.hello()
    peer.open(push=True)
    peer.say(frames.START, [0, 3, "claim", False])
    peer.session.end_turn(0)
    peer.session.on_durable(0)
    peer.say(frames.BEGIN, [0, False])
    row = [0, "k", 0, b"\x00\x00", b"body", True, 0, 1, 0, b""]
    peer.say(frames.BATCH, [0, [row, [1, "k", 7, *row[3:]]]])
    assert peer.session.is_closing
    assert node.vhost.queues["sink"].depth == 1
    cursor = node.table.cursors.cursor(b"p" * 16, 3, is_shared=False)
    assert cursor.position == 0


def test_a_silent_peer_is_given_up(node):
    peer = Peer(node)
    peer.hello()
    session = peer.session
    node.world.clock.seconds += 5.0
    session.tick(node.world.clock.now())
    assert frames.PING in [kind for kind, _ in peer.got()]
    node.world.clock.seconds += 8.0
    session.tick(node.world.clock.now())
    assert session.is_closing
    assert "nothing was heard" in session.last_error


def test_a_late_greeting_is_given_up(node):
    peer = Peer(node)
    deadline = peer.session.next_deadline()
    assert deadline is not None
    peer.session.tick(deadline)
    assert peer.session.is_closing


def test_blocking_is_told_to_the_far_side(node):
    peer = Peer(node)
    peer.hello()
    assert peer.session.set_blocked("low on disk")
    peer.session.set_blocked("low on disk")
    peer.session.set_blocked(None)
    assert peer.got() == [(frames.BLOCKED, "low on disk"), (frames.BLOCKED, "")]


def test_a_far_side_that_is_blocked_gets_nothing_and_says_so():
    world = World(1)
    a, b = world.add("a", "b")
    for one in (a, b):
        one.vhost.declare_queue("work", durable=True)
        one.turn.schedule()
    world.link(b, a, "ab", Stream("queue", False, "work", "work"))
    world.settle()
    (session,) = b.table.sessions.values()
    session.set_blocked("low on memory")
    world.settle()
    a.publish("", "work", b"m0")
    world.settle()
    (far,) = a.table.sessions.values()
    assert far.far_reason == "low on memory"
    assert b.bodies("work") == []
    session.set_blocked(None)
    world.settle()
    assert b.bodies("work") == [b"m0"]


def test_a_window_bounds_what_is_under_way():
    world = World(1)
    a, b = world.add("a", "b")
    for one in (a, b):
        one.vhost.declare_queue("work", durable=True)
        one.turn.schedule()
    world.link(b, a, "ab", Stream("queue", False, "work", "work"), window_bytes=64 << 10)
    world.settle()
    for number in range(1500):
        a.publish("", "work", b"%04d" % number + bytes(400))
    (session,) = a.table.sessions.values()
    (flow,) = session.outflows.values()
    # One run of the queue, at most 1,000 messages, may go over the bound.
    assert 64 << 10 <= flow.held_bytes <= (64 << 10) + 600
    world.settle()
    assert len(b.bodies("work")) == 1500
    assert flow.held_bytes == 0


def test_a_rate_bounds_what_is_sent():
    world = World(1)
    a, b = world.add("a", "b")
    for one in (a, b):
        one.vhost.declare_queue("work", durable=True)
        one.turn.schedule()
    world.link(a, b, "ab", Stream("queue", True, "work", "work"), rate_bytes=1_000_000)
    world.settle()
    for number in range(600):
        a.publish("", "work", b"%d" % number + bytes(1000))

    def drive() -> None:
        while world.step():
            pass

    drive()
    assert b.bodies("work") == [], "no time has passed"
    for step in range(1, 5):
        world.clock.seconds += 0.2
        a.table.look()
        drive()
        # What the time allows, and at most one batch more.
        assert sum(map(len, b.bodies("work"))) <= step * 200_000 + (150 << 10)
    assert len(b.bodies("work")) == 600


def test_on_demand_moves_only_for_consumers_with_room():
    from tests.support.link_house import Consumer

    world = World(1)
    a, b = world.add("a", "b")
    for one in (a, b):
        one.vhost.declare_queue("work", durable=True)
        one.turn.schedule()
    world.link(b, a, "ab", Stream("queue", False, "work", "work"), is_on_demand=True)
    world.settle()
    a.publish("", "work", b"m0")
    world.settle()
    assert a.bodies("work") == [b"m0"]
    consumer = Consumer(b, "work")
    world.settle()
    assert [one.message.body for one in consumer.taken] == [b"m0"]
    b.vhost.unsubscribe(consumer.subscription)
    world.settle()
    a.publish("", "work", b"m1")
    world.settle()
    assert a.bodies("work") == [b"m1"]


def test_transient_messages_are_sent_at_most_once():
    """What was on its way at a cut is not sent again, and does not come twice."""
    from broker.core.message import Message

    world = World(1)
    a, b = world.add("a", "b")
    for one in (a, b):
        one.vhost.declare_queue("work", durable=True)
        one.turn.schedule()
    world.link(b, a, "ab", Stream("queue", False, "work", "work"))
    world.settle()
    destination = a.vhost.destination("", "work")
    a.vhost.publish(Message(destination, 0, b"\x00\x00", b"m0", False, 0, 1, 0))
    a.turn.schedule()
    for _ in range(6):
        a.end_turn()
        a.sync(a.disk.waiting_count)
    for socket in list(world.sockets()):
        world.cut(socket)
    for socket in list(world.sockets()):
        socket.lose("cut")
    world.settle()
    assert a.vhost.queues["work"].depth + b.vhost.queues["work"].depth <= 1


def test_a_refused_stream_does_not_stop_the_others():
    world = World(1)
    a, b = world.add("a", "b")
    a.vhost.declare_queue("work", durable=True)
    a.vhost.declare_queue("good", durable=True)
    b.vhost.declare_queue("good", durable=True)
    for one in (a, b):
        one.turn.schedule()
    streams = (Stream("exchange", False, "", "ex"), Stream("queue", False, "good", "good"))
    world.link(b, a, "ab", *streams)
    a.publish("", "good", b"m0")
    world.settle()
    assert b.bodies("good") == [b"m0"]
    (session,) = b.table.sessions.values()
    assert session.refused_at


def test_settings_keep_the_password_to_themselves():
    assert "secret" not in repr(LinkSettings("x", (), (), password="secret"))  # noqa: S106


def test_further_connections_are_bounded(node):
    peer = Peer(node)
    peer.hello()
    assert node.table.find_session(b"t" * 16) is peer.session
    for _ in range(16):
        Strand(peer.session, peer.woken.append, is_dialer=False)
    assert node.table.find_session(b"t" * 16) is None
