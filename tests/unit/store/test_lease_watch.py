"""When another's lease may be taken."""

from store.lease.block import Block, LeaseFile
from store.lease.host import Identity
from store.lease.watch import Sight, Verdict, Watch

OWNER = Identity("host", 7, "100", "boot", "ns")


def file(counter=0, is_torn=False, **changes):
    claimed = Block(1, "c", OWNER, 10.0)
    renewed = Block(1, "c", OWNER, 10.0)
    renewed.counter = counter
    for name, value in changes.items():
        setattr(renewed, name, value)
    return LeaseFile(claimed, None if is_torn else renewed)


def see(watch, at, content, took=0.5, epoch=1, is_dead=False):
    return watch.judge(Sight(epoch, content, is_dead, at, at + took))


def test_nothing_was_ever_owned():
    assert Watch(10, 0.1).judge(Sight(0, None, False, 0, 0)) is Verdict.FREE


def test_released_and_proved_dead_are_taken_at_once():
    watch = Watch(10, 0.1)
    assert see(watch, 0, file()) is Verdict.HELD
    assert see(watch, 1, file(is_released=True)) is Verdict.RELEASED
    assert see(Watch(10, 0.1), 0, file(), is_dead=True) is Verdict.DEAD


def test_time_counts_from_after_the_first_read_to_before_the_last():
    watch = Watch(10, 0.1)
    assert see(watch, 100.0, file(3), took=2.0) is Verdict.HELD
    # 11 s from the return of the first look (102) to the start of this one.
    assert see(watch, 112.9, file(3), took=5.0) is Verdict.HELD
    assert see(watch, 113.0, file(3)) is Verdict.EXPIRED


def test_a_new_counter_begins_anew():
    watch = Watch(10, 0.1)
    see(watch, 0, file(1))
    assert see(watch, 50, file(2)) is Verdict.HELD
    assert see(watch, 60, file(2)) is Verdict.HELD
    assert see(watch, 61.6, file(2)) is Verdict.EXPIRED


def test_the_owners_duration_counts_not_ours():
    watch = Watch(1, 0.0)
    see(watch, 0, file(1))
    assert see(watch, 9, file(1)) is Verdict.HELD
    assert see(watch, 11, file(1)) is Verdict.EXPIRED


def test_torn_blocks_are_no_renewals():
    watch = Watch(10, 0.1)
    see(watch, 0, file(1))
    see(watch, 4, file(is_torn=True))
    # The same counter as before it was torn: nothing was renewed in between.
    assert see(watch, 11.6, file(1)) is Verdict.EXPIRED


def test_who_looked_away_and_sees_a_torn_block_begins_to_count_then():
    watch = Watch(10, 0.1)
    see(watch, 0, file(1))
    assert see(watch, 100, file(is_torn=True)) is Verdict.HELD
    assert see(watch, 111, file(is_torn=True)) is Verdict.HELD
    assert see(watch, 111.6, file(is_torn=True)) is Verdict.EXPIRED


def test_a_file_that_says_nothing_is_followed_after_our_own_duration():
    watch = Watch(2, 0.0)
    see(watch, 0, LeaseFile(None, None))
    assert see(watch, 2.4, LeaseFile(None, None)) is Verdict.HELD
    assert see(watch, 2.5, LeaseFile(None, None)) is Verdict.EXPIRED


def test_a_later_epoch_begins_anew():
    watch = Watch(10, 0.1)
    see(watch, 0, file(1))
    assert see(watch, 20, file(1), epoch=2) is Verdict.HELD


def test_a_locker_with_a_clock_of_its_own_has_judged():
    watch = Watch(10, 0.1)
    assert watch.judge(Sight(1, file(1), False, 0, 0, Verdict.EXPIRED)) is Verdict.EXPIRED
    assert watch.judge(Sight(1, file(1), False, 99, 99, Verdict.HELD)) is Verdict.HELD
