"""One AMQP 0-9-1 connection, without its socket: who is logged in, channels, output, promises, time, errors and the end.

Its input is `amqp_intake`; what the handshake does is in `amqp_handshake`, whom a method is for in `amqp_dispatch`, what a channel takes
in `amqp_operations`.  Rules kept here: after channel.close or connection.close was sent all but its answer is dropped; codes and
texts are RabbitMQ's.  Tests: tests/unit/broker/session/test_amqp_connection.py, tests/conformance/amqp.json, tests/interop/test_pika.py.
"""

from __future__ import annotations

import logging
from collections.abc import Callable
from typing import TYPE_CHECKING, Any, Final, Literal, final

from broker.errors import BrokerError
from broker.session.amqp_deadlines import Deadlines
from broker.session.amqp_gap import Gap
from broker.session.amqp_handshake import State
from broker.session.amqp_intake import Intake
from broker.session.amqp_limits import AmqpLimits
from broker.session.amqp_patience import overdue
from broker.session.amqp_promises import Promises
from broker.session.amqp_publishing import Publishing
from broker.wire.amqp import methods
from broker.wire.amqp.frames import CONTENT_OVERHEAD_BYTES, HEARTBEAT_FRAME, method_frame

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

CONNECTION_FORCED: Final = 320


@final
class AmqpConnection:
    """The session of one AMQP peer (`session.base.Session`)."""

    __slots__ = (
        "_deadlines",
        "_intake",
        "_is_released",
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
        self._deadlines = Deadlines(now, limits.login_seconds)
        self._intake = Intake(limits)
        self.promises = Promises()

    # In

    def receive_data(self, data: bytes) -> None:
        """Take bytes from the peer."""
        if self.is_closing:
            return
        self._deadlines.heartbeat.heard(self.broker.clock.now())
        self._intake.receive(self, data)

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

    def end_turn(self, commit: int) -> bool:
        """Note which commit the promises of this turn wait for; True if there are any."""
        self.is_awake = False
        has_promises = self.promises.note(commit)
        unfit, self.unfit = self.unfit, []
        for deliveries, is_acknowledged in unfit:
            self.refuse_unfit(deliveries, is_acknowledged=is_acknowledged)
        return has_promises

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
            self._intake.resume(self)

    @property
    def is_holding(self) -> bool:
        """Input is only kept: a reply waits for the disk, a publish for the store, or a password is checked."""
        return self._intake.is_holding(self)

    def set_blocked(self, reason: str | None) -> bool:
        """Publishers must wait (reason: `low on memory`, `low on disk`), or with None need not any more."""
        if reason is None and self._intake.is_paused:
            # Nothing was read from it, so its silence says nothing.
            self._deadlines.heartbeat.heard(self.broker.clock.now())
        self._intake.set_blocked(self, reason)
        return True

    def tell_blocked(self, reason: str | None) -> None:
        """Tell a peer that knows of it that its publishes wait, or with None go on."""
        if self.capabilities.get("connection.blocked") is not True:
            return
        if reason is None:
            self.send("connection.unblocked")
        else:
            self.send("connection.blocked", reason)

    # Time

    def tune(self, channels_max: int, frame_bytes_max: int, heartbeat_seconds: int) -> None:
        """Take what was negotiated; a heart-beat of 0 is none."""
        self.channels_max = channels_max
        self.frame_bytes_max = frame_bytes_max
        self._intake.tune(frame_bytes_max)
        self._deadlines.set_heartbeat(heartbeat_seconds, self.broker.clock.now())

    def opened(self) -> None:
        """The handshake is over."""
        self.state = State.OPEN
        self.renew_rights()
        self._deadlines.enter(self.broker.clock.now(), self.limits.acknowledgement_seconds)
        self._intake.opened()

    def await_login(self, login: Login, then: Callable[[], None]) -> None:
        """Go on with `then` once a login is settled; until then input is kept."""
        if login.is_settled:
            then()
            return
        # While a password is checked it is us who are late.
        deadlines = self._deadlines
        is_timed, deadlines.login_by = deadlines.login_by is not None, None

        def go_on() -> None:
            if is_timed:
                deadlines.login_by = self.broker.clock.now() + self.limits.login_seconds
            then()

        self._intake.await_login(self, login, go_on)

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
            if channel.is_open and channel.unsettled.is_overdue(now, timeout_seconds):
                self.refuse(overdue(number, timeout_seconds), number, b"")
                self.rouse()

    def _beat(self, now: float) -> None:
        heartbeat = self._deadlines.heartbeat
        if self._intake.is_paused:
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

    def refuse(self, error: BrokerError, number: int, method: bytes) -> None:
        """Close the channel, or the connection, with the error's code."""
        channel = self.channels.get(number)
        if error.is_hard or channel is None or self.state is not State.OPEN:
            self.refuse_connection(error, method)
            return
        log.info("AMQP channel %d of %s closed: %s - %s", number, self.peer, error.name, error)
        self.close_channel(channel)
        channel.reply("channel.close", error.amqp_code, _reply_text(error), *_ids(method))

    def refuse_connection(self, error: BrokerError, method: bytes) -> None:
        """Close the connection with the error's code."""
        log.warning("AMQP connection from %s closed: %s - %s", self.peer, error.name, error)
        self.refuse_with(error.amqp_code, _reply_text(error), *_ids(method))

    def refuse_with(self, code: int, text: str, class_id: int = 0, method_id: int = 0) -> None:
        """Send connection.close and wait for its answer, not for ever."""
        self._release()
        self.state = State.CLOSING
        self._deadlines.await_end(self.broker.clock.now(), self.limits.closing_seconds)
        self._intake.let_go()
        self.send("connection.close", code, text, class_id, method_id)

    def force_out(self, text: str) -> None:
        """Close for a reason that is not the peer's; what was held of its input leads up to its answer."""
        self.refuse_with(CONNECTION_FORCED, f"CONNECTION_FORCED - {text}")
        if self._intake.has_held:
            self._intake.resume(self)

    def refuse_later(self) -> None:
        """Close without a word after a pause, as clients without `authentication_failure_close` expect."""
        self.state = State.CLOSING
        self._deadlines.await_end(self.broker.clock.now(), self.limits.refusal_seconds)

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
        self._intake.end()
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
