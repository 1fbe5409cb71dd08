from __future__ import annotations

import errno
import json
import os

import pytest

from bench.lab.orders import Orders
from bench.lab.packets import OneWay, PacketPath
from bench.lab.tun import HEADER_BYTES
from bench.lab.way import Line, Way

MS = 1_000_000


class Devices:
    """Two devices in memory."""

    def __init__(self):
        self.incoming = []
        self.outgoing = []
        self.failure = 0

    def read(self, fd, size):
        if not self.incoming:
            raise BlockingIOError
        return self.incoming.pop(0)

    def write(self, fd, packet):
        if self.failure:
            raise OSError(self.failure, "device")
        self.outgoing.append(packet)
        return len(packet)


def one_way(line, seed="1"):
    devices = Devices()
    return OneWay(Way(line, seed), 1, 2, devices.read, devices.write), devices


def packet(number, size=100):
    return bytes(HEADER_BYTES) + number.to_bytes(4, "big") + bytes(size - 4)


def test_packets_come_out_unchanged_when_they_are_due():
    way, devices = one_way(Line(delay_ns=10 * MS))
    sent = [packet(one) for one in range(5)]
    devices.incoming = list(sent)
    way.take(0)
    way.deliver(9 * MS)
    assert devices.outgoing == []
    way.deliver(10 * MS)
    assert devices.outgoing == sent
    counts = way.way.counts()
    assert (counts["packets"], counts["bytes"], counts["held_bytes"]) == (5, 500, 0)


def test_the_order_is_kept_at_equal_times():
    way, devices = one_way(Line(jitter_ns=5 * MS))
    devices.incoming = [packet(one) for one in range(60)]
    sent = list(devices.incoming)
    way.take(0)
    way.deliver(20 * MS)
    assert devices.outgoing == sent


def test_reordering_changes_the_order_and_loses_nothing():
    way, devices = one_way(Line(delay_ns=10 * MS, reorder=0.2, reorder_ns=5 * MS))
    sent = [packet(one) for one in range(60)]
    for number, one in enumerate(sent):
        devices.incoming = [one]
        way.take(number * MS)
    for number in range(100):
        way.deliver(number * MS)
    assert devices.outgoing != sent
    assert sorted(devices.outgoing) == sent


@pytest.mark.parametrize("number", [errno.EIO, errno.ENOBUFS])
def test_a_device_that_is_down_loses_the_packet_and_goes_on(number):
    way, devices = one_way(Line())
    devices.incoming = [packet(1)]
    devices.failure = number
    way.take(0)
    way.deliver(1)
    assert way.refused_count == 1
    assert way.way.held_bytes == 0


def test_a_cut_drops_what_is_in_flight():
    line = Line(delay_ns=MS)
    there, devices = one_way(line)
    back, _ = one_way(line, "2")
    path = PacketPath(line, there, back)
    devices.incoming = [packet(1)]
    there.take(0)
    path.cut(is_reset=False)
    there.deliver(10 * MS)
    devices.incoming = [packet(2)]
    there.take(10 * MS)
    path.mend()
    devices.incoming = [packet(3)]
    there.take(20 * MS)
    there.deliver(30 * MS)
    assert devices.outgoing == [packet(3)]
    assert there.way.counts()["cut"] == 2


def test_orders_reach_their_path():
    line = Line()
    path = PacketPath(line, one_way(line)[0], one_way(line, "2")[0])
    answers = []
    read_fd, write_fd = os.pipe()
    try:
        orders = Orders(read_fd, {"a--b": path}, answers.append)
        for order in (
            {"path": "a--b", "set": {"delay_ns": 5.0}},
            {"path": "a--b", "cut": "silent"},
            {"path": "x", "cut": "silent"},
            {"path": "a--b", "set": {"colour": 1.0}},
            {"path": "a--b", "dance": True},
            {"stats": True},
        ):
            raw = json.dumps(order).encode() + b"\n"
            os.write(write_fd, raw[:9])
            orders.read()
            os.write(write_fd, raw[9:])
            orders.read()
        assert (line.delay_ns, line.is_cut) == (5, True)
        assert [next(iter(json.loads(one))) for one in answers] == ["error"] * 3 + ["stats"]
        orders.obey({"path": "a--b", "mend": True})
        assert not line.is_cut
        os.close(write_fd)
        write_fd = -1
        orders.read()
        assert orders.is_ended
    finally:
        os.close(read_fd)
        if write_fd >= 0:
            os.close(write_fd)
