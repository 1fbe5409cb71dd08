"""A link between two pairs of brokers, primary and standby each, killed under load: nothing lost, nothing doubled.

Exactly once also over take-overs, as cursors, positions and origins are in the stores that the pairs share.
GRIDMSG_LINK_FAILOVERS sets how many kills (4: each side's owner twice), GRIDMSG_SEED their order.
"""

from __future__ import annotations

import os
import random
import threading
import time
from collections import Counter
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pika
import pytest

from tests.support.failover import Node, Pair
from tests.support.waiting import PATIENCE_SECONDS, wait_until

pytestmark = [pytest.mark.crash, pytest.mark.slow]

KILLS = int(os.environ.get("GRIDMSG_LINK_FAILOVERS", "4"))
SEED = int(os.environ.get("GRIDMSG_SEED", "1"))
BETWEEN_SECONDS = 1.5
FAILOVER = '[failover]\nlease = "20s"\n'
LINK = """
[[link]]
name = "far"
address = [{addresses}]
push-exchanges = ["there"]
pull-exchanges = ["here"]
push-queues = ["work"]
retry = 0.1
retry-max = 0.5
window = "256KiB"
connections = 2
"""
PERSISTENT = pika.BasicProperties(delivery_mode=2)


def amqp(node: Node) -> Any:
    parameters = pika.ConnectionParameters(
        "127.0.0.1", 5672 + node.offset, heartbeat=0, blocked_connection_timeout=30
    )
    return pika.BlockingConnection(parameters).channel()


class Publisher:
    """Publishes with confirms to whoever is active of a pair; what was confirmed is `confirmed`, all tried `sent`."""

    def __init__(self, pair: Pair, exchange: str, key: str) -> None:
        self.sent: set[bytes] = set()
        self.confirmed: set[bytes] = set()
        self._pair = pair
        self._place = (exchange, key)
        self._is_ended = False
        self._thread = threading.Thread(target=self._run, daemon=True)
        self._thread.start()

    def _run(self) -> None:
        number = 0
        while not self._is_ended:
            for node in self._pair.nodes:
                try:
                    on = amqp(node)
                    on.confirm_delivery()
                    while not self._is_ended:
                        body = b"%d-" % number + b"x" * 200
                        number += 1
                        self.sent.add(body)
                        on.basic_publish(*self._place, body, PERSISTENT)
                        self.confirmed.add(body)
                    on.connection.close()
                except (pika.exceptions.AMQPError, OSError):
                    time.sleep(0.02)

    def end(self) -> None:
        self._is_ended = True
        self._thread.join(PATIENCE_SECONDS)
        assert not self._thread.is_alive()


@pytest.fixture
def pairs(tmp_path: Path) -> Iterator[tuple[Pair, Pair]]:
    far = Pair(tmp_path / "far", FAILOVER)
    addresses = ", ".join(f'"127.0.0.1:{5672 + node.offset}"' for node in far.nodes)
    near = Pair(tmp_path / "near", FAILOVER + LINK.format(addresses=addresses))
    try:
        for pair in (far, near):
            pair.start()
            # From here on as a service manager would: who was killed is started again.
            pair.is_kept = True
        yield near, far
    finally:
        near.close()
        far.close()


def depth(on: Any, queue: str) -> int:
    return int(on.queue_declare(queue, passive=True).method.message_count)


def drain(on: Any, queue: str) -> Counter[bytes]:
    found: Counter[bytes] = Counter()
    for method, _, body in on.consume(queue, auto_ack=True, inactivity_timeout=1):
        if method is None:
            return found
        found[body] += 1
    return found


def test_owners_of_both_sides_are_killed_under_load(pairs: tuple[Pair, Pair]) -> None:
    near, far = pairs
    on_near, on_far = amqp(near.active()), amqp(far.active())
    for on, exchange in ((on_near, "here"), (on_far, "there")):
        on.exchange_declare(exchange, "topic", durable=True)
        on.queue_declare(exchange, durable=True)
        on.queue_bind(exchange, exchange, "#")

    def is_bound(on: Any, exchange: str) -> bool:
        # With `mandatory`, what no link wants yet comes back.
        try:
            on.basic_publish(exchange, "probe", b"probe", PERSISTENT, mandatory=True)
        except (pika.exceptions.UnroutableError, pika.exceptions.NackError):
            return False
        return True

    for site, exchange in ((near, "there"), (far, "here")):
        on = amqp(site.active())
        on.exchange_declare(exchange, "topic", durable=True)
        on.confirm_delivery()
        wait_until(lambda on=on, exchange=exchange: is_bound(on, exchange), "demand", near, far)  # type: ignore[misc]

    publishers = {
        "there": (Publisher(near, "there", "k"), far),
        "work": (Publisher(near, "", "work"), far),
        "here": (Publisher(far, "here", "k"), near),
    }
    source = random.Random(SEED)  # noqa: S311 - a test's order
    order = [near, far] * (KILLS // 2)
    source.shuffle(order)
    for pair in order:
        time.sleep(BETWEEN_SECONDS * source.random() * 2)
        active, _ = pair.roles()
        active.kill()
        pair.roles()
    for publisher, _ in publishers.values():
        publisher.end()

    for queue, (publisher, site) in publishers.items():
        on = amqp(site.active())
        found: Counter[bytes] = Counter()

        def is_there(on=on, queue=queue, found=found, wanted=publisher.confirmed) -> bool:  # type: ignore[no-untyped-def]
            found.update(drain(on, queue))
            return wanted <= set(found)

        # A depth would also count what was sent and never confirmed.
        wait_until(is_there, f"{queue}: arrival", near, far)
        found.update(drain(on, queue))
        found.pop(b"probe", None)
        assert [body[:20] for body, count in found.items() if count > 1] == []
        assert publisher.confirmed - set(found) == set()
        assert set(found) <= publisher.sent
        print(
            f"{queue}: {len(publisher.confirmed)} confirmed, {len(publisher.sent)} sent, {len(found)} there"
        )
