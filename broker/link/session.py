"""One connection between two of ours (or several that act as one): both ends, both directions.

Sans-I/O like the client sessions: bytes in, bytes out, clock by argument.  Who dials says HELLO and opens the streams; for
each stream one end is an `Outflow`, the other an `Inflow`.  Order of a stream's beginning: START (sender: which queue,
which claim), RESUME (receiver: what is applied, on stable storage), BEGIN (sender: known or a new stream), then batches one
way, acknowledgements the other.  Further connections of the same link (`Strand`) carry frames of the same sequence.
Batches are made only when a socket can take them.  Tests: tests/unit/broker/link/test_session.py,
tests/property/test_link_network.py.
"""

from __future__ import annotations

import logging
from collections import deque
from collections.abc import Callable
from typing import TYPE_CHECKING, Any, Final, final

from broker.errors import AccessRefused, BrokerError, ProtocolViolation
from broker.link import frames
from broker.link.demand import merged
from broker.link.end import OUTPUT_BYTES, SILENCE_FACTOR, TEXT_MAX, LinkEnd
from broker.link.frames import FrameParser, Order, encode, pack, unpack
from broker.link.inflow import Inflow
from broker.link.outflow import Outflow
from broker.link.packing import Codec, Zlib, choose_codec, known_codecs, make_codec
from broker.link.ports import LINK_TAGS
from broker.link.streams import accept, describe_open, open_near

if TYPE_CHECKING:
    from broker.clock import Clock
    from broker.link.ports import Authenticate, Identity, Login, Wake
    from broker.link.settings import LinkSettings
    from broker.link.strand import Strand
    from broker.link.table import LinkTable

log = logging.getLogger(__name__)

PACK_BYTES_MIN: Final = 512
TRY_AGAIN_BATCHES: Final = 64
"""How often compression is tried anew when it was not worth it."""
LOGIN_SECONDS: Final = 10.0
TLS_ALERT: Final = b"\x15\x03"
"""What a TLS listener answers to bytes in the clear begins so."""
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
        name, window_bytes, heartbeat_seconds = "?", 64 << 20, 5.0
        if settings is not None:
            name, window_bytes = settings.name, settings.window_bytes
            heartbeat_seconds = settings.heartbeat_seconds
        super().__init__(table, clock, wake, name, window_bytes, peer, on_ended)
        self.settings = settings
        self.is_dialer = settings is not None
        self.token = token
        self.identity: Identity | None = None
        self.strands: list[Strand] = []
        self.packing = "none"
        self._codec: Codec = Zlib()
        self._is_pressed = False
        self._is_worth_packing = True
        self._batch_count = 0
        self._authenticate = authenticate
        self._login: Login | None = None
        self._parser = FrameParser()
        self._order = Order()
        self._greeting = b"" if self.is_dialer else frames.OPENING
        self._held: list[bytes] = []
        self._control: deque[tuple[int, bytes]] = deque()
        self._sequence = 0
        self._told_reason: str | None = None
        self._heartbeat_seconds = heartbeat_seconds
        self._pinged_at = self._began_at
        self._allowance = 0.0
        self._allowance_at = self._began_at
        if settings is not None:
            self.is_in_clear = settings.tls is None
            self._say_hello(settings)

    @property
    def key(self) -> str:
        """What tells this link from others at this broker: names are given by who dials."""
        return self.name if self.is_dialer else f"{self.name}@{self.peer_id.hex()[:8]}"

    # Greeting

    def _say_hello(self, settings: LinkSettings) -> None:
        self._control.append((-1, frames.OPENING))
        self.send(
            frames.HELLO,
            {
                "id": self.table.id,
                "name": self.table.name,
                "link": settings.name,
                "user": settings.user,
                "password": settings.password,
                "token": self.token,
                "window": settings.window_bytes,
                "heartbeat": settings.heartbeat_seconds,
                "packs": settings.compression,
                "codecs": known_codecs(),
            },
        )
        self.packing = settings.compression

    def _hello(self, said: dict[str, Any]) -> None:
        """The accepting end: find out who dials."""
        if self.is_dialer or self._login is not None:
            raise ProtocolViolation("a second greeting")
        self.peer_id = _bytes_of(said, "id", 16)
        self.peer_name = _text_of(said, "name")
        self.name = _text_of(said, "link")
        self.token = _bytes_of(said, "token", 16)
        self.window_bytes = min(max(int(said["window"]), 64 << 10), 1 << 30)
        self._heartbeat_seconds = min(max(float(said["heartbeat"]), 0.1), 3600.0)
        self.packing = _text_of(said, "packs")
        self._codec = make_codec(choose_codec(said.get("codecs")))
        if self.peer_id == self.table.id:
            raise ProtocolViolation("a link to oneself: the two brokers have the same store id")
        assert self._authenticate is not None, "the accepting end knows accounts"
        login = self._authenticate(
            _text_of(said, "user"), _text_of(said, "password"), self.certificate
        )
        self._login = login
        if login.is_settled:
            self._logged_in()
        else:
            login.on_settled = self._settled_later

    def _settled_later(self) -> None:
        if self.is_closing:
            return
        try:
            self._logged_in()
        except BrokerError as error:
            self.fail(error.text)
            return
        held, self._held = self._held, []
        for received in held:
            self.receive_data(received)
        self.wake_up()

    def _logged_in(self) -> None:
        assert self._login is not None, "called when the login is settled"
        identity = self._login.identity()
        if not any(tag in LINK_TAGS for tag in identity.tags):
            raise AccessRefused(f"user '{identity.name}' may not open links: it lacks the tag link")
        self.identity = identity
        self.send(
            frames.WELCOME,
            {"id": self.table.id, "name": self.table.name, "codec": self.codec_name},
        )
        self._come_up()

    def _welcome(self, said: dict[str, Any]) -> None:
        """The dialing end: the far side has let us in; open the streams."""
        if not self.is_dialer or self.is_up:
            raise ProtocolViolation("a second welcome")
        self.peer_id = _bytes_of(said, "id", 16)
        self.peer_name = _text_of(said, "name")
        if self.peer_id == self.table.id:
            raise ProtocolViolation("a link to oneself: the far side has the same store id")
        self._codec = make_codec(said["codec"])
        self._come_up()
        assert self.settings is not None, "the dialing end has settings"
        for number, stream in enumerate(self.settings.streams):
            try:
                flow = open_near(self, number, stream)
            except BrokerError as error:
                self.stream_ended(number, f"{stream.name}: {error.text}")
                continue
            self.send(frames.OPEN, describe_open(self, number, stream))
            if isinstance(flow, Outflow):
                self.outflows[number] = flow
                flow.start()
            else:
                self.inflows[number] = flow

    @property
    def codec_name(self) -> str:
        """What both ends agreed on, used or not."""
        return self._codec.name

    @property
    def compression(self) -> str:
        """How batches are compressed, where they are."""
        return "none" if self.packing == "none" else f"{self.packing}, {self.codec_name}"

    def _come_up(self) -> None:
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
            self._held.append(received)
            return
        try:
            if self._greeting:
                received = self._opened(received)
            elif self.is_dialer and self.received_bytes == len(received):
                _look_at_first(received)
            for frame in self._parser.feed(received):
                self.take_frame(frame)
        except BrokerError as error:
            self.fail(error.text)
        except (TypeError, ValueError, KeyError, IndexError) as error:
            self.fail(f"a frame that makes no sense: {error!r}")

    def _opened(self, received: bytes) -> bytes:
        """Take the opening bytes off; raises ProtocolViolation."""
        rest = self._greeting
        count = min(len(rest), len(received))
        if received[:count] != rest[:count]:
            raise ProtocolViolation("this is not a link of a version that is spoken here")
        self._greeting = rest[count:]
        return received[count:]

    def take_frame(self, frame: frames.Frame) -> None:
        """Take a frame of any of the connections; raises what `receive_data` catches."""
        for kind, _, payload in self._order.take(frame):
            if kind & frames.PACKED:
                payload = self._codec.expand(payload)
            self._frame(kind & ~frames.PACKED, unpack(payload))

    def _frame(self, kind: int, said: Any) -> None:
        if kind == frames.BATCH:
            self._inflow(said[0]).take(said[1])
        elif kind == frames.ACKNOWLEDGED:
            self._outflow(said[0]).acknowledged(said[1])
        elif kind == frames.HELLO:
            self._hello(said)
        elif kind == frames.WELCOME:
            self._welcome(said)
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
        self._control.append((kind, pack(value)))
        self._wake(self)

    def output(self) -> list[bytes]:
        """Control frames, then batches while the socket takes them."""
        made: list[bytes] = []
        control = self._control
        while control:
            kind, payload = control.popleft()
            made.append(payload if kind < 0 else self._encoded(kind, payload))
        if self._is_writable and not self.is_closing:
            self._take_batches(made)
            if self._is_writable and self._has_ready() and self._allowed(1) > 0:
                self._wake(self)
        self.sent_bytes += sum([len(one) for one in made])
        return made

    def strand_output(self, strand: Strand) -> list[bytes]:
        """Batches for one of the further connections."""
        made: list[bytes] = []
        self._take_batches(made)
        self.sent_bytes += sum([len(one) for one in made])
        return made

    def _has_ready(self) -> bool:
        return any(one.has_ready for one in self.outflows.values())

    def _take_batches(self, made: list[bytes]) -> None:
        """Take batches of all streams in turn, up to what is written at a time and allowed by the rate."""
        left = self._allowed(OUTPUT_BYTES)
        flows = list(self.outflows.values())
        if not flows or left <= 0:
            return
        idle = 0
        while left > 0 and idle < len(flows):
            self._turn = (self._turn + 1) % len(flows)
            payload = flows[self._turn].next_batch()
            if payload is None:
                idle += 1
                continue
            idle = 0
            one = self._encoded(frames.BATCH, payload)
            left -= len(one)
            self._allowance -= len(one)
            made.append(one)

    def _allowed(self, most: int) -> float:
        """How many bytes of batches may go now."""
        rate = self.settings.rate_bytes if self.settings is not None else 0
        if not rate:
            return most
        now = self.clock.now()
        self._allowance = min(rate / 4, self._allowance + (now - self._allowance_at) * rate)
        self._allowance_at = now
        return min(float(most), self._allowance)

    def _encoded(self, kind: int, payload: bytes) -> bytes:
        if self.packing != "none" and kind == frames.BATCH and len(payload) > PACK_BYTES_MIN:
            kind, payload = self._packed(kind, payload)
        sequence = self._sequence
        self._sequence = (sequence + 1) % frames.SEQUENCE_END
        return encode(kind, sequence, payload)

    def _packed(self, kind: int, payload: bytes) -> tuple[int, bytes]:
        """Compress a batch: always, or (auto) while the socket is the limit and what was tried last became a third less."""
        self._batch_count += 1
        is_auto = self.packing == "auto"
        if is_auto and not self._is_pressed:
            return kind, payload
        if is_auto and not self._is_worth_packing and self._batch_count % TRY_AGAIN_BATCHES:
            return kind, payload
        packed = self._codec.squeeze(payload)
        self._is_worth_packing = len(packed) * 3 < len(payload) * 2
        self._is_pressed = False
        return (kind | frames.PACKED, packed) if len(packed) < len(payload) else (kind, payload)

    def set_writable(self, is_writable: bool) -> None:
        """False while the socket's buffer is full."""
        self._is_writable = is_writable
        if is_writable:
            self._wake(self)
        else:
            self._is_pressed = True

    # The turn

    def end_turn(self, commit: int) -> None:
        """Everything done in this turn is in commit number `commit`."""
        for outflow in self.outflows.values():
            outflow.end_turn(commit)
        for inflow in self.inflows.values():
            inflow.end_turn(commit)

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
        return self._login is not None and not self._login.is_settled

    def look(self) -> None:
        """Tell the far side what has changed in what is wanted here."""
        if self.is_up and not self.is_closing:
            for inflow in self.inflows.values():
                inflow.look()
            if self.settings is not None and self.settings.rate_bytes and self._has_ready():
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
        silence = self._heartbeat_seconds * SILENCE_FACTOR
        if now >= heard_at + silence:
            self.fail(f"nothing was heard for {silence:g} s")
        elif now >= self._pinged_at + self._heartbeat_seconds:
            self._ping()

    def next_deadline(self) -> float | None:
        """When `tick` is due."""
        if self.is_closing:
            return None
        if not self.is_up:
            return self._began_at + LOGIN_SECONDS
        return self._pinged_at + self._heartbeat_seconds

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
        identity = self.identity
        if identity is not None and not (
            identity.is_valid and any(tag in LINK_TAGS for tag in identity.tags)
        ):
            self.fail(f"user '{identity.name}' may not open links any more")


def _look_at_first(received: bytes) -> None:
    """Raise ProtocolViolation for an answer that is no frame of a greeting: who was dialed speaks something else."""
    if received.startswith(b"\0\0"[: len(received)]):
        return
    text = "the far side speaks no links: is the address that of its AMQP listener?"
    if received.startswith(TLS_ALERT):
        text = "the far side speaks TLS there: say tls = true"
    elif received.startswith(b"AMQP"):
        text = 'the far side speaks AMQP, but no links: say protocol = "amqp" if it is not gridmsg'
    raise ProtocolViolation(text)


def _text_of(said: dict[str, Any], name: str) -> str:
    found = said[name]
    if not isinstance(found, str) or len(found) > 1000 or not (found.isprintable() or not found):
        raise ProtocolViolation(f"a greeting without a sound {name}")
    return found


def _bytes_of(said: dict[str, Any], name: str, count: int) -> bytes:
    found = said[name]
    if not isinstance(found, bytes) or len(found) != count:
        raise ProtocolViolation(f"a greeting without a sound {name}")
    return found
