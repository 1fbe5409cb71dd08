"""Links to brokers that are not ours: RabbitMQ over AMQP and over STOMP, both directions, cut and restarted.

ActiveMQ and Artemis: started by hand, and named in GRIDMSG_ACTIVEMQ or GRIDMSG_ARTEMIS as HOST:PORT of their STOMP listener
(no login); the tests for them are skipped without.
"""

from __future__ import annotations

import contextlib
import os
import signal
import time
from collections import Counter
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pika
import pytest
import stomp

from tests.interop.test_links import PERSISTENT, Proxy, collect, depth, drain, links
from tests.support.rabbitmq import RabbitMq
from tests.support.site import Site
from tests.support.waiting import wait_until


@pytest.fixture(scope="module")
def rabbit(tmp_path_factory: pytest.TempPathFactory) -> Iterator[RabbitMq]:
    node = RabbitMq(tmp_path_factory.mktemp("rabbit") / "node", {})
    node.start()
    yield node
    node.close()


@pytest.fixture
def site(tmp_path: Path) -> Iterator[Site]:
    made = Site(tmp_path / "site", '[broker]\nname = "near"\n')
    yield made
    for words in list(made.processes):
        made.kill(*words.split())


def on_port(port: int) -> Any:
    return pika.BlockingConnection(
        pika.ConnectionParameters("127.0.0.1", port, heartbeat=0)
    ).channel()


def start(site: Site, port: int, protocol: str, streams: str, name: str = "far") -> None:
    """Heart-beats are no part of these tests: a line that a busy machine keeps silent stays."""
    site.config.write_text(
        f'[broker]\nname = "near"\n[[link]]\nname = "{name}"\nprotocol = "{protocol}"\n'
        f'address = ["127.0.0.1:{port}"]\nretry = 0.1\nretry-max = 0.5\nheart-beat = 60\n{streams}\n'
    )
    site.start_broker()


def is_up(site: Site) -> bool:
    rows = links(site)
    return bool(rows) and rows[0]["state"] == "up"


@pytest.mark.parametrize("protocol", ["amqp", "stomp"])
def test_queues_both_ways(rabbit: RabbitMq, site: Site, protocol: str) -> None:
    far = on_port(rabbit.amqp_port)
    here, there = f"out-{protocol}", f"in-{protocol}"
    for name in (here, there):
        far.queue_declare(name, durable=True)
    port = rabbit.amqp_port if protocol == "amqp" else rabbit.stomp_port
    start(site, port, protocol, f'push-queues = ["{here}"]\npull-queues = ["{there}"]')
    near = on_port(site.port(5672))
    wait_until(lambda: is_up(site), "the link", site)
    for number in range(300):
        properties = pika.BasicProperties(
            delivery_mode=2, headers={"number": str(number)}, content_type="text/plain"
        )
        near.basic_publish("", here, b"%d" % number, properties)
        far.basic_publish("", there, b"%d" % number, properties)
    wait_until(lambda: depth(far, here) == 300 and depth(near, there) == 300, "arrival", site)
    wait_until(lambda: depth(far, there) == 0 and depth(near, here) == 0, "settling", site)
    for channel, queue in ((far, here), (near, there)):
        _, properties, body = channel.basic_get(queue)
        assert (body, properties.headers["number"]) == (b"0", "0")
        assert (properties.delivery_mode, properties.content_type) == (2, "text/plain")
    (row,) = links(site)
    assert "RabbitMQ" in row["peer"]
    assert row["duplicates"] == 0


def test_exchanges_both_ways_follow_demand_and_do_not_circle(rabbit: RabbitMq, site: Site) -> None:
    far = on_port(rabbit.amqp_port)
    far.exchange_declare("news", "topic", durable=True)
    far.queue_declare("far-inbox", durable=True)
    far.queue_bind("far-inbox", "news", "#")
    start(site, rabbit.amqp_port, "amqp", 'push-exchanges = ["news"]\npull-exchanges = ["news"]')
    near = on_port(site.port(5672))
    wait_until(lambda: is_up(site), "the link", site)
    near.queue_declare("inbox", durable=True)
    near.queue_bind("inbox", "news", "wanted.#")

    def is_wanted() -> bool:
        """Whether the far side knows: it cannot be asked for its bindings, but one of these then comes."""
        far.basic_publish("news", "wanted.probe", b"probe", PERSISTENT)
        return depth(near, "inbox") > 0

    wait_until(is_wanted, "demand", site)
    far.basic_publish("news", "other", b"not wanted", PERSISTENT)
    far.basic_publish("news", "wanted.x", b"from far", PERSISTENT)
    near.basic_publish("news", "wanted.y", b"from near", PERSISTENT)
    here = collect(near, "inbox", {b"from far", b"from near"}, site)
    there = collect(far, "far-inbox", {b"from far", b"from near", b"not wanted"}, site)

    def circled_count() -> int:
        received = [one for one in links(site)[0]["streams"] if not one["sends"]]
        return int(received[0]["circled"])

    # What came back was dropped: had it not been, it would be in the inbox once more.
    wait_until(lambda: circled_count() == 1, "what comes back", site)
    here += drain(near, "inbox")
    there += drain(far, "far-inbox")
    assert here.pop(b"probe") > 0 and here == {b"from far": 1, b"from near": 1}
    assert there.pop(b"probe") > 0
    assert there == {b"from far": 1, b"from near": 1, b"not wanted": 1}


@pytest.mark.parametrize("is_push", [True, False], ids=["push", "pull"])
def test_cuts_and_kills_lose_nothing(rabbit: RabbitMq, site: Site, is_push: bool) -> None:
    """Doubles are possible, and counted."""
    proxy = Proxy(rabbit.amqp_port)
    queue = f"cut-{'push' if is_push else 'pull'}"
    far = on_port(rabbit.amqp_port)
    far.queue_declare(queue, durable=True)
    start(site, proxy.port, "amqp", f'{"push" if is_push else "pull"}-queues = ["{queue}"]')
    confirmed: set[bytes] = set()
    try:
        number = 0
        for round in range(4):
            port = site.port(5672) if is_push else rabbit.amqp_port
            source = on_port(port)
            source.confirm_delivery()
            source.queue_declare(queue, durable=True)
            with contextlib.suppress(pika.exceptions.AMQPError):
                for _ in range(100):
                    body = b"%d-" % number + b"y" * 300
                    number += 1
                    source.basic_publish("", queue, body, PERSISTENT)
                    confirmed.add(body)
                    if number % 30 == 0:
                        proxy.cut()
            if round == 1:
                site.kill("broker", "run")
                site.start_broker()
        target = on_port(rabbit.amqp_port if is_push else site.port(5672))
        found = collect(target, queue, confirmed, site)
        doubled = sum(count - 1 for count in found.values())
        assert doubled < len(confirmed)
    finally:
        proxy.close()


def test_a_far_side_that_goes_and_comes_back(rabbit: RabbitMq, site: Site) -> None:
    """What is published meanwhile waits, the state says why, and all of it arrives."""
    start(site, rabbit.amqp_port, "amqp", 'push-queues = ["waits"]')
    near = on_port(site.port(5672))
    wait_until(lambda: is_up(site), "the link", site)
    rabbit.end(signal.SIGKILL)
    wait_until(lambda: links(site)[0]["state"] == "failing", "the outage", site)
    for number in range(50):
        near.basic_publish("", "waits", b"%d" % number, PERSISTENT)
    wait_until(lambda: links(site)[0]["backlog"] == 50, "the backlog", site)
    assert links(site)[0]["last_error"]
    rabbit.start()
    far = on_port(rabbit.amqp_port)
    wait_until(lambda: depth(near, "waits") == 0, "the move", site)
    wait_until(lambda: depth(far, "waits") == 50, "arrival", site)
    wait_until(lambda: is_up(site), "the link again", site)


def port_of(peer: str) -> int:
    """Where a peer that was started by hand speaks STOMP; skips the test if none was."""
    address = os.environ.get(f"GRIDMSG_{peer.upper()}")
    if address is None:
        pytest.skip(f"set GRIDMSG_{peer.upper()}=HOST:PORT of a running {peer}'s STOMP listener")
    return int(address.rpartition(":")[2])


class Subscriber(stomp.ConnectionListener):  # type: ignore[misc]
    """A client of the far broker: what it gets of a topic, and a way to send."""

    def __init__(self, port: int, topic: str) -> None:
        self.bodies: Counter[str] = Counter()
        self.routes: set[str] = set()
        self.connection = stomp.Connection12([("127.0.0.1", port)], heartbeats=(0, 0))
        self.connection.set_listener("", self)
        self.connection.connect(wait=True)
        self.connection.subscribe(topic, "1")

    def on_message(self, frame: Any) -> None:
        self.bodies[frame.body] += 1
        self.routes.add(frame.headers.get("x-gridmsg-route", ""))


@pytest.mark.parametrize("peer", ["activemq", "artemis"])
def test_topics_of_activemq_and_artemis_both_ways(site: Site, peer: str) -> None:
    """An exchange goes to a topic there and a topic comes here, the line is cut meanwhile; what comes back is dropped."""
    port = port_of(peer)
    proxy = Proxy(port)
    there, back = f"/topic/there{os.getpid()}", f"/topic/back{os.getpid()}"
    streams = f'push-exchanges = ["news => {there}"]\npull-exchanges = ["{back} => back", "{there} => news"]'
    subscriber = Subscriber(port, there)
    try:
        start(site, proxy.port, "stomp", streams)
        near = on_port(site.port(5672))
        wait_until(lambda: is_up(site), "the link", site)
        for exchange in ("back", "news"):
            near.queue_declare(exchange, durable=True)
            near.queue_bind(exchange, exchange, "#")
        for number in range(300):
            near.basic_publish("news", "key.x", b"n%d" % number, PERSISTENT)
            subscriber.connection.send(back, f"b{number}", persistent="true")
            if number in (100, 200):
                time.sleep(0.5)
                proxy.cut()
        found: Counter[bytes] = Counter()

        def is_all() -> bool:
            found.update(drain(near, "back"))
            return len(found) >= 300 and len(subscriber.bodies) >= 300

        wait_until(is_all, "messages both ways", site)
        assert set(found) == {b"b%d" % number for number in range(300)}
        assert set(subscriber.bodies) == {f"n{number}" for number in range(300)}
        assert sum(found.values()) < 600
        assert all(len(one) == 32 for one in subscriber.routes), (
            "the brokers that they went through"
        )

        # A topic gives back to the same link what it brought.
        def has_circled() -> bool:
            (row,) = links(site)
            return any(one["circled"] for one in row["streams"] if not one["sends"])

        wait_until(has_circled, "what comes back", site)
        assert drain(near, "news") == {b"n%d" % number: 1 for number in range(300)}
    finally:
        subscriber.connection.disconnect()
        proxy.close()


@pytest.mark.parametrize("peer", ["activemq", "artemis"])
def test_what_nobody_consumes_there_yet_waits_there(site: Site, peer: str) -> None:
    """A queue that the far side does not know is made by what is sent; nothing is dropped before somebody subscribes."""
    queue = f"waits{os.getpid()}"
    port = port_of(peer)
    start(site, port, "stomp", f'push-queues = ["{queue}"]')
    near = on_port(site.port(5672))
    wait_until(lambda: is_up(site), "the link", site)
    for number in range(50):
        near.basic_publish("", queue, b"%d" % number, PERSISTENT)
    wait_until(lambda: links(site)[0]["streams"][0]["settled"] == 50, "confirms", site)
    subscriber = Subscriber(port, f"/queue/{queue}")
    wait_until(lambda: len(subscriber.bodies) == 50, "messages that had waited", site)
    subscriber.connection.disconnect()


@pytest.mark.parametrize("peer", ["activemq", "artemis"])
def test_activemq_and_artemis_both_ways(site: Site, peer: str) -> None:
    """What is pushed to a queue there comes back by pulling it into another one here; the line is cut meanwhile."""
    proxy = Proxy(port_of(peer))
    queue = f"there{os.getpid()}"
    streams = f'push-queues = ["out => {queue}"]\npull-queues = ["{queue} => back"]'
    try:
        start(site, proxy.port, "stomp", streams)
        near = on_port(site.port(5672))
        wait_until(lambda: is_up(site), "the link", site)
        for number in range(600):
            properties = pika.BasicProperties(delivery_mode=2, headers={"number": str(number)})
            near.basic_publish("", "out", b"%d" % number, properties)
            if number in (150, 300, 450):
                time.sleep(0.5)
                proxy.cut()
        found: Counter[bytes] = Counter()

        def is_all() -> bool:
            found.update(drain(near, "back"))
            return len(found) >= 600

        wait_until(is_all, "the way there and back", site)
        assert set(found) == {b"%d" % number for number in range(600)}
        assert sum(found.values()) < 1200
    finally:
        proxy.close()
