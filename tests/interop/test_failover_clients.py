"""Real clients with the addresses of both brokers: the active one is killed, they go on with the other."""

from __future__ import annotations

import threading
from collections.abc import Iterator
from pathlib import Path

import pika
import pytest
import stomp

from agents.config import BrokerSettings
from agents.errors import Unavailable
from agents.transport import Outgoing, Transport
from tests.support.failover import Node, Pair, drain
from tests.support.waiting import PATIENCE_SECONDS, wait_until

pytestmark = [pytest.mark.interop, pytest.mark.crash, pytest.mark.slow]


@pytest.fixture
def pair(tmp_path: Path) -> Iterator[Pair]:
    made = Pair(tmp_path, "")
    try:
        made.start()
        yield made
    finally:
        made.close()


def test_stomp_py_goes_through_its_list(pair):
    class Listener(stomp.ConnectionListener):
        def __init__(self):
            self.receipts = set()
            self.is_lost = threading.Event()

        def on_receipt(self, frame):
            self.receipts.add(frame.headers["receipt-id"])

        def on_disconnected(self):
            self.is_lost.set()

    connection = stomp.Connection12(
        [("127.0.0.1", node.stomp) for node in pair.nodes],
        reconnect_sleep_initial=0.05,
        reconnect_sleep_max=0.5,
        reconnect_attempts_max=100,
    )
    listener = Listener()
    connection.set_listener("", listener)
    connection.connect("guest", "guest", wait=True)
    for number in range(2):
        name = f"r{number}"
        connection.send("/queue/failover", name, headers={"persistent": "true", "receipt": name})
        wait_until(lambda: name in listener.receipts, f"the receipt {name}", pair)
        if number == 0:
            pair.nodes[0].kill()
            assert listener.is_lost.wait(PATIENCE_SECONDS)
            connection.connect("guest", "guest", wait=True)
    connection.disconnect()
    assert sorted(body for body, _ in drain(pair.nodes[1].stomp)) == [b"r0", b"r1"]


def test_pika_goes_through_its_list(pair):
    parameters = [
        pika.ConnectionParameters(
            "127.0.0.1", 5672 + node.offset, connection_attempts=1, retry_delay=0.05
        )
        for node in pair.nodes
    ]

    def connect():
        try:
            return pika.BlockingConnection(parameters)
        except pika.exceptions.AMQPConnectionError:
            return None

    for number in range(2):
        connection = wait_until(connect, "a broker that takes connections", pair)
        channel = connection.channel()
        channel.confirm_delivery()
        channel.queue_declare("failover", durable=True)
        properties = pika.BasicProperties(delivery_mode=2)
        channel.basic_publish("", "failover", b"m%d" % number, properties, mandatory=True)
        if number == 0:
            pair.nodes[0].kill()
        else:
            connection.close()
    assert sorted(body for body, _ in drain(pair.nodes[1].stomp)) == [b"m0", b"m1"]


def test_an_agents_transport_goes_through_its_list(pair):
    addresses = tuple(f"127.0.0.1:{node.stomp}" for node in pair.nodes)
    settings = BrokerSettings(
        addresses=addresses, reconnect_min_seconds=0.05, reconnect_max_seconds=0.5
    )
    transport = Transport(settings, "test")
    try:
        transport.publish("/queue/failover", [Outgoing(b"a0")], PATIENCE_SECONDS)
        pair.nodes[0].kill()

        def is_published():
            try:
                transport.publish("/queue/failover", [Outgoing(b"a1")], 2.0)
            except Unavailable:
                return False
            return True

        wait_until(is_published, "a broker that confirms", pair)
    finally:
        transport.stop()
    assert {body for body, _ in drain(pair.nodes[1].stomp)} == {b"a0", b"a1"}


def test_a_link_goes_through_its_list(pair, tmp_path):
    """Exactly once: what was confirmed to the near broker is at the pair once, whichever of the two serves."""
    addresses = ", ".join(f'"127.0.0.1:{5672 + node.offset}"' for node in pair.nodes)
    near = Node(
        tmp_path,
        "near",
        tmp_path / "near-data",
        f'[[link]]\nname = "pair"\naddress = [{addresses}]\npush-queues = ["failover"]\n'
        "retry = 0.1\nretry-max = 0.5\n",
    )
    near.start()
    try:
        parameters = pika.ConnectionParameters(
            "127.0.0.1", 5672 + near.offset, connection_attempts=100, retry_delay=0.1
        )
        channel = pika.BlockingConnection(parameters).channel()
        channel.queue_declare("failover", durable=True)
        channel.confirm_delivery()
        properties = pika.BasicProperties(delivery_mode=2)
        for number in range(200):
            if number == 100:
                # Some are there, some under way, some yet to come.
                pair.nodes[0].kill()
            channel.basic_publish("", "failover", b"l%d" % number, properties, mandatory=True)

        def is_moved():
            return not channel.queue_declare("failover", passive=True).method.message_count

        wait_until(is_moved, f"the move\n{near.log.read_text()[-2000:]}", pair)
        found: list[bytes] = []

        def is_there():
            # Leaving the near queue and arriving are not one moment.
            found.extend(body for body, _ in drain(pair.nodes[1].stomp))
            return len(found) >= 200

        wait_until(is_there, "arrival", pair)
        assert sorted(found) == sorted(b"l%d" % number for number in range(200))
    finally:
        near.kill()
