"""The TCP relay: carries the bytes of connections late and slowly, cuts them or lets them hang; runs anywhere.

One process for all paths of a lab (`python -m bench.lab.stream`); plan and orders as for the packet relay.  A connection is
opened at the far side at once, and its first bytes are held for a round trip more, as a handshake would take.  What it cannot
do is lose or reorder: a stream has no packets.  Invariant: bytes of a connection come out complete and in order, or the
connection breaks.  Tests: tests/interop/test_lab_stream.py.
"""

from __future__ import annotations

import contextlib
import gc
import json
import os
import select
import socket
import struct
import sys
import time
from collections import deque
from typing import Any, Final, final

from bench.lab import tun
from bench.lab.orders import Orders
from bench.lab.way import Line, Way

READ_BYTES: Final = 1 << 16
FLOW_BYTES_MAX: Final = 64 << 20
"""Held of one connection in one direction, as a window of TCP would; then its sender waits."""
CONNECTIONS_MAX: Final = 200
IDLE_SECONDS_MAX: Final = 3600.0
_RESET: Final = struct.pack("ii", 1, 0)


@final
class Flow:
    """One direction of one connection."""

    __slots__ = ("held_bytes", "is_ended", "is_shut", "source", "target", "waiting", "way")

    def __init__(self, way: Way, source: socket.socket, target: socket.socket) -> None:
        self.way = way
        self.source = source
        self.target = target
        self.waiting: deque[tuple[int, bytes]] = deque()
        self.held_bytes = 0
        self.is_ended = False
        self.is_shut = False

    @property
    def wants_more(self) -> bool:
        """Whether to read on."""
        return not self.is_ended and self.held_bytes < FLOW_BYTES_MAX

    def take(self, now_ns: int, ready_ns: int) -> None:
        """Read a piece; it leaves no sooner than the connection is open.  Raises OSError."""
        try:
            piece = self.source.recv(READ_BYTES)
        except BlockingIOError:
            return
        if not piece:
            self.is_ended = True
            self.waiting.append((self.way.pace(0, max(now_ns, ready_ns)), b""))
            return
        self.held_bytes += len(piece)
        self.waiting.append((self.way.pace(len(piece), max(now_ns, ready_ns)), piece))

    def deliver(self, now_ns: int) -> bool:
        """Let out what is due; False when the target takes no more now.  Raises OSError."""
        waiting = self.waiting
        while waiting and waiting[0][0] <= now_ns:
            due_ns, piece = waiting.popleft()
            if not piece:
                self.is_shut = True
                self.target.shutdown(socket.SHUT_WR)
                continue
            try:
                sent = self.target.send(piece)
            except BlockingIOError:
                sent = 0
            self.held_bytes -= sent
            if sent:
                self.way.release(sent)
            if sent < len(piece):
                waiting.appendleft((due_ns, piece[sent:]))
                return False
        return True

    def forget(self) -> None:
        """Give back what is held: the connection is gone."""
        self.way.held_bytes -= self.held_bytes
        self.held_bytes = 0
        self.waiting.clear()


@final
class Pair:
    """A connection: the socket that came, the one opened for it, and the two flows."""

    __slots__ = ("back", "came", "opened", "path", "ready_ns", "there")

    def __init__(
        self, path: StreamPath, end: int, came: socket.socket, opened: socket.socket, now_ns: int
    ) -> None:
        self.path = path
        self.came = came
        self.opened = opened
        self.there = Flow(path.ways[end], came, opened)
        self.back = Flow(path.ways[1 - end], opened, came)
        self.ready_ns = now_ns + 2 * path.line.delay_ns

    def close(self, *, is_reset: bool) -> None:
        """Close both sockets."""
        for flow in (self.there, self.back):
            flow.forget()
        for one in (self.came, self.opened):
            with contextlib.suppress(OSError):
                if is_reset:
                    one.setsockopt(socket.SOL_SOCKET, socket.SO_LINGER, _RESET)
            one.close()


@final
class StreamPath:
    """A path: a listener for each end, which stands for the other site's broker."""

    def __init__(
        self, line: Line, ways: tuple[Way, Way], targets: list[tuple[str, int] | None]
    ) -> None:
        self.line = line
        self.ways = ways
        self.targets = targets
        self.listeners = [_listener() if target is not None else None for target in targets]
        self.pairs: list[Pair] = []
        self.is_refusing = False

    def cut(self, *, is_reset: bool) -> None:
        """Hold everything; `is_reset`: break what is open, and what comes."""
        self.line.is_cut = True
        self.is_refusing = is_reset
        if is_reset:
            self.drop_all()

    def mend(self) -> None:
        """Carry again; what was held comes out."""
        self.line.is_cut = False
        self.is_refusing = False

    def drop_all(self) -> None:
        """Break all connections."""
        for pair in self.pairs:
            pair.close(is_reset=True)
        self.pairs.clear()

    def accept(self, end: int, now_ns: int) -> None:
        """Take a connection at one end, and open one to the broker of the other."""
        listener = self.listeners[end]
        target = self.targets[end]
        assert listener is not None, "it was readable"
        assert target is not None, "it has a listener"
        try:
            came, _ = listener.accept()
        except OSError:
            return
        if self.is_refusing or len(self.pairs) >= CONNECTIONS_MAX:
            came.setsockopt(socket.SOL_SOCKET, socket.SO_LINGER, _RESET)
            came.close()
            return
        opened = socket.socket()
        for one in (came, opened):
            one.setblocking(False)
            one.setsockopt(socket.IPPROTO_TCP, socket.TCP_NODELAY, 1)
        opened.connect_ex(target)
        self.pairs.append(Pair(self, end, came, opened, now_ns))


def _listener() -> socket.socket:
    listener = socket.socket()
    listener.bind(("127.0.0.1", 0))
    listener.listen(64)
    listener.setblocking(False)
    return listener


Readable = tuple[StreamPath, int, Pair | None, Flow | None]
"""What a descriptor belongs to: a path and the end whose listener it is, or a connection and its flow."""


@final
class Streams:
    """The loop: accepts, reads, and writes when things are due."""

    def __init__(self, paths: dict[str, StreamPath], orders: Orders) -> None:
        self._paths = list(paths.values())
        self._orders = orders
        self._is_full: set[Flow] = set()

    def run(self) -> None:
        """Carry until the orders end."""
        clock = time.monotonic_ns
        while not self._orders.is_ended:
            readers, writers = self._interests()
            nap = self._nap_seconds(clock())
            readable, writable, _ = select.select(
                [self._orders.fd, *readers], [flow.target.fileno() for flow in writers], [], nap
            )
            for flow in writers:
                if flow.target.fileno() in writable:
                    self._is_full.discard(flow)
            for one in readable:
                if one == self._orders.fd:
                    self._orders.read()
                else:
                    self._on_readable(readers[one], clock())
            self._deliver(clock())

    def _interests(
        self,
    ) -> tuple[dict[int, Readable], list[Flow]]:
        readers: dict[int, Readable] = {}
        writers: list[Flow] = []
        for path in self._paths:
            if path.line.is_cut and not path.is_refusing:
                continue
            for end, listener in enumerate(path.listeners):
                if listener is not None:
                    readers[listener.fileno()] = (path, end, None, None)
            for pair in path.pairs:
                for flow in (pair.there, pair.back):
                    if flow.wants_more:
                        readers[flow.source.fileno()] = (path, 0, pair, flow)
                    if flow in self._is_full:
                        writers.append(flow)
        return readers, writers

    def _nap_seconds(self, now_ns: int) -> float:
        next_ns = min(
            (
                flow.waiting[0][0]
                for path in self._paths
                if not path.line.is_cut
                for pair in path.pairs
                for flow in (pair.there, pair.back)
                if flow.waiting and flow not in self._is_full
            ),
            default=-1,
        )
        return IDLE_SECONDS_MAX if next_ns < 0 else max(0, next_ns - now_ns) / 1e9

    def _on_readable(self, what: Readable, now_ns: int) -> None:
        path, end, pair, flow = what
        if pair is None or flow is None:
            path.accept(end, now_ns)
            return
        if pair not in path.pairs:
            return
        try:
            flow.take(now_ns, pair.ready_ns)
        except OSError:
            self._drop(path, pair)

    def _deliver(self, now_ns: int) -> None:
        for path in self._paths:
            if path.line.is_cut:
                continue
            for pair in list(path.pairs):
                try:
                    for flow in (pair.there, pair.back):
                        if flow.waiting and flow not in self._is_full and not flow.deliver(now_ns):
                            self._is_full.add(flow)
                except OSError:
                    self._drop(path, pair)
                    continue
                if pair.there.is_shut and pair.back.is_shut:
                    self._drop(path, pair)

    def _drop(self, path: StreamPath, pair: Pair) -> None:
        """The connection is over: closed by both sides, or broken, which then breaks the other half too."""
        is_clean = pair.there.is_shut and pair.back.is_shut
        self._is_full -= {pair.there, pair.back}
        pair.close(is_reset=not is_clean)
        path.pairs.remove(pair)


def open_paths(plan: list[dict[str, Any]], seed: int) -> dict[str, StreamPath]:
    """Listen for each path of the plan; `targets` are the addresses of the other side, as seen from each end."""
    paths: dict[str, StreamPath] = {}
    for one in plan:
        line = Line(**one["line"])
        name = str(one["name"])
        ways = (Way(line, f"{seed} {name} there"), Way(line, f"{seed} {name} back"))
        targets = [None if not t else (str(t[0]), int(t[1])) for t in one["targets"]]
        paths[name] = StreamPath(line, ways, targets)
    return paths


def main() -> int:
    """Read the plan, listen, say where, carry until the input ends."""
    tun.die_with_parent()
    tun.wake_precisely()
    plan = json.loads(sys.stdin.buffer.raw.readline())  # type: ignore[union-attr]
    paths = open_paths(plan["paths"], int(plan["seed"]))
    ports = {
        name: [one.getsockname()[1] if one is not None else 0 for one in path.listeners]
        for name, path in paths.items()
    }
    print(json.dumps({"ready": ports}), flush=True)
    gc.freeze()
    os.set_blocking(0, False)
    Streams(paths, Orders(0, paths)).run()
    for path in paths.values():
        path.drop_all()
    return 0


if __name__ == "__main__":
    sys.exit(main())
