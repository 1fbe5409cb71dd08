"""pika against a real broker process: what applications do, over sockets and the journal."""

from __future__ import annotations

import json
from collections.abc import Iterator
from decimal import Decimal
from pathlib import Path
from typing import Any

import pika
import pika.spec
import pytest
from pika.exceptions import (
    AMQPConnectionError,
    ChannelClosedByBroker,
    ConnectionClosedByBroker,
    NackError,
    ProbableAccessDeniedError,
    ProbableAuthenticationError,
    UnroutableError,
)

from broker.wire.amqp import methods
from tests.support.site import Site
from tests.support.waiting import PATIENCE_SECONDS

pytestmark = pytest.mark.interop


@pytest.fixture(scope="module")
def site(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Site]:
    made = Site(tmp_path_factory.mktemp("pika"))
    try:
        made.start_broker()
        yield made
    finally:
        made.close()


def connect(site: Site, **options: Any) -> pika.BlockingConnection:
    options.setdefault("heartbeat", 0)
    options.setdefault("credentials", pika.PlainCredentials("guest", "guest"))
    parameters = pika.ConnectionParameters(
        "127.0.0.1", site.port(5672), connection_attempts=1, **options
    )
    return pika.BlockingConnection(parameters)


@pytest.fixture
def channel(site: Site) -> Iterator[Any]:
    connection = connect(site)
    yield connection.channel()
    if connection.is_open:
        connection.close()


def drain(channel: Any, queue: str) -> list[bytes]:
    found: list[bytes] = []
    while True:
        method, _, body = channel.basic_get(queue, auto_ack=True)
        if method is None:
            return found
        found.append(body)


def test_properties_and_headers_come_back(channel: Any) -> None:
    queue = channel.queue_declare("", exclusive=True).method.queue
    assert queue.startswith("amq.gen-")
    sent = pika.BasicProperties(
        content_type="text/plain",
        content_encoding="utf-8",
        headers={"a": 1, "b": "zwei", "c": [True, None, Decimal("2.5")], "d": {"e": -(2**40)}},
        delivery_mode=2,
        priority=3,
        correlation_id="c",
        reply_to="r",
        expiration="60000",
        message_id="m",
        timestamp=1_700_000_000,
        type="t",
        user_id="guest",
        app_id="a",
        cluster_id="l",
    )
    channel.basic_publish("", queue, b"body", sent)
    _, got, body = channel.basic_get(queue, auto_ack=True)
    assert body == b"body"
    assert vars(got) == vars(sent)


def test_large_bodies_in_small_frames(site: Site) -> None:
    connection = connect(site, frame_max=4096)
    channel = connection.channel()
    channel.queue_declare("large")
    body = bytes(range(256)) * 4096
    channel.confirm_delivery()
    channel.basic_publish("", "large", body)
    assert channel.basic_get("large", auto_ack=True)[2] == body
    channel.queue_delete("large")
    connection.close()


def test_exchanges_route(channel: Any) -> None:
    channel.exchange_declare("ix.topic", "topic", auto_delete=True)
    channel.exchange_declare("ix.headers", "headers", auto_delete=True)
    channel.exchange_bind("ix.headers", "ix.topic", "a.#")
    channel.queue_declare("ix", exclusive=True)
    channel.queue_bind("ix", "ix.topic", "*.b")
    channel.queue_bind("ix", "ix.headers", "", {"x-match": "all", "k": 1})
    channel.basic_publish("ix.topic", "a.b", b"topic")
    channel.basic_publish("ix.topic", "a.c", b"headers", pika.BasicProperties(headers={"k": 1}))
    channel.basic_publish("ix.topic", "a.c", b"none", pika.BasicProperties(headers={"k": 2}))
    assert drain(channel, "ix") == [b"topic", b"headers"]


def test_consume_prefetch_ack_nack(site: Site, channel: Any) -> None:
    channel.queue_declare("ic", durable=True)
    channel.confirm_delivery()
    for n in range(20):
        channel.basic_publish("", "ic", b"%d" % n, pika.BasicProperties(delivery_mode=2))
    channel.basic_qos(prefetch_count=5)
    seen: list[tuple[bytes, bool]] = []
    for method, _, body in channel.consume("ic", inactivity_timeout=PATIENCE_SECONDS):
        if method is None:
            break
        seen.append((body, method.redelivered))
        if body == b"3" and not method.redelivered:
            channel.basic_nack(method.delivery_tag, requeue=True)
        else:
            channel.basic_ack(method.delivery_tag)
        if len(seen) == 21:
            break
    channel.cancel()
    assert sorted({body for body, _ in seen}, key=int) == [b"%d" % n for n in range(20)]
    assert [pair for pair in seen if pair[1]] == [(b"3", True)]
    assert channel.queue_declare("ic", passive=True).method.message_count == 0
    channel.queue_delete("ic")


def test_a_closed_consumer_leaves_its_messages_redelivered(site: Site) -> None:
    connection = connect(site)
    channel = connection.channel()
    channel.queue_declare("il")
    channel.basic_publish("", "il", b"x")
    for method, _, _ in channel.consume("il", inactivity_timeout=PATIENCE_SECONDS):
        assert method is not None
        break
    connection.close()
    again = connect(site)
    channel = again.channel()
    method, _, body = channel.basic_get("il")
    assert (body, method.redelivered) == (b"x", True)
    channel.basic_ack(method.delivery_tag)
    channel.queue_delete("il")
    again.close()


def test_confirms_returns_and_nacks(channel: Any) -> None:
    channel.confirm_delivery()
    with pytest.raises(UnroutableError) as unroutable:
        channel.basic_publish("", "nowhere", b"x", mandatory=True)
    assert unroutable.value.messages[0].method.reply_code == 312
    channel.queue_declare(
        "ifull", exclusive=True, arguments={"x-max-length": 1, "x-overflow": "reject-publish"}
    )
    channel.basic_publish("", "ifull", b"x")
    with pytest.raises(NackError):
        channel.basic_publish("", "ifull", b"y")


def test_transactions(channel: Any) -> None:
    channel.queue_declare("itx", exclusive=True)
    channel.tx_select()
    channel.basic_publish("", "itx", b"a")
    channel.tx_rollback()
    channel.basic_publish("", "itx", b"b")
    channel.tx_commit()
    assert drain(channel, "itx") == [b"b"]
    channel.tx_commit()


def test_refusals(site: Site) -> None:
    connection = connect(site)
    channel = connection.channel()
    with pytest.raises(ChannelClosedByBroker) as missing:
        channel.queue_declare("missing", passive=True)
    assert missing.value.reply_code == 404
    assert missing.value.reply_text == "NOT_FOUND - no queue 'missing' in vhost '/'"
    channel = connection.channel()
    with pytest.raises(ConnectionClosedByBroker) as hard:
        channel.basic_qos(prefetch_size=5)
    assert hard.value.reply_code == 540
    with pytest.raises(ProbableAuthenticationError):
        connect(site, credentials=pika.PlainCredentials("guest", "wrong"))
    with pytest.raises((ProbableAccessDeniedError, AMQPConnectionError)):
        connect(site, virtual_host="nowhere")


def test_an_unnoticed_queue_deletion_is_told(site: Site) -> None:
    connection = connect(site)
    channel = connection.channel()
    channel.queue_declare("ideleted")
    cancelled: list[Any] = []
    channel.add_on_cancel_callback(cancelled.append)
    channel.basic_consume("ideleted", lambda *_: None)
    other = connect(site)
    other.channel().queue_delete("ideleted")
    other.close()
    connection.process_data_events(time_limit=PATIENCE_SECONDS)
    assert len(cancelled) == 1
    connection.close()


def test_durable_things_outlive_the_process(tmp_path: Path) -> None:
    made = Site(tmp_path)
    try:
        made.start_broker()
        connection = connect(made)
        channel = connection.channel()
        channel.exchange_declare("id", "direct", durable=True)
        channel.queue_declare("id", durable=True)
        channel.queue_declare("after", durable=True)
        channel.queue_bind("id", "id", "k")
        channel.confirm_delivery()
        properties = pika.BasicProperties(delivery_mode=2, headers={"k": [1, "two"]})
        for n in range(100):
            channel.basic_publish("id", "k", b"%d" % n, properties)
        for _ in range(10):
            method, _, _ = channel.basic_get("id")
            channel.basic_ack(method.delivery_tag)
        # Confirmed after them, so they are durable too.
        channel.basic_publish("", "after", b"", properties)
        made.kill("broker", "run")
        made.start_broker()
        channel = connect(made).channel()
        first = channel.basic_get("id", auto_ack=True)
        assert first[1].headers == {"k": [1, "two"]}
        bodies = [first[2], *drain(channel, "id")]
        assert bodies == [b"%d" % n for n in range(10, 100)]
        channel.basic_publish("id", "k", b"bound still")
        assert drain(channel, "id") == [b"bound still"]
    finally:
        made.close()


def test_our_method_table_is_pikas() -> None:
    """Another hand's reading of the specification has the same ids, names and order of fields."""
    for name, method in methods.METHODS.items():
        key = method.class_id << 16 | method.method_id
        theirs = pika.spec.methods.get(key)
        if theirs is None:
            assert name.startswith("access."), name
            continue
        spelled = name.replace("-", "").replace(".", "")
        assert theirs.NAME.lower().replace(".", "") == spelled
        values = [
            {"bit": True, "table": {"k": 1}, "longstr": b"long", "shortstr": "s", "name": "n"}.get(
                kind, number + 1
            )
            for number, kind in enumerate(method.types)
        ]
        if name == "connection.update-secret":
            # pika 1.3 reads this one into a field of another name.
            made = theirs(*values)
        else:
            made = theirs.__new__(theirs).decode(method.encode(*values), 4)
        encoded = b"".join(made.encode())
        assert method.code + encoded == method.encode(*values)


def test_an_administrator_closes_a_connection(site: Site) -> None:
    connection = connect(site)
    rows = json.loads(site.run("connection", "list", "--json").stdout)
    ours = connection._impl._transport._sock.getsockname()[1]
    (name,) = [row["name"] for row in rows if row["name"].endswith(f":{ours}")]
    site.run("connection", "delete", name)
    with pytest.raises(ConnectionClosedByBroker) as closed:
        connection.process_data_events(time_limit=PATIENCE_SECONDS)
    assert closed.value.reply_code == 320
    assert closed.value.reply_text == "CONNECTION_FORCED - Closed via rabbitmqctl"
