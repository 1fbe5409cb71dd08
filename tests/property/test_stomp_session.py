"""Fuzz: whatever a peer sends, a session answers or ends with an ERROR; it never raises, and nothing is lost."""

import re

from hypothesis import given, settings
from hypothesis import strategies as st

from broker.session.stomp_connect import StompLimits
from tests.support.stomp_house import House

commands = st.sampled_from(
    "SEND SUBSCRIBE UNSUBSCRIBE ACK NACK BEGIN COMMIT ABORT DISCONNECT CONNECT STOMP MESSAGE FOO".split()
)
header_names = st.sampled_from(
    "destination id message-id subscription transaction receipt ack requeue content-length persistent mandatory reply-to "
    "expires expiration priority prefetch-count durable auto-delete exclusive x-message-ttl x-max-length cause host "
    "accept-version heart-beat user-id activemq.subscriptionName x-queue-name foo".split()
)
header_values = st.sampled_from(
    ["/queue/a", "/topic/a.b", "/exchange/amq.direct/k", "/exchange/none/k", "/amq/queue/a", "/temp-queue/t", "/reply-queue/a",
     "/gracc.x.raw", "/grace.x.raw", "nowhere", "/queue/a/b", "/queue/%FF", "0", "1", "2", "t", "true", "false", "auto", "client",
     "client-individual", "n0-1-1", "n0-1-2", "n0-2-1", "n0-1-99", "-1", "1.2", "a\\nb", "a\\tb", "", " 5", "5,5", "é"]
) | st.text(max_size=8)  # fmt: skip
frames = st.builds(
    lambda command, headers, body: (
        command
        + "\n"
        + "".join(f"{name}:{value}\n" for name, value in headers)
        + "\n"
        + body
        + "\0"
    ).encode("utf-8", "surrogatepass"),
    commands,
    st.lists(st.tuples(header_names, header_values), max_size=5),
    st.sampled_from(["", "", "x", "hello"]),
)
likely = st.sampled_from(
    [b"SEND\ndestination:/queue/a\n\nx\0", b"SEND\ndestination:/queue/a\npersistent:true\nreceipt:7\n\nx\0",
     b"SUBSCRIBE\nid:0\ndestination:/queue/a\nack:client\n\n\0", b"SUBSCRIBE\nid:1\ndestination:/topic/#\n\n\0",
     b"ACK\nid:n0-1-1\n\n\0", b"ACK\nid:n0-1-2\ntransaction:t\n\n\0", b"BEGIN\ntransaction:t\n\n\0",
     b"COMMIT\ntransaction:t\n\n\0", b"ABORT\ntransaction:t\n\n\0", b"NACK\nid:n0-1-3\n\n\0", b"UNSUBSCRIBE\nid:0\n\n\0",
     b"SEND\ndestination:/queue/a\ntransaction:t\n\nx\0", b"NACK\nid:n0-1-1\nrequeue:false\n\n\0"]
)  # fmt: skip
ERROR = re.compile(rb"ERROR\nmessage:[^\n]+\ncontent-type:text/plain\nversion:1.0,1.1,1.2\n")
LIMITS = StompLimits(subscriptions_max=3, transactions_max=2, transaction_frames_max=3)


def check_end(house, said):
    session = house.peer()
    if session.is_closing:
        assert ERROR.search(said) or b"DISCONNECT" in house.sent
    house.lose()
    assert not house.core.broker._sinks
    for queue in house.core.vhost.queues.values():
        assert not queue.is_exclusive and not queue.subscriptions and not queue.unsettled_count


@settings(max_examples=150)
@given(st.lists(likely | likely | frames, max_size=14), st.sampled_from(["1.0", "1.1", "1.2"]))
def test_frames_of_a_logged_in_peer(stream, version):
    house = House(LIMITS)
    house.connect(version=version)
    house.sent = b"".join(stream)
    said = b""
    for frame in stream:
        said += house.say(frame)
    check_end(house, said)


@settings(max_examples=100)
@given(st.binary(max_size=200), st.booleans())
def test_any_bytes(data, is_connected):
    house = House(LIMITS)
    if is_connected:
        house.connect()
    house.sent = data
    said = house.say(data)
    check_end(house, said)


@settings(max_examples=100)
@given(st.lists(likely | frames, max_size=10).map(b"".join))
def test_one_turn_or_many_do_the_same(data):
    """Bytes one at a time within a turn are the same as all at once."""
    said = []
    for size in (1, len(data) or 1):
        house = House(LIMITS)
        house.connect()
        session = house.peer()
        for at in range(0, len(data), size):
            session.receive_data(data[at : at + size])
        house.turn()
        said.append((house.read(), session.is_closing))
    assert said[0] == said[1]
