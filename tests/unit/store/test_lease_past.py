"""Lease files go when they fence nobody: not while a former owner may wake up, nor what recovery asks for."""

import pytest

from store.errors import Fenced
from store.lease import claim_lease, directory, past
from store.lease.directory import DirectoryLocker, Terms, epoch_path, highest_epoch
from store.lease.host import Identity
from store.lease.past import KEPT_MIN, remove_settled
from store.lease.watch import Sight, Verdict
from tests.support.disk import SimulatedDisk
from tests.support.store_drive import DeadHost, Stepped

FOLDER = "/store/lease"


class World:
    """Owners one after the other; `dead` has the pids of those that are proved to be."""

    def __init__(self):
        self.disk = SimulatedDisk(1)
        self.dead = set()
        self.pid = 0
        self.leases = []

    def identity(self):
        return Identity("host", self.pid, "1", "boot", "ns")

    def is_dead(self, owner):
        return owner.pid in self.dead

    def locker(self):
        # Its clock stands still, as that of a paused virtual machine: only the lookup can tell it.
        return DirectoryLocker(
            self.disk, FOLDER, self, Terms(10.0, 1.0, 0.0), lambda: 0, clock=lambda: 50.0
        )

    def own(self, end="dead"):
        """Claim the next epoch; afterwards its owner is dead, has released, or sleeps."""
        self.pid += 1
        highest = highest_epoch(self.disk, FOLDER)
        lease = self.locker().claim(Sight(highest, None, False, 0, 0, Verdict.EXPIRED))
        if end == "dead":
            self.dead.add(self.pid)
        elif end == "released":
            lease.release()
        self.leases.append(lease)
        return lease

    def tidy(self, used=(), kept_min=0):
        own = highest_epoch(self.disk, FOLDER)
        return remove_settled(self.disk, FOLDER, self, own, used, kept_min)

    def epochs(self):
        return [int(path[-6:]) for path in self.disk.paths() if "/epoch-" in path]


def test_the_files_of_dead_and_released_owners_go():
    world = World()
    for end in ("dead", "released", "dead", "sleeps"):
        world.own(end)
    assert world.tidy() == 3 and world.epochs() == [4]


def test_a_sleeper_keeps_its_own_file_and_the_one_that_fences_it():
    world = World()
    sleeper = world.own("sleeps")
    for end in ("dead", "dead", "released", "sleeps"):
        world.own(end)
    assert world.tidy() == 2 and world.epochs() == [1, 2, 5]
    with pytest.raises(Fenced):
        sleeper.check()


def test_without_the_rule_the_sleeper_would_pass():
    world = World()
    sleeper = world.own("sleeps")
    for _ in range(4):
        world.own()
    world.disk.unlink(epoch_path(FOLDER, 2))
    sleeper.check()


def test_it_goes_on_once_the_sleeper_is_proved_dead():
    world = World()
    for end in ("sleeps", "dead", "dead", "sleeps"):
        world.own(end)
    assert world.tidy() == 1 and world.epochs() == [1, 2, 4]
    world.dead.add(1)
    assert world.tidy() == 2 and world.epochs() == [4]


def test_a_torn_file_stays_with_the_one_after_it():
    world = World()
    for _ in range(4):
        world.own()
    file = world.disk.open(epoch_path(FOLDER, 2), is_writable=True)
    file.write(0, [bytes(8192)])
    assert world.tidy() == 1 and world.epochs() == [2, 3, 4]


def test_what_recovery_asks_for_and_the_newest_stay():
    world = World()
    for _ in range(KEPT_MIN + 5):
        world.own()
    assert world.tidy({2}, KEPT_MIN) == 3 and world.epochs() == [2, *range(5, KEPT_MIN + 6)]


def test_who_slept_before_its_link_finds_the_newest_and_stands_down(monkeypatch):
    world = World()
    world.own()
    sight = Sight(1, None, True, 0, 0)
    locker = world.locker()
    for _ in range(4):
        world.own()
    world.tidy()
    assert locker.claim(Sight(1, None, True, 0, 0)) is None, "listed before the link"
    # Asleep between its list and its link: it gets the name, then looks again.
    seen = iter([1])
    monkeypatch.setattr(directory, "highest_epoch", lambda *folder: next(seen, 5))
    assert locker.claim(sight) is None
    monkeypatch.undo()
    assert 2 in world.epochs()
    assert world.tidy() and 2 not in world.epochs(), "it released what it had got"


def test_one_owner_reads_a_part_and_the_next_another(monkeypatch):
    monkeypatch.setattr(past, "READ_MAX", 5)
    world = World()
    for _ in range(13):
        world.own("released")
    assert world.tidy() == 5
    world.own()
    assert world.tidy() == 5
    world.own()
    world.tidy()
    assert world.epochs() == [15]


def test_a_store_that_is_opened_again_and_again_keeps_a_bounded_number():
    disk = SimulatedDisk(1)
    for _ in range(KEPT_MIN + 4):
        stepped = Stepped(disk)
        stepped.writer.run_jobs()
        stepped.journal.close()
    found = [path for path in disk.paths() if "/lease/epoch-" in path]
    assert len(found) == KEPT_MIN + 1
    assert claim_lease(disk, FOLDER, DeadHost(), 0).epoch == KEPT_MIN + 5
