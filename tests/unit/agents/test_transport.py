from __future__ import annotations

import pytest

from agents.config import BrokerSettings, TlsSettings
from agents.errors import Unavailable
from agents.frames import SEND_CHUNK_BYTES, encode_sends, error_text, jittered
from agents.transport import Incoming, Outgoing, Transport


def test_sends_are_persistent_with_a_receipt_each():
    headers = {"content-type": "application/json", "a:b": "c\nd"}
    frames = encode_sends("/x:y", [Outgoing(b"1\x00", headers), Outgoing(b"")], ["p0", "p1"])
    first = (
        b"SEND\ndestination:/x\\cy\npersistent:true\ncontent-type:application/json\n"
        b"a\\cb:c\\nd\nreceipt:p0\ncontent-length:2\n\n1\x00\x00"
    )
    second = b"SEND\ndestination:/x\\cy\npersistent:true\nreceipt:p1\ncontent-length:0\n\n\x00"
    assert frames == [first + second]


def test_long_runs_are_cut_into_chunks_at_frame_boundaries():
    body = b"x" * 10_000
    chunks = encode_sends("/d", [Outgoing(body)] * 100, [f"p{i}" for i in range(100)])
    assert len(chunks) > 1 and max(map(len, chunks)) < SEND_CHUNK_BYTES + 11_000
    assert all(chunk.startswith(b"SEND\n") and chunk.endswith(b"\x00") for chunk in chunks)
    assert b"".join(chunks).count(b"receipt:") == 100


def test_jitter_is_decorrelated_and_bounded():
    pause = 1.0
    seen = set()
    for _ in range(200):
        pause = jittered(pause, 1.0, 60.0)
        assert 1.0 <= pause <= 60.0
        seen.add(round(pause, 3))
    assert len(seen) > 50 and max(seen) > 20


def test_error_text_is_one_bounded_line():
    assert (
        error_text({"message": "Bad CONNECT"}, b"Access\nrefused") == "Bad CONNECT: Access refused"
    )
    assert error_text({}, b"") == "ERROR without a text"
    assert len(error_text({"message": "x" * 9999}, b"\xff" * 9999)) == 500


def test_messages_without_a_session_are_settled_by_nobody():
    transport = Transport(BrokerSettings(), "t")
    message = Incoming(b"", {"redelivered": "true", "ack": "1"}, "/d")
    assert message.is_redelivered and not Incoming(b"", {}, "/d").is_redelivered
    transport.acknowledge([message])
    transport.reject(message, "because", requeue=False)
    assert not transport.is_connected() and transport.last_error_text == ""


def test_stopped_means_unavailable():
    transport = Transport(BrokerSettings(), "t")
    transport.stop()
    with pytest.raises(Unavailable, match="stopped"):
        transport.publish("/d", [Outgoing(b"")], 1.0)
    with pytest.raises(Unavailable, match="stopped"):
        transport.subscribe("/d", 1, lambda message: None)


def test_nothing_to_publish_needs_no_broker():
    Transport(BrokerSettings(), "t").publish("/d", [], 1.0)


def test_a_missing_tls_file_is_named_and_nothing_is_dialed():
    settings = BrokerSettings(addresses=("127.0.0.1:1",), tls=TlsSettings(ca="/nosuch/ca.pem"))
    transport = Transport(settings, "t")
    try:
        with pytest.raises(Unavailable, match="/nosuch/ca.pem"):
            transport.publish("/d", [Outgoing(b"")], 0.1)
    finally:
        transport.stop()
