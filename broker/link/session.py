"""One connection between two of ours (or several that act as one): both ends, both directions.

Sans-I/O like the client sessions: bytes in, bytes out, clock by argument.  After the greeting (`greeting.py`) who dials opens the
streams; for each stream one end is an `Outflow`, the other an `Inflow`.  Order of a stream's beginning: START (sender: which queue,
which claim), RESUME (receiver: what is applied, on stable storage), BEGIN (sender: known or a new stream), then batches one
way, acknowledgements the other.  Further connections of the same link (`Strand`) carry frames of the same sequence.
Batches are made only when a socket can take them (`outgoing.py`).  Tests: tests/unit/broker/link/test_session.py,
tests/property/test_link_network.py.
"""

from __future__ import annotations

import logging
from collections.abc import Callable
from typing import TYPE_CHECKING, Any, Final, final

from broker.errors import BrokerError, ProtocolViolation
from broker.link import frames
from broker.link.demand import merged
from broker.link.end import SILENCE_FACTOR, TEXT_MAX, LinkEnd
from broker.link.frames import FrameParser, Order, pack, unpack
from broker.link.greeting import Greeting, check_first
from broker.link.inflow import Inflow
from broker.link.outflow import Outflow
from broker.link.outgoing import Allowance, Outgoing
from broker.link.packing import Packing
from broker.link.streams import accept, describe_open, open_near

if TYPE_CHECKING:
    from broker.clock import Clock
    from broker.link.ports import Authenticate, Identity, Wake
    from broker.link.settings import LinkSettings
    from broker.link.strand import Strand
    from broker.link.table import LinkTable

log = logging.getLogger(__name__)

LOGIN_SECONDS: Final = 10.0
STREAMS_MAX: Final = 1000


@final
class LinkSession(LinkEnd[Inflow]):
    """One end of a link.  `settings` None: the accepting end."""

    def __init__(
        self,
        table: LinkTable,
        clock: Clock,
        wake: Wake,
        token: bytes,
        *,
        settings: LinkSettings | None = None,
        authenticate: Authenticate | None = None,
        on_ended: Callable[[str], None] | None = None,
        peer: str = "",
    ) -> None:
        name, window_bytes, heartbeat_seconds, rate_bytes = "?", 64 << 20, 5.0, 0
        if settings is not None:
            name, window_bytes = settings.name, settings.window_bytes
            heartbeat_seconds, rate_bytes = settings.heartbeat_seconds, settings.rate_bytes
        super().__init__(table, clock, wake, name, window_bytes, peer, on_ended)
        self.settings = settings
        self.is_dialer = settings is not None
        self.token = token
        self.heartbeat_seconds = heartbeat_seconds
        self.strands: list[Strand] = []
        self.packing = Packing()
        self.outgoing = Outgoing(Allowance(clock, rate_bytes), self.packing)
        self._greeting = Greeting(self, authenticate)
        self._parser = FrameParser()
        self._order = Order()
        self._told_reason: str | None = None
        self._pinged_at = self._began_at
        if settings is not None:
            self.is_in_clear = settings.tls is None
            self._greeting.say_hello(settings)

    @property
    def key(self) -> str:
        """What tells this link from others at this broker: names are given by who dials."""
        return self.name if self.is_dialer else f"{self.name}@{self.peer_id.hex()[:8]}"

    @property
    def identity(self) -> Identity | None:
        """The user that the accepting end has let in."""
        return self._greeting.identity

    @property
    def compression(self) -> str:
        """How batches are compressed, where they are."""
        return self.packing.describe()

    def come_up(self) -> None:
        """The greeting is over."""
        self.is_up = True
        self.up_at_ms = self.broker.now_ms
        self._parser.bytes_max = frames.FRAME_BYTES_MAX
        self.table.enter(self)
        self._ping()
        log.info("link %s: up with %s (%s)", self.name, self.peer_name, self.peer)

    # Bytes in

    def receive_data(self, received: bytes) -> None:
        """Take bytes of this connection."""
        self._heard_at = self.clock.now()
        self.received_bytes += len(received)
        if self.is_closing:
            return
        if self.is_holding:
            self._greeting.hold(received)
            return
        self.attempt(self._take, received)

    def _take(self, received: bytes) -> None:
        if not self.is_dialer:
            received = self._greeting.take_opening(received)
        elif self.received_bytes == len(received):
            check_first(received)
        for frame in self._parser.feed(received):
            self.take_frame(frame)

    def take_frame(self, frame: frames.Frame) -> None:
        """Take a frame of any of the connections; raises what `receive_data` catches."""
        for kind, _, payload in self._order.take(frame):
            if kind & frames.PACKED:
                payload = self.packing.codec.expand(payload)
            self._frame(kind & ~frames.PACKED, unpack(payload))

    def _frame(self, kind: int, said: Any) -> None:
        if kind == frames.BATCH:
            self._inflow(said[0]).take(said[1])
        elif kind == frames.ACKNOWLEDGED:
            self._outflow(said[0]).acknowledged(said[1])
        elif kind == frames.HELLO:
            self._greeting.hello(said)
        elif kind == frames.WELCOME:
            self._greeting.welcome(said)
            self._open_streams()
        elif kind == frames.REFUSED:
            self._refused(said)
        elif not self.is_up:
            raise ProtocolViolation(f"{frames.KINDS.get(kind, kind)} before the greeting")
        elif kind == frames.PING:
            self.send(frames.PONG, said)
        elif kind == frames.PONG:
            self.round_trip_ms = (self.clock.now() - float(said)) * 1000.0
        elif kind == frames.BLOCKED:
            self.set_far_reason(str(said)[:TEXT_MAX])
        else:
            self._stream_frame(kind, said)

    def _stream_frame(self, kind: int, said: Any) -> None:
        if kind == frames.OPEN:
            self._open(said)
        elif kind == frames.START:
            self._inflow(said[0]).start(int(said[1]), str(said[2])[:64], bool(said[3]))
        elif kind == frames.RESUME:
            self._outflow(said[0]).resume(said[1])
        elif kind == frames.BEGIN:
            self._inflow(said[0]).begin(bool(said[1]))
        elif kind == frames.SETTLED:
            self._inflow(said[0]).settled(said[1])
        elif kind == frames.DEMAND:
            number, is_first, added, removed = said
            linked = self._outflow(number).linked
            linked.set_wanted(merged({} if is_first else linked.wanted, (added, removed)))
        elif kind == frames.WANTED:
            outflow = self._outflow(said[0])
            if outflow.linked.is_shared and outflow.is_on_demand:
                outflow.set_wanted(bool(said[1]))
        elif kind == frames.FORGET:
            self._forget(int(said))
        else:
            raise ProtocolViolation(f"a frame of the unknown kind {kind}")

    def _outflow(self, number: int) -> Outflow:
        found = self.outflows.get(number)
        if found is None:
            raise ProtocolViolation(f"stream {number} is not sent from here")
        return found

    def _inflow(self, number: int) -> Inflow:
        found = self.inflows.get(number)
        if found is None:
            raise ProtocolViolation(f"stream {number} is not received here")
        return found

    def _open(self, said: dict[str, Any]) -> None:
        """The accepting end: a stream, if the user has the rights."""
        number = int(said["stream"])
        if self.is_dialer or len(self.outflows) + len(self.inflows) >= STREAMS_MAX:
            raise ProtocolViolation("streams are opened by who dials, and not that many")
        try:
            flow = accept(self, number, said)
        except BrokerError as error:
            log.warning("link %s from %s: %s", self.name, self.peer, error.text)
            self.send(frames.REFUSED, [number, error.text])
            return
        self._begin(number, flow)

    def _open_streams(self) -> None:
        """The dialing end: all streams of its configuration."""
        assert self.settings is not None, "the dialing end has settings"
        for number, stream in enumerate(self.settings.streams):
            try:
                flow = open_near(self, number, stream)
            except BrokerError as error:
                self.stream_ended(number, f"{stream.name}: {error.text}")
                continue
            self.send(frames.OPEN, describe_open(self, number, stream))
            self._begin(number, flow)

    def _begin(self, number: int, flow: Outflow | Inflow) -> None:
        if isinstance(flow, Outflow):
            self.outflows[number] = flow
            flow.start()
        else:
            self.inflows[number] = flow

    def _refused(self, said: Any) -> None:
        number, text = said
        text = str(text)[:TEXT_MAX]
        if number is None:
            self.fail(f"the far side refused: {text}", is_told=False)
            return
        self.stream_ended(number, text)

    def forget_stream(self, number: int) -> None:
        """The dialing end gives a stream up for good, at both ends."""
        self.send(frames.FORGET, number)
        self._end_stream(number)

    def _end_stream(self, number: int) -> Outflow | None:
        inflow = self.inflows.pop(number, None)
        if inflow is not None:
            inflow.end()
        outflow = self.outflows.pop(number, None)
        if outflow is not None:
            outflow.end()
        return outflow

    def _forget(self, number: int) -> None:
        """The dialing end took the stream out of its configuration: what was kept for it goes."""
        outflow = self._end_stream(number)
        if outflow is not None:
            self.table.give_up(outflow.linked)

    # Bytes out

    def send(self, kind: int, value: object) -> None:
        """Have a frame sent before all batches that wait."""
        self.outgoing.add(kind, pack(value))
        self._wake(self)

    def output(self) -> list[bytes]:
        """Control frames, then batches while the socket takes them."""
        made = self.outgoing.take_control()
        if self._is_writable and not self.is_closing:
            self.outgoing.take_batches(list(self.outflows.values()), made)
            if self._is_writable and self._has_ready() and self.outgoing.allowance.left(1) > 0:
                self._wake(self)
        self.sent_bytes += sum([len(one) for one in made])
        return made

    def strand_output(self, strand: Strand) -> list[bytes]:
        """Batches for one of the further connections."""
        made: list[bytes] = []
        self.outgoing.take_batches(list(self.outflows.values()), made)
        self.sent_bytes += sum([len(one) for one in made])
        return made

    def _has_ready(self) -> bool:
        return any(one.has_ready for one in self.outflows.values())

    def set_writable(self, is_writable: bool) -> None:
        """False while the socket's buffer is full."""
        self._is_writable = is_writable
        if is_writable:
            self._wake(self)
        else:
            self.packing.is_pressed = True

    # The turn

    def end_turn(self, commit: int) -> bool:
        """Everything done in this turn is in commit number `commit`: either side of a link waits for it."""
        for outflow in self.outflows.values():
            outflow.end_turn(commit)
        for inflow in self.inflows.values():
            inflow.end_turn(commit)
        return True

    def on_durable(self, commit: int) -> None:
        """All commits up to this number are on stable storage and passed the guard."""
        for inflow in self.inflows.values():
            inflow.on_durable(commit)
        has_ready = False
        for outflow in self.outflows.values():
            outflow.on_durable(commit)
            has_ready = has_ready or outflow.has_ready
        if has_ready:
            for strand in self.strands:
                strand.wake_up()

    @property
    def is_holding(self) -> bool:
        """True while a login is being checked."""
        return self._greeting.is_holding

    def look(self) -> None:
        """Tell the far side what has changed in what is wanted here."""
        if self.is_up and not self.is_closing:
            for inflow in self.inflows.values():
                inflow.look()
            if self.outgoing.allowance.rate_bytes and self._has_ready():
                # It waited for its allowance.
                self._wake(self)

    # Waiting for memory or disk

    def set_blocked(self, reason: str | None) -> bool:
        """Tell the far side to wait; what it has sent already is taken."""
        if reason != self._told_reason and self.is_up:
            self._told_reason = reason
            self.send(frames.BLOCKED, reason or "")
        return True

    # Time

    def _ping(self) -> None:
        now = self.clock.now()
        self._pinged_at = now
        self.send(frames.PING, now)

    def tick(self, now: float) -> None:
        """Send a heart-beat, or give up on a silent peer or a late login."""
        if self.is_closing:
            return
        if not self.is_up:
            if now >= self._began_at + LOGIN_SECONDS:
                self.fail("no greeting came in time")
            return
        heard_at = max([self._heard_at, *(one.heard_at for one in self.strands)])
        silence = self.heartbeat_seconds * SILENCE_FACTOR
        if now >= heard_at + silence:
            self.fail(f"nothing was heard for {silence:g} s")
        elif now >= self._pinged_at + self.heartbeat_seconds:
            self._ping()

    def next_deadline(self) -> float | None:
        """When `tick` is due."""
        if self.is_closing:
            return None
        if not self.is_up:
            return self._began_at + LOGIN_SECONDS
        return self._pinged_at + self.heartbeat_seconds

    # Ending

    def fail(self, text: str, *, is_told: bool = True) -> None:
        """End the connection for a reason, and tell it to the far side unless that gave it."""
        if is_told and not self.is_closing:
            self.send(frames.REFUSED, [None, text[:TEXT_MAX]])
        super().fail(text, is_told=is_told)

    def _end_flows(self) -> None:
        outflows, self.outflows = self.outflows, {}
        inflows, self.inflows = self.inflows, {}
        for outflow in outflows.values():
            outflow.end()
        for inflow in inflows.values():
            inflow.end()
        strands, self.strands = self.strands, []
        for strand in strands:
            strand.is_closing = True
            strand.wake_up()

    def shutdown(self, text: str) -> None:
        """The broker stops."""
        self.fail(text)

    def recheck(self) -> None:
        """Accounts changed: the far side's user may not be here any more."""
        objection = self._greeting.objection()
        if objection:
            self.fail(objection)
