"""The turn: one commit for what came together, promises only when durable, writes at the end."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

from broker.core.broker import Broker
from broker.net.turn import Turn
from store.interface import Recovered, UnitOfWork
from tests.support.core import FakeClock


class SlowStore:
    """Takes units and is durable only when told."""

    def __init__(self) -> None:
        self.durable = 0
        self.is_blocked = False
        self.commits = 0
        self.hurried = 0

    def open(self, *_: Any) -> Recovered:
        return Recovered({}, {}, 1, 1, "x")

    def commit(self, unit: UnitOfWork) -> int:
        if unit:
            self.commits += 1
        return self.commits

    def hurry(self) -> None:
        self.hurried += 1

    def read(self, *_: Any) -> list[Any]:
        return []

    def close(self) -> None: ...

    def stat(self) -> dict[str, Any]:
        return {}


class Peer:
    """A session and its writer in one: notes the order of calls."""

    def __init__(self) -> None:
        self.is_closing = False
        self.has_promises = True
        self.calls: list[tuple[str, int] | str] = []

    def end_turn(self, commit: int) -> bool:
        self.calls.append(("end", commit))
        return self.has_promises

    def on_durable(self, commit: int) -> None:
        self.calls.append(("durable", commit))

    def flush(self) -> None:
        self.calls.append("flush")


def made() -> tuple[Broker, SlowStore, Turn, list[Callable[[], None]], Peer]:
    store = SlowStore()
    broker = Broker(store, FakeClock(), lambda: "n")
    soon: list[Callable[[], None]] = []
    turn = Turn(broker, store, soon.append)
    peer: Any = Peer()
    turn.add(peer, peer)
    return broker, store, turn, soon, peer


def test_nothing_to_store_is_released_in_the_same_turn() -> None:
    """A turn without changes keeps nobody waiting."""
    _, _, turn, soon, peer = made()
    session: Any = peer
    turn.wake(session)
    turn.wake(session)
    assert len(soon) == 1, "one end of turn is scheduled, however many wake"
    soon.pop()()
    assert peer.calls == [("end", 0), ("durable", 0), "flush"]


def test_a_promise_waits_for_its_commit() -> None:
    """Released by the sync that covers it, and flushed then."""
    broker, store, turn, soon, peer = made()
    session: Any = peer
    broker.vhosts["/"].declare_queue("q", durable=True)
    turn.wake(session)
    soon.pop()()
    assert peer.calls == [("end", 1), "flush"]
    peer.calls.clear()
    store.durable = 1
    turn.on_durable(1)
    assert peer.calls[0] == ("durable", 1)
    assert peer.calls[-1] == "flush"


def test_who_waits_for_nothing_is_not_woken_by_the_disk_and_hurries_nobody() -> None:
    """A consumer's acknowledgements: no promise, so neither a hurry nor a call when they are durable."""
    broker, store, turn, soon, peer = made()
    session: Any = peer
    broker.vhosts["/"].declare_queue("q", durable=True)
    peer.has_promises = False
    turn.wake(session)
    soon.pop()()
    assert peer.calls == [("end", 1), "flush"] and store.hurried == 0
    store.durable = 1
    turn.on_durable(1)
    assert len(peer.calls) == 2
    peer.has_promises = True
    broker.vhosts["/"].declare_queue("r", durable=True)
    turn.wake(session)
    soon.pop()()
    assert store.hurried == 1
    store.durable = 2
    turn.on_durable(2)
    assert ("durable", 2) in peer.calls


def test_a_turn_begins_with_the_time_of_now_and_keeps_it() -> None:
    """However long nothing came: else a message sent to an idle broker would have lost that time to live."""
    broker, _, turn, soon, peer = made()
    session: Any = peer
    clock: Any = broker.clock
    clock.seconds += 60
    turn.begin()
    began_ms = clock.wall_ms()
    assert broker.now_ms == began_ms
    turn.wake(session)
    clock.seconds += 0.005
    turn.begin()
    assert broker.now_ms == began_ms, "it stands still until the turn has ended"
    soon.pop()()
    turn.begin()
    assert broker.now_ms == began_ms + 5


def test_a_failed_store_keeps_no_promise() -> None:
    """After `fail` neither a late sync nor a new turn releases anything."""
    broker, _, turn, soon, peer = made()
    session: Any = peer
    broker.vhosts["/"].declare_queue("q", durable=True)
    turn.wake(session)
    soon.pop()()
    peer.calls.clear()
    turn.fail()
    turn.on_durable(1)
    turn.wake(session)
    turn.end()
    assert peer.calls == []


def test_a_lost_connection_is_written_to_no_more() -> None:
    """Its session leaves the turn with it; what it changed is still committed."""
    broker, store, turn, soon, peer = made()
    session: Any = peer
    turn.wake(session)
    broker.vhosts["/"].declare_queue("q", durable=True)
    turn.remove(session)
    for call in soon:
        call()
    assert peer.calls == []
    assert store.commits == 1


def test_what_is_handed_out_before_the_store_can_know_is_written_after_it_does() -> None:
    """The horizon is in the very commit: until that is durable nothing is written, by later turns neither."""
    broker, store, turn, soon, peer = made()
    session: Any = peer
    queue = broker.vhosts["/"].declare_queue("q", durable=True)
    turn.wake(session)
    soon.pop()()
    store.durable = 1
    turn.on_durable(1)
    peer.calls.clear()
    queue.raise_horizon(queue.lane, 1)
    turn.wake(session)
    soon.pop()()
    turn.wake(session)
    soon.pop()()
    assert peer.calls == [("end", 2), ("end", 2)]
    store.durable = 2
    turn.on_durable(2)
    assert peer.calls[-1] == "flush"
    peer.calls.clear()
    queue.raise_horizon(queue.lane, 9000)
    turn.wake(session)
    soon.pop()()
    assert peer.calls[-1] == "flush", "raised ahead of need: nobody waits"
    assert store.commits == 3
