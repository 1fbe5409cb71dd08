"""What an AMQP peer sent: parsed, and done in order as far as it may be done now.

Rules kept here: nothing is parsed while a reply waits for the disk, a password is checked or publishers are blocked; what comes
meanwhile is kept, bounded, and done first afterwards.  Where it is not known any more where a frame begins, only the peer's
close-ok counts.  The connection is an argument everywhere, not kept: one that has ended is freed without the collector.
Tests: tests/unit/broker/session/test_amqp_connection.py, tests/conformance/amqp.json.
"""

from __future__ import annotations

from collections.abc import Callable
from typing import TYPE_CHECKING, Final, final

from broker.errors import BrokerError, PreconditionFailed, ResourceLimit
from broker.session import amqp_handshake
from broker.session.amqp_dispatch import execute, refuse_unopened
from broker.session.amqp_handshake import PROTOCOL_HEADER, State
from broker.wire.amqp.frames import Command, FrameParser

if TYPE_CHECKING:
    from broker.session.amqp_connection import AmqpConnection
    from broker.session.amqp_limits import AmqpLimits
    from broker.session.auth import Login

LOGIN_HELD_BYTES_MAX: Final = 262_144
"""What a peer may send ahead while its password is checked."""
CLOSE_OK_FRAME: Final = b"\x01\x00\x00\x00\x00\x00\x04\x00\x0a\x00\x33\xce"


@final
class Intake:
    """The input of one connection; `is_paused`: a publish waits for the store, and all behind it."""

    __slots__ = (
        "_backlog",
        "_blocked_reason",
        "_held",
        "_held_bytes",
        "_is_astray",
        "_limits",
        "_login",
        "_parser",
        "_start",
        "is_paused",
    )

    def __init__(self, limits: AmqpLimits) -> None:
        self._limits = limits
        self._parser = FrameParser(
            limits.handshake_frame_bytes_max,
            limits.message_bytes_max,
            max(limits.contents_bytes_max, limits.message_bytes_max),
            limits.channels_max,
        )
        self._start = b""
        self._backlog: list[Command] = []
        self._held: list[bytes] = []
        self._held_bytes = 0
        self._is_astray = False
        self._blocked_reason: str | None = None
        self._login: Login | None = None
        self.is_paused = False

    # Taking

    def receive(self, connection: AmqpConnection, received: bytes) -> None:
        """Take bytes of a connection that is not over."""
        if self._is_astray:
            self._await_answer(connection, received)
        elif self.is_holding(connection):
            self._hold(connection, received)
        else:
            self._take(connection, received)

    def _hold(self, connection: AmqpConnection, received: bytes) -> None:
        self._held.append(received)
        self._held_bytes += len(received)
        is_open = connection.state is State.OPEN
        bound = self._limits.held_bytes_max if is_open else LOGIN_HELD_BYTES_MAX
        if self._held_bytes > bound:
            self._violated(
                connection, ResourceLimit(f"more than {bound} bytes sent while a reply is due")
            )

    def _take(self, connection: AmqpConnection, received: bytes) -> None:
        """Parse and do what can be done now."""
        if connection.state is State.AWAITING_HEADER:
            self._start += received
            if len(self._start) < 8 and PROTOCOL_HEADER.startswith(self._start[:4]):
                return
            header, received = self._start[:8], self._start[8:]
            self._start = b""
            amqp_handshake.begin(connection, header)
        parser = self._parser
        while not connection.is_closing:
            is_stepping = parser.is_stepping
            commands = parser.feed(received)
            if not self._run(connection, commands):
                return
            if parser.violation is not None:
                self._violated(connection, parser.violation)
                return
            if not (commands and is_stepping):
                return
            received = b""

    def _run(self, connection: AmqpConnection, commands: list[Command]) -> bool:
        """Execute commands in order; False if it had to stop, with the rest in the backlog."""
        channels = connection.channels
        promises = connection.promises
        for index, (number, method, header, bodies, refused_bytes) in enumerate(commands):
            try:
                if header is None:
                    execute(connection, number, method)
                elif self._blocked_reason is not None and connection.state is State.OPEN:
                    self._pause(connection, commands[index:])
                    return False
                else:
                    channel = channels.get(number)
                    if channel is None:
                        refuse_unopened(connection)
                    elif not channel.is_open:
                        continue
                    elif bodies is None:
                        raise PreconditionFailed(
                            f"message size {refused_bytes} is larger than configured max size "
                            f"{self._limits.message_bytes_max}"
                        )
                    else:
                        channel.publish(method, header, bodies)
            except BrokerError as error:
                connection.refuse(error, number, method)
            if promises.held_reply is not None or self._login is not None:
                self._backlog = commands[index + 1 :]
                return False
            if connection.is_closing:
                return False
        if connection.acknowledged:
            connection.settle()
        return True

    def _violated(self, connection: AmqpConnection, violation: BrokerError) -> None:
        """The bytes break the protocol, or a bound: the connection ends."""
        state = connection.state
        if state is not State.CLOSING:
            connection.refuse_connection(violation, self._parser.violated_method)
        if state not in (State.OPEN, State.CLOSING):
            connection.finish()
            return
        self._is_astray = True
        self._held.clear()

    def _await_answer(self, connection: AmqpConnection, received: bytes) -> None:
        """Look for the peer's close-ok where it is not known any more where a frame begins: it is the last that a peer says."""
        self._start = (self._start + received)[-len(CLOSE_OK_FRAME) :]
        if self._start == CLOSE_OK_FRAME:
            connection.finish()

    # Holding

    def is_holding(self, connection: AmqpConnection) -> bool:
        """Whether input is only kept: a reply waits for the disk, a publish for the store, or a password is checked."""
        return (
            connection.promises.held_reply is not None or self.is_paused or self._login is not None
        )

    @property
    def has_held(self) -> bool:
        """Whether something is kept."""
        return bool(self._held or self._backlog)

    def resume(self, connection: AmqpConnection) -> None:
        """Go on with the input that had to wait."""
        connection.rouse()
        commands, self._backlog = self._backlog, []
        if not self._run(connection, commands):
            return
        if self._parser.violation is not None:
            self._violated(connection, self._parser.violation)
            return
        held = b"".join(self._held)
        self._held.clear()
        self._held_bytes = 0
        self._take(connection, held)

    def set_blocked(self, connection: AmqpConnection, reason: str | None) -> None:
        """Publishers must wait (reason: `low on memory`, `low on disk`), or with None need not any more."""
        self._blocked_reason = reason
        if reason is None and self.is_paused:
            self.is_paused = False
            connection.tell_blocked(None)
            self.resume(connection)

    def _pause(self, connection: AmqpConnection, commands: list[Command]) -> None:
        """A publish came while publishers must wait."""
        self._backlog = commands
        self.is_paused = True
        if connection.acknowledged:
            connection.settle()
        connection.tell_blocked(self._blocked_reason)

    def await_login(
        self, connection: AmqpConnection, login: Login, go_on: Callable[[], None]
    ) -> None:
        """Keep all input until a login is settled, then call `go_on` and do what was kept."""
        self._login = login

        def settled() -> None:
            if self._login is not login or connection.is_closing:
                return
            self._login = None
            try:
                go_on()
            except BrokerError as error:
                connection.refuse(error, 0, b"")
            self.resume(connection)

        login.on_settled = settled

    # The handshake and the end

    def tune(self, frame_bytes_max: int) -> None:
        """Take the negotiated frame size."""
        self._parser.frame_bytes_max = frame_bytes_max

    def opened(self) -> None:
        """The handshake is over: its commands came one by one, since each may change what the next means."""
        self._parser.is_stepping = False

    def let_go(self) -> None:
        """The connection closes: nothing holds its input any more."""
        self.is_paused = False
        self._login = None

    def end(self) -> None:
        """The connection is over: nothing more is done."""
        self._backlog = []
        self._held.clear()
