"""One STOMP peer: its frames become calls of the core, its deliveries MESSAGE frames.

Sans-I/O (see `session.base`).  What a peer has once it has logged in, and the table of its frames, is in `stomp_member`.
Invariants: receipts keep their order, and those of persistent messages and of changed topology come after `fdatasync`; ACK
frames of one read are settled together; after the first ERROR (or DISCONNECT) nothing more is read or delivered.
Must not know sockets or files.
Tests: tests/conformance/stomp*.json, tests/unit/broker/session/test_stomp.py, tests/property/test_stomp_session.py.
"""

from __future__ import annotations

import logging
from typing import Final, final

from broker.core.broker import Broker
from broker.core.delivery import Delivery
from broker.core.subscription import Subscription
from broker.errors import AccessRefused, BrokerError, ProtocolViolation
from broker.session.auth import Accounts, Login
from broker.session.base import Wake
from broker.session.dn import DN
from broker.session.heartbeat import Heartbeat
from broker.session.stomp_connect import ConnectRequest, StompLimits
from broker.session.stomp_errors import StompError, bad_command, encode_error, error_of
from broker.session.stomp_member import COMMANDS, Member
from broker.session.stomp_plans import SHARED_ROOM, PlanTable
from broker.session.stomp_promises import Promises
from broker.session.stomp_publisher import Publisher
from broker.session.stomp_send import checked_receipt, read_headers, refused
from broker.session.stomp_subscription import StompSubscription
from broker.session.stomp_subscriptions import SubscriptionTable
from broker.wire.stomp import HEADS_MAX, FrameParser
from broker.wire.stomp_headers import V12, VERSION_TEXTS, split_block, unescape

log = logging.getLogger(__name__)

LOGIN_HELD_BYTES_MAX: Final = 262_144
"""What a peer may send ahead while its password is checked."""
LAST_COMMAND: Final = b"DISCONNECT"
FATAL_MESSAGES: Final = frozenset(
    {"Duplicated subscription identifier", "Login timeout", "Too many receipts"}
)
"""ERRORs that end the connection in any profile."""
_TOKEN_LENGTH: Final = 16
_SEND_SLACK: Final = 0.75
"""Heart-beats are sent this part of the agreed time after the last output: a timer is never early."""


@final
class StompSession:
    """The protocol state of one STOMP connection."""

    peer_closes_first: bool = False
    __slots__ = (
        "_accounts",
        "_beats",
        "_broker",
        "_held",
        "_is_ending",
        "_is_loopback",
        "_limits",
        "_login",
        "_login_by",
        "_member",
        "_output",
        "_parser",
        "_promises",
        "_version",
        "_wake",
        "certificate",
        "is_closing",
        "is_writable",
        "peer",
    )

    def __init__(
        self,
        broker: Broker,
        accounts: Accounts,
        limits: StompLimits,
        wake: Wake,
        peer: str,
        is_loopback: bool,
        now: float,
    ) -> None:
        self.is_closing = False
        self.is_writable = True
        self.peer = peer
        self._broker = broker
        self._accounts = accounts
        self._limits = limits
        self._wake = wake
        self._is_loopback = is_loopback
        self._login_by = now + limits.login_seconds
        self._beats = Heartbeat(0.0, 0.0, now)
        self._parser = FrameParser(limits.frames())
        self._parser.body_bytes_max = limits.login_body_bytes_max
        self._parser.is_single = True
        self.certificate: DN | None = None
        self._login: Login | None = None
        self._held: list[bytes] = []
        self._version = V12
        self._output: list[bytes] = []
        self._promises = Promises()
        # Made at login.
        self._member: Member | None = None
        # True from the last frame on (ERROR or DISCONNECT); `is_closing` follows when all receipts are out.
        self._is_ending = False

    # Session

    @property
    def user(self) -> str:
        """Who has logged in; empty before."""
        return "" if self._member is None else self._member.identity.name

    @property
    def protocol(self) -> str:
        """The protocol for listings, with the version agreed."""
        return f"STOMP {VERSION_TEXTS[self._version]}"

    def recheck(self) -> None:
        member = self._member
        if member is None or self._is_ending:
            return
        text = member.objection(self._broker)
        if not text:
            member.publisher.forget()
            return
        self._fail(StompError("access_refused", text + "\n"), b"")

    def receive_data(self, data: bytes) -> None:
        if self._is_ending:
            return
        if self._login is not None:
            self._hold(data)
            return
        self._beats.heard(self._broker.clock.now())
        parser = self._parser
        is_first = parser.is_single
        receipt = b""
        frames = iter(parser.feed(data))
        while True:
            member = self._member
            try:
                for command, block, body, receipt in frames:
                    if command == b"SEND" and member is not None:
                        self._send(member, block, body, receipt)
                    elif (
                        command == b"ACK" and member is not None and member.subscriptions.ack(block)
                    ):
                        if receipt:
                            self._answer(receipt, member)
                    elif self._other(command, block, receipt):
                        return
                receipt = b""
                if is_first and self._login is None and (more := parser.feed(b"")):
                    # Before login frames come one by one, since login raises their limits.
                    frames = iter(more)
                    continue
                if parser.violation is not None:
                    raise parser.violation
            except StompError as error:
                if self._survives(error):
                    continue
                self._fail(error, receipt)
                return
            except BrokerError as error:
                self._refuse(error, receipt)
                return
            break
        if self._member is not None:
            self._member.subscriptions.flush()

    def output(self) -> list[bytes]:
        output = self._output
        if output:
            self._output = []
            self._beats.sent(self._broker.clock.now())
        return output

    def end_turn(self, commit: int) -> bool:
        return self._promises.end_turn(commit) or self._is_ending

    def on_durable(self, commit: int) -> None:
        self._promises.release(commit, self._output)
        if self._is_ending and not self._promises.count:
            self.is_closing = True

    def set_writable(self, is_writable: bool) -> None:
        if self._is_ending:
            return
        self.is_writable = is_writable
        if is_writable:
            self._broker.resume(self)

    @property
    def is_holding(self) -> bool:
        """While a password is checked; else receipts queue up, nothing holds the order."""
        return self._login is not None

    def set_blocked(self, reason: str | None) -> bool:
        """STOMP has no frame for it: who publishes is not read from."""
        return False

    def tick(self, now: float) -> None:
        if self._is_ending:
            return
        if self._member is None:
            # While a password is checked it is us who are late.
            if now >= self._login_by and self._login is None:
                self._fail(StompError("Login timeout", "No CONNECT came in time\n"), b"")
            return
        if self._broker.blocked_reason is not None:
            # A publisher is not read then: its heart-beats wait in the kernel.
            self._beats.heard(now)
        if self._beats.is_dead(now):
            self._fail(StompError("Heart-beat timeout", "The peer was silent for too long\n"), b"")
        elif self._beats.is_due(now):
            self._output.append(b"\n")

    def next_deadline(self) -> float | None:
        if self._is_ending:
            return None
        if self._member is None:
            return self._login_by if self._login is None else None
        return self._beats.next_deadline()

    def connection_lost(self, reason: str) -> None:
        self._is_ending = True
        self.is_closing = True
        self.is_writable = False
        self._release()

    def shutdown(self, text: str) -> None:
        if not self._is_ending:
            self._is_ending = True
            self.is_writable = False
            error = StompError("Server shutdown", text + "\n")
            self._output.append(encode_error(error, b"", self._version))
        self.is_closing = True

    # Sink

    def deliver(self, subscription: Subscription, run: list[Delivery]) -> None:
        """Write MESSAGE frames for a run."""
        context = subscription.context
        assert isinstance(context, StompSubscription), "STOMP subscriptions carry their state"
        context.encode(run, self._output)
        self._wake(self)

    def cancelled(self, subscription: Subscription, reason: str) -> None:
        """Tell the peer that its queue is gone, and end: STOMP has no other way to end a subscription."""
        context = subscription.context
        assert isinstance(context, StompSubscription), "STOMP subscriptions carry their state"
        if self._is_ending:
            return
        shown = ", ".join(context.queue_names)
        error = StompError(
            "Server cancelled subscription",
            f"The server has canceled a subscription.\nNo more messages will be delivered for {shown}: {reason}.\n",
            [] if context.id is None else [(b"subscription", context.id.encode())],
        )
        if self._limits.profile.stays_open and self._member is not None:
            self._output.append(encode_error(error, b"", self._version))
            self._member.subscriptions.forget(context)
            self._wake(self)
            return
        # What it holds is given back when the socket is gone: this is called from inside the core.
        self._end(encode_error(error, b"", self._version))
        self._wake(self)

    def browsed(self, subscription: Subscription) -> None:
        """Tell the peer that its browser has seen everything."""
        context = subscription.context
        assert isinstance(context, StompSubscription), "STOMP subscriptions carry their state"
        if self._is_ending or self._member is None:
            return
        if self._member.subscriptions.browsed(subscription, context):
            self._output.append(context.end_marker())
            self._wake(self)

    # Ending

    def _fail(self, error: StompError, receipt: bytes) -> None:
        """Send an ERROR as the last frame, for the frame with this receipt (as it came, or empty)."""
        if not self._limits.profile.names_receipt:
            receipt = b""
        try:
            receipt = unescape(receipt, self._version)
        except ProtocolViolation:
            receipt = b""
        self._end(encode_error(error, receipt, self._version))
        self._release()

    def _survives(self, error: StompError) -> bool:
        """Send an ERROR that does not end the connection; False: it does."""
        if not self._limits.profile.stays_open or error.message in FATAL_MESSAGES:
            return False
        self._output.append(encode_error(error, b"", self._version))
        return True

    def _refuse(self, error: BrokerError, receipt: bytes) -> None:
        """End for what the core refused or the parser could not read."""
        if isinstance(error, ProtocolViolation) and not self._limits.profile.tells_parse_errors:
            self._end(b"")
            self._release()
            return
        self._fail(error_of(error), receipt)

    def _end(self, frame: bytes) -> None:
        """Let a frame (or nothing) be the last; receipts that wait come before it."""
        self._is_ending = True
        self.is_writable = False
        if self._promises.count:
            self._promises.add(frame)
            return
        if frame:
            self._output.append(frame)
        self.is_closing = True

    def _release(self) -> None:
        """Give everything back to the core."""
        if self._member is not None:
            self._member.release()

    def _receipt(self, receipt: bytes, waits: bool) -> None:
        """Promise a RECEIPT (`receipt` escaped as it goes out): now, or once this turn is durable."""
        frame = b"RECEIPT\nreceipt-id:%b\n\n\0" % receipt
        promises = self._promises
        if waits or promises.count:
            if promises.count >= self._limits.receipts_waiting_max:
                raise StompError(
                    "Too many receipts", f"{promises.count} receipts wait for the disk\n"
                )
            promises.add(frame)
        else:
            self._output.append(frame)

    # Frames of a peer that has logged in

    def _send(self, member: Member, block: bytes, body: bytes, receipt: bytes) -> None:
        publisher = member.publisher
        plan = publisher.plans.get(block)
        if plan is None:
            plan = publisher.make_plan(block)
            # As many heads are worth remembering.
            self._parser.heads_max = max(HEADS_MAX, len(publisher.plans))
        if receipt:
            receipt = checked_receipt(receipt, self._version)
        if plan.transaction is not None:
            member.transactions.send(plan.transaction, plan, body)
            waits = False
        else:
            reached = publisher.publish(plan, body)
            if reached <= 0 and (plan.is_mandatory or (reached < 0 and receipt)):
                raise refused(plan, reached)
            waits = plan.is_persistent
        if receipt:
            self._receipt(receipt, waits)

    def _answer(self, receipt: bytes, member: Member) -> None:
        """Promise the receipt of a frame other than SEND: what it changed on disk comes first."""
        member.subscriptions.flush()
        self._receipt(checked_receipt(receipt, self._version), self._broker.has_changes)

    def _other(self, command: bytes, block: bytes, receipt: bytes) -> bool:
        """Take any frame but SEND and the common ACK; True if it was the last one."""
        if command in (b"CONNECT", b"STOMP"):
            self._connect(block)
            return False
        run = COMMANDS.get(command)
        if run is None and command not in (b"SEND", LAST_COMMAND):
            raise bad_command(command.decode("utf-8", "replace"))
        member = self._member
        if member is None:
            raise StompError("Illegal command", "You must log in using CONNECT first")
        headers = read_headers(split_block(block, self._version))
        if run is None:
            self._release()
            if receipt:
                self._answer(receipt, member)
            self._end(b"")
            return True
        run(member, headers)
        if receipt:
            self._answer(receipt, member)
        # A queue that went with the frame may have ended the connection.
        return self._is_ending

    def _hold(self, data: bytes) -> None:
        """Keep what a peer sends ahead while its password is checked."""
        self._held.append(data)
        if sum(map(len, self._held)) > LOGIN_HELD_BYTES_MAX:
            self._fail(StompError("Bad CONNECT", "Too much was sent before the login\n"), b"")

    def _connect(self, block: bytes) -> None:
        if self._member is not None:
            raise StompError("Illegal command", "You are already logged in")
        request = ConnectRequest(block)
        self._version = request.version
        login = self._accounts.authenticate(
            request.credentials(self.certificate), self._is_loopback, self.peer
        )
        if login.is_settled:
            self._enter(request, login)
            return
        self._login = login
        login.on_settled = lambda: self._go_on(request, login)

    def _go_on(self, request: ConnectRequest, login: Login) -> None:
        """The password has been checked meanwhile: log in, and take what the peer has sent ahead."""
        if self._is_ending or self._login is not login:
            return
        self._login = None
        held, self._held = b"".join(self._held), []
        try:
            self._enter(request, login)
        except StompError as error:
            self._fail(error, b"")
        self.receive_data(held)
        self._wake(self)

    def _enter(self, request: ConnectRequest, login: Login) -> None:
        broker, limits = self._broker, self._limits
        try:
            identity = login.identity()
        except AccessRefused as error:
            log.warning("STOMP login from %s refused: %s", self.peer, error.text)
            raise StompError("Bad CONNECT", error.text) from None
        vhost = request.find_vhost(broker, identity, limits.profile)
        self._parser.body_bytes_max = limits.body_bytes_max
        self._parser.is_single = False
        send_ms, receive_ms = request.agree(limits.heart_beat_ms_min)
        self._beats = Heartbeat(
            send_ms / 1000 * _SEND_SLACK,
            receive_ms / 1000 * limits.heart_beat_tolerance,
            broker.clock.now(),
        )
        token = broker.random_name()[:_TOKEN_LENGTH].encode()
        plans = PlanTable(SHARED_ROOM, self._parser.forget)
        table = SubscriptionTable(broker, vhost, identity, limits, self, request, token)
        publisher = Publisher(broker, vhost, identity, table, self._version, limits.profile, plans)
        self._member = Member(vhost, identity, table, publisher, limits)
        self._output.append(request.answer(token, send_ms, receive_ms))
