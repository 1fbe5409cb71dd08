"""broker.management.operations, shapes and metrics, through the listener."""

from __future__ import annotations

import base64

import pytest

from broker.management import shapes
from tests.support.management import Management


@pytest.fixture
def management():
    made = Management()
    vhost = made.core.vhost
    vhost.declare_queue("one", durable=True)
    vhost.declare_queue("two", durable=True)
    vhost.declare_exchange("ex", "topic", durable=True)
    vhost.bind_queue("one", "ex", "a.#")
    made.core.turn()
    return made


def fill(management, count, queue="one"):
    for number in range(count):
        management.core.publish(
            "", queue, b"m%d" % number, delivery_mode=2, content_type="text/plain"
        )
    management.core.turn()


def bodies(management, queue):
    rows = management.ask("POST", f"/api/queues/%2F/{queue}/get", {"count": 100}).json
    return [row["payload"] for row in rows]


def test_overview_counts(management):
    fill(management, 3)
    found = management.ask("GET", "/api/overview").json
    assert found["queue_totals"] == {
        "messages": 3,
        "messages_ready": 3,
        "messages_unacknowledged": 0,
    }
    assert found["object_totals"]["queues"] == 2
    assert found["listeners"][0]["port"] == 5672
    assert found["gridmsg"]["epoch"] == 3
    assert found["message_stats"]["publish"] == 3


def test_queues_are_listed_and_shown(management):
    fill(management, 2)
    listed = {row["name"]: row for row in management.ask("GET", "/api/queues").json}
    assert (listed["one"]["messages_ready"], listed["two"]["messages"]) == (2, 0)
    management.core.subscribe("one", credit=1)
    management.core.turn()
    shown = management.ask("GET", "/api/queues/%2F/one").json
    assert (shown["messages_unacknowledged"], shown["consumers"]) == (1, 1)
    assert shown["consumer_details"][0]["unacknowledged"] == 1
    assert management.ask("GET", "/api/queues/%2F/none").status == 404
    assert management.ask("GET", "/api/queues/nowhere").status == 404


def test_looking_takes_nothing_and_taking_takes(management):
    fill(management, 3)
    assert bodies(management, "one") == bodies(management, "one") == ["m0", "m1", "m2"]
    body = {"count": 2, "ackmode": "ack_requeue_false"}
    taken = management.ask("POST", "/api/queues/%2F/one/get", body).json
    assert [row["message_count"] for row in taken] == [2, 1]
    assert taken[0]["properties"] == {"content_type": "text/plain", "delivery_mode": 2}
    assert bodies(management, "one") == ["m2"]
    assert management.ask("POST", "/api/queues/%2F/one/get", {"ackmode": "x"}).status == 400
    assert management.ask("POST", "/api/queues/%2F/one/get", {"count": "many"}).status == 400


def test_a_body_that_is_no_text_is_base64_and_long_ones_are_cut(management):
    management.core.publish("", "one", b"\xff\x00")
    management.core.publish("", "one", b"x" * 50)
    rows = management.ask("POST", "/api/queues/%2F/one/get", {"count": 2, "truncate": 10}).json
    assert base64.b64decode(rows[0]["payload"]) == b"\xff\x00"
    assert (rows[0]["payload_encoding"], rows[1]["payload"]) == ("base64", "x" * 10)
    assert rows[1]["payload_bytes"] == 50


def test_purge_and_delete(management):
    fill(management, 3)
    assert management.ask("DELETE", "/api/queues/%2F/one/contents").json == {"purged": 3}
    fill(management, 1)
    assert management.ask("DELETE", "/api/queues/%2F/one?if-empty=true").status == 400
    assert management.ask("DELETE", "/api/queues/%2F/one").json == {"deleted": 1}
    assert "one" not in management.core.vhost.queues
    assert management.ask("DELETE", "/api/queues/%2F/one").status == 404


def test_moving_keeps_order_headers_and_count(management):
    fill(management, 5)
    answer = management.ask("POST", "/api/queues/%2F/one/move", {"to": "two", "count": 3}).json
    assert answer == {"moved": 3, "left": 2}
    assert bodies(management, "two") == ["m0", "m1", "m2"]
    assert bodies(management, "one") == ["m3", "m4"]
    unit = management.core.broker.unit
    assert len(unit.acknowledged) == len(unit.published) == 3


def test_a_moved_message_keeps_its_origin_and_way(management):
    trace = bytes(range(40))
    fill(management, 1)
    ((_, message, _),) = management.core.vhost.queues["one"].peek(1)
    message.trace = trace
    assert management.ask("POST", "/api/queues/%2F/one/move", {"to": "two"}).json["moved"] == 1
    ((_, moved, _),) = management.core.vhost.queues["two"].peek(1)
    assert moved.trace == trace


def test_moving_to_where_a_link_may_not_take_it_loses_nothing(management):
    fill(management, 2)
    management.core.vhost.queues["two"].admit = lambda message: message.body != b"m1"
    answer = management.ask("POST", "/api/queues/%2F/one/move", {"to": "two"})
    assert answer.status == 400
    assert "1 messages were moved" in answer.json["reason"]
    assert (bodies(management, "one"), bodies(management, "two")) == (["m1"], ["m0"])


def test_moving_to_where_it_cannot_go_loses_nothing(management):
    fill(management, 3)
    management.core.vhost.declare_queue(
        "full", arguments={"x-max-length": 2, "x-overflow": "reject-publish"}
    )
    answer = management.ask("POST", "/api/queues/%2F/one/move", {"to": "full"})
    assert (answer.status, "2 messages were moved" in answer.json["reason"]) == (400, True)
    assert bodies(management, "one") == ["m2"]
    (row,) = management.ask("POST", "/api/queues/%2F/one/get", {}).json
    assert row["redelivered"] is False
    assert management.ask("POST", "/api/queues/%2F/one/move", {"to": "one"}).status == 400
    assert management.ask("POST", "/api/queues/%2F/one/move", {"to": "none"}).status == 404
    assert management.ask("POST", "/api/queues/%2F/one/move", {}).status == 400


def test_declaring(management):
    body = {"durable": True, "arguments": {"x-max-length": 5}}
    assert management.ask("PUT", "/api/queues/%2F/new", body).status == 201
    assert management.core.vhost.queues["new"].arguments == {"x-max-length": 5}
    assert management.ask("PUT", "/api/queues/%2F/new", {"durable": False}).status == 400
    assert (
        management.ask("PUT", "/api/exchanges/%2F/ex2", {"type": "fanout", "durable": True}).status
        == 201
    )
    again = management.ask("PUT", "/api/queues/%2F/new", body)
    assert (again.status, again.body) == (204, b"")
    assert management.ask("GET", "/api/exchanges/%2F/ex2").json["type"] == "fanout"
    assert management.ask("PUT", "/api/exchanges/%2F/ex3", {"type": "odd"}).status == 400
    assert management.ask("DELETE", "/api/exchanges/%2F/ex2").status == 204
    assert management.ask("DELETE", "/api/exchanges/%2F/ex2").status == 404


def test_bindings(management):
    assert (
        management.ask("POST", "/api/bindings/%2F/e/ex/q/two", {"routing_key": "b"}).status == 201
    )
    rows = management.ask("GET", "/api/bindings/%2F").json
    found = {(row["destination"], row["routing_key"]): row["properties_key"] for row in rows}
    assert found == {("one", "a.#"): "a.#", ("two", "b"): "b"}
    assert management.ask("GET", "/api/queues/%2F/two/bindings").json[0]["source"] == "ex"
    assert management.ask("DELETE", "/api/bindings/%2F/e/ex/q/two/b").status == 204
    assert management.ask("DELETE", "/api/bindings/%2F/e/ex/q/two/b").status == 404
    assert management.ask("POST", "/api/bindings/%2F/e/ex/x/two", {}).status == 400


def test_publishing(management):
    body = {"routing_key": "a.b", "payload": "aGk=", "payload_encoding": "base64"}
    assert management.ask("POST", "/api/exchanges/%2F/ex/publish", body).json == {"routed": True}
    assert bodies(management, "one") == ["hi"]
    body = {"routing_key": "zz", "payload": "x"}
    assert management.ask("POST", "/api/exchanges/%2F/ex/publish", body).json == {"routed": False}
    for bad in (
        {"payload": 5},
        {"payload": "!", "payload_encoding": "base64"},
        {"payload": "x", "properties": {"nonsense": 1}},
        {"payload": "x", "properties": []},
    ):
        assert management.ask("POST", "/api/exchanges/%2F/ex/publish", bad).status == 400


def test_definitions_hold_what_is_durable(management):
    management.core.vhost.declare_queue("passing")
    found = management.ask("GET", "/api/definitions").json
    assert [row["name"] for row in found["queues"]] == ["one", "two"]
    assert [row["name"] for row in found["exchanges"]] == ["ex"]
    assert found["bindings"][0]["routing_key"] == "a.#"


def test_connections(management):
    (row,) = management.ask("GET", "/api/connections").json
    assert (row["peer_host"], row["peer_port"]) == ("127.0.0.1", 40000)


def test_what_a_client_says_of_itself_is_shown_as_texts_and_cut():
    told = {"connection_name": "n" * 300, "product": b"bytes", "platform": "Go", "other": "x"}
    row = shapes.connection({"peer": "127.0.0.1:1", "client_properties": told})
    assert row["client_properties"] == {"connection_name": "n" * 255, "platform": "Go"}
    assert row["user_provided_name"] == "n" * 255
    assert shapes.connection({"peer": "127.0.0.1:1"})["client_properties"] == {}


def test_a_connection_is_closed_by_its_name(management):
    name = "/api/connections/127.0.0.1%3A40000"
    assert management.ask("DELETE", name).status == 204
    assert management.ask("DELETE", name + "?reason=go+away").status == 204
    assert management.closed == [
        ("127.0.0.1:40000", "Closed via management plugin"),
        ("127.0.0.1:40000", "go away"),
    ]
    missing = management.ask("DELETE", "/api/connections/127.0.0.1%3A1")
    assert (missing.status, missing.json["reason"]) == (404, "no connection '127.0.0.1:1'")


def test_metrics(management):
    fill(management, 2)
    management.core.vhost.declare_queue('odd"\n')
    lines = management.ask("GET", "/metrics").body.decode().splitlines()
    assert "gridmsg_published_total 2" in lines
    assert "gridmsg_up 1" in lines
    assert "gridmsg_store_segments 2" in lines
    assert 'gridmsg_queue_messages_ready{vhost="/",queue="one"} 2' in lines
    assert 'gridmsg_queue_consumers{vhost="/",queue="odd\\"\\n"} 0' in lines
    assert not any("store_id" in line for line in lines)
