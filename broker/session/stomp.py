"""One STOMP peer: its frames become calls of the core, its deliveries MESSAGE frames.

Sans-I/O (see `session.base`).  Invariants: receipts keep their order, and those of persistent messages and of changed
topology come after `fdatasync`; ACK frames of one read are settled together; after the first ERROR (or DISCONNECT)
nothing more is read or delivered.  Must not know sockets or files.
Tests: tests/conformance/stomp*.json, tests/unit/broker/session/test_stomp.py, tests/property/test_stomp_session.py.
"""

from __future__ import annotations

from collections.abc import Callable
from typing import Final, final

from broker.core.broker import Broker
from broker.core.delivery import Delivery
from broker.core.message import Message
from broker.core.subscription import UNLIMITED, Subscription
from broker.errors import AccessRefused, BrokerError, ProtocolViolation
from broker.session.auth import Accounts, Identity
from broker.session.base import Wake
from broker.session.heartbeat import Heartbeat
from broker.session.stomp_connect import ConnectRequest, StompLimits, agree
from broker.session.stomp_consume import (
    DURABLE_NAME_HEADERS,
    GENERATED_PREFIX,
    SubscribeRequest,
    durable_name,
    queue_to_consume,
)
from broker.session.stomp_destinations import Headers, Name, is_true, publish_to, read_name
from broker.session.stomp_errors import (
    StompError,
    encode_error,
    error_of,
    missing_header,
)
from broker.session.stomp_promises import Promises
from broker.session.stomp_send import (
    SendPlan,
    check_send,
    cut_receipt,
    kept_block,
    read_headers,
    refused,
)
from broker.session.stomp_subscription import StompSubscription
from broker.session.stomp_transaction import SettleKind, Settlement, Transaction
from broker.wire.properties import STOMP
from broker.wire.stomp import FrameParser, encode_frame
from broker.wire.stomp_headers import V10, V11, V12, VERSION_TEXTS, escape, split_block, unescape
from broker.wire.stomp_properties import REPLY_QUEUE_PREFIX

SERVER: Final = b"gridmsg"
TEMP_QUEUE_PREFIX: Final = "/temp-queue/"
_PLANS_MAX: Final = 64
_PLAN_BYTES_MAX: Final = 1024
_SEND_SLACK: Final = 0.75
"""Heart-beats are sent this part of the agreed time after the last output: a timer is never early."""


@final
class StompSession:
    """The protocol state of one STOMP connection."""

    __slots__ = (
        "_accounts",
        "_acknowledged",
        "_beats",
        "_broker",
        "_client_id",
        "_identity",
        "_is_ending",
        "_is_loopback",
        "_limits",
        "_login_by",
        "_output",
        "_parser",
        "_plans",
        "_prefixes",
        "_promises",
        "_subscription_count",
        "_subscriptions",
        "_temp_queues",
        "_token",
        "_transactions",
        "_version",
        "_vhost",
        "_wake",
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
        self._vhost = broker.vhost(broker.default_vhost)
        self._identity: Identity | None = None
        self._client_id = ""
        self._version = V12
        self._token = b""
        self._output: list[bytes] = []
        self._promises = Promises()
        self._plans: dict[bytes, SendPlan] = {}
        self._acknowledged: list[Delivery] = []
        self._subscriptions: dict[str, StompSubscription] = {}
        self._prefixes: dict[bytes, StompSubscription] = {}
        self._subscription_count = 0
        self._transactions: dict[str, Transaction] = {}
        self._temp_queues: dict[str, str] = {}
        # True from the last frame on (ERROR or DISCONNECT); `is_closing` follows when all receipts are out.
        self._is_ending = False

    # Session

    @property
    def user(self) -> str:
        """Who has logged in; empty before."""
        return "" if self._identity is None else self._identity.name

    @property
    def protocol(self) -> str:
        """The protocol for listings, with the version agreed."""
        return f"STOMP {VERSION_TEXTS[self._version]}"

    def receive_data(self, data: bytes) -> None:
        if self._is_ending:
            return
        self._beats.heard(self._broker.clock.now())
        parser = self._parser
        is_first = parser.is_single
        block = b""
        try:
            frames = parser.feed(data)
            while frames:
                for command, block, body in frames:
                    if command == b"SEND" and self._identity is not None:
                        self._send(block, body)
                    elif command == b"ACK" and self._identity is not None:
                        self._ack(block)
                    elif self._other(command, block):
                        return
                # Before login frames come one by one, since login raises their limits.
                frames = parser.feed(b"") if is_first else []
            block = b""
            if parser.violation is not None:
                raise parser.violation
        except StompError as error:
            self._fail(error, block)
        except BrokerError as error:
            self._fail(error_of(error), block)
        self._flush_acknowledged()

    def output(self) -> list[bytes]:
        output = self._output
        if output:
            self._output = []
            self._beats.sent(self._broker.clock.now())
        return output

    def end_turn(self, commit: int) -> None:
        self._promises.end_turn(commit)

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

    def tick(self, now: float) -> None:
        if self._is_ending:
            return
        if self._identity is None:
            if now >= self._login_by:
                self._fail(StompError("Login timeout", "No CONNECT came in time\n"), b"")
            return
        if self._broker.store.is_blocked:
            # A publisher is not read then: its heart-beats wait in the kernel.
            self._beats.heard(now)
        if self._beats.is_dead(now):
            self._fail(StompError("Heart-beat timeout", "The peer was silent for too long\n"), b"")
        elif self._beats.is_due(now):
            self._output.append(b"\n")

    def next_deadline(self) -> float | None:
        if self._is_ending:
            return None
        if self._identity is None:
            return self._login_by
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
        shown = context.queue_name
        error = StompError(
            "Server cancelled subscription",
            f"The server has canceled a subscription.\nNo more messages will be delivered for {shown}: {reason}.\n",
            [] if context.id is None else [(b"subscription", context.id.encode())],
        )
        # What it holds is given back when the socket is gone: this is called from inside the core.
        self._end(encode_error(error, b"", self._version))
        self._wake(self)

    # Ending

    def _fail(self, error: StompError, block: bytes) -> None:
        """Send an ERROR as the last frame, for the frame with this header block."""
        self._flush_acknowledged()
        receipt = cut_receipt(block)[1]
        try:
            receipt = unescape(receipt, self._version)
        except ProtocolViolation:
            receipt = b""
        self._end(encode_error(error, receipt, self._version))
        self._release()

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
        """Give everything back to the core: subscriptions, what they hold, exclusive queues."""
        self._flush_acknowledged()
        held: list[Delivery] = []
        for transaction in self._transactions.values():
            held.extend(transaction.deliveries())
        self._transactions.clear()
        for subscription in self._prefixes.values():
            if subscription.subscription is not None:
                self._vhost.unsubscribe(subscription.subscription)
            held.extend(subscription.unsettled.values())
            subscription.unsettled = {}
        self._prefixes.clear()
        self._subscriptions.clear()
        self._plans.clear()
        if held:
            self._broker.requeue(held)
        self._broker.forget_owner(self)

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

    # SEND

    def _send(self, block: bytes, body: bytes) -> None:
        plan = self._plans.get(block)
        receipt = b""
        if plan is None:
            rest, receipt = cut_receipt(block)
            if receipt:
                receipt = self._checked_receipt(receipt)
            plan = self._plans.get(rest) or self._make_plan(rest)
        if plan.transaction is not None:
            transaction = self._transaction(plan.transaction)
            transaction.send(plan, body)
            self._check_transaction(transaction)
            if receipt:
                self._receipt(receipt, waits=False)
            return
        reached = self._publish(plan, body)
        if reached <= 0 and (plan.is_mandatory or (reached < 0 and receipt)):
            raise refused(plan, self._vhost, reached)
        if receipt:
            self._receipt(receipt, plan.is_persistent)

    def _checked_receipt(self, receipt: bytes) -> bytes:
        """A receipt's value as it may be sent back; raises ProtocolViolation for a bad escape."""
        if self._version == V10:
            return receipt.lstrip(b" \t")
        if b"\\" in receipt:
            unescape(receipt, self._version)
        return receipt

    def _publish(self, plan: SendPlan, body: bytes) -> int:
        vhost = self._vhost
        if plan.version != vhost.version:
            self._renew(plan)
        now_ms = self._broker.now_ms
        return vhost.publish(
            Message(
                plan.destination,
                STOMP,
                plan.header,
                body,
                plan.is_persistent,
                plan.priority,
                now_ms,
                plan.expires_at(now_ms) if plan.expiration_ms >= 0 or plan.expires_at_ms else 0,
            )
        )

    def _renew(self, plan: SendPlan) -> None:
        """Make sure of a plan's destination again: the topology changed."""
        plan.destination = publish_to(plan.name, self._vhost, self._who(), plan.headers, self)
        plan.version = self._vhost.version

    def _make_plan(self, block: bytes) -> SendPlan:
        pairs = split_block(block, self._version)
        headers = read_headers(pairs)
        identity = self._who()
        check_send(pairs, headers, identity)
        text = headers.get("destination")
        if not text:
            raise missing_header("SEND", "destination")
        name = self._read_name(text, "SEND")
        destination = publish_to(name, self._vhost, identity, headers, self)
        plan = SendPlan(name, destination, headers, self._vhost.version)
        reply_to = headers.get("reply-to", "")
        new_reply_to: bytes | None = None
        if reply_to.startswith(TEMP_QUEUE_PREFIX):
            queue = self._temp_queue(reply_to, is_implicit=True)
            new_reply_to = (REPLY_QUEUE_PREFIX + queue).encode()
        plan.header = kept_block(pairs, new_reply_to)
        if len(block) <= _PLAN_BYTES_MAX and new_reply_to is None:
            if len(self._plans) >= _PLANS_MAX:
                self._plans.clear()
            self._plans[block] = plan
        return plan

    def _read_name(self, text: str, command: str) -> Name:
        """Take a destination apart, temporary queues of this connection resolved."""
        name = read_name(text, self._vhost)
        if name.kind != "temp-queue":
            return name
        if command == "SUBSCRIBE":
            return Name(text, "amq/queue", self._temp_queue(text, is_implicit=False))
        queue = self._temp_queues.get(text)
        if queue is None:
            raise StompError(
                "Invalid destination",
                f"'{text[:300]}' is a temporary queue that this connection does not have\n",
            )
        return Name(text, "reply-queue", queue)

    def _temp_queue(self, text: str, *, is_implicit: bool) -> str:
        """The queue behind /temp-queue/…, made at first use; an implicit one is subscribed to by its own name."""
        queue = self._temp_queues.get(text)
        if queue is not None and queue in self._vhost.queues:
            return queue
        read_name(text, self._vhost)
        if len(self._temp_queues) >= self._limits.subscriptions_max:
            raise StompError("Too many subscriptions", "Too many temporary queues\n")
        identity = self._who()
        identity.check(self._vhost.name, "configure", "queue", GENERATED_PREFIX)
        made = self._vhost.declare_queue("", exclusive=True, auto_delete=True, owner=self)
        self._temp_queues[text] = made.name
        if is_implicit:
            identity.check(self._vhost.name, "read", "queue", made.name)
            request = SubscribeRequest({}, self._limits)
            self._add_subscription(text, text, request, made.name)
        return made.name

    # Subscriptions

    def _subscribe(self, headers: Headers) -> None:
        text = headers.get("destination")
        if not text:
            raise missing_header("SUBSCRIBE", "destination")
        id = headers.get("id")
        if id is None and self._version != V10:
            raise missing_header("SUBSCRIBE", "id")
        key = text if id is None else id
        if key in self._subscriptions:
            raise StompError(
                "Duplicated subscription identifier",
                f"A subscription identified by '{key[:200]}' already exists.",
            )
        request = SubscribeRequest(headers, self._limits)
        name = self._read_name(text, "SUBSCRIBE")
        queue, is_durable = queue_to_consume(
            name, self._vhost, self._who(), headers, self._client_id, self
        )
        added = self._add_subscription(key, id, request, queue)
        added.deletes_queue = is_durable

    def _add_subscription(
        self, key: str, id: str | None, request: SubscribeRequest, queue: str
    ) -> StompSubscription:
        if len(self._prefixes) >= self._limits.subscriptions_max:
            raise StompError(
                "Too many subscriptions", f"{len(self._prefixes)} are open on this connection\n"
            )
        self._subscription_count += 1
        prefix = b"%b-%d" % (self._token, self._subscription_count)
        mode = request.ack_mode
        added = StompSubscription(self._vhost, id, key, prefix, mode, self._version)
        added.queue_name = queue
        subscription = Subscription(
            self,
            key,
            is_acknowledged=mode != "auto",
            credit=UNLIMITED if mode == "auto" else request.prefetch,
            is_exclusive=request.is_exclusive,
            priority=request.priority,
            context=added,
        )
        self._vhost.subscribe(queue, subscription, self)
        added.subscription = subscription
        self._subscriptions[key] = self._prefixes[prefix] = added
        return added

    def _unsubscribe(self, headers: Headers) -> None:
        key = headers.get("id", headers.get("destination"))
        durable = next((headers[h] for h in DURABLE_NAME_HEADERS if headers.get(h)), "")
        if not key and not durable:
            raise missing_header("UNSUBSCRIBE", "id")
        wants_delete = bool(durable) or any(
            is_true(headers, name, default=False) for name in ("durable", "persistent")
        )
        ended = self._subscriptions.pop(key or "", None)
        if ended is None:
            queue = durable_name(headers, "", self._client_id) if durable else ""
            if queue not in self._vhost.queues:
                raise StompError("No subscription found", f"Subscription to '{key}' not found\n")
        else:
            assert ended.subscription is not None, "an open subscription is known to the core"
            self._vhost.unsubscribe(ended.subscription)
            ended.subscription = None
            queue = ended.queue_name if ended.deletes_queue else ""
            if not ended.unsettled:
                # Otherwise late ACKs are still welcome; what is never acknowledged goes back at the end.
                del self._prefixes[ended.prefix]
        if wants_delete and queue:
            self._who().check(self._vhost.name, "configure", "queue", queue)
            self._vhost.delete_queue(queue, owner=self)

    # ACK and NACK

    def _ack(self, block: bytes) -> None:
        """Settle by ACK; the form with nothing but `id` needs no parsing."""
        if self._version == V12 and block.startswith(b"id:") and block.count(b"\n") == 1:
            prefix, _, digits = block[3:-1].rpartition(b"-")
            subscription = self._prefixes.get(prefix)
            if subscription is not None and subscription.ack_mode != "auto" and digits.isdigit():
                taken = subscription.take(int(digits))
                if taken:
                    self._acknowledged += taken
                    if subscription.subscription is None and not subscription.unsettled:
                        del self._prefixes[prefix]
                    return
        headers = read_headers(split_block(block, self._version))
        self._settle("ACK", "acknowledge", headers)
        self._answer(headers)

    def _nack(self, headers: Headers) -> None:
        if self._version == V10:
            raise _bad_command("NACK")
        self._flush_acknowledged()
        kind: SettleKind = "requeue" if is_true(headers, "requeue", default=True) else "reject"
        self._settle("NACK", kind, headers)

    def _settle(self, command: str, kind: SettleKind, headers: Headers) -> None:
        subscription, number = self._message(command, headers)
        if subscription is None:
            return
        cause = headers.get("cause", "")
        open_name = headers.get("transaction")
        if open_name is not None:
            transaction = self._transaction(open_name)
            settlement = Settlement(kind, subscription, number, cause)
            if not settlement.deliveries:
                raise _unknown_message(headers)
            transaction.settle(settlement)
            self._check_transaction(transaction)
            return
        taken = subscription.take(number)
        if not taken:
            raise _unknown_message(headers)
        self._apply(kind, taken, cause)
        if subscription.subscription is None and not subscription.unsettled:
            self._prefixes.pop(subscription.prefix, None)

    def _apply(self, kind: SettleKind, deliveries: list[Delivery], cause: str) -> None:
        if kind == "acknowledge":
            self._acknowledged += deliveries
        elif kind == "requeue":
            self._broker.requeue(deliveries)
        else:
            self._broker.reject(deliveries, cause)

    def _message(self, command: str, headers: Headers) -> tuple[StompSubscription | None, int]:
        """The message that an ACK or NACK names; None for one that needed none and is let pass."""
        name = "id" if self._version == V12 else "message-id"
        value = headers.get(name)
        if value is None:
            raise missing_header(command, name)
        prefix, _, digits = value.encode().rpartition(b"-")
        subscription = self._prefixes.get(prefix)
        if subscription is None or not digits.isdigit() or len(digits) > 18:
            raise _unknown_message(headers)
        if self._version == V11:
            told = headers.get("subscription")
            if told is not None and told != subscription.id:
                raise StompError(
                    "Subscription not found",
                    f"There is no current subscription with tag '{told[:200]}'\n",
                )
        number = int(digits)
        if subscription.ack_mode == "auto":
            if self._limits.ignores_auto_acks and subscription.was_sent(number):
                return None, 0
            raise _unknown_message(headers)
        return subscription, number

    def _flush_acknowledged(self) -> None:
        """Settle what the ACK frames of this read named, in one call."""
        if self._acknowledged:
            acknowledged = self._acknowledged
            self._acknowledged = []
            self._broker.acknowledge(acknowledged)

    # Transactions

    def _begin(self, headers: Headers) -> None:
        name = headers.get("transaction")
        if name is None:
            raise missing_header("BEGIN", "transaction")
        if name in self._transactions:
            raise StompError("Bad transaction", f"Transaction '{name[:200]}' has begun already\n")
        if len(self._transactions) >= self._limits.transactions_max:
            raise StompError(
                "Bad transaction", f"{len(self._transactions)} transactions are open\n"
            )
        self._transactions[name] = Transaction()

    def _transaction(self, name: str) -> Transaction:
        transaction = self._transactions.get(name)
        if transaction is None:
            raise StompError("Bad transaction", f'Invalid transaction identifier: "{name[:200]}"\n')
        return transaction

    def _check_transaction(self, transaction: Transaction) -> None:
        limits = self._limits
        if (
            transaction.frame_count > limits.transaction_frames_max
            or transaction.size_bytes > limits.transaction_bytes_max
        ):
            raise StompError(
                "Bad transaction",
                f"A transaction holds at most {limits.transaction_frames_max} frames and "
                f"{limits.transaction_bytes_max} bytes\n",
            )

    def _commit(self, headers: Headers) -> None:
        name = headers.get("transaction")
        if name is None:
            raise missing_header("COMMIT", "transaction")
        transaction = self._transaction(name)
        # Whatever can be refused is refused here, before anything of it is done.
        for plan, _ in transaction.sends:
            self._renew(plan)
            exchange = self._vhost.exchange(plan.destination.exchange)
            if exchange.is_internal:
                raise AccessRefused(
                    f"cannot publish to internal exchange '{exchange.name}' in vhost '{self._vhost.name}'"
                )
        del self._transactions[name]
        error: StompError | None = None
        for plan, body in transaction.sends:
            reached = self._publish(plan, body)
            if reached <= 0 and (plan.is_mandatory or reached < 0) and error is None:
                error = refused(plan, self._vhost, reached)
                error.body += (
                    "The transaction's other messages and acknowledgements were committed.\n"
                )
        for settlement in transaction.settlements:
            self._apply(settlement.kind, settlement.deliveries, settlement.cause)
        self._flush_acknowledged()
        if error is not None:
            raise error

    def _abort(self, headers: Headers) -> None:
        name = headers.get("transaction")
        if name is None:
            raise missing_header("ABORT", "transaction")
        self._transaction(name).undo()
        del self._transactions[name]

    # The other frames

    def _other(self, command: bytes, block: bytes) -> bool:
        """Take a frame that is no SEND or ACK of a peer that has logged in; True if it was the last one."""
        verb = VERBS.get(command)
        if verb is None and command not in (b"CONNECT", b"STOMP", b"SEND", b"ACK"):
            raise _bad_command(command[:40].decode("utf-8", "replace"))
        if command in (b"CONNECT", b"STOMP"):
            self._connect(block)
            return False
        if verb is None or self._identity is None:
            raise StompError("Illegal command", "You must log in using CONNECT first")
        headers = read_headers(split_block(block, self._version))
        verb(self, headers)
        if command == b"DISCONNECT":
            return True
        self._answer(headers)
        return False

    def _answer(self, headers: Headers) -> None:
        """Promise the receipt that a frame asked for; what it changed on disk comes first."""
        receipt = headers.get("receipt")
        if receipt:
            self._flush_acknowledged()
            self._receipt(escape(receipt.encode(), self._version), self._broker.has_changes)

    def _disconnect(self, headers: Headers) -> None:
        receipt = headers.get("receipt")
        self._release()
        frame = b""
        if receipt:
            frame = encode_frame(
                b"RECEIPT", [(b"receipt-id", receipt.encode())], b"", self._version
            )
            if self._broker.has_changes:
                self._promises.add(frame)
                frame = b""
        self._end(frame)

    def _connect(self, block: bytes) -> None:
        if self._identity is not None:
            raise StompError("Illegal command", "You are already logged in")
        request = ConnectRequest(block)
        self._version = request.version
        broker = self._broker
        has_login = bool(request.login or request.passcode)
        login, passcode = (request.login, request.passcode) if has_login else ("guest", "guest")
        try:
            identity = self._accounts.login(login, passcode, self._is_loopback)
        except AccessRefused as error:
            raise StompError("Bad CONNECT", error.text) from None
        # Many clients send the address they dialled as `host`: what names no vhost means the default one.
        self._vhost = broker.vhosts.get(request.host) or broker.vhost(broker.default_vhost)
        if not identity.may_enter(self._vhost.name):
            raise StompError("Bad CONNECT", f"Virtual host '{self._vhost.name}' access denied")
        self._identity = identity
        self._client_id = request.client_id
        self._parser.body_bytes_max = self._limits.body_bytes_max
        self._parser.is_single = False
        least_ms = self._limits.heart_beat_ms_min
        send_ms = agree(least_ms, request.receives_ms)
        receive_ms = agree(least_ms, request.sends_ms)
        self._beats = Heartbeat(
            send_ms / 1000 * _SEND_SLACK,
            receive_ms / 1000 * self._limits.heart_beat_tolerance,
            broker.clock.now(),
        )
        self._token = broker.random_name()[:16].encode()
        self._output.append(
            encode_frame(
                b"CONNECTED",
                [
                    (b"version", VERSION_TEXTS[self._version].encode()),
                    (b"session", b"session-" + self._token),
                    (b"heart-beat", b"%d,%d" % (send_ms, receive_ms)),
                    (b"server", SERVER),
                ],
            )
        )

    def _who(self) -> Identity:
        assert self._identity is not None, "frames but CONNECT need a login"
        return self._identity


def _bad_command(command: str) -> StompError:
    return StompError("Bad command", f'Could not interpret command "{command}"\n')


def _unknown_message(headers: Headers) -> StompError:
    shown = headers.get("id", headers.get("message-id", ""))[:200]
    return StompError("Message not found", f"No message '{shown}' waits for an ACK or NACK here\n")


VERBS: Final[dict[bytes, Callable[[StompSession, Headers], None]]] = {
    b"SUBSCRIBE": StompSession._subscribe,
    b"UNSUBSCRIBE": StompSession._unsubscribe,
    b"NACK": StompSession._nack,
    b"BEGIN": StompSession._begin,
    b"COMMIT": StompSession._commit,
    b"ABORT": StompSession._abort,
    b"DISCONNECT": StompSession._disconnect,
}
"""Frames of a peer that has logged in, but for SEND and ACK, which have a short way of their own."""
