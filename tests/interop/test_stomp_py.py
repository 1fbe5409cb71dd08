"""stomp.py (and pika beside it) against a running broker: all versions, receipts, transactions, both protocols' queues."""

from __future__ import annotations

import queue
import time
import uuid

import pytest

from tests.support.site import Site
from tests.support.waiting import PATIENCE_SECONDS, wait_until

stomp = pytest.importorskip("stomp")
pika = pytest.importorskip("pika")
pytestmark = pytest.mark.interop

STOMP_PORT = 61613


@pytest.fixture(scope="module")
def broker(tmp_path_factory):
    running = Site(tmp_path_factory.mktemp("stomp"))
    try:
        running.start_broker()
        yield running
    finally:
        running.close()


class Client(stomp.ConnectionListener):
    def __init__(self, broker, version="1.2", **options):
        kind = {
            "1.0": stomp.Connection10,
            "1.1": stomp.Connection11,
            "1.2": stomp.Connection12,
        }[version]
        self.messages = queue.Queue()
        self.receipts = queue.Queue()
        self.errors = queue.Queue()
        self.beats = 0
        self.is_closed = False
        self.connection = kind([("127.0.0.1", STOMP_PORT + broker.offset)], **options)
        self.connection.set_listener("", self)
        self.connection.connect("guest", "guest", wait=True)

    def on_message(self, frame):
        self.messages.put(frame)

    def on_receipt(self, frame):
        self.receipts.put(frame.headers["receipt-id"])

    def on_error(self, frame):
        self.errors.put(frame)

    def on_heartbeat(self):
        self.beats += 1

    def get(self):
        return self.messages.get(timeout=PATIENCE_SECONDS)

    def close(self):
        # stomp.py says "connected" for a while after DISCONNECT, and then fails on its closed socket.
        is_first, self.is_closed = not self.is_closed, True
        if is_first and self.connection.is_connected():
            self.connection.disconnect()


@pytest.fixture
def client(broker):
    made = []

    def make(version="1.2", **options):
        made.append(Client(broker, version, **options))
        return made[-1]

    yield make
    for one in made:
        one.close()


@pytest.fixture
def name():
    return "q-" + uuid.uuid4().hex[:8]


@pytest.mark.parametrize("version", ["1.0", "1.1", "1.2"])
def test_send_subscribe_acknowledge(client, name, version):
    one = client(version)
    options = {} if version == "1.0" else {"id": "s1"}
    one.connection.subscribe(f"/queue/{name}", ack="client", **options)
    headers = {"foo": "bär", "receipt": "r1"}
    if version != "1.0":
        headers["odd"] = "a:b\nc\\d"
    one.connection.send(f"/queue/{name}", "hello", headers=headers)
    frame = one.get()
    assert one.receipts.get(timeout=PATIENCE_SECONDS) == "r1"
    assert (frame.body, frame.headers["foo"]) == ("hello", "bär")
    assert frame.headers["destination"] == f"/queue/{name}"
    assert frame.headers.get("odd") == headers.get("odd")
    if version == "1.0":
        one.connection.ack(frame.headers["message-id"])
    elif version == "1.1":
        one.connection.ack(frame.headers["message-id"], "s1")
    else:
        one.connection.ack(frame.headers["ack"])
    one.connection.unsubscribe(**(options or {"destination": f"/queue/{name}"}))
    one.close()
    other = client("1.2")
    other.connection.subscribe(f"/queue/{name}", id="1", receipt="s")
    assert other.receipts.get(timeout=PATIENCE_SECONDS) == "s"
    assert other.messages.empty() and other.errors.empty()


def test_unacknowledged_messages_come_again(client, name):
    one = client()
    one.connection.subscribe(f"/queue/{name}", id="1", ack="client-individual")
    for body in "123":
        one.connection.send(f"/queue/{name}", body, headers={"persistent": "true"})
    frames = [one.get() for _ in range(3)]
    one.connection.ack(frames[1].headers["ack"])
    one.connection.nack(frames[0].headers["ack"], requeue="false")
    one.close()
    other = client()
    other.connection.subscribe(f"/queue/{name}", id="1", ack="auto")
    frame = other.get()
    assert (frame.body, frame.headers["redelivered"]) == ("3", "true")


def test_transactions(client, name):
    one = client()
    one.connection.subscribe(f"/queue/{name}", id="1")
    dropped = one.connection.begin()
    one.connection.send(f"/queue/{name}", "never", transaction=dropped)
    one.connection.abort(dropped)
    kept = one.connection.begin()
    one.connection.send(f"/queue/{name}", "first", transaction=kept)
    one.connection.send(f"/queue/{name}", "outside")
    assert one.get().body == "outside"
    one.connection.commit(kept)
    assert one.get().body == "first"


def test_large_binary_body(client, name):
    one = client(auto_decode=False)
    body = bytes(range(256)) * 8192
    one.connection.subscribe(f"/queue/{name}", id="1")
    one.connection.send(f"/queue/{name}", body)
    assert one.get().body == body


def test_error_names_what_was_wrong_and_closes(client):
    one = client()
    one.connection.send("/nowhere", "x", headers={"receipt": "r9"})
    frame = one.errors.get(timeout=PATIENCE_SECONDS)
    assert frame.headers["message"] == "Unknown destination"
    assert frame.headers["receipt-id"] == "r9" and "/gracc.*.raw" in frame.body
    wait_until(lambda: not one.connection.is_connected(), "the end of the connection")


def test_heart_beats_keep_an_idle_connection(broker, client, name):
    """Ours to the client soon, the client's to us in time; stomp.py's own patience is not looked at here."""
    one = client(heartbeats=(2000, 200), heart_beat_receive_scale=500)
    one.connection.subscribe(f"/queue/{name}", id="1")
    # Longer than the broker bears silence, which is twice of what was agreed.
    time.sleep(4.5)
    wait_until(lambda: one.beats >= 3, "heart-beats", broker)
    assert one.connection.is_connected()
    one.connection.send(f"/queue/{name}", "still here")
    assert one.get().body == "still here"


def test_request_and_reply(client, name):
    server, asker = client(), client()
    server.connection.subscribe(f"/queue/{name}", id="1")
    asker.connection.send(f"/queue/{name}", "ask", headers={"reply-to": "/temp-queue/mine"})
    request = server.get()
    server.connection.send(request.headers["reply-to"], "answer")
    answer = asker.get()
    assert (answer.body, answer.headers["subscription"]) == ("answer", "/temp-queue/mine")


def test_both_protocols_on_one_exchange_and_queue(broker, client, name):
    amqp = pika.BlockingConnection(
        pika.ConnectionParameters("127.0.0.1", 5672 + broker.offset, heartbeat=0)
    )
    try:
        channel = amqp.channel()
        channel.queue_declare(name, durable=True)
        channel.queue_bind(name, "amq.topic", "a.#")
        one = client()
        one.connection.send(
            "/topic/a.b",
            "from stomp",
            content_type="text/plain",
            headers={
                "persistent": "true",
                "correlation-id": "c1",
                "amqp-message-id": "m1",
                "timestamp": "1700000000",
                "foo": "a:b",
                "receipt": "r",
            },
        )
        assert one.receipts.get(timeout=PATIENCE_SECONDS) == "r"
        method, properties, body = channel.basic_get(name, auto_ack=True)
        assert body == b"from stomp" and method.routing_key == "a.b"
        assert properties.content_type == "text/plain" and properties.delivery_mode == 2
        assert properties.correlation_id == "c1" and properties.message_id == "m1"
        assert properties.timestamp == 1700000000 and properties.headers == {"foo": "a:b"}

        one.connection.subscribe(f"/amq/queue/{name}", id="1")
        channel.basic_publish(
            "amq.topic",
            "a.c",
            b"from amqp",
            pika.BasicProperties(
                content_type="text/x", delivery_mode=2, headers={"n": 7, "t": True, "s": "ü:"}
            ),
        )
        frame = one.get()
        assert frame.body == "from amqp" and frame.headers["destination"] == "/topic/a.c"
        assert frame.headers["content-type"] == "text/x" and frame.headers["persistent"] == "true"
        assert [frame.headers[key] for key in ("n", "t", "s")] == ["7", "true", "ü:"]
    finally:
        amqp.close()


def test_receipted_messages_survive_kill_9(tmp_path, name):
    broker = Site(tmp_path)
    try:
        broker.start_broker()
        one = Client(broker)
        for number in range(50):
            one.connection.send(
                f"/queue/{name}",
                str(number),
                headers={"persistent": "true", "receipt": str(number)},
            )
        assert [one.receipts.get(timeout=PATIENCE_SECONDS) for _ in range(50)] == [
            str(n) for n in range(50)
        ]
        broker.kill("broker", "run")
        broker.start_broker()
        other = Client(broker)
        other.connection.subscribe(f"/queue/{name}", id="1")
        assert [other.get().body for _ in range(50)] == [str(number) for number in range(50)]
        other.close()
    finally:
        broker.close()
