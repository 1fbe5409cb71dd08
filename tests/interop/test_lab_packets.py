"""The packet relay between real network namespaces: needs root, iproute2 and /dev/net/tun.  Only least times are looked at."""

from __future__ import annotations

import contextlib
import socket
import subprocess
import sys
import threading
import time

import pytest

from bench.lab import namespaces, tun
from bench.lab.namespaces import Namespaces
from bench.lab.relay import Relay
from tests.support.waiting import PATIENCE_SECONDS, wait_until

WHY_NOT = namespaces.objection()
pytestmark = [
    pytest.mark.interop,
    pytest.mark.skipif(WHY_NOT is not None, reason=f"packet relay: {WHY_NOT}"),
]
A, B = "10.77.0.1", "10.77.0.2"
QUIET_SECONDS = 3.0
AGAIN_SECONDS = 1.0
BURST = 100


class Pair:
    """Two namespaces and the line between them."""

    def __init__(self, folder, **line):
        self.namespaces = Namespaces()
        self.relay = None
        try:
            self.a = self.namespaces.add("a", 0)
            self.b = self.namespaces.add("b", 0)
            devices = [(self.a, "wan0"), (self.b, "wan0")]
            paths = [{"name": "a--b", "line": line, "devices": devices}]
            self.relay = Relay("bench.lab.packets", {"seed": 1, "paths": paths}, folder / "r.log")
            self.namespaces.raise_device(self.a, "wan0", A)
            self.namespaces.raise_device(self.b, "wan0", B)
        except BaseException:
            self.close()
            raise

    def close(self):
        if self.relay is not None:
            self.relay.close()
        self.namespaces.close()

    def listen(self):
        with tun.inside(self.b):
            return socket.create_server((B, 0))

    def connect(self, listener):
        with tun.inside(self.a):
            one = socket.create_connection(listener.getsockname(), PATIENCE_SECONDS)
        other, _ = listener.accept()
        other.settimeout(PATIENCE_SECONDS)
        return one, other

    def datagrams(self):
        with tun.inside(self.b):
            receiver = socket.socket(socket.AF_INET, socket.SOCK_DGRAM)
            receiver.setsockopt(socket.SOL_SOCKET, socket.SO_RCVBUF, 4 << 20)
            receiver.bind((B, 0))
        with tun.inside(self.a):
            sender = socket.socket(socket.AF_INET, socket.SOCK_DGRAM)
            sender.connect(receiver.getsockname())
        return sender, receiver


@pytest.fixture
def pair(tmp_path):
    made = []

    def make(**line):
        made.append(Pair(tmp_path, **line))
        return made[-1]

    yield make
    for one in made:
        one.close()


def test_tcp_meets_a_real_round_trip_and_all_its_bytes(pair):
    line = pair(delay_ns=20_000_000)
    raw = bytes(range(256)) * 8192
    with line.listen() as listener:
        begin = time.monotonic()
        one, other = line.connect(listener)
        assert time.monotonic() - begin >= 0.040
        with one, other:
            threading.Thread(target=one.sendall, args=(raw,), daemon=True).start()
            found = b""
            while len(found) < len(raw):
                found += other.recv(1 << 16)
            assert found == raw
    counts = line.relay.stats()["stats"]["a--b"]["there"]
    assert counts["bytes"] > len(raw)
    assert counts["packets"] < len(raw) / 1400, "segments travel joined where nothing is lost"


def sent_and_received(line, count):
    """Numbers sent as datagrams, and those that came, in order; no more at a time than devices and sockets hold."""
    found = []
    sender, receiver = line.datagrams()
    with sender, receiver:
        for start in range(0, count, BURST):
            for number in range(start, min(count, start + BURST)):
                sender.send(b"%d" % number)
            # An end of the burst, again until one comes through: what was sent before it is there, or late by its delay.
            end = b"end %d" % start
            while True:
                sender.send(end)
                receiver.settimeout(AGAIN_SECONDS)
                with contextlib.suppress(TimeoutError):
                    while (got := receiver.recv(2000)) != end:
                        found += [int(got)] if got.isdigit() else []
                    break
        receiver.settimeout(QUIET_SECONDS)
        with contextlib.suppress(TimeoutError):
            while got := receiver.recv(2000):
                found += [int(got)] if got.isdigit() else []
    return found


def test_the_share_of_packets_lost_is_as_told(pair):
    found = sent_and_received(pair(loss=0.2), 1000)
    assert 700 < len(found) < 900
    assert found == sorted(found)


def test_reordering_overtakes_and_loses_nothing(pair):
    line = pair(delay_ns=5_000_000, reorder=0.1, reorder_ns=4_000_000)
    found = sent_and_received(line, 300)
    assert found != sorted(found)
    assert sorted(found) == list(range(300))


def test_nothing_passes_a_cut_line_and_tcp_survives_it(pair):
    line = pair()
    with line.listen() as listener:
        one, other = line.connect(listener)
        with one, other:
            one.sendall(b"before")
            assert other.recv(100) == b"before"
            line.relay.cut("a--b", is_reset=False)
            line.relay.stats()
            one.sendall(b"during")
            other.settimeout(0.4)
            with pytest.raises(TimeoutError):
                other.recv(100)
            other.settimeout(PATIENCE_SECONDS)
            line.relay.mend("a--b")
            assert other.recv(100) == b"during"


def test_leftovers_of_a_crashed_run_are_removed_with_their_processes():
    name = f"{namespaces.PREFIX}999999999-left"
    subprocess.run(["ip", "netns", "add", name], check=True)
    inside = subprocess.Popen(
        [sys.executable, "-m", "bench.lab.inside", name, "sleep", "300"], stdin=subprocess.DEVNULL
    )

    def is_inside():
        return str(inside.pid) in namespaces._ip("netns", "pids", name).split()

    wait_until(is_inside, "the process in its namespace")
    assert name in namespaces.remove_leftovers()
    assert inside.wait(PATIENCE_SECONDS) == -9
    assert not (tun.NAMESPACES / name).exists()


def test_namespaces_of_a_living_run_are_left_alone():
    living = Namespaces()
    try:
        name = living.add("kept", 0)
        script = "from bench.lab.namespaces import remove_leftovers; print(remove_leftovers())"
        done = subprocess.run(
            [sys.executable, "-c", script], capture_output=True, text=True, check=True
        )
        assert name not in done.stdout
        assert (tun.NAMESPACES / name).exists()
    finally:
        living.close()
    assert not (tun.NAMESPACES / name).exists()
