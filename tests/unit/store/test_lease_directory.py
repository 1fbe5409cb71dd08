"""Claims by link, read back; the next epoch only after the one that was judged."""

import errno

import pytest

from store.errors import Fenced
from store.lease import InUse, claim_lease
from store.lease.block import decode_file
from store.lease.directory import DirectoryLocker, Terms, epoch_path, highest_epoch
from store.lease.host import Identity
from tests.support.disk import SimulatedDisk

FOLDER = "/store/lease"


class Living:
    """A host on which nobody is dead."""

    def identity(self):
        return Identity("host", 1, "1", "boot", "ns")

    def is_dead(self, owner):
        return False


class Here:
    """A locker with its clock and claims in the test's hand."""

    def __init__(self, disk, used=0):
        self.disk = disk
        self.now = 50.0
        self.number = 0
        self.locker = DirectoryLocker(
            disk,
            FOLDER,
            Living(),
            Terms(10.0, 1.0, 0.0),
            lambda: used,
            clock=lambda: self.now,
            new_claim=self.claim_id,
        )

    def claim_id(self):
        self.number += 1
        return f"{id(self)}-{self.number}"

    def take(self):
        return self.locker.claim(self.locker.look())


def test_a_claim_is_a_whole_synced_file():
    disk = SimulatedDisk(1)
    lease = Here(disk).take()
    assert lease.epoch == 1 and lease.valid_until == 59.0
    disk.crash()
    found = decode_file(disk.read_whole(epoch_path(FOLDER, 1)))
    assert found.claimed is not None and found.renewed is not None
    assert disk.paths() == [epoch_path(FOLDER, 1)], "no draft is left"


def test_of_two_claimants_of_one_epoch_one_wins():
    disk = SimulatedDisk(1)
    first, second = Here(disk), Here(disk)
    sight = second.locker.look()
    assert first.take().epoch == 1
    assert second.locker.claim(sight) is None
    assert highest_epoch(disk, FOLDER) == 1


def test_a_claimer_that_lists_a_newer_epoch_claims_nothing():
    """Found by the simulation: the epoch after a fresh owner's was taken at once."""
    disk = SimulatedDisk(1)
    late = Here(disk)
    sight = late.locker.look()
    Here(disk).take()
    assert late.locker.claim(sight) is None
    assert late.take().epoch == 2, "after a look at it, which is judged by its owner's word"


def test_the_winner_whom_link_refused_is_the_winner():
    """NFS may answer EEXIST when the answer to the first try was lost."""
    disk = SimulatedDisk(1)
    link = disk.link

    def refuse(source, target):
        link(source, target)
        raise FileExistsError(errno.EEXIST, "File exists")

    disk.link = refuse
    assert Here(disk).take().epoch == 1


def test_a_claim_that_turns_up_late_is_released():
    disk = SimulatedDisk(1)
    here = Here(disk)
    link = disk.link
    waiting = []

    def lose(source, target):
        waiting.append((bytes(disk.content(source)), target))
        raise OSError(errno.ETIMEDOUT, "Connection timed out")

    disk.link = lose
    with pytest.raises(OSError):
        here.take()
    disk.link = link
    content, target = waiting[0]
    disk.create(target).write(0, [content])
    here.locker.look()
    assert decode_file(disk.read_whole(target)).latest.is_released
    assert here.take().epoch == 2


@pytest.mark.parametrize("has_rule", [True, False])
def test_trap_8_a_claimer_that_slept_before_the_link_stands_down(has_rule, monkeypatch):
    """Newer epochs came, and someone tidied old files away (which we never do)."""
    disk = SimulatedDisk(1)
    link = disk.link
    sleeper = Here(disk)
    sight = sleeper.locker.look()

    def sleep_then_link(source, target):
        disk.link = link
        for _ in range(3):
            other = Here(disk)
            other.take()
        disk.unlink(epoch_path(FOLDER, 1))
        link(source, target)
        if not has_rule:
            # The rule is to list again: without it, nothing newer is seen.
            monkeypatch.setattr("store.lease.directory.highest_epoch", lambda files, folder: 1)

    disk.link = sleep_then_link
    lease = sleeper.locker.claim(sight)
    assert (lease is None) is has_rule
    if has_rule:
        assert decode_file(disk.read_whole(epoch_path(FOLDER, 1))).latest.is_released


def test_epochs_that_only_segments_know_are_waited_for_like_torn_leases():
    disk = SimulatedDisk(1)
    here = Here(disk, used=7)
    assert here.take() is None
    sight = here.locker.look()
    assert sight.epoch == 7 and sight.block is None
    assert here.locker.claim(sight).epoch == 8


def test_renewals_are_read_back_by_others():
    disk = SimulatedDisk(1)
    here = Here(disk)
    lease = here.take()
    lease.note_durable(12)
    assert lease.renew()
    block = Here(disk).locker.look().block
    assert (block.counter, block.durable_batch) == (1, 12)


def test_a_lease_file_that_became_anothers_closes_the_guard():
    disk = SimulatedDisk(1)
    lease = Here(disk).take()
    path = epoch_path(FOLDER, 1)
    disk.unlink(path)
    with pytest.raises(FileNotFoundError):
        lease.renew()
    assert lease.is_valid(), "it lives on what it has"
    Here(disk).take()
    assert not lease.renew()
    with pytest.raises(Fenced, match="another's claim"):
        lease.check()


def test_without_a_locker_a_living_owner_is_respected():
    disk = SimulatedDisk(1)
    lease = claim_lease(disk, FOLDER, Living(), 0)
    with pytest.raises(InUse, match="in use by process 1 on host host"):
        claim_lease(disk, FOLDER, Living(), 0)
    lease.release()
    assert claim_lease(disk, FOLDER, Living(), 5).epoch == 6
