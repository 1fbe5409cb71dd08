"""Runs the tables of AMQP cases (amqp*.json): at once, and one byte at a time.

A case: `clause` and `name`, `start` of its peer, and either `send`, `expect` and `closes`, or, where it takes more than one connection or
some time, `steps`, and in `closes` the peers whose sockets are to be closed in the end.  A step: `peer` ("a"; it starts with its first step
as `start` says, else with channel 1 open), and in this order `wait` (seconds that pass), `lost` (its socket breaks), `blocked` (a reason, or
null: publishers may go on), `forced` and `stop` (the broker ends the connection, with a text), `send`, `late` (the disk has not synced yet), and
what comes `out`.  `rights` and `topic` are those of the user.  `peer` of a case without steps: what RabbitMQ 3.10.8 answered.
Which cases prove which row of docs/amqp-codes.md: `amqp_rows.json`.
"""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

import pytest

from broker.session.amqp_handshake import PROTOCOL_HEADER
from broker.session.auth import Accounts
from broker.wire.amqp import methods
from broker.wire.amqp.frames import method_frame
from broker.wire.properties import Properties
from tests.support.amqp import LOGIN, House, Peer, published

HERE = Path(__file__).parent
CASES = [
    case
    for name in ("amqp.json", "amqp_semantics.json")
    for case in json.loads((HERE / name).read_text())["cases"]
]
STEPPED = json.loads((HERE / "amqp_steps.json").read_text())["cases"]


def started(start: str, house: House | None = None) -> Peer:
    peer = Peer(house or House())
    if start == "old":
        return peer.login({}).channel()
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


def house_of(case: dict[str, Any]) -> House:
    """A broker whose user has the rights that the case asks for."""
    rights = case.get("rights")
    if rights is None:
        return House()
    three = tuple(rights[one] for one in ("configure", "write", "read")) if rights else None
    accounts = Accounts(
        {"guest": "plain:guest"}, {"guest": {"/": three} if three else {}}, lambda *_: False
    )
    for exchange, pair in case.get("topic", {}).items():
        accounts.users["guest"].rights["/"].topics[exchange] = tuple(pair)
    return House(accounts=accounts)


def take_step(house: House, peer: Peer, step: dict[str, Any], chunk: int) -> list[list[Any]]:
    """Do what a step says; returns what its peer got."""
    session = peer.session
    house.store.is_slow = step.get("late", False)
    if "wait" in step:
        house.clock.seconds += step["wait"]
        house.broker.tick()
        session.tick(house.clock.now())
    if step.get("lost"):
        session.connection_lost("broken")
        house.turn.remove(session)
    if "blocked" in step:
        session.set_blocked(step["blocked"])
    if "forced" in step:
        session.force_out(step["forced"])
    if "stop" in step:
        session.shutdown(step["stop"])
    data = b"".join(map(bytes_of, step.get("send", [])))
    for at in range(0, len(data), chunk or len(data) or 1):
        peer.feed(data[at : at + (chunk or len(data))])
    house.turn.wake(session)
    house.run()
    if not house.store.is_slow and house.store.durable < house.store.committed:
        house.store.sync()
        house.run()
    return [[plain(field) for field in row] for row in peer.got()]


@pytest.mark.parametrize("chunk", [0, 1], ids=["at once", "byte by byte"])
@pytest.mark.parametrize("case", STEPPED, ids=[f"{c['clause']}: {c['name']}" for c in STEPPED])
def test_case_of_steps(case: dict[str, Any], chunk: int) -> None:
    house = house_of(case)
    peers: dict[str, Peer] = {}
    for number, step in enumerate(case["steps"]):
        name = step.get("peer", "a")
        if name not in peers:
            peers[name] = started(step.get("start", "channel"), house)
            peers[name].got()
        got = take_step(house, peers[name], step, chunk)
        want = step.get("out", [])
        assert len(got) == len(want) and all(map(is_like, got, want)), f"step {number}: {got}"
    closed = [name for name, peer in peers.items() if peer.is_closing]
    assert closed == case.get("closes", [])


def test_the_table_names_each_method_a_peer_may_send() -> None:
    sent = {step[1] for case in CASES for step in case["send"] if isinstance(step, list)}
    from broker.session.amqp_operations import OPERATIONS

    assert set(OPERATIONS) - {"basic.recover-async"} <= sent
