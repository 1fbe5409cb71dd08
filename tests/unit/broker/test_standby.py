"""STANDBY → RECOVERING → ACTIVE → FENCED → STANDBY."""

import pytest

from broker.standby import PAUSE_SECONDS_MAX, Phase, Standby
from store.lease.block import Block, LeaseFile
from store.lease.host import Identity
from store.lease.watch import Sight, Verdict

OWNER = Identity("first", 7, "100", "boot", "ns")


def sight(at, counter=0, epoch=4, is_released=False):
    block = Block(epoch, "c", OWNER, 5.0, "stomp=first:61613")
    block.counter = counter
    block.is_released = is_released
    return Sight(epoch, LeaseFile(block, block), False, at, at)


def test_the_whole_round():
    machine = Standby(5.0, 0.01)
    assert not machine.saw(sight(0), 0)
    assert machine.saw(sight(5.06), 5.06) and machine.verdict is Verdict.EXPIRED
    machine.won(5)
    assert machine.phase is Phase.RECOVERING
    machine.opened()
    assert machine.phase is Phase.ACTIVE
    machine.fenced("the disk hangs")
    assert machine.phase is Phase.FENCED and machine.reason == "the disk hangs"
    machine.let_go()
    assert machine.phase is Phase.STANDBY and machine.reason == "the disk hangs"
    assert not machine.saw(sight(100, epoch=6), 100), "it begins to count anew"


@pytest.mark.parametrize("call", ["opened", "let_go"])
def test_what_cannot_follow_is_refused(call):
    with pytest.raises(AssertionError):
        getattr(Standby(5.0, 0.01), call)()


def test_an_active_one_does_not_look():
    machine = Standby(5.0, 0.01)
    machine.won(1)
    with pytest.raises(AssertionError):
        machine.saw(sight(0), 0)


def test_after_damage_it_claims_no_more_by_itself():
    machine = Standby(5.0, 0.01)
    assert machine.saw(sight(0, is_released=True), 0)
    machine.won(5)
    machine.gave_up("segment x is damaged", 1.0, is_damage=True)
    assert machine.is_barred and not machine.saw(sight(1e6, is_released=True), 1e6)
    assert machine.describe(1e6)["is_barred"] and machine.reason == "segment x is damaged"


def test_after_a_failed_opening_it_waits_longer_each_time():
    machine = Standby(5.0, 0.01)
    now, pauses = 0.0, []
    for epoch in range(5, 15):
        machine.won(epoch)
        machine.gave_up("no space", now, is_damage=False)
        start = now
        while not machine.saw(sight(now, is_released=True), now):
            now += 0.25
        pauses.append(now - start)
    assert pauses[0] == 0.5 and pauses[1] == 1.0 and max(pauses) == PAUSE_SECONDS_MAX


def test_status_tells_who_is_active_and_how_old_its_last_renewal_is():
    machine = Standby(5.0, 0.01)
    machine.saw(sight(10.0, 1), 10.0)
    machine.saw(sight(11.0, 2), 11.0)
    shown = machine.describe(12.5)
    assert shown["role"] == "standby" and shown["epoch"] == 4
    assert shown["renewed_seconds_ago"] == 1.5
    assert (
        shown["active"]["host"] == "first" and shown["active"]["addresses"] == "stomp=first:61613"
    )
