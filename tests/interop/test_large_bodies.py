"""One large message in and out of a real broker: its memory stays within two and a half times the body.

The parser's copy and the journal's are there at the same time; a third would be a list joined or a socket's buffer.
By default 32 MiB, with GRIDMSG_SLOW=1 the 128 MiB that a listener may allow.
"""

from __future__ import annotations

import re
import socket
from collections.abc import Iterator
from pathlib import Path

import pytest

from broker.session.amqp_handshake import PROTOCOL_HEADER
from broker.wire.amqp import methods
from broker.wire.amqp.frames import BODY, HEADER, method_frame
from tests.support.amqp import LOGIN
from tests.support.site import Site, free_offset, is_slow_wanted

pytestmark = pytest.mark.interop

BODY_BYTES = (128 if is_slow_wanted() else 32) << 20
COPIES_MAX = 2.5
SLACK_BYTES = 8 << 20
"""Of the interpreter, for what is not the body: buffers of the sockets, a segment's supply."""
SECONDS_MAX = 120
FRAME_BYTES = 131_072 - 8
BLOCK = bytes(range(256)) * 512


@pytest.fixture
def site(tmp_path: Path) -> Iterator[Site]:
    offset = free_offset()
    config = "".join(
        f'[[listener]]\nprotocol = "{protocol}"\naddress = "127.0.0.1:{port + offset}"\n'
        f"[listener.limits]\nbody-size = {BODY_BYTES}\n"
        for protocol, port in (("stomp", 61613), ("amqp", 5672))
    )
    made = Site(tmp_path, config, offset)
    try:
        made.start_broker()
        made.wait_for_port(5672)
        yield made
    finally:
        made.close()


def memory_bytes(site: Site, field: str) -> int:
    """VmRSS (now) or VmHWM (the most so far) of the broker."""
    text = Path(f"/proc/{site.processes['broker run'].pid}/status").read_text()
    found = re.search(rf"{field}:\s+(\d+) kB", text)
    assert found is not None
    return int(found[1]) << 10


def assert_bounded(site: Site, before_bytes: int) -> None:
    grown_bytes = memory_bytes(site, "VmHWM") - before_bytes
    assert grown_bytes <= COPIES_MAX * BODY_BYTES + SLACK_BYTES, f"{grown_bytes / BODY_BYTES:.2f} x"


def dial(site: Site, port: int) -> socket.socket:
    return socket.create_connection(("127.0.0.1", site.port(port)), SECONDS_MAX)


def read_until(peer: socket.socket, end: bytes) -> bytes:
    got = b""
    while end not in got:
        piece = peer.recv(65_536)
        assert piece, got
        got += piece
    return got


def test_stomp(site: Site) -> None:
    with dial(site, 61613) as peer:
        peer.sendall(b"CONNECT\naccept-version:1.2\nhost:/\n\n\0")
        read_until(peer, b"\0")
        before_bytes = memory_bytes(site, "VmRSS")
        head = b"SEND\ndestination:/queue/large\npersistent:true\nreceipt:r\ncontent-length:%d\n\n"
        peer.sendall(head % BODY_BYTES)
        for _ in range(BODY_BYTES // len(BLOCK)):
            peer.sendall(BLOCK)
        peer.sendall(b"\0")
        assert read_until(peer, b"\0").startswith(b"RECEIPT\nreceipt-id:r\n")
        peer.sendall(b"SUBSCRIBE\ndestination:/queue/large\nid:1\nack:client\n\n\0")
        got = read_until(peer, b"\n\n")
        assert got.startswith(b"MESSAGE\n")
        got = got[got.index(b"\n\n") + 2 :]
        got_bytes = 0
        while got_bytes < BODY_BYTES:
            # What came is compared block by block, for this process has no room for it either.
            piece = got or peer.recv(1 << 20)
            assert piece
            at = got_bytes % 256
            expected = (BLOCK * (len(piece) // len(BLOCK) + 2))[at : at + len(piece)]
            wanted = min(len(piece), BODY_BYTES - got_bytes)
            assert piece[:wanted] == expected[:wanted]
            got_bytes += wanted
            got = b""
        assert_bounded(site, before_bytes)


def frame(kind: int, payload: bytes) -> bytes:
    return b"".join((bytes((kind, 0, 1)), len(payload).to_bytes(4, "big"), payload, b"\xce"))


def call(peer: socket.socket, channel: int, name: str, *fields: object) -> None:
    peer.sendall(method_frame(channel, methods.encode(name, *fields)))


def answer(peer: socket.socket, name: str) -> None:
    read_until(peer, methods.METHODS[name].code)


def test_amqp(site: Site) -> None:
    with dial(site, 5672) as peer:
        peer.sendall(PROTOCOL_HEADER)
        call(peer, 0, "connection.start-ok", {}, "PLAIN", LOGIN, "en_US")
        answer(peer, "connection.tune")
        call(peer, 0, "connection.tune-ok", 2047, 131_072, 0)
        call(peer, 0, "connection.open", "/", "", False)
        call(peer, 1, "channel.open", "")
        call(peer, 1, "queue.declare", 0, "large", False, True, False, False, False, {})
        call(peer, 1, "confirm.select", False)
        answer(peer, "confirm.select-ok")
        before_bytes = memory_bytes(site, "VmRSS")
        call(peer, 1, "basic.publish", 0, "", "large", False, False)
        # Delivery mode 2 is the only property.
        header = b"\0\x3c\0\0" + BODY_BYTES.to_bytes(8, "big") + b"\x10\x00\x02"
        peer.sendall(frame(HEADER, header))
        stream = memoryview(BLOCK * 2)
        for start in range(0, BODY_BYTES, FRAME_BYTES):
            size_bytes = min(FRAME_BYTES, BODY_BYTES - start)
            at = start % 256
            peer.sendall(frame(BODY, bytes(stream[at : at + size_bytes])))
        answer(peer, "basic.ack")
        call(peer, 1, "basic.consume", 0, "large", "c", False, False, False, True, {})
        reader = peer.makefile("rb")
        got_bytes = 0
        while got_bytes < BODY_BYTES:
            head = reader.read(7)
            payload = reader.read(int.from_bytes(head[3:], "big"))
            assert reader.read(1) == b"\xce"
            if head[0] == BODY:
                at = got_bytes % 256
                assert payload == stream[at : at + len(payload)]
                got_bytes += len(payload)
        assert got_bytes == BODY_BYTES
        assert_bounded(site, before_bytes)
