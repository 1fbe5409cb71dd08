"""Runs the STOMP conformance tables (stomp*.json): bytes in, bytes out, closed or not.

A case: `name`, `source` (clause of the specification or peer), `version` to connect with first (none: the case does it
itself), `limits` of the session, `profile` of the listener, `rights` of guest (configure, write, read), `elsewhere` (the peers are not of this machine), `steps`.  A step: `peer` ("a"), `in`, `out`, `late` (the disk has not synced yet), `sync`
(now it has), `wait` (seconds that pass before), `lost` (the peer's socket breaks).  `^@` stands for NUL.  `closes`: the peers that are closed in the end.
"""

from __future__ import annotations

import json
from pathlib import Path

import pytest

from broker.session.auth import Accounts
from broker.session.stomp_connect import StompLimits
from broker.session.stomp_profile import PROFILES
from tests.support.stomp_house import House

HERE = Path(__file__).parent
CASES = [
    case
    for path in sorted(HERE.glob("stomp*.json"))
    for case in json.loads(path.read_text("utf-8"))["cases"]
]


ROWS = {
    "Escapes": "escapes 1.2 | escapes 1.1: no \\r | escape \\r is undefined in 1.1 | undefined escape in 1.2 | "
    "no escapes in 1.0 | connect: headers are not unescaped | receipt is escaped on its way back",
    "Trim": "1.0 drops leading blanks of values | 1.2 keeps blanks",
    "Repeated header": "repeated header: first wins | repeated receipt: first wins",
    "EOL": "connect: CR LF everywhere | CR before LF belongs to the line's end, also in 1.0 | CR inside a value is data",
    "Between frames": "connect with EOLs before | heart-beats and NULs between frames",
    "content-length with NULs": "content-length counts bytes, NUL inside | content-length not followed by NUL | "
    "content-length negative | content-length ignored on a bodyless frame",
    "content-length as type switch": "content-length makes no type",
    "Receipt order": "receipt of a persistent message waits for the disk | receipt of a transient message does not | "
    "transaction: receipt of COMMIT waits for the disk | send: unroutable without mandatory is dropped, with its receipt | "
    "send: mandatory and unroutable",
    "ERROR": "undefined escape in 1.2 | an ERROR waits for the receipts before it | "
    "rabbitmq: ERROR keeps the connection, without receipt-id | rabbitmq: a frame that cannot be read just closes",
    "DISCONNECT receipt": "disconnect with receipt: RECEIPT is last, then close | disconnect without receipt",
    "ack header": "ack 1.0: message-id | ack 1.1: message-id and subscription | ack without id | "
    "ack 1.1: subscription may be missing, ids are unique | ack: an id that was never sent, with the same number",
    "client mode": "ack client is cumulative | cumulative for its own subscription only | nack in client mode is cumulative",
    "NACK": "nack requeues | nack without requeue drops | nack with a cause goes to the dead letters | NACK with x-delay | "
    "activemq: NACK keeps a dead letter | no NACK in 1.0",
    "ACK twice/unknown": "ack twice | ack of an unknown message | ack in auto mode is let pass | "
    "rabbitmq: ACK of ack:auto is an error | activemq: ACK that was not expected",
    "tx": "transaction: nothing before COMMIT, all at COMMIT | transaction: ABORT forgets | transaction: unknown | "
    "transaction: aborted ACK may be given again | transaction: ACK in an open one comes again after a loss | "
    "transaction: ABORT of an unknown one | transaction: too many | transaction: too many frames",
    "Heart-beat": "connect: heart-beats agreed as the greater, both ways | connect: heart-beat of nonsense",
    "Versions": "connect 1.0: no accept-version | connect: highest common version | connect: no common version",
    "STOMP vs CONNECT; login missing; `host`": "connect 1.1 | connect: no host in 1.2 means the default vhost | "
    "strict: any host means the default vhost | rabbitmq: unknown host",
    "Duplicate subscription id": "subscribe: duplicate id | unsubscribe unknown | subscribe: missing id in 1.1+ | "
    "rabbitmq: duplicated subscription closes",
    "Limits": "command too long | too many headers | headers too long | body too long by content-length | "
    "body too long without content-length | body over the login limit behind CONNECT | too many subscriptions",
    "MESSAGE mandatory headers": "destination /queue/a there and back | destination /queue/a%2Fb%25c there and back | "
    "redelivered and persistent headers | activemq: the destination is the sender's",
    "texts of ERROR": "bad command | frame before CONNECT | connect: wrong password | send: missing destination | "
    "send: invalid queue | send: unknown destination | send: message-id | server-cancelled subscription | "
    "connect: guest from elsewhere | send: no right to it",
}
"""The rows of protocols.md 3.1 and what proves each; its silence after a heart-beat is in tests/unit/broker/session/test_stomp.py."""


def raw(text: str) -> bytes:
    return text.encode().replace(b"^@", b"\0")


def run(case: dict, chunk: int) -> None:
    profile = PROFILES[case.get("profile", "strict")]
    accounts = None
    if "rights" in case:
        rights = {"guest": {"/": tuple(case["rights"])}}
        accounts = Accounts({"guest": "plain:guest"}, rights, lambda *_: False)
    house = House(StompLimits(**case.get("limits", {}), profile=profile), accounts)
    for name in ("a", "b") if any(step.get("peer") == "b" for step in case["steps"]) else ("a",):
        house.peer(name, is_loopback=not case.get("elsewhere", False))
        if case.get("version"):
            house.connect(name, case["version"])
    for number, step in enumerate(case["steps"]):
        name = step.get("peer", "a")
        is_durable = not step.get("late", False)
        if step.get("lost"):
            house.lose(name)
            continue
        house.wait(step.get("wait", 0))
        data = raw(step.get("in", ""))
        size = chunk or len(data) or 1
        session = house.peer(name)
        for at in range(0, len(data), size):
            session.receive_data(data[at : at + size])
        house.turn(is_durable=is_durable)
        said = house.read(name)
        assert said.decode().replace("\0", "^@") == step.get("out", ""), f"step {number}"
    closed = [name for name, session in house.peers.items() if session.is_closing]
    assert closed == case.get("closes", [])


@pytest.mark.parametrize("case", CASES, ids=[case["name"] for case in CASES])
def test_case(case):
    run(case, 0)


@pytest.mark.parametrize("case", CASES, ids=[case["name"] for case in CASES])
def test_case_one_byte_at_a_time(case):
    run(case, 1)


def test_names_are_unique():
    names = [case["name"] for case in CASES]
    assert len(names) == len(set(names)) and len(names) > 60


@pytest.mark.parametrize("row", ROWS)
def test_each_row_of_the_design_has_its_cases(row):
    names = {case["name"] for case in CASES}
    assert not set(ROWS[row].split(" | ")) - names
