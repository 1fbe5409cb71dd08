"""Units that wait: taken within both limits, never none, and seen through."""

from store.pending import PendingUnits
from tests.support.store_drive import message, unit


def of(*sizes):
    return unit([(message(bytes(size)), 1, number) for number, size in enumerate(sizes)])


def test_units_are_taken_within_messages_and_bytes():
    pending = PendingUnits()
    units = [of(10, 10), of(500), of(5), of(5)]
    assert pending.add(units[0]) and not any(pending.add(one) for one in units[1:])
    assert (pending.message_count, pending.size_bytes) == (5, 530)
    assert pending.take(10, 100) == units[:1]
    assert pending.take(10, 100) == units[1:2], "one is taken whatever its size"
    assert (pending.message_count, pending.size_bytes) == (2, 10)
    assert pending.take(1, 100) == units[2:3]
    assert pending.take(10, 100) == units[3:] and not pending


def test_the_overlay_shows_what_waits():
    pending = PendingUnits()
    pending.add(of(1, 1, 1))
    made = unit([], [(1, 1, message())])
    made.requeue(1, 2, 7)
    pending.add(made)
    overlay = pending.overlay(1)
    assert [row[0] for row in overlay.rows(0)] == [0, 2] and overlay.counts == {2: 7}
    assert not overlay.removes_nothing and pending.overlay(2).removes_nothing
