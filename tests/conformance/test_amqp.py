"""Runs the tables of AMQP cases: at once, and one byte at a time."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

import pytest

from broker.session.amqp_connection import PROTOCOL_HEADER
from broker.wire.amqp import methods
from broker.wire.amqp.frames import method_frame
from broker.wire.properties import Properties
from tests.support.amqp import LOGIN, House, Peer, published

CASES = [
    case
    for name in ("amqp.json", "amqp_semantics.json")
    for case in json.loads((Path(__file__).parent / name).read_text())["cases"]
]


def started(start: str) -> Peer:
    peer = Peer(House())
    if start in ("header", "login"):
        peer.feed(PROTOCOL_HEADER)
    if start == "login":
        peer.send(0, "connection.start-ok", {}, "PLAIN", LOGIN, "en_US")
    if start in ("open", "channel"):
        peer.login()
    if start == "channel":
        peer.channel()
    peer.got()
    return peer


def bytes_of(step: Any) -> bytes:
    if isinstance(step, list):
        channel, name, *fields = step
        plain = [
            bytes.fromhex(field["hex"]) if isinstance(field, dict) and "hex" in field else field
            for field in fields
        ]
        return method_frame(channel, methods.encode(name, *plain))
    if "hex" in step:
        return bytes.fromhex(step["hex"])
    return published(
        step["publish"],
        step["body"].encode(),
        step.get("exchange", ""),
        1,
        step.get("mandatory", False),
        **step.get("properties", {}),
    )


def plain(field: Any) -> Any:
    """A field as the table writes it: bytes in hex, properties as what is set."""
    if isinstance(field, bytes):
        return field.hex()
    if isinstance(field, Properties):
        found = {name: getattr(field, name) for name in Properties.__slots__}
        return {name: value for name, value in found.items() if value is not None}
    return field


def is_like(got: list[Any], expected: list[Any]) -> bool:
    return len(got) == len(expected) and all(
        want is None or have == want for have, want in zip(got, expected, strict=True)
    )


def confirms_last(rows: list[Any]) -> list[Any]:
    """The rows with what was confirmed behind them: how many acks carry it is up to the turns."""
    rest = [row for row in rows if row[1] not in ("basic.ack", "basic.nack")]
    refused = sorted(row[2] for row in rows if row[1] == "basic.nack")
    return [*rest, ["acked up to", max(row[2] for row in rows if row[1] == "basic.ack")], refused]


@pytest.mark.parametrize("feeding", ["at once", "byte by byte"])
@pytest.mark.parametrize("case", CASES, ids=[f"{c['clause']}: {c['name']}" for c in CASES])
def test_case(case: dict[str, Any], feeding: str) -> None:
    peer = started(case["start"])
    data = b"".join(map(bytes_of, case["send"]))
    step = len(data) if feeding == "at once" else 1
    for at in range(0, len(data), step):
        peer.feed(data[at : at + step])
    got = [[plain(field) for field in row] for row in peer.got()]
    if case.get("confirms") == "any time":
        got = confirms_last(got)
        case = {**case, "expect": confirms_last(case["expect"])}
    if case["expect"] is not None:
        assert [is_like(*pair) for pair in zip(got, case["expect"], strict=False)] == [True] * len(
            case["expect"]
        ), got
        assert len(got) == len(case["expect"]), got
    assert peer.is_closing is case["closes"]


def test_the_table_names_each_method_a_peer_may_send() -> None:
    sent = {step[1] for case in CASES for step in case["send"] if isinstance(step, list)}
    from broker.session.amqp_operations import OPERATIONS

    assert set(OPERATIONS) - {"basic.recover-async"} <= sent
