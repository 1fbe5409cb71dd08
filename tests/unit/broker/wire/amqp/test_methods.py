"""The method table, byte for byte where clients would notice."""

from __future__ import annotations

import pytest

from broker.errors import CommandInvalid, ProtocolViolation
from broker.wire.amqp import methods


def test_bits_share_octets() -> None:
    payload = methods.encode("queue.declare", 0, "q", False, True, False, True, False, {})
    assert payload == b"\x00\x32\x00\x0a\x00\x00\x01q\x0a\x00\x00\x00\x00"
    assert methods.find_method(payload).decode(payload) == [
        0, "q", False, True, False, True, False, {},
    ]  # fmt: skip


def test_known_payloads() -> None:
    assert methods.encode("basic.ack", 5, True) == b"\x00\x3c\x00\x50\0\0\0\0\0\0\0\x05\x01"
    assert methods.encode("connection.tune", 2047, 131072, 60) == (
        b"\x00\x0a\x00\x1e\x07\xff\x00\x02\x00\x00\x00\x3c"
    )
    assert methods.encode("exchange.unbind-ok") == b"\x00\x28\x00\x33"
    assert methods.encode("basic.get-empty", "") == b"\x00\x3c\x00\x48\x00"


def test_the_table_is_whole() -> None:
    """Each synchronous request of the specification has its answer, under the next id (but for exchange.unbind)."""
    for name, method in methods.METHODS.items():
        if not name.endswith("-ok") or name == "exchange.unbind-ok":
            continue
        request = methods.METHODS[name.removesuffix("-ok")]
        assert (method.class_id, method.method_id) == (request.class_id, request.method_id + 1)
    assert len(methods.BY_CODE) == len(methods.METHODS) == 66


@pytest.mark.parametrize("payload", [b"", b"\x00", b"\x00\x3c\x00"])
def test_too_short_for_a_method(payload: bytes) -> None:
    with pytest.raises(ProtocolViolation) as refused:
        methods.find_method(payload)
    assert refused.value.amqp_code == 502


def test_an_unknown_method() -> None:
    with pytest.raises(CommandInvalid, match="unknown method 99 of class 60"):
        methods.find_method(b"\x00\x3c\x00\x63")


@pytest.mark.parametrize("name", sorted(methods.METHODS))
def test_cut_off_or_too_long_is_refused(name: str) -> None:
    sample = {
        "bit": True, "octet": 1, "short": 1, "long": 1, "longlong": 1, "shortstr": "a", "name": "a",
        "longstr": b"a", "table": {"a": 1},
    }  # fmt: skip
    method = methods.METHODS[name]
    payload = method.encode(*(sample[kind] for kind in method.types))
    for wrong in (*(payload[:end] for end in range(4, len(payload))), payload + b"\0"):
        with pytest.raises(ProtocolViolation) as refused:
            method.decode(wrong)
        assert refused.value.amqp_code == 502
