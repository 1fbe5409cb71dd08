"""Runs the STOMP conformance tables (stomp*.json): bytes in, bytes out, closed or not.

A case: `name`, `source` (clause of the specification or peer), `version` to connect with first (none: the case does it
itself), `limits` of the session, `profile` of the listener, `steps`.  A step: `peer` ("a"), `in`, `out`, `late` (the disk has not synced yet), `sync`
(now it has), `wait` (seconds that pass before), `lost` (the peer's socket breaks).  `^@` stands for NUL.  `closes`: the peers that are closed in the end.
"""

from __future__ import annotations

import json
from pathlib import Path

import pytest

from broker.session.stomp_connect import StompLimits
from broker.session.stomp_profile import PROFILES
from tests.support.stomp_house import House

HERE = Path(__file__).parent
CASES = [
    case
    for path in sorted(HERE.glob("stomp*.json"))
    for case in json.loads(path.read_text("utf-8"))["cases"]
]


def raw(text: str) -> bytes:
    return text.encode().replace(b"^@", b"\0")


def run(case: dict, chunk: int) -> None:
    profile = PROFILES[case.get("profile", "strict")]
    house = House(StompLimits(**case.get("limits", {}), profile=profile))
    for name in ("a", "b") if any(step.get("peer") == "b" for step in case["steps"]) else ("a",):
        house.peer(name)
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
