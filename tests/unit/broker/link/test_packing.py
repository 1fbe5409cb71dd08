"""Compression: what is agreed on, and payloads that claim or carry too much."""

from __future__ import annotations

import pytest

from broker.errors import ProtocolViolation
from broker.link import packing
from broker.link.packing import choose_codec, known_codecs, make_codec
from broker.link.settings import Stream
from tests.support.link_house import World

PAYLOAD = b'{"record": 1}' * 1000


@pytest.mark.parametrize("name", known_codecs())
def test_payloads_come_out_as_they_went_in(name, monkeypatch):
    codec = make_codec(name)
    packed = codec.squeeze(PAYLOAD)
    assert len(packed) < len(PAYLOAD) // 10
    assert codec.expand(packed) == PAYLOAD
    for wrong in (packed[:-4], b"nothing that was packed", packed + b"more", b""):
        with pytest.raises(ProtocolViolation):
            codec.expand(wrong)
    monkeypatch.setattr(packing, "FRAME_BYTES_MAX", 1000)
    with pytest.raises(ProtocolViolation, match="larger than a frame"):
        codec.expand(packed)


def test_a_claim_of_terabytes_allocates_nothing():
    if "zstd" not in known_codecs():
        pytest.skip("pip install zstandard")
    # A frame header with the content size in 8 bytes: 2**44.
    claim = b"\x28\xb5\x2f\xfd\xe0" + (1 << 44).to_bytes(8, "little") + b"\x01\x00\x00"
    with pytest.raises(ProtocolViolation):
        make_codec("zstd").expand(claim)


def test_the_best_that_both_have_is_chosen(monkeypatch):
    monkeypatch.setattr(packing, "zstandard", object())
    assert choose_codec(["zstd", "zlib"]) == "zstd"
    assert choose_codec(["zlib"]) == "zlib"
    assert choose_codec(None) == choose_codec(["other"]) == "zlib"
    monkeypatch.setattr(packing, "zstandard", None)
    assert choose_codec(["zstd", "zlib"]) == "zlib"
    with pytest.raises(ProtocolViolation, match="not offered"):
        make_codec("zstd")


@pytest.mark.parametrize("name", known_codecs())
def test_a_link_packs_with_what_was_agreed(name, monkeypatch):
    monkeypatch.setattr(packing, "zstandard", packing.zstandard if name == "zstd" else None)
    world = World(2)
    a, b = world.add("a", "b")
    for node in (a, b):
        node.vhost.declare_queue("work", durable=True)
        node.turn.schedule()
    world.link(a, b, "ab", Stream("queue", True, "work", "work"), compression="always")
    world.settle()
    (session,) = a.table.sessions.values()
    assert session.packing.codec.name == name
    before = session.sent_bytes
    for _ in range(20):
        a.publish("", "work", PAYLOAD)
    world.settle()
    assert b.bodies("work") == [PAYLOAD] * 20
    assert session.sent_bytes - before < len(PAYLOAD)
