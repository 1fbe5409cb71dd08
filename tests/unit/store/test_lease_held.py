"""The guard: both fences, and what a renewal is worth."""

import copy
import time

import pytest

from store.errors import Fenced
from store.lease.block import Block, LeaseFile
from store.lease.held import Lease
from store.lease.host import Identity, boot_seconds
from store.lease.renewal import Rhythm
from store.lease.watch import Sight, Verdict, Watch


class World:
    """A clock and a ledger in the test's hand."""

    def __init__(self, duration=10.0, margin=2.0):
        self.now = 100.0
        self.is_superseded_now = False
        self.during_write = None
        self.written = []
        block = Block(3, "c", Identity("h", 1, "1", "b", "n"), duration)
        self.lease = Lease(self, block, lambda: self.now, margin, self.now)

    def write(self, block):
        if self.during_write is not None:
            self.during_write()
        self.written.append((block.counter, block.is_released, block.durable_batch))

    def is_superseded(self):
        return self.is_superseded_now


def test_the_lease_runs_out_a_margin_before_its_end_and_stays_lost():
    world = World()
    world.now = 107.9
    world.lease.check()
    world.now = 108.0
    with pytest.raises(Fenced, match="ran out"):
        world.lease.check()
    world.now = 100.0
    assert not world.lease.is_valid() and not world.lease.renew()


def test_a_later_epoch_closes_the_guard_at_once():
    world = World()
    world.is_superseded_now = True
    with pytest.raises(Fenced, match="taken over"):
        world.lease.check()
    world.is_superseded_now = False
    assert not world.lease.is_valid()


def test_a_lookup_without_an_answer_passes_nothing():
    world = World()

    def refuse():
        raise OSError(5, "Input/output error")

    world.is_superseded = refuse
    with pytest.raises(OSError):
        world.lease.check()


def test_a_renewal_counts_from_its_start():
    world = World()
    world.now = 104.0
    world.during_write = lambda: setattr(world, "now", 106.0)
    assert world.lease.renew()
    assert world.lease.valid_until == 112.0 and world.lease.slowest_seconds == 2.0


@pytest.mark.parametrize("has_rule", [True, False])
def test_trap_1_a_renewal_that_returns_after_the_end_revives_nothing(has_rule, monkeypatch):
    """Started at 107.9, returned at 112 when others may have followed; it would count until 115.9."""
    world = World()
    world.now = 107.9
    world.during_write = lambda: setattr(world, "now", 112.0)
    if not has_rule:
        monkeypatch.setattr(Lease, "is_valid", lambda self: True)
    assert world.lease.renew() is not has_rule
    monkeypatch.undo()
    assert world.lease.is_valid() is not has_rule
    if has_rule:
        with pytest.raises(Fenced, match="ran out"):
            world.lease.check()


@pytest.mark.parametrize("margin", [2.0, 0.0])
def test_trap_2_with_a_margin_below_the_age_of_a_read_a_renewal_is_missed(margin):
    """Reads may be 2 s old: at 110 the contender sees what was there at 108, and not the renewal of 108.5."""
    world = World(margin=margin)
    watch = Watch(10.0, 0.0)
    seen = LeaseFile(world.lease.block, copy.copy(world.lease.block))
    assert watch.judge(Sight(3, seen, False, 100.0, 100.0)) is Verdict.HELD
    world.now = 108.5
    is_renewed = world.lease.renew()
    world.now = 110.0
    assert watch.judge(Sight(3, seen, False, 110.0, 110.0)) is Verdict.EXPIRED
    are_two = world.lease.is_valid()
    assert is_renewed is are_two is (margin == 0.0)


@pytest.mark.parametrize("is_standing", [False, True])
def test_trap_3_suspended_past_the_end(is_standing):
    """With a clock that stands still in suspend (the rule off), no time has passed."""
    slept = 0.0
    world = World()
    world.lease = Lease(
        world,
        Block(3, "c", Identity("h", 1, "1", "b", "n"), 10.0),
        lambda: world.now - (slept if is_standing else 0.0),
        2.0,
        world.now,
    )
    slept = 3600.0
    world.now += 3600.0
    assert world.lease.is_valid() is is_standing


@pytest.mark.parametrize("has_lookup", [True, False])
def test_trap_3_a_paused_machine_sees_that_it_was_followed(has_lookup):
    """No clock of a paused virtual machine goes on; with the lookup off, it would confirm."""
    world = World()
    world.is_superseded_now = has_lookup
    if has_lookup:
        with pytest.raises(Fenced, match="taken over"):
            world.lease.check()
    else:
        world.lease.check()


def test_trap_3_the_clock_is_the_one_that_goes_on_in_suspend(monkeypatch):
    asked = []
    monkeypatch.setattr(time, "clock_gettime", lambda clock: asked.append(clock) or 1.0)
    assert boot_seconds() == 1.0 and asked == [time.CLOCK_BOOTTIME]


def test_a_failed_renewal_is_not_good_and_the_next_one_is_a_new_one():
    world = World()

    def fail():
        raise OSError(5, "Input/output error")

    world.now = 103.0
    world.during_write = fail
    with pytest.raises(OSError):
        world.lease.renew()
    assert world.lease.valid_until == 108.0
    world.during_write = None
    assert world.lease.renew() and world.written == [(2, False, 0)]
    assert world.lease.valid_until == 111.0


def test_after_the_release_nothing_is_renewed_or_promised():
    world = World()
    world.lease.note_durable(9)
    world.lease.release()
    world.lease.release()
    assert world.written == [(1, True, 9)]
    assert not world.lease.renew()
    with pytest.raises(Fenced, match="released"):
        world.lease.check()


def test_a_place_that_is_anothers_closes_the_guard():
    world = World()

    def refuse():
        raise Fenced("another's claim")

    world.during_write = refuse
    assert not world.lease.renew() and world.lease.lost_reason == "another's claim"


def test_without_duration_nothing_runs_out():
    world = World(duration=0.0, margin=0.0)
    world.now = 1e12
    world.lease.check()


def test_a_quarter_of_the_lease_between_renewals():
    world = World()
    rhythm = Rhythm(world.lease)
    assert not rhythm.is_due(101.0)
    world.now = 102.5
    assert rhythm.is_due(102.5) and rhythm.renew()
    assert not rhythm.is_due(103.0)
    world.lease.mark_opened(4)
    assert rhythm.is_due(103.0), "that it opened is said at once"


@pytest.mark.parametrize("has_rule", [True, False])
def test_trap_11_no_renewal_while_the_reactor_or_the_writer_stands(has_rule):
    world = World()
    rhythm = Rhythm(world.lease)
    lease = world.lease
    lease.expect(*(("reactor", "writer") if has_rule else ()))
    world.now = 102.5
    lease.beat("writer")
    assert rhythm.is_due(world.now) is not has_rule
    if has_rule:
        assert rhythm.idle() == ["reactor"]
        lease.beat("reactor")
        assert rhythm.is_due(world.now) and rhythm.renew()
        world.now = 105.0
        assert not rhythm.is_due(world.now), "signs of life count once"
