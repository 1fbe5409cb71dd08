"""The known traps of failover that need a real journal: two owners on one simulated disk.

Each is tried with its rule on, and with it off: then what the trap is about must happen, or the test proves nothing.  The other traps:
test_lease_held.py (1, 2, 3, 11), test_lease_directory.py (8), test_lease_host.py (10); tests/sim/test_rules_off.py takes the rules
out of the source.
"""

import pytest

from store.errors import Corrupt, Fenced
from store.journal import Journal
from store.lease.directory import DirectoryLocker, Terms
from store.lease.guarded import GuardedFiles
from store.lease.held import Lease
from store.writer import SteppedWriter
from tests.support.disk import SimulatedDisk
from tests.support.store_drive import SMALL, DeadHost, Stepped, message, open_store, unit

BOTH = pytest.mark.parametrize("has_rule", [True, False])


def publish(stepped, first, count=1):
    """Commit messages to lane 1; returns whether they were confirmed."""
    before = len(stepped.box.durable)
    sent = [(message(b"%d" % p), 1, p) for p in range(first, first + count)]
    stepped.journal.commit(unit(sent))
    stepped.step()
    return len(stepped.box.durable) > before


def bodies(stepped):
    return [int(m.body) for _, m, _ in stepped.journal.read(1, 0, 999, 1 << 20)]


def no_check(self):
    """The guard, switched off."""


def test_a_former_owner_confirms_nothing_after_the_take_over():
    disk = SimulatedDisk(1)
    first = Stepped(disk)
    assert publish(first, 0)
    second = Stepped(disk)
    assert not publish(first, 1) and isinstance(first.journal.failure, Fenced)
    assert bodies(second) == [0]


@BOTH
def test_trap_4_a_zombies_checkpoint_is_not_the_newest(has_rule, monkeypatch):
    disk = SimulatedDisk(1)
    zombie = Stepped(disk)
    publish(zombie, 0, 3)
    zombie.writer.run_jobs()
    heir = Stepped(disk)
    assert publish(heir, 10, 3)
    capture = zombie.journal
    before = [p for p in disk.paths() if "/checkpoints/" in p]
    if not has_rule:
        monkeypatch.setattr(Lease, "check", no_check)
    capture._checkpoint_aside()
    zombie.writer.run_jobs()
    after = [p for p in disk.paths() if "/checkpoints/" in p and not p.endswith(".tmp")]
    assert (after == before) is has_rule, "the guard stands before the rename"
    if not has_rule:
        monkeypatch.undo()
    # The second rule: whatever was renamed, the chain of openings says what is history.
    disk.kill()
    assert bodies(Stepped(disk)) == [0, 1, 2, 10, 11, 12]


@BOTH
def test_trap_4_without_the_chain_the_zombies_checkpoint_would_count(has_rule, monkeypatch):
    disk = SimulatedDisk(1)
    zombie = Stepped(disk)
    publish(zombie, 0, 3)
    zombie.writer.run_jobs()
    heir = Stepped(disk)
    publish(heir, 10, 3)
    monkeypatch.setattr(Lease, "check", no_check)
    assert publish(zombie, 100, 3)
    zombie.journal._checkpoint_aside()
    zombie.writer.run_jobs()
    monkeypatch.undo()
    # The heir's own checkpoints are damaged: the zombie's are the newest that are left.
    for path in disk.paths():
        if "/checkpoints/000002-" in path:
            disk.flip(path, 60)
    disk.kill()
    if not has_rule:
        monkeypatch.setattr("store.recovery._is_history", lambda checkpoint, openings: True)
    try:
        found = bodies(Stepped(disk))
    except Corrupt:
        found = None
    assert (found == [0, 1, 2, 10, 11, 12]) is has_rule, found


@BOTH
def test_trap_5_what_a_zombie_appended_is_not_replayed(has_rule, monkeypatch):
    """The newest checkpoint is damaged: the third owner starts from the zombie's time."""
    disk = SimulatedDisk(1)
    zombie = Stepped(disk)
    publish(zombie, 0, 3)
    zombie.writer.run_jobs()
    heir = Stepped(disk)
    publish(heir, 10, 3)
    # Its bytes reach the file; the guard lets no confirm out.
    assert not publish(zombie, 100, 3)
    heir.journal._checkpoint_aside()
    heir.writer.run_jobs()
    for path in disk.paths():
        if "/checkpoints/000002-" in path:
            disk.flip(path, 60)
    disk.kill()
    if not has_rule:
        # An end once written is worked out again: the chain is forgotten.
        monkeypatch.setattr("store.recovery._chain", lambda openings: [])
    try:
        found = bodies(Stepped(disk))
    except Corrupt:
        found = []
    assert (found == [0, 1, 2, 10, 11, 12]) is has_rule


@BOTH
def test_trap_6_nobody_touches_another_epochs_file(has_rule, monkeypatch):
    """A slow winner that cuts a torn tail would cut what the next winner counted in."""
    disk = SimulatedDisk(1)
    first = Stepped(disk)
    publish(first, 0, 3)
    disk.kill()
    segments = [p for p in disk.paths() if "/segments/000001-" in p]
    known = {path: disk.content(path) for path in segments}
    slow = DirectoryLocker(disk, "/store/lease", DeadHost(), Terms(0.0, 0.0), lambda: 0)
    lease = slow.claim(slow.look())
    second = Stepped(disk)
    assert second.recovered.lanes[1].count == 3
    if not has_rule:
        from store import recovery

        settle = recovery._settle

        def cut(segment):
            segment.file.write(segment.size_bytes // 2, [b"cut"])
            settle(segment)

        monkeypatch.setattr(recovery, "_settle", cut)
    with pytest.raises((Fenced, Corrupt)):
        open_store(Journal("/store", SMALL, disk, lease=lease, host=DeadHost()))
    left = {p: disk.content(p) for p in segments if p in disk.paths()}
    assert all(known[p] == content for p, content in left.items()) is has_rule
    assert left or not has_rule


def sealed_after(disk, heir):
    """What the heir sealed, and what is found after it wrote one more and the power failed; None for damage."""
    sealed = bodies(heir)
    assert publish(heir, 20)
    disk.crash()
    try:
        return [*sealed, 20], bodies(Stepped(disk))
    except Corrupt:
        return [*sealed, 20], None


@BOTH
def test_trap_7_what_the_disk_never_got_is_not_sealed(has_rule, monkeypatch):
    """A failed sync left in the page cache what the disk lacks; to the same host it looks written."""
    disk = SimulatedDisk(5)
    first = Stepped(disk)
    publish(first, 0, 3)

    def fail(name, count):
        if name == "sync":
            raise OSError(5, "Input/output error")

    disk.before_call = fail
    assert not publish(first, 3, 3)
    disk.kill()
    if not has_rule:
        monkeypatch.setattr("store.recovery._settle", lambda segment: segment.file.sync())
    expected, found = sealed_after(disk, Stepped(disk))
    assert (found == expected) is has_rule, (expected, found)


@BOTH
def test_trap_7_what_was_not_synced_is_synced_before_it_is_sealed(has_rule, monkeypatch):
    """The owner was killed between write and sync; its bytes are whole in the page cache."""
    disk = SimulatedDisk(2)
    first = Stepped(disk)
    publish(first, 0, 3)

    def die(name, count):
        if name == "sync":
            raise RuntimeError("killed here")

    disk.before_call = die
    assert not publish(first, 3, 3)
    disk.kill()
    if not has_rule:
        monkeypatch.setattr("store.recovery._settle", lambda segment: None)
    heir = Stepped(disk)
    assert bodies(heir) == [0, 1, 2, 3, 4, 5]
    expected, found = sealed_after(disk, heir)
    assert (found == expected) is has_rule, (expected, found)


@BOTH
def test_trap_9_a_winner_that_opens_after_the_next_one_served_is_fenced(has_rule, monkeypatch):
    disk = SimulatedDisk(1)
    first = Stepped(disk)
    publish(first, 0, 3)
    disk.kill()
    slow = DirectoryLocker(disk, "/store/lease", DeadHost(), Terms(0.0, 0.0), lambda: 0)
    lease = slow.claim(slow.look())
    assert lease.epoch == 2
    third = Stepped(disk)
    assert publish(third, 10, 3)
    if not has_rule:
        monkeypatch.setattr(Lease, "check", no_check)
    writer = SteppedWriter()
    late = Journal("/store", SMALL, disk, lease=lease, host=DeadHost(), writer=writer)
    if has_rule:
        with pytest.raises(Fenced):
            open_store(late)
    else:
        _, box = open_store(late)
        late.commit(unit([(message(b"50"), 1, 3)]))
        writer.step()
        assert box.durable == [1], "two confirm"
        monkeypatch.undo()
    assert publish(third, 13), "the next one serves on"
    disk.kill()
    # What the late one confirmed would be lost.
    assert bodies(Stepped(disk)) == [0, 1, 2, 10, 11, 12, 13]


def test_renames_and_unlinks_pass_the_guard():
    disk = SimulatedDisk(1)
    locker = DirectoryLocker(disk, "/store/lease", DeadHost(), Terms(0.0, 0.0), lambda: 0)
    lease = locker.claim(locker.look())
    files = GuardedFiles(disk, lease)
    files.create("/store/a").close()
    files.rename("/store/a", "/store/b")
    lease.lose("gone")
    for call in (
        lambda: files.rename("/store/b", "/store/c"),
        lambda: files.unlink("/store/b"),
        lambda: files.link("/store/b", "/store/c"),
    ):
        with pytest.raises(Fenced):
            call()
    assert files.exists("/store/b")


def test_an_epoch_that_says_it_opened_is_not_empty():
    """A broken opening batch with nothing behind it is damage if the lease says `opened`."""
    disk = SimulatedDisk(1)
    locker = DirectoryLocker(disk, "/store/lease", DeadHost(), Terms(5.0, 0.5), lambda: 0)
    Stepped(disk).journal.close()
    lease = locker.claim(locker.look())
    open_store(Journal("/store", SMALL, disk, lease=lease, host=DeadHost()))
    assert lease.renew()
    disk.kill()
    path = next(p for p in disk.paths() if f"/segments/{lease.epoch:06d}-" in p)
    disk.flip(path, 4096 + 70)
    with pytest.raises(Corrupt, match="opening batch is damaged"):
        Stepped(disk)


def test_a_batch_that_the_lease_says_was_durable_is_not_a_torn_tail():
    """Store trap 2: the last confirmed batch damaged on disk looks like a torn tail."""
    disk = SimulatedDisk(1)
    stepped = Stepped(disk)
    publish(stepped, 0)
    publish(stepped, 1)
    assert stepped.journal._lease.renew()
    place = stepped.journal._tail
    disk.kill()
    disk.flip(place.segment.path, place.offset - 40)
    with pytest.raises(Corrupt, match="was durable"):
        Stepped(disk)
