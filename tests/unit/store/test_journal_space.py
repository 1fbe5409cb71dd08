"""A full disk blocks publishers, goes on acknowledging, and is left behind when space comes back."""

import dataclasses

import pytest

from store.errors import Full
from store.keeper import Keeper
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


def test_a_checkpoint_without_space_is_tried_again_with_pauses_and_told_once(caplog, monkeypatch):
    disk = SimulatedDisk(3)
    now = [10.0]
    stepped = Stepped(disk)
    journal = stepped.journal
    journal._upkeep._clock = lambda: now[0]
    sent = fill(stepped, lambda: journal._committed > 20)
    tried = []

    def refuse(keeper, capture, draft):
        tried.append(now[0])
        raise OSError(28, "No space left on device")

    with monkeypatch.context() as patch:
        patch.setattr(Keeper, "write", refuse)
        refuse_for_two_seconds(stepped, sent, now)
    assert 4 <= len(tried) <= 7, "at once with the reserve's space, then twice a second"
    assert caplog.text.count("no space for a checkpoint") == 1
    now[0] += 1
    journal.commit(unit([(message(), 1, 10_000)]))
    for _ in range(3):
        stepped.settle()
    assert "there is space for checkpoints again" in caplog.text
    assert not stepped.box.failed


def refuse_for_two_seconds(stepped, sent, now):
    journal = stepped.journal
    journal._checkpoint_aside()
    for position, kept in sent.items():
        journal.commit(unit([], [(1, position, kept)]))
        stepped.settle()
        now[0] += 0.1


def test_a_new_store_without_space_for_its_first_checkpoint_promises_nothing(monkeypatch):
    """Found by tests/sim/test_store_crashes.py, seed 321024: it served, and was refused after a crash."""
    disk = SimulatedDisk(3)
    write = Keeper.write
    refusals = [2]

    def refuse(keeper, capture, draft):
        if refusals[0]:
            refusals[0] -= 1
            raise OSError(28, "No space left on device")
        return write(keeper, capture, draft)

    monkeypatch.setattr(Keeper, "write", refuse)
    with pytest.raises(Full, match="first checkpoint"):
        Stepped(disk)
    disk.crash()
    refusals[0] = 1
    stepped = Stepped(disk)
    stepped.journal.commit(unit([(message(), 1, 0)]))
    stepped.settle()
    disk.crash()
    assert Stepped(disk).recovered.lanes[1].count == 1
