from __future__ import annotations

import pytest

from bench.lab.agent import SCOUTS, Inbox, Producer
from bench.lab.client import Arrivals

S = 1_000_000_000


class Wire:
    """A connection that takes everything."""

    def __init__(self):
        self.is_ready = True
        self.waiting_bytes = 0
        self.written = []

    def write(self, raw):
        self.written.append(raw)


def producer(rate=1000.0, messages=0, window=100):
    plan = {
        "number": 1,
        "channel": "c",
        "exchange": "e",
        "key": "",
        "rate": rate,
        "messages": messages,
        "window": window,
        "body_bytes": 64,
    }
    made = Producer(plan)
    made.steps()
    made.begin(0, 10 * S)
    return made


def test_a_rate_is_kept_by_the_clock():
    one, wire = producer(window=10**6), Wire()
    for now_ns in (0, S // 100, S // 10):
        one.pump(wire, now_ns)
    assert one.promised.next == 100
    one.pump(wire, 20 * S)
    assert one.promised.next == 10_000, "what was due before the end is sent late, nothing after"


def test_the_window_bounds_what_is_unconfirmed():
    one, wire = producer(rate=0.0, window=100), Wire()
    one.pump(wire, S)
    assert one.promised.next == 100
    one.promise(40, True, True)
    one.pump(wire, S)
    assert one.promised.next == 140


def test_a_full_socket_stops_the_producer():
    one, wire = producer(rate=0.0, window=10**6), Wire()
    wire.waiting_bytes = 1 << 20
    one.pump(wire, S)
    assert not wire.written


def test_a_number_of_messages_is_not_exceeded():
    one, wire = producer(rate=0.0, messages=30), Wire()
    one.pump(wire, S)
    one.promise(30, True, True)
    one.pump(wire, 2 * S)
    assert one.promised.next == 30
    assert one.is_finished


def test_a_producer_that_was_held_up_is_not_finished_before_it_sent_what_was_due():
    one = producer(window=10**6)
    one.begin(0, S)
    assert not one.is_finished
    one.pump(Wire(), 20 * S)
    assert not one.is_finished
    one.promise(1000, True, True)
    assert one.is_finished


def test_nothing_is_sent_twice_after_a_lost_connection():
    one, wire = producer(rate=0.0, messages=150), Wire()
    one.pump(wire, S)
    one.promise(60, True, True)
    one.lose()
    one.steps()
    one.pump(wire, S)
    assert one.promised.next == 150
    one.promise(50, True, True)
    assert one.counts() == [150, 110, 40, 0]


def test_refused_messages_are_counted():
    one, wire = producer(rate=0.0, messages=10), Wire()
    one.pump(wire, S)
    one.promise(4, True, False)
    one.promise(10, True, True)
    assert one.counts() == [10, 6, 0, 4]


@pytest.mark.parametrize("is_late", [True, False])
def test_confirms_of_scouts_are_not_mistaken(is_late):
    one, wire = producer(rate=0.0, messages=5), Wire()
    for _ in range(3):
        one.send_scout(wire, S)
    if not is_late:
        one.promise(3, True, True)
    one.pump(wire, S)
    if is_late:
        one.promise(3, True, True)
    assert one.promised.unconfirmed_count == 5
    one.promise(4, False, True)
    assert one.promised.low == 1
    one.promise(8, True, True)
    assert one.counts() == [5, 5, 0, 0]


def arrivals(*runs):
    found = Arrivals()
    for producer_number, first, stop in runs:
        found.add(producer_number, first, stop, S)
    return found


def test_an_inbox_counts_each_producer_by_itself():
    inbox = Inbox("c")
    inbox.note(arrivals((1, 0, 5), (2, 0, 5), (1, 4, 6)), 2 * S)
    assert inbox.counts() == [11, 1, 0, 0, 0]
    assert inbox.latencies.percentile_ms(50) == pytest.approx(1000, rel=0.02)


def test_scouts_are_seen_but_not_counted():
    inbox = Inbox("c")
    inbox.note(arrivals((SCOUTS + 3, 0, 1), (1, 0, 2), (SCOUTS + 3, 0, 1)), 2 * S)
    assert inbox.scouts == {3}
    assert inbox.counts() == [2, 0, 0, 0, 0]
