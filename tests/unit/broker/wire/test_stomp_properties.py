from decimal import Decimal

import pytest

from broker.wire.amqp.values import Long, LongString, Timestamp
from broker.wire.properties import Properties
from broker.wire.stomp import decode_properties, encode_properties
from broker.wire.stomp_properties import header_text

BLOCK = (
    b"content-type:text/plain\ncontent-encoding:gzip\ncorrelation-id:c\nreply-to:q\nexpiration:5\namqp-message-id:m\n"
    b"type:t\nuser-id:u\napp-id:a\ncluster-id:k\npersistent:true\npriority:4\ntimestamp:17\nfoo:b\\car\n"
)


def test_every_property_both_ways():
    properties = decode_properties(BLOCK)
    assert (properties.content_type, properties.message_id) == ("text/plain", "m")
    assert (properties.delivery_mode, properties.priority, properties.timestamp) == (2, 4, 17)
    assert properties.headers == {"foo": "b:ar"}
    assert encode_properties(properties) == BLOCK


@pytest.mark.parametrize(
    "line",
    ["priority:high", "priority:256", "timestamp:-1", "persistent:maybe", "type:" + "x" * 256],
)
def test_what_a_property_cannot_hold_stays_a_header(line):
    name, _, value = line.partition(":")
    properties = decode_properties(line.encode() + b"\n")
    assert properties.headers == {name: value}
    assert encode_properties(properties) == line.encode() + b"\n"


@pytest.mark.parametrize(
    ("value", "text"),
    [
        ("a\nb", "a\nb"),
        ("a\0b", '"a\\u0000b"'),
        (True, "true"),
        (False, "false"),
        (None, ""),
        (-7, "-7"),
        (Long(7), "7"),
        (Timestamp(1700000000), "1700000000"),
        (1.5, "1.5"),
        (Decimal("1.20"), "1.20"),
        (b"bytes", "bytes"),
        (LongString(b"\xff"), "/w=="),
        ({"a": [1, {"b": b"\xff"}], "c": "ü"}, '{"a":[1,{"b":"/w=="}],"c":"ü"}'),
    ],
)
def test_values_as_text(value, text):
    assert header_text(value) == text


def test_headers_of_the_hop_are_left_out():
    headers = {"destination": "/queue/forged", "message-id": "1", "ack": "1", "keep": "me"}
    assert encode_properties(Properties(headers=headers)) == b"keep:me\n"


def test_a_property_wins_over_a_header_of_its_name():
    assert encode_properties(Properties(type="t", headers={"type": "h"})) == b"type:t\n"


def test_reply_queues_lose_and_gain_their_prefix():
    properties = decode_properties(b"reply-to:/reply-queue/amq.gen-x\n")
    assert properties.reply_to == "amq.gen-x"
    assert encode_properties(properties) == b"reply-to:/reply-queue/amq.gen-x\n"


def test_deaths_become_a_table_again():
    deaths = [{"count": Long(2), "reason": "expired", "queue": "q", "time": Timestamp(17)}]
    block = encode_properties(Properties(headers={"x-death": deaths}))
    read = decode_properties(block).headers["x-death"]
    assert read == deaths
    assert type(read[0]["count"]) is Long and type(read[0]["time"]) is Timestamp


@pytest.mark.parametrize("text", ["", "no json", "[1]", "{}", "[" * 100_000])
def test_deaths_that_a_publisher_made_up_stay_text(text):
    properties = decode_properties(b"x-death:" + text.encode() + b"\n")
    assert properties.headers == {"x-death": text}
