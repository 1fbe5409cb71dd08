"""The load at one site: its producers, consumers and a look at its broker, in one process.

Started by the lab inside the site's namespace (`python -m bench.lab.agent`); plan and orders come as JSON lines, samples and
audits go back.  Rates are open loop: a message's time is when it was due, not when it could be sent, so waiting counts.
A producer never sends a message twice: what was not confirmed when its connection broke stays in doubt.
Tests: tests/unit/bench/lab/test_agent.py, tests/interop/test_lab_run.py.
"""

from __future__ import annotations

import contextlib
import errno
import gc
import json
import math
import os
import selectors
import socket
import sys
import time
from pathlib import Path
from typing import Any, Final, final

from bench.lab.client import Arrivals, Client, Refused, Step, Template
from bench.lab.latency import Latencies
from bench.lab.ledger import Promised, Seen
from bench.lab.probe import Probe

READ_BYTES: Final = 1 << 18
WRITE_BYTES_MAX: Final = 1 << 20
"""Waiting in a connection of ours; a producer sends no more until it is less."""
BATCH_MESSAGES: Final = 200
RECONNECT_SECONDS: Final = 0.2
CONNECT_SECONDS_MAX: Final = 5.0
TICK_SECONDS: Final = 0.002
IDLE_SECONDS: Final = 0.05
SCOUT_SECONDS: Final = 0.3
SCOUTS: Final = 1 << 31
"""Added to a producer's number in messages that only find out whether the way is open; they count nowhere."""
_GOING: Final = frozenset({0, errno.EINPROGRESS, errno.EWOULDBLOCK, errno.EISCONN})


class Role:
    """What one connection is for: a producer, a consumer, or the setting up."""

    body_bytes = 64

    def steps(self) -> list[Step]:
        """What to do after the login."""
        return []

    def promise(self, tag: int, is_multiple: bool, is_taken: bool) -> None:
        """Note the broker's answer to publishes."""

    def arrive(self, client: Client, arrivals: Arrivals, now_ns: int) -> None:
        """Note deliveries."""

    def pump(self, link: Connection, now_ns: int) -> None:
        """Send what is due."""

    def lose(self) -> None:
        """Note that the connection broke."""


@final
class Connection:
    """A socket that is opened again whenever it breaks, and the client on it."""

    def __init__(self, loop: Agent, role: Role) -> None:
        self._loop = loop
        self._role = role
        self._socket: socket.socket | None = None
        self._out: list[bytes] = []
        self._out_bytes = 0
        self._again_at = 0.0
        self._is_open = False
        self.client: Client | None = None
        self.is_wanted = True
        self.loss_count = 0
        self.last_error = ""

    @property
    def is_ready(self) -> bool:
        """Whether messages can go."""
        return self.client is not None and self.client.is_ready

    @property
    def waiting_bytes(self) -> int:
        """Not yet taken by the kernel."""
        return self._out_bytes

    def write(self, raw: bytes) -> None:
        """Send, or keep until the socket takes it."""
        self._out.append(raw)
        self._out_bytes += len(raw)

    def tick(self, now: float) -> None:
        """Connect if that is due; write what waits."""
        if self._socket is None:
            if self.is_wanted and now >= self._again_at:
                self._connect(now)
            return
        if not self._is_open:
            if now > self._again_at:
                self._break("no connection in time", now)
            return
        if self.client is not None and self.client.output:
            for piece in self.client.output:
                self.write(piece)
            self.client.output.clear()
        if self._out:
            self._flush(now)

    def _connect(self, now: float) -> None:
        self._socket = socket.socket()
        self._socket.setblocking(False)
        self._socket.setsockopt(socket.IPPROTO_TCP, socket.TCP_NODELAY, 1)
        self._is_open = False
        self._again_at = now + CONNECT_SECONDS_MAX
        result = self._socket.connect_ex(self._loop.address)
        if result not in _GOING:
            self._break(os.strerror(result), now)
            return
        self._loop.selector.register(
            self._socket, selectors.EVENT_READ | selectors.EVENT_WRITE, self
        )

    def on_event(self, events: int, now: float) -> None:
        """Go on: the socket is connected, readable or writable."""
        if self._socket is None:
            return
        if not self._is_open:
            result = self._socket.getsockopt(socket.SOL_SOCKET, socket.SO_ERROR)
            if result:
                self._break(os.strerror(result), now)
                return
            self._is_open = True
            role = self._role
            self.client = Client(self._loop.login, role.steps(), role.body_bytes, role.promise)
        if events & selectors.EVENT_READ:
            self._read(now)
        self.tick(now)

    def _read(self, now: float) -> None:
        assert self._socket is not None, "it is registered"
        assert self.client is not None, "it is open"
        try:
            piece = self._socket.recv(READ_BYTES)
            if not piece:
                self._break("closed by the broker", now)
                return
            arrivals = self.client.feed(piece)
        except BlockingIOError:
            return
        except (OSError, Refused) as error:
            self._break(str(error), now)
            return
        if arrivals.last_tag:
            self._role.arrive(self.client, arrivals, time.monotonic_ns())

    def _flush(self, now: float) -> None:
        assert self._socket is not None, "it is open"
        raw = b"".join(self._out) if len(self._out) > 1 else self._out[0]
        self._out.clear()
        try:
            sent = self._socket.send(raw)
        except BlockingIOError:
            sent = 0
        except OSError as error:
            self._break(str(error), now)
            return
        self._out_bytes -= sent
        if sent < len(raw):
            self._out.append(raw[sent:])
        wanted = selectors.EVENT_READ | (selectors.EVENT_WRITE if self._out else 0)
        self._loop.selector.modify(self._socket, wanted, self)

    def _break(self, why: str, now: float) -> None:
        if self._socket is not None:
            with contextlib.suppress(KeyError):
                self._loop.selector.unregister(self._socket)
            self._socket.close()
        was_ready = self.is_ready
        self._socket = None
        self.client = None
        self._out.clear()
        self._out_bytes = 0
        self._again_at = now + RECONNECT_SECONDS
        self.last_error = why
        if was_ready:
            self.loss_count += 1
            self._role.lose()

    def close(self) -> None:
        """Hang up for good."""
        self.is_wanted = False
        if self._socket is not None:
            self._break("", 0.0)


@final
class Setup(Role):
    """Declares what the channels need at this broker, then is done."""

    def __init__(self, plan: list[list[Any]]) -> None:
        self._plan = plan

    def steps(self) -> list[Step]:
        found: list[Step] = []
        for name, fields in self._plan:
            found.append((name, tuple(fields)))
        return found


@final
class Producer(Role):
    """One producer, with its account."""

    def __init__(self, plan: dict[str, Any]) -> None:
        self.number = int(plan["number"])
        self.channel = str(plan["channel"])
        self.promised = Promised()
        self.doubt_count = 0
        self.refused_count = 0
        self._rate = float(plan["rate"])
        self._messages = int(plan["messages"])
        self._window = int(plan["window"])
        self._template = Template(
            plan["exchange"], plan["key"], self.number, int(plan["body_bytes"])
        )
        self._scout = Template(
            plan["exchange"], plan["key"], self.number + SCOUTS, int(plan["body_bytes"])
        )
        self._begin_ns = 0
        self._stop_ns = 0
        self._tag_base = 0
        self.answered_ns = 0

    def begin(self, begin_ns: int, stop_ns: int) -> None:
        """Publish between two moments."""
        self._begin_ns = begin_ns
        self._stop_ns = stop_ns

    def halt(self) -> None:
        """Publish no more."""
        self._stop_ns = 0

    def send_scout(self, link: Connection, now_ns: int) -> None:
        """Send a message that counts nowhere; its confirm will be for a sequence before the first."""
        assert not self.promised.next, "scouts go first"
        self._tag_base -= 1
        link.write(self._scout.batch(0, [now_ns]))

    @property
    def is_finished(self) -> bool:
        """Whether all its messages were sent and answered."""
        if self.promised.unconfirmed_count:
            return False
        if self._messages and self.promised.next >= self._messages:
            return True
        now_ns = time.monotonic_ns()
        return now_ns >= self._stop_ns and self._due_count(now_ns) <= 0

    def steps(self) -> list[Step]:
        self._tag_base = self.promised.next - 1
        return [("confirm.select", (False,))]

    def promise(self, tag: int, is_multiple: bool, is_taken: bool) -> None:
        sequence = self._tag_base + tag
        self.answered_ns = time.monotonic_ns()
        if is_taken:
            self.promised.confirm(sequence, is_multiple=is_multiple)
        else:
            before = len(self.promised.refused)
            self.promised.refuse(sequence, is_multiple=is_multiple)
            self.refused_count += len(self.promised.refused) - before

    def lose(self) -> None:
        self.doubt_count += self.promised.unconfirmed_count
        self.promised.lose_connection()

    def pump(self, link: Connection, now_ns: int) -> None:
        promised = self.promised
        while link.is_ready and link.waiting_bytes < WRITE_BYTES_MAX:
            count = min(BATCH_MESSAGES, self._window - promised.unconfirmed_count)
            count = min(count, self._due_count(now_ns))
            if count <= 0:
                return
            first = promised.send(count)
            if self._rate:
                step_ns = 1e9 / self._rate
                times = [self._begin_ns + int((first + one) * step_ns) for one in range(count)]
            else:
                times = [now_ns] * count
            link.write(self._template.batch(first, times))

    def _due_count(self, now_ns: int) -> int:
        """How many may go now."""
        if now_ns < self._begin_ns or not self._stop_ns:
            return 0
        sent = self.promised.next
        left = self._messages - sent if self._messages else BATCH_MESSAGES
        if not self._rate:
            return left if now_ns < self._stop_ns else 0
        until_ns = min(now_ns, self._stop_ns)
        return min(left, math.ceil((until_ns - self._begin_ns) * self._rate / 1e9) - sent)

    def counts(self) -> list[int]:
        """Sent, confirmed, in doubt, refused."""
        promised = self.promised
        answered = promised.next - promised.unconfirmed_count
        confirmed = answered - self.doubt_count - self.refused_count
        return [promised.next, confirmed, self.doubt_count, self.refused_count]


@final
class Inbox:
    """What the consumers of one queue at this site saw, together."""

    def __init__(self, channel: str) -> None:
        self.channel = channel
        self.seen: dict[int, Seen] = {}
        self.corrupt_count = 0
        self.first_ns = 0
        self.last_ns = 0
        self.latencies = Latencies()
        self.scouts: set[int] = set()

    def note(self, arrivals: Arrivals, now_ns: int) -> None:
        """Note what one reading brought."""
        self.corrupt_count += arrivals.corrupt_count
        if any(run[0] >= SCOUTS for run in arrivals.runs):
            self._note_scouts(arrivals, now_ns)
            return
        now = now_ns / 1e9
        self.first_ns = self.first_ns or now_ns
        self.last_ns = now_ns
        for producer, first, stop in arrivals.runs:
            seen = self.seen.get(producer)
            if seen is None:
                seen = self.seen[producer] = Seen()
            seen.note(first, stop, now)
        add = self.latencies.add
        for time_ns, count in arrivals.times:
            add((now_ns - time_ns) // 1000, count)

    def _note_scouts(self, arrivals: Arrivals, now_ns: int) -> None:
        """Take the scouts out; what is left counts, without its latencies, which cannot be told apart."""
        self.scouts |= {run[0] - SCOUTS for run in arrivals.runs if run[0] >= SCOUTS}
        left = Arrivals()
        left.runs = [run for run in arrivals.runs if run[0] < SCOUTS]
        if left.runs:
            self.note(left, now_ns)

    def counts(self) -> list[int]:
        """Arrived (each once), doubled, repeats, disordered, corrupt."""
        all_seen = self.seen.values()
        return [
            sum(one.unique_count for one in all_seen),
            sum(one.doubled_count for one in all_seen),
            sum(one.repeat_count for one in all_seen),
            sum(one.disordered_count for one in all_seen),
            self.corrupt_count,
        ]


@final
class Consumer(Role):
    """One consumer of a queue."""

    def __init__(self, plan: dict[str, Any], inbox: Inbox) -> None:
        self.channel = str(plan["channel"])
        self._queue = str(plan["queue"])
        self._prefetch = int(plan["prefetch"])
        self.body_bytes = int(plan["body_bytes"])
        self._inbox = inbox

    def steps(self) -> list[Step]:
        consume: tuple[Any, ...] = (0, self._queue, "lab", False, False, False, False, {})
        return [("basic.qos", (0, self._prefetch, False)), ("basic.consume", consume)]

    def arrive(self, client: Client, arrivals: Arrivals, now_ns: int) -> None:
        self._inbox.note(arrivals, now_ns)
        client.acknowledge(arrivals.last_tag)

    def lose(self) -> None:
        for seen in self._inbox.seen.values():
            seen.lose_connection()


@final
class Agent:
    """The loop of one site's load."""

    def __init__(self, plan: dict[str, Any]) -> None:
        self.selector = selectors.DefaultSelector()
        self.address = (str(plan["host"]), int(plan["port"]))
        self.login = (str(plan["login"]), str(plan["password"]))
        self._sample_seconds = float(plan["sample"])
        self._producers = [Producer(one) for one in plan["producers"]]
        self._inboxes: dict[str, Inbox] = {}
        self._consumers: list[Consumer] = []
        for one in plan["consumers"]:
            inbox = self._inboxes.setdefault(str(one["queue"]), Inbox(str(one["channel"])))
            self._consumers.append(Consumer(one, inbox))
        self._setup = Connection(self, Setup(plan["declare"]))
        self._publishing = [(Connection(self, one), one) for one in self._producers]
        self._consuming = [Connection(self, one) for one in self._consumers]
        self._connections: list[Connection] = []
        self._begun: list[Connection] = []
        management = int(plan["management"])
        self._probe = Probe(management, self._sample_seconds) if management else None
        self._is_ended = False
        self._is_scouting = False
        self._next_scout = 0.0
        self._waits_for = ""
        self._rest = b""

    def run(self) -> None:
        """Obey and work until the input ends."""
        self.selector.register(0, selectors.EVENT_READ, None)
        next_sample = time.monotonic() + self._sample_seconds
        while not self._is_ended:
            is_paced = any(not one.is_finished for one in self._producers)
            for key, events in self.selector.select(TICK_SECONDS if is_paced else IDLE_SECONDS):
                if key.data is None:
                    self._read_orders()
                else:
                    key.data.on_event(events, time.monotonic())
            now_ns = time.monotonic_ns()
            for connection, producer in self._publishing:
                if connection.is_ready:
                    producer.pump(connection, now_ns)
            now = now_ns / 1e9
            for connection in self._connections:
                connection.tick(now)
            self._tell_when_ready()
            if self._is_scouting and now >= self._next_scout:
                self._next_scout = now + SCOUT_SECONDS
                for connection, producer in self._publishing:
                    if connection.is_ready:
                        producer.send_scout(connection, now_ns)
            if now >= next_sample:
                next_sample = max(next_sample + self._sample_seconds, now)
                self._say(self._sample(now_ns))
        for connection in self._connections:
            connection.close()

    def _read_orders(self) -> None:
        piece = os.read(0, READ_BYTES)
        if not piece:
            self._is_ended = True
            return
        *lines, self._rest = (self._rest + piece).split(b"\n")
        for line in lines:
            self._obey(json.loads(line))

    def _obey(self, order: dict[str, Any]) -> None:
        wanted = order["do"]
        if wanted == "declare":
            self._connections.append(self._setup)
            self._waits_for = "declare"
        elif wanted == "connect":
            self._connections += [one for one, _ in self._publishing]
            self._waits_for = "connect"
        elif wanted == "consume":
            self._begun = [
                one
                for one, role in zip(self._consuming, self._consumers, strict=True)
                if role.channel in order["channels"]
            ]
            self._connections += self._begun
            self._waits_for = "consume"
        elif wanted == "scout":
            self._is_scouting = bool(order["wanted"])
        elif wanted == "call":
            assert self._probe is not None, "only a site with a broker is told"
            self._probe.call(order["method"], order["path"], order["body"])
        elif wanted == "pause":
            self._pause(order["channels"])
        elif wanted == "publish":
            for producer in self._producers:
                producer.begin(int(order["begin_ns"]), int(order["stop_ns"]))
        elif wanted == "halt":
            for producer in self._producers:
                producer.halt()
        elif wanted == "audit":
            Path(order["file"]).write_text(json.dumps(self._audit()))
            self._say({"did": "audit"})

    def _pause(self, channels: list[str]) -> None:
        """Hang up the consumers of these channels until `consume` comes again."""
        for number, role in enumerate(self._consumers):
            if role.channel in channels:
                self._consuming[number].close()
                self._connections.remove(self._consuming[number])
                self._consuming[number] = Connection(self, role)

    def _tell_when_ready(self) -> None:
        waits = {
            "declare": [self._setup],
            "connect": [one for one, _ in self._publishing],
            "consume": self._begun,
        }.get(self._waits_for)
        if waits is not None and all(one.is_ready for one in waits):
            if self._waits_for == "declare":
                self._connections.remove(self._setup)
                self._setup.close()
            self._say({"did": self._waits_for})
            self._waits_for = ""

    def _sample(self, now_ns: int) -> dict[str, Any]:
        told = {one.last_error for one in self._connections}
        if self._probe is not None:
            told.add(self._probe.refusal)
        errors = sorted(told - {""})
        return {
            "sample": {
                "at_ns": now_ns,
                "producers": {str(one.number): one.counts() for one in self._producers},
                "is_finished": all(one.is_finished for one in self._producers),
                "queues": {name: inbox.counts() for name, inbox in self._inboxes.items()},
                "scouts": {name: sorted(one.scouts) for name, one in self._inboxes.items()},
                "latencies": {name: one.latencies.take() for name, one in self._inboxes.items()},
                "broker": self._probe.latest if self._probe is not None else None,
                "losses": sum(one.loss_count for one in self._connections),
                "errors": errors[:5],
                "cpu_seconds": time.process_time(),
            }
        }

    def _audit(self) -> dict[str, Any]:
        return {
            "producers": {
                str(one.number): {"answered_ns": one.answered_ns, **one.promised.as_dict()}
                for one in self._producers
            },
            "queues": {
                name: {
                    "first_ns": inbox.first_ns,
                    "last_ns": inbox.last_ns,
                    "corrupt": inbox.corrupt_count,
                    "seen": {str(number): seen.as_dict() for number, seen in inbox.seen.items()},
                }
                for name, inbox in self._inboxes.items()
            },
        }

    def _say(self, what: dict[str, Any]) -> None:
        sys.stdout.write(json.dumps(what) + "\n")
        sys.stdout.flush()


def main() -> int:
    """Read the plan and work."""
    plan = json.loads(sys.stdin.buffer.raw.readline())  # type: ignore[union-attr]
    gc.freeze()
    with contextlib.suppress(BrokenPipeError, KeyboardInterrupt):
        Agent(plan).run()
    return 0


if __name__ == "__main__":
    sys.exit(main())
