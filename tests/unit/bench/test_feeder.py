"""The measuring client: frames out and in, without a broker."""

import socket

import click
import pytest

from bench.feeder import Feeder, encode_send


@pytest.fixture
def pair(monkeypatch):
    ours, theirs = socket.socketpair()
    # A socket pair knows no TCP options.
    monkeypatch.setattr(socket.socket, "setsockopt", lambda *_: None)
    monkeypatch.setattr(socket, "create_connection", lambda *_: ours)
    theirs.sendall(b"CONNECTED\nversion:1.2\n\n\0\n")
    feeder = Feeder(1)
    assert theirs.recv(1000).startswith(b"CONNECT\n")
    yield feeder, theirs
    feeder.close()
    theirs.close()


def test_a_send_frame():
    assert encode_send("q", b"a\0b", "r", "priority:3\n") == (
        b"SEND\ndestination:/queue/q\npersistent:true\ncontent-length:3\npriority:3\nreceipt:r\n\na\0b\0"
    )


def test_frames_are_cut_wherever_the_bytes_break(pair):
    feeder, theirs = pair
    theirs.sendall(b"MESSAGE\nack:1\ncontent-length:3\n\na\0b\0\nMESS")
    assert feeder.expect("MESSAGE") == ({"ack": "1", "content-length": "3"}, b"a\0b")
    theirs.sendall(b"AGE\nack:2\n\nno length\0")
    assert feeder.expect("MESSAGE") == ({"ack": "2"}, b"no length")


def test_publishing_waits_for_every_receipt(pair):
    feeder, theirs = pair
    theirs.sendall(b"RECEIPT\nreceipt-id:r\n\n\0" * 3)
    feeder.publish(["a", "b"], 1100, b"x")
    raw = theirs.recv(1 << 20)
    assert raw.count(b"SEND\n") == 1100 and raw.count(b"receipt:") == 3
    assert raw.count(b"/queue/a") == raw.count(b"/queue/b") == 550


def test_draining_acknowledges_each(pair):
    feeder, theirs = pair
    theirs.sendall(b"".join(b"MESSAGE\nack:%d\n\nx\0" % n for n in range(3)))
    feeder.drain(3)
    assert theirs.recv(1000) == b"".join(b"ACK\nid:%d\n\n\0" % n for n in range(3))


def test_another_frame_than_expected_ends_it_with_its_text(pair):
    feeder, theirs = pair
    theirs.sendall(b"ERROR\nmessage:no\n\n\0")
    with pytest.raises(click.ClickException, match="RECEIPT expected, the broker sent ERROR: no"):
        feeder.expect("RECEIPT")


def test_a_hang_up_is_told(pair):
    feeder, theirs = pair
    theirs.shutdown(socket.SHUT_WR)
    with pytest.raises(click.ClickException, match="closed the connection"):
        feeder.frame()
