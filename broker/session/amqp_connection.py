"""One AMQP 0-9-1 connection, without its socket: handshake, channels, errors, promises.

What the handshake does is in `amqp_handshake`, whom a method is for in `amqp_dispatch`, what a channel takes in `amqp_operations`.  Rules kept here: nothing is parsed while a reply waits for the disk
or publishers are blocked; after channel.close or connection.close was sent all but its answer is dropped; codes and texts are
RabbitMQ's.  Tests: tests/unit/broker/session/test_amqp_connection.py, tests/conformance/amqp.json, tests/interop/test_pika.py.
"""

from __future__ import annotations

import logging
from collections.abc import Callable
from typing import TYPE_CHECKING, Any, Final, Literal, final

from broker.errors import (
    BrokerError,
    PreconditionFailed,
    ResourceLimit,
)
from broker.session import amqp_handshake
from broker.session.amqp_deadlines import Deadlines
from broker.session.amqp_dispatch import execute, refuse_unopened
from broker.session.amqp_gap import Gap
from broker.session.amqp_handshake import State
from broker.session.amqp_limits import AmqpLimits
from broker.session.amqp_promises import Promises
from broker.session.amqp_publishing import Publishing
from broker.wire.amqp import methods
from broker.wire.amqp.frames import (
    CONTENT_OVERHEAD_BYTES,
    HEARTBEAT_FRAME,
    Command,
    FrameParser,
    method_frame,
)

if TYPE_CHECKING:
    from broker.core.broker import Broker
    from broker.core.delivery import Delivery
    from broker.core.vhost import Vhost
    from broker.session.amqp_channel import AmqpChannel
    from broker.session.auth import Accounts, Identity, Login, Operation, TopicOperation
    from broker.session.base import Wake
    from broker.session.dn import DN

__all__ = ["AmqpConnection", "AmqpLimits"]

log = logging.getLogger(__name__)

PROTOCOL_HEADER: Final = b"AMQP\x00\x00\x09\x01"
PROTOCOL_HEADERS: Final = (PROTOCOL_HEADER, b"AMQP\x01\x01\x00\x09")
"""What a peer may begin with; the second is that of 0-9 clients, which RabbitMQ takes too."""
CONNECTION_FORCED: Final = 320
LOGIN_HELD_BYTES_MAX: Final = 262_144
"""What a peer may send ahead while its password is checked."""
CLOSE_OK_FRAME: Final = b"\x01\x00\x00\x00\x00\x00\x04\x00\x0a\x00\x33\xce"


@final
class AmqpConnection:
    """The session of one AMQP peer (`session.base.Session`)."""

    __slots__ = (
        "_backlog",
        "_blocked_reason",
        "_deadlines",
        "_held_bytes",
        "_input",
        "_is_astray",
        "_is_paused",
        "_is_released",
        "_login",
        "_parser",
        "_start",
        "_wake",
        "accounts",
        "acknowledged",
        "broker",
        "capabilities",
        "certificate",
        "channels",
        "channels_max",
        "client_properties",
        "frame_bytes_max",
        "gap",
        "identity",
        "is_awake",
        "is_closing",
        "is_loopback",
        "is_writable",
        "limits",
        "out",
        "peer",
        "peer_closes_first",
        "promises",
        "publishing",
        "state",
        "unfit",
        "vhost",
        "wants_cancel",
    )

    def __init__(
        self,
        broker: Broker,
        accounts: Accounts,
        limits: AmqpLimits,
        wake: Wake,
        peer: str,
        is_loopback: bool,
        now: float,
    ) -> None:
        self.broker = broker
        self.accounts = accounts
        self.limits = limits
        self.peer = peer
        self.is_closing = False
        self.peer_closes_first = False
        self.is_awake = False
        self.state = State.AWAITING_HEADER
        self.out: list[bytes] = []
        self.identity: Identity | None = None
        self.certificate: DN | None = None
        self.vhost: Vhost | None = None
        self.channels: dict[int, AmqpChannel] = {}
        self.channels_max = limits.channels_max
        self.frame_bytes_max = limits.frame_bytes_max
        self.client_properties: dict[str, Any] = {}
        self.capabilities: dict[str, Any] = {}
        self.wants_cancel = False
        self.acknowledged: list[Delivery] = []
        self.unfit: list[tuple[list[Delivery], bool]] = []
        self.publishing: Publishing | None = None
        self.gap = Gap()
        self._wake = wake
        self.is_loopback = is_loopback
        self.is_writable = True
        self._is_released = False
        self._login: Login | None = None
        self._deadlines = Deadlines(now, limits.login_seconds)
        self._parser = FrameParser(
            limits.handshake_frame_bytes_max,
            limits.message_bytes_max,
            max(limits.contents_bytes_max, limits.message_bytes_max),
            limits.channels_max,
        )
        self._start = b""
        self.promises = Promises()
        self._backlog: list[Command] = []
        self._input: list[bytes] = []
        self._held_bytes = 0
        self._blocked_reason: str | None = None
        self._is_paused = False
        self._is_astray = False

    # In

    def receive_data(self, data: bytes) -> None:
        """Take bytes from the peer."""
        if self.is_closing:
            return
        if self._is_astray:
            self._await_answer(data)
            return
        self._deadlines.heartbeat.heard(self.broker.clock.now())
        if self.promises.held_reply is not None or self._is_paused or self._login is not None:
            self._input.append(data)
            self._held_bytes += len(data)
            bound = self.limits.held_bytes_max if self.state is State.OPEN else LOGIN_HELD_BYTES_MAX
            if self._held_bytes > bound:
                text = f"more than {bound} bytes sent while a reply is due"
                self._violated(ResourceLimit(text))
            return
        self._take(data)

    def _take(self, data: bytes) -> None:
        """Parse and do what can be done now."""
        if self.state is State.AWAITING_HEADER:
            self._start += data
            if len(self._start) < 8 and PROTOCOL_HEADER.startswith(self._start[:4]):
                return
            data = self._start[8:]
            self._begin(self._start[:8])
        parser = self._parser
        while not self.is_closing:
            commands = parser.feed(data)
            if not self._run(commands):
                return
            if parser.violation is not None:
                self._violated(parser.violation)
                return
            if not commands:
                return
            data = b""

    def _run(self, commands: list[Command]) -> bool:
        """Execute commands in order; False if it had to stop, with the rest in the backlog."""
        channels = self.channels
        for index, (number, method, header, bodies, refused_bytes) in enumerate(commands):
            try:
                if header is None:
                    execute(self, number, method)
                elif self._blocked_reason is not None and self.state is State.OPEN:
                    self._pause(commands[index:])
                    return False
                else:
                    channel = channels.get(number)
                    if channel is None:
                        refuse_unopened(self)
                    elif not channel.is_open:
                        continue
                    elif bodies is None:
                        raise PreconditionFailed(
                            f"message size {refused_bytes} is larger than configured max size "
                            f"{self.limits.message_bytes_max}"
                        )
                    else:
                        channel.publish(method, header, bodies)
            except BrokerError as error:
                self._refuse(error, number, method)
            if self.promises.held_reply is not None or self._login is not None:
                self._backlog = commands[index + 1 :]
                return False
            if self.is_closing:
                return False
        if self.acknowledged:
            self.settle()
        return True

    def settle(self) -> None:
        """Tell the core what was acknowledged since the last time."""
        deliveries = self.acknowledged
        self.acknowledged = []
        self.broker.acknowledge(deliveries)

    # Out

    def send(self, name: str, *values: Any) -> None:
        """Send a method on channel 0."""
        self.out.append(method_frame(0, methods.encode(name, *values)))

    def output(self) -> list[bytes]:
        """Hand over what is to be written."""
        out = self.out
        if self.gap.is_open and self.state is State.OPEN:
            out, self.out = self.gap.cut(out)
            if self.gap.is_open:
                self.rouse()
        elif out:
            self.out = []
        if out:
            self._deadlines.heartbeat.sent(self.broker.clock.now())
        return out

    def rouse(self) -> None:
        """Have this turn's end come to this session."""
        if not self.is_awake:
            self.is_awake = True
            self._wake(self)

    def set_writable(self, is_writable: bool) -> None:
        """Stop or resume deliveries."""
        self.is_writable = is_writable
        for channel in self.channels.values():
            channel.is_writable = is_writable
            if is_writable and channel.is_open:
                self.broker.resume(channel)

    # What channels ask

    def check(self, operation: Operation, kind: Literal["queue", "exchange"], name: str) -> None:
        """Raise AccessRefused unless the user has the right."""
        assert self.identity is not None, "channels exist after login"
        assert self.vhost is not None, "channels exist after connection.open"
        self.identity.check(self.vhost.name, operation, kind, name)

    def check_topic(self, operation: TopicOperation, exchange: str, key: str) -> None:
        """Raise AccessRefused unless the user may use the routing key, if the exchange is a topic exchange."""
        assert self.identity is not None, "channels exist after login"
        assert self.vhost is not None, "channels exist after connection.open"
        found = self.vhost.exchanges.get(exchange)
        if found is not None and found.kind == "topic":
            self.identity.check_topic(self.vhost.name, operation, exchange, key)

    def reply_when_durable(self, channel: AmqpChannel, name: str, *values: Any) -> None:
        """Send a reply, but not before what this turn changed is on disk."""
        if not self.broker.has_changes:
            channel.reply(name, *values)
            return
        self.promises.held_reply = method_frame(channel.number, methods.encode(name, *values))

    def follow(self, frames: list[bytes]) -> None:
        """Send frames after the last reply, which may wait for the disk."""
        if self.promises.held_reply is not None:
            self.promises.held_reply += b"".join(frames)
        else:
            self.out.extend(frames)

    # The turn

    def end_turn(self, commit: int) -> None:
        """Note which commit the promises of this turn wait for."""
        self.is_awake = False
        self.promises.note(commit)
        unfit, self.unfit = self.unfit, []
        for deliveries, is_acknowledged in unfit:
            self.refuse_unfit(deliveries, is_acknowledged=is_acknowledged)

    @property
    def header_bytes_max(self) -> int:
        """The largest properties that one frame of this peer takes."""
        return self.frame_bytes_max - CONTENT_OVERHEAD_BYTES

    def refuse_unfit(self, deliveries: list[Delivery], *, is_acknowledged: bool) -> None:
        """Dead-letter what can never be delivered here: a content header cannot be cut into frames."""
        cause = (
            f"properties do not fit a frame of {self.frame_bytes_max} bytes, the consumer's bound"
        )
        log.warning("AMQP consumer at %s: a message is dead-lettered, its %s", self.peer, cause)
        if is_acknowledged:
            self.broker.reject(deliveries, cause)
            return
        for one in deliveries:
            one.queue.vhost.dead_letter_message(
                one.queue, one.message, "rejected", cause, keep=True
            )

    def on_durable(self, commit: int) -> None:
        """Release what waited for commits up to this one."""
        reply = self.promises.release(commit)
        if reply is not None:
            self.out.append(reply)
            self._resume()

    def _resume(self) -> None:
        """Go on with the input that had to wait."""
        self.rouse()
        commands, self._backlog = self._backlog, []
        if not self._run(commands):
            return
        if self._parser.violation is not None:
            self._violated(self._parser.violation)
            return
        data = b"".join(self._input)
        self._input.clear()
        self._held_bytes = 0
        self._take(data)

    @property
    def is_holding(self) -> bool:
        """Input is only kept: a reply waits for the disk, or a publish for the store."""
        return self.promises.held_reply is not None or self._is_paused or self._login is not None

    def set_blocked(self, reason: str | None) -> bool:
        """Publishers must wait (reason: `low on memory`, `low on disk`), or with None need not any more."""
        self._blocked_reason = reason
        if reason is None and self._is_paused:
            self._is_paused = False
            self._deadlines.heartbeat.heard(self.broker.clock.now())
            if self.capabilities.get("connection.blocked") is True:
                self.send("connection.unblocked")
            self._resume()
        return True

    def _pause(self, commands: list[Command]) -> None:
        """A publish came while publishers must wait."""
        self._backlog = commands
        self._is_paused = True
        if self.acknowledged:
            self.settle()
        if self.capabilities.get("connection.blocked") is True:
            self.send("connection.blocked", self._blocked_reason)

    # Time

    def tune(self, channels_max: int, frame_bytes_max: int, heartbeat_seconds: int) -> None:
        """Take what was negotiated; a heart-beat of 0 is none."""
        self.channels_max = channels_max
        self.frame_bytes_max = frame_bytes_max
        self._parser.frame_bytes_max = frame_bytes_max
        self._deadlines.set_heartbeat(heartbeat_seconds, self.broker.clock.now())

    def opened(self) -> None:
        """The handshake is over."""
        self.state = State.OPEN
        self.renew_rights()
        self._deadlines.enter(self.broker.clock.now(), self.limits.acknowledgement_seconds)
        self._parser.is_stepping = False

    def await_login(self, login: Login, then: Callable[[], None]) -> None:
        """Go on with `then` once a login is settled; until then input is kept."""
        if login.is_settled:
            then()
            return
        self._login = login
        # While a password is checked it is us who are late.
        deadlines = self._deadlines
        is_timed, deadlines.login_by = deadlines.login_by is not None, None

        def settled() -> None:
            if self._login is not login or self.is_closing:
                return
            self._login = None
            if is_timed:
                deadlines.login_by = self.broker.clock.now() + self.limits.login_seconds
            try:
                then()
            except BrokerError as error:
                self._refuse(error, 0, b"")
            self._resume()

        login.on_settled = settled

    def recheck(self) -> None:
        """Accounts or vhosts changed (`session.auth.LoggedIn`)."""
        identity, vhost = self.identity, self.vhost
        if identity is None or self.is_closing or self.state is State.CLOSING:
            return
        if not identity.is_valid:
            text = f"user '{identity.name}' is deleted"
        elif vhost is None:
            return
        elif self.broker.vhosts.get(vhost.name) is not vhost:
            text = f"vhost '{vhost.name}' is deleted"
        elif not identity.may_enter(vhost.name):
            text = f"access to vhost '{vhost.name}' refused for user '{identity.name}'"
        else:
            self.renew_rights()
            return
        self.force_out(text)
        self.rouse()

    def renew_rights(self) -> None:
        """Ask for all rights anew: the login is new."""
        assert self.vhost is not None, "the vhost comes first"
        assert self.identity is not None, "the login comes first"
        self.publishing = Publishing(self.vhost, self.identity, self.limits)

    def tick(self, now: float) -> None:
        """Send a heart-beat when one is due; give up on a late login, a silent peer or a missing close-ok."""
        deadlines = self._deadlines
        if deadlines.is_end_due(now):
            self.finish()
        elif deadlines.is_login_late(now):
            log.warning("AMQP connection from %s did not log in in time", self.peer)
            self.finish()
        else:
            if deadlines.is_look_due(now):
                self._check_acknowledgements(now)
            self._beat(now)

    def _check_acknowledgements(self, now: float) -> None:
        """Close channels that hold deliveries for too long."""
        timeout_seconds = self.limits.acknowledgement_seconds
        self._deadlines.look_again(now, timeout_seconds)
        for number, channel in list(self.channels.items()):
            if channel.is_open and channel.is_overdue(now, timeout_seconds):
                text = (
                    f"delivery acknowledgement on channel {number} timed out. Timeout value used: "
                    f"{round(timeout_seconds * 1000)} ms. This timeout value can be configured, see "
                    "consumers doc guide to learn more"
                )
                self._refuse(PreconditionFailed(text), number, b"")
                self.rouse()

    def _beat(self, now: float) -> None:
        heartbeat = self._deadlines.heartbeat
        if self._is_paused:
            # Nothing is read from a blocked publisher, so its silence says nothing.
            heartbeat.heard(now)
        if heartbeat.is_dead(now):
            log.warning("AMQP connection from %s missed its heartbeats", self.peer)
            self.finish()
        elif heartbeat.is_due(now):
            self.out.append(HEARTBEAT_FRAME)
            heartbeat.sent(now)
            self.rouse()

    def next_deadline(self) -> float | None:
        """The next time that `tick` has something to do."""
        return None if self.is_closing else self._deadlines.next(has_channels=bool(self.channels))

    # Errors and the end

    def _refuse(self, error: BrokerError, number: int, method: bytes) -> None:
        """Close the channel, or the connection, with the error's code."""
        channel = self.channels.get(number)
        if error.is_hard or channel is None or self.state is not State.OPEN:
            self._refuse_connection(error, method)
            return
        log.info("AMQP channel %d of %s closed: %s - %s", number, self.peer, error.name, error)
        self.close_channel(channel)
        channel.reply("channel.close", error.amqp_code, _reply_text(error), *_ids(method))

    def _refuse_connection(self, error: BrokerError, method: bytes) -> None:
        log.warning("AMQP connection from %s closed: %s - %s", self.peer, error.name, error)
        self.refuse_with(error.amqp_code, _reply_text(error), *_ids(method))

    def refuse_with(self, code: int, text: str, class_id: int = 0, method_id: int = 0) -> None:
        """Send connection.close and wait for its answer, not for ever."""
        self._release()
        self.state = State.CLOSING
        self._deadlines.await_end(self.broker.clock.now(), self.limits.closing_seconds)
        self._is_paused = False
        self._login = None
        self.send("connection.close", code, text, class_id, method_id)

    def force_out(self, text: str) -> None:
        """Close for a reason that is not the peer's; what was held of its input leads up to its answer."""
        self.refuse_with(CONNECTION_FORCED, f"CONNECTION_FORCED - {text}")
        if self._input or self._backlog:
            self._resume()

    def refuse_later(self) -> None:
        """Close without a word after a pause, as clients without `authentication_failure_close` expect."""
        self.state = State.CLOSING
        self._deadlines.await_end(self.broker.clock.now(), self.limits.refusal_seconds)

    def _violated(self, violation: BrokerError) -> None:
        if self.state is State.OPEN:
            self._refuse_connection(violation, self._parser.violated_method)
        elif self.state is not State.CLOSING:
            self._refuse_connection(violation, self._parser.violated_method)
            self.finish()
            return
        self._is_astray = True
        self._input.clear()

    def _await_answer(self, data: bytes) -> None:
        """Look for the peer's close-ok where it is not known any more where a frame begins: it is the last that a peer says."""
        self._start = (self._start + data)[-len(CLOSE_OK_FRAME) :]
        if self._start == CLOSE_OK_FRAME:
            self.finish()

    def _begin(self, header: bytes) -> None:
        """Answer the protocol header."""
        self._start = b""
        if header not in PROTOCOL_HEADERS:
            self.out.append(PROTOCOL_HEADER)
            self.finish()
            return
        self.state = State.STARTING
        amqp_handshake.start(self)

    def close_channel(self, channel: AmqpChannel) -> None:
        """Give back what a channel holds in the core; its answer, and forgetting it, are the caller's."""
        if self.acknowledged:
            self.settle()
        self.promises.confirming.pop(channel, None)
        self.broker.release(channel.close())

    def _release(self) -> None:
        """Give back all that the connection holds in the core.  Twice is once."""
        if self._is_released:
            return
        self._is_released = True
        if self.acknowledged:
            self.settle()
        deliveries: list[Delivery] = []
        for channel in self.channels.values():
            deliveries += channel.close()
        self.channels.clear()
        self.promises.forget()
        self.broker.release(deliveries)
        self.broker.forget_owner(self)

    def close(self) -> None:
        """The peer closes: give everything back, then answer.  The socket is left for it to close, as RabbitMQ does."""
        self._release()
        self.send("connection.close-ok")
        self.peer_closes_first = True
        self.finish()

    def finish(self) -> None:
        """Nothing more is taken; the socket closes when the output is written."""
        self._release()
        self.state = State.CLOSED
        self._deadlines.end()
        self.is_closing = True
        self._backlog = []
        self._input.clear()
        self.rouse()

    def connection_lost(self, reason: str) -> None:
        """The socket is gone."""
        # Before a header it was a look at the port, or another broker's link: no AMQP connection was lost.
        if self.state not in (State.AWAITING_HEADER, State.CLOSED, State.CLOSING):
            log.info("AMQP connection from %s lost: %s", self.peer, reason)
        self.finish()
        self.out = []

    def shutdown(self, text: str) -> None:
        """The broker stops: say so, and wait for the answer of a peer that was let in."""
        state = self.state
        if state is State.CLOSING:
            return
        if state not in (State.AWAITING_HEADER, State.CLOSED):
            self.force_out(text)
        if state is not State.OPEN:
            self.finish()


def _reply_text(error: BrokerError) -> str:
    """`NAME - text`, cut to what a short string holds (as RabbitMQ cuts it)."""
    text = f"{error.name} - {error.text}"
    if len(text.encode(errors="replace")) <= 255:
        return text
    return text.encode(errors="replace")[:252].decode(errors="ignore") + "..."


def _ids(method: bytes) -> tuple[int, int]:
    """Class and method id of a method payload; zeros if there is none."""
    return int.from_bytes(method[:2], "big"), int.from_bytes(method[2:4], "big")
