"""What an idle connection costs a real broker: at most 15 kB with STOMP, and no more with AMQP and one channel open.

By default 400 connections; with GRIDMSG_SLOW=1 9,000, as far as this process may open so many files.
"""

from __future__ import annotations

import contextlib
import re
import resource
import socket
from collections.abc import Callable, Iterator
from pathlib import Path

import pytest

from broker.session.amqp_connection import PROTOCOL_HEADER
from broker.wire.amqp import methods
from broker.wire.amqp.frames import method_frame
from tests.support.amqp import LOGIN
from tests.support.site import Site, is_slow_wanted

pytestmark = pytest.mark.interop

BYTES_MAX = 15_000
IDLE_BROKER_BYTES_MAX = 80_000_000
SLACK_BYTES = 1_000_000
"""What a few hundred connections do not share: growth of the broker's own tables."""
BATCH = 100


@pytest.fixture
def site(tmp_path: Path) -> Iterator[Site]:
    made = Site(tmp_path)
    try:
        made.start_broker()
        made.wait_for_port(5672)
        yield made
    finally:
        made.close()


def memory_bytes(site: Site) -> int:
    text = Path(f"/proc/{site.processes['broker run'].pid}/status").read_text()
    found = re.search(r"VmRSS:\s+(\d+) kB", text)
    assert found is not None
    return int(found[1]) << 10


def read_until(peer: socket.socket, end: bytes) -> None:
    got = b""
    while end not in got:
        piece = peer.recv(65_536)
        assert piece, got
        got += piece


def say(channel: int, name: str, *fields: object) -> bytes:
    return method_frame(channel, methods.encode(name, *fields))


def open_stomp(peers: list[socket.socket]) -> None:
    for peer in peers:
        peer.sendall(b"CONNECT\naccept-version:1.2\nhost:/\nlogin:guest\npasscode:guest\n\n\0")
    for peer in peers:
        read_until(peer, b"\0")


def open_amqp(peers: list[socket.socket]) -> None:
    properties = {"product": "test", "capabilities": {"connection.blocked": True}}
    for peer in peers:
        peer.sendall(
            PROTOCOL_HEADER + say(0, "connection.start-ok", properties, "PLAIN", LOGIN, "en_US")
        )
    for peer in peers:
        read_until(peer, methods.METHODS["connection.tune"].code)
        peer.sendall(
            say(0, "connection.tune-ok", 2047, 131_072, 0)
            + say(0, "connection.open", "/", "", False)
            + say(1, "channel.open", "")
        )
    for peer in peers:
        read_until(peer, methods.METHODS["channel.open-ok"].code)


@pytest.mark.parametrize(
    ("port", "open_all"), [(61613, open_stomp), (5672, open_amqp)], ids=["STOMP", "AMQP"]
)
def test_an_idle_connection_is_small(
    site: Site, port: int, open_all: Callable[[list[socket.socket]], None]
) -> None:
    count = 9000 if is_slow_wanted() else 400
    files_max = resource.getrlimit(resource.RLIMIT_NOFILE)[0]
    if files_max < count + BATCH:
        pytest.skip(f"{count} connections take more than {files_max} open files; raise `ulimit -n`")
    with contextlib.ExitStack() as stack:
        before_bytes = 0
        # The first ones load what all share.
        for at in range(0, count + BATCH, BATCH):
            peers = [
                stack.enter_context(socket.create_connection(("127.0.0.1", site.port(port)), 60))
                for _ in range(BATCH)
            ]
            open_all(peers)
            before_bytes = before_bytes or memory_bytes(site)
            assert at or before_bytes <= IDLE_BROKER_BYTES_MAX
        grown_bytes = memory_bytes(site) - before_bytes
        print(f"{grown_bytes / count:.0f} bytes a connection")
        assert grown_bytes <= count * BYTES_MAX + SLACK_BYTES
