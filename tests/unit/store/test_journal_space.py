"""A full disk blocks publishers, goes on acknowledging, and is left behind when space comes back."""

import dataclasses

import pytest

from store.errors import Full
from tests.support.disk import SimulatedDisk
from tests.support.store_drive import SMALL, Stepped, message, unit

KIB = 1024


def fill(stepped, until):
    """Publish until `until()`; the messages by position."""
    sent = {}
    for position in range(2000):
        if until():
            break
        sent[position] = message(bytes(900))
        stepped.journal.commit(unit([(sent[position], 1, position)]))
        stepped.settle()
    return sent


def drain(stepped, sent):
    for position, kept in sent.items():
        stepped.journal.commit(unit([], [(1, position, kept)]))
        if position % 20 == 19:
            stepped.settle()
    for _ in range(6):
        stepped.settle()


def look_again(stepped):
    stepped.journal._pressure._checked_bytes = -(1 << 30)


def test_publishers_wait_when_no_segment_can_be_made_and_go_on_after_draining():
    disk = SimulatedDisk(3, capacity_bytes=400 * KIB)
    stepped = Stepped(disk)
    journal = stepped.journal
    sent = fill(stepped, lambda: journal.is_blocked)
    assert journal.is_blocked and stepped.box.blocked[-1] and not stepped.box.failed
    assert 100 < len(sent) < 400
    drain(stepped, sent)
    assert not stepped.box.failed, stepped.box.failed
    assert stepped.box.durable[-1] == len(sent) * 2
    assert not journal.is_blocked and stepped.box.blocked[-1] is False
    assert disk.used_bytes() < 200 * KIB
    more = fill(stepped, lambda: journal.is_blocked)
    assert len(more) > 50
    stepped.journal.close()


def test_watermarks_block_and_release():
    settings = dataclasses.replace(SMALL, free_bytes_min=300 * KIB, free_bytes_resume=600 * KIB)
    disk = SimulatedDisk(3, capacity_bytes=1000 * KIB)
    stepped = Stepped(disk, settings=settings)
    look_again(stepped)
    sent = fill(stepped, lambda: stepped.journal._pressure._checked_bytes >= 0)
    disk.capacity_bytes = disk.used_bytes() + 200 * KIB
    look_again(stepped)
    stepped.journal.commit(unit([(message(), 2, 0)]))
    stepped.settle()
    assert stepped.box.blocked == [True]
    disk.capacity_bytes += 300 * KIB
    stepped.settle()
    assert stepped.box.blocked == [True], "not before the higher mark"
    disk.capacity_bytes += 300 * KIB
    stepped.settle()
    assert stepped.box.blocked == [True, False]
    assert sent


def test_a_start_without_space_spends_the_reserve_then_says_so():
    """Trap 13: out of space during recovery."""
    disk = SimulatedDisk(3, capacity_bytes=400 * KIB)
    settings = dataclasses.replace(SMALL, reserve_bytes=24 * KIB)
    stepped = Stepped(disk, settings=settings)
    stepped.journal.commit(unit([(message(), 1, 0)]))
    stepped.settle()
    disk.crash()
    assert "/store/reserve" in disk.paths()
    disk.capacity_bytes = disk.used_bytes() + 1000
    again = Stepped(disk, settings=settings)
    assert again.recovered.lanes[1].count == 1
    assert "/store/reserve" not in disk.paths()
    disk.kill()
    disk.capacity_bytes = disk.used_bytes() + 1000
    with pytest.raises(Full, match="free some"):
        Stepped(disk, settings=settings)
