"""The TCP relay as a process: late, slow, cut and reset connections on loopback.  Only least times are looked at."""

from __future__ import annotations

import random
import socket
import threading
import time
from contextlib import closing

import pytest

from bench.lab.relay import Relay, RelayFailed
from tests.support.waiting import PATIENCE_SECONDS

pytestmark = pytest.mark.interop


@pytest.fixture
def echo():
    """A server that says what it hears."""
    listener = socket.create_server(("127.0.0.1", 0))

    def answer(one):
        with closing(one):
            try:
                while piece := one.recv(65536):
                    one.sendall(piece)
            except OSError:
                pass

    def accept():
        while True:
            try:
                one, _ = listener.accept()
            except OSError:
                return
            threading.Thread(target=answer, args=(one,), daemon=True).start()

    threading.Thread(target=accept, daemon=True).start()
    yield listener.getsockname()[1]
    listener.close()


@pytest.fixture
def relay_to(echo, tmp_path):
    made = []

    def make(**line):
        paths = [{"name": "a--b", "line": line, "targets": [("127.0.0.1", echo), None]}]
        relay = Relay("bench.lab.stream", {"seed": 1, "paths": paths}, tmp_path / "relay.log")
        made.append(relay)
        return relay

    yield make
    for relay in made:
        relay.close()


def connect(relay):
    port = relay.answer["ready"]["a--b"][0]
    found = socket.create_connection(("127.0.0.1", port), PATIENCE_SECONDS)
    found.settimeout(PATIENCE_SECONDS)
    return found


def read(one, size):
    found = b""
    while len(found) < size:
        piece = one.recv(65536)
        assert piece, "closed early"
        found += piece
    return found


def said(one, raw):
    one.sendall(raw)
    return read(one, len(raw))


def test_a_round_trip_takes_its_time_and_changes_nothing(relay_to):
    relay = relay_to(delay_ns=40_000_000)
    # Before the relay can see the connection: its way there begins then.
    begin = time.monotonic()
    with connect(relay) as one:
        assert said(one, b"hello") == b"hello"
        assert time.monotonic() - begin >= 0.160, "the handshake's round trip, and one of its own"
        begin = time.monotonic()
        assert said(one, b"again") == b"again"
        assert time.monotonic() - begin >= 0.080


def test_a_megabyte_comes_back_whole_at_the_bandwidth(relay_to):
    raw = random.Random(1).randbytes(1 << 20)
    with connect(relay_to(delay_ns=1_000_000, bytes_per_second=4e6)) as one:
        begin = time.monotonic()
        sender = threading.Thread(target=one.sendall, args=(raw,), daemon=True)
        sender.start()
        assert read(one, len(raw)) == raw
        assert time.monotonic() - begin >= len(raw) / 4e6
        sender.join()


def test_a_silent_cut_holds_what_is_said_until_the_mend(relay_to):
    relay = relay_to()
    with connect(relay) as one:
        said(one, b"before")
        relay.cut("a--b", is_reset=False)
        relay.stats()
        one.sendall(b"during")
        one.settimeout(0.3)
        with pytest.raises(TimeoutError):
            one.recv(100)
        one.settimeout(PATIENCE_SECONDS)
        relay.mend("a--b")
        assert read(one, 6) == b"during"


def test_a_reset_breaks_connections_until_the_mend(relay_to):
    relay = relay_to()
    with connect(relay) as one:
        said(one, b"before")
        relay.cut("a--b", is_reset=True)
        with pytest.raises(ConnectionResetError):
            assert one.recv(100) != b"", "a clean end is no reset"
        with connect(relay) as other, pytest.raises(ConnectionError):
            other.sendall(b"x")
            assert other.recv(100) != b"", "a clean end is no reset"
    relay.mend("a--b")
    with connect(relay) as one:
        assert said(one, b"after") == b"after"


def test_a_closed_half_is_carried_over(relay_to):
    with connect(relay_to(delay_ns=5_000_000)) as one:
        one.sendall(b"last words")
        one.shutdown(socket.SHUT_WR)
        assert read(one, 10) == b"last words"
        assert one.recv(100) == b""


def test_counts_and_errors_are_told(relay_to):
    relay = relay_to()
    with connect(relay) as one:
        said(one, b"x" * 1000)
        counts = relay.stats()["stats"]["a--b"]
        assert counts["there"]["bytes"] == counts["back"]["bytes"] == 1000
    relay.set("a--b", loss=-1)
    with pytest.raises(RelayFailed, match="loss"):
        relay.stats()


def test_a_relay_that_cannot_start_says_why(tmp_path):
    plan = {"seed": 1, "paths": [{"name": "a", "line": {"colour": 1}, "targets": [None, None]}]}
    with pytest.raises(RelayFailed, match="colour"):
        Relay("bench.lab.stream", plan, tmp_path / "relay.log")
