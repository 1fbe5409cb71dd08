"""Publishers and a consumer at work on a pair of brokers, and the account of what they were promised.

A publisher sends again what was not confirmed, so such a message may be there twice.  All others: a confirmed one is there once,
or was acknowledged; what came before comes again only with the mark `redelivered`; what was acknowledged, and that confirmed, never.
"""

from __future__ import annotations

import contextlib
import threading
import time
import zlib
from collections.abc import Iterable

from tests.support.failover import QUEUE, Pair, Publisher, Stomp, drain
from tests.support.waiting import PATIENCE_SECONDS, wait_until

HELD_MAX = 8
PREFETCH = 20


class Consumer(threading.Thread):
    """Takes messages, acknowledges most at once and some late; notes each delivery and each confirmed acknowledgement."""

    def __init__(self, ports: list[int]) -> None:
        super().__init__(daemon=True)
        self.ports = ports
        # body → of each delivery: when, by which port, whether marked redelivered, whether its acknowledgement was confirmed before.
        self.deliveries: dict[bytes, list[tuple[float, int, bool, bool]]] = {}
        self.acknowledged: set[bytes] = set()
        self.confirmed: set[bytes] = set()
        self.last: tuple[float, int] = (0.0, 0)
        self.is_stopped = threading.Event()

    def run(self) -> None:
        at = 0
        while not self.is_stopped.is_set():
            port = self.ports[at % len(self.ports)]
            at += 1
            try:
                connection = Stomp(port)
            except (OSError, AssertionError):
                time.sleep(0.01)
                continue
            with contextlib.suppress(OSError), contextlib.closing(connection):
                self._consume(connection, port)

    def _consume(self, connection: Stomp, port: int) -> None:
        connection.send(
            b"SUBSCRIBE\nid:1\ndestination:%s\nack:client-individual\nprefetch-count:%d\n\n"
            % (QUEUE.encode(), PREFETCH)
        )
        waiting: dict[bytes, bytes] = {}
        held: list[tuple[bytes, bytes]] = []
        while not self.is_stopped.is_set():
            frame = connection.frame()
            if frame.startswith(b"RECEIPT"):
                self.confirmed.add(waiting.pop(header(frame, b"receipt-id")))
            elif frame.startswith(b"MESSAGE"):
                held.append(self._note(frame, port))
            # Every fifth is held back until others were taken.
            while held and (len(held) > HELD_MAX or zlib.crc32(held[-1][1]) % 5):
                ack, body = held.pop(0 if len(held) > HELD_MAX else -1)
                self.acknowledged.add(body)
                waiting[ack] = body
                connection.send(b"ACK\nid:%s\nreceipt:%s\n\n" % (ack, ack))
        # Polite, so that what is held is queued again before the account.
        connection.send(b"DISCONNECT\nreceipt:end\n\n")
        while header(frame := connection.frame(), b"receipt-id") != b"end":
            if frame.startswith(b"RECEIPT"):
                self.confirmed.add(waiting.pop(header(frame, b"receipt-id")))

    def _note(self, frame: bytes, port: int) -> tuple[bytes, bytes]:
        body = frame.partition(b"\n\n")[2]
        self.last = (time.monotonic(), port)
        is_marked = header(frame, b"redelivered") == b"true"
        row = (*self.last, is_marked, body in self.confirmed)
        self.deliveries.setdefault(body, []).append(row)
        return header(frame, b"ack"), body


def header(frame: bytes, name: bytes) -> bytes:
    """A header's value; empty when it is missing."""
    head = frame.partition(b"\n\n")[0]
    return head.partition(b"\n%s:" % name)[2].partition(b"\n")[0]


class Load:
    """Publishers and, if asked for, a consumer; the account at the end."""

    def __init__(self, pair: Pair, count: int = 2, has_consumer: bool = False) -> None:
        self.pair = pair
        ports = [node.stomp for node in pair.nodes]
        self.publishers = [Publisher(ports, f"p{n}") for n in range(count)]
        self.consumer = Consumer(ports) if has_consumer else None
        for one in (*self.publishers, *([self.consumer] if self.consumer else [])):
            one.start()
        self.wait_for_confirms()

    def confirmed_count(self) -> int:
        return sum(len(one.confirmed) for one in self.publishers)

    def wait_for_confirms(self, count: int = 20) -> None:
        goal = self.confirmed_count() + count
        wait_until(lambda: self.confirmed_count() >= goal, f"{count} confirms", self.pair)

    def wait_for_delivery(self, port: int, since: float) -> float:
        """Seconds until the consumer gets something from a port."""
        consumer = self.consumer
        assert consumer is not None

        def seconds() -> float:
            at, by = consumer.last
            return at - since if at > since and by == port else 0.0

        return wait_until(seconds, f"a delivery from {port}", self.pair, pause_s=0.002)

    def account(self) -> int:
        """Stop, take everything out, and compare: returns how many were confirmed."""
        threads = [*self.publishers, *([self.consumer] if self.consumer else [])]
        for one in threads:
            one.is_stopped.set()
        for one in threads:
            one.join(PATIENCE_SECONDS)
            assert not one.is_alive(), self.pair.logs()
        counts: dict[bytes, int] = {}
        for body, _ in drain(self.pair.active().stomp):
            counts[body] = counts.get(body, 0) + 1
        gone = self.consumer.acknowledged if self.consumer else set()
        again = {body for one in self.publishers for body in bodies(one, one.sent_again)}
        confirmed = {body for one in self.publishers for body in bodies(one, one.confirmed)}
        lost = sorted(confirmed - set(counts) - gone)
        assert not lost, f"{len(lost)} confirmed lost: {lost[:9]}\n{self.pair.logs()}"
        twice = [body for body, count in counts.items() if count > 1 and body not in again]
        assert not twice, f"stored twice though sent once: {twice[:9]}"
        if self.consumer:
            back = [body for body in counts if body in self.consumer.confirmed - again]
            assert not back, f"there though acknowledged, and that confirmed: {back[:9]}"
            self._judge_deliveries(again)
        return len(confirmed)

    def _judge_deliveries(self, again: set[bytes]) -> None:
        assert self.consumer is not None
        for body, rows in self.consumer.deliveries.items():
            if body in again:
                continue
            for at, (_, _, is_marked, was_settled) in enumerate(rows):
                assert not was_settled, f"{body!r} came again after its confirmed acknowledgement"
                assert is_marked or at == 0, f"{body!r} came again without `redelivered`"


def bodies(publisher: Publisher, numbers: Iterable[int]) -> Iterable[bytes]:
    return (b"%s:%d" % (publisher.label.encode(), number) for number in numbers)


def owner_changes(load: Load) -> int:
    """The fewest changes of owner that explain all confirms.

    Each broker that confirmed was an owner at some moment between the sending and the confirm; a confirm may be read late, but
    not before its broker had the message.
    """
    rows = [row for one in load.publishers for row in one.confirmed.values()]
    rows.sort(key=lambda row: row[1])
    changes = 0
    since = float("-inf")
    owner = rows[0][2] if rows else 0
    for sent_at, confirmed_at, port in rows:
        # What the former owner may have had in hand before the change.
        if port != owner and sent_at > since:
            changes += 1
            owner, since = port, confirmed_at
    return changes


def assert_one_owner_at_a_time(load: Load, changes_max: int) -> None:
    """Confirms change from broker to broker no more often than there were failovers."""
    changes = owner_changes(load)
    assert changes <= changes_max, f"{changes} changes of the confirming broker"
