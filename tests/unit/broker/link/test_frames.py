"""Frames of a link: cut anywhere they are the same; too large, doubled or senseless ones are refused."""

from __future__ import annotations

import random

import pytest

from broker.errors import ProtocolViolation
from broker.link import frames
from broker.link.frames import FrameParser, Order, encode, unpack


def test_frames_do_not_depend_on_how_the_bytes_were_cut():
    draw = random.Random(1)
    sent = [
        (draw.randrange(1, 16), number, draw.randbytes(draw.randrange(300))) for number in range(40)
    ]
    raw = b"".join(encode(kind, number, payload) for kind, number, payload in sent)
    for _ in range(20):
        parser = FrameParser()
        got = []
        at = 0
        while at < len(raw):
            step = draw.choice((1, 3, 9, 50, 1000))
            got += parser.feed(raw[at : at + step])
            at += step
        assert got == sent


def test_a_frame_over_the_limit_is_refused_before_it_comes():
    with pytest.raises(ProtocolViolation, match="at most 100"):
        FrameParser(100).feed(encode(1, 0, bytes(101))[:9])


def test_frames_of_several_connections_come_in_the_order_they_were_sent():
    draw = random.Random(2)
    sent = [(7, number, b"%d" % number) for number in range(200)]
    strands = [sent[0::3], sent[1::3], sent[2::3]]
    order = Order()
    got = []
    while any(strands):
        strand = draw.choice([one for one in strands if one])
        got += order.take(strand.pop(0))
    assert got == sent


def test_a_frame_that_comes_twice_is_refused():
    order = Order()
    order.take((7, 0, b""))
    with pytest.raises(ProtocolViolation, match="twice"):
        order.take((7, 0, b""))
    order.take((7, 5, b""))
    with pytest.raises(ProtocolViolation, match="twice"):
        order.take((7, 5, b""))


def test_sequences_go_round():
    order = Order(frames.SEQUENCE_END - 1)
    assert order.take((7, 0, b"b")) == []
    assert [one[2] for one in order.take((7, frames.SEQUENCE_END - 1, b"a"))] == [b"a", b"b"]


def test_what_waits_for_another_connection_is_bounded(monkeypatch):
    monkeypatch.setattr(frames, "EARLY_BYTES_MAX", 100)
    order = Order()
    order.take((7, 1, bytes(90)))
    with pytest.raises(ProtocolViolation, match="too many"):
        order.take((7, 2, bytes(20)))


def test_senseless_payloads():
    with pytest.raises(ProtocolViolation, match="no sense"):
        unpack(b"\xc1")
