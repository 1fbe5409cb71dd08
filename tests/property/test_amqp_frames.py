"""However the bytes are cut, the same commands come; whatever a peer sends, it is answered or cut off, never an exception."""

from __future__ import annotations

import random

from hypothesis import given, settings
from hypothesis import strategies as st

from broker.wire.amqp import methods
from broker.wire.amqp.frames import HEARTBEAT_FRAME, FrameParser, method_frame
from tests.support.amqp import House, Peer, published, read_frames

Flat = list[tuple[int, bytes, bytes | None, bytes | None, int]]


def parser() -> FrameParser:
    made = FrameParser(4096, 10_000, 30_000, 10)
    made.is_stepping = False
    return made


def flat(made: FrameParser, pieces: list[bytes]) -> Flat:
    """Commands of all pieces, runs taken apart."""
    found: Flat = []
    for piece in pieces:
        for channel, method, header, bodies, refused in made.feed(piece):
            if bodies is None:
                found.append((channel, method, header, None, refused))
            else:
                found.extend((channel, method, header, body, refused) for body in bodies)
    return found


publishes = st.builds(
    published,
    st.sampled_from(["k", "key"]),
    st.sampled_from([b"", b"a", b"bc", b"a" * 300, b"b" * 4088, b"c" * 9000, b"d" * 10_001]),
    channel=st.integers(1, 2),
    frame_bytes_max=st.just(4096),
    message_id=st.sampled_from([None, "m", "n"]),
)
others = st.sampled_from(
    [HEARTBEAT_FRAME, method_frame(1, methods.encode("basic.ack", 5, True)), method_frame(0, b"")]
)
streams = st.lists(publishes | others, max_size=12)


@settings(max_examples=200)
@given(streams, st.randoms(use_true_random=False))
def test_cutting_changes_nothing(frames: list[bytes], chance: random.Random) -> None:
    data = b"".join(frames)
    whole = parser()
    at_once = flat(whole, [data])
    assert whole.violation is None
    pieces: list[bytes] = []
    at = 0
    while at < len(data):
        step = chance.choice([1, 3, 8, 21, 100, 1000, 65536])
        pieces.append(data[at : at + step])
        at += step
    cut = parser()
    assert flat(cut, pieces) == at_once
    # Frame by frame nothing can be found by comparing with the frame before it in the same bytes.
    assert flat(parser(), frames) == at_once


@settings(max_examples=200)
@given(streams, st.integers(0, 20_000), st.integers(0, 255))
def test_a_changed_byte_is_seen_the_same_however_cut(
    frames: list[bytes], place: int, byte: int
) -> None:
    data = bytearray(b"".join(frames))
    if data:
        data[place % len(data)] = byte
    whole, cut = parser(), parser()
    one = flat(whole, [bytes(data)])
    two = flat(cut, [bytes(data[at : at + 7]) for at in range(0, len(data), 7)])
    assert one == two
    assert str(whole.violation) == str(cut.violation)


VALUES = {
    "bit": st.booleans(),
    "octet": st.integers(0, 255),
    "short": st.integers(0, 65535),
    "long": st.integers(0, 2),
    "longlong": st.integers(0, 5),
    "shortstr": st.sampled_from(["", "q", "t", "x", "direct", "fanout", "topic", "headers", "/"]),
    "name": st.sampled_from(["", "q", "r", "x", "amq.topic", "amq.q"]),
    "longstr": st.sampled_from([b"", b"\0guest\0guest"]),
    "table": st.sampled_from(
        [{}, {"x-max-length": 1}, {"x-priority": 3}, {"x-match": "any"}, {"x-message-ttl": "no"}]
    ),
}


@st.composite
def steps(draw: st.DrawFn) -> bytes:
    kind = draw(st.integers(0, 19))
    if kind == 0:
        return draw(st.binary(max_size=30))
    if kind < 6:
        return published(
            draw(st.sampled_from(["q", "r", "none"])),
            draw(st.sampled_from([b"", b"a", b"b" * 5000])),
            draw(st.sampled_from(["", "x", "amq.topic", "missing"])),
            draw(st.integers(0, 3)),
            draw(st.booleans()),
            message_id=draw(st.sampled_from([None, "m"])),
            expiration=draw(st.sampled_from([None, "0", "10", "x"])),
            delivery_mode=draw(st.sampled_from([None, 1, 2])),
        )
    method = draw(st.sampled_from(sorted(methods.METHODS.values(), key=lambda one: one.code)))
    fields = [draw(VALUES[kind]) for kind in method.types]
    return method_frame(draw(st.integers(0, 3)), method.encode(*fields))


OPENING = b"".join(
    method_frame(channel, methods.encode("channel.open", "")) for channel in (1, 2, 3)
) + method_frame(1, methods.encode("queue.declare", 0, "q", False, True, False, False, False, {}))


@settings(max_examples=300, deadline=None)
@given(st.lists(steps(), max_size=25), st.booleans())
def test_whatever_comes_is_answered_or_cut_off(frames: list[bytes], is_slow: bool) -> None:
    """Oracle: whole frames out, no exception, and at the end nothing is left in anybody's hands."""
    house = House(is_slow=is_slow)
    peer, other = Peer(house).login(), Peer(house).login().channel()
    peer.feed(OPENING)
    for frame in frames:
        peer.feed(frame)
        house.store.sync()
        house.run()
    read_frames(peer.raw)
    peer.session.connection_lost("test")
    house.run()
    assert not house.broker._owned
    for queue in house.vhost.queues.values():
        assert queue.unsettled_count == 0
        assert queue.consumer_count == 0
    other.declare("after")
    house.store.sync()
    house.run()
    assert other.got()[-1][1] == "queue.declare-ok"


@settings(max_examples=200, deadline=None)
@given(st.binary(max_size=60), st.booleans())
def test_any_first_bytes_are_answered_or_cut_off(data: bytes, has_header: bool) -> None:
    peer = Peer(House())
    peer.feed((b"AMQP\x00\x00\x09\x01" if has_header else b"") + data)
    read_frames(peer.raw)
