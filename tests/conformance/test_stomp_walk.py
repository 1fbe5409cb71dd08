"""Every state of a STOMP session × every frame, from a table of transitions; all paths are walked from the start.

The state is (logged in, subscribed, a message in hand, a transaction open, that message settled in it).  For each frame the table says
which error it is, or what becomes of the state; each frame asks for a receipt, so silence is no answer.
"""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass, replace

import pytest

from tests.support.stomp_house import House


@dataclass(frozen=True)
class State:
    is_in: bool = False
    is_subscribed: bool = False
    has_message: bool = False
    has_transaction: bool = False
    is_settled: bool = False
    is_ended: bool = False


Step = Callable[[State], "State | str"]
ID = "n0-1-1"


def entered(step: Step) -> Step:
    return lambda state: step(state) if state.is_in else "Illegal command"


def subscribe(state: State) -> State | str:
    if state.is_subscribed:
        return "Duplicated subscription identifier"
    return replace(state, is_subscribed=True, has_message=True)


def unsubscribe(state: State) -> State | str:
    return replace(state, is_subscribed=False) if state.is_subscribed else "No subscription found"


def settle(state: State) -> State | str:
    return replace(state, has_message=False) if state.has_message else "Message not found"


def settle_later(state: State) -> State | str:
    if not state.has_message:
        return "Message not found"
    if not state.has_transaction:
        return "Bad transaction"
    return replace(state, has_message=False, is_settled=True)


def begin(state: State) -> State | str:
    return "Bad transaction" if state.has_transaction else replace(state, has_transaction=True)


def commit(state: State) -> State | str:
    if not state.has_transaction:
        return "Bad transaction"
    return replace(state, has_transaction=False, is_settled=False)


def abort(state: State) -> State | str:
    if not state.has_transaction:
        return "Bad transaction"
    has_message = state.has_message or state.is_settled
    return replace(state, has_transaction=False, is_settled=False, has_message=has_message)


def send_later(state: State) -> State | str:
    return state if state.has_transaction else "Bad transaction"


INPUTS: dict[str, tuple[str, Step]] = {
    "CONNECT": (
        "CONNECT\naccept-version:1.2\n",
        lambda s: "Illegal command" if s.is_in else replace(s, is_in=True),
    ),
    "bad login": (
        "CONNECT\naccept-version:1.2\nlogin:x\npasscode:y\n",
        lambda s: "Illegal command" if s.is_in else "Bad CONNECT",
    ),
    "SEND": ("SEND\ndestination:/queue/other\n", entered(lambda s: s)),
    "SEND nowhere": ("SEND\ndestination:nowhere\n", entered(lambda _: "Unknown destination")),
    "SEND later": ("SEND\ndestination:/queue/other\ntransaction:t\n", entered(send_later)),
    "SUBSCRIBE": (
        "SUBSCRIBE\nid:0\ndestination:/queue/full\nack:client-individual\nprefetch-count:1\n",
        entered(subscribe),
    ),
    "UNSUBSCRIBE": ("UNSUBSCRIBE\nid:0\n", entered(unsubscribe)),
    "ACK": (f"ACK\nid:{ID}\n", entered(settle)),
    "NACK": (f"NACK\nid:{ID}\nrequeue:false\n", entered(settle)),
    "ACK later": (f"ACK\nid:{ID}\ntransaction:t\n", entered(settle_later)),
    "NACK later": (f"NACK\nid:{ID}\ntransaction:t\nrequeue:false\n", entered(settle_later)),
    "BEGIN": ("BEGIN\ntransaction:t\n", entered(begin)),
    "COMMIT": ("COMMIT\ntransaction:t\n", entered(commit)),
    "ABORT": ("ABORT\ntransaction:t\n", entered(abort)),
    "DISCONNECT": ("DISCONNECT\n", entered(lambda s: replace(s, is_ended=True))),
    "MESSAGE": ("MESSAGE\ndestination:/queue/other\n", lambda _: "Bad command"),
    "nonsense": ("NONSENSE\n", lambda _: "Bad command"),
    "no colon": ("SEND\nnonsense\n", entered(lambda _: "Malformed frame")),
}


def walks() -> list[list[str]]:
    """The shortest way to each state, lengthened by each input."""
    ways: dict[State, list[str]] = {State(): []}
    pending = [State()]
    found: list[list[str]] = []
    for state in pending:
        for name, (_, step) in INPUTS.items():
            found.append([*ways[state], name])
            following = step(state)
            # What was delivered a second time has another id: one subscription is enough for a walk.
            is_new = isinstance(following, State) and following not in ways
            if is_new and not following.is_ended and ways[state].count("SUBSCRIBE") <= 1:
                ways[following] = found[-1]
                pending.append(following)
    return found


WALKS = [walk for walk in walks() if walk.count("SUBSCRIBE") <= 1 or walk[-1] == "SUBSCRIBE"]


@pytest.mark.parametrize("walk", WALKS, ids=" → ".join)
def test_walk(walk):
    house = House()
    house.core.vhost.declare_queue("full", durable=True)
    house.core.publish("", "full", b"m")
    state = State()
    for number, name in enumerate(walk):
        head, step = INPUTS[name]
        said = house.say(f"{head}receipt:r{number}\n\n\0".encode()).decode()
        following = step(state)
        session = house.peers["a"]
        if isinstance(following, str):
            assert said.startswith(f"ERROR\nmessage:{following}\n"), said
            assert session.is_closing
            assert house.say(b"SEND\ndestination:/queue/other\nreceipt:x\n\n\0") == b""
            return
        if name == "CONNECT":
            assert said.startswith("CONNECTED\n")
        else:
            assert f"RECEIPT\nreceipt-id:r{number}\n" in said, said
        assert session.is_closing == following.is_ended
        state = following
    house.lose()
    full = house.core.vhost.queues["full"]
    is_kept = state.has_message or state.is_settled or "SUBSCRIBE" not in walk
    assert full.depth == (1 if is_kept else 0)
    assert full.unsettled_count == 0 and not full.subscriptions


def test_the_walks_reach_all_there_is():
    assert len(WALKS) > 150
