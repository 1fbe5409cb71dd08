"""The packet relay: carries IP packets between TUN devices in pairs of network namespaces, late, lossy, slow or out of order.

One process for all paths of a lab (`python -m bench.lab.packets`), so that real TCP connections meet a real round trip without
any help of the kernel's traffic control.  Its plan is the first line of its input, orders follow (`bench.lab.orders`).
Invariant: a packet leaves unchanged or not at all.  Tests: tests/unit/bench/lab/test_packets.py (with packets in memory),
tests/interop/test_lab_packets.py (in namespaces; root).
"""

from __future__ import annotations

import errno
import gc
import json
import os
import select
import sys
import time
from collections.abc import Callable
from heapq import heappop, heappush
from typing import Any, Final, final

from bench.lab import tun
from bench.lab.orders import Orders
from bench.lab.way import DROPPED, Line, Way

BATCH_PACKETS: Final = 64
"""Read from one side before the others have their turn."""
IDLE_SECONDS_MAX: Final = 3600.0
_GONE: Final = frozenset({errno.EIO, errno.EINVAL, errno.ENOBUFS, errno.EBADFD})
"""What writing to a device tells that is down or full: the packet is lost, as on a real line."""


@final
class OneWay:
    """Packets from one device to another."""

    __slots__ = ("_read", "_turn", "_write", "from_fd", "refused_count", "to_fd", "waiting", "way")

    def __init__(
        self,
        way: Way,
        from_fd: int,
        to_fd: int,
        read: Callable[[int, int], bytes] = os.read,
        write: Callable[[int, bytes], int] = os.write,
    ) -> None:
        self.way = way
        self.from_fd = from_fd
        self.to_fd = to_fd
        self.waiting: list[tuple[int, int, bytes]] = []
        self.refused_count = 0
        self._turn = 0
        self._read = read
        self._write = write

    def take(self, now_ns: int) -> None:
        """Read what has come, and decide when it leaves."""
        way = self.way
        for _ in range(BATCH_PACKETS):
            try:
                packet = self._read(self.from_fd, tun.PACKET_BYTES_MAX)
            except BlockingIOError:
                return
            due_ns = way.admit(len(packet) - tun.HEADER_BYTES, now_ns)
            if due_ns != DROPPED:
                self._turn += 1
                heappush(self.waiting, (due_ns, self._turn, packet))

    def deliver(self, now_ns: int) -> None:
        """Let out what is due."""
        waiting = self.waiting
        while waiting and waiting[0][0] <= now_ns:
            packet = heappop(waiting)[2]
            try:
                self._write(self.to_fd, packet)
            except OSError as error:
                if error.errno not in _GONE:
                    raise
                self.refused_count += 1
            self.way.release(len(packet) - tun.HEADER_BYTES)

    def drop(self) -> None:
        """Lose all that is in flight."""
        self.way.forget(len(self.waiting))
        self.waiting.clear()


@final
class PacketPath:
    """Both ways between two sites; they share the line's settings but neither chance nor queue."""

    def __init__(self, line: Line, there: OneWay, back: OneWay) -> None:
        self.line = line
        self.there = there
        self.back = back
        self.ways = (there.way, back.way)

    def cut(self, *, is_reset: bool) -> None:
        """Drop what is in flight and what comes.  Connections are reset by the lab (`ss -K`), in the namespaces."""
        self.line.is_cut = True
        self.there.drop()
        self.back.drop()

    def mend(self) -> None:
        """Carry packets again."""
        self.line.is_cut = False


@final
class Carrier:
    """The loop: waits for packets, for the next one due, and for orders."""

    def __init__(self, paths: dict[str, PacketPath], orders: Orders) -> None:
        self._ways = [way for path in paths.values() for way in (path.there, path.back)]
        self._by_fd = {way.from_fd: way for way in self._ways}
        self._orders = orders

    def run(self) -> None:
        """Carry until the orders end."""
        fds = [*self._by_fd, self._orders.fd]
        clock = time.monotonic_ns
        while not self._orders.is_ended:
            readable, _, _ = select.select(fds, [], [], self._nap_seconds(clock()))
            now_ns = clock()
            for fd in readable:
                if fd == self._orders.fd:
                    self._orders.read()
                else:
                    self._by_fd[fd].take(now_ns)
            now_ns = clock()
            for way in self._ways:
                if way.waiting:
                    way.deliver(now_ns)

    def _nap_seconds(self, now_ns: int) -> float:
        """Until the next packet is due."""
        next_ns = min((way.waiting[0][0] for way in self._ways if way.waiting), default=-1)
        if next_ns < 0:
            return IDLE_SECONDS_MAX
        return max(0, next_ns - now_ns) / 1e9


def open_paths(plan: list[dict[str, Any]], seed: int) -> dict[str, PacketPath]:
    """Make the devices of each path of the plan; raises OSError."""
    paths: dict[str, PacketPath] = {}
    for one in plan:
        line = Line(**one["line"])
        name = str(one["name"])
        is_joined = not line.is_by_packet and bool(one.get("is_joined", True))
        ends = [tun.device(ns, dev, is_joined=is_joined) for ns, dev in one["devices"]]
        paths[name] = PacketPath(
            line,
            OneWay(Way(line, f"{seed} {name} there"), ends[0], ends[1]),
            OneWay(Way(line, f"{seed} {name} back"), ends[1], ends[0]),
        )
    return paths


def main() -> int:
    """Read the plan, make the devices, say so, carry packets until the input ends."""
    tun.die_with_parent()
    tun.wake_precisely()
    plan = json.loads(_first_line())
    try:
        paths = open_paths(plan["paths"], int(plan["seed"]))
    except OSError as error:
        print(json.dumps({"error": str(error)}), flush=True)
        return 1
    print(json.dumps({"ready": sorted(paths)}), flush=True)
    # A collection in the middle of a burst would be jitter that nobody asked for; nothing here makes cycles.
    gc.disable()
    Carrier(paths, Orders(0, paths)).run()
    return 0


def _first_line() -> bytes:
    """The plan; read byte by byte, because orders that follow belong to the loop."""
    line = b""
    while not line.endswith(b"\n"):
        piece = os.read(0, 1)
        if not piece:
            break
        line += piece
    return line


if __name__ == "__main__":
    sys.exit(main())
