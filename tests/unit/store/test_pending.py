"""Units that wait: taken within both limits, never none, and seen through."""

from store.interface import LINGER_SECONDS
from store.pending import PendingUnits
from tests.support.store_drive import message, unit


def of(*sizes):
    return unit([(message(bytes(size)), 1, number) for number, size in enumerate(sizes)])


def test_units_are_taken_within_messages_and_bytes():
    pending = PendingUnits()
    units = [of(10, 10), of(500), of(5), of(5)]
    assert [pending.add(one) for one in units] == [0.0, None, None, None]
    assert (pending.message_count, pending.size_bytes) == (5, 530)
    assert pending.take(10, 100) == units[:1]
    assert pending.take(10, 100) == units[1:2], "one is taken whatever its size"
    assert (pending.message_count, pending.size_bytes) == (2, 10)
    assert pending.take(1, 100) == units[2:3]
    assert pending.take(10, 100) == units[3:] and not pending


def acknowledging():
    return unit([], [(1, 1, message())])


def test_acknowledgements_alone_are_not_urgent_until_something_else_is():
    pending = PendingUnits()
    assert pending.add(acknowledging()) == LINGER_SECONDS
    assert pending.add(acknowledging()) is None and not pending.is_urgent
    assert pending.add(of(1)) == 0.0 and pending.is_urgent, "the writer must come now"
    assert pending.add(acknowledging()) is None and not pending.hurry()
    assert len(pending.take(10, 100)) == 4 and not pending.is_urgent
    assert pending.add(acknowledging()) == LINGER_SECONDS
    assert pending.hurry() and not pending.hurry(), "told once"


def test_changes_are_urgent_and_what_stays_behind_stays_so():
    pending = PendingUnits()
    changed = unit([])
    changed.horizon(1, 4096)
    assert pending.add(changed) == 0.0
    pending.add(of(50))
    pending.add(of(60))
    assert len(pending.take(10, 100)) == 2 and pending.is_urgent
    assert not PendingUnits().hurry(), "nothing waits"


def test_the_overlay_shows_what_waits():
    pending = PendingUnits()
    pending.add(of(1, 1, 1))
    made = unit([], [(1, 1, message())])
    made.requeue(1, 2, 7)
    pending.add(made)
    overlay = pending.overlay(1)
    assert [row[0] for row in overlay.rows(0)] == [0, 2] and overlay.counts == {2: 7}
    assert not overlay.removes_nothing and pending.overlay(2).removes_nothing
