"""Links to RabbitMQ, ActiveMQ and Artemis, cut at random moments under load while our broker is killed: nothing lost, doubles counted.

What is pushed to a queue there is pulled back into another one here, so each cut hits both directions.  GRIDMSG_FOREIGN_CUTS says
how many cuts each peer gets (12), GRIDMSG_SEED at which moments; every tenth comes with a kill of our broker.  RabbitMQ
is started here; ActiveMQ and Artemis as tests/interop/test_foreign_links.py says.
"""

from __future__ import annotations

import contextlib
import logging
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

from tests.interop.test_foreign_links import is_up, start
from tests.interop.test_links import PERSISTENT, Proxy, drain, links
from tests.support.rabbitmq import RabbitMq
from tests.support.site import Site
from tests.support.waiting import wait_until

pytestmark = [pytest.mark.slow, pytest.mark.interop]
CUTS = int(os.environ.get("GRIDMSG_FOREIGN_CUTS", "12"))
SEED = int(os.environ.get("GRIDMSG_SEED", "1"))
KILL_EVERY = 10
QUIET_SECONDS = 3.0
PAUSE_SECONDS_MAX = 1.2
PER_SECOND_MAX = 300


class Publisher(threading.Thread):
    """Publishes to `out` with confirms until told to stop; what was not confirmed is never sent again."""

    def __init__(self, port: int) -> None:
        super().__init__(daemon=True)
        self._port = port
        self.confirmed: set[bytes] = set()
        self.sent_count = 0
        self.is_stopped = False

    def run(self) -> None:
        logging.getLogger("pika").setLevel(logging.CRITICAL)
        while not self.is_stopped:
            with contextlib.suppress(pika.exceptions.AMQPError, OSError):
                self._publish()
            time.sleep(0.05)

    def _publish(self) -> None:
        parameters = pika.ConnectionParameters("127.0.0.1", self._port, heartbeat=0)
        connection = pika.BlockingConnection(parameters)
        channel = connection.channel()
        channel.confirm_delivery()
        while not self.is_stopped:
            body = b"%d" % self.sent_count
            self.sent_count += 1
            channel.basic_publish("", "out", body, PERSISTENT)
            self.confirmed.add(body)
            time.sleep(1 / PER_SECOND_MAX)
        connection.close()


@pytest.fixture(params=["rabbitmq-amqp", "rabbitmq-stomp", "activemq-stomp", "artemis-stomp"])
def far_side(request: Any, tmp_path_factory: pytest.TempPathFactory) -> Iterator[tuple[str, int]]:
    """The protocol to speak, and a port where a peer listens."""
    peer, protocol = request.param.split("-")
    if peer == "rabbitmq":
        node = RabbitMq(tmp_path_factory.mktemp("rabbit") / "node", {})
        node.start()
        yield protocol, node.amqp_port if protocol == "amqp" else node.stomp_port
        node.close()
        return
    address = os.environ.get(f"GRIDMSG_{peer.upper()}")
    if address is None:
        pytest.skip(f"set GRIDMSG_{peer.upper()}=HOST:PORT of a running {peer}'s STOMP listener")
    yield protocol, int(address.rpartition(":")[2])


def test_cuts_at_random_lose_nothing(far_side: tuple[str, int], tmp_path: Path) -> None:
    protocol, port = far_side
    site = Site(tmp_path / "site")
    proxy = Proxy(port)
    queue = f"chaos{os.getpid()}"
    publisher = Publisher(site.port(5672))
    chance = random.Random(f"{SEED} {protocol}")
    kill_count = 0
    try:
        streams = f'push-queues = ["out => {queue}"]\npull-queues = ["{queue} => back"]'
        start(site, proxy.port, protocol, streams)
        wait_until(lambda: is_up(site), "the link", site)
        publisher.start()
        for number in range(1, CUTS + 1):
            time.sleep(chance.uniform(0, PAUSE_SECONDS_MAX))
            proxy.cut()
            if number % KILL_EVERY == 0:
                site.kill("broker", "run")
                site.start_broker()
                kill_count += 1
        wait_until(lambda: is_up(site), "the link at the end", site)
        publisher.is_stopped = True
        publisher.join()
        found = collect(site, publisher.confirmed)
        proxy.cut()
        time.sleep(1.0)
        wait_until(lambda: is_up(site), "the link after it", site)
        late = collect(site, set())
    finally:
        publisher.is_stopped = True
        for words in list(site.processes):
            site.kill(*words.split())
        proxy.close()
    doubled = sum(count - 1 for count in found.values())
    print(
        f"\n{protocol} at {port}, seed {SEED}: {CUTS} cuts, {kill_count} kills, {len(publisher.confirmed)} confirmed, "
        f"{len(publisher.confirmed - set(found))} lost, {doubled} doubled"
    )
    assert publisher.confirmed <= set(found)
    assert len(publisher.confirmed) > CUTS
    assert not late, "what was settled does not come again"


def collect(site: Site, wanted: set[bytes]) -> Counter[bytes]:
    """Take what comes back until nothing is missing, nothing waits in the link and nothing came for a while."""
    parameters = pika.ConnectionParameters("127.0.0.1", site.port(5672), heartbeat=0)
    near = pika.BlockingConnection(parameters).channel()
    found: Counter[bytes] = Counter()
    quiet_since = [time.monotonic()]

    def is_quiet() -> bool:
        fresh = drain(near, "back")
        found.update(fresh)
        is_whole = wanted <= set(found) and not links(site)[0]["backlog"]
        if fresh or not is_whole:
            quiet_since[0] = time.monotonic()
        return time.monotonic() - quiet_since[0] > QUIET_SECONDS

    wait_until(is_quiet, "all that was confirmed", site)
    return found
